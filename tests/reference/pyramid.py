"""Equation (5), frame by frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mirrored(index: int, length: int) -> int:
    """The frame that stands for ``index`` when a clip of ``length`` frames is mirrored at its first and last frame."""
    if index < 0:
        index = -index
    return 2 * (length - 1) - index if index >= length else index


def blur_downsample(x: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """(frames, ...) to (ceil(frames / 2), ...)."""
    length = x.shape[0]
    return np.stack(
        [
            sum(x[mirrored(2 * t + k, length)] for k in range(-radius, radius + 1)) / (2 * radius + 1)
            for t in range((length + 1) // 2)
        ]
    )
