"""Estimate and correct the offsets of a whole corpus: audio is moved by whole samples, clips are trimmed and measured again

avsync clean corpus                                       # estimate, and list what would be corrected
avsync clean corpus --out corpus-in-sync                  # write the corrected copy
avsync clean corpus --out corpus-in-sync --pool source    # all clips of a video have one offset

A positive offset means that the audio is early. Clips shorter than 8 seconds are measured together with the other short clips
of their video (or of their speaker, if the index names no videos), which are assumed to have the same offset. Only offsets of
high probability are corrected, and only if the corrected clips are in sync. Audio that runs at another speed than the video
drifts and is not corrected; clips of 12 seconds and more show it. Exit status 1 if a clip cannot be read.
"""

from __future__ import annotations

import argparse
import json
import logging
from typing import TYPE_CHECKING

from avsync._files import write_json
from avsync.cli._arguments import POOL_CHOICES, add_overwrite_argument, add_quiet_argument, add_syncer_arguments
from avsync.cli._outputs import declare, model_files
from avsync.errors import ArgumentError

if TYPE_CHECKING:
    from avsync.evaluation.clean import CleanReport, ClipOffset

PARAMETERS = {"smallest": "--smallest-ms"}
"""Parameters of functions that an option sets under another name."""

_messages = logging.getLogger("avsync.cli")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync clean``."""
    parser.add_argument("corpus", metavar="CORPUS", help="a folder with index.json")
    parser.add_argument("--out", metavar="CORPUS2", help="write the corrected copy here")
    parser.add_argument("--dry-run", action="store_true", help="write no copy, even with --out")
    add_syncer_arguments(parser, default="landmarks68-25fps")
    parser.add_argument("--device", default="cpu", help="where the syncers run: cpu, cuda, mps (default: cpu)")
    parser.add_argument("--pool", choices=POOL_CHOICES, default="auto", help="clips that share one offset (default: auto)")
    parser.add_argument("--threshold", type=float, default=0.9, help="probability from which an offset counts (default: 0.9)")
    parser.add_argument(
        "--smallest-ms",
        type=float,
        default=20.0,
        help="leave smaller offsets as they are (default: %(default)g)",
    )
    parser.add_argument(
        "--uncalibrated",
        action="store_true",
        help="also correct with syncers without calibration, whose offsets have no probability",
    )
    add_overwrite_argument(parser)
    add_quiet_argument(parser)
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="print JSON instead of text, or write it to a file and print the text",
    )


def run(args: argparse.Namespace) -> int:
    """Estimate, correct on request, print."""
    from avsync.cli._progress import progress_line
    from avsync.cli._syncers import load_syncers
    from avsync.evaluation.clean import clean_corpus, copy_files

    if args.dry_run and args.out is None:
        _messages.warning("avsync clean: nothing is written without --out, with or without --dry-run")
    out = None if args.dry_run else args.out
    outputs = [] if args.json in (None, "-") else [("--json", args.json)]
    if out is not None:
        outputs += [("--out", file) for file in copy_files(args.corpus, out)]
    declare(args, outputs, inputs=[args.corpus, model_files(args.syncers), args.calibration])
    syncers = load_syncers(args)
    if syncers.calibration is None and not args.uncalibrated:
        raise ArgumentError(
            f"`--calibration`: expected a calibration, because {args.syncers} has none, so that its offsets have no"
            " probability; --uncalibrated continues without one"
        )
    report = clean_corpus(
        args.corpus,
        out,
        pyramid=syncers.pyramid,
        audio_transform=syncers.transform,
        calibration=syncers.calibration,
        uncalibrated=args.uncalibrated,
        pool=args.pool,
        threshold=args.threshold,
        smallest=args.smallest_ms / 1000,
        overwrite=args.overwrite,
        progress=progress_line("clean"),
    )
    for name, reason in report.bad:
        _messages.warning("avsync clean: left out: %s: %s", name, reason)
    if args.json == "-":
        print(json.dumps(report.to_json(), indent=2))
    else:
        print("\n".join(_lines(report)))
    if args.json not in (None, "-"):
        write_json(args.json, report.to_json())
    return 1 if report.bad else 0


def _lines(report: CleanReport) -> list[str]:
    lines = [_line(clip, report.fps) for clip in report.clips]
    counts = ", ".join(f"{outcome}: {count}" for outcome, count in report.counts().items() if count)
    lines += ["", f"{len(report.clips)} clips; {counts}"]
    before, after = report.histogram(), report.histogram(after=True)
    lines += ["", f"offset in frames of {1000 / report.fps:.4g} ms (positive: the audio is early), clips before and after"]
    for frames in sorted(set(before) | set(after)):
        was, now = before.get(frames, 0), after.get(frames, 0)
        if was or now:
            lines.append(f"  {frames:+4d}  {was:5d}  {now:5d}  {_bar(now, report)}")
    if report.out is not None:
        lines.append(f"\nthe corrected copy is in {report.out}")
    return lines


def _bar(count: int, report: CleanReport) -> str:
    return "#" * round(40 * count / max(len(report.clips), 1))


def _line(clip: ClipOffset, fps: float) -> str:
    if clip.drift is not None:
        return f"{clip.id}: {clip.outcome} by {1000 * clip.drift:+.1f} ms per second, no single offset is right"
    if clip.offset_seconds is None:
        return f"{clip.id}: cannot tell"
    sure = "" if clip.probability is None else f", {100 * clip.probability:.0f} % sure"
    frames = f"{clip.offset_seconds * fps:+.1f} frames"
    text = f"{clip.id}: {1000 * clip.offset_seconds:+.0f} ms ({frames}, level {clip.level}{sure})"
    together = "" if clip.pool == clip.id else f", measured with {clip.pool}"
    after = "" if clip.after_seconds is None else f"; then {1000 * clip.after_seconds:+.0f} ms"
    lost = f", {clip.dropped_frames} frames shorter" if clip.dropped_frames else ""
    return f"{text}{together}: {clip.outcome}{lost}{after}"
