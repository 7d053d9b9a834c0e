"""Warm start of coarse pyramid levels from the weights of the next finer level.

Speech has no scale of its own: features learnt on windows of 400 ms are also useful at half the speed, on windows of 800 ms.
A corpus has half as many windows at each coarser level. A level that starts from the finer level's weights is better before its
first step than a level trained from scratch. A few steps at a small learning rate are then enough, and too few to memorise
the training clips. The weights of several such runs stay close to their common start. Their mean is therefore a working
network, and better than the network of any single run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avsync._checks import check_fields, checked
from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.bank import CropBank
from avsync.errors import ConfigError
from avsync.models.syncer.pyramid import SyncerPyramid
from avsync.training.engine import History
from avsync.training.objectives import SyncerTrainingConfig
from avsync.training.syncers import train_syncers


@dataclass(frozen=True)
class WarmStartConfig:
    """Settings of the levels that start from the weights of the next finer level (all ours).

    Attributes:
        first_level: Finest level with a warm start; the finer levels are trained from scratch.
        steps: Optimisation steps of each of these levels.
        learning_rate: Peak learning rate of each of these levels.
        runs: Training runs of each of these levels, on different crops; the mean of their weights is kept.
    """

    first_level: int = 2
    steps: int = 120
    learning_rate: float = 4e-4
    runs: int = 1

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("first_level", "steps", "runs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")
        for name in ("learning_rate",):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"`{name}`: expected a finite number of at least 0, got {getattr(self, name)}")


@checked
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
    logs: Path | None = None,
    name: str = "syncers",
    **options: Any,
) -> dict[str, History]:
    """Train the fine levels from scratch, then each coarser level from the weights of the next finer level.

    Args:
        pyramid: Trained in place.
        bank: Clips to train on.
        config: Settings of the fine levels, and of the coarse levels except for steps and learning rate.
        warm_start: First coarse level, steps, learning rate and runs of the coarse levels.
        fabric: A launched Lightning Fabric (:func:`avsync.training.processes.make_fabric`).
        augment: Augmentation of the clips; None for none.
        checkpoint: Folder with one subfolder of checkpoints per stage; None keeps nothing.
        resume: Continue an earlier run; finished stages are read from their last checkpoint.
        evaluate: Function that takes the step number of the stage and returns values to log.
        logs: Folder with one subfolder of logs per stage; None writes none.
        name: Label of the progress bar.
        **options: Further options of :func:`avsync.training.syncers.train_syncers`, for every stage.

    Returns:
        The history of each stage, by stage name: "fine", "level2-run0", ...

    Raises:
        ConfigError: A level with a warm start differs from the finer level in ``audio_context`` or ``width``.

    Source: ours; the mean of the weights of several runs is known as a model soup.
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
            logs=None if logs is None else Path(logs) / stage,
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
            # A different seed, so that the crops differ from those of the earlier stages.
            train(f"level{level}-run{run}", [level], replace(later, seed=config.seed + 10 * level + run))
            found.append(_weights(pyramid, level))
        mean = {key: torch.stack([weights[key] for weights in found]).mean(dim=0) for key in finer}
        pyramid.syncers[level].load_state_dict(mean)
    return histories


def _weights(pyramid: SyncerPyramid, level: int) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in pyramid.syncers[level].state_dict().items()}
