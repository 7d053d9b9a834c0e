"""Right calls of the metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsync import metrics as room
from avsync.metrics.frechet import gaussian_statistics
from avsync.models import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import model_folder
from tests.right_calls import Call, new_folder

M, A = torch.randn(2, 3, 30, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.ones(3, 30, dtype=torch.bool)
WINDOWS: dict[str, Any] = {"motion": M, "audio": A, "mask": MASK, "audio_mask": MASK}
SEARCH: dict[str, Any] = {"max_offset": 3, "lead": 0, "edges": "masked"}
PREDS, TARGET = torch.rand(2, 2, 50, 68, 2)
LENGTHS = torch.tensor([50, 44])
CLIPS: dict[str, Any] = {"preds": PREDS, "target": TARGET}
WAVEFORM = 0.1 * torch.randn(2, 32000)
PYRAMID = SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(width=4, embed=2)))
HEARING = SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(width=4, embed=2), audio="log-mel"))
FEATURES = torch.randn(2, 200, 26)
ASKED: dict[str, Any] = {
    "pyramid": PYRAMID, "landmarks": PREDS, "audio": FEATURES, "lengths": LENGTHS, "frame_mask": torch.ones(2, 50, dtype=torch.bool),
    "has_audio": torch.ones(2, 50, dtype=torch.bool)
}  # fmt: skip
OFFSETS = room.sync_offset(M, A, max_offset=3)
LEVEL = room.LevelCalibration(scale=1.0, power=1.0, match_bias=0.0, match_weights=(1.0, 1.0, 1.0))
REPORT = room.sync_report(PYRAMID, PREDS, FEATURES)
VECTORS = torch.randn(20, 3, dtype=torch.float64)
AT = new_folder()
MESHES: dict[str, Any] = {"preds": torch.rand(2, 50, 5, 3), "target": torch.rand(2, 50, 5, 3)}
DISTANCES = [[OFFSETS.distances for _ in range(3)]]


class Flat(nn.Module):
    """An extractor: the mean of everything but the first axis, and its spread."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return torch.stack([flat.mean(1), flat.std(1)], dim=1)


def updated(kind: Any, **options: Any) -> Callable[..., object]:
    """Return the ``update`` of a new metric at each call."""
    return lambda **given: kind(**options).update(**given)


def metric(name: str, given: dict[str, Any], **options: Any) -> dict[str, Call]:
    """Right calls of the constructor of a metric class and of its ``update``."""
    kind = getattr(room, name)
    found = {
        name: Call(kind, options),
        f"{name}.update": Call(updated(kind, **options), given, like=kind.update),
    }
    if hasattr(kind, "score"):
        found[f"{name}.score"] = Call(kind.score, given)
    return found


CALLS = {
    "lip_intensity": Call(room.lip_intensity, {"vertices": PREDS, "lips": [1, 2], "lengths": LENGTHS}),
    "lip_vertex_error": Call(room.lip_vertex_error, {**MESHES, "lips": [1, 2], "lengths": LENGTHS}),
    "mean_temporal_misalignment": Call(
        room.mean_temporal_misalignment, {**MESHES, "upper_lip": 1, "lower_lip": 2, "fps": 25.0, "lengths": LENGTHS}
    ),
    "mean_vertex_error": Call(room.mean_vertex_error, {**MESHES, "lengths": LENGTHS}),
    "upper_face_dynamics_deviation": Call(
        room.upper_face_dynamics_deviation, {**MESHES, "upper": [1, 2], "template": torch.rand(5, 3), "lengths": LENGTHS}
    ),
    "speech_lip_intensity_correlation": Call(
        room.speech_lip_intensity_correlation,
        {"lips": torch.rand(4), "speech": torch.rand(4), "speakers": ["a", "a", "b", "b"]},
    ),
    "soft_dtw_distance": Call(room.soft_dtw_distance, {"preds": torch.rand(2, 6, 4, 3), "target": torch.rand(2, 5, 4, 3)}),
    "save_calibration": Call(room.save_calibration, {"calibration": room.Calibration((LEVEL,)), "path": AT / "c.json"}),
    **metric("DistanceAtZero", WINDOWS, max_offset=3),
    **metric("LSEConfidence", WINDOWS, max_offset=3),
    **metric("LSEDistance", WINDOWS, max_offset=3),
    **metric("OffsetAccuracy", WINDOWS, max_offset=3),
    **metric("RankAtZero", WINDOWS, max_offset=3),
    **metric("FrechetDistance", CLIPS, extractor=Flat(), num_features=2),
    **metric("FrechetMotionDistance", CLIPS),
    **metric("LandmarkDistance", {**CLIPS, "lengths": LENGTHS}),
    **metric("LandmarkError", {**CLIPS, "lengths": LENGTHS}),
    **metric("MouthOpeningCorrelation", {**CLIPS, "lengths": LENGTHS}),
    **metric("VelocityError", {**CLIPS, "lengths": LENGTHS}),
    "Calibration": Call(room.Calibration, {"levels": (LEVEL,)}),
    "LevelCalibration": Call(
        room.LevelCalibration, {"scale": 1.0, "power": 1.0, "match_bias": 0.0, "match_weights": (1.0, 1.0, 1.0)}
    ),
    "SyncOffset.within": Call(OFFSETS.within, {}),
    "audio_onsets": Call(room.audio_onsets, {"waveform": WAVEFORM, "has_audio": torch.ones(2, 200, dtype=torch.bool)}),
    "beat_align": Call(
        room.beat_align, {"landmarks": PREDS, "waveform": WAVEFORM, "has_audio": torch.ones(2, 50, dtype=torch.bool)}
    ),
    "bootstrap_interval": Call(room.bootstrap_interval, {"values": torch.rand(10), "groups": [0, 1] * 5, "resamples": 50}),
    "distance_at_zero": Call(room.distance_at_zero, {**WINDOWS, **SEARCH}),
    "height_drift": Call(room.height_drift, {"landmarks": PREDS}),
    "mouth_opening_quantile": Call(room.mouth_opening_quantile, {"landmarks": PREDS}),
    "seed_spread": Call(room.seed_spread, {"samples": [PREDS, TARGET]}),
    "SyncStream": Call(room.SyncStream, {"pyramid": HEARING, "seconds": 2.0, "margin": 8}),
    "SyncStream.push": Call(
        lambda **given: room.SyncStream(HEARING, seconds=2.0, margin=8).push(**given),
        {"landmarks": PREDS[0], "audio": WAVEFORM[0]},
        like=room.SyncStream.push,
    ),
    "face_speed": Call(
        room.face_speed, {"landmarks": PREDS, "lengths": LENGTHS, "frame_mask": torch.ones(2, 50, dtype=torch.bool)}
    ),
    "fill_missing_audio": Call(room.fill_missing_audio, {"audio": FEATURES, "has_audio": torch.ones(2, 50, dtype=torch.bool)}),
    "fit_calibration": Call(
        room.fit_calibration, {"matched": DISTANCES, "mismatched": DISTANCES, "windows": [[10, 20, 30]]}, slow=True
    ),
    "frames_to_windows": Call(
        room.frames_to_windows, {"frame_mask": torch.ones(2, 50, dtype=torch.bool), "level": 1, "window": 5, "share": 0.5}
    ),
    "framewise_confidence": Call(room.framewise_confidence, {**WINDOWS, "max_offset": 3}),
    "frechet_distance": Call(room.frechet_distance, {"preds": VECTORS, "target": gaussian_statistics(VECTORS)}),
    "frechet_extractor_distance": Call(room.frechet_extractor_distance, {"extractor": Flat(), **CLIPS}),
    "frechet_inception_distance": Call(room.frechet_inception_distance, {**CLIPS, "network": Flat(), "size": 8}),
    "frechet_motion_distance": Call(room.frechet_motion_distance, {**CLIPS}),
    "frechet_video_distance": Call(room.frechet_video_distance, {**CLIPS, "network": Flat(), "size": 8}),
    "temporal_frechet_inception_distance": Call(
        room.temporal_frechet_inception_distance, {**CLIPS, "network": Flat(), "size": 8}
    ),
    "known_offset": Call(room.known_offset, {"offset_frames": OFFSETS.offset_frames, "confidence": OFFSETS.confidence}),
    "landmark_distance": Call(room.landmark_distance, {**CLIPS, "lengths": LENGTHS}),
    "landmark_error": Call(room.landmark_error, {**CLIPS, "lengths": LENGTHS}),
    "velocity_error": Call(room.velocity_error, {**CLIPS, "lengths": LENGTHS}),
    "mouth_opening_correlation": Call(room.mouth_opening_correlation, {**CLIPS, "lengths": LENGTHS}),
    "load_calibration": Call(room.load_calibration, {"path": Path(model_folder("landmarks68-25fps"), "calibration.json")}),
    "load_motion_autoencoder": Call(room.load_motion_autoencoder, {}),
    "lse_confidence": Call(room.lse_confidence, {**WINDOWS, **SEARCH}),
    "lse_distance": Call(room.lse_distance, {**WINDOWS, **SEARCH}),
    "motion_beats": Call(room.motion_beats, {"landmarks": PREDS}),
    "multi_scale_embeddings": Call(room.multi_scale_embeddings, ASKED),
    "multi_scale_offset": Call(room.multi_scale_offset, ASKED),
    "offset_accuracy": Call(room.offset_accuracy, {**WINDOWS, **SEARCH}),
    "offset_distances": Call(room.offset_distances, {**WINDOWS, "max_offset": 3}),
    "offset_milliseconds": Call(room.offset_milliseconds, {"offset_frames": OFFSETS.offset_frames}),
    "offset_posterior": Call(room.offset_posterior, {"distances": OFFSETS.distances, "windows": 20, "calibration": LEVEL}),
    "offset_within": Call(room.offset_within, {"offset_frames": OFFSETS.offset_frames, "confidence": OFFSETS.confidence}),
    "onset_strength": Call(room.onset_strength, {"waveform": WAVEFORM}),
    "rank_at_zero": Call(room.rank_at_zero, {**WINDOWS, **SEARCH}),
    "report_rows": Call(room.report_rows, {"report": REPORT, "ids": ["a", "b"]}),
    "sub_frame_offset": Call(room.sub_frame_offset, {"distances": OFFSETS.distances}),
    "sync_offset": Call(room.sync_offset, {**WINDOWS, "max_offset": 3}),
    "sync_report": Call(room.sync_report, {**ASKED, "speech_fraction": torch.ones(2)}),
}
