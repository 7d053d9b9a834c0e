"""Evaluation of motion: synchrony by the guiding syncers and by an independent evaluation model, and geometry of the faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from avsync.corpus import Batch, ClipBank
from avsync.landmarks import displacement, pause_speed
from avsync.metrics import bootstrap_interval, landmark_error, sync_offset, velocity_error
from avsync.models import MultiScaleSyncer
from avsync.training import crop_offsets

SHORT = (5, 15)
"""Frames of the short segments whose offset is searched at level 0; clips of 80 frames are too easy to rank good motion."""
SEARCH = 15

GEOMETRY = {
    "error": "distance from the true points, % of the face's height",
    "velocity_error": "length of the difference from the true velocity, % of the face's height per frame",
    "off_basis": "root mean square of the part outside the principal motions of real faces, % of the face's height",
    "jitter": "mean length of the second difference, % of the face's height",
    "speed": "mean speed, % of the face's height per frame",
}


class Evaluated(NamedTuple):
    """Results of one training run, clip by clip; ``"guide"``: guiding syncers, ``"judge"``: evaluation model."""

    name: str
    confidence: dict[str, Tensor]
    """By model, (clips, levels)."""
    within_one: dict[str, Tensor]
    """By model, (clips, levels): 1 if the offset is found within one frame of the level, else 0."""
    short: dict[str, Tensor]
    """By model, (clips, lengths): share of segments of each length of :data:`SHORT` whose offset is within one frame."""
    geometry: dict[str, Tensor]
    """By measure, (clips,)."""
    pause_speed: Tensor
    """Mean speed of the mouth's opening in pauses of speech, in face heights per second, (clips,); NaN without a pause."""


class Row(NamedTuple):
    """Line of the tables: all runs of an arm; an interval is (mean, low, high), 95 % over speakers."""

    name: str
    seeds: int
    confidence: dict[str, list[tuple[float, float, float]]]
    within_one: dict[str, list[tuple[float, float, float]]]
    short: dict[str, list[tuple[float, float, float]]]
    geometry: dict[str, tuple[float, float, float]]
    seed_confidence: dict[str, list[list[float]]]
    """By model, the mean of each run at each level."""


class Difference(NamedTuple):
    """Difference of two arms on the same clips by the evaluation model; intervals as in :class:`Row`."""

    name: str
    confidence: list[tuple[float, float, float]]
    within_one: list[tuple[float, float, float]]
    short: list[tuple[float, float, float]]

    def text(self) -> str:
        """Format as two lines."""
        confidence = ", ".join(f"{m:+.3f} ({low:+.3f} to {high:+.3f})" for m, low, high in self.confidence)
        shares = [
            ", ".join(f"{100 * m:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})" for m, low, high in of)
            for of in (self.within_one, self.short)
        ]
        return (
            f"{self.name}, by the evaluation model: confidence {confidence}\n  within one frame, in percentage points: "
            f"{shares[0]};"
            f" segments of {SHORT[0]} and {SHORT[1]} frames {shares[1]}"
        )


@torch.no_grad()
def evaluate_motion(
    name: str,
    pyramids: Mapping[str, MultiScaleSyncer],
    landmarks: Tensor,
    heard: Mapping[str, Batch],
    *,
    basis: Tensor,
    margin: int,
) -> Evaluated:
    """Evaluate motion (clips, frames, points, dims) against audio and true motion.

    Args:
        name: Name of the arm.
        pyramids: Models that evaluate, by role.
        landmarks: The motion.
        heard: The true clips with ``margin`` frames of audio around them, by the kind of the audio features.
        basis: Principal motions of real faces, (components, points, dims).
        margin: Frames of audio around a clip.
    """
    crops = next(iter(heard.values()))  # they differ in their audio features alone
    confidence, within_one, short = {}, {}, {}
    for role, pyramid in pyramids.items():
        motion = replace(heard[pyramid.interface.audio], landmarks=landmarks)
        levels = crop_offsets(pyramid, motion, margin=margin)
        confidence[role] = torch.stack([level.confidence for level in levels], dim=1)
        within_one[role] = torch.stack([level.within(1) for level in levels], dim=1).float()
        segments = [short_share(pyramid, landmarks, motion.audio, frames, margin=margin) for frames in SHORT]
        short[role] = torch.stack(segments, dim=1)
    paused = pause_speed(landmarks, crops.speech, reference=crops.landmarks[:, 0])
    return Evaluated(name, confidence, within_one, short, geometry(landmarks, crops.landmarks, basis), paused)


def short_share(
    pyramid: MultiScaleSyncer, landmarks: Tensor, audio: Tensor, frames: int, *, margin: int, stride: int = 20
) -> Tensor:
    """Compute the share of each clip's segments, one every ``stride`` frames, whose offset is found at level 0, (clips,)."""
    found = []
    for start in range(0, landmarks.shape[1] - frames + 1, stride):
        begin = margin + start - SEARCH
        segment = audio[:, 4 * begin : 4 * (begin + frames + 2 * SEARCH)]
        motion = normalize(pyramid.embed_motion(landmarks[:, start : start + frames], levels=[0])[0], dim=-1)
        heard = normalize(pyramid.embed_audio(segment, levels=[0])[0], dim=-1)
        found.append(sync_offset(motion, heard, max_offset=SEARCH, lead=SEARCH).within(1))
    return torch.stack(found, dim=1).float().mean(dim=1)


def geometry(landmarks: Tensor, truth: Tensor, basis: Tensor) -> dict[str, Tensor]:
    """Compute each of :data:`GEOMETRY` for every clip."""
    moved = displacement(landmarks, reference=truth[:, 0], scale=1.0)
    directions = torch.linalg.qr(basis.flatten(1).mT).Q
    flat = moved.flatten(2)
    outside = (flat - flat @ directions @ directions.mT).unflatten(-1, moved.shape[2:])
    step = moved.diff(dim=1)
    common: Any = {"unit": "face", "reduction": "none"}
    return {
        "error": 100 * landmark_error(landmarks, truth, **common),
        "velocity_error": 100 * velocity_error(landmarks, truth, **common),
        "off_basis": 100 * outside.square().sum(dim=-1).mean(dim=(1, 2)).sqrt(),
        "jitter": 100 * step.diff(dim=1).norm(dim=-1).mean(dim=(1, 2)),
        "speed": 100 * step.norm(dim=-1).mean(dim=(1, 2)),
    }


def _speakers(bank: ClipBank, crops: Batch) -> list[str]:
    return [bank.clip_speakers[clip] for clip in crops.clip_index.tolist()]


def _intervals(values: Tensor, groups: Sequence[str]) -> list[tuple[float, float, float]]:
    """Compute one interval per column of (clips, columns)."""
    found = bootstrap_interval(values, groups=groups)
    return list(zip(*(part.tolist() for part in found), strict=True))


def pooled(evaluated: Sequence[Evaluated], bank: ClipBank, crops: Batch) -> Row:
    """Pool the runs of one arm: every clip counts with its mean over runs; the bootstrap draws speakers."""
    groups = _speakers(bank, crops)
    roles = evaluated[0].confidence

    def mean(of: list[Tensor]) -> Tensor:
        return torch.stack(of).mean(dim=0)

    return Row(
        name=evaluated[0].name,
        seeds=len(evaluated),
        confidence={role: _intervals(mean([one.confidence[role] for one in evaluated]), groups) for role in roles},
        within_one={role: _intervals(mean([one.within_one[role] for one in evaluated]), groups) for role in roles},
        short={role: _intervals(mean([one.short[role] for one in evaluated]), groups) for role in roles},
        geometry={
            name: _intervals(mean([one.geometry[name] for one in evaluated])[:, None], groups)[0]
            for name in evaluated[0].geometry
        },
        seed_confidence={role: [one.confidence[role].mean(dim=0).tolist() for one in evaluated] for role in roles},
    )


def differences(
    first: str, second: str, results: Mapping[str, Sequence[Evaluated]], bank: ClipBank, crops: Batch
) -> Difference:
    """Compute the difference of ``second`` and ``first``, clip by clip."""
    groups = _speakers(bank, crops)

    def more(field: str) -> list[tuple[float, float, float]]:
        means = [torch.stack([getattr(one, field)["judge"] for one in results[arm]]).mean(dim=0) for arm in (first, second)]
        return _intervals(means[1] - means[0], groups)

    return Difference(f"{second} minus {first}", more("confidence"), more("within_one"), more("short"))


def pause_speeds(results: Mapping[str, Sequence[Evaluated]], crops: Batch) -> dict[str, list[float]]:
    """Compute the mean speed of the mouth's opening in pauses, of real mouths ("truth") and of each run of each arm."""
    real = pause_speed(crops.landmarks, crops.speech, reference=crops.landmarks[:, 0])
    means = {name: [float(one.pause_speed.nanmean()) for one in runs] for name, runs in results.items()}
    return {"truth": [float(real.nanmean())], **means}


def pause_table(speeds: Mapping[str, Sequence[float]]) -> str:
    """Format the speed in pauses, in face heights per second, and its ratio to that of real mouths, one column per run."""
    real = speeds["truth"][0]
    cells = {name: "".join(f"{f'{speed:.3f} ({speed / real:.2f})':>16}" for speed in runs) for name, runs in speeds.items()}
    return "\n".join(["speed of the mouth's opening in pauses", *(f"{name:<8}{text}" for name, text in cells.items())])


def sync_table(rows: Sequence[Row]) -> str:
    """Format confidence with its interval and the share within one frame, by guide and evaluation model, level by level."""
    levels = range(len(rows[0].confidence["judge"]))
    head = f"{'':<8}{'by':<7}" + "".join(f"{f'confidence {level}':>24}" for level in levels)
    head += f"{'within one frame, %':>26}{f'{SHORT[0]}, {SHORT[1]} frames, %':>18}"
    lines = [head]
    for row in rows:
        for role in row.confidence:
            cells = "".join(f"{f'{m:.3f} ({low:.3f} to {high:.3f})':>24}" for m, low, high in row.confidence[role])
            shares = " ".join(f"{100 * m:5.1f}" for m, _, _ in row.within_one[role])
            segments = " ".join(f"{100 * m:5.1f}" for m, _, _ in row.short[role])
            lines.append(f"{row.name:<8}{role:<7}{cells}{shares:>26}{segments:>18}")
    return "\n".join(lines)


def geometry_table(rows: Sequence[Row]) -> str:
    """Format the measures of :data:`GEOMETRY`, in % of the face's height, with their intervals."""
    lines = [f"{'':<8}" + "".join(f"{name.replace('_', ' '):>24}" for name in GEOMETRY)]
    for row in rows:
        cells = "".join(
            f"{f'{m:.2f} ({low:.2f} to {high:.2f})':>24}" for m, low, high in (row.geometry[name] for name in GEOMETRY)
        )
        lines.append(f"{row.name:<8}{cells}")
    return "\n".join(lines)
