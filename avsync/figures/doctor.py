"""Figures of the convergence doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avsync.errors import ArgumentError
from avsync.figures._style import GREY, PALETTE, new_figure, plain_axes
from avsync.pyramid import FPS
from avsync.training.doctor.alignment import REACH
from avsync.training.doctor.examination import Examination

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def examination_figure(examination: Examination) -> Figure:
    """Draw the lag scan of a corpus and, if available, the losses on the memorised batch.

    Args:
        examination: From :func:`avsync.training.doctor.examination.examine`.

    Returns:
        The figure.

    Raises:
        ArgumentError: No clip was read, so there is nothing to draw.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> from avsync.corpus.synthetic.talker import SyntheticCorpus
        >>> from avsync.training.doctor import examine
        >>> figure = examination_figure(examine(SyntheticCorpus(speakers=1, clips_per_speaker=1, seconds=4.0)))
        >>> figure.axes[0].get_xlabel()
        'lag of the motion after the audio (frames of 40 ms)'

    Source: ours.
    """
    scan, overfit = examination.scan, examination.overfit
    if scan is None or not scan.seconds:
        raise ArgumentError("`examination`: expected one of a corpus with clips of a second or more, got one without")
    figure = new_figure(5.2 if overfit is None else 9.6, 3.4)
    panels = figure.subplots(1, 1 if overfit is None else 2, squeeze=False)[0]
    near = abs(scan.lags) <= REACH * scan.fps / FPS
    peak = scan.peak()
    axes = panels[0]
    axes.plot(scan.lags[near], scan.curve()[near], color=PALETTE[0], linewidth=1.4)
    axes.axvline(0, color=GREY, linewidth=1.0, linestyle="--")
    axes.plot(peak.offset_frames, peak.height, "o", color=PALETTE[1])
    axes.set_title(f"lips and audio: peak at {peak.offset_frames:+.1f} frames", fontsize=10)
    axes.set(xlabel=f"lag of the motion after the audio (frames of {1000 / scan.fps:.3g} ms)", ylabel="correlation")
    plain_axes(axes)
    if overfit is not None:
        axes = panels[1]
        for level, curve in enumerate(overfit.curves):
            axes.plot(
                range(1, len(curve) + 1), curve, color=PALETTE[level % len(PALETTE)], linewidth=1.4, label=f"level {level}"
            )
        axes.axhline(1, color=GREY, linewidth=1.0, linestyle="--")
        axes.set_title(f"one batch of {overfit.crops} crops, by heart", fontsize=10)
        axes.set(xlabel="step", ylabel="loss over its chance level", ylim=(0, None))
        axes.legend(frameon=False, fontsize=9)
        plain_axes(axes)
    return figure
