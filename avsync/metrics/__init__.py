"""Metrics of audio-visual synchrony: functions on tensors, and torchmetrics classes over them.

The classes are imported when they are first asked for, so that neither torchmetrics nor the time it takes is needed for the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from avsync.metrics.bootstrap import Interval, bootstrap_interval
from avsync.metrics.calibration import Calibration, LevelCalibration, load_calibration, save_calibration
from avsync.metrics.calibration_fit import fit_calibration
from avsync.metrics.framewise import FramewiseSync, framewise_confidence
from avsync.metrics.lse import distance_at_zero, lse_confidence, lse_distance, offset_accuracy, rank_at_zero
from avsync.metrics.multi_scale import LevelEmbeddings, multi_scale_embeddings, multi_scale_offset
from avsync.metrics.offset import SyncOffset, offset_distances, offset_milliseconds, sync_offset
from avsync.metrics.posterior import OffsetPosterior, offset_posterior, sub_frame_offset
from avsync.metrics.report import LevelSync, face_speed, report_rows, sync_report

if TYPE_CHECKING:
    from avsync.metrics.modular import DistanceAtZero, LSEConfidence, LSEDistance, OffsetAccuracy, RankAtZero

_CLASSES = {
    "DistanceAtZero": "modular",
    "LSEConfidence": "modular",
    "LSEDistance": "modular",
    "OffsetAccuracy": "modular",
    "RankAtZero": "modular",
}

__all__ = [
    "Calibration",
    "DistanceAtZero",
    "FramewiseSync",
    "Interval",
    "LSEConfidence",
    "LSEDistance",
    "LevelCalibration",
    "LevelEmbeddings",
    "LevelSync",
    "OffsetAccuracy",
    "OffsetPosterior",
    "RankAtZero",
    "SyncOffset",
    "bootstrap_interval",
    "distance_at_zero",
    "face_speed",
    "fit_calibration",
    "framewise_confidence",
    "load_calibration",
    "lse_confidence",
    "lse_distance",
    "multi_scale_embeddings",
    "multi_scale_offset",
    "offset_accuracy",
    "offset_distances",
    "offset_milliseconds",
    "offset_posterior",
    "rank_at_zero",
    "report_rows",
    "save_calibration",
    "sub_frame_offset",
    "sync_offset",
    "sync_report",
]


def __getattr__(name: str) -> Any:
    """The metric classes, on demand."""
    if name in _CLASSES:
        return getattr(importlib.import_module(f"avsync.metrics.{_CLASSES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
