"""The Frechet distance as everybody writes it: NumPy's covariances and SciPy's matrix square root."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

Array = npt.NDArray[np.float64]


def frechet_distance(preds: Array, target: Array) -> float:
    """Of two sets of features (vectors, features) whose covariances have full rank."""
    mean1, mean2 = preds.mean(axis=0), target.mean(axis=0)
    first, second = np.atleast_2d(np.cov(preds, rowvar=False)), np.atleast_2d(np.cov(target, rowvar=False))
    root = np.asarray(scipy.linalg.sqrtm(first @ second))
    return float(np.sum((mean1 - mean2) ** 2) + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


def frechet_distance_of_few(preds: Array, target: Array) -> float:
    """The same for any rank: the trace of the root is the sum of the singular values of the product of the centred features."""
    mean1, mean2 = preds.mean(axis=0), target.mean(axis=0)
    first, second = (preds - mean1) / np.sqrt(len(preds) - 1), (target - mean2) / np.sqrt(len(target) - 1)
    root = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return float(np.sum((mean1 - mean2) ** 2) + np.sum(first**2) + np.sum(second**2) - 2 * root)
