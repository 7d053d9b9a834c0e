"""Training objectives of syncers: settings, the loss of one level, and the losses of all levels together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from avsync._checks import check_count, check_fields, check_seed, checked
from avsync.errors import ConfigError
from avsync.losses.all_pairs import AllPairsInfoNCE, all_pairs_info_nce, within_clips_info_nce
from avsync.losses.distributed import check_alike, rank_and_size, sum_across
from avsync.losses.info_nce import InfoNCE, chance_level, sampled_info_nce
from avsync.losses.offsets import offset_info_nce
from avsync.losses.pairs import ContrastiveLoss
from avsync.models.syncer.interface import Embeddings

OBJECTIVES = ("all_pairs", "info_nce", "contrastive")
MAX_OFFSET = 15
"""Largest offset of the loss over offsets, in windows to both sides; the metrics search as far."""
LARGEST_SCALE = 60.0
"""Cap of the logit scale over all pairs. Below it the loss needs no maximum of the scores, which saves a third of its time; no
training run comes near it."""


@dataclass(frozen=True)
class SyncerTrainingConfig:
    """Training settings of a pyramid (ours; ``objective="info_nce"`` with 48 negatives is the paper's loss).

    Attributes:
        steps: Optimisation steps.
        batch_size: Clips per batch and process.
        accumulate: Batches whose gradients are averaged for one step. For "contrastive", whose negatives lie in the clip, the
            step equals that of one large batch; the InfoNCE objectives gain no negatives, because those come from one batch
            only.
        frames: Frames of a crop. Longer crops hold more misaligned windows of the same clip, the hard negatives.
        fine_frames: Frames of each crop that level 0 sees. Level 0 has most windows and learns within a few hundred steps, so
            that half of a crop is enough and saves a third of the time.
        first_share: Share of the batches in which motion is measured from the first face of a crop instead of the mean face.
            Batches of both kinds make syncers that serve as a loss, which starts from an observed face, and as a metric.
        short_share: Share of the batches in which motion is measured from the mean face of 5 frames or more somewhere in the
            crop, as in short clips.
        window_share: Share of the batches in which each window of the finest level is a clip of its own, measured from the mean
            face of its own frames and with their velocities, as in a clip of 5 frames. Without such batches, accuracy on short
            clips falls during training.
        ema_decay: Decay of the moving average of the weights (:func:`avsync.training.ema.weight_average`), with which the
            pyramid is evaluated and which it holds at the end; 0 for none.
        learning_rate: Peak rate of AdamW.
        schedule_steps: Steps over which the rate falls, at least ``steps``; None for ``steps``. With more, the run ends while
            its rate is still high, which avoids overfitting, above all with an ``ema_decay``.
        weight_decay: Decay of AdamW.
        warm_up: Steps of linear warm-up before the cosine.
        objective: "all_pairs" (InfoNCE over the whole batch plus InfoNCE within clips), "info_nce" (sampled negatives, the
            paper's) or "contrastive" (SyncNet's, for metric syncers).
        within_clip_weight: Weight of the part within clips in "all_pairs".
        offset_weight: Weight of :func:`avsync.losses.offsets.offset_info_nce`, added to any objective but "contrastive"; 0 for
            none.
        spans: Lengths of the segments over which that loss is taken, in windows; one is drawn for each batch, and cut to the
            number of windows of a level.
        offset_window: Frames that a window counts for in its mean over a segment (``window`` there): 5 for a search that counts
            every frame once, 1 for a search that counts every window once.
        pause_weight: Weight in the loss of a window without speech, from 0 to 1; a window full of speech has weight 1
            (:func:`avsync.training.speech_weights.speech_weights`). All windows stay negatives of the others.
        temperature: Start of the learnable temperature of the InfoNCE objectives.
        num_negatives: Sampled negatives of "info_nce" and "contrastive".
        margin: Margin of "contrastive", a distance between unit vectors; 1.4, nearly the distance of orthogonal vectors, learns
            about twice as fast as the published 1.
        grad_clip: Largest gradient norm; 0 for none.
        seed: Seed of crops, augmentation and negatives.
    """

    steps: int = 600
    batch_size: int = 16
    accumulate: int = 1
    frames: int = 160
    fine_frames: int = 80
    first_share: float = 0.3
    short_share: float = 0.0
    window_share: float = 0.0
    ema_decay: float = 0.0
    learning_rate: float = 1e-3
    schedule_steps: int | None = None
    weight_decay: float = 0.01
    warm_up: int = 50
    objective: str = "all_pairs"
    within_clip_weight: float = 3.0
    offset_weight: float = 0.0
    spans: tuple[int, ...] = (3, 6, 11, 21)
    offset_window: int = 1
    pause_weight: float = 1.0
    temperature: float = 0.07
    num_negatives: int = 48
    margin: float = 1.0
    grad_clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("steps", "batch_size", "accumulate", "frames", "fine_frames", "num_negatives", "offset_window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"`{name}`: expected a finite number of at least 0, got {getattr(self, name)}")
        if self.schedule_steps is not None and self.schedule_steps < self.steps:
            raise ConfigError(
                f"`schedule_steps`: expected at least the {self.steps} of `steps`, or None, got {self.schedule_steps}"
            )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"`ema_decay`: expected a number from 0 to below 1, got {self.ema_decay!r}")
        shares = (self.first_share, self.short_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError(f"`first_share`: expected shares of at most 1 together with `short_share`, got {shares}")
        for name in ("window_share", "pause_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}`: expected a number from 0 to 1, got {getattr(self, name)}")
        if not self.spans or min(self.spans) < 1:
            raise ConfigError(f"`spans`: expected at least one number, all above 0, got {self.spans}")
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"`objective`: expected one of {OBJECTIVES}, got {self.objective!r}")
        check_seed("seed", self.seed)


class LevelObjective(nn.Module):
    """Loss of one level with its temperature, and the chance level of this loss; :func:`level_losses` computes it.

    Args:
        config: The settings, which name the loss.
    """

    @checked
    def __init__(self, *, config: SyncerTrainingConfig) -> None:
        super().__init__()
        self.config = config
        # "none", one number per window, because the weights of the windows depend on the batch.
        if config.objective == "contrastive":
            self.loss: ContrastiveLoss | InfoNCE | AllPairsInfoNCE = ContrastiveLoss(
                margin=config.margin, num_negatives=config.num_negatives, source="in_clip", reduction="none"
            )
        elif config.objective == "info_nce":
            self.loss = InfoNCE(
                num_negatives=config.num_negatives, temperature=config.temperature, learnable=True, reduction="none"
            )
        else:
            self.loss = AllPairsInfoNCE(
                temperature=config.temperature, learnable=True, max_scale=LARGEST_SCALE, reduction="none"
            )

    @checked
    def chance(self, clips: int, windows: int, span: int = 1) -> float:
        """Compute the loss of uninformative embeddings, for windows of equal weights.

        Args:
            clips: Clips of all processes together.
            windows: Windows of a clip.
            span: Windows of the segments of the loss over offsets.
        """
        check_count("clips", clips)
        check_count("windows", windows)
        if self.config.objective == "contrastive":
            # The best single distance d for aligned and misaligned pairs alike minimises (d^2 + (margin - d)^2) / 4.
            return self.config.margin**2 / 8
        offsets = self.config.offset_weight * offset_chance(windows, span) if self.config.offset_weight else 0.0
        if self.config.objective == "info_nce":
            return chance_level(self.config.num_negatives) + offsets
        return math.log(clips * windows) + self.config.within_clip_weight * math.log(windows) + offsets

    def temperature(self) -> float | Tensor:
        """Return the current temperature; "contrastive" has none and returns that of its settings."""
        return self.config.temperature if isinstance(self.loss, ContrastiveLoss) else self.loss.current_temperature()


def offset_chance(windows: int, span: int, max_offset: int = MAX_OFFSET) -> float:
    """Compute the loss over offsets of uninformative embeddings: the mean logarithm of the number of possible offsets.

    Example:
        >>> round(offset_chance(76, 76), 3), round(offset_chance(1000, 1, max_offset=1), 3)  # ln 1 and nearly ln 3
        (0.0, 1.098)
    """
    span = min(span, windows)
    ends = [(start, start + span) for start in range(0, windows - span + 1, span)]
    tries = [min(start, max_offset) + min(windows - end, max_offset) + 1 for start, end in ends]
    return sum(math.log(count) for count in tries) / len(tries)


Term = tuple[Tensor, Tensor]
"""Values and their weights, both (clips, windows)."""


def level_losses(
    objectives: Sequence[LevelObjective],
    embedded: Sequence[Embeddings],
    generator: torch.Generator,
    group: dist.ProcessGroup | None = None,
    *,
    span: int = 1,
    weights: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Compute the training loss of every level, so that processes communicate a few times per step and not per level.

    The InfoNCE objectives take the windows of all processes of ``group`` as negatives; those of "contrastive" and of the loss
    over offsets lie in the same clip.

    Args:
        objectives: One per level, all with the same settings.
        embedded: Each level's embeddings.
        generator: Random generator of the negatives.
        group: The processes; None for this one alone.
        span: Windows of the segments of the loss over offsets, or the whole clip if it is shorter.
        weights: Weights (clips, windows) of each level's windows; None for equal ones.

    Returns:
        (levels,). With a group, the mean of the values of all processes is the loss, and the mean of their gradients its
        gradient; a process does not wait for the values of the others.

    Source: ours.
    """
    config = objectives[0].config
    if config.objective != "all_pairs":  # which checks it itself
        check_alike(group, embedded=[level.motion for level in embedded], mask=[level.mask for level in embedded])
    if config.objective == "contrastive":
        losses = _contrastive(objectives, embedded, generator)
    elif config.objective == "info_nce":
        losses = _sampled(objectives, embedded, generator, group)
    else:
        losses = _all_pairs(objectives, embedded, group)
    counted = [_counted(level, weight) for level, weight in zip(embedded, weights or [None] * len(embedded), strict=True)]
    terms = list(zip(losses, counted, strict=True))
    alike = all(weight is None for weight in weights or []) and all(level.mask is None for level in embedded)
    if not config.offset_weight or config.objective == "contrastive":
        return _weighted_means(terms, group, alike=alike)
    for objective, level, weight in zip(objectives, embedded, counted, strict=True):
        terms.append(_offset_term(objective, level, weight, span))
    of_windows, of_offsets = _weighted_means(terms, group, alike=alike).chunk(2)
    return of_windows + config.offset_weight * of_offsets


def _contrastive(
    objectives: Sequence[LevelObjective], embedded: Sequence[Embeddings], generator: torch.Generator
) -> list[Tensor]:
    """Compute the loss of every window, (clips, windows), of each level; the next two functions do the same."""
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
        # The only window of a clip has no negative in it.
        within_clips_info_nce(level.motion, level.audio, temperature=temperature, mask=level.mask, reduction="none")
        if level.motion.shape[1] > 1
        else losses[0].new_zeros(level.motion.shape[:2])
        for level, temperature in zip(embedded, temperatures, strict=True)
    ]
    return [each + share * inside for each, inside in zip(losses, within, strict=True)]


def _counted(level: Embeddings, weight: Tensor | None) -> Tensor:
    """Return the weight of each window: 0 for padding, else the given weight or 1."""
    if weight is None:
        weight = level.audio.new_ones(level.audio.shape[:2], dtype=torch.float32)
    return weight if level.mask is None else weight * level.mask


def _offset_term(objective: LevelObjective, level: Embeddings, weight: Tensor, span: int) -> Term:
    """Compute the loss over offsets of each segment of ``span`` windows, and the weights of the segments."""
    span = min(span, level.motion.shape[1])
    segment_weight = _segment_weight(weight, level.mask, span)
    if span == level.motion.shape[1]:  # no other offset to compare with
        return torch.zeros_like(segment_weight), segment_weight
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
    return losses, segment_weight


def _segment_weight(weight: Tensor, mask: Tensor | None, span: int) -> Tensor:
    """Compute the weight of each segment of ``span`` windows: the mean over its windows, or 0 if one of them is padding."""
    segments = weight.unfold(1, span, span).mean(dim=2)
    return segments if mask is None else segments * mask.unfold(1, span, span).all(dim=2)


def _weighted_means(terms: Sequence[Term], group: dist.ProcessGroup | None, *, alike: bool) -> Tensor:
    """Compute this process's shares of the means over all processes, times their number; zero where no weight is left.

    With ``alike`` every process holds the same weight, and the sum needs no communication.
    """
    totals = torch.stack([(values * weight).sum() for values, weight in terms])
    counts = torch.stack([weight.sum() for _, weight in terms])
    _, processes = rank_and_size(group)
    everywhere = processes * counts if alike else sum_across([counts], group, checked=True)[0]
    return processes * totals / everywhere.clamp_min(torch.finfo(counts.dtype).tiny)
