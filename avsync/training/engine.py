"""The loop that every training shares: progress bar, history, logs, checkpoints and resuming, on any number of processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avsync._checks import check_positive, import_extra
from avsync.errors import ArgumentError, CheckpointError
from avsync.training.checkpoint import Stateful, take_state
from avsync.training.logging import TrainingLog
from avsync.training.processes import first_process, make_fabric, mean_over_processes, on_first_process
from avsync.training.schedule import cosine_schedule, set_learning_rate, step_schedule
from avsync.training.store import CheckpointStore

__all__ = ["Books", "cosine_schedule", "make_fabric", "set_learning_rate", "step_schedule", "train_loop"]

History = dict[str, list[tuple[int, float]]]
"""Logged values by name, each a list of (step, value)."""


class Books:
    """The history of a training, and the values since its last entry.

    Args:
        fabric: Whose processes' values are averaged; None for this process alone.
    """

    def __init__(self, fabric: Any = None) -> None:
        self.fabric = fabric
        self.history: History = {}
        self.recent: dict[str, list[float]] = {}
        self._pending: list[dict[str, Tensor]] = []

    def note(self, scalars: Mapping[str, Tensor]) -> None:
        """Keep the scalars of a step, still as tensors: reading a number every step would stall a GPU."""
        self._pending.append({key: value.detach().float() for key, value in scalars.items()})

    def collect(self) -> None:
        """Read the scalars of all steps since the last time, each averaged over processes, in one synchronisation."""
        if not self._pending:
            return
        entries = [(key, value) for scalars in self._pending for key, value in scalars.items()]
        self._pending.clear()
        if entries:
            device = entries[-1][1].device if self.fabric is None else self.fabric.device
            values = mean_over_processes(torch.stack([value.to(device) for _, value in entries]), self.fabric)
            for (key, _), number in zip(entries, values.tolist(), strict=True):
                self.recent.setdefault(key, []).append(number)

    def close_interval(self, step: int) -> dict[str, float]:
        """Enter the means since the last entry into the history, and return them."""
        self.collect()
        means = {key: sum(values) / len(values) for key, values in self.recent.items()}
        self.recent.clear()
        self.enter(step, means)
        return means

    def enter(self, step: int, values: Mapping[str, float]) -> None:
        """Enter values into the history."""
        for key, value in values.items():
            self.history.setdefault(key, []).append((step, float(value)))

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        self.collect()
        points = {key: [list(point) for point in values] for key, values in self.history.items()}
        return {"history": points, "recent": {key: list(values) for key, values in self.recent.items()}}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Put back what :meth:`as_dict` gave."""
        self.history = {key: [(int(at), float(value)) for at, value in points] for key, points in values["history"].items()}
        self.recent = {key: [float(value) for value in collected] for key, collected in values["recent"].items()}


def train_loop(
    name: str,
    *,
    steps: int,
    step: Callable[[int], Mapping[str, Tensor]],
    state: Mapping[str, Stateful],
    checkpoint: Path | CheckpointStore | None = None,
    resume: bool = False,
    checkpoint_every: int = 200,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
    log_every: int = 10,
    logs: Path | None = None,
    progress: bool = True,
    fabric: Any = None,
) -> History:
    """Run ``step`` for steps 1 to ``steps`` and keep the books.

    On several processes all run the steps; the first alone evaluates, shows, logs and writes checkpoints.

    Args:
        name: What the progress bar is called.
        steps: Last step.
        step: Does one optimisation step (it is given the step's number) and returns scalars to log.
        state: What makes up the training's state: models, optimisers, random states.
        checkpoint: Folder to keep the state in, or a :class:`avsync.training.store.CheckpointStore`; None keeps nothing.
        resume: Go on from the newest good checkpoint, if there is one.
        checkpoint_every: Steps between checkpoints; a new best evaluation is kept at its step.
        evaluate: Called every ``evaluate_every`` steps and after the last; returns values to log and show.
        evaluate_every: Steps between evaluations; 0 evaluates after the last step only.
        log_every: Steps over which logged scalars are averaged.
        logs: Folder for ``metrics.csv`` and TensorBoard's events; None writes none.
        progress: Show a progress bar on standard error.
        fabric: The launched Fabric whose processes train together; None for this process alone.

    Returns:
        The history of all values, that of the steps before a resume included; evaluations on the first process only.

    Raises:
        ArgumentError: ``steps`` or an interval is below 1.
        CheckpointError: No checkpoint to resume from is good, it belongs to something else, or one cannot be written.
        MissingExtraError: tqdm or, for logs, tensorboard is not installed (extra "train").
    """
    if steps < 1:
        raise ArgumentError(f"`steps`: expected at least 1, got {steps}")
    check_positive("checkpoint_every", checkpoint_every)
    check_positive("log_every", log_every)
    store = CheckpointStore(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    books = Books(fabric)
    done = _resume(store, state, books, fabric) if resume and store is not None else 0
    first = first_process(fabric)
    bar = import_extra("tqdm", "train").tqdm(
        total=steps, initial=done, desc=name, disable=not (progress and first), dynamic_ncols=True
    )
    log = TrainingLog(logs, last_step=done, prefix=name) if logs is not None and first else None
    shown: dict[str, float] = {}

    def tell(now: int, values: Mapping[str, float]) -> None:
        if log is not None:
            log.write(now, values)
        shown.update(values)
        bar.set_postfix(side_by_side(shown), refresh=False)

    def judge(evaluate: Callable[[int], Mapping[str, float]], now: int) -> None:
        values = {key: float(number) for key, number in evaluate(now).items()}
        books.enter(now, values)
        tell(now, values)

    with bar, log or contextlib.nullcontext():
        for now in range(done + 1, steps + 1):
            books.note(step(now))
            if now % log_every == 0 or now == steps:
                tell(now, books.close_interval(now))
            evaluated = evaluate is not None and (now == steps or (evaluate_every > 0 and now % evaluate_every == 0))
            if evaluate is not None and evaluated:
                on_first_process(fabric, partial(judge, evaluate, now))
            bar.update(1)
            due = now % checkpoint_every == 0 or now == steps
            if store is not None and (due or (evaluated and store.best is not None)):
                _save(store, now, state, books, fabric, due=due)
    return books.history


def side_by_side(values: Mapping[str, float]) -> dict[str, str]:
    """Values as a progress bar shows them: those of the levels of one kind share a name.

    Example:
        >>> side_by_side({"loss": 1.5, "gap0": 0.31, "gap1": 0.2})
        {'loss': '1.5', 'gap': '0.31 0.2'}
    """
    kinds: dict[str, list[str]] = {}
    for key, value in values.items():
        kinds.setdefault(key.rstrip("0123456789") or key, []).append(f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}")
    return {kind: " ".join(texts) for kind, texts in kinds.items()}


def _save(store: CheckpointStore, step: int, state: Mapping[str, Stateful], books: Books, fabric: Any, *, due: bool) -> None:
    """Write a checkpoint that is due, or that is the best so far, which the first process alone knows."""
    content = take_state(state, step=step, **books.as_dict())
    best = store.is_best(books.history, step)

    def write() -> None:
        if due or best:
            store.save(step, content, is_best=best)

    on_first_process(fabric, write)


def _resume(store: CheckpointStore, state: Mapping[str, Stateful], books: Books, fabric: Any) -> int:
    """Load the newest good checkpoint, the same on every process, and return its step; 0 if there is none."""
    found: list[int] = []
    on_first_process(fabric, lambda: found.append(store.newest_good() or 0))
    # The first process chooses: another that sees a file a moment later would else go on from another step.
    chosen = torch.tensor(found[0] if found else 0)
    if fabric is not None and fabric.world_size > 1:
        chosen = fabric.all_reduce(chosen.to(fabric.device), reduce_op="sum")
    step = int(chosen)
    if not step:
        return 0
    values = store.load(step, state)
    if not {"step", "history", "recent"} <= set(values):
        raise CheckpointError(f"`checkpoint`: {store.path(step)} was not written by a training loop; it holds {sorted(values)}")
    books.restore(values)
    return int(values["step"])
