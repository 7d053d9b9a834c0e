"""Options shared by several commands. This module imports no heavy packages, so that the help appears immediately."""

from __future__ import annotations

import argparse

FEATURE_CHOICES = ("log-mel", "mfcc", "prosody", "log-mel-prosody")
"""The kinds of :class:`avsync.audio.features.SpeechFeatures`."""
REGION_CHOICES = ("face", "mouth", "head", "expression")
EVALUATED_MARGIN = 40
"""Frames of audio around the crops on which syncers are evaluated."""
POOL_CHOICES = ("auto", "clip", "source", "speaker")
FACE_CHOICES = ("largest", "stable", "all")
CROP_CHOICES = ("fixed", "centred", "none")
SPEAKER_CHOICES = ("file", "name", "folder")
ENGINE_CHOICES = ("processes", "ray")
EDGE_CHOICES = ("masked", "legacy")
AUDIO_CHOICES = ("own", "refs")
DETECTOR_HELP = (
    "mediapipe, litert, face-alignment, the path of MediaPipe's face_landmarker.task, or package.module:function of your own "
    "(default: auto, the first of the three that is installed)"
)
# These constants repeat those of modules that import torch, so that the help does not wait for torch; a test compares them.


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that look for faces."""
    parser.add_argument(
        "--detector",
        default="auto",
        metavar="NAME",
        help=DETECTOR_HELP,
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
        help="audio track of the videos, from 1 (default: the track that the file marks as default, else the first)",
    )


def add_syncer_arguments(parser: argparse.ArgumentParser, *, default: str | None, calibrated: bool = True) -> None:
    """Add the options that choose syncers; ``calibrated`` adds the options of commands that report probabilities."""
    parser.add_argument(
        "--syncers",
        default=default,
        metavar="NAME",
        help="trained syncers: a folder, or the name of a pretrained model" + (f" (default: {default})" if default else ""),
    )
    parser.add_argument("--features", choices=FEATURE_CHOICES, help="audio features of syncers whose config does not name them")
    if calibrated:
        parser.add_argument(
            "--calibration",
            metavar="FILE",
            help="file that converts distances to probabilities (default: calibration.json next to the syncers, if it exists)",
        )


def add_overwrite_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands that write files."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace output files that exist (never an input or a read-only file)"
    )


def add_quiet_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands that show their progress."""
    parser.add_argument("--quiet", action="store_true", help="show no progress and no messages but warnings on standard error")
