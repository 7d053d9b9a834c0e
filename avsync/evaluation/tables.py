"""Tables of results: measures with their unit and direction, cells with intervals; as text, rich text, CSV and JSON."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from avsync._checks import check_count, checked, import_extra
from avsync._files import replacing
from avsync.metrics.bootstrap import bootstrap_interval

BETTER = ("higher", "lower", "zero", "truth")
"""Direction of better values: high, low, near zero, or near the value of the ground truth."""
ARROWS = {"higher": "↑", "lower": "↓", "zero": "→0", "truth": ""}
CSV_COLUMNS = ("row", "measure", "level", "unit", "better", "estimate", "low", "high", "clips")


@dataclass(frozen=True)
class Measure:
    """Description of a column of a table.

    Attributes:
        key: Name for machines, such as "confidence".
        title: Name for people.
        better: One of ``BETTER``.
        unit: Of the values; "" for none.
        section: Title of the table that it stands in.
        level: Of the pyramid; None for measures without one.
        decimals: Shown to people.
    """

    key: str
    title: str
    better: str
    unit: str
    section: str
    level: int | None = None
    decimals: int = 3

    @property
    def heading(self) -> str:
        """Return the heading of the column: title, direction and unit.

        Example:
            >>> Measure("lmd", "LMD", "lower", "face heights", "Landmarks").heading
            'LMD ↓ (face heights)'
        """
        arrow = ARROWS[self.better]
        return self.title + (f" {arrow}" if arrow else "") + (f" ({self.unit})" if self.unit else "")


class Cell(NamedTuple):
    """A value and its interval."""

    estimate: float | None
    """Mean over the clips with a value; None without such clips."""
    low: float | None
    """Lower end of the 95 % interval; None where there is none."""
    high: float | None
    """Upper end."""
    clips: int
    """Number of clips with a value."""

    @checked
    def text(self, decimals: int = 3) -> str:
        """Return the cell as text.

        Example:
            >>> Cell(0.1234, 0.1, 0.2, 10).text(), Cell(None, None, None, 0).text()
            ('0.123 [0.100, 0.200]', 'none')
        """
        check_count("decimals", decimals, 0)
        if self.estimate is None:
            return "none"
        if self.low is None or self.high is None:
            return f"{self.estimate:.{decimals}f}"
        return f"{self.estimate:.{decimals}f} [{self.low:.{decimals}f}, {self.high:.{decimals}f}]"


def cell(values: Sequence[float], groups: Sequence[str], *, resamples: int = 2000) -> Cell:
    """Compute the mean over clips with its 95 % interval, by resampling whole groups.

    Args:
        values: One per clip; NaN for a clip that has no value, which is left out.
        groups: Speaker of each clip.
        resamples: Number of bootstrap resamples.

    Returns:
        :class:`Cell`. With clips of a single group there is no interval.

    Example:
        >>> cell([1.0, 3.0, float("nan")], ["a", "b", "c"]).estimate
        2.0
        >>> cell([1.0, 3.0], ["a", "a"])
        Cell(estimate=2.0, low=None, high=None, clips=2)

    Source: ours; see :func:`avsync.metrics.bootstrap.bootstrap_interval`.
    """
    known = [number for number, value in enumerate(values) if math.isfinite(value)]
    if not known:
        return Cell(None, None, None, 0)
    kept = torch.tensor([values[number] for number in known], dtype=torch.float64)
    names = [groups[number] for number in known]
    if len(set(names)) < 2:
        return Cell(float(kept.mean()), None, None, len(known))
    found = bootstrap_interval(kept, groups=names, resamples=resamples)
    return Cell(float(found.estimate), float(found.low), float(found.high), len(known))


@dataclass(frozen=True)
class Table:
    """Rows and measures.

    Attributes:
        measures: The columns.
        cells: For every row, a cell for each measure, in their order.

    Example:
        >>> table = Table((Measure("lmd", "LMD", "lower", "", "Landmarks"),), {"mine": (Cell(0.5, None, None, 3),)})
        >>> print(table.text())
        Landmarks
              LMD ↓
        mine  0.500

    Source: ours.
    """

    measures: tuple[Measure, ...]
    cells: Mapping[str, tuple[Cell, ...]]

    def sections(self) -> dict[str, list[int]]:
        """Return the indices of the measures of each section."""
        found: dict[str, list[int]] = {}
        for number, measure in enumerate(self.measures):
            found.setdefault(measure.section, []).append(number)
        return found

    def text(self, *, width: int = 80) -> str:
        """Return plain text, one block per section; sections wider than ``width`` characters continue in further blocks."""
        blocks = []
        for title, columns in self.sections().items():
            lines = [["", *(self.measures[number].heading for number in columns)]]
            lines += [[row, *self._texts(cells, columns)] for row, cells in self.cells.items()]
            widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
            # The columns of each block, without that of the names.
            parts: list[list[int]] = [[]]
            for column in range(1, len(widths)):
                if parts[-1] and widths[0] + sum(widths[other] + 2 for other in [*parts[-1], column]) > width:
                    parts.append([])
                parts[-1].append(column)
            for number, part in enumerate(parts):
                # Names to the left, numbers to the right.
                body = [
                    "  ".join([line[0].ljust(widths[0]), *(line[column].rjust(widths[column]) for column in part)]).rstrip()
                    for line in lines
                ]
                blocks.append("\n".join([f"{title}, continued" if number else title, *body]))
        return "\n\n".join(blocks)

    def _texts(self, cells: tuple[Cell, ...], columns: list[int]) -> list[str]:
        return [cells[number].text(self.measures[number].decimals) for number in columns]

    def rows(self) -> list[dict[str, Any]]:
        """Return one dictionary per row and measure, with the keys of ``CSV_COLUMNS``."""
        return [
            {
                "row": row,
                "measure": measure.key,
                "level": measure.level,
                "unit": measure.unit,
                "better": measure.better,
                **found._asdict(),
            }
            for row, cells in self.cells.items()
            for measure, found in zip(self.measures, cells, strict=True)
        ]


@checked
def write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    r"""Write rows as CSV atomically; None is an empty field.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_csv(Path(folder, "a.csv"), [{"row": "mine", "low": None}], ["row", "low"])
        ...     Path(folder, "a.csv").read_text()
        'row,low\nmine,\n'

    Source: ours.
    """
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def print_rich(table: Table, *, bounds: Sequence[str] = ()) -> None:
    """Print a table with colours and lines; baselines in grey, the best method of each column in bold.

    Args:
        table: Table to print.
        bounds: Rows of baselines.

    Raises:
        MissingExtraError: ``rich`` is not installed; :meth:`Table.text` needs nothing.

    Source: ours.
    """
    console = import_extra("rich.console", "rich").Console()
    new_table, text_of = import_extra("rich.table", "rich").Table, import_extra("rich.text", "rich").Text
    for title, columns in table.sections().items():
        drawn = new_table(title=title, title_justify="left")
        drawn.add_column("")
        for number in columns:
            drawn.add_column(text_of(table.measures[number].heading), justify="right")
        best = {number: best_row(table, number, bounds) for number in columns}
        for row, cells in table.cells.items():
            grey = "dim" if row in bounds else ""
            texts = zip(columns, table._texts(cells, columns), strict=True)
            drawn.add_row(
                text_of(row, style=grey),
                *(text_of(text, style="bold" if best[number] == row else grey) for number, text in texts),
            )
        console.print(drawn)


def best_row(table: Table, number: int, bounds: Sequence[str] = ()) -> str | None:
    """Return the method with the best value of a measure; baselines do not compete. None for fewer than two methods or a tie.

    Example:
        >>> measure = Measure("lmd", "LMD", "lower", "", "Landmarks")
        >>> best_row(Table((measure,), {"a": (Cell(0.5, None, None, 3),), "b": (Cell(0.4, None, None, 3),)}), 0)
        'b'

    Source: ours.
    """
    values = {row: cells[number].estimate for row, cells in table.cells.items() if row not in bounds}
    known = {row: value for row, value in values.items() if value is not None}
    better = table.measures[number].better
    if len(known) < 2 or better == "truth":
        return None
    keys = {"lower": lambda row: known[row], "higher": lambda row: -known[row], "zero": lambda row: abs(known[row])}
    return min(known, key=keys[better])
