"""Colours, canvases and files of all figures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avsync._checks import check_choice, check_positive, check_type, checked, import_extra
from avsync._files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of Okabe and Ito, the most legible first."""
MARKERS = "osD^vPX"
GREY = "#8a8a8a"


@checked
def new_figure(width: float, height: float, *, dpi: float = 120, layout: str = "constrained") -> Figure:
    """Create a figure; width and height in inches."""
    for name, value in (("width", width), ("height", height), ("dpi", dpi)):
        check_positive(name, value)
    check_choice("layout", layout, ("constrained", "compressed", "tight", "none"))
    figure: Figure = import_extra("matplotlib.figure", "plot").Figure(figsize=(width, height), dpi=dpi, layout=layout)
    return figure


@checked
def plain_axes(axes: Axes) -> None:
    """Remove the top and right spines and draw a faint grid."""
    check_type("axes", axes, import_extra("matplotlib.axes", "plot").Axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


@checked
def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write a figure atomically; the suffix of ``path`` (``.png``, ``.svg``, ``.pdf``) sets the format.

    Args:
        figure: Figure to write.
        path: The file to write.
        dpi: Pixels per inch, for ``.png``.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from avsync.figures import training_curves
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_figure(training_curves({"loss": [(0, 1.0), (10, 0.5)]}), Path(folder, "loss.png"))

    Source: ours.
    """
    check_type("figure", figure, import_extra("matplotlib.figure", "plot").Figure)
    check_positive("dpi", dpi)
    with replacing(path) as part:
        figure.savefig(part, dpi=dpi)
