"""Training loop shared by all trainers: progress bar, history, logs, checkpoints and resuming, on any number of processes."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Self, TypedDict

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from avsync._checks import check_positive, checked, import_extra
from avsync.errors import ArgumentError, CheckpointError, DivergedError
from avsync.training.checkpoint import Stateful, check_finite, take_state
from avsync.training.ema import averaged, copy_average
from avsync.training.interrupts import StopSignals, TrainingInterrupted
from avsync.training.logging import TrainingLog
from avsync.training.processes import first_process, mean_over_processes, on_first_process, scales_loss
from avsync.training.store import CheckpointStore

History = dict[str, list[tuple[int, float]]]
"""Logged values by name, each a list of (step, value)."""

BAR = "{desc} {percentage:3.0f}% |{bar:8}| {n_fmt}/{total_fmt} {remaining} {postfix}"
"""Form of the progress bar."""
BAR_WIDTH = 36
"""Characters of the bar without its label and its values, if the run has fewer than 100,000 steps and takes less than a day."""

_messages = logging.getLogger("avsync.training")


class LoopOptions(TypedDict, total=False):
    """Options of :func:`train_loop` that every trainer passes on."""

    checkpoint: Path | CheckpointStore | None
    """Folder to keep the state in, or a :class:`avsync.training.store.CheckpointStore`; None keeps nothing."""
    resume: bool
    """Continue from the newest good checkpoint, if there is one."""
    checkpoint_every: int
    """Steps between checkpoints; a new best evaluation is kept at its step."""
    checkpoint_seconds: float | None
    """Longest time between checkpoints, in addition to ``checkpoint_every``; None for no limit."""
    evaluate: Callable[[int], Mapping[str, float]] | None
    """Called with the step number every ``evaluate_every`` steps and after the last; returns values to log and show."""
    evaluate_every: int
    """Steps between evaluations; 0 evaluates after the last step only."""
    log_every: int
    """Steps over which logged scalars are averaged, and after which they are checked for NaN and infinities."""
    logs: Path | None
    """Folder for ``metrics.csv`` and TensorBoard's events; None writes none."""
    progress: bool
    """Show a progress bar on standard error."""


class Records:
    """History of a training run, and the values since its last entry.

    Args:
        fabric: The Fabric over whose processes values are averaged; None for this process alone.
    """

    def __init__(self, fabric: Any = None) -> None:
        self.fabric = fabric
        self.history: History = {}
        self.recent: dict[str, list[float]] = {}
        self._pending: list[tuple[int, dict[str, Tensor]]] = []

    def note(self, step: int, scalars: Mapping[str, Tensor]) -> None:
        """Keep the scalars of a step as tensors, because reading a number at every step would stall a GPU."""
        self._pending.append((step, {key: value.detach().float() for key, value in scalars.items()}))

    def collect(self) -> None:
        """Read the scalars of all steps since the last call, each averaged over processes, in one synchronisation.

        Raises:
            DivergedError: A scalar is not finite.
        """
        entries = [(step, key, value) for step, scalars in self._pending for key, value in scalars.items()]
        self._pending.clear()
        if not entries:
            return
        device = entries[-1][2].device if self.fabric is None else self.fabric.device
        values = mean_over_processes(torch.stack([value.to(device) for _, _, value in entries]), self.fabric)
        for (step, key, _), number in zip(entries, values.tolist(), strict=True):
            if isfinite(number):
                self.recent.setdefault(key, []).append(number)
            # The scaler of float16 skips steps with infinite gradients by itself.
            elif not (key.startswith("grad") and scales_loss(self.fabric)):
                raise DivergedError(f"`{key}` is {number} at step {step}")

    def close_interval(self, step: int) -> dict[str, float]:
        """Add the means since the last entry to the history, and return the means."""
        self.collect()
        means = {key: sum(values) / len(values) for key, values in self.recent.items()}
        self.recent.clear()
        self.enter(step, means)
        return means

    def enter(self, step: int, values: Mapping[str, float]) -> None:
        """Add values to the history."""
        for key, value in values.items():
            self.history.setdefault(key, []).append((step, float(value)))

    def as_dict(self) -> dict[str, Any]:
        """Return the history and the recent values as plain types, for a checkpoint."""
        self.collect()
        points = {key: [list(point) for point in values] for key, values in self.history.items()}
        return {"history": points, "recent": {key: list(values) for key, values in self.recent.items()}}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Restore the return value of :meth:`as_dict`."""
        self.history = {key: [(int(at), float(value)) for at, value in points] for key, points in values["history"].items()}
        self.recent = {key: [float(value) for value in collected] for key, collected in values["recent"].items()}


class _Shown:
    """Progress bar and log of a run, both on the first process only."""

    def __init__(self, name: str, done: int, steps: int, *, logs: Path | None, progress: bool, fabric: Any) -> None:
        first = first_process(fabric)
        self._log = TrainingLog(logs, last_step=done, prefix=name) if logs is not None and first else None
        self.bar: Any = import_extra("tqdm.auto", "train").tqdm(
            total=steps,
            initial=done,
            desc=name,
            disable=not (progress and first),
            dynamic_ncols=True,
            bar_format=BAR,
        )
        self._room = len(name) + BAR_WIDTH
        self._values: dict[str, float] = {}

    def show(self, now: int, values: Mapping[str, float]) -> None:
        """Write values to the log, and show them together with the last values of other names."""
        if self._log is not None:
            self._log.write(now, values)
        self._values.update(values)
        room = shutil.get_terminal_size().columns - self._room
        self.bar.set_postfix_str(as_many_as_fit(side_by_side(self._values), room=room), refresh=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            self._log.close()
        self.bar.close()


class _Kept:
    """Checkpoints of a run: their content, and the steps after which one is written."""

    def __init__(
        self,
        name: str,
        store: CheckpointStore,
        state: Mapping[str, Stateful],
        settings: Mapping[str, Any],
        records: Records,
        fabric: Any,
        *,
        every: int,
        seconds: float | None,
    ) -> None:
        self.name, self.store, self.state, self.settings = name, store, state, settings
        self.records, self.fabric, self.every, self.seconds = records, fabric, every, seconds
        self._saved_at = time.monotonic()

    def resume(self, steps: int) -> int:
        """Load the newest good checkpoint, the same on every process, and return its step; 0 if there is none."""
        found: list[int] = []
        on_first_process(self.fabric, lambda: found.append(self.store.newest_good() or 0))
        # The first process chooses, because another one may see a file a moment later and would continue from another step.
        chosen = torch.tensor(found[0] if found else 0)
        if self.fabric is not None and self.fabric.world_size > 1:
            chosen = self.fabric.all_reduce(chosen.to(self.fabric.device), reduce_op="sum")
        step, first = int(chosen), first_process(self.fabric)
        if not step:
            if first:
                _messages.info("%s: no checkpoint in %s, begins at step 1", self.name, self.store.folder)
            return 0
        path = self.store.path(step)
        values = self.store.load(step, self.state, accept=lambda values: _check_saved(values, self.settings, path))
        self.records.restore(values)
        if first:
            _messages.info("%s: continues after step %d of %d, from %s", self.name, step, steps, path)
        return int(values["step"])

    def after(self, now: int, *, last: bool, logged: bool, evaluated: bool, received: int | None) -> int | None:
        """Write a checkpoint if one is due after step ``now``; return the signal that some process received, if any."""
        late = self.seconds is not None and time.monotonic() - self._saved_at > self.seconds
        number, late = _agree(received, late, self.fabric, logged=logged)
        due = now % self.every == 0 or last or late or number is not None
        if due or (evaluated and self.store.best is not None):
            self._save(now, due=due)
            self._saved_at = time.monotonic()
        return number

    def _save(self, step: int, *, due: bool) -> None:
        """Write a checkpoint that is due or the best so far; only the first process knows the best."""
        content = take_state(self.state, step=step, settings=dict(self.settings), **self.records.as_dict())
        best = self.store.is_best(self.records.history, step)

        def write() -> None:
            if due or best:
                check_finite(content["state"])
                self.store.save(step, content, is_best=best)

        on_first_process(self.fabric, write)


@checked
def train_loop(
    name: str,
    *,
    steps: int,
    step: Callable[[int], Mapping[str, Tensor]],
    state: Mapping[str, Stateful],
    settings: Mapping[str, Any] | None = None,
    fabric: Any = None,
    checkpoint: Path | CheckpointStore | None = None,
    resume: bool = False,
    checkpoint_every: int = 200,
    checkpoint_seconds: float | None = None,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
    log_every: int = 10,
    logs: Path | None = None,
    progress: bool = True,
) -> History:
    """Run ``step`` for steps 1 to ``steps``, record the values that it returns and keep checkpoints.

    With several processes, all run the steps; only the first evaluates, shows, logs and writes checkpoints. With a checkpoint
    folder, Ctrl-C and SIGTERM save the state after the current step (with several processes: after the next logged one) and
    then stop the run.

    Args:
        name: Label of the progress bar.
        steps: Last step.
        step: Function that takes the step's number, does one optimisation step and returns scalars to log.
        state: The training state by name: models, optimisers, random states.
        settings: Plain values that a resumed run must share with the run that wrote the checkpoint; None compares nothing.
        fabric: The launched Fabric whose processes train together; None for this process alone.
        checkpoint: See :class:`LoopOptions`, as for all further arguments.
        resume: See there.
        checkpoint_every: See there.
        checkpoint_seconds: See there.
        evaluate: See there.
        evaluate_every: See there.
        log_every: See there.
        logs: See there.
        progress: See there.

    Returns:
        The history of all values, including the steps before a resume; evaluations on the first process only.

    Raises:
        ArgumentError: ``steps`` or an interval is below 1.
        CheckpointError: No checkpoint to resume from is good, it was written with other settings, the folder is in use by
            another run, or a checkpoint cannot be written.
        DivergedError: A scalar that ``step`` returned, or a tensor of the state, is not finite. Such a state is never saved.
        TrainingInterrupted: SIGINT or SIGTERM was received, and the state was saved.
        MissingExtraError: tqdm or, for logs, tensorboard is not installed (extra "train").
    """
    if steps < 1:
        raise ArgumentError(f"`steps`: expected at least 1, got {steps}")
    check_positive("checkpoint_every", checkpoint_every)
    check_positive("log_every", log_every)
    if checkpoint_seconds is not None:
        check_positive("checkpoint_seconds", checkpoint_seconds)
    records, kept = Records(fabric), None
    if checkpoint is not None:
        store = CheckpointStore(checkpoint) if isinstance(checkpoint, Path) else checkpoint
        plain = json.loads(json.dumps(dict(settings or {}), default=str))
        kept = _Kept(name, store, state, plain, records, fabric, every=checkpoint_every, seconds=checkpoint_seconds)
    with contextlib.ExitStack() as open_until_the_end:
        if kept is not None:
            lock = kept.store.lock
            on_first_process(fabric, lambda: open_until_the_end.enter_context(lock()))
        done = kept.resume(steps) if resume and kept is not None else 0
        shown = open_until_the_end.enter_context(_Shown(name, done, steps, logs=logs, progress=progress, fabric=fabric))
        signals = open_until_the_end.enter_context(StopSignals()) if kept is not None else None
        # The message of a run that diverged names the last good checkpoint.
        open_until_the_end.enter_context(_explained(name, None if kept is None else kept.store))

        def evaluate_and_show(evaluate: Callable[[int], Mapping[str, float]], now: int) -> None:
            values = {key: float(number) for key, number in evaluate(now).items()}
            records.enter(now, values)
            shown.show(now, values)

        for now in range(done + 1, steps + 1):
            records.note(now, step(now))
            last = now == steps
            logged = now % log_every == 0 or last
            if logged:
                shown.show(now, records.close_interval(now))
            evaluated = evaluate is not None and (last or (evaluate_every > 0 and now % evaluate_every == 0))
            if evaluate is not None and evaluated:
                records.collect()  # a model that is not finite is not evaluated
                on_first_process(fabric, partial(evaluate_and_show, evaluate, now))
            shown.bar.update(1)
            if kept is None or signals is None:
                continue
            number = kept.after(now, last=last, logged=logged, evaluated=evaluated, received=signals.received)
            if number is not None:
                raise TrainingInterrupted(
                    f"{name}: stopped by {signal.Signals(number).name} after step {now} of {steps};"
                    f" resume=True (--resume on the command line) continues from {kept.store.path(now)}",
                    number=number,
                )
        if kept is None:
            check_finite({key: item.state_dict() for key, item in state.items() if isinstance(item, nn.Module)})
    return records.history


def train_averaged(
    name: str,
    model: nn.Module,
    average: AveragedModel | None,
    *,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    **options: Any,
) -> History:
    """Run :func:`train_loop` on a model that holds the average of its weights in evaluations and afterwards.

    Args:
        name: Label of the progress bar.
        model: The model that the steps train; in eval mode afterwards.
        average: Average of its weights, which the steps update; None for none.
        evaluate: As in :class:`LoopOptions`.
        **options: Other arguments of :func:`train_loop`.

    Returns:
        The history.
    """

    def evaluate_average(now: int) -> Mapping[str, float]:
        with averaged(model, average):
            return evaluate(now) if evaluate is not None else {}

    model.train()
    history = train_loop(name, evaluate=None if evaluate is None else evaluate_average, **options)
    if average is not None:
        copy_average(average, model)
    model.eval()
    return history


def flat_settings(**groups: Any) -> dict[str, Any]:
    """Flatten dataclasses to the settings of :func:`train_loop`.

    Args:
        **groups: Dataclasses by name; plain values and None stay as they are.

    Returns:
        ``name.field`` and value for every field.

    Example:
        >>> from avsync.training.objectives import SyncerTrainingConfig
        >>> flat_settings(config=SyncerTrainingConfig(), levels=[0])["config.batch_size"]
        16
    """
    flat: dict[str, Any] = {}
    for name, group in groups.items():
        fields = vars(group) if hasattr(group, "__dataclass_fields__") else None
        flat |= {name: group} if fields is None else {f"{name}.{field}": value for field, value in fields.items()}
    return flat


def side_by_side(values: Mapping[str, float]) -> dict[str, str]:
    """Format values for a progress bar: the levels of one kind share a name.

    Example:
        >>> side_by_side({"loss": 1.5, "gap0": 0.31, "gap1": 0.2})
        {'loss': '1.5', 'gap': '0.31 0.2'}
    """
    kinds: dict[str, list[str]] = {}
    for key, value in values.items():
        kinds.setdefault(key.rstrip("0123456789") or key, []).append(f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}")
    return {kind: " ".join(texts) for kind, texts in kinds.items()}


def as_many_as_fit(values: Mapping[str, str], *, room: int) -> str:
    """Join the values that fit into ``room`` characters: first the losses and the accuracies, then the others in their order.

    Example:
        >>> as_many_as_fit({"loss": "1.5", "chance": "2.7", "acc": "0.9 0.8"}, room=20)
        'loss=1.5 acc=0.9 0.8'
    """
    texts: list[str] = []
    for key in sorted(values, key=lambda key: not key.startswith(("loss", "acc", "sync", "confidence"))):
        text = f"{key}={values[key]}"
        if len(" ".join([*texts, text])) <= room:
            texts.append(text)
    return " ".join(texts)


@contextlib.contextmanager
def _explained(name: str, store: CheckpointStore | None) -> Iterator[None]:
    """Complete the message of a :class:`DivergedError` with the last good checkpoint and a remedy."""
    try:
        yield
    except DivergedError as error:
        last = None if store is None else store.last_path()
        left = "there is no checkpoint" if last is None else f"the last good checkpoint is {last}"
        raise DivergedError(
            f"{name}: {error}; the run was stopped, and {left}. Lower the learning rate, or look for NaN in the corpus"
            " (avsync doctor)"
        ) from error


def _agree(number: int | None, late: bool, fabric: Any, *, logged: bool) -> tuple[int | None, bool]:
    """Share among processes a signal that one of them received, and a checkpoint that is due by the clock of one of them.

    Several processes agree at logged steps only, where they wait for each other anyway.
    """
    if fabric is None or fabric.world_size == 1:
        return number, late
    if not logged:
        return None, False
    flags = torch.tensor([float(number or 0), float(late)], device=fabric.device)
    number_anywhere, late_anywhere = fabric.all_reduce(flags, reduce_op="max").tolist()
    return int(number_anywhere) or None, bool(late_anywhere)


def _check_saved(values: Mapping[str, Any], settings: Mapping[str, Any], path: Path) -> None:
    """Raise unless the plain values of a checkpoint are those of a training loop with the same settings."""
    if not {"step", "history", "recent"} <= set(values):
        raise CheckpointError(f"`checkpoint`: {path} was not written by a training loop; it holds {sorted(values)}")
    saved = values.get("settings", {})
    # A key that only one side has is a new or a removed field, or the fields of a group that was None.
    groups = {key for key in settings if settings[key] is None} | {key for key in saved if saved[key] is None}
    known = [key for key in {**saved, **settings} if (key in saved and key in settings) or key in groups]
    differing = [key for key in known if saved.get(key, "set") != settings.get(key, "set")]
    if differing:
        pairs = ", ".join(f"`{key}` was {saved.get(key, 'set')!r} and is {settings.get(key, 'set')!r}" for key in differing)
        raise CheckpointError(
            f"`resume`: expected the settings that {path} was written with, but {pairs}; "
            "choose another folder to train with other settings"
        )
