"""How syncers are trained: the settings, and what each level learns by."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from avsync.errors import ConfigError
from avsync.losses.all_pairs import AllPairsInfoNCE
from avsync.losses.info_nce import InfoNCE, chance_level
from avsync.losses.pairs import ContrastiveLoss

OBJECTIVES = ("all_pairs", "info_nce", "margin")
MAX_OFFSET = 15
"""Windows to both sides that the loss over offsets tells zero from, the farthest that the metrics search."""
LARGEST_SCALE = 60.0
"""Cap of the logit scale over all pairs: below the scale from which that loss needs a maximum, a third of its time. No training
comes near it."""


@dataclass(frozen=True)
class SyncerTrainingConfig:
    """How a pyramid of syncers is trained (ours; ``objective="info_nce"`` with 48 negatives is the paper's loss).

    Attributes:
        steps: Optimisation steps.
        batch_size: Clips in a batch, of each process.
        accumulate: Batches whose gradients are averaged for one step. For "margin", whose negatives lie in the clip, that is the step
            of one large batch; the InfoNCE objectives see no more negatives by it, since those come from one batch only.
        frames: Frames of a crop; longer crops hold more misaligned windows of the same clip, the negatives that teach most.
        fine_frames: Frames of each crop that level 0 sees. It has most windows and learns within a few hundred steps, so showing it
            half of a crop saves a third of the time and costs it nothing.
        first_share: Share of the batches in which motion is measured from the first face of a crop instead of the mean face. Some of
            each make syncers that serve both, as a loss that starts from an observed face and as a metric.
        short_share: Share of the batches in which it is measured from the mean face of 5 frames or more somewhere in the crop, as
            it is in clips that last no longer.
        window_share: Share of the batches in which each window of the finest level is a clip of its own: measured from the mean face
            of its own frames, with the velocities that these frames alone show. That is what a syncer is given of a clip of 5
            frames. Without such batches it learns to rely on more, and the longer it learns, the worse it does on short clips.
        ema_decay: Decay of the moving average of the weights (:func:`avsync.training.ema.weight_average`), with which the pyramid is
            evaluated and which it holds in the end; 0 for none.
        learning_rate: Peak rate of AdamW.
        schedule_steps: Steps over which the rate falls, at least ``steps``; None for ``steps``. More of them end a training while its
            rate is still high: where the falling rate would only make it learn its clips by heart, that is the better end, above all
            beside an ``ema_decay``.
        weight_decay: Decay of AdamW.
        warm_up: Steps of linear warm-up before the cosine.
        objective: "all_pairs" (InfoNCE over the whole batch plus InfoNCE within clips), "info_nce" (sampled negatives, the
            paper's) or "margin" (SyncNet's, for metric syncers).
        within_clip_weight: Weight of the part within clips in "all_pairs".
        offset_weight: Weight of :func:`avsync.losses.offsets.offset_info_nce`, added to any objective but "margin"; 0 leaves it out.
        spans: Stretches of windows that it is taken over, one of them drawn for each batch; those longer than a clip's windows
            at a level are cut to them.
        offset_window: Frames that a window counts for in its mean over a stretch (``window`` there): 5 trains for a search that
            counts every frame once, 1 for one that counts every window once.
        pause_weight: How much a window without speech counts in the loss beside one full of it, from 0 to 1
            (:func:`avsync.training.speech_weights.speech_weights`). All windows stay negatives of the others. With 0 clips with speech
            are found more often after as many steps, clips with hardly any less often.
        temperature: Start of the learnable temperature of the InfoNCE objectives.
        num_negatives: Sampled negatives of "info_nce" and "margin".
        margin: Margin of "margin", a distance between unit vectors; 1.4, nearly that of orthogonal ones, learns about twice as fast as
            the published 1.
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
        for name in ("steps", "batch_size", "accumulate", "frames", "fine_frames", "num_negatives", "offset_window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")
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


class LevelObjective(nn.Module):
    """What one level learns by, its temperature included, and what that loss would be at chance.

    :func:`avsync.training.level_losses.level_losses` computes it.

    Args:
        config: Which loss, and its settings.
    """

    def __init__(self, *, config: SyncerTrainingConfig) -> None:
        super().__init__()
        self.config = config
        # "none", one number a window: how much each of them counts is only known beside the batch.
        if config.objective == "margin":
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

    def chance(self, clips: int, windows: int, span: int = 1) -> float:
        """The loss of embeddings that say nothing, of ``clips`` clips of all processes together and stretches of ``span``.

        Of windows that count alike: with weights, what stretches at a clip's ends can try counts a little more or less.
        """
        if self.config.objective == "margin":
            # The best single distance d for aligned and misaligned pairs alike minimises (d^2 + (margin - d)^2) / 4.
            return self.config.margin**2 / 8
        offsets = self.config.offset_weight * offset_chance(windows, span) if self.config.offset_weight else 0.0
        if self.config.objective == "info_nce":
            return chance_level(self.config.num_negatives) + offsets
        return math.log(clips * windows) + self.config.within_clip_weight * math.log(windows) + offsets

    def temperature(self) -> float | Tensor:
        """tau as it is now; "margin" has none and keeps that of its settings."""
        return self.config.temperature if isinstance(self.loss, ContrastiveLoss) else self.loss.current_temperature()


def offset_chance(windows: int, span: int, max_offset: int = MAX_OFFSET) -> float:
    """The loss over offsets of embeddings that say nothing: the mean logarithm of how many offsets stretches can try.

    Example:
        >>> round(offset_chance(76, 76), 3), round(offset_chance(1000, 1, max_offset=1), 3)  # ln 1 and nearly ln 3
        (0.0, 1.098)
    """
    span = min(span, windows)
    ends = [(start, start + span) for start in range(0, windows - span + 1, span)]
    tries = [min(start, max_offset) + min(windows - end, max_offset) + 1 for start, end in ends]
    return sum(math.log(count) for count in tries) / len(tries)
