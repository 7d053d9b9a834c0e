"""Measures of generated motion per clip, and their means with intervals over seeds and speakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from avsync.audio import SpeechFeatures
from avsync.corpus import Batch, ClipBank
from avsync.landmarks import mouth_opening
from avsync.metrics import face_speed, frechet_motion_distance, height_drift, mouth_opening_quantile
from avsync.models import MultiScaleSyncer
from avsync.training import crop_offsets

EVALUATION_MODELS = {
    "face": "landmarks68-25fps-judge-mfcc",
    "mouth": "landmarks68-25fps-judge-mouth",
    "head": "landmarks68-25fps-pose",
}
"""Evaluation models by the part of the face that they see. None of them guides a generator here. All were trained on the same
speakers as the guide, so they share its data but not its inputs: other motion features, and MFCCs for face and mouth."""
WATCHING = "landmarks68-25fps-judge"
"""Evaluation model of the curves during training, of the same audio features as the guide."""
MARGIN = 40
"""Audio on each side of a clip, in frames, for the offset search."""
RESAMPLES = 2000


class Estimate(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def text(self, decimals: int = 3) -> str:
        """Return the mean and the interval as text."""
        return f"{self.mean:.{decimals}f} [{self.low:.{decimals}f}, {self.high:.{decimals}f}]"


def load_models() -> dict[str, MultiScaleSyncer]:
    """Load the evaluation models."""
    return {part: MultiScaleSyncer.from_pretrained(name) for part, name in EVALUATION_MODELS.items()}


def heard_banks(clips: Any, models: Mapping[str, MultiScaleSyncer]) -> dict[str, ClipBank]:
    """Return a bank of the same clips for every kind of audio features of the models."""
    kinds = sorted({syncers.interface.audio for syncers in models.values()})
    return {kind: ClipBank(clips, features=SpeechFeatures(kind=kind).features) for kind in kinds}


@torch.no_grad()
def measure(made: Tensor, heard: Mapping[str, Batch], models: Mapping[str, MultiScaleSyncer]) -> dict[str, list[float]]:
    """Compute the measures of every clip.

    Args:
        made: Motion, (clips, frames, points, dims).
        heard: The real clips, with ``MARGIN`` frames of audio around them, by kind of audio features.
        models: Evaluation models by part of the face.

    Returns:
        One value per clip and measure: "face0" to "head3" are confidences by part and level.
    """
    found: dict[str, Tensor] = {}
    for part, syncers in models.items():
        motion = replace(heard[syncers.interface.audio], landmarks=made)
        for level, sync in enumerate(crop_offsets(syncers, motion, margin=MARGIN)):
            found[f"{part}{level}"] = sync.confidence
    found |= {"speed": face_speed(made), "height": height_drift(made)}
    found |= {"opening": mouth_opening(made).mean(dim=1), "opening95": mouth_opening_quantile(made)}
    return {name: values.double().tolist() for name, values in found.items()}


def motion_distance(made: Tensor, crops: Batch, *, last: int = 40) -> float:
    """Compute the Frechet motion distance of the last frames of generated clips from those of the real clips."""
    return float(frechet_motion_distance(made[:, -last:], crops.landmarks[:, -last:]))


def estimate(values: Sequence[Sequence[float]], speakers: Sequence[str], *, resamples: int = RESAMPLES) -> Estimate:
    """Compute the mean over seeds and clips, with a bootstrap interval that draws seeds and speakers with replacement.

    Args:
        values: One list per seed, with one value per clip; differences of two methods give an interval of the difference.
        speakers: Speaker of each clip.
        resamples: Number of resamples.

    Returns:
        :class:`Estimate`. With a single seed the interval is over speakers only.
    """
    table = torch.tensor([list(row) for row in values], dtype=torch.float64)
    names = sorted(set(speakers))
    member = torch.tensor([names.index(speaker) for speaker in speakers])
    sums = torch.zeros(len(table), len(names), dtype=torch.float64).index_add_(1, member, table)
    counts = torch.bincount(member, minlength=len(names)).double()
    rng = torch.Generator().manual_seed(0)
    seeds = torch.randint(len(table), (resamples, len(table)), generator=rng)
    drawn = torch.randint(len(names), (resamples, len(names)), generator=rng)
    means = torch.stack([sums[s][:, d].sum() / (len(s) * counts[d].sum()) for s, d in zip(seeds, drawn, strict=True)])
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(float(table.mean()), low, high)


def differences(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return first minus second, seed by seed and clip by clip."""
    return [[a - b for a, b in zip(one, two, strict=True)] for one, two in zip(first, second, strict=False)]
