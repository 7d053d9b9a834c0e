"""The loop that every training shares: schedule, progress bar, history, checkpoints and resuming."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avsync._checks import check_positive, import_extra
from avsync.errors import ArgumentError, CheckpointError
from avsync.training.checkpoint import Stateful, load_checkpoint, save_checkpoint

History = dict[str, list[tuple[int, float]]]
"""Logged values by name, each a list of (step, value)."""


def make_fabric(*, accelerator: str = "auto", devices: int | str = 1, precision: str = "32-true", num_nodes: int = 1) -> Any:
    """A launched Lightning Fabric: devices, precision and processes are its business.

    Args:
        accelerator: "auto", "cpu", "cuda", ...
        devices: How many devices, or "auto".
        precision: "32-true", "bf16-mixed", "16-mixed", ...
        num_nodes: Machines.

    Returns:
        A ``lightning_fabric.Fabric``.

    Raises:
        MissingExtraError: lightning-fabric is not installed (extra "train").
    """
    fabric = import_extra("lightning_fabric", "train").Fabric(
        accelerator=accelerator, devices=devices, precision=precision, num_nodes=num_nodes
    )
    fabric.launch()
    return fabric


def cosine_schedule(step: int, steps: int, *, warm_up: int = 50, floor: float = 0.02) -> float:
    """Factor on the learning rate: a linear warm-up, then half a cosine down to ``floor`` (ours).

    Example:
        >>> [round(cosine_schedule(step, 100, warm_up=10, floor=0.0), 2) for step in (1, 10, 50, 100)]
        [0.1, 0.98, 0.5, 0.0]
    """
    cosine = 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
    return min(1.0, step / max(warm_up, 1)) * (floor + (1 - floor) * cosine)


def step_schedule(step: int, steps: int, *, decay_at: float = 70 / 75, factor: float = 0.1) -> float:
    """The paper's schedule: constant, then a tenth for the last 5k of 75k iterations (paper section 4.1).

    Example:
        >>> [step_schedule(step, 75_000) for step in (1, 70_000, 70_001)]
        [1.0, 1.0, 0.1]
    """
    return 1.0 if step <= decay_at * steps else factor


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` times the rate it was made with (kept as ``initial_lr``)."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group.setdefault("initial_lr", group["lr"])


def train_loop(
    name: str,
    *,
    steps: int,
    step: Callable[[int], Mapping[str, Tensor]],
    state: Mapping[str, Stateful],
    checkpoint: Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 200,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
    log_every: int = 10,
    progress: bool = True,
) -> History:
    """Run ``step`` for steps 1 to ``steps`` and keep the books.

    Args:
        name: What the progress bar is called.
        steps: Last step.
        step: Does one optimisation step (it is given the step's number) and returns scalars to log.
        state: What makes up the training's state: models, optimisers, random states.
        checkpoint: Where to keep the state; None keeps nothing.
        resume: Go on from ``checkpoint`` if it is there.
        checkpoint_every: Steps between checkpoints.
        evaluate: Called every ``evaluate_every`` steps and after the last; returns values to log and show.
        evaluate_every: Steps between evaluations; 0 evaluates after the last step only.
        log_every: Steps over which logged scalars are averaged.
        progress: Show a progress bar on standard error.

    Returns:
        The history of all values, that of the steps before a resume included.

    Raises:
        ArgumentError: ``steps`` or an interval is below 1.
        CheckpointError: The checkpoint to resume from is damaged or belongs to something else.
        MissingExtraError: tqdm is not installed (extra "train").
    """
    if steps < 1:
        raise ArgumentError(f"`steps`: expected at least 1, got {steps}")
    check_positive("checkpoint_every", checkpoint_every)
    check_positive("log_every", log_every)
    history: History = {}
    recent: dict[str, list[Tensor]] = {}
    first = 1
    if resume and checkpoint is not None and checkpoint.is_file():
        values = load_checkpoint(checkpoint, state)
        if not {"step", "history"} <= set(values):
            raise CheckpointError(f"`checkpoint`: {checkpoint} was not written by a training loop; it holds {sorted(values)}")
        first = int(values["step"]) + 1
        history = {key: [(int(at), float(value)) for at, value in points] for key, points in values["history"].items()}
        recent = {key: [torch.tensor(value) for value in collected] for key, collected in values.get("recent", {}).items()}
    bar = import_extra("tqdm", "train").tqdm(
        total=steps, initial=first - 1, desc=name, disable=not progress, dynamic_ncols=True
    )
    shown: dict[str, str] = {}
    with bar:
        for now in range(first, steps + 1):
            for key, value in step(now).items():
                recent.setdefault(key, []).append(value.detach().float())
            if now % log_every == 0 or now == steps:
                # One synchronisation for a whole interval: reading a scalar every step would stall a GPU.
                for key, collected in recent.items():
                    mean = float(torch.stack([value.to(collected[-1].device) for value in collected]).mean())
                    history.setdefault(key, []).append((now, mean))
                    shown[key] = f"{mean:.3f}"
                recent.clear()
                bar.set_postfix(shown, refresh=False)
            if evaluate is not None and (now == steps or (evaluate_every and now % evaluate_every == 0)):
                for key, number in evaluate(now).items():
                    history.setdefault(key, []).append((now, float(number)))
                    shown[key] = f"{number:.3f}"
                bar.set_postfix(shown, refresh=False)
            bar.update(1)
            if checkpoint is not None and (now % checkpoint_every == 0 or now == steps):
                points = {key: [list(point) for point in values] for key, values in history.items()}
                pending = {key: [float(value) for value in collected] for key, collected in recent.items()}
                save_checkpoint(checkpoint, state, step=now, history=points, recent=pending)
    return history
