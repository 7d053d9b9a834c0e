"""Offset accuracy of syncers on crops that are in sync."""

from __future__ import annotations

from typing import NamedTuple

import torch

from avsync._checks import check_count, checked
from avsync.corpus.banks.bank import Batch
from avsync.metrics.multi_scale import MAX_OFFSETS, multi_scale_offset
from avsync.metrics.offset import SyncOffset
from avsync.models.syncer.interface import MultiScaleSyncer


class LevelReport(NamedTuple):
    """Offset accuracy of one level."""

    clips: int
    """Number of clips."""
    within_one: float
    """Share of clips whose offset is within one frame of the level."""
    exact: float
    """Share of clips whose offset is exactly 0."""
    confidence: float
    """Mean confidence."""
    distance: float
    """Mean distance at the best offset (LSE-D)."""


@torch.no_grad()
@checked
def crop_offsets(
    syncers: MultiScaleSyncer, crops: Batch, *, margin: int, max_offsets: tuple[int, ...] = MAX_OFFSETS, chunk: int = 128
) -> list[SyncOffset]:
    """Compute the offset of every crop at every level.

    Args:
        syncers: A pyramid or an ensemble.
        crops: Crops with ``margin`` frames of audio around them, as :meth:`avsync.corpus.banks.bank.CropBank.windows` cuts
            them.
        margin: That margin, in motion frames.
        max_offsets: Largest offset searched in both directions, in frames of the level; one value per level.
        chunk: Number of crops in one call of the syncers.

    Returns:
        One :class:`avsync.metrics.offset.SyncOffset` per level, whose tensors are (crops,).
    """
    check_count("chunk", chunk)
    chunks = [
        multi_scale_offset(
            syncers,
            crops.landmarks[start : start + chunk],
            crops.audio[start : start + chunk],
            margin=margin,
            max_offsets=max_offsets,
        )
        for start in range(0, crops.landmarks.shape[0], chunk)
    ]
    return [SyncOffset(*map(torch.cat, zip(*level, strict=True))) for level in zip(*chunks, strict=True)]


@checked
def evaluate_syncers(
    syncers: MultiScaleSyncer, crops: Batch, *, margin: int, max_offsets: tuple[int, ...] = MAX_OFFSETS
) -> list[LevelReport]:
    """Compute offset accuracy and confidence on crops that are in sync.

    Args:
        syncers: A pyramid or an ensemble; evaluated in eval mode, then set back to its mode.
        crops: Crops with ``margin`` frames of audio around them.
        margin: That margin, in motion frames.
        max_offsets: Largest offset searched in both directions, in frames of the level; one value per level.

    Returns:
        One :class:`LevelReport` per level.
    """
    training = syncers.training
    syncers.eval()
    found = crop_offsets(syncers, crops, margin=margin, max_offsets=max_offsets)
    syncers.train(training)
    return [
        LevelReport(
            clips=level.offset_frames.numel(),
            within_one=float(level.within(1).float().mean()),
            exact=float(level.within(0).float().mean()),
            confidence=float(level.confidence.mean()),
            distance=float(level.distance.mean()),
        )
        for level in found
    ]
