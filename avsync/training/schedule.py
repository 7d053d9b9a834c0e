"""Learning rate schedules, as factors of the initial rate of an optimiser."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosine_schedule(step: int, steps: int, *, warm_up: int = 50, floor: float = 0.02) -> float:
    """Compute the factor of a linear warm-up followed by half a cosine down to ``floor`` (ours).

    Example:
        >>> [round(cosine_schedule(step, 100, warm_up=10, floor=0.0), 2) for step in (1, 10, 50, 100)]
        [0.1, 0.98, 0.5, 0.0]
    """
    cosine = 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
    return min(1.0, step / max(warm_up, 1)) * (floor + (1 - floor) * cosine)


def step_schedule(step: int, steps: int, *, decay_at: float = 70 / 75, factor: float = 0.1) -> float:
    """Compute the factor of the paper's schedule: constant, then a tenth for the last 5k of 75k iterations (section 4.1).

    Example:
        >>> [step_schedule(step, 75_000) for step in (1, 70_000, 70_001)]
        [1.0, 1.0, 0.1]
    """
    return 1.0 if step <= decay_at * steps else factor


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to ``factor`` times its initial rate (kept as ``initial_lr``).

    A rate that is a tensor, as CUDA graphs require, is changed in place.
    """
    for group in optimizer.param_groups:
        if "initial_lr" not in group:
            group["initial_lr"] = float(group["lr"])
        rate = factor * group["initial_lr"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
