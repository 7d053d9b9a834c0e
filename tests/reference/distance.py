"""Distances of landmarks, point by point and frame by frame."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def lmd(preds: Array, target: Array, *, over_points: str) -> float:
    """LMD of one clip, (frames, 68, dims) each."""
    total = 0.0
    for pred, true in zip(preds, target, strict=True):
        pred_mouth = pred[48:68] - sum(pred[48:68]) / 20
        true_mouth = true[48:68] - sum(true[48:68]) / 20
        distances = [math.dist(p, t) for p, t in zip(pred_mouth, true_mouth, strict=True)]
        total += sum(distances) / (20 if over_points == "mean" else 1)
    return total / len(preds)


def error(preds: Array, target: Array) -> float:
    """Mean distance of all points of one clip."""
    distances = [math.dist(p, t) for pred, true in zip(preds, target, strict=True) for p, t in zip(pred, true, strict=True)]
    return sum(distances) / len(distances)


def velocity_error(preds: Array, target: Array) -> float:
    """Mean length of the difference of velocities of one clip."""
    return error(preds[1:] - preds[:-1], target[1:] - target[:-1])


def opening_correlation(preds: Array, target: Array) -> float:
    """NumPy's correlation of the inner lips' distance."""
    openings = [[math.dist(frame[62], frame[66]) for frame in clip] for clip in (preds, target)]
    return float(np.corrcoef(openings)[0, 1])
