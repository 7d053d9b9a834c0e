"""The sync metrics as torchmetrics classes: update over batches and processes, compute once (extra ``metrics``).

Each class stores a sum and a number of clips, so that the result does not depend on the size of batches and processes. The
functions are in :mod:`avsync.metrics.lse`. Source: ours, over SyncNet's and Wav2Lip's protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from avsync._checks import check_choice, check_positive, checked
from avsync.errors import ArgumentError
from avsync.metrics._torchmetrics import Metric
from avsync.metrics.lse import distance_at_zero, lse_confidence, lse_distance, offset_accuracy, rank_at_zero
from avsync.metrics.offset import EDGES

__all__ = ["DistanceAtZero", "LSEConfidence", "LSEDistance", "OffsetAccuracy", "RankAtZero"]


class _ClipMean(Metric):
    """Mean of a per-clip score over clips."""

    is_differentiable = False
    full_state_update = False
    _score: Callable[..., Tensor]
    total: Tensor
    clips: Tensor

    def __init__(self, *, max_offset: int = 15, lead: int = 0, edges: str = "masked", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive("max_offset", max_offset, allow_zero=True)
        check_positive("lead", lead, allow_zero=True)
        check_choice("edges", edges, EDGES)
        self.options: dict[str, Any] = {"max_offset": max_offset, "lead": lead, "edges": edges}
        self.add_state("total", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("clips", default=torch.tensor(0), dist_reduce_fx="sum")

    @checked
    def update(self, motion: Tensor, audio: Tensor, mask: Tensor | None = None, audio_mask: Tensor | None = None) -> None:
        """Add a batch of clips.

        Args:
            motion: Embeddings of motion windows, (batch, windows, embed).
            audio: Embeddings of audio windows, (batch, audio_windows, embed).
            mask: True for the motion windows that count, (batch, windows).
            audio_mask: True for the audio windows that exist, (batch, audio_windows).
        """
        scores = type(self)._score(motion, audio, mask=mask, audio_mask=audio_mask, reduction="none", **self.options)
        self.total += scores.sum()
        self.clips += scores.numel()

    def compute(self) -> Tensor:
        """Return the mean over all clips so far.

        Raises:
            ArgumentError: No clip was added.
        """
        if int(self.clips) == 0:
            raise ArgumentError("`update`: expected at least one clip before `compute`, got none")
        return self.total / self.clips


class LSEDistance(_ClipMean):
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
        >>> metric = LSEDistance(max_offset=2, lead=2)
        >>> audio = torch.eye(9)[None]
        >>> metric.update(audio[:, 2:7], audio)
        >>> metric.compute()
        tensor(0.)

    Source: Wav2Lip's evaluation (paper section 4.3).
    """

    higher_is_better = False
    _score = staticmethod(lse_distance)


class LSEConfidence(_ClipMean):
    """LSE-C over all clips: :func:`avsync.metrics.lse.lse_confidence`. Higher is better.

    Args:
        max_offset, lead, edges, kwargs: As in :class:`LSEDistance`.

    Raises:
        ArgumentError: An option has an impossible value.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> metric = LSEConfidence(max_offset=2, lead=2)
        >>> audio = torch.eye(9)[None]
        >>> metric(audio[:, 2:7], audio)
        tensor(1.4142)

    Source: Wav2Lip's evaluation (paper section 4.3).
    """

    higher_is_better = True
    _score = staticmethod(lse_confidence)


class DistanceAtZero(_ClipMean):
    """Distance at offset 0 over all clips: :func:`avsync.metrics.lse.distance_at_zero`. Lower is better.

    Args:
        max_offset, lead, edges, kwargs: As in :class:`LSEDistance`.

    Raises:
        ArgumentError: An option has an impossible value.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> metric = DistanceAtZero(max_offset=2, lead=2)
        >>> audio = torch.eye(9)[None]
        >>> metric(audio[:, 1:6], audio)
        tensor(1.4142)

    Source: ours.
    """

    higher_is_better = False
    _score = staticmethod(distance_at_zero)


class RankAtZero(_ClipMean):
    """Mean rank of offset 0 over all clips: :func:`avsync.metrics.lse.rank_at_zero`. Lower is better.

    Args:
        max_offset, lead, edges, kwargs: As in :class:`LSEDistance`.

    Raises:
        ArgumentError: An option has an impossible value.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> metric = RankAtZero(max_offset=2, lead=2)
        >>> audio = torch.eye(9)[None]
        >>> metric(audio[:, 2:7], audio)
        tensor(1.)

    Source: ours.
    """

    higher_is_better = False
    _score = staticmethod(rank_at_zero)


class OffsetAccuracy(_ClipMean):
    """Share of clips with an offset within a tolerance of 0: :func:`avsync.metrics.lse.offset_accuracy`. Higher is better.

    Args:
        tolerance: Largest accepted offset, in frames of the level.
        max_offset, lead, edges, kwargs: As in :class:`LSEDistance`.

    Raises:
        ArgumentError: An option has an impossible value.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> metric = OffsetAccuracy(max_offset=2, lead=2)
        >>> audio = torch.eye(9)[None]
        >>> metric(audio[:, 2:7], audio)
        tensor(1.)

    Source: SyncNet's accuracy (paper section 4.3).
    """

    higher_is_better = True
    _score = staticmethod(offset_accuracy)

    def __init__(self, *, tolerance: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive("tolerance", tolerance, allow_zero=True)
        self.options["tolerance"] = tolerance
