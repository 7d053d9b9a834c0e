"""Figures of faces, training runs and synchrony (extra ``plot``), and landmark videos with audio (extra ``media``).

Every function returns a new :class:`matplotlib.figure.Figure`, without pyplot and its global state; :func:`save_figure`
writes a figure. The colours are the colour-blind safe palette of Okabe and Ito, and lines also differ by marker.
Landmarks are tensors or arrays (frames, points, dims) in any unit, x right and y down; 68 points are joined by lines, any other
number of points is drawn as dots. Source: ours.
"""

from __future__ import annotations

from avsync.figures._style import PALETTE, new_figure, plain_axes, save_figure
from avsync.figures.calibration import expected_calibration_error, reliability_diagram
from avsync.figures.corpus import corpus_figure
from avsync.figures.faces import FACE_LINES, draw_face, face_images, face_strip, landmark_video, mask_figure
from avsync.figures.gif import write_gif
from avsync.figures.plots import confidence_by_level, offset_histogram, offset_over_time, training_curves
from avsync.figures.sync import confidence_along_training, evaluation_figures

__all__ = [
    "FACE_LINES",
    "PALETTE",
    "confidence_along_training",
    "confidence_by_level",
    "corpus_figure",
    "draw_face",
    "evaluation_figures",
    "expected_calibration_error",
    "face_images",
    "face_strip",
    "landmark_video",
    "mask_figure",
    "new_figure",
    "offset_histogram",
    "offset_over_time",
    "plain_axes",
    "reliability_diagram",
    "save_figure",
    "training_curves",
    "write_gif",
]
