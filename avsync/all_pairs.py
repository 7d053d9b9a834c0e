"""InfoNCE (equation 2) over all pairs of windows that a batch holds: one matrix product instead of sampled negatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch import distributed as dist

from avsync._checks import check_positive
from avsync.distributed import gather, gather_mask, rank_and_size, reduce_windows_across, sum_across
from avsync.negatives import excluded_pairs
from avsync.pair_losses import LogitScale, inverse_temperature
from avsync.similarity import check_mask, check_windows, reduce_windows, unit_norm

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
            with all the clips (:mod:`avsync.distributed`).

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
    check_windows(audio, motion)
    check_mask(mask, *audio.shape[:2])
    excluded = _excluded(audio, exclusion, mask, group)
    scale = inverse_temperature(temperature)
    largest = scale if isinstance(scale, float) else math.inf
    if min_temperature is not None:
        check_positive("min_temperature", min_temperature)
        largest = min(largest, 1.0 / min_temperature)
        scale = min(scale, largest) if isinstance(scale, float) else scale.clamp(max=largest)
    with torch.autocast(device_type=audio.device.type, enabled=False):
        a, m = unit_norm(audio) * scale, unit_norm(motion)
        positive = (a * m).sum(dim=-1)
        # With a group, this process's rows of the matrix; no process holds the whole of it.
        logits = a.flatten(0, 1) @ gather(m, group).flatten(0, 1).transpose(0, 1)
        if excluded is not None:
            # Finite: a column may hold nothing but excluded pairs here and have its others on another process.
            logits = logits.masked_fill(excluded, torch.finfo(logits.dtype).min / 2)
        if largest <= _LARGEST_PLAIN_SCALE:
            weights = logits.exp()  # shared by rows and columns, which two calls of logsumexp would each compute anew
            partition = weights.sum(dim=1).log()
            other = sum_across(weights.sum(dim=0), group).log() if symmetric else partition
        else:
            partition = logits.logsumexp(dim=1)
            other = gather(logits.logsumexp(dim=0)[None], group).logsumexp(dim=0) if symmetric else partition
        if group is not None and symmetric:
            first = rank_and_size(group)[0] * partition.shape[0]
            other = other[first : first + partition.shape[0]]
        losses = 0.5 * (partition + other).reshape(positive.shape) - positive
        return reduce_windows_across(losses, mask, reduction, group)


def _excluded(audio: Tensor, exclusion: int, mask: Tensor | None, group: dist.ProcessGroup | None) -> Tensor | None:
    """The pairs of this process's windows with all windows that are neither positive nor negative."""
    num_clips, num_windows, _ = audio.shape
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
