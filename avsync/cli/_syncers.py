"""What commands share that ask trained syncers about recordings."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from avsync.audio.speech import KINDS, SpeechFeatures
from avsync.cli._errors import naming
from avsync.errors import ArgumentError
from avsync.evaluation.recording import Drift, Recording, find_drift, recording_report
from avsync.metrics.calibration import Calibration, load_calibration
from avsync.metrics.report import LevelSync, report_rows
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.pretrained import CALIBRATION, model_folder, pretrained_models


class Syncers(NamedTuple):
    """A pyramid, and what it needs to be asked."""

    pyramid: MultiScaleSyncer
    transform: nn.Module
    calibration: Calibration | None

    def report(self, recording: Recording) -> list[LevelSync]:
        """:func:`avsync.evaluation.recording.recording_report` with these syncers."""
        return recording_report(recording, self.pyramid, audio_transform=self.transform, calibration=self.calibration)

    def drift(self, recording: Recording) -> Drift | None:
        """:func:`avsync.evaluation.recording.find_drift` with these syncers."""
        return find_drift(recording, self.pyramid, audio_transform=self.transform)


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of commands that look for faces."""
    parser.add_argument(
        "--detector",
        default="face-alignment",
        metavar="NAME",
        help="face-alignment, mediapipe, or package.module:function of your own (default: %(default)s)",
    )
    parser.add_argument("--min-seconds", type=float, default=2.0, help="shortest segment with a face that is used (default: 2)")
    add_audio_track_argument(parser)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")


def add_audio_track_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands that read videos."""
    parser.add_argument(
        "--audio-track",
        type=int,
        metavar="N",
        help="which audio track of the videos, from 1 (default: the one that the file marks as default, then the first)",
    )


def add_syncer_arguments(parser: argparse.ArgumentParser, *, default: str | None, calibrated: bool = True) -> None:
    """Options that choose syncers; ``calibrated`` ones only where the command says how sure it is."""
    known = ", ".join(pretrained_models(MultiScaleSyncer))
    parser.add_argument(
        "--syncers",
        default=default,
        metavar="NAME",
        help=f"trained syncers: a folder, or one of {known or 'those shipped'}" + (f" (default: {default})" if default else ""),
    )
    parser.add_argument("--features", choices=KINDS, help="sound features of syncers whose config does not name them")
    if calibrated:
        parser.add_argument(
            "--calibration",
            metavar="FILE",
            help=f"turns distances into probabilities (default: {CALIBRATION} beside the syncers, if it is there)",
        )


def device_of(name: str) -> torch.device:
    """The device of that name, tried out."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ArgumentError(
            f"`--device`: expected a device of this machine, got {name!r}: {str(error).partition(chr(10))[0]}"
        ) from error
    return device


def load_pyramid(args: argparse.Namespace) -> tuple[MultiScaleSyncer, SpeechFeatures]:
    """What ``--syncers``, ``--features`` and ``--device`` say: a pyramid, and the features that it was trained on."""
    with naming(name="--syncers", folder="--syncers"):
        return _pyramid_in(model_folder(args.syncers), args)


def _pyramid_in(folder: Path, args: argparse.Namespace) -> tuple[MultiScaleSyncer, SpeechFeatures]:
    pyramid = MultiScaleSyncer.from_pretrained(folder).to(device_of(args.device))
    transform = pyramid.speech_features()
    if transform is None and args.features is None:
        raise ArgumentError(
            f"`--features`: expected {' or '.join(KINDS)}, because the config in {folder} does not say, got none"
        )
    if transform is not None and args.features not in (None, transform.kind):
        raise ArgumentError(f"`--features`: expected {transform.kind}, as the config in {folder} says, got {args.features}")
    return pyramid, SpeechFeatures(kind=args.features) if transform is None else transform


def load_syncers(args: argparse.Namespace) -> Syncers:
    """:func:`load_pyramid`, and what ``--calibration`` says."""
    with naming(name="--syncers", folder="--syncers"):
        folder = model_folder(args.syncers)
        pyramid, transform = _pyramid_in(folder, args)
    beside = folder / CALIBRATION
    path = Path(args.calibration) if args.calibration else beside if beside.is_file() else None
    with naming(path="--calibration", calibration="--calibration"):
        return Syncers(pyramid, transform, None if path is None else load_calibration(path, syncers=pyramid))


def level_lines(report: list[LevelSync]) -> list[str]:
    """A report of one recording as a table for people."""
    lines = ["  level  window   offset                  sure  confidence  distance  at zero"]
    for row in report_rows(report):
        window = 5 * row["frame_ms"] / 1000
        if row["answer"] == "nothing":
            lines.append(f"  {row['level']:<5}  {window:.1f} s   cannot tell: every clip is shorter than a window")
            continue
        reason = {
            "offset": "",
            "unsure": "  cannot tell",
            "edge": "  cannot tell: the edge of the search",
            "silent": "  cannot tell: silence",
            "still": "  cannot tell: the face is still",
        }
        offset = f"{row['offset_frames']:+d} frames ({row['offset_ms']:+.0f} ms)"
        sure = "" if row["probability"] is None else f"{100 * row['probability']:.0f} %"
        lines.append(
            f"  {row['level']:<5}  {window:.1f} s   {offset:<22}  {sure:>5}  {row['confidence']:>10.3f}  {row['lse_d']:>8.3f}"
            f"  {row['distance_at_zero']:>7.3f}{reason[row['answer']]}"
        )
    return lines


def track_lines(recording: Recording) -> list[str]:
    """Which audio track was used, where there are several."""
    if recording.audio_tracks < 2:
        return []
    return [f"  audio track {recording.audio_track} of {recording.audio_tracks}; --audio-track chooses another"]


def progress_line(name: str) -> Callable[[float], None] | None:
    """A line on standard error that tells the share done, where somebody watches."""
    if not sys.stderr.isatty():
        return None
    last = [-1]

    def show(share: float) -> None:
        percent = math.floor(100 * share)
        if percent != last[0]:
            last[0] = percent
            print(f"\r{name}: {percent} %" + ("\r\033[K" if percent >= 100 else ""), end="", file=sys.stderr, flush=True)

    return show


def rows_of(report: list[LevelSync]) -> list[dict[str, Any]]:
    """A report of one recording as rows for JSON."""
    return [{key: value for key, value in row.items() if key != "id"} for row in report_rows(report)]
