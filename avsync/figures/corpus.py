"""Figure of corpus statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from avsync._checks import checked
from avsync.corpus.inspect import CorpusStatistics
from avsync.figures._style import PALETTE, new_figure, plain_axes
from avsync.figures.plots import draw_offsets
from avsync.metrics.offset import known_offset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@checked
def corpus_figure(statistics: CorpusStatistics) -> Figure:
    """Draw clip lengths, face heights, speech shares, audio levels and, if known, the offsets at every level.

    Args:
        statistics: From :func:`avsync.corpus.inspect.inspect_corpus`.

    Returns:
        The figure.

    Raises:
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> from avsync.corpus.clip import write_clip, write_index
        >>> from avsync.corpus.inspect import inspect_corpus
        >>> from avsync.corpus.synthetic.talker import synthetic_clip
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_index(folder, [write_clip(synthetic_clip(seconds=2.0), folder)])
        ...     len(corpus_figure(inspect_corpus(folder)).axes)
        4

    Source: ours.
    """
    found = zip(statistics.offsets or (), statistics.confidences or (), strict=True)
    levels = [known_offset(torch.from_numpy(offsets), torch.from_numpy(confidences)) for offsets, confidences in found]
    rows = 2 if levels else 1
    figure = new_figure(12.0, 3.1 * rows + 0.3)
    grid = figure.add_gridspec(rows, 1)
    top = grid[0].subgridspec(1, 4)
    panels: tuple[tuple[str, npt.NDArray[Any], tuple[float, float] | None], ...] = (
        ("length of a clip (s)", statistics.seconds, None),
        ("height of the face (pixels)", statistics.face_heights, None),
        ("share of frames with speech", statistics.speech, (0.0, 1.0)),
        ("level of the audio (dB of full scale)", statistics.rms_db, None),
    )
    for number, (label, values, span) in enumerate(panels):
        axes = figure.add_subplot(top[number])
        _histogram(axes, np.maximum(values, -100.0), span)
        axes.set(xlabel=label, ylabel="clips" if number == 0 else "")
    if levels:
        bottom = grid[1].subgridspec(1, len(levels))
        panels_of_levels = [figure.add_subplot(bottom[level]) for level in range(len(levels))]
        draw_offsets(panels_of_levels, levels, statistics.search, statistics.fps, 1)
    totals = statistics.to_json()
    splits = "; ".join(
        f"{name}: {split['minutes']:.1f} min of {split['speakers']:.0f}" for name, split in totals["splits"].items()
    )
    figure.suptitle(
        f"{totals['clips']} clips, {totals['minutes']:.1f} minutes, {totals['speakers']} speakers ({splits})"
        + (f", {len(statistics.bad)} bad" if statistics.bad else ""),
        fontsize=11,
    )
    return figure


def _histogram(axes: Axes, values: npt.NDArray[Any], span: tuple[float, float] | None) -> None:
    if values.size:
        low, high = span or (float(values.min()), float(values.max()))
        if high - low < 1e-6 * max(1.0, abs(high)):  # equal values: one bar of about the usual width
            low, high = low - 0.5 * max(1.0, 0.1 * abs(low)), high + 0.5 * max(1.0, 0.1 * abs(high))
        bins = int(np.clip(2 * np.sqrt(values.size), 5, 40))
        axes.hist(values, bins=bins, range=(low, high), color=PALETTE[0], edgecolor="white", linewidth=0.4)
        middle = float(np.median(values))
        axes.axvline(middle, color=PALETTE[1], linewidth=1.3)
        axes.set_title(f"median {middle:.3g}", fontsize=9, color=PALETTE[1])
    plain_axes(axes)
