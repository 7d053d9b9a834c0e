"""InfoNCE (equation 2) over all pairs of windows that a batch holds: one matrix product instead of sampled negatives."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist

from avsync._checks import check_counts, check_positive
from avsync.losses._windows import check_mask, check_windows, reduce_windows
from avsync.losses.distributed import (
    gather_each,
    gather_mask,
    log_sum_exp_each_across,
    rank_and_size,
    reduce_windows_each_across,
)
from avsync.losses.negatives import excluded_pairs
from avsync.losses.pairs import LogitScale, inverse_temperature
from avsync.models.syncer.similarity import unit_norm

# Up to this logit scale exp(score) neither overflows nor underflows float32, summed over 10^8 candidates: no maximum is needed.
_LARGEST_PLAIN_SCALE = 64.0


def info_nce_all_pairs(
    audio: Tensor,
    motion: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    exclusion: int = 0,
    mask: Tensor | None = None,
    symmetric: bool = True,
    min_temperature: float | None = None,
    reduction: str = "mean",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """InfoNCE of every window against all windows of all clips, from one matrix product.

    Args:
        audio: (clips, windows, embed).
        motion: (clips, windows, embed).
        temperature: tau, above zero.
        exclusion: Windows of the same clip at distances 1 to this (in windows) are taken out of the negatives.
        mask: (clips, windows), bool, False for padding: neither anchor nor negative.
        symmetric: Average the loss of finding the motion from the audio and that of finding the audio from the motion; otherwise
            only the first.
        min_temperature: If given, a temperature below it is raised to it. A learnable temperature held above 1/64 takes the same
            short cut as a constant one (about a third of the time saved).
        reduction: "none", "mean" (over the windows that count) or "sum".
        group: Processes whose windows serve as negatives too, each with as many clips and windows as this one; for all of them
            ``torch.distributed.group.WORLD``. Value, and gradients once they are averaged over processes, are those of one process
            with all the clips (:mod:`avsync.losses.distributed`).

    Returns:
        A scalar, the same on every process, or this process's (clips, windows) for "none", zero where masked.

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: An unknown reduction, or a temperature that is not positive.

    Example:
        >>> audio = torch.eye(3)[None]
        >>> round(info_nce_all_pairs(audio, audio, temperature=1.0).item(), 4)
        0.5514

    Source: ours, after equation (2): the same loss with all N = clips x windows - 1 negatives that the batch holds.
    """
    (loss,) = info_nce_all_pairs_each(
        [audio],
        [motion],
        temperatures=[temperature],
        exclusion=exclusion,
        masks=[mask],
        symmetric=symmetric,
        min_temperature=min_temperature,
        reduction=reduction,
        group=group,
    )
    return loss


def info_nce_all_pairs_each(
    audio: Sequence[Tensor],
    motion: Sequence[Tensor],
    *,
    temperatures: Sequence[float | Tensor],
    exclusion: int = 0,
    masks: Sequence[Tensor | None] | None = None,
    symmetric: bool = True,
    min_temperature: float | None = None,
    reduction: str = "mean",
    group: dist.ProcessGroup | None = None,
) -> list[Tensor]:
    """:func:`info_nce_all_pairs` of several levels, each by itself, for which processes meet once instead of once a level.

    Args:
        audio: Each level's, (clips, windows, embed).
        motion: Each level's, (clips, windows, embed).
        temperatures: Each level's tau, above zero.
        exclusion: As in :func:`info_nce_all_pairs`, as all that follows.
        masks: Each level's, (clips, windows), bool, or None.
        symmetric: Average both directions.
        min_temperature: The least temperature of every level.
        reduction: "none", "mean" or "sum".
        group: Processes whose windows serve as negatives too.

    Returns:
        One loss a level.

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: An unknown reduction, a temperature that is not positive, or not as many of one argument as of the others.

    Example:
        >>> levels = [torch.eye(3)[None], torch.eye(2)[None]]
        >>> [round(loss.item(), 4) for loss in info_nce_all_pairs_each(levels, levels, temperatures=[1.0, 1.0])]
        [0.5514, 0.3133]

    Source: ours, after equation (2).
    """
    masks = [None] * len(audio) if masks is None else masks
    check_counts(audio=audio, motion=motion, temperatures=temperatures, masks=masks)
    levels = [
        _Level(a, m, temperature=temperature, min_temperature=min_temperature, excluded=_excluded(a, m, exclusion, mask, group))
        for a, m, temperature, mask in zip(audio, motion, temperatures, masks, strict=True)
    ]
    for level, candidates in zip(levels, gather_each([level.motion for level in levels], group), strict=True):
        level.score(candidates, symmetric=symmetric)
    columns: list[Tensor | None] = [None] * len(levels)
    if symmetric:
        moderate = all(level.plain for level in levels)
        columns[:] = log_sum_exp_each_across([level.columns for level in levels], group, moderate=moderate)
    rank, _ = rank_and_size(group)
    losses = [level.losses(column, rank) for level, column in zip(levels, columns, strict=True)]
    return reduce_windows_each_across(losses, masks, reduction, group)


class _Level:
    """All pairs of one level, cut where something of the other processes is needed."""

    def __init__(
        self,
        audio: Tensor,
        motion: Tensor,
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
    audio: Tensor, motion: Tensor, exclusion: int, mask: Tensor | None, group: dist.ProcessGroup | None
) -> Tensor | None:
    """The pairs of this process's windows with all windows that are neither positive nor negative."""
    check_windows(audio, motion)
    num_clips, num_windows, _ = audio.shape
    check_mask(mask, num_clips, num_windows)
    rank, size = rank_and_size(group)
    rows = None if group is None else (rank * num_clips, (rank + 1) * num_clips)
    mask = gather_mask(mask, group)
    return excluded_pairs(size * num_clips, num_windows, exclusion=exclusion, mask=mask, rows=rows, device=audio.device)


def info_nce_within_clips(
    audio: Tensor,
    motion: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    mask: Tensor | None = None,
    symmetric: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """InfoNCE of every window against the other windows of its own clip only.

    These negatives share speaker, microphone and pose with the positive, so nothing but time tells them apart: what an offset
    search asks. Beside :func:`info_nce_all_pairs` they cost next to nothing.

    Args:
        audio: (clips, windows, embed).
        motion: (clips, windows, embed).
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
        >>> round(info_nce_within_clips(audio, audio, temperature=1.0).item(), 4)
        0.5514

    Source: ours, after equation (2) with misaligned windows of the same sequence as negatives (paper section 3.1).
    """
    check_windows(audio, motion)
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
    """:func:`info_nce_all_pairs` with its settings and, if wanted, a learnable temperature.

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
        """tau as it is now: the constant, or a scalar tensor with gradient if it is learnable."""
        return self.temperature if self.logit_scale is None else 1.0 / self.logit_scale()

    def forward(
        self, audio: Tensor, motion: Tensor, mask: Tensor | None = None, group: dist.ProcessGroup | None = None
    ) -> Tensor:
        """(clips, windows, embed) twice to the loss; ``mask`` (clips, windows) is False for padding.

        ``group`` gathers the windows of several processes, as in :func:`info_nce_all_pairs`.
        """
        return info_nce_all_pairs(
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
