"""Loading of syncers and printing of their reports, for several commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from avsync.audio.features import KINDS, SpeechFeatures
from avsync.cli._errors import naming
from avsync.corpus.extraction.report import printable
from avsync.errors import ArgumentError
from avsync.evaluation.drift import Drift, find_drift
from avsync.evaluation.recording import FRAME_SECONDS, Recording, recording_report
from avsync.metrics.calibration import Calibration, load_calibration
from avsync.metrics.report import LevelSync, report_rows
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.pretrained import CALIBRATION, model_folder


class Syncers(NamedTuple):
    """Syncers with their audio features and calibration."""

    pyramid: MultiScaleSyncer
    transform: nn.Module
    calibration: Calibration | None

    def report(self, recording: Recording) -> list[LevelSync]:
        """:func:`avsync.evaluation.recording.recording_report` with these syncers."""
        return recording_report(recording, self.pyramid, audio_transform=self.transform, calibration=self.calibration)

    def drift(self, recording: Recording) -> Drift | None:
        """:func:`avsync.evaluation.drift.find_drift` with these syncers."""
        return find_drift(recording, self.pyramid, audio_transform=self.transform)


def device_of(name: str) -> torch.device:
    """Return the device of this name after a test allocation."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ArgumentError(
            f"`--device`: expected a device of this machine, got {name!r}: {str(error).partition(chr(10))[0]}"
        ) from error
    return device


def load_pyramid(args: argparse.Namespace) -> tuple[MultiScaleSyncer, SpeechFeatures]:
    """Load the syncers of ``--syncers``, ``--features`` and ``--device``, and their audio features."""
    with naming(name="--syncers", folder="--syncers"):
        return _pyramid_in(model_folder(args.syncers), args)


def _pyramid_in(folder: Path, args: argparse.Namespace) -> tuple[MultiScaleSyncer, SpeechFeatures]:
    pyramid = MultiScaleSyncer.from_pretrained(folder).to(device_of(args.device))
    transform = pyramid.speech_features()
    if transform is None and args.features is None:
        raise ArgumentError(f"`--features`: expected {' or '.join(KINDS)}, because the config in {folder} names none, got none")
    if transform is not None and args.features not in (None, transform.kind):
        raise ArgumentError(f"`--features`: expected {transform.kind} as in the config in {folder}, got {args.features}")
    return pyramid, SpeechFeatures(kind=args.features) if transform is None else transform


def load_syncers(args: argparse.Namespace) -> Syncers:
    """Load syncers as :func:`load_pyramid` does, and the calibration that ``--calibration`` names."""
    with naming(name="--syncers", folder="--syncers"):
        folder = model_folder(args.syncers)
        pyramid, transform = _pyramid_in(folder, args)
    default = folder / CALIBRATION
    path = Path(args.calibration) if args.calibration else default if default.is_file() else None
    with naming(path="--calibration", calibration="--calibration"):
        return Syncers(pyramid, transform, None if path is None else load_calibration(path, syncers=pyramid))


def level_lines(report: list[LevelSync]) -> list[str]:
    """Return the report of one recording as a table in text, with a line for the frames of a recording of another rate."""
    lines = ["  level  window   offset                  sure  confidence  distance  at zero"]
    for row in report_rows(report):
        window = 5 * row["frame_ms"] / 1000
        if row["answer"] == "nothing":
            lines.append(f"  {row['level']:<5}  {window:.1f} s   unknown: no clip has audio for as long as a window")
            continue
        reason = {
            "offset": "",
            "unsure": "cannot tell",
            "edge": "unknown: at the edge of the search",
            "silent": "cannot tell: silence",
            "still": "unknown: the face is still",
        }
        offset = f"{row['offset_frames']:+d} frames ({row['offset_ms']:+.0f} ms)"
        sure = "" if row["probability"] is None else f"{100 * row['probability']:.0f} %"
        lines.append(
            f"  {row['level']:<5}  {window:.1f} s   {offset:<22}  {sure:>5}  {row['confidence']:>10.3f}  {row['lse_d']:>8.3f}"
            f"  {row['distance_at_zero']:>7.3f}"
        )
        # On a line of its own, because the table is as wide as a terminal.
        lines += [f"{'':18}{reason[row['answer']]}"] if reason[row["answer"]] else []
    fps, found = report[0].fps, [row for row in report_rows(report) if row["input_frames"] is not None]
    if abs(fps * report[0].frame_ms - 1000) > 0.4 and found:  # rates of files are rounded
        frames = ", ".join(f"{row['input_frames']:+.1f}" for row in found)
        lines.append(f"  by level in frames of this recording, {fps:g} per second: {frames}")
    return lines


def audio_lines(recording: Recording) -> list[str]:
    """Return the lines about the audio: the track, if there are several, what is missing, and the decoder's warnings."""
    lines = [f"  warning: {printable(warning)}" for warning in recording.warnings]
    if recording.audio_tracks > 1:
        lines.append(f"  audio track {recording.audio_track} of {recording.audio_tracks}; --audio-track chooses another")
    missing = recording.seconds - recording.audio_seconds
    if missing > FRAME_SECONDS / 2:
        lines.append(f"  no audio for {missing:.2f} s of the face; measured in the other {recording.audio_seconds:.2f} s")
    return lines


def rows_of(report: list[LevelSync]) -> list[dict[str, Any]]:
    """Return the report of one recording as rows for JSON."""
    return [{key: value for key, value in row.items() if key != "id"} for row in report_rows(report)]
