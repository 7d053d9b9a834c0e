"""Reliability diagrams and the expected calibration error of probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from avsync._checks import check_positive, checked
from avsync.errors import ArgumentError
from avsync.figures._style import GREY, MARKERS, PALETTE, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _array(values: Tensor | npt.NDArray[Any] | Sequence[float]) -> npt.NDArray[np.float64]:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64).reshape(-1)


def _pair(
    name: str,
    probabilities: Tensor | npt.NDArray[Any] | Sequence[float],
    right: Tensor | npt.NDArray[Any] | Sequence[float | bool],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    p, y = _array(probabilities), _array(right)
    if p.size == 0 or p.shape != y.shape:
        raise ArgumentError(f"`{name}`: expected as many outcomes as probabilities, at least one, got {y.size} and {p.size}")
    if not ((p >= 0) & (p <= 1)).all() or not np.isin(y, (0, 1)).all():
        raise ArgumentError(f"`{name}`: expected probabilities from 0 to 1 and outcomes of 0 or 1")
    return p, y


@checked
def expected_calibration_error(
    probabilities: Tensor | npt.NDArray[Any] | Sequence[float],
    right: Tensor | npt.NDArray[Any] | Sequence[float | bool],
    *,
    bins: int = 10,
) -> float:
    """Compute the expected calibration error: the mean gap between stated and observed probability over bins of equal width.

    Args:
        probabilities: (clips,), from 0 to 1.
        right: Outcomes, (clips,) of 0 and 1 or bool.
        bins: Number of bins of equal width.

    Returns:
        From 0 (calibrated) to 1. Lower is better; a small number of clips per bin increases the error by chance.

    Raises:
        ArgumentError: The numbers of outcomes and probabilities differ, values out of range, or no bin.

    Example:
        >>> expected_calibration_error([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0])
        0.0

    Source: the usual definition.
    """
    check_positive("bins", bins)
    p, y = _pair("right", probabilities, right)
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    gaps = [abs(p[bin_of == k].sum() - y[bin_of == k].sum()) for k in range(bins)]
    return float(sum(gaps) / p.size)


@checked
def reliability_diagram(
    panels: Mapping[str, Mapping[str, tuple[Any, Any]]], *, bins: int = 10, xlabel: str = "probability within one frame"
) -> Figure:
    """Draw predicted against observed probability, one panel per level, with the share of clips in each bin underneath.

    Each point is one bin of equal width: the mean probability of its clips, and the share of right clips with a 95 % Wilson
    interval. Points on the diagonal are calibrated; points below the diagonal are overconfident. The error in each panel is
    :func:`expected_calibration_error`.

    Args:
        panels: For every level's name, one or more kinds of clips by name: probabilities (clips,) and outcomes (clips,).
        bins: Number of bins of equal width.
        xlabel: Label of the probability axis.

    Returns:
        The figure.

    Raises:
        ArgumentError: No panel, a panel without kinds, or clips as :func:`expected_calibration_error` refuses them.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> figure = reliability_diagram({"level 0": {"all clips": ([0.2, 0.9, 0.9], [0, 1, 1])}})
        >>> figure.axes[0].get_title()
        'level 0'

    Source: ours.
    """
    check_positive("bins", bins)
    if not panels or not all(panels.values()):
        raise ArgumentError("`panels`: expected at least one panel with at least one kind of clips, got none")
    figure = new_figure(3.2 * len(panels), 4.5)
    rows = figure.subplots(2, len(panels), squeeze=False, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
    edges, handles = np.linspace(0, 1, bins + 1), {}
    for column, (title, kinds) in enumerate(panels.items()):
        axes, below = rows[0][column], rows[1][column]
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
        for index, (name, (probabilities, right)) in enumerate(kinds.items()):
            p, y = _pair(name, probabilities, right)
            bin_of = np.minimum((p * bins).astype(int), bins - 1)
            filled = [k for k in range(bins) if (bin_of == k).any()]
            mean, share, low, high = np.array([_bin(p[bin_of == k], y[bin_of == k]) for k in filled]).T
            color, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
            error = np.stack([share - low, high - share])
            handles[name] = axes.errorbar(
                mean, share, error, color=color, marker=marker, markersize=5, capsize=2, linewidth=1.2
            )
            missed = f"error {expected_calibration_error(p, y, bins=bins):.3f}"
            axes.text(0.97, 0.03 + 0.08 * index, missed, color=color, fontsize=8, ha="right", transform=axes.transAxes)
            counts = np.histogram(p, edges)[0] / p.size * 100
            width = 0.9 / bins / len(kinds)
            below.bar(edges[:-1] + 0.05 / bins + width * (index + 0.5), counts, width=width, color=color)
        axes.set_title(title, fontsize=10)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        below.set(xlabel=xlabel, ylim=(0, 100))
        plain_axes(axes)
        plain_axes(below)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    rows[0][0].set_ylabel("share right")
    rows[1][0].set_ylabel("clips (%)")
    return figure


def _bin(p: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return mean probability, share right, and Wilson's interval of the share."""
    count, share, z = p.size, float(y.mean()), 1.96
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))) / (1 + z**2 / count)
    # At 0 and 1, rounding can move the end of the interval past the share.
    return float(p.mean()), share, min(share, centre - half), max(share, centre + half)
