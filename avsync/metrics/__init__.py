"""Metrics of audio-visual synchrony: functions on tensors, and torchmetrics classes over them.

The classes are imported on first access, so that the functions need neither torchmetrics nor its import time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from avsync.metrics.beat_align import BeatAlign, audio_onsets, beat_align, motion_beats, onset_strength
from avsync.metrics.bootstrap import Interval, bootstrap_interval
from avsync.metrics.calibration import Calibration, LevelCalibration, load_calibration, save_calibration
from avsync.metrics.calibration_fit import fit_calibration
from avsync.metrics.distance import landmark_distance, landmark_error, mouth_opening_correlation, velocity_error
from avsync.metrics.dynamics import height_drift, mouth_opening_quantile, seed_spread
from avsync.metrics.feature_nets import (
    frechet_inception_distance,
    frechet_video_distance,
    load_i3d,
    temporal_frechet_inception_distance,
)
from avsync.metrics.framewise import FramewiseSync, framewise_confidence
from avsync.metrics.frechet import (
    GaussianStatistics,
    frechet_distance,
    frechet_extractor_distance,
    frechet_motion_distance,
    load_motion_autoencoder,
)
from avsync.metrics.inception import load_inception
from avsync.metrics.lse import distance_at_zero, lse_confidence, lse_distance, offset_accuracy, rank_at_zero
from avsync.metrics.mesh import (
    lip_intensity,
    lip_vertex_error,
    mean_temporal_misalignment,
    mean_vertex_error,
    speech_lip_intensity_correlation,
    upper_face_dynamics_deviation,
)
from avsync.metrics.multi_scale import (
    MAX_OFFSETS,
    LevelEmbeddings,
    fill_missing_audio,
    frames_to_windows,
    multi_scale_embeddings,
    multi_scale_offset,
)
from avsync.metrics.offset import SyncOffset, known_offset, offset_distances, offset_milliseconds, offset_within, sync_offset
from avsync.metrics.posterior import OffsetPosterior, offset_posterior, sub_frame_offset
from avsync.metrics.report import LevelSync, face_speed, report_rows, sync_report
from avsync.metrics.soft_dtw import soft_dtw_distance
from avsync.metrics.stream import StreamSync, SyncStream

if TYPE_CHECKING:
    from avsync.metrics.modular import DistanceAtZero, LSEConfidence, LSEDistance, OffsetAccuracy, RankAtZero
    from avsync.metrics.modular_distance import (
        FrechetDistance,
        FrechetMotionDistance,
        LandmarkDistance,
        LandmarkError,
        MouthOpeningCorrelation,
        VelocityError,
    )

_CLASSES = {
    "FrechetDistance": "modular_distance",
    "FrechetMotionDistance": "modular_distance",
    "LandmarkDistance": "modular_distance",
    "LandmarkError": "modular_distance",
    "MouthOpeningCorrelation": "modular_distance",
    "VelocityError": "modular_distance",
    "DistanceAtZero": "modular",
    "LSEConfidence": "modular",
    "LSEDistance": "modular",
    "OffsetAccuracy": "modular",
    "RankAtZero": "modular",
}

__all__ = [
    "MAX_OFFSETS",
    "BeatAlign",
    "Calibration",
    "DistanceAtZero",
    "FramewiseSync",
    "FrechetDistance",
    "FrechetMotionDistance",
    "GaussianStatistics",
    "Interval",
    "LSEConfidence",
    "LSEDistance",
    "LandmarkDistance",
    "LandmarkError",
    "LevelCalibration",
    "LevelEmbeddings",
    "LevelSync",
    "MouthOpeningCorrelation",
    "OffsetAccuracy",
    "OffsetPosterior",
    "RankAtZero",
    "StreamSync",
    "SyncOffset",
    "SyncStream",
    "VelocityError",
    "audio_onsets",
    "beat_align",
    "bootstrap_interval",
    "distance_at_zero",
    "face_speed",
    "fill_missing_audio",
    "fit_calibration",
    "frames_to_windows",
    "framewise_confidence",
    "frechet_distance",
    "frechet_extractor_distance",
    "frechet_inception_distance",
    "frechet_motion_distance",
    "frechet_video_distance",
    "height_drift",
    "known_offset",
    "landmark_distance",
    "landmark_error",
    "lip_intensity",
    "lip_vertex_error",
    "load_calibration",
    "load_i3d",
    "load_inception",
    "load_motion_autoencoder",
    "lse_confidence",
    "lse_distance",
    "mean_temporal_misalignment",
    "mean_vertex_error",
    "motion_beats",
    "mouth_opening_correlation",
    "mouth_opening_quantile",
    "multi_scale_embeddings",
    "multi_scale_offset",
    "offset_accuracy",
    "offset_distances",
    "offset_milliseconds",
    "offset_posterior",
    "offset_within",
    "onset_strength",
    "rank_at_zero",
    "report_rows",
    "save_calibration",
    "seed_spread",
    "soft_dtw_distance",
    "speech_lip_intensity_correlation",
    "sub_frame_offset",
    "sync_offset",
    "sync_report",
    "temporal_frechet_inception_distance",
    "upper_face_dynamics_deviation",
    "velocity_error",
]


def __getattr__(name: str) -> Any:
    """Import the metric classes on demand."""
    if name in _CLASSES:
        return getattr(importlib.import_module(f"avsync.metrics.{_CLASSES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
