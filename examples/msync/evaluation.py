"""Evaluation of generated motion: confidence and offset at every level, with baselines that need no generator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from avsync.corpus import Batch
from avsync.landmarks import face_height, mouth_opening
from avsync.metrics import frechet_motion_distance, height_drift, mouth_opening_quantile
from avsync.models import MultiScaleGenerator, MultiScaleSyncer
from avsync.training import LevelReport, crop_offsets


@dataclass(frozen=True)
class Row:
    """Row of the table; lists have one value per level."""

    name: str
    confidence: list[float]
    confidence_error: list[float]
    """Half-widths of 95 % intervals over clips."""
    absolute_offset: list[float]
    """Mean of the absolute offset, in frames of the level."""
    within_one: list[float]
    speed: float
    """Mean speed of the points, in face heights per second."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain types, for JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Dynamics:
    """Movement of faces, apart from the audio; means over clips."""

    name: str
    height: float
    """Height of the face at the end of a clip, as a share of that of the first face."""
    opening: float
    opening95: float
    """Opening of the inner lips in face heights: mean and 95th percentile."""
    distance: float | None
    """Frechet distance of the motion of the last 40 frames from that of the real clips; None for a single clip."""


def motion_speed(landmarks: Tensor, *, fps: float = 25.0) -> float:
    """Compute the mean speed of all points in heights of the first face per second; landmarks (batch, frames, points, dims)."""
    step = (landmarks[:, 1:] - landmarks[:, :-1]).norm(dim=-1)
    return float((step / face_height(landmarks)[:, None, None]).mean() * fps)


@torch.no_grad()
def generate(generator: MultiScaleGenerator, crops: Batch, *, margin: int, seed: int = 0, chunk: int = 128) -> Tensor:
    """Generate motion for the audio of every crop, from its first face: (crops, frames, points, dims)."""
    rng = torch.Generator().manual_seed(seed)
    audio = crops.audio[:, 4 * margin : crops.audio.shape[1] - 4 * margin]
    parts = [
        generator.generate(crops.landmarks[start : start + chunk, 0], audio[start : start + chunk], generator=rng).landmarks
        for start in range(0, len(crops), chunk)
    ]
    return torch.cat(parts)


def evaluate_motion(name: str, syncers: MultiScaleSyncer, landmarks: Tensor, crops: Batch, *, margin: int) -> Row:
    """Compute one row: offsets and confidences of ``landmarks`` with the audio of ``crops``.

    Args:
        name: Name of the row.
        syncers: The evaluation model.
        landmarks: (crops, frames, points, dims).
        crops: Crops with ``margin`` frames of audio around them.
        margin: Audio on each side of a crop, in motion frames.
    """
    motion = replace(crops, landmarks=landmarks)
    levels = crop_offsets(syncers, motion, margin=margin)
    return Row(
        name=name,
        confidence=[float(level.confidence.mean()) for level in levels],
        confidence_error=[1.96 * float(level.confidence.std()) / len(crops) ** 0.5 for level in levels],
        absolute_offset=[float(level.offset_frames.abs().float().mean()) for level in levels],
        within_one=[float(level.within(1).float().mean()) for level in levels],
        speed=motion_speed(landmarks),
    )


def baselines(syncers: MultiScaleSyncer, crops: Batch, *, margin: int) -> list[Row]:
    """Compute the rows that need no generator: ground truth, a static face, and the motion of another clip."""
    still = crops.landmarks[:, :1].expand_as(crops.landmarks)
    # Half the clips away: neighbours in the list overlap in one recording.
    other = crops.landmarks.roll(max(1, len(crops) // 2), dims=0)
    return [
        evaluate_motion("ground truth", syncers, crops.landmarks, crops, margin=margin),
        evaluate_motion("static", syncers, still, crops, margin=margin),
        evaluate_motion("shuffled", syncers, other, crops, margin=margin),
    ]


@torch.no_grad()
def dynamics(name: str, landmarks: Tensor, real: Tensor) -> Dynamics:
    """Compute how clips move; both (clips, frames, 68, dims)."""
    return Dynamics(
        name=name,
        height=float(height_drift(landmarks).mean()),
        opening=float(mouth_opening(landmarks).mean()),
        opening95=float(mouth_opening_quantile(landmarks).mean()),
        distance=float(frechet_motion_distance(landmarks[:, -40:], real[:, -40:])) if len(real) > 1 else None,
    )


def spread(made: Tensor, again: Tensor) -> float:
    """Return how far two samples of the same clips are apart, as a share of how far the first moves from its first face."""
    moved = (made - made[:, :1]).norm(dim=-1).mean()
    return float((again - made).norm(dim=-1).mean() / moved.clamp_min(torch.finfo(moved.dtype).tiny))


def dynamics_table(rows: list[Dynamics], apart: float) -> str:
    """Format rows as text, and the spread of two seeds."""
    lines = [f"{'':<22}{'height at the end':>20}{'mouth opening, mean / 95 %':>30}{'motion distance':>18}"]
    for row in rows:
        opening = f"{row.opening:.4f} / {row.opening95:.4f}"
        distance = "-" if row.distance is None else f"{row.distance:.1f}"
        lines.append(f"{row.name:<22}{row.height:>20.3f}{opening:>30}{distance:>18}")
    return "\n".join([*lines, f"two seeds of the generator are {apart:.2f} of its displacement apart"])


def table(rows: list[Row]) -> str:
    """Format rows as text: confidence (95 % interval over clips), mean absolute offset and speed."""
    levels = len(rows[0].confidence)
    head = f"{'':<22}" + "".join(f"{f'conf. level {level}':>18}" for level in range(levels))
    lines = [head + f"{'|offset| in frames':>26}{'speed':>8}"]
    for row in rows:
        cells = "".join(f"{f'{c:.3f} ± {e:.3f}':>18}" for c, e in zip(row.confidence, row.confidence_error, strict=True))
        offsets = " ".join(f"{offset:.1f}" for offset in row.absolute_offset)
        lines.append(f"{row.name:<22}{cells}{offsets:>26}{row.speed:>8.3f}")
    return "\n".join(lines)


def syncer_lines(name: str, reports: list[LevelReport]) -> str:
    """Format one line per level: share of unseen speakers' clips whose offset is found."""
    return "\n".join(
        f"{name} level {level}: {report.within_one:6.1%} of {report.clips} clips within one frame, {report.exact:6.1%} exact,"
        f" confidence {report.confidence:.3f}"
        for level, report in enumerate(reports)
    )
