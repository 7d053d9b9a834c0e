"""Coarse levels that begin where finer ones ended.

Speech has no scale of its own: what a syncer has learnt of windows of 400 ms holds, played slower, for windows of 800 ms, of which a
corpus has half as many. A level that begins with the finer level's weights is better before its first step than one trained from
nothing, and few steps at a small rate are then enough, too few to learn the training clips by heart. Several such runs stay so close
to where they began that the mean of their weights is a network too, and a better one than any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.crops import CropBank
from avsync.errors import ConfigError
from avsync.models.syncer.pyramid import SyncerPyramid
from avsync.training.engine import History
from avsync.training.objectives import SyncerTrainingConfig
from avsync.training.syncers import train_syncers


@dataclass(frozen=True)
class WarmStartConfig:
    """Settings of levels that begin with the weights of the finer level (all ours).

    Attributes:
        first_level: The finest of them; the levels below it are trained from nothing.
        steps: Optimisation steps of each of them.
        learning_rate: Peak rate of each of them.
        runs: Training runs of each of them, on other crops, the mean of whose weights is kept.
    """

    first_level: int = 2
    steps: int = 120
    learning_rate: float = 4e-4
    runs: int = 1

    def __post_init__(self) -> None:
        for name in ("first_level", "steps", "runs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")


def train_finest_first(
    pyramid: SyncerPyramid,
    bank: CropBank,
    config: SyncerTrainingConfig,
    warm_start: WarmStartConfig,
    *,
    fabric: Any,
    augment: AugmentConfig | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    name: str = "syncers",
    **options: Any,
) -> dict[str, History]:
    """Train fine levels from nothing, then each coarser one from the weights of the level before it.

    Args:
        pyramid: Trained in place.
        bank: Clips to train on.
        config: How the fine levels are trained, and, but for steps and rate, the coarse ones.
        warm_start: Which levels are coarse, and their steps and rate.
        fabric: A launched Lightning Fabric (:func:`avsync.training.processes.make_fabric`).
        augment: How clips are varied; None for not at all.
        checkpoint: Folder in which each stage keeps its state in a folder of its own; None keeps nothing.
        resume: Go on where an earlier run stopped; stages that had ended are read from their last checkpoint.
        evaluate: Called with the step number of the stage; what it returns is logged.
        name: What the progress bar is called.
        **options: Further ones of :func:`avsync.training.syncers.train_syncers`, for every stage.

    Returns:
        The history of each stage, by its name: "fine", "level2-run0", ...

    Raises:
        ConfigError: Levels that begin with a finer one's weights differ from it in ``audio_context`` or ``width``.

    Source: ours; means of the weights of several runs are known as model soups.
    """
    fine = list(range(min(warm_start.first_level, pyramid.num_levels)))
    if len({pyramid.config.level_syncer(level) for level in range(fine[-1], pyramid.num_levels)}) > 1:
        raise ConfigError(
            f"`audio_context` and `width`: expected one number each from level {fine[-1]} on, whose weights the coarser levels"
            f" begin with, got {pyramid.config.audio_context} and {pyramid.config.width}"
        )
    histories: dict[str, History] = {}

    def train(stage: str, levels: list[int], settings: SyncerTrainingConfig) -> None:
        histories[stage] = train_syncers(
            pyramid,
            bank,
            settings,
            fabric=fabric,
            augment=augment,
            levels=levels,
            checkpoint=None if checkpoint is None else Path(checkpoint) / stage,
            resume=resume,
            evaluate=evaluate,
            name=f"{name} {stage}",
            **options,
        )

    train("fine", fine, config)
    later = replace(config, steps=warm_start.steps, schedule_steps=None, learning_rate=warm_start.learning_rate)
    for level in range(len(fine), pyramid.num_levels):
        finer = _weights(pyramid, level - 1)
        found = []
        for run in range(warm_start.runs):
            pyramid.syncers[level].load_state_dict(finer)
            # Another seed: other crops than the stages before have seen.
            train(f"level{level}-run{run}", [level], replace(later, seed=config.seed + 10 * level + run))
            found.append(_weights(pyramid, level))
        mean = {key: torch.stack([weights[key] for weights in found]).mean(dim=0) for key in finer}
        pyramid.syncers[level].load_state_dict(mean)
    return histories


def _weights(pyramid: SyncerPyramid, level: int) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in pyramid.syncers[level].state_dict().items()}
