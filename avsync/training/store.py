"""The checkpoints of one training in a folder: the last few, the best, and the way back when the newest is damaged."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avsync._checks import check_choice, check_positive
from avsync._files import replacing
from avsync.errors import CheckpointError
from avsync.training.checkpoint import DamagedCheckpointError, Stateful, check_checkpoint, load_checkpoint, write_checkpoint

_NAME = re.compile(r"step-(\d+)\.ckpt")
_UNFINISHED = re.compile(r"\.(step-\d+|best)-.*\.ckpt")


class CheckpointStore:
    """A folder with the last checkpoints of a training (``step-00000200.ckpt``, ...) and its best (``best.ckpt``).

    Args:
        folder: The folder; made when the first checkpoint is written. It belongs to one training.
        keep: How many of the last checkpoints to keep; 2 or more leave one to go back to when the newest is damaged.
        best: Name of the evaluated value by which the best is chosen, such as "acc0"; None keeps no best.
        mode: Whether the best has the largest value ("max") or the smallest ("min").

    Raises:
        ArgumentError: ``keep`` is not positive, or the mode unknown.

    Example:
        >>> CheckpointStore("runs/syncers", keep=2, best="acc0").steps()
        []

    Source: ours.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 3, best: str | None = None, mode: str = "max") -> None:
        check_positive("keep", keep)
        check_choice("mode", mode, ("max", "min"))
        self.folder, self.keep, self.best, self.mode = Path(folder), keep, best, mode
        self._starts_anew = True

    @property
    def best_path(self) -> Path:
        """Where the best checkpoint lies, if there is one."""
        return self.folder / "best.ckpt"

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:08d}.ckpt"

    def steps(self) -> list[int]:
        """Steps whose checkpoints are in the folder, whether they are good or not, in order."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(file.name) for file in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def newest_good(self) -> int | None:
        """The last step whose checkpoint is whole; a warning names every later one that is not, and says why.

        Returns:
            The step, or None if the folder holds no checkpoint.

        Raises:
            CheckpointError: There are checkpoints, and all are damaged.
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

    def load(self, step: int, state: Mapping[str, Stateful]) -> dict[str, Any]:
        """Read the checkpoint of a step, and go on from there: later ones will be replaced.

        Args:
            step: One of :meth:`steps`.
            state: The objects to put the state into.

        Returns:
            The plain values that were saved beside the state.

        Raises:
            CheckpointError: The checkpoint is damaged, or belongs to other objects.
        """
        values = load_checkpoint(self.path(step), state)
        self._starts_anew = False
        return values

    def load_best(self, state: Mapping[str, Stateful]) -> dict[str, Any]:
        """Read the best checkpoint; see :meth:`load`.

        Raises:
            CheckpointError: There is none, it is damaged, or it belongs to other objects.
        """
        return load_checkpoint(self.best_path, state)

    def save(self, step: int, content: Mapping[str, Any], *, is_best: bool = False) -> None:
        """Write a checkpoint, then remove those that are too many.

        Args:
            step: The step that it was taken after.
            content: What :func:`avsync.training.checkpoint.take_state` took.
            is_best: Keep it as the best, too.

        Raises:
            CheckpointError: It cannot be written; the message names the last good one, which is still there.
        """
        self._remove_unfinished()
        try:
            # The best first: should the run die between the two, it will evaluate the step anew and find it best again.
            if is_best:
                write_checkpoint(self.best_path, content)
                self._copy_of_best(step)
            else:
                write_checkpoint(self.path(step), content)
        except CheckpointError as error:
            rest = [] if self._starts_anew else self.steps()
            last = f"the last good one is {self.path(rest[-1])}" if rest else "there is none before it"
            raise CheckpointError(f"{error}; {last}") from error
        self._flush_names()
        # A run that starts anew replaces what an earlier one left here, but only now that it has something to put in its place.
        if self._starts_anew and not is_best:
            self.best_path.unlink(missing_ok=True)
        known = [other for other in self.steps() if other <= step]
        kept = {step} if self._starts_anew else set(known[-self.keep :])
        for other in self.steps():
            if other not in kept:
                self.path(other).unlink(missing_ok=True)
        self._starts_anew = False

    def is_best(self, points: Mapping[str, list[tuple[int, float]]], step: int) -> bool:
        """Whether the evaluation of this step is the best of all that the history holds."""
        values = points.get(self.best, []) if self.best is not None else []
        if not values or values[-1][0] != step:
            return False
        sign = 1.0 if self.mode == "max" else -1.0
        return all(sign * values[-1][1] > sign * value for _, value in values[:-1])

    def _copy_of_best(self, step: int) -> None:
        """A second name for the file just written, or a copy where the file system has no links."""
        with replacing(self.path(step)) as temporary:
            temporary.unlink()
            try:
                os.link(self.best_path, temporary)
            except OSError:
                temporary.write_bytes(self.best_path.read_bytes())

    def _remove_unfinished(self) -> None:
        """Files that a killed run was just writing; nobody reads them, but they fill the disk."""
        if self.folder.is_dir():
            for file in self.folder.iterdir():
                if _UNFINISHED.fullmatch(file.name):
                    file.unlink(missing_ok=True)

    def _flush_names(self) -> None:
        """Make the renames durable before older files go; file systems that cannot open folders do without."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
