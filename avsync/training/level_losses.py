"""The losses that train the levels of a pyramid, all together, so that processes meet a few times a step and not a few times a level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch import distributed as dist

from avsync.losses.all_pairs import all_pairs_info_nce, within_clips_info_nce
from avsync.losses.distributed import rank_and_size, sum_across
from avsync.losses.info_nce import InfoNCE, sampled_info_nce
from avsync.losses.offsets import offset_info_nce
from avsync.models.syncer.interface import Embeddings
from avsync.training.objectives import LARGEST_SCALE, MAX_OFFSET, LevelObjective

Term = tuple[Tensor, Tensor]
"""Values and how much each of them counts, (clips, windows) both."""


def level_losses(
    objectives: Sequence[LevelObjective],
    embedded: Sequence[Embeddings],
    generator: torch.Generator,
    group: dist.ProcessGroup | None = None,
    *,
    span: int = 1,
    weights: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """The training loss of every level.

    The InfoNCE objectives take the windows of all processes of ``group`` as negatives; those of "margin" lie in the clip, and so do
    those of the loss over offsets.

    Args:
        objectives: One a level, all of the same settings.
        embedded: Each level's embeddings.
        generator: Source of the negatives that are drawn.
        group: The processes; None for this one alone.
        span: Windows of the stretches that the loss over offsets looks at, or the whole clip where it is shorter.
        weights: How much each level's windows (clips, windows) count, all alike if None.

    Returns:
        (levels,). With a group, the mean of what its processes get is the loss, and the mean of their gradients its gradient: what
        the others got only a log wants to know, so nobody waits for it.

    Source: ours.
    """
    config = objectives[0].config
    if config.objective == "margin":
        losses = _margin(objectives, embedded, generator)
    elif config.objective == "info_nce":
        losses = _sampled(objectives, embedded, generator, group)
    else:
        losses = _all_pairs(objectives, embedded, group)
    counted = [_counted(level, weight) for level, weight in zip(embedded, weights or [None] * len(embedded), strict=True)]
    terms = list(zip(losses, counted, strict=True))
    alike = all(weight is None for weight in weights or []) and all(level.mask is None for level in embedded)
    if not config.offset_weight or config.objective == "margin":
        return _weighted_means(terms, group, alike=alike)
    for objective, level, weight in zip(objectives, embedded, counted, strict=True):
        terms.append(_offset_term(objective, level, weight, span))
    of_windows, of_offsets = _weighted_means(terms, group, alike=alike).chunk(2)
    return of_windows + config.offset_weight * of_offsets


def _margin(objectives: Sequence[LevelObjective], embedded: Sequence[Embeddings], generator: torch.Generator) -> list[Tensor]:
    """The loss of every window, (clips, windows), of each level, as the next two."""
    return [
        objective.loss(level.motion, level.audio, generator=generator, mask=level.mask)
        for objective, level in zip(objectives, embedded, strict=True)
    ]


def _sampled(
    objectives: Sequence[LevelObjective],
    embedded: Sequence[Embeddings],
    generator: torch.Generator,
    group: dist.ProcessGroup | None,
) -> list[Tensor]:
    indices: list[Tensor] = []
    for objective, level in zip(objectives, embedded, strict=True):
        loss = cast("InfoNCE", objective.loss)
        clips, windows, _ = level.motion.shape
        indices.append(loss.draw(clips, windows, generator, level.mask, group, level.motion.device))
    return sampled_info_nce(
        [level.motion for level in embedded],
        [level.audio for level in embedded],
        indices,
        temperature=[objective.temperature() for objective in objectives],
        mask=[level.mask for level in embedded],
        reduction="none",
        group=group,
    )


def _all_pairs(
    objectives: Sequence[LevelObjective], embedded: Sequence[Embeddings], group: dist.ProcessGroup | None
) -> list[Tensor]:
    temperatures = [objective.temperature() for objective in objectives]
    losses = all_pairs_info_nce(
        [level.motion for level in embedded],
        [level.audio for level in embedded],
        temperature=temperatures,
        mask=[level.mask for level in embedded],
        min_temperature=1.0 / LARGEST_SCALE,
        reduction="none",
        group=group,
    )
    share = objectives[0].config.within_clip_weight
    if not share:
        return losses
    within = [
        within_clips_info_nce(level.motion, level.audio, temperature=temperature, mask=level.mask, reduction="none")
        for level, temperature in zip(embedded, temperatures, strict=True)
    ]
    return [each + share * inside for each, inside in zip(losses, within, strict=True)]


def _counted(level: Embeddings, weight: Tensor | None) -> Tensor:
    """How much each window counts: padding nothing, the others their weight or 1."""
    if weight is None:
        weight = level.audio.new_ones(level.audio.shape[:2], dtype=torch.float32)
    return weight if level.mask is None else weight * level.mask


def _offset_term(objective: LevelObjective, level: Embeddings, weight: Tensor, span: int) -> Term:
    """The loss over offsets of each stretch of ``span`` windows, and how much the stretches count."""
    span = min(span, level.motion.shape[1])
    losses = offset_info_nce(
        level.motion,
        level.audio,
        max_offset=MAX_OFFSET,
        span=span,
        window=objective.config.offset_window,
        temperature=objective.temperature(),
        mask=level.mask,
        reduction="none",
    )
    return losses, _stretch_weight(weight, level.mask, span)


def _stretch_weight(weight: Tensor, mask: Tensor | None, span: int) -> Tensor:
    """Weight of each stretch of ``span`` windows: the mean of its windows', or nothing where one of them is padding."""
    stretches = weight.unfold(1, span, span).mean(dim=2)
    return stretches if mask is None else stretches * mask.unfold(1, span, span).all(dim=2)


def _weighted_means(terms: Sequence[Term], group: dist.ProcessGroup | None, *, alike: bool) -> Tensor:
    """This process's shares of the means over all processes, times their number; zero where no weight is left.

    ``alike`` says that every process holds the same weight, which then need not be asked for.
    """
    totals = torch.stack([(values * weight).sum() for values, weight in terms])
    counts = torch.stack([weight.sum() for _, weight in terms])
    _, processes = rank_and_size(group)
    everywhere = processes * counts if alike else sum_across([counts], group)[0]
    return processes * totals / everywhere.clamp_min(torch.finfo(counts.dtype).tiny)
