"""The sync metrics as torchmetrics classes: update over batches and processes, compute once (extra ``metrics``).

Each class stores a sum and a number of clips, so that the result does not depend on the size of batches and processes. The
functions are in :mod:`avsync.metrics.lse`. Source: ours, over SyncNet's and Wav2Lip's protocols.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from avsync._checks import check_choice, check_positive, checked
from avsync.metrics._torchmetrics import ClipMean
from avsync.metrics.lse import distance_at_zero, lse_confidence, lse_distance, offset_accuracy, rank_at_zero
from avsync.metrics.offset import EDGES

__all__ = ["DistanceAtZero", "LSEConfidence", "LSEDistance", "OffsetAccuracy", "RankAtZero"]


class _OffsetMean(ClipMean):
    """Mean over clips of a score at their best offset."""

    def __init__(self, *, max_offset: int = 15, lead: int = 0, edges: str = "masked", **kwargs: Any) -> None:
        check_positive("max_offset", max_offset, allow_zero=True)
        check_positive("lead", lead, allow_zero=True)
        check_choice("edges", edges, EDGES)
        super().__init__({"max_offset": max_offset, "lead": lead, "edges": edges}, **kwargs)

    @checked
    def update(self, motion: Tensor, audio: Tensor, mask: Tensor | None = None, audio_mask: Tensor | None = None) -> None:
        """Add a batch of clips.

        Args:
            motion: Embeddings of motion windows, (batch, windows, embed).
            audio: Embeddings of audio windows, (batch, audio_windows, embed).
            mask: True for the motion windows that count, (batch, windows).
            audio_mask: True for the audio windows that exist, (batch, audio_windows).
        """
        scores = type(self).score(motion, audio, mask=mask, audio_mask=audio_mask, reduction="none", **self.options)
        self.total += scores.sum()
        self.clips += scores.numel()


class LSEDistance(_OffsetMean):
    """LSE-D over all clips: :func:`avsync.metrics.lse.lse_distance`. Lower is better.

    Args:
        max_offset: Largest offset searched, in frames of the level.
        lead: Audio windows before the first motion window.
        edges: "masked" or "legacy"; see :func:`avsync.metrics.offset.offset_distances`.
        **kwargs: Options of the torchmetrics base class.

    Raises:
        ArgumentError: An option has an impossible value.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> import torch
        >>> metric = LSEDistance(max_offset=2, lead=2)
        >>> audio = torch.eye(9)[None]
        >>> metric.update(audio[:, 2:7], audio)
        >>> metric.compute()
        tensor(0.)

    Source: Wav2Lip's evaluation (paper section 4.3).
    """

    score = staticmethod(lse_distance)


class LSEConfidence(_OffsetMean):
    """LSE-C over all clips: :func:`avsync.metrics.lse.lse_confidence`. Higher is better.

    Args:
        max_offset, lead, edges, kwargs: As in :class:`LSEDistance`.

    Raises:
        ArgumentError: An option has an impossible value.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> import torch
        >>> metric = LSEConfidence(max_offset=2, lead=2)
        >>> audio = torch.eye(9)[None]
        >>> metric(audio[:, 2:7], audio)
        tensor(1.4142)

    Source: Wav2Lip's evaluation (paper section 4.3).
    """

    higher_is_better = True
    score = staticmethod(lse_confidence)


class DistanceAtZero(_OffsetMean):
    """Distance at offset 0 over all clips: :func:`avsync.metrics.lse.distance_at_zero`. Lower is better.

    Args:
        max_offset, lead, edges, kwargs: As in :class:`LSEDistance`.

    Raises:
        ArgumentError: An option has an impossible value.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> import torch
        >>> metric = DistanceAtZero(max_offset=2, lead=2)
        >>> audio = torch.eye(9)[None]
        >>> metric(audio[:, 1:6], audio)
        tensor(1.4142)

    Source: ours.
    """

    score = staticmethod(distance_at_zero)


class RankAtZero(_OffsetMean):
    """Mean rank of offset 0 over all clips: :func:`avsync.metrics.lse.rank_at_zero`. Lower is better.

    Args:
        max_offset, lead, edges, kwargs: As in :class:`LSEDistance`.

    Raises:
        ArgumentError: An option has an impossible value.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> import torch
        >>> metric = RankAtZero(max_offset=2, lead=2)
        >>> audio = torch.eye(9)[None]
        >>> metric(audio[:, 2:7], audio)
        tensor(1.)

    Source: ours.
    """

    score = staticmethod(rank_at_zero)


class OffsetAccuracy(_OffsetMean):
    """Share of clips with an offset within a tolerance of 0: :func:`avsync.metrics.lse.offset_accuracy`. Higher is better.

    Args:
        tolerance: Largest accepted offset, in frames of the level.
        max_offset, lead, edges, kwargs: As in :class:`LSEDistance`.

    Raises:
        ArgumentError: An option has an impossible value.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> import torch
        >>> metric = OffsetAccuracy(max_offset=2, lead=2)
        >>> audio = torch.eye(9)[None]
        >>> metric(audio[:, 2:7], audio)
        tensor(1.)

    Source: SyncNet's accuracy (paper section 4.3).
    """

    higher_is_better = True
    score = staticmethod(offset_accuracy)

    def __init__(self, *, tolerance: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive("tolerance", tolerance, allow_zero=True)
        self.options["tolerance"] = tolerance
