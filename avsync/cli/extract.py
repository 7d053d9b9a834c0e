"""Make a corpus of videos: landmarks at 25 frames per second and 16 kHz audio, on one clock

Folders are searched for videos to any depth. A clip ends at a scene cut, where the face is lost or jumps, and at --max-seconds.
What is dropped, and why, is in CORPUS/report.json and CORPUS/report.txt. Exit status 1 if any video failed; the others are
done.

  avsync extract talks/ --out corpus --detector litert --workers 4
  avsync extract talks/ --out corpus --resume                 # after an interruption, or with more videos
  avsync extract talks/ --out corpus --shard 2/8              # on the second of eight machines, then, when all are done:
  avsync extract --merge --out corpus
  avsync extract talks/ --out corpus --engine ray --workers 64  # 64 videos at a time on a Ray cluster
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from avsync._files import read_json, replacing, write_json
from avsync.cli._arguments import (
    CROP_CHOICES,
    DETECTOR_HELP,
    ENGINE_CHOICES,
    FACE_CHOICES,
    SPEAKER_CHOICES,
    add_audio_track_argument,
    add_overwrite_argument,
    add_quiet_argument,
)
from avsync.cli._outputs import Output, declare
from avsync.errors import ArgumentError

_messages = logging.getLogger("avsync.cli")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync extract``."""
    parser.add_argument("videos", nargs="*", metavar="VIDEO_OR_FOLDER", help="video files, and folders of them")
    parser.add_argument(
        "--out", required=True, metavar="CORPUS", help="folder of the corpus: a new folder, or one to which clips are added"
    )
    parser.add_argument(
        "--detector",
        default="auto",
        metavar="NAME",
        help=DETECTOR_HELP,
    )
    parser.add_argument("--fps", type=float, default=25.0, help="landmark frames per second (default: 25)")
    parser.add_argument("--faces", choices=FACE_CHOICES, default="largest", help="which face to keep (default: %(default)s)")
    parser.add_argument(
        "--crop",
        choices=CROP_CHOICES,
        default="fixed",
        help="one square per clip, one around the face in every frame, or pixels of the image (default: %(default)s)",
    )
    parser.add_argument("--min-seconds", type=float, default=2.0, help="shortest clip (default: 2)")
    parser.add_argument("--max-seconds", type=float, default=32.0, help="longest clip (default: 32)")
    parser.add_argument("--max-height", type=int, metavar="PIXELS", help="detect in images scaled down to this height")
    parser.add_argument(
        "--no-scene-cuts", action="store_true", help="do not detect scene cuts, for videos with flashing lights"
    )
    add_audio_track_argument(parser)
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="videos extracted at a time (default: 1)")
    parser.add_argument(
        "--engine",
        choices=ENGINE_CHOICES,
        default="processes",
        help="processes of this machine, or a Ray cluster, that of RAY_ADDRESS by default (default: %(default)s)",
    )
    parser.add_argument(
        "--gpus", type=float, default=0.0, metavar="SHARE", help="share of a GPU that Ray reserves per video (default: 0)"
    )
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="extract the I-th of N shares, from 1; then run --merge"
    )
    parser.add_argument(
        "--speaker-from",
        choices=SPEAKER_CHOICES,
        default="file",
        help="file: one person per video; name: the file's name up to the first _; folder: the first folder below the one "
        "given "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--split", default="train", metavar="NAME", help="split of the corpus to which these videos belong (default: train)"
    )
    parser.add_argument("--resume", action="store_true", help="continue: skip videos that are finished")
    parser.add_argument("--merge", action="store_true", help="only write the index of all finished videos, after --shard runs")
    parser.add_argument(
        "--report", metavar="FILE", help="write the report there, as JSON (default: CORPUS/report.json and CORPUS/report.txt)"
    )
    add_overwrite_argument(parser)
    add_quiet_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Extract, write the report, print its summary."""
    from avsync.cli._progress import extraction_progress
    from avsync.corpus.extraction.batch import extract_corpus
    from avsync.corpus.extraction.jobs import find_videos
    from avsync.corpus.extraction.records import merge_records
    from avsync.corpus.extraction.report import ExtractionReport

    out = Path(args.out)
    if args.merge and args.videos:
        raise ArgumentError(f"`--merge`: expected no videos, got {len(args.videos)}")
    reports = _reports(args, out)
    # An earlier run's report is replaced; records.claim_folder guards the other files of the folder.
    outputs: list[Output] = [("--report" if args.report else "--out", path) for path in reports if not _is_report(args, path)]
    declare(args, outputs, inputs=[path for path, _ in find_videos(args.videos)[0]])
    if args.merge:
        report = ExtractionReport(videos=merge_records(out))
    else:
        if not args.videos:
            raise ArgumentError("`VIDEO_OR_FOLDER`: expected at least one, got none")
        report = extract_corpus(
            args.videos,
            out,
            detector=args.detector,
            workers=args.workers,
            engine=args.engine,
            gpus=args.gpus,
            shard=args.shard,
            speaker_from=args.speaker_from,
            split=args.split,
            resume=args.resume,
            progress=extraction_progress(),
            fps=args.fps,
            faces=args.faces,
            crop=args.crop,
            min_seconds=args.min_seconds,
            max_seconds=args.max_seconds,
            max_height=args.max_height,
            scene_cuts=not args.no_scene_cuts,
            audio_track=args.audio_track,
        )
    for path in reports:
        if path.suffix == ".txt" and not args.report:
            with replacing(path) as part:
                part.write_text(report.summary() + "\n", encoding="utf-8", errors="backslashreplace")
        else:
            write_json(path, report.to_json())
    print(report.summary())
    if not report.videos:
        _messages.warning("no video found")
        return 1
    number, count = args.shard
    if count > 1:
        _messages.info("share %d of %d; once all are done: avsync extract --merge --out %s", number, count, out)
    return 1 if report.failed else 0


def _reports(args: argparse.Namespace, out: Path) -> list[Path]:
    """Return the files of the report."""
    if args.report:
        return [Path(args.report)]
    number, count = args.shard
    name = "report" if count == 1 else f"report-{number}-of-{count}"
    return [out / f"{name}.json", out / f"{name}.txt"]


def _is_report(args: argparse.Namespace, path: Path) -> bool:
    """Return whether a file was written by an earlier run: a report in JSON, or the text next to one in the corpus."""
    from avsync.corpus.extraction.report import ExtractionReport

    try:
        found = read_json(path if args.report else path.with_suffix(".json"), error=ArgumentError)
    except ArgumentError:
        return False
    return isinstance(found, dict) and set(found) == set(ExtractionReport(videos=[]).to_json())


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal() or not 1 <= int(number) <= int(count):
        raise argparse.ArgumentTypeError(f"expected I/N with 1 <= I <= N, such as 2/8, got {text!r}")
    return int(number), int(count)
