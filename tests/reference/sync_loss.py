"""Equations (3) and (4), window by window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def level_sync_loss(motion: Array, audio: Array, counts: NDArray[np.bool_] | None = None) -> float:
    """Minus the mean cosine of the windows (batch, windows, embed) that count."""
    scores = []
    for clip in range(audio.shape[0]):
        for window in range(audio.shape[1]):
            if counts is None or counts[clip, window]:
                a, x = audio[clip, window], motion[clip, window]
                scores.append(float(a @ x) / (np.linalg.norm(a) * np.linalg.norm(x)))
    return -float(np.mean(scores)) if scores else 0.0


def multi_scale_sync_loss(motion: Sequence[Array], audio: Sequence[Array], weights: Sequence[float]) -> float:
    """The weighted mean over the levels."""
    parts = [weight * level_sync_loss(x, a) for weight, x, a in zip(weights, motion, audio, strict=True)]
    return float(sum(parts) / sum(weights))
