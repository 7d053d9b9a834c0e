"""Contrastive losses over audio and motion embeddings: InfoNCE (equation 2), sampled or over all pairs.

This module is also the door to its relatives: similarity (equation 3), negatives, and the losses on single pairs (SyncNet's margin,
Wav2Lip's cross-entropy, sigmoid pairs) can all be imported from here. Every loss takes the embeddings of any model, as they are:
normalisation happens inside, in float32 at least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from avsync._checks import check_choice, check_counts, check_floating, check_positive, describe_shape, is_tensor, reduce
from avsync.errors import ShapeError
from avsync.losses._windows import check_indices, check_mask, check_windows, sampled_similarity
from avsync.losses.all_pairs import AllPairsInfoNCE, info_nce_all_pairs, info_nce_all_pairs_each, info_nce_within_clips
from avsync.losses.distributed import gather_each, gather_mask, rank_and_size, reduce_windows_each_across
from avsync.losses.negatives import SOURCES, excluded_pairs, gather_negatives, sample_negatives
from avsync.losses.pairs import (
    CosineBCE,
    LogitScale,
    MarginLoss,
    SigmoidPairLoss,
    cosine_bce,
    inverse_temperature,
    margin_loss,
    sigmoid_pairs,
)
from avsync.models.syncer.similarity import check_pair, cosine_similarity, half_squared_distance, unit_norm

__all__ = [
    "AllPairsInfoNCE",
    "CosineBCE",
    "InfoNCE",
    "LogitScale",
    "MarginLoss",
    "SigmoidPairLoss",
    "chance_level",
    "cosine_bce",
    "cosine_similarity",
    "excluded_pairs",
    "gather_negatives",
    "half_squared_distance",
    "info_nce",
    "info_nce_all_pairs",
    "info_nce_all_pairs_each",
    "info_nce_sampled",
    "info_nce_sampled_each",
    "info_nce_within_clips",
    "margin_loss",
    "sample_negatives",
    "sampled_similarity",
    "sigmoid_pairs",
    "unit_norm",
]


def chance_level(num_negatives: int) -> float:
    """The InfoNCE of a model that cannot tell the positive from ``num_negatives`` negatives: log(N + 1).

    Args:
        num_negatives: Negatives beside the one positive.

    Returns:
        The loss at chance, in nats.

    Raises:
        ArgumentError: ``num_negatives`` is not positive.

    Example:
        >>> round(chance_level(48), 3)
        3.892

    Source: equation (2) with equal scores.
    """
    check_positive("num_negatives", num_negatives)
    return math.log(num_negatives + 1)


def info_nce(
    audio: Tensor, motion: Tensor, negatives: Tensor, *, temperature: float | Tensor = 0.07, reduction: str = "mean"
) -> Tensor:
    """Equation (2): InfoNCE of one positive against given negative motion windows.

    -log( e^{s(a,x+)/tau} / ( e^{s(a,x+)/tau} + sum_n e^{s(a,x-_n)/tau} ) ), written as softplus(logsumexp_n(...) - s(a,x+)/tau), which
    is never negative and loses no digits near zero.

    Args:
        audio: (..., embed).
        motion: (..., embed), the positives.
        negatives: (..., num_negatives, embed).
        temperature: tau, above zero.
        reduction: "none", "mean" or "sum".

    Returns:
        A scalar, or (...) for "none".

    Raises:
        ShapeError: Shapes that do not fit each other, or no negatives.
        ArgumentError: An unknown reduction, or a temperature that is not positive.

    Example:
        >>> audio = torch.tensor([[1.0, 0.0]])
        >>> round(info_nce(audio, audio, torch.tensor([[[0.0, 1.0]]]), temperature=1.0).item(), 4)
        0.3133

    Source: paper section 3.1; its text does not state tau.
    """
    check_pair(motion, audio)
    fits = is_tensor(negatives) and negatives.ndim == audio.ndim + 1
    if not fits or negatives.shape[:-2] + negatives.shape[-1:] != audio.shape or negatives.shape[-2] == 0:
        raise ShapeError(
            f"`negatives`: expected (..., num_negatives, embed) beside {describe_shape(audio)}, at least one negative, "
            f"got {describe_shape(negatives)}"
        )
    check_floating("negatives", negatives)
    scale = inverse_temperature(temperature)
    with torch.autocast(device_type=audio.device.type, enabled=False):
        a = unit_norm(audio)
        positive = (a * unit_norm(motion)).sum(dim=-1)
        scores = (unit_norm(negatives) @ a[..., None]).squeeze(-1)
        return reduce(_nce(positive, scores, scale), reduction)


def info_nce_sampled(
    audio: Tensor,
    motion: Tensor,
    indices: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    mask: Tensor | None = None,
    reduction: str = "mean",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Equation (2) with the negatives given by their indices, as :func:`sample_negatives` draws them.

    Equal to :func:`info_nce` on :func:`gather_negatives`, but mostly without copying the negatives.

    Args:
        audio: (clips, windows, embed).
        motion: (clips, windows, embed).
        indices: (clips, windows, num_negatives), int64, into the flattened (clips * windows) axis; with a ``group``, into that of the
            windows of all processes, one process after the other.
        temperature: tau, above zero.
        mask: (clips, windows), bool, False for windows that do not count.
        reduction: "none", "mean" (over the windows that count) or "sum".
        group: Processes whose windows may be negatives too, each with as many clips and windows as this one
            (:mod:`avsync.losses.distributed`).

    Returns:
        A scalar, the same on every process, or this process's (clips, windows) for "none", zero where masked.

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: An unknown reduction, or a temperature that is not positive.

    Example:
        >>> embeddings = torch.eye(4)[None]
        >>> indices = torch.tensor([[[2], [3], [0], [1]]])
        >>> round(info_nce_sampled(embeddings, embeddings, indices, temperature=1.0).item(), 4)
        0.3133

    Source: paper section 3.1.
    """
    (loss,) = info_nce_sampled_each(
        [audio], [motion], [indices], temperatures=[temperature], masks=[mask], reduction=reduction, group=group
    )
    return loss


def info_nce_sampled_each(
    audio: Sequence[Tensor],
    motion: Sequence[Tensor],
    indices: Sequence[Tensor],
    *,
    temperatures: Sequence[float | Tensor],
    masks: Sequence[Tensor | None] | None = None,
    reduction: str = "mean",
    group: dist.ProcessGroup | None = None,
) -> list[Tensor]:
    """:func:`info_nce_sampled` of several levels, each by itself, for which processes meet once instead of once a level.

    Args:
        audio: Each level's, (clips, windows, embed).
        motion: Each level's, (clips, windows, embed).
        indices: Each level's, (clips, windows, num_negatives), int64.
        temperatures: Each level's tau, above zero.
        masks: Each level's, (clips, windows), bool, or None.
        reduction: As in :func:`info_nce_sampled`.
        group: As in :func:`info_nce_sampled`.

    Returns:
        One loss a level.

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: An unknown reduction, a temperature that is not positive, or not as many of one argument as of the others.

    Example:
        >>> levels, indices = [torch.eye(4)[None]] * 2, [torch.tensor([[[2], [3], [0], [1]]])] * 2
        >>> [round(loss.item(), 4) for loss in info_nce_sampled_each(levels, levels, indices, temperatures=[1.0, 0.5])]
        [0.3133, 0.1269]

    Source: paper section 3.1.
    """
    masks = [None] * len(audio) if masks is None else masks
    check_counts(audio=audio, motion=motion, indices=indices, temperatures=temperatures, masks=masks)
    scales = [inverse_temperature(temperature) for temperature in temperatures]
    if group is None:
        scores = [sampled_similarity(a, m, chosen) for a, m, chosen in zip(audio, motion, indices, strict=True)]
    else:
        scores = _sampled_across(audio, motion, indices, group)
    for a, mask in zip(audio, masks, strict=True):
        check_mask(mask, a.shape[0], a.shape[1])
    losses = [
        _nce(cosine_similarity(m, a), score, scale) for a, m, score, scale in zip(audio, motion, scores, scales, strict=True)
    ]
    return reduce_windows_each_across(losses, masks, reduction, group)


def _sampled_across(
    audio: Sequence[Tensor], motion: Sequence[Tensor], indices: Sequence[Tensor], group: dist.ProcessGroup
) -> list[Tensor]:
    """:func:`sampled_similarity` of each level, with indices into the motion windows of all processes."""
    for a, m, chosen in zip(audio, motion, indices, strict=True):
        check_windows(a, m)
        check_indices(chosen, a.shape[0], a.shape[1])
    with torch.autocast(device_type=audio[0].device.type, enabled=False):
        candidates = gather_each([unit_norm(m) for m in motion], group)
        return [
            (unit_norm(a).flatten(0, 1) @ c.flatten(0, 1).transpose(0, 1)).gather(1, chosen.flatten(0, 1)).reshape(chosen.shape)
            for a, c, chosen in zip(audio, candidates, indices, strict=True)
        ]


class InfoNCE(nn.Module):
    """Equation (2) with negatives drawn anew in every call (:func:`sample_negatives`, :func:`info_nce_sampled`).

    Args:
        num_negatives: Negatives for each window.
        source: "both", "in_clip" or "cross_clip".
        exclusion: Windows of the same clip at this distance or nearer are never negatives.
        temperature: tau; the start value if it is learnable.
        learnable: Learn the temperature (a :class:`LogitScale`).
        reduction: "none", "mean" or "sum".

    Raises:
        ArgumentError: A value out of its range.

    Example:
        >>> audio, motion = torch.randn(2, 4, 10, 8, generator=torch.Generator().manual_seed(0))
        >>> InfoNCE(num_negatives=6)(audio, motion, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([])

    Source: paper section 3.1: 48 negatives. The exclusion zone and the temperature are ours.
    """

    def __init__(
        self,
        *,
        num_negatives: int = 48,
        source: str = "both",
        exclusion: int = 1,
        temperature: float = 0.07,
        learnable: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_choice("source", source, SOURCES)
        check_positive("num_negatives", num_negatives)
        check_positive("temperature", temperature)
        self.num_negatives, self.source, self.exclusion = num_negatives, source, exclusion
        self.temperature, self.reduction = temperature, reduction
        self.logit_scale = LogitScale(initial=1.0 / temperature) if learnable else None

    def forward(
        self,
        audio: Tensor,
        motion: Tensor,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
        indices: Tensor | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> Tensor:
        """(clips, windows, embed) twice to the loss; ``mask`` (clips, windows) is False for padding.

        ``indices`` are negatives drawn beforehand (:func:`sample_negatives`): torch.compile cannot trace a ``generator``. With a
        ``group``, negatives are drawn from the windows of all its processes; with generators in one state on all of them, the draw is
        that of one process with all the clips.
        """
        check_windows(audio, motion)
        if indices is None:
            indices = self.draw(audio.shape[0], audio.shape[1], generator, mask, group, audio.device)
        return info_nce_sampled(
            audio, motion, indices, temperature=self.current_temperature(), mask=mask, reduction=self.reduction, group=group
        )

    def current_temperature(self) -> float | Tensor:
        """tau as it is now: the constant, or a scalar tensor with gradient if it is learnable."""
        return self.temperature if self.logit_scale is None else 1.0 / self.logit_scale()

    def draw(
        self,
        clips: int,
        windows: int,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
        group: dist.ProcessGroup | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Negatives of ``clips`` clips of ``windows`` windows, (clips, windows, num_negatives), as one call takes them."""
        rank, size = rank_and_size(group)
        drawn = sample_negatives(
            size * clips,
            windows,
            self.num_negatives,
            source=self.source,
            exclusion=self.exclusion,
            mask=gather_mask(mask, group),
            generator=generator,
            device=device,
        )
        return drawn[rank * clips : (rank + 1) * clips]


def _nce(positive: Tensor, negatives: Tensor, scale: float | Tensor) -> Tensor:
    """-log of the positive's share, from cosines (...) and (..., num_negatives)."""
    return F.softplus((negatives * scale).logsumexp(dim=-1) - positive * scale)
