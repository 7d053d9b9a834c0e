"""Measure how early or late the audio of a video is, per level and in words; --fix writes a copy in sync

Landmark syncers compare audio and face on windows of 0.2 to 1.6 seconds. A positive offset means that the audio is early: delay
it. If a video shows several faces, the largest face is used, or with --speaker the face that speaks. A clip of a corpus,
CORPUS/ID, can replace a video and needs no detector.

  avsync offset talk.mp4 --detector litert
  avsync offset talk.mp4 --fix                                        # writes talk.synced.mp4
  avsync offset a.mp4 b.mkv --syncers runs/syncers --fix in-sync --json > offsets.json
  avsync offset panel.mp4 --detector litert --speaker                 # which face speaks, and the offset of that face
  avsync offset talk.mp4 --detector litert --track --figure track.png # the offset of every four seconds

The copy holds the streams of the video as they are; only the times of its audio differ (AVI has none, there the audio is
written as PCM). It is measured before it is given its name, and only a copy in sync is kept. Files that exist are never
replaced without --overwrite, inputs never. Exit status 1 if a recording could not be read, or no copy of one that is out of
sync was written.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avsync.cli._arguments import (
    add_detector_arguments,
    add_overwrite_argument,
    add_quiet_argument,
    add_syncer_arguments,
)
from avsync.cli._errors import as_typed
from avsync.cli._outputs import check_figure, declare, model_files
from avsync.errors import ArgumentError, AvsyncError

if TYPE_CHECKING:
    from avsync.cli._syncers import Syncers
    from avsync.evaluation.answer import OffsetAnswer
    from avsync.evaluation.recording import Recording


IN_SYNC, CANNOT_TELL, DRIFT, NOT_CONFIRMED = "in sync", "cannot tell", "the audio drifts", "not confirmed"
"""Reasons why no copy is written; the first reason is not a failure."""

_messages = logging.getLogger("avsync.cli")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``avsync offset``."""
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video files, or CORPUS/ID for a clip of a corpus")
    add_syncer_arguments(parser, default="landmarks68-25fps")
    add_detector_arguments(parser)
    parser.add_argument(
        "--speaker", action="store_true", help="measure every face, and use the one whose motion agrees with the audio"
    )
    parser.add_argument("--track", action="store_true", help="also measure the offset of every four seconds, once per second")
    parser.add_argument("--figure", metavar="FILE", help="draw the offset over time of one video; with --track")
    parser.add_argument(
        "--fix",
        nargs="?",
        const="",
        metavar="OUT",
        help="write a copy in sync: a file, a folder for several, or by default VIDEO.synced.SUFFIX next to each",
    )
    add_overwrite_argument(parser)
    add_quiet_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one list in JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Measure, write a copy on request, print."""
    from avsync.cli._syncers import load_syncers

    args.videos = list(dict.fromkeys(args.videos))
    outputs = _outputs(args)
    if args.figure is not None:
        if not args.track or len(args.videos) > 1:
            raise ArgumentError(f"`--figure`: expected one video and --track, got {len(args.videos)} videos")
        check_figure("--figure", args.figure)
    figures = [("--figure", args.figure)] if args.figure is not None else []
    declare(
        args,
        [*(("--fix", path) for path in outputs.values()), *figures],
        inputs=[*args.videos, model_files(args.syncers), args.calibration],
    )
    syncers = load_syncers(args)
    results: list[dict[str, Any]] = []
    failed = False
    for target in args.videos:
        try:
            result, recording, answer = _measure(target, args, syncers)
            if not args.json:
                print("\n".join(result.pop("lines")))
            if args.fix is not None:
                result["fix"] = _fix(args, recording, answer, outputs[target], syncers)
                failed |= result["fix"]["why"] not in (None, IN_SYNC)
            result.pop("lines", None)
            results.append(result)
        except (AvsyncError, OSError) as error:
            message = as_typed(error, args.options)
            _messages.error("avsync offset: %s", message)
            results.append({"video": target, "error": message})
            failed = True
    if args.json:
        print(json.dumps(results, indent=2))
    return 1 if failed else 0


def _outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Return the file of the copy of each video."""
    from avsync.corpus.clip import INDEX_NAME
    from avsync.evaluation.resync import default_output

    if args.fix is None:
        return {}
    if not args.fix:
        return {target: default_output(target) for target in args.videos}
    clips = [target for target in args.videos if not Path(target).is_file() and (Path(target).parent / INDEX_NAME).is_file()]
    if clips:
        raise ArgumentError(f"`--fix`: expected videos, got {clips[0]}, a clip of a corpus; avsync clean corrects a corpus")
    out = Path(args.fix)
    if len(args.videos) == 1 and not out.is_dir():
        return {args.videos[0]: out}
    if out.is_file():
        raise ArgumentError(f"`--fix`: expected a folder for the copies of {len(args.videos)} videos, got the file {out}")
    return {target: out / Path(target).name for target in args.videos}


def _measure(target: str, args: argparse.Namespace, syncers: Syncers) -> tuple[dict[str, Any], Recording, OffsetAnswer]:
    from avsync.cli._progress import progress_line
    from avsync.cli._syncers import audio_lines, level_lines, rows_of
    from avsync.evaluation.answer import find_offset
    from avsync.evaluation.recording import FRAME_SECONDS, read_recording

    recording = read_recording(
        target,
        detector=args.detector,
        min_seconds=args.min_seconds,
        audio_track=args.audio_track,
        faces="all" if args.speaker else "largest",
        progress=progress_line(Path(target).name),
    )
    speaker: dict[str, Any] | None = None
    speaker_lines: list[str] = []
    if args.speaker:
        recording, speaker, speaker_lines = _speaker(recording, syncers)
    answer, report = find_offset(recording, syncers.report, drift=syncers.drift)
    sure = "" if answer.probability is None else f", {100 * answer.probability:.0f} % sure"
    told = "" if answer.level is None else f" (level {answer.level}{sure})"
    count = len(recording.clips)
    lines = [f"{target}: {count} clip{'s' if count > 1 else ''}, {recording.seconds:.1f} s of a face"]
    lines += [*audio_lines(recording), *level_lines(report)]
    lines.append(f"  {answer.words}{told}")
    if answer.seconds is not None and recording.fps is not None and abs(recording.fps - 1 / FRAME_SECONDS) > 0.01:
        lines.append(f"  that is {answer.seconds * recording.fps:+.1f} frames of this recording, {recording.fps:g} per second")
    if answer.drift is not None:
        lines += [f"    at {at:6.1f} s  {1000 * offset:+6.0f} ms" for at, offset in answer.drift.segments]
    lines += speaker_lines
    track = _track(args, recording, syncers, answer) if args.track else None
    if track is not None:
        lines += [f"    at {point['at']:6.1f} s  {_milliseconds(point['offset_ms'])}" for point in track]
    if syncers.calibration is None:
        lines.append("  these syncers have no calibration, so there is no probability; see --calibration")
    result = {
        "video": target,
        "seconds": recording.seconds,
        "audio_seconds": recording.audio_seconds,
        "clips": count,
        "offset_ms": None if answer.seconds is None else 1000 * answer.seconds,
        "fps": recording.fps,
        "offset_frames": None if answer.seconds is None or recording.fps is None else answer.seconds * recording.fps,
        "level": answer.level,
        "probability": answer.probability,
        "words": answer.words,
        "drift": None
        if answer.drift is None
        else {
            "ms_per_second": 1000 * answer.drift.rate,
            "segments": [{"at": at, "offset_ms": 1000 * offset} for at, offset in answer.drift.segments],
        },
        "speaker": speaker,
        "track": track,
        "audio_track": recording.audio_track,
        "warnings": list(recording.warnings),
        "levels": rows_of(report),
        "lines": lines,
    }
    return result, recording, answer


def _milliseconds(offset: float | None) -> str:
    return "cannot tell" if offset is None else f"{offset:+6.0f} ms"


def _speaker(recording: Recording, syncers: Syncers) -> tuple[Recording, dict[str, Any], list[str]]:
    """Return the clips of the most probable speaker, and the probabilities of all faces for JSON and as lines."""
    from avsync.evaluation.track import persons_of, speaking_face

    if syncers.calibration is None:
        raise ArgumentError("`--speaker`: expected syncers with a calibration, got none; see --calibration")
    persons = persons_of(recording)
    found = speaking_face(persons, syncers.report)
    likely = max(found.probabilities, key=lambda name: found.probabilities[name])
    lines = [
        f"    {person}: speaks with {100 * share:.0f} %, {persons[person].seconds:.1f} s of this face"
        for person, share in found.probabilities.items()
    ]
    lines = [f"  the face that speaks: {found.person or 'nobody'} (nobody: {100 * found.nobody:.0f} %)", *lines]
    return persons[likely], found._asdict(), lines


def _track(args: argparse.Namespace, recording: Recording, syncers: Syncers, answer: OffsetAnswer) -> list[dict[str, Any]]:
    """Measure the offset over time, and draw it on request."""
    from avsync.evaluation.track import offset_track

    points = offset_track(recording, syncers.report)
    if args.figure is not None:
        from avsync.figures import offset_over_time, save_figure

        title = f"{Path(recording.name).name}: {'drift' if answer.drift is not None else 'offset over time'}"
        times, offsets = [point.seconds for point in points], [point.offset for point in points]
        save_figure(offset_over_time(times, offsets, title=title), args.figure)
    return [
        {
            "at": point.seconds,
            "offset_ms": None if point.offset is None else 1000 * point.offset,
            "probability": point.probability,
            "confidence": point.confidence if math.isfinite(point.confidence) else None,
        }
        for point in points
    ]


def _fix(args: argparse.Namespace, recording: Recording, answer: OffsetAnswer, out: Path, syncers: Syncers) -> dict[str, Any]:
    """Write the copy if measuring it again confirms the offset; return what was done, or why nothing was."""
    from avsync.evaluation.answer import OffsetAnswer, confirms, find_offset
    from avsync.evaluation.recording import FRAME_SECONDS, with_delayed_audio
    from avsync.evaluation.resync import ffmpeg_command, shift_audio

    video = recording.video
    if video is None:
        raise ArgumentError(f"`--fix`: expected a video, got {recording.name}, a clip of a corpus")
    if answer.seconds is None or abs(answer.seconds) < FRAME_SECONDS / 2:
        return _unwritten(args, DRIFT if answer.drift is not None else CANNOT_TELL if answer.seconds is None else IN_SYNC)
    seconds = round(answer.seconds, 3)
    again = OffsetAnswer(None)

    def confirm(copy: Path) -> None:
        nonlocal again
        again, _ = find_offset(with_delayed_audio(recording, 0.0, video=copy), syncers.report)
        if not confirms(answer, again):
            raise _NotConfirmedError

    try:
        done = shift_audio(video, out, seconds=seconds, overwrite=args.overwrite, confirm=confirm)
    except _NotConfirmedError:
        return _unwritten(args, f"{NOT_CONFIRMED}; of the copy, {again.words}")
    command = ffmpeg_command(video, out, seconds, encode=done.encoded, data=not done.left_out)
    if not args.json:
        print(f"  written: {out}, audio {'delayed' if seconds > 0 else 'moved forward'} by {abs(1000 * seconds):.0f} ms")
        for stream in done.left_out:
            print(f"  left out: {stream}, which the container generates or cannot hold")
        print(f"  the copy: {again.words}")
        print(f"  the same as a command: {command}")
    return {
        "written": str(out),
        "why": None,
        "delay_ms": 1000 * seconds,
        "encoded": done.encoded,
        "left_out": list(done.left_out),
        "offset_ms_after": None if again.seconds is None else 1000 * again.seconds,
        "command": command,
    }


def _unwritten(args: argparse.Namespace, why: str) -> dict[str, Any]:
    if not args.json:
        print(f"  no copy written: {why}")
    return {"written": None, "why": why}


class _NotConfirmedError(Exception):
    """The copy is not in sync."""
