"""InfoNCE (equation 2) over all pairs of windows of a batch: one matrix product instead of sampled negatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch import distributed as dist

from avsync._checks import REDUCTIONS, check_choice, check_count, check_positive, checked, same_precision
from avsync.losses._windows import Level, as_levels, check_negatives, reduce_windows
from avsync.losses.distributed import (
    check_alike,
    gather,
    gather_mask,
    log_sum_exp_across,
    rank_and_size,
    reduce_windows_across,
)
from avsync.losses.negatives import excluded_pairs
from avsync.losses.pairs import LogitScale, inverse_temperature
from avsync.models.syncer.interface import check_mask, check_windows, hide, unit_norm

# Up to this logit scale exp(score) neither overflows nor underflows float32, summed over 10^8 candidates: no maximum needs to
# be subtracted.
_LARGEST_PLAIN_SCALE = 64.0

LARGEST_MATRIX = 2**26
"""Most scores (256 MiB) that are kept for the backward pass; larger matrices are computed twice, in chunks of rows."""
CHUNK = 2**23
"""Scores per chunk on a CPU. On a GPU there are four times as many, because every chunk costs some twenty launches."""


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


@checked
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

    With the cosines :math:`s_{ij}` of audio window :math:`i` and motion window :math:`j` (equation 3), temperature :math:`\tau`
    and :math:`N` windows that count:

    .. math:: L = \frac{1}{N} \sum_i \Big( \frac{1}{2} \log \sum_j e^{s_{ij} / \tau}
        + \frac{1}{2} \log \sum_j e^{s_{ji} / \tau} - \frac{s_{ii}}{\tau} \Big)

    Several levels can be passed together, as lists with one entry per level. Each level has a loss of its own, and processes
    wait for each other once instead of once per level.

    Args:
        motion: (clips, windows, embed), or one such tensor per level.
        audio: (clips, windows, embed), or one such tensor per level.
        temperature: tau, above zero; one for all levels, or one per level.
        exclusion: Windows of the same clip at distances 1 to ``exclusion`` (in windows) are not used as negatives.
        mask: (clips, windows), bool, False for padding, which is neither anchor nor negative; with several levels, one mask or
            None per level.
        symmetric: Average the loss of finding the motion from the audio and the loss of finding the audio from the motion. If
            False, only the motion is searched: each audio window is an anchor, and the motion windows are the candidates.
        min_temperature: A temperature below this value is raised to it. If the minimum is at least 1/64, a learnable
            temperature is as fast as a constant temperature, which saves about a third of the time.
        reduction: "none", "mean" (over the windows that count) or "sum".
        group: Processes whose windows also serve as negatives, each with as many clips and windows as this process; for all
            processes ``torch.distributed.group.WORLD``. The value, and the gradients averaged over the processes, equal those
            of one process with all clips (:mod:`avsync.losses.distributed`).

    Returns:
        A scalar, the same on every process, or this process's (clips, windows) for "none", zero for masked windows. With
        several levels, a list of them.

    Raises:
        ShapeError: The shapes do not match.
        ArgumentError: The reduction is unknown, a temperature is not positive, or the lists differ in length.

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
    """Compute the losses of all levels with at most three synchronisations of the processes."""
    check_choice("reduction", reduction, REDUCTIONS)
    check_count("exclusion", exclusion, 0)
    rank, size = rank_and_size(group)
    for level in given:
        check_windows(level.motion, level.audio)
        clips, windows, _ = level.motion.shape
        check_mask(level.mask, clips, windows, level.motion.device)
        check_negatives(size * clips, windows, exclusion)
    check_alike(group, motion=[level.motion for level in given], mask=[level.mask for level in given])
    scores = [_Scores(level, exclusion=exclusion, min_temperature=min_temperature, group=group) for level in given]
    candidates = gather([score.motion for score in scores], group, checked=True)
    rows, parts = zip(
        *(score.log_sums(others, symmetric=symmetric) for score, others in zip(scores, candidates, strict=True)), strict=True
    )
    columns = list(parts)
    if symmetric:
        moderate = all(score.plain for score in scores)
        columns = log_sum_exp_across(columns, group, moderate=moderate, checked=True)
    losses = []
    for score, row, column in zip(scores, rows, columns, strict=True):
        partition = row
        if symmetric:
            first = rank * row.shape[0]
            partition = 0.5 * (row + column[first : first + row.shape[0]])
        losses.append(partition.reshape(score.motion.shape[:2]) - (score.audio * score.motion).sum(dim=-1))
    return reduce_windows_across(losses, [level.mask for level in given], reduction, group)


class _Scores:
    """Scores of one level: rows are audio windows of this process, columns are motion windows of all processes."""

    def __init__(self, level: Level, *, exclusion: int, min_temperature: float | None, group: dist.ProcessGroup | None) -> None:
        scale, largest = _scale(level.temperature, min_temperature)
        self.plain = largest <= _LARGEST_PLAIN_SCALE
        with torch.autocast(device_type=level.audio.device.type, enabled=False):
            motion, audio = same_precision(level.motion, level.audio)
            self.audio, self.motion = unit_norm(hide(audio, level.mask)) * scale, unit_norm(hide(motion, level.mask))
        self.exclusion, self.mask = exclusion, gather_mask(level.mask, group)
        self.rank, self.size = rank_and_size(group)

    def log_sums(self, candidates: Tensor, *, symmetric: bool) -> tuple[Tensor, Tensor]:
        """Return the logarithms of the sums of exp(score) over rows and, if ``symmetric``, over columns.

        The sum over a column contains only the rows of this process.

        Args:
            candidates: Motion windows of all processes, (clips, windows, embed).
            symmetric: Compute the sums over columns; if False, their tensor is empty.

        Returns:
            (rows,) and (columns,) or (0,).
        """
        clips, windows, _ = self.audio.shape
        part = _Part(clips * self.rank, windows, candidates.shape[0], self.exclusion, plain=self.plain, symmetric=symmetric)
        with torch.autocast(device_type=self.audio.device.type, enabled=False):
            if clips * windows * candidates.shape[0] * windows > LARGEST_MATRIX:
                return _ChunkedLogSums.apply(self.audio, candidates, self.mask, part)
            return part.log_sums(part.scores(self.audio, candidates, self.mask, 0))


class _Part(NamedTuple):
    """Scores that a process computes."""

    first_clip: int
    windows: int
    all_clips: int
    exclusion: int
    plain: bool
    symmetric: bool

    def scores(
        self, audio: Tensor, candidates: Tensor, mask: Tensor | None, start: int, memory: Tensor | None = None
    ) -> Tensor:
        """Compute the scores of ``audio`` (clips, windows, embed), clips of this process from number ``start`` on.

        They are written into ``memory`` (:meth:`memory`), if it is given.
        """
        out = None if memory is None else memory[: audio.shape[0] * audio.shape[1]]
        logits = torch.mm(audio.flatten(0, 1), candidates.flatten(0, 1).transpose(0, 1), out=out)
        first = self.first_clip + start
        excluded = excluded_pairs(
            self.all_clips,
            self.windows,
            exclusion=self.exclusion,
            mask=mask,
            rows=(first, first + audio.shape[0]),
            device=audio.device,
        )
        # The value is finite, because a column may hold only excluded pairs on this process and other pairs on another process.
        return logits if excluded is None else logits.masked_fill_(excluded, torch.finfo(logits.dtype).min / 2)

    def log_sums(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms of the sums of exp(score) over rows and columns; overwrites ``scores``."""
        nothing = scores.new_empty(0)
        if not self.plain:
            return scores.logsumexp(dim=1), scores.logsumexp(dim=0) if self.symmetric else nothing
        weights = scores.exp_()  # shared by rows and columns; two calls of logsumexp would compute it twice
        rows = weights.sum(dim=1).log()
        if not self.symmetric:
            return rows, nothing
        # The sum is clamped, because the logarithm of a column without a pair on this process would have no gradient.
        return rows, weights.sum(dim=0).clamp_min(torch.finfo(weights.dtype).tiny).log()

    def chunks(self, audio: Tensor) -> list[tuple[int, int]]:
        """Return ranges (start, end) of clips with at most ``CHUNK`` scores (on a GPU ``4 * CHUNK``), or with one clip."""
        scores = CHUNK if audio.device.type == "cpu" else 4 * CHUNK
        step = max(1, scores // (self.windows * self.all_clips * self.windows))
        return [(start, min(start + step, len(audio))) for start in range(0, len(audio), step)]

    def memory(self, audio: Tensor) -> Tensor:
        """Return memory for the scores of any chunk; new memory for every chunk would scatter over the heap of the process."""
        start, end = self.chunks(audio)[0]
        return audio.new_empty((end - start) * self.windows, self.all_clips * self.windows)


class _ChunkedLogSums(torch.autograd.Function):
    """Chunked form of :meth:`_Part.log_sums`, which never holds the whole matrix of scores.

    The scores are computed in chunks of rows, and again in the backward pass. Memory grows with the number of windows instead
    of its square.
    """

    @staticmethod
    def forward(context: Any, audio: Tensor, candidates: Tensor, mask: Tensor | None, part: _Part) -> tuple[Tensor, Tensor]:
        rows, largest, total = audio.new_empty(audio.shape[0] * audio.shape[1]), None, None
        memory = part.memory(audio)
        for start, end in part.chunks(audio):
            own = slice(start * audio.shape[1], end * audio.shape[1])
            scores = part.scores(audio[start:end], candidates, mask, start, memory)
            if part.plain:
                weights = scores.exp_()
                torch.sum(weights, dim=1, out=rows[own]).log_()
                if part.symmetric:
                    total = weights.sum(dim=0) if total is None else total.add_(weights.sum(dim=0))
                continue
            torch.logsumexp(scores, dim=1, out=rows[own])
            if part.symmetric:
                top = scores.amax(dim=0)
                top = top if largest is None else torch.maximum(top, largest)
                sums = scores.sub_(top).exp_().sum(dim=0)
                total = sums if total is None or largest is None else total * (largest - top).exp() + sums
                largest = top
        columns = audio.new_empty(0)
        if total is not None:
            columns = total.clamp_min(torch.finfo(total.dtype).tiny).log()
            columns = columns if largest is None else columns + largest
        context.part, context.mask = part, mask
        context.save_for_backward(audio, candidates, rows, columns)
        return rows, columns

    @staticmethod
    def backward(context: Any, row_gradient: Tensor, column_gradient: Tensor) -> tuple[Tensor | None, ...]:
        audio, candidates, rows, columns = context.saved_tensors
        part, windows = context.part, audio.shape[1]
        if torch.is_grad_enabled():  # a second derivative may follow, which needs the whole matrix
            sums = part.log_sums(part.scores(audio, candidates, context.mask, 0))
            pairs = [pair for pair in zip(sums, (row_gradient, column_gradient), strict=True) if pair[0].requires_grad]
            inputs = [x for x in (audio, candidates) if x.requires_grad]
            outputs, given = zip(*pairs, strict=True)
            found = iter(torch.autograd.grad(outputs, inputs, given, create_graph=True))
            return *(next(found) if x.requires_grad else None for x in (audio, candidates)), None, None
        # With exp(score) as weights: weights * exp(-row) * gradient, and likewise for columns; a column without a pair has
        # none.
        if part.symmetric:
            smallest = math.log(torch.finfo(columns.dtype).tiny) + 1
            if part.plain:
                column_gradient = torch.where(columns > smallest, column_gradient, 0.0)
                column_factor = column_gradient * torch.where(columns > smallest, -columns, 0.0).exp()
        flat = candidates.flatten(0, 1)
        audio_gradient, candidate_gradient = torch.empty_like(audio.flatten(0, 1)), torch.zeros_like(flat)
        memory, more = part.memory(audio), part.memory(audio)
        for start, end in part.chunks(audio):
            own = slice(start * windows, end * windows)
            scores = part.scores(audio[start:end], candidates, context.mask, start, memory)
            other = more[: len(scores)]
            if part.plain:
                factor = (row_gradient[own] * (-rows[own]).exp())[:, None]
                if part.symmetric:
                    factor = torch.add(factor, column_factor, out=other)
                share = scores.exp_().mul_(factor)
            else:
                share = torch.sub(scores, rows[own, None], out=other).exp_().mul_(row_gradient[own, None])
                if part.symmetric:
                    share += scores.sub_(columns).exp_().mul_(column_gradient)
            torch.mm(share, flat, out=audio_gradient[own])
            candidate_gradient.addmm_(share.transpose(0, 1), audio[start:end].flatten(0, 1))
        return audio_gradient.view_as(audio), candidate_gradient.view_as(candidates), None, None


def _scale(temperature: float | Tensor, min_temperature: float | None) -> tuple[float | Tensor, float]:
    """Return 1 / tau and its upper limit."""
    scale = inverse_temperature(temperature)
    largest = scale if isinstance(scale, float) else math.inf
    if min_temperature is None:
        return scale, largest
    check_positive("min_temperature", min_temperature)
    largest = min(largest, 1.0 / min_temperature)
    return min(scale, largest) if isinstance(scale, float) else scale.clamp(max=largest), largest


@checked
def within_clips_info_nce(
    motion: Tensor,
    audio: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    mask: Tensor | None = None,
    symmetric: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """Compute the InfoNCE of every window against only the other windows of its own clip.

    These negatives share the speaker, the microphone and the pose with the positive, and differ from it only in time, as in an
    offset search. The additional cost is negligible compared to :func:`all_pairs_info_nce`.

    Args:
        motion: (clips, windows, embed).
        audio: (clips, windows, embed).
        temperature: tau, above zero.
        mask: (clips, windows), bool, False for padding, which is neither anchor nor negative.
        symmetric: Average the loss of finding the motion from the audio and the loss of finding the audio from the motion. If
            False, only the motion is searched.
        reduction: "none", "mean" (over the windows that count) or "sum".

    Returns:
        A scalar, or (clips, windows) for "none", zero for masked windows.

    Raises:
        ShapeError: The shapes do not match.
        ArgumentError: The reduction is unknown, or the temperature is not positive.

    Example:
        >>> audio = torch.eye(3).expand(2, 3, 3)
        >>> round(within_clips_info_nce(audio, audio, temperature=1.0).item(), 4)
        0.5514

    Source: ours, after equation (2) with misaligned windows of the same sequence as negatives (paper section 3.1).
    """
    check_windows(motion, audio)
    check_mask(mask, motion.shape[0], motion.shape[1], motion.device)
    check_choice("reduction", reduction, REDUCTIONS)
    check_negatives(1, motion.shape[1], 0)
    scale = inverse_temperature(temperature)
    motion, audio = hide(motion, mask), hide(audio, mask)
    with torch.autocast(device_type=audio.device.type, enabled=False):
        motion, audio = same_precision(motion, audio)
        logits = (unit_norm(audio) * scale) @ unit_norm(motion).transpose(1, 2)
        if mask is not None:
            # The floor is finite, because a clip of padding alone would otherwise give NaN in value and gradient.
            logits = logits.masked_fill(~(mask[:, :, None] & mask[:, None, :]), torch.finfo(logits.dtype).min / 2)
        partition = logits.logsumexp(dim=2)
        other = logits.logsumexp(dim=1) if symmetric else partition
        losses = 0.5 * (partition + other) - logits.diagonal(dim1=1, dim2=2)
    return reduce_windows(losses, mask, reduction)


class AllPairsInfoNCE(nn.Module):
    """InfoNCE loss over all pairs, with an optional learnable temperature; see :func:`all_pairs_info_nce`.

    Args:
        temperature: tau; the initial value if ``learnable`` is True.
        learnable: Learn the temperature with a :class:`LogitScale`.
        max_scale: Upper limit of the learnable logit scale 1 / tau; with at most 64, the loss is about a third faster.
        exclusion: Windows of the same clip at distances 1 to ``exclusion`` (in windows) are not used as negatives.
        symmetric: Average both directions.
        reduction: "none", "mean" or "sum".

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> audio = torch.eye(3)[None]
        >>> round(AllPairsInfoNCE(temperature=1.0)(audio, audio).item(), 4)
        0.5514

    Source: ours, after equation (2).
    """

    @checked
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
        check_count("exclusion", exclusion, 0)
        check_choice("reduction", reduction, REDUCTIONS)
        self.temperature, self.max_scale = temperature, max_scale
        self.exclusion, self.symmetric, self.reduction = exclusion, symmetric, reduction
        self.logit_scale = LogitScale(initial=1.0 / temperature, maximum=max_scale) if learnable else None

    def current_temperature(self) -> float | Tensor:
        """Return the temperature: the constant, or a scalar tensor with gradient if it is learnable."""
        return self.temperature if self.logit_scale is None else 1.0 / self.logit_scale()

    @checked
    def forward(
        self, motion: Tensor, audio: Tensor, mask: Tensor | None = None, group: dist.ProcessGroup | None = None
    ) -> Tensor:
        """Compute the loss of (clips, windows, embed) motion and audio; ``mask`` (clips, windows) is False for padding.

        ``group`` gathers the windows of several processes, as in :func:`all_pairs_info_nce`.
        """
        return all_pairs_info_nce(
            motion,
            audio,
            temperature=self.current_temperature(),
            exclusion=self.exclusion,
            mask=mask,
            symmetric=self.symmetric,
            min_temperature=None if self.logit_scale is None else 1.0 / self.max_scale,
            reduction=self.reduction,
            group=group,
        )
