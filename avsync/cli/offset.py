"""How early or late is the sound of a video? Says it level by level and in words; --fix writes a copy in sync

Landmark syncers compare sound and face on windows of 0.2 to 1.6 seconds. A positive offset says that the audio is early: delay it.
Of several faces at once the largest is watched. A clip of a corpus, CORPUS/ID, may take the place of a video and needs no detector.

  avsync offset talk.mp4 --syncers runs/syncers --detector mediapipe
  avsync offset talk.mp4 --syncers runs/syncers --fix                 # writes talk.synced.mp4
  avsync offset a.mp4 b.mkv --syncers runs/syncers --fix mended --json > offsets.json

The copy holds the streams of the video as they are; only the times of its sound differ (AVI has none, there the sound is written as
PCM). It is measured again before the command ends. Exit status 1 if a recording could not be read or mended.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from avsync.cli._syncers import (
    Syncers,
    add_detector_arguments,
    add_syncer_arguments,
    level_lines,
    load_syncers,
    progress_line,
    rows_of,
)
from avsync.errors import ArgumentError, AvsyncError
from avsync.evaluation.recording import (
    FRAME_SECONDS,
    OffsetAnswer,
    Recording,
    find_offset,
    read_recording,
    with_delayed_sound,
)
from avsync.evaluation.resync import default_output, ffmpeg_command, shift_sound


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``avsync offset``."""
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video files, or CORPUS/ID for a clip of a corpus")
    add_syncer_arguments(parser, default="landmarks68-25fps")
    add_detector_arguments(parser)
    parser.add_argument(
        "--fix",
        nargs="?",
        const="",
        metavar="OUT",
        help="write a copy in sync: a file, a folder for several, or by default VIDEO.synced.SUFFIX beside each",
    )
    parser.add_argument("--json", action="store_true", help="print one list in JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Measure, mend on request, print."""
    syncers = load_syncers(args)
    outputs = _outputs(args)
    results: list[dict[str, Any]] = []
    failed = False
    for target in args.videos:
        try:
            result, recording, answer = _measure(target, args, syncers)
            if not args.json:
                print("\n".join(result.pop("lines")))
            if args.fix is not None:
                result["fix"] = _fix(recording, answer, outputs[target], syncers, quiet=args.json)
            result.pop("lines", None)
            results.append(result)
        except (AvsyncError, OSError) as error:
            print(f"avsync offset: {error}", file=sys.stderr)
            results.append({"video": target, "error": str(error)})
            failed = True
    if args.json:
        print(json.dumps(results, indent=2))
    return 1 if failed else 0


def _outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Where the copy of each video goes."""
    if args.fix is None:
        return {}
    if not args.fix:
        return {target: default_output(target) for target in args.videos}
    out = Path(args.fix)
    if len(args.videos) == 1 and not out.is_dir():
        return {args.videos[0]: out}
    if out.is_file():
        raise ArgumentError(f"`--fix`: expected a folder for the copies of {len(args.videos)} videos, got the file {out}")
    outputs = {target: out / Path(target).name for target in args.videos}
    if len(set(outputs.values())) < len(set(args.videos)):
        raise ArgumentError("`--fix`: expected videos of different names for one folder, got some of the same")
    return outputs


def _measure(target: str, args: argparse.Namespace, syncers: Syncers) -> tuple[dict[str, Any], Recording, OffsetAnswer]:
    recording = read_recording(
        target, detector=args.detector, min_seconds=args.min_seconds, progress=progress_line(Path(target).name)
    )
    answer, report = find_offset(recording, syncers.report)
    sure = "" if answer.probability is None else f", {100 * answer.probability:.0f} % sure"
    told = "" if answer.level is None else f" (level {answer.level}{sure})"
    count = len(recording.clips)
    lines = [f"{target}: {count} clip{'s' if count > 1 else ''}, {recording.seconds:.1f} s of a face", *level_lines(report)]
    lines.append(f"  {answer.words}{told}")
    if syncers.calibration is None:
        lines.append("  without a calibration of these syncers nobody knows how sure that is; see --calibration")
    result = {
        "video": target,
        "seconds": recording.seconds,
        "clips": count,
        "offset_ms": None if answer.seconds is None else 1000 * answer.seconds,
        "level": answer.level,
        "probability": answer.probability,
        "words": answer.words,
        "levels": rows_of(report),
        "lines": lines,
    }
    return result, recording, answer


def _fix(recording: Recording, answer: OffsetAnswer, out: Path, syncers: Syncers, *, quiet: bool) -> dict[str, Any]:
    """Write the copy, measure it, say so."""
    if recording.video is None:
        raise ArgumentError(f"`--fix`: expected a video, got {recording.name}, a clip of a corpus")
    if answer.seconds is None or abs(answer.seconds) < FRAME_SECONDS / 2:
        why = "cannot tell" if answer.seconds is None else "in sync"
        if not quiet:
            print(f"  no copy written: {why}")
        return {"written": None, "why": why}
    seconds = round(answer.seconds, 3)
    done = shift_sound(recording.video, out, seconds=seconds)
    again, _ = find_offset(with_delayed_sound(recording, 0.0, video=out), syncers.report)
    command = ffmpeg_command(recording.video, out, seconds, encode=done.encoded, data=not done.left_out)
    if not quiet:
        print(f"  written: {out}, sound {'delayed' if seconds > 0 else 'moved forward'} by {abs(1000 * seconds):.0f} ms")
        for stream in done.left_out:
            print(f"  left out: {stream}, which the container makes itself or cannot hold")
        print(f"  the copy: {again.words}")
        print(f"  the same by hand: {command}")
    return {
        "written": str(out),
        "delay_ms": 1000 * seconds,
        "encoded": done.encoded,
        "left_out": list(done.left_out),
        "offset_ms_after": None if again.seconds is None else 1000 * again.seconds,
        "command": command,
    }
