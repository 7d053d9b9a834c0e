"""Judging generated motion: confidence and offset at every level, beside the bounds that need no generator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from avsync.corpus.banks.memory import Batch
from avsync.landmarks.geometry import face_height
from avsync.models.generator.model import MultiScaleGenerator
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.training.syncers import LevelReport, judge_offsets


@dataclass(frozen=True)
class Row:
    """One line of the table; lists have one value a level."""

    name: str
    confidence: list[float]
    confidence_error: list[float]
    """Half-widths of 95 % intervals over clips."""
    absolute_offset: list[float]
    """Mean of the absolute offset, in frames of the level."""
    within_one: list[float]
    speed: float
    """Mean speed of the points, in face heights a second."""

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return dict(vars(self))


def motion_speed(landmarks: Tensor, *, fps: float = 25.0) -> float:
    """Mean speed of all points in heights of the first face a second; landmarks (batch, frames, points, dims)."""
    step = (landmarks[:, 1:] - landmarks[:, :-1]).norm(dim=-1)
    return float((step / face_height(landmarks)[:, None, None]).mean() * fps)


@torch.no_grad()
def generate(generator: MultiScaleGenerator, crops: Batch, *, margin: int, seed: int = 0, chunk: int = 128) -> Tensor:
    """Motion for the sound of every crop, from its first face: (crops, frames, points, dims)."""
    chance = torch.Generator().manual_seed(seed)
    sound = crops.audio[:, 4 * margin : crops.audio.shape[1] - 4 * margin]
    parts = [
        generator.generate(crops.landmarks[start : start + chunk, 0], sound[start : start + chunk], generator=chance).landmarks
        for start in range(0, len(crops), chunk)
    ]
    return torch.cat(parts)


def judge(name: str, judge_pyramid: MultiScaleSyncer, landmarks: Tensor, crops: Batch, *, margin: int) -> Row:
    """One row: the judge's offsets and confidences for ``landmarks`` with the sound of ``crops``."""
    motion = replace(crops, landmarks=landmarks)
    offsets, confidences, _ = judge_offsets(judge_pyramid, motion, margin=margin)
    error = 1.96 * confidences.std(dim=1) / confidences.shape[1] ** 0.5
    return Row(
        name=name,
        confidence=confidences.mean(dim=1).tolist(),
        confidence_error=error.tolist(),
        absolute_offset=offsets.abs().float().mean(dim=1).tolist(),
        within_one=(offsets.abs() <= 1).float().mean(dim=1).tolist(),
        speed=motion_speed(landmarks),
    )


def bounds(judge_pyramid: MultiScaleSyncer, crops: Batch, *, margin: int) -> list[Row]:
    """The rows that need no generator: the truth, a face that stands still, and the motion of another clip."""
    still = crops.landmarks[:, :1].expand_as(crops.landmarks)
    # Half the clips away: neighbours in the list are overlapping pieces of one recording.
    other = crops.landmarks.roll(max(1, len(crops) // 2), dims=0)
    return [
        judge("ground truth", judge_pyramid, crops.landmarks, crops, margin=margin),
        judge("static", judge_pyramid, still, crops, margin=margin),
        judge("shuffled", judge_pyramid, other, crops, margin=margin),
    ]


def table(rows: list[Row]) -> str:
    """The rows as text: confidence (95 % interval over clips), mean absolute offset and speed."""
    levels = len(rows[0].confidence)
    head = f"{'':<22}" + "".join(f"{f'conf. level {level}':>18}" for level in range(levels))
    lines = [head + f"{'|offset| in frames':>26}{'speed':>8}"]
    for row in rows:
        cells = "".join(f"{f'{c:.3f} ± {e:.3f}':>18}" for c, e in zip(row.confidence, row.confidence_error, strict=True))
        offsets = " ".join(f"{offset:.1f}" for offset in row.absolute_offset)
        lines.append(f"{row.name:<22}{cells}{offsets:>26}{row.speed:>8.3f}")
    return "\n".join(lines)


def syncer_lines(name: str, reports: list[LevelReport]) -> str:
    """One line a level: how often the syncers of unseen speakers' clips find the offset."""
    return "\n".join(
        f"{name} level {level}: {report.within_one:6.1%} of {report.clips} clips within one frame, {report.exact:6.1%} exact,"
        f" confidence {report.confidence:.3f}"
        for level, report in enumerate(reports)
    )
