"""Figures of evaluations: the figures of the paper, and confidence over training steps at each level (figure 5)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from avsync._checks import checked
from avsync._files import read_json, untrusted
from avsync.errors import ArgumentError
from avsync.evaluation.methods import Evaluation
from avsync.evaluation.tables import Cell
from avsync.figures._style import GREY, MARKERS, PALETTE, new_figure, plain_axes
from avsync.figures.faces import face_strip
from avsync.figures.plots import confidence_by_level, offset_histogram
from avsync.pyramid import window_seconds
from avsync.training.logging import COLUMNS, check_step, read_log

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure

HISTORY_KINDS = {
    "confidence": "AV confidence",
    "gap": "cosine in sync less out of sync",
    "in_sync": "cosine in sync",
    "acc": "accuracy",
}
"""Prefixes of per-level values in a history and their axis labels, in order of preference."""

_DRAWN_BOUNDS = ("ground truth", "static", "shuffled")

Curves = list[list[tuple[int, float]]]


def read_history(path: str | os.PathLike[str]) -> dict[str, list[tuple[int, float]]]:
    """Read the curves of a training run from ``metrics.csv`` (step, name, value), or from JSON of names to (step, value) lists.

    Args:
        path: ``metrics.csv``, ``history.json``, or a folder with one of these files.

    Returns:
        (step, value) pairs by name.

    Raises:
        ArgumentError: There is no such file, or its content is not a history.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "history.json").write_text('{"confidence0": [[0, 0.1], [10, 0.2]]}')
        ...     read_history(folder)
        {'confidence0': [(0, 0.1), (10, 0.2)]}

    Source: ours.
    """
    source = Path(path)
    if source.is_dir():
        source = next((source / name for name in ("metrics.csv", "history.json") if (source / name).is_file()), source)
    if not source.is_file():
        raise ArgumentError(
            f"`history`: expected metrics.csv, history.json or a folder with one of them, found none at {source}"
        )
    message = f"`history`: expected steps and values in {source}, got"
    with untrusted(ArgumentError, message):
        if source.suffix == ".csv":
            curves: dict[str, list[tuple[int, float]]] = {}
            if source.name != "metrics.csv" or not source.read_text(encoding="utf-8").startswith(",".join(COLUMNS)):
                raise ValueError("not a metrics.csv of a training run")
            for step, name, value in read_log(source.parent):
                curves.setdefault(name, []).append((step, value))
            return curves
        found = read_json(source, error=ArgumentError, message=message)
        return {name: [(check_step(int(step)), float(value)) for step, value in pairs] for name, pairs in found.items()}


def curves_by_level(history: Mapping[str, Sequence[tuple[int, float]]]) -> tuple[str, Curves]:
    """Return the label and the per-level curves of the first kind of synchrony value in a history.

    Args:
        history: From :func:`read_history`.

    Returns:
        Axis label, and (step, value) pairs for every level from 0.

    Raises:
        ArgumentError: The history has none of ``HISTORY_KINDS``.

    Example:
        >>> curves_by_level({"acc0": [(0, 0.1)], "acc1": [(0, 0.2)], "loss": [(0, 4.0)]})
        ('accuracy', [[(0, 0.1)], [(0, 0.2)]])

    Source: ours.
    """
    for kind, label in HISTORY_KINDS.items():
        levels: Curves = []
        while (name := f"{kind}{len(levels)}") in history:
            levels.append(list(history[name]))
        if levels:
            return label, levels
    names = sorted({re.sub(r"\d+$", "", name) for name in history})
    raise ArgumentError(
        f"`history`: expected values such as confidence0, one for each of {list(HISTORY_KINDS)} a level, got {names}"
    )


@checked
def confidence_along_training(
    histories: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
    *,
    ylabel: str = "AV confidence",
    truth: Sequence[float] = (),
    fps: float = 25.0,
    window: int = 5,
) -> Figure:
    """Draw synchrony over training steps, one panel per level (the paper's figure 5).

    Args:
        histories: For every training run, (step, value) pairs per level; the same number of levels for all.
        ylabel: Label of the value axis.
        truth: Value of the ground truth at each level, drawn as a dashed line; none by default.
        fps: Frames per second at level 0.
        window: Motion frames per window.

    Returns:
        The figure.

    Raises:
        ArgumentError: No training run, or different numbers of levels.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> figure = confidence_along_training({"ours": [[(0, 0.0), (100, 0.2)], [(0, 0.0), (100, 0.1)]]}, truth=[0.18, 0.18])
        >>> [axes.get_title() for axes in figure.axes]
        ['level 0: 200 ms', 'level 1: 400 ms']

    Source: paper figure 5.
    """
    counts = {name: len(levels) for name, levels in histories.items()}
    if truth:
        counts["truth"] = len(truth)
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ArgumentError(f"`histories`: expected at least one training run and one number of levels, got {counts}")
    levels = next(iter(counts.values()))
    figure = new_figure(2.9 * levels + 1.2, 3.0)
    panels = figure.subplots(1, levels, squeeze=False, sharex=True)[0]
    for level, axes in enumerate(panels):
        for number, (name, curves) in enumerate(histories.items()):
            steps, values = [step for step, _ in curves[level]], [value for _, value in curves[level]]
            axes.plot(
                steps,
                values,
                color=PALETTE[number % len(PALETTE)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                markevery=max(1, len(steps) // 10),
                linewidth=1.4,
                label=name,
            )
        if truth:
            axes.axhline(truth[level], color=GREY, linestyle="--", linewidth=1.2, label="ground truth")
        axes.set_title(f"level {level}: {1000 * window_seconds(level, window=window, fps=fps):g} ms", fontsize=10)
        axes.set_xlabel("training step")
        plain_axes(axes)
    panels[0].set_ylabel(ylabel)
    panels[-1].legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def evaluation_figures(
    found: Evaluation, *, histories: Mapping[str, str | os.PathLike[str]] | None = None, examples: int = 2, columns: int = 10
) -> dict[str, Figure]:
    """Draw the paper's figures of an evaluation.

    Args:
        found: From :func:`avsync.evaluation.methods.evaluate`.
        histories: Path to the curves of each training run; see :func:`read_history`.
        examples: Number of clips drawn as faces, each of a different speaker.
        columns: Number of instants per clip.

    Returns:
        Figures by name: "offsets", offsets of the real clips at every level (figure 3); "confidence", every method and
        the bounds at every level; "faces-ID", rows of the ground truth and the methods, or the bounds without methods (figure
        4); "training" (figure 5) if histories are given.

    Raises:
        ArgumentError: A history cannot be read, or its levels differ from the levels of the syncers.
        MissingExtraError: Matplotlib is not installed.

    Source: paper figures 3, 4 and 5.
    """
    figures: dict[str, Figure] = {}
    truth: list[float] = []
    search = found.settings["max_offsets"]
    if search:
        real = []
        for level in range(len(search)):
            scored = ~found.values("ground truth", "within_one", level).isnan()
            real.append(found.values("ground truth", "offset", level)[scored])
        figures["offsets"] = offset_histogram(real, search=search)
        rows: dict[str, list[tuple[float, float, float]]] = {}
        for row, cells in found.table.cells.items():
            rows[row] = [
                _ends(cells[number]) for number, measure in enumerate(found.table.measures) if measure.key == "confidence"
            ]
        truth = [mean for mean, _, _ in rows["ground truth"]]
        # Confidence ignores a delay, so "shifted" would coincide with the ground truth; three bounds stay legible.
        kept = {row: values for row, values in rows.items() if row not in found.bounds or row in _DRAWN_BOUNDS}
        figures["confidence"] = confidence_by_level(kept, bounds=[row for row in kept if row in _DRAWN_BOUNDS])
    methods = [row for row in found.motions if row not in found.bounds]
    shown = ["ground truth", *(methods or [row for row in ("static", "shuffled", "reversed") if row in found.motions])]
    first: dict[str, int] = {}
    for number, segment in enumerate(found.segments):
        first.setdefault(segment.group, number)
    for number in list(first.values())[:examples]:
        segment = found.segments[number]
        sequences = {row: found.motions[row][number] for row in shown}
        figures[f"faces-{segment.id}-{segment.start}"] = face_strip(sequences, columns=columns)
    if histories:
        labels, curves = zip(*(curves_by_level(read_history(path)) for path in histories.values()), strict=True)
        if len(set(labels)) > 1:
            raise ArgumentError(f"`histories`: expected one kind of value in all, got {sorted(set(labels))}")
        # The ground truth's confidence is of the evaluation syncers, so it is drawn only with values of the same kind.
        dashed = truth if labels[0] == HISTORY_KINDS["confidence"] and len(truth) == len(curves[0]) else []
        figures["training"] = confidence_along_training(
            dict(zip(histories, curves, strict=True)), ylabel=labels[0], truth=dashed
        )
    return figures


def _ends(found: Cell) -> tuple[float, float, float]:
    """Return mean and both ends of the interval; zero width without an interval."""
    mean = nan if found.estimate is None else found.estimate
    return mean, mean if found.low is None else found.low, mean if found.high is None else found.high
