"""Plots of training runs and of synchrony."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from avsync._checks import MeasuredFloat, check_positive, checked
from avsync.errors import ArgumentError
from avsync.figures._style import GREY, MARKERS, PALETTE, new_figure, plain_axes
from avsync.pyramid import level_fps, window_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@checked
def training_curves(
    history: Mapping[str, Sequence[tuple[int, MeasuredFloat]]],
    *,
    chance: float | None = None,
    xlabel: str = "training step",
    ylabel: str = "loss",
    title: str = "",
    log: bool = False,
) -> Figure:
    """Draw curves over training steps, with the chance level as a dashed line.

    Args:
        history: (step, value) pairs by name, one curve each.
        chance: Chance level, such as log(49) for 48 negatives.
        xlabel: Label of the steps, if they are others.
        ylabel: Label of the value axis, with its unit.
        title: Title of the plot.
        log: Logarithmic value axis.

    Returns:
        The figure.

    Raises:
        ArgumentError: No curve.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> figure = training_curves({"level 0": [(0, 3.9), (100, 1.2)], "level 1": [(0, 3.9), (100, 2.0)]}, chance=3.89)
        >>> len(figure.axes[0].lines)
        3

    Source: ours.
    """
    if not history:
        raise ArgumentError("`history`: expected at least one curve, got none")
    figure = new_figure(7.2, 3.8)
    axes = figure.subplots()
    for index, (name, pairs) in enumerate(history.items()):
        steps, values = [step for step, _ in pairs], [value for _, value in pairs]
        axes.plot(
            steps,
            values,
            color=PALETTE[index % len(PALETTE)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
            markevery=max(1, len(steps) // 12),
            linewidth=1.4,
            label=name,
        )
    if chance is not None:
        axes.axhline(chance, color=GREY, linestyle="--", linewidth=1.2, label=f"chance level ({chance:.3g})")
    if log:
        axes.set_yscale("log")
    plain_axes(axes)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))  # next to the axes, where no curve runs
    return figure


@checked
def offset_histogram(
    offsets: Sequence[Tensor | npt.NDArray[Any]], *, search: Sequence[int] | None = None, fps: float = 25.0, tolerance: int = 1
) -> Figure:
    """Draw a histogram of offsets, one panel per level; offsets that count as right are coloured.

    Args:
        offsets: For every level, (clips,) offsets in frames of that level; 0 is right. NaN for clips whose offset cannot be
            determined (:func:`avsync.metrics.known_offset`): these clips have no bar and do not count as right.
        search: For every level, the largest offset that was searched; by default the largest found.
        fps: Frames per second at level 0; a frame of level i lasts 2^i / fps seconds.
        tolerance: Largest offset that counts as right, in frames of the level.

    Returns:
        The figure.

    Raises:
        ArgumentError: No level, or ``search`` differs from ``offsets`` in length.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> import torch
        >>> figure = offset_histogram([torch.tensor([0, 0, 1, -7]), torch.tensor([0, 2, 0, 0])], search=[15, 15])
        >>> figure.axes[0].get_title()
        'level 0: 75 % within 1 frame'

    Source: ours.
    """
    check_positive("fps", fps)
    if not offsets or (search is not None and len(search) != len(offsets)):
        raise ArgumentError(f"`offsets`, `search`: expected one entry per level each, got {len(offsets)} and {search}")
    figure = new_figure(3.1 * len(offsets), 3.0)
    draw_offsets(list(figure.subplots(1, len(offsets), squeeze=False)[0]), offsets, search, fps, tolerance)
    return figure


def draw_offsets(
    panels: Sequence[Axes],
    offsets: Sequence[Tensor | npt.NDArray[Any]],
    search: Sequence[int] | None,
    fps: float,
    tolerance: int,
) -> None:
    """Draw the histograms of :func:`offset_histogram` into existing axes, one per level; same arguments."""
    for level, (axes, found) in enumerate(zip(panels, offsets, strict=True)):
        values = np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found, dtype=np.float64).reshape(-1)
        reach = int(np.nan_to_num(np.abs(values)).max(initial=tolerance + 1)) if search is None else search[level]
        positions = np.arange(-reach, reach + 1)
        shares = (
            np.array([(np.round(values) == position).mean() for position in positions]) * 100
            if values.size
            else positions * 0.0
        )
        colors = [PALETTE[0] if abs(position) <= tolerance else PALETTE[1] for position in positions]
        axes.bar(positions, shares, color=colors, width=0.85)
        right = 100 * (np.abs(values) <= tolerance).mean() if values.size else float("nan")
        axes.set_title(f"level {level}: {right:.0f} % within {tolerance} frame{'s' if tolerance > 1 else ''}", fontsize=10)
        axes.set(
            xlabel=f"offset (frames of {1000 / level_fps(fps, level):g} ms)", ylim=(0, 100), xlim=(-reach - 0.7, reach + 0.7)
        )
        plain_axes(axes)
    panels[0].set_ylabel("clips (%)")


@checked
def confidence_by_level(
    rows: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    ylabel: str = "AV confidence",
    bounds: Sequence[str] = (),
    window_frames: int = 5,
    fps: float = 25.0,
) -> Figure:
    r"""Draw the synchrony of several methods at every level, with intervals (the paper's figure 5).

    Args:
        rows: For every method, one (mean, low, high) per level.
        ylabel: Label of the value axis, with its unit.
        bounds: Names of the rows with reference values (ground truth, static, shuffled), drawn grey and dashed.
        window_frames: Motion frames per window; with ``fps``, defines the durations on the axis.
        fps: Frames per second at level 0.

    Returns:
        The figure.

    Raises:
        ArgumentError: No row, or rows of different lengths.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> rows = {"ours": [(0.2, 0.1, 0.3), (0.1, 0.0, 0.2)], "static": [(0.0, 0.0, 0.0)] * 2}
        >>> figure = confidence_by_level(rows, bounds=["static"])
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['level 0\n200 ms', 'level 1\n400 ms']

    Source: ours.
    """
    check_positive("fps", fps)
    lengths = {name: len(row) for name, row in rows.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ArgumentError(f"`rows`: expected at least one row and one length of all, got {lengths}")
    unknown = set(bounds) - set(rows)
    if unknown:
        raise ArgumentError(f"`bounds`: expected names of `rows`, got {sorted(unknown)}")
    levels = next(iter(lengths.values()))
    figure = new_figure(7.2, 4.0)
    axes = figure.subplots()
    places = np.arange(levels)
    drawn = shade = 0
    for index, (name, row) in enumerate(rows.items()):
        mean, low, high = np.array(row, dtype=np.float64).T
        spread = (index - (len(rows) - 1) / 2) * min(0.08, 0.5 / len(rows))  # side by side, so that no interval hides another
        if name in bounds:
            color, line, marker = ("#555555", "#999999", "#bbbbbb")[shade % 3], ("--", ":", "-.")[shade % 3], "_"
            shade += 1
        else:
            color, line, marker = PALETTE[drawn % len(PALETTE)], "-", MARKERS[drawn % len(MARKERS)]
            drawn += 1
        error = np.maximum(np.stack([mean - low, high - mean]), 0)
        axes.errorbar(
            places + spread,
            mean,
            error,
            color=color,
            linestyle=line,
            marker=marker,
            markersize=6,
            capsize=3,
            linewidth=1.4,
            label=name,
        )
    labels = [f"level {level}\n{1000 * window_seconds(level, window=window_frames, fps=fps):g} ms" for level in range(levels)]
    axes.set_xticks(places, labels)
    axes.set(ylabel=ylabel, xlim=(-0.45, levels - 0.55))
    plain_axes(axes)
    axes.axhline(0, color="#444444", linewidth=0.8)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@checked
def offset_over_time(times: Sequence[float], offsets: Sequence[float | None], *, title: str = "") -> Figure:
    """Draw the offset of a recording over time.

    Args:
        times: Middle of each part, in seconds.
        offsets: Offset of each part in seconds, positive if the audio is early; None if it cannot be determined, which leaves a
            gap and a grey tick on the axis of time.
        title: Title of the plot.

    Returns:
        The figure.

    Raises:
        ArgumentError: There is no part, or not one offset per time.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> figure = offset_over_time([2.0, 3.0, 4.0], [0.04, None, 0.12])
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [40.0, nan, 120.0]

    Source: ours.
    """
    if not times or len(times) != len(offsets):
        raise ArgumentError(f"`offsets`: expected one per time and at least one, got {len(offsets)} for {len(times)} times")
    figure = new_figure(7.2, 3.2)
    axes = figure.subplots()
    values = [np.nan if offset is None else 1000 * offset for offset in offsets]
    axes.plot(times, np.array(values), color=PALETTE[0], marker=MARKERS[0], markersize=4, linewidth=1.4)
    unknown = [time for time, offset in zip(times, offsets, strict=True) if offset is None]
    axes.plot(unknown, [0.0] * len(unknown), linestyle="none", color=GREY, marker="|", markersize=8)
    axes.axhline(0.0, color=GREY, linewidth=0.8, linestyle="--")
    axes.set_xlabel("time, s")
    axes.set_ylabel("offset, ms (positive: audio early)")
    axes.set_title(title)
    plain_axes(axes)
    return figure
