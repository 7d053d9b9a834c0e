"""Folder of checkpoints of one training run: the last few, the best, and a fallback if the newest is damaged."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from avsync._checks import check_choice, check_positive, checked, import_extra
from avsync._files import replacing
from avsync.errors import CheckpointError
from avsync.training.checkpoint import DamagedCheckpointError, Stateful, check_checkpoint, load_checkpoint, write_checkpoint

LOCK_SECONDS = 10.0
"""Time that a run waits for a folder in use: worker processes of a killed run may outlive it for some seconds."""
_NAME = re.compile(r"step-(\d+)\.ckpt")
_UNFINISHED = re.compile(r"\.(step-\d+|best)-.*\.ckpt")


class CheckpointStore:
    """Folder with the last checkpoints of a training run (``step-00000200.ckpt``, ...) and its best (``best.ckpt``).

    Args:
        folder: Folder of one run; created when it is first locked or written to.
        keep: Number of last checkpoints to keep; with 2 or more, an older checkpoint remains if the newest is damaged.
        best: Name of the evaluated value that selects the best checkpoint, such as "acc0"; None keeps no best.
        mode: Whether the best has the largest value ("max") or the smallest ("min").

    Raises:
        ArgumentError: ``keep`` is not positive, or ``mode`` is unknown.

    Example:
        >>> CheckpointStore("runs/syncers", keep=2, best="acc0").steps()
        []

    Source: ours.
    """

    @checked
    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 3, best: str | None = None, mode: str = "max") -> None:
        check_positive("keep", keep)
        check_choice("mode", mode, ("max", "min"))
        self.folder, self.keep, self.best, self.mode = Path(folder), keep, best, mode
        self._new_run = True

    @property
    def best_path(self) -> Path:
        """Path of the best checkpoint, whether it exists or not."""
        return self.folder / "best.ckpt"

    @checked
    def path(self, step: int) -> Path:
        """Return the path of the checkpoint of a step."""
        return self.folder / f"step-{step:08d}.ckpt"

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints in the folder, damaged ones included, in order."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(file.name) for file in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def last_path(self) -> Path | None:
        """Return the path of the newest checkpoint of this run, or None before the first checkpoint."""
        steps = [] if self._new_run else self.steps()
        return self.path(steps[-1]) if steps else None

    @contextlib.contextmanager
    @checked
    def lock(self, *, seconds: float | None = None) -> Iterator[None]:
        """Lock the folder against other runs; the system releases the lock when the process ends or is killed.

        Args:
            seconds: Time to wait for a folder in use; None for ``LOCK_SECONDS``.

        Raises:
            CheckpointError: Another run holds the folder, or the folder cannot be created.
            MissingExtraError: filelock is not installed (extra "train").
        """
        filelock = import_extra("filelock", "train")
        path = self.folder / ".lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = filelock.FileLock(str(path), timeout=LOCK_SECONDS if seconds is None else seconds)
            held.acquire()
        except filelock.Timeout as error:
            raise CheckpointError(
                f"`checkpoint`: another training run writes to {self.folder} and holds {path}; wait for it, or choose "
                "another folder"
            ) from error
        except NotImplementedError as error:  # raised by filelock
            warnings.warn(
                f"{self.folder} lies on a file system without locks ({error}): start only one run there", stacklevel=2
            )
            held = None
        except OSError as error:
            raise CheckpointError(f"`checkpoint`: {self.folder} cannot be used: {error}") from error
        try:
            yield
        finally:
            if held is not None:
                held.release()

    def newest_good(self) -> int | None:
        """Return the last step with an undamaged checkpoint, and warn about every later checkpoint that is damaged.

        Returns:
            The step, or None if the folder holds no checkpoint.

        Raises:
            CheckpointError: The folder holds checkpoints, and all are damaged.
        """
        reasons = []
        for step in reversed(self.steps()):
            try:
                check_checkpoint(self.path(step))
            except DamagedCheckpointError as error:
                reasons.append(str(error).removeprefix("`path`: "))
                continue
            for reason in reasons:
                warnings.warn(f"{reason}; going on from step {step} instead", stacklevel=2)
            return step
        if reasons:
            raise CheckpointError(f"`checkpoint`: no good checkpoint in {self.folder}: {'; '.join(reasons)}")
        return None

    @checked
    def load(
        self, step: int, state: Mapping[str, Stateful], *, accept: Callable[[Mapping[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Restore the checkpoint of a step and continue from there; later checkpoints will be replaced.

        Args:
            step: One of :meth:`steps`.
            state: The objects to restore.
            accept: See :func:`avsync.training.checkpoint.load_checkpoint`.

        Returns:
            The plain values that were saved with the state.

        Raises:
            CheckpointError: The checkpoint is damaged, or belongs to other objects.
        """
        values = load_checkpoint(self.path(step), state, accept=accept)
        self._new_run = False
        return values

    @checked
    def load_best(self, state: Mapping[str, Stateful]) -> dict[str, Any]:
        """Restore the best checkpoint; see :meth:`load`.

        Raises:
            CheckpointError: The best checkpoint is missing, damaged, or belongs to other objects.
        """
        return load_checkpoint(self.best_path, state)

    @checked
    def save(self, step: int, content: Mapping[str, Any], *, is_best: bool = False) -> None:
        """Write a checkpoint, then remove the oldest checkpoints beyond ``keep``.

        Args:
            step: Step after which the state was taken.
            content: Return value of :func:`avsync.training.checkpoint.take_state`.
            is_best: Also keep the checkpoint as the best.

        Raises:
            CheckpointError: The checkpoint cannot be written; the message names the last good checkpoint, which still exists.
        """
        self._remove_unfinished()
        try:
            # The best first: a run that is killed between the two evaluates the step again and finds it best again.
            if is_best:
                write_checkpoint(self.best_path, content)
                self._copy_of_best(step)
            else:
                write_checkpoint(self.path(step), content)
        except CheckpointError as error:
            last = self.last_path()
            left = "there is no earlier one" if last is None else f"the last good one is {last}"
            raise CheckpointError(f"{error}; {left}") from error
        self._flush_names()
        # A new run removes the files of an earlier run only after its own first checkpoint is written.
        if self._new_run and not is_best:
            self.best_path.unlink(missing_ok=True)
        known = [other for other in self.steps() if other <= step]
        kept = {step} if self._new_run else set(known[-self.keep :])
        for other in self.steps():
            if other not in kept:
                self.path(other).unlink(missing_ok=True)
        self._new_run = False

    def is_best(self, points: Mapping[str, list[tuple[int, float]]], step: int) -> bool:
        """Return whether the evaluation of this step is the best in the history."""
        values = points.get(self.best, []) if self.best is not None else []
        if not values or values[-1][0] != step:
            return False
        sign = 1.0 if self.mode == "max" else -1.0
        return all(sign * values[-1][1] > sign * value for _, value in values[:-1])

    def _copy_of_best(self, step: int) -> None:
        """Give the file just written a second name, or copy it where the file system has no links."""
        with replacing(self.path(step)) as temporary:
            temporary.unlink()
            try:
                os.link(self.best_path, temporary)
            except OSError:
                temporary.write_bytes(self.best_path.read_bytes())

    def _remove_unfinished(self) -> None:
        """Remove the half-written files of a killed run, which are never read and fill the disk."""
        if self.folder.is_dir():
            for file in self.folder.iterdir():
                if _UNFINISHED.fullmatch(file.name):
                    file.unlink(missing_ok=True)

    def _flush_names(self) -> None:
        """Make the renames durable before older files are removed, where the system can open folders."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
