"""Scores of a set of clips: LSE-D, LSE-C, distance and rank at offset 0, and offset accuracy.

LSE-D ("lip-sync error - distance", lower is better) is the mean over clips of the smallest mean distance, LSE-C
("- confidence", higher is better) the mean confidence. Both tolerate a constant delay of the clip. :func:`distance_at_zero` and
:func:`rank_at_zero` do not. All are in the unit of the embeddings, and comparable only between scores of the same syncers at
the same level with the same ``max_offset`` and ``edges``. A clip without a score (no valid window, or NaN) makes the mean NaN,
so exclude such clips beforehand.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from avsync._checks import check_positive, checked, reduce
from avsync.metrics.offset import sync_offset


@checked
def lse_distance(motion: Tensor, audio: Tensor, *, reduction: str = "mean", **options: Any) -> Tensor:
    """Compute LSE-D, the mean distance of windows at each clip's best offset. Lower is better.

    Args:
        motion: Embeddings of motion windows, (batch, windows, embed).
        audio: Embeddings of audio windows, (batch, audio_windows, embed).
        reduction: "mean" or "sum" over clips, or "none" for (batch,).
        **options: ``max_offset``, ``lead``, ``edges``, ``mask``, ``audio_mask`` of :func:`avsync.metrics.offset.sync_offset`.

    Returns:
        A number, or (batch,).

    Raises:
        ArgumentError: ``reduction`` is none of these; and as :func:`avsync.metrics.offset.sync_offset`.

    Example:
        >>> import torch
        >>> audio = torch.eye(9)[None]
        >>> lse_distance(audio[:, 2:7], audio, max_offset=2, lead=2)
        tensor(0.)

    Source: Wav2Lip's evaluation (paper section 4.3), from SyncNet's protocol.
    """
    return reduce(sync_offset(motion, audio, **options).distance, reduction)


@checked
def lse_confidence(motion: Tensor, audio: Tensor, *, reduction: str = "mean", **options: Any) -> Tensor:
    """Compute LSE-C, the median minus the minimum of each clip's mean distances over offsets. Higher is better.

    Args:
        motion, audio, reduction, options: As in :func:`lse_distance`.

    Returns:
        A number, or (batch,).

    Raises:
        ArgumentError: As :func:`lse_distance`.

    Example:
        >>> import torch
        >>> audio = torch.eye(9)[None]
        >>> lse_confidence(audio[:, 2:7], audio, max_offset=2, lead=2)
        tensor(1.4142)

    Source: Wav2Lip's evaluation (paper section 4.3), from SyncNet's protocol.
    """
    return reduce(sync_offset(motion, audio, **options).confidence, reduction)


@checked
def distance_at_zero(motion: Tensor, audio: Tensor, *, reduction: str = "mean", **options: Any) -> Tensor:
    """Compute the mean distance of windows at offset 0, the strict LSE-D. Lower is better.

    Args:
        motion, audio, reduction, options: As in :func:`lse_distance`.

    Returns:
        A number, or (batch,).

    Raises:
        ArgumentError: As :func:`lse_distance`.

    Example:
        >>> import torch
        >>> audio = torch.eye(9)[None]
        >>> distance_at_zero(audio[:, 1:6], audio, max_offset=2, lead=2)  # one window early
        tensor(1.4142)

    Source: ours.
    """
    return reduce(sync_offset(motion, audio, **options).distance_at_zero, reduction)


@checked
def rank_at_zero(motion: Tensor, audio: Tensor, *, reduction: str = "mean", **options: Any) -> Tensor:
    """Compute the rank of offset 0 among all offsets by distance, 1 being best; ties count against it. Lower is better.

    Args:
        motion, audio, reduction, options: As in :func:`lse_distance`.

    Returns:
        A number, or (batch,), floating point; NaN for a clip that has no score. Random offsets have a mean rank of
        ``max_offset + 1``.

    Raises:
        ArgumentError: As :func:`lse_distance`.

    Example:
        >>> import torch
        >>> audio = torch.eye(9)[None]
        >>> rank_at_zero(audio[:, 2:7], audio, max_offset=2, lead=2)
        tensor(1.)

    Source: ours.
    """
    found = sync_offset(motion, audio, **options)
    rank = found.rank_at_zero.to(found.distance.dtype).masked_fill(found.rank_at_zero == 0, float("nan"))
    return reduce(rank, reduction)


@checked
def offset_accuracy(motion: Tensor, audio: Tensor, *, tolerance: int = 1, reduction: str = "mean", **options: Any) -> Tensor:
    """Compute the share of clips whose best offset is at most ``tolerance`` frames from 0. Higher is better.

    Clips with equal distances at all offsets count as wrong; see :meth:`avsync.metrics.offset.SyncOffset.within`.

    Args:
        motion, audio, reduction, options: As in :func:`lse_distance`.
        tolerance: Largest accepted offset, in frames of the level.

    Returns:
        A number, or (batch,) of 0 and 1; NaN for a clip that has no score. The chance level is
        ``(2 tolerance + 1) / (2 max_offset + 1)``.

    Raises:
        ArgumentError: ``tolerance`` is negative; and as :func:`lse_distance`.

    Example:
        >>> import torch
        >>> audio = torch.eye(9)[None]
        >>> offset_accuracy(audio[:, 0:5], audio, max_offset=2, lead=2)  # two windows early
        tensor(0.)

    Source: SyncNet's accuracy (paper section 4.3).
    """
    check_positive("tolerance", tolerance, allow_zero=True)
    found = sync_offset(motion, audio, **options)
    right = found.within(tolerance).to(found.distance.dtype)
    return reduce(right.masked_fill(found.distance.isnan(), float("nan")), reduction)
