"""Overfitting of one batch: a training run that cannot memorise eight crops will not learn a corpus."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avsync._checks import check_positive, check_seed, checked
from avsync.corpus.banks.bank import Batch, CropBank
from avsync.errors import ClipTooShortError
from avsync.losses.all_pairs import all_pairs_info_nce
from avsync.models.syncer.interface import Embeddings
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pyramid import shortest_clip
from avsync.training.doctor.findings import Finding
from avsync.training.doctor.vitals import vital_signs

LEARNT = 0.1
"""A loss below this share of its chance level is learnt by heart."""
ENOUGH_STEPS = 60
"""Fewer steps than this prove nothing against the data: audio corpora need 50 to 130."""
_TEMPERATURE = 0.07
_NEIGHBOURS = 2  # windows that share most of their frames are no fair negatives for a few seconds of training
_FRAMES = 80


class Overfit(NamedTuple):
    """Result of overfitting one batch."""

    crops: int
    """Crops in the batch."""
    steps: int
    """Steps taken."""
    seconds: float
    """Time they took."""
    curves: list[list[float]]
    """Loss over its chance level at each step, one list per level."""
    spreads: list[float]
    """Spread of the embeddings at the end; see :func:`avsync.training.doctor.vitals.vital_signs`."""

    @property
    def ratios(self) -> list[float]:
        """Final loss of each level over its chance level."""
        return [curve[-1] for curve in self.curves]


@checked
def overfit_batch(bank: CropBank, *, seconds: float = 30.0, max_steps: int = 600, crops: int = 8, seed: int = 0) -> Overfit:
    """Train a small pyramid on one batch until the batch is memorised or the time is up.

    Args:
        bank: Source of the batch: crops of 80 frames (or the longest clip) that do not overlap.
        seconds: Longest time, in seconds.
        max_steps: Largest number of steps.
        crops: Crops in the batch, or fewer if the bank has fewer.
        seed: Seed of the crops and the weights; the global random generator is not changed.

    Returns:
        The losses.

    Raises:
        ClipTooShortError: No clip has 9 frames, the shortest length with windows at two levels.

    Source: ours.
    """
    check_positive("seconds", seconds)
    check_positive("max_steps", max_steps)
    check_seed("seed", seed)
    batch = _choose(bank, crops, seed)
    frames = batch.landmarks.shape[1]
    levels = max(level + 1 for level in range(4) if frames >= shortest_clip(5, level))
    sizes = SyncerConfig(
        audio_features=batch.audio.shape[2],
        points=batch.landmarks.shape[2],
        motion_channels=batch.landmarks.shape[3],
        width=64,
        embed=64,
        frame_blocks=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pyramid = SyncerPyramid(
            SyncerPyramidConfig(
                syncer=sizes, num_levels=levels, audio="custom", reference="mean", landmark_dims=batch.landmarks.shape[3]
            )
        )
    mean, std = batch.audio.mean((0, 1)), batch.audio.std((0, 1))
    pyramid.set_audio_statistics(mean, std.clamp_min(1e-3))
    optimizer = torch.optim.AdamW(pyramid.parameters(), lr=3e-3, weight_decay=0.0)
    curves: list[list[float]] = [[] for _ in range(levels)]
    begin, embedded = time.monotonic(), list[Embeddings]()
    for _ in range(max_steps):
        embedded = pyramid(batch.landmarks, batch.audio)
        losses = torch.stack([_loss(level) for level in embedded])
        for level, loss in enumerate(losses.tolist()):
            curves[level].append(loss / _chance(len(batch), embedded[level].motion.shape[1]))
        late = time.monotonic() - begin > seconds
        if late or not bool(losses.isfinite().all()) or max(curve[-1] for curve in curves) < LEARNT / 2:
            break
        optimizer.zero_grad()
        losses.sum().backward()
        nn.utils.clip_grad_norm_(pyramid.parameters(), 5.0)
        optimizer.step()
    signs = vital_signs(embedded)
    spreads = [float(signs[f"spread{level}"]) for level in range(levels)]
    return Overfit(len(batch), len(curves[0]), time.monotonic() - begin, curves, spreads)


def _choose(bank: CropBank, crops: int, seed: int) -> Batch:
    longest = int(bank.lengths.max())
    frames = min(_FRAMES, longest)
    if frames < shortest_clip(5, 1):
        raise ClipTooShortError(f"`bank`: expected a clip of at least {shortest_clip(5, 1)} frames, the longest has {longest}")
    generator = torch.Generator().manual_seed(seed)
    # A draw of clips first: cutting all windows of a large corpus only to keep eight would read all of it.
    sampled = bank.sample(max(crops, 1) * 2, frames, generator=generator)
    rows: list[int] = []
    for row in range(len(sampled)):
        apart = all(
            sampled.clip_index[row] != sampled.clip_index[other]
            or abs(int(sampled.start[row] - sampled.start[other])) >= frames
            for other in rows
        )
        if apart and len(rows) < crops:
            rows.append(row)
    return sampled.select(torch.tensor(rows)).to("cpu")


def _loss(level: Embeddings) -> Tensor:
    return all_pairs_info_nce(level.motion, level.audio, temperature=_TEMPERATURE, exclusion=_NEIGHBOURS)


def _chance(clips: int, windows: int) -> float:
    """Return the loss of uninformative embeddings: the mean logarithm of the number of candidate windows."""
    position = torch.arange(windows)
    left_out = sum(((position - step >= 0).float() + (position + step < windows).float()) for step in range(1, _NEIGHBOURS + 1))
    return float((clips * windows - torch.as_tensor(left_out)).clamp_min(1).log().mean()) or 1.0


def check_overfit(result: Overfit) -> list[Finding]:
    """Return the finding that follows from the result.

    Args:
        result: From :func:`overfit_batch`.

    Returns:
        One finding if every level passed, otherwise one per failed level.
    """
    numbers = {
        "loss_over_chance": result.ratios,
        "steps": result.steps,
        "seconds": round(result.seconds, 2),
        "crops": result.crops,
    }
    findings = []
    for level, (ratio, spread) in enumerate(zip(result.ratios, result.spreads, strict=True)):
        where = (
            f"level {level} did not learn {result.crops} crops by heart: its loss is {ratio:.2f} of its chance level "
            f"after {result.steps} steps"
        )
        if not ratio < float("inf"):
            words = f"the loss of level {level} is not a number: there are NaN or infinities in the landmarks or the features."
            findings.append(Finding("error", "overfit_not_finite", words, numbers=numbers))
        elif ratio > 0.9 and spread < 0.02:
            words = (
                f"{where}, and all windows have the same embedding. Landmarks or features are constant, alike in all "
                "crops, or wrongly standardised."
            )
            findings.append(Finding("error", "overfit_collapse", words, numbers=numbers))
        elif ratio > LEARNT and result.steps < ENOUGH_STEPS:
            words = f"{where}, and the time was over after too few steps. Allow more time (--overfit SECONDS)."
            findings.append(Finding("warning", "overfit_slow", words, numbers=numbers))
        elif ratio > 0.5:
            words = (
                f"{where}. Even shuffled audio can be learned by heart, so the crops must be alike: silence, faces that do not "
                "move, or the same recording under several ids."
            )
            findings.append(Finding("error", "overfit_failed", words, numbers=numbers))
        elif ratio > LEARNT:
            words = (
                f"{where}. The loss was still falling; allow more time, or look for crops that are alike (silence, duplicates)."
            )
            findings.append(Finding("warning", "overfit_slow", words, numbers=numbers))
    if not findings:
        words = (
            f"{result.crops} crops were learned by heart in {result.steps} steps ({result.seconds:.1f} s): the loss of every "
            f"level fell below {100 * LEARNT:g} % of its chance level. Model and training work; this check does not show "
            "whether audio and motion belong together."
        )
        findings.append(Finding("note", "overfit", words, numbers=numbers))
    return findings
