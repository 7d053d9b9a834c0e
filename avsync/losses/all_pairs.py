"""InfoNCE (equation 2) over all pairs of windows that a batch holds: one matrix product instead of sampled negatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor, nn
from torch import distributed as dist

from avsync._checks import check_positive
from avsync.losses._windows import Level, as_levels, check_mask, check_windows, reduce_windows
from avsync.losses.distributed import (
    gather,
    gather_mask,
    log_sum_exp_across,
    rank_and_size,
    reduce_windows_across,
)
from avsync.losses.negatives import excluded_pairs
from avsync.losses.pairs import LogitScale, inverse_temperature
from avsync.models.syncer.similarity import unit_norm

# Up to this logit scale exp(score) neither overflows nor underflows float32, summed over 10^8 candidates: no maximum is needed.
_LARGEST_PLAIN_SCALE = 64.0


@overload
def all_pairs_info_nce(
    motion: Tensor,
    audio: Tensor,
    *,
    temperature: float | Tensor = ...,
    exclusion: int = ...,
    mask: Tensor | None = ...,
    symmetric: bool = ...,
    min_temperature: float | None = ...,
    reduction: str = ...,
    group: dist.ProcessGroup | None = ...,
) -> Tensor: ...


@overload
def all_pairs_info_nce(
    motion: Sequence[Tensor],
    audio: Sequence[Tensor],
    *,
    temperature: float | Tensor | Sequence[float | Tensor] = ...,
    exclusion: int = ...,
    mask: Sequence[Tensor | None] | None = ...,
    symmetric: bool = ...,
    min_temperature: float | None = ...,
    reduction: str = ...,
    group: dist.ProcessGroup | None = ...,
) -> list[Tensor]: ...


def all_pairs_info_nce(
    motion: Tensor | Sequence[Tensor],
    audio: Tensor | Sequence[Tensor],
    *,
    temperature: float | Tensor | Sequence[float | Tensor] = 0.07,
    exclusion: int = 0,
    mask: Tensor | Sequence[Tensor | None] | None = None,
    symmetric: bool = True,
    min_temperature: float | None = None,
    reduction: str = "mean",
    group: dist.ProcessGroup | None = None,
) -> Tensor | list[Tensor]:
    r"""Compute the InfoNCE of every window against all windows of all clips, from one matrix product.

    With the cosines :math:`s_{ij}` of audio window :math:`i` and motion window :math:`j` (equation 3), temperature :math:`\tau` and
    :math:`N` windows that count:

    .. math:: L = \frac{1}{2N} \sum_i \Big( \log \sum_j e^{s_{ij} / \tau} + \log \sum_j e^{s_{ji} / \tau} \Big) - \frac{s_{ii}}{\tau}

    Several levels can be passed together, as lists with one entry per level. Each level has a loss of its own, and processes wait
    for each other once instead of once per level.

    Args:
        motion: (clips, windows, embed), or one such tensor per level.
        audio: (clips, windows, embed), or one such tensor per level.
        temperature: tau, above zero; one for all levels, or one per level.
        exclusion: Windows of the same clip at distances 1 to ``exclusion`` (in windows) are not used as negatives.
        mask: (clips, windows), bool, False for padding, which is neither anchor nor negative; with several levels, one mask or None
            per level.
        symmetric: Average the loss of finding the motion from the audio and the loss of finding the audio from the motion. If False,
            only the motion is searched: each audio window is an anchor, and the motion windows are the candidates.
        min_temperature: A temperature below this value is raised to it. A learnable temperature held above 1/64 takes the same short
            cut as a constant one, which saves about a third of the time.
        reduction: "none", "mean" (over the windows that count) or "sum".
        group: Processes whose windows also serve as negatives, each with as many clips and windows as this one; for all processes
            ``torch.distributed.group.WORLD``. The value, and the gradients averaged over the processes, equal those of one process
            with all the clips (:mod:`avsync.losses.distributed`).

    Returns:
        A scalar, the same on every process, or this process's (clips, windows) for "none", zero where masked. With several levels,
        a list of them.

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: An unknown reduction, a temperature that is not positive, or lists that differ in length.

    Example:
        >>> embeddings = torch.eye(3)[None]
        >>> round(all_pairs_info_nce(embeddings, embeddings, temperature=1.0).item(), 4)
        0.5514
        >>> levels = [torch.eye(3)[None], torch.eye(2)[None]]
        >>> [round(loss.item(), 4) for loss in all_pairs_info_nce(levels, levels, temperature=1.0)]
        [0.5514, 0.3133]

    Source: ours, after equation (2): the same loss with all N = clips x windows - 1 negatives of the batch.
    """
    levels, single = as_levels(motion, audio, temperature=temperature, mask=mask)
    losses = _all_pairs(
        levels,
        exclusion=exclusion,
        symmetric=symmetric,
        min_temperature=min_temperature,
        reduction=reduction,
        group=group,
    )
    return losses[0] if single else losses


def _all_pairs(
    given: Sequence[Level],
    *,
    exclusion: int,
    symmetric: bool,
    min_temperature: float | None,
    reduction: str,
    group: dist.ProcessGroup | None,
) -> list[Tensor]:
    levels = [
        _Level(
            level.motion,
            level.audio,
            temperature=level.temperature,
            min_temperature=min_temperature,
            excluded=_excluded(level.motion, level.audio, exclusion, level.mask, group),
        )
        for level in given
    ]
    for level, candidates in zip(levels, gather([level.motion for level in levels], group), strict=True):
        level.score(candidates, symmetric=symmetric)
    columns: list[Tensor | None] = [None] * len(levels)
    if symmetric:
        moderate = all(level.plain for level in levels)
        columns[:] = log_sum_exp_across([level.columns for level in levels], group, moderate=moderate)
    rank, _ = rank_and_size(group)
    losses = [level.losses(column, rank) for level, column in zip(levels, columns, strict=True)]
    return reduce_windows_across(losses, [level.mask for level in given], reduction, group)


class _Level:
    """All pairs of one level, cut where something of the other processes is needed."""

    def __init__(
        self,
        motion: Tensor,
        audio: Tensor,
        *,
        temperature: float | Tensor,
        min_temperature: float | None,
        excluded: Tensor | None,
    ) -> None:
        scale, largest = _scale(temperature, min_temperature)
        self.excluded, self.plain = excluded, largest <= _LARGEST_PLAIN_SCALE
        with torch.autocast(device_type=audio.device.type, enabled=False):
            self.audio, self.motion = unit_norm(audio) * scale, unit_norm(motion)

    def score(self, candidates: Tensor, *, symmetric: bool) -> None:
        """Score this process's windows against the motion windows of all, (clips, windows, embed): its rows of the matrix.

        Leaves the logarithms of the sums of ``rows`` and, for a symmetric loss, of what they add to ``columns``.
        """
        with torch.autocast(device_type=self.audio.device.type, enabled=False):
            logits = self.audio.flatten(0, 1) @ candidates.flatten(0, 1).transpose(0, 1)
        if self.excluded is not None:
            # Finite: a column may hold nothing but excluded pairs here and have its others on another process.
            logits = logits.masked_fill(self.excluded, torch.finfo(logits.dtype).min / 2)
        if self.plain:
            weights = logits.exp_()  # shared by rows and columns; two calls of logsumexp would compute it twice
            self.rows = weights.sum(dim=1).log()
            if symmetric:
                # The logarithm of a column without a pair here, see above, would have no gradient.
                self.columns = weights.sum(dim=0).clamp_min(torch.finfo(weights.dtype).tiny).log()
        else:
            self.rows = logits.logsumexp(dim=1)
            if symmetric:
                self.columns = logits.logsumexp(dim=0)

    def losses(self, columns: Tensor | None, rank: int) -> Tensor:
        """(clips, windows) of this process, from the sums of whole columns; None for the loss of the rows alone."""
        partition = self.rows
        if columns is not None:
            first = rank * partition.shape[0]
            partition = 0.5 * (partition + columns[first : first + partition.shape[0]])
        return partition.reshape(self.motion.shape[:2]) - (self.audio * self.motion).sum(dim=-1)


def _scale(temperature: float | Tensor, min_temperature: float | None) -> tuple[float | Tensor, float]:
    """1 / tau, and the largest that it can become."""
    scale = inverse_temperature(temperature)
    largest = scale if isinstance(scale, float) else math.inf
    if min_temperature is None:
        return scale, largest
    check_positive("min_temperature", min_temperature)
    largest = min(largest, 1.0 / min_temperature)
    return min(scale, largest) if isinstance(scale, float) else scale.clamp(max=largest), largest


def _excluded(
    motion: Tensor, audio: Tensor, exclusion: int, mask: Tensor | None, group: dist.ProcessGroup | None
) -> Tensor | None:
    """The pairs of this process's windows with all windows that are neither positive nor negative."""
    check_windows(motion, audio)
    num_clips, num_windows, _ = audio.shape
    check_mask(mask, num_clips, num_windows)
    rank, size = rank_and_size(group)
    rows = None if group is None else (rank * num_clips, (rank + 1) * num_clips)
    mask = gather_mask(mask, group)
    return excluded_pairs(size * num_clips, num_windows, exclusion=exclusion, mask=mask, rows=rows, device=audio.device)


def within_clips_info_nce(
    motion: Tensor,
    audio: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    mask: Tensor | None = None,
    symmetric: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """InfoNCE of every window against the other windows of its own clip only.

    These negatives share speaker, microphone and pose with the positive, so nothing but time tells them apart: what an offset
    search asks. Beside :func:`all_pairs_info_nce` they cost next to nothing.

    Args:
        motion: (clips, windows, embed).
        audio: (clips, windows, embed).
        temperature: tau, above zero.
        mask: (clips, windows), bool, False for padding: neither anchor nor negative.
        symmetric: Average the loss of finding the motion from the audio and that of finding the audio from the motion; otherwise
            only the first.
        reduction: "none", "mean" (over the windows that count) or "sum".

    Returns:
        A scalar, or (clips, windows) for "none", zero where masked.

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: An unknown reduction, or a temperature that is not positive.

    Example:
        >>> audio = torch.eye(3).expand(2, 3, 3)
        >>> round(within_clips_info_nce(audio, audio, temperature=1.0).item(), 4)
        0.5514

    Source: ours, after equation (2) with misaligned windows of the same sequence as negatives (paper section 3.1).
    """
    check_windows(motion, audio)
    check_mask(mask, *audio.shape[:2])
    scale = inverse_temperature(temperature)
    with torch.autocast(device_type=audio.device.type, enabled=False):
        logits = (unit_norm(audio) * scale) @ unit_norm(motion).transpose(1, 2)
        if mask is not None:
            # A finite floor: a row of a clip that is all padding would otherwise be NaN, and its gradient too.
            logits = logits.masked_fill(~(mask[:, :, None] & mask[:, None, :]), torch.finfo(logits.dtype).min / 2)
        partition = logits.logsumexp(dim=2)
        other = logits.logsumexp(dim=1) if symmetric else partition
        losses = 0.5 * (partition + other) - logits.diagonal(dim1=1, dim2=2)
    return reduce_windows(losses, mask, reduction)


class AllPairsInfoNCE(nn.Module):
    """:func:`all_pairs_info_nce` with its settings and, if wanted, a learnable temperature.

    Args:
        temperature: tau; the start value if it is learnable.
        learnable: Learn the temperature (a :class:`LogitScale`).
        max_scale: Cap of the learnable logit scale 1 / tau; up to 64 the loss is about a third faster.
        exclusion: Windows of the same clip at distances 1 to this are taken out of the negatives.
        symmetric: Average both directions.
        reduction: "none", "mean" or "sum".

    Raises:
        ArgumentError: A value out of its range.

    Example:
        >>> audio = torch.eye(3)[None]
        >>> round(AllPairsInfoNCE(temperature=1.0)(audio, audio).item(), 4)
        0.5514

    Source: ours, after equation (2).
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        learnable: bool = False,
        max_scale: float = 100.0,
        exclusion: int = 0,
        symmetric: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_positive("max_scale", max_scale)
        self.temperature, self.max_scale = temperature, max_scale
        self.exclusion, self.symmetric, self.reduction = exclusion, symmetric, reduction
        self.logit_scale = LogitScale(initial=1.0 / temperature, maximum=max_scale) if learnable else None

    def current_temperature(self) -> float | Tensor:
        """Return the temperature: the constant, or a scalar tensor with gradient if it is learnable."""
        return self.temperature if self.logit_scale is None else 1.0 / self.logit_scale()

    def forward(
        self, motion: Tensor, audio: Tensor, mask: Tensor | None = None, group: dist.ProcessGroup | None = None
    ) -> Tensor:
        """(clips, windows, embed) twice to the loss; ``mask`` (clips, windows) is False for padding.

        ``group`` gathers the windows of several processes, as in :func:`all_pairs_info_nce`.
        """
        return all_pairs_info_nce(
            audio,
            motion,
            temperature=self.current_temperature(),
            exclusion=self.exclusion,
            mask=mask,
            symmetric=self.symmetric,
            min_temperature=None if self.logit_scale is None else 1.0 / self.max_scale,
            reduction=self.reduction,
            group=group,
        )
