"""Figures of a run: confidence by both models, geometry, and faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from measure import Row
from torch import Tensor

from avsync.corpus import Batch, ClipBank
from avsync.figures import PALETTE, face_strip, landmark_video, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOUNDS = ("truth", "still")


def comparison_figure(rows: Sequence[Row]) -> Figure:
    """Draw confidence by the guide and by the evaluation model, as multiples of the true motion's, and geometry.

    Args:
        rows: All rows, "truth" and "still" among them.

    Returns:
        The figure.
    """
    truth = next(row for row in rows if row.name == "truth")
    arms = [row for row in rows if row.name not in BOUNDS]
    levels = range(len(truth.confidence["judge"]))
    still = next(row for row in rows if row.name == "still")
    # The true motion has no error to compare with, a static face has.
    yardsticks = {"error": still.geometry["error"][0]} | {name: truth.geometry[name][0] for name in ("jitter", "off_basis")}
    figure = new_figure(9.6, 3.4)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1))
    for index, row in enumerate(arms):
        color = PALETTE[index % len(PALETTE)]
        places = [level + (index - (len(arms) - 1) / 2) * 0.13 for level in levels]
        for axes, role in ((left, "guide"), (middle, "judge")):
            scale = [true[0] for true in truth.confidence[role]]
            means, lows, highs = (
                [interval[part] / size for interval, size in zip(row.confidence[role], scale, strict=True)] for part in range(3)
            )
            errors = [[m - low for m, low in zip(means, lows, strict=True)], [h - m for m, h in zip(means, highs, strict=True)]]
            axes.errorbar(places, means, yerr=errors, fmt="o", color=color, markersize=4, capsize=2, label=row.name)
        for place, (name, size) in enumerate(yardsticks.items()):
            ratio = [value / size for value in row.geometry[name]]
            error = [[ratio[0] - ratio[1]], [ratio[2] - ratio[0]]]
            right.errorbar(place + (index - (len(arms) - 1) / 2) * 0.1, ratio[0], yerr=error, fmt="o", color=color, capsize=2)
    for axes, title in ((left, "confidence by the guide"), (middle, "confidence by the evaluation model")):
        axes.set(xticks=list(levels), xlabel="level", title=title)
    left.set_ylabel("multiple of the true motion's")
    right.set(
        xticks=[0, 1, 2], xticklabels=["error /\nstill face's", "jitter /\ntruth's", "off basis /\ntruth's"], title="geometry"
    )
    # Motion in the basis has a zero that no logarithm shows: below the axis.
    right.set(xlim=(-0.5, 2.5), yscale="log", ylim=(0.5, None))
    for axes in (left, middle, right):
        plain_axes(axes)
        axes.axhline(1.0, color="#999999", linestyle="--", linewidth=1)
        axes.title.set_fontsize(10)
    left.set_ylim(bottom=0)
    middle.set_ylim(bottom=0)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(arms), frameon=False)
    return figure


def sample_strip(faces: Mapping[str, Tensor]) -> Figure:
    """Draw ten instants of one clip, the truth and every arm in rows."""
    return face_strip(faces)


def sample_video(path: Path, faces: Mapping[str, Tensor], chosen: int, bank: ClipBank, clips: Any, crops: Batch) -> None:
    """Write a video of one clip of the truth and every arm, with audio; ``faces`` are (clips, frames, points, dims) each."""
    clip = next(clip for clip in clips if clip.id == bank.ids[int(crops.clip_index[chosen])])
    frames = crops.landmarks.shape[1]
    begin = 640 * int(crops.start[chosen])
    waveform = torch.from_numpy(clip.waveform[begin : begin + 640 * frames])
    landmark_video(path, {name: motion[chosen] for name, motion in faces.items()}, waveform=waveform)
