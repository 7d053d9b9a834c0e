"""Score how well lips follow the audio: LSE-D and LSE-C by SyncNet, confidence per level by landmark syncers

SyncNet needs the file with its published weights, syncnet_v2.model, which is not part of avsync. Landmark syncers can score
instead or as well, also a clip of a corpus, CORPUS/ID. Of several faces at once the largest is scored.

  avsync score talk.mp4 --syncnet syncnet_v2.model --detector litert
  avsync score talk.mp4 other.mp4 --syncers runs/syncers --json > scores.json

Higher confidence (LSE-C) and lower distance (LSE-D) are better; a positive offset means that the audio is early. Distances and
confidences compare with others of the same network only. Exit status 1 if a recording could not be scored.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avsync.cli._arguments import EDGE_CHOICES, add_detector_arguments, add_quiet_argument, add_syncer_arguments
from avsync.cli._errors import as_typed
from avsync.errors import ArgumentError, AvsyncError

if TYPE_CHECKING:
    from avsync.cli._syncers import Syncers
    from avsync.evaluation.syncnet.network import SyncNet
    from avsync.evaluation.syncnet.scoring import TrackScore

_messages = logging.getLogger("avsync.cli")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync score``."""
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video files, or CORPUS/ID for a clip of a corpus")
    parser.add_argument("--syncnet", metavar="FILE", help="SyncNet's weights, syncnet_v2.model, for LSE-D and LSE-C")
    parser.add_argument(
        "--edges",
        choices=EDGE_CHOICES,
        default="masked",
        help=(
            "for SyncNet: leave out windows beyond the audio (masked), or fill them with zeros as the published script "
            "does (legacy)"
        ),
    )
    parser.add_argument("--batch-size", type=int, default=32, help="windows that SyncNet embeds at once (default: 32)")
    add_syncer_arguments(parser, default=None)
    add_detector_arguments(parser)
    add_quiet_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one list in JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Score and print."""
    from avsync.cli._syncers import device_of, load_syncers
    from avsync.evaluation.syncnet.network import SyncNet

    if args.syncnet is None and args.syncers is None:
        raise ArgumentError("`--syncnet`, `--syncers`: expected at least one of the two, got none")
    syncnet = None if args.syncnet is None else SyncNet.from_file(args.syncnet).to(device_of(args.device))
    syncers = None if args.syncers is None else load_syncers(args)
    results: list[dict[str, Any]] = []
    failed = False
    for target in args.videos:
        try:
            result, lines = _score(target, args, syncnet, syncers)
        except (AvsyncError, OSError) as error:
            message = as_typed(error, args.options)
            _messages.error("avsync score: %s", message)
            result, lines, failed = {"video": target, "error": message}, [], True
        results.append(result)
        if not args.json:
            print("\n".join(lines), end="\n" if lines else "")
    if args.json:
        print(json.dumps(results, indent=2))
    elif syncnet is not None and len(results) > 1:
        print(_summary(results))
    return 1 if failed else 0


def _score(
    target: str, args: argparse.Namespace, syncnet: SyncNet | None, syncers: Syncers | None
) -> tuple[dict[str, Any], list[str]]:
    from avsync.cli._progress import progress_line
    from avsync.cli._syncers import audio_lines, level_lines, rows_of
    from avsync.evaluation.recording import read_recording
    from avsync.evaluation.syncnet.scoring import score_video

    result: dict[str, Any] = {"video": target}
    lines = [f"{target}:"]
    if syncnet is not None:
        scores = score_video(
            target,
            syncnet=syncnet,
            detector=args.detector,
            batch_size=args.batch_size,
            edges=args.edges,
            min_seconds=args.min_seconds,
            audio_track=args.audio_track,
            progress=progress_line(Path(target).name),
        )
        result["syncnet"] = [_track(score) for score in scores]
        lines.append("  SyncNet  from      frames  offset               LSE-C   LSE-D  at zero")
        lines += [
            f"           {score.start:>7.2f} s  {score.frames:>6}  {score.offset_frames:+d} frames "
            f"({1000 * score.offset_seconds:+.0f} ms)".ljust(50)
            + f"  {score.confidence:>5.3f}  {score.distance:>6.3f}  {score.distance_at_zero:>7.3f}"
            for score in scores
        ]
        lines += [
            f"           {score.start:>7.2f} s: {score.windows} of {score.frames - 4} windows; the others have no audio"
            for score in scores
            if score.windows < score.frames - 5  # the published script leaves out the last one
        ]
    if syncers is not None:
        recording = read_recording(
            target,
            detector=args.detector,
            min_seconds=args.min_seconds,
            audio_track=args.audio_track,
            progress=progress_line(Path(target).name),
        )
        lines += audio_lines(recording)
        report = syncers.report(recording)
        result["fps"] = recording.fps
        result["audio_seconds"] = recording.audio_seconds
        result["levels"] = rows_of(report)
        lines += level_lines(report)
    return result, lines


def _track(score: TrackScore) -> dict[str, Any]:
    return {
        "start": score.start,
        "frames": score.frames,
        "windows": score.windows,
        "face_size": score.face_size,
        "offset_frames": score.offset_frames,
        "offset_ms": 1000 * score.offset_seconds,
        "lse_c": score.confidence,
        "lse_d": score.distance,
        "distance_at_zero": score.distance_at_zero,
        "rank_at_zero": score.rank_at_zero,
    }


def _summary(results: list[dict[str, Any]]) -> str:
    tracks = [track for result in results for track in result.get("syncnet", ())]
    if not tracks:
        return "no track scored"
    means = [math.fsum(track[key] for track in tracks) / len(tracks) for key in ("lse_c", "lse_d", "distance_at_zero")]
    return f"mean of {len(tracks)} tracks: LSE-C {means[0]:.3f}, LSE-D {means[1]:.3f}, distance at zero {means[2]:.3f}"
