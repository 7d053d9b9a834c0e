"""Logs of a training run: a CSV file and TensorBoard's events."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from avsync._checks import checked, import_extra
from avsync._files import replacing
from avsync.errors import CheckpointError

COLUMNS = ("step", "name", "value")


class TrainingLog:
    """Log that writes every value twice: as a row of ``metrics.csv`` (step, name, value) and as a TensorBoard scalar.

    Rows reach the disk as they are logged. A resumed run first removes the rows after its step, so that the file of a run that
    was killed any number of times equals the file of an undisturbed one.

    Args:
        folder: Folder of ``metrics.csv`` and the event files; created if it does not exist.
        last_step: The step after which the run continues; 0 for a new run, which begins a new file.
        prefix: Name of the run, put before every name in TensorBoard.

    Raises:
        CheckpointError: The ``metrics.csv`` of the resumed run is damaged.
        MissingExtraError: tensorboard is not installed (extra "train").

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with TrainingLog(folder) as log:
        ...         log.write(10, {"loss": 0.5})
        ...     print((Path(folder) / "metrics.csv").read_text().split())
        ['step,name,value', '10,loss,0.5']

    Source: ours.
    """

    def __init__(self, folder: str | os.PathLike[str], *, last_step: int = 0, prefix: str = "") -> None:
        self.path = Path(folder) / "metrics.csv"
        self.prefix = f"{prefix}/" if prefix else ""
        rows = [row for row in read_log(folder) if row[0] <= last_step] if last_step else []
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
        self._file = self.path.open("a", newline="", encoding="utf-8")
        board = import_extra("torch.utils.tensorboard", "train", package="tensorboard")
        # TensorBoard leaves out the events of an interrupted run that are later than its checkpoint.
        self._board: Any = board.SummaryWriter(str(folder), purge_step=last_step + 1 if last_step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step."""
        csv.writer(self._file, lineterminator="\n").writerows((step, name, repr(value)) for name, value in values.items())
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(self.prefix + name, value, step)

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._board.close()

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close both files."""
        self.close()


def check_step(step: int) -> int:
    """Return a step read from a file; raise ValueError for numbers that no run reaches and no figure can draw."""
    if not 0 <= step < 1 << 63:
        raise ValueError(f"expected a step from 0 to 2^63, got {step!r:.40}")
    return step


@checked
def read_log(folder: str | os.PathLike[str]) -> list[tuple[int, str, float]]:
    """Read the rows of a folder's ``metrics.csv`` as (step, name, value); none if the file does not exist.

    A last row that a killed run did not finish is left out.

    Raises:
        CheckpointError: The file has another format.

    Example:
        >>> read_log("nowhere")
        []
    """
    path = Path(folder) / "metrics.csv"
    if not path.is_file():
        return []
    number = 1
    try:
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        header, *rows = csv.reader(whole.splitlines() or [""], strict=True)
        if tuple(header) != COLUMNS:
            raise ValueError(f"expected the columns {', '.join(COLUMNS)}, got {', '.join(header)!r}")
        read = []
        for number, (step, name, value) in enumerate(rows, start=2):  # noqa: B007 - the error below names the line
            read.append((check_step(int(step)), name, float(value)))
    except (OSError, ValueError, csv.Error) as error:
        raise CheckpointError(f"{path} is damaged: line {number} is not a step, a name and a value ({error})") from error
    return read
