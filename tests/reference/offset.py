"""SyncNet's protocol, pair by pair: D[i, j] = |v_i - a_{i+j-V}|, m_j its mean over i."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def offset_distances(motion: Array, audio: Array, max_offset: int, lead: int, edges: str) -> Array:
    """One clip: (windows, embed) and (audio_windows, embed) to (2 V + 1,)."""
    means = []
    for j in range(2 * max_offset + 1):
        distances = []
        for i in range(motion.shape[0]):
            at = i + j - max_offset + lead
            if 0 <= at < audio.shape[0]:
                distances.append(np.linalg.norm(motion[i] - audio[at]))
            elif edges == "legacy":
                distances.append(np.linalg.norm(motion[i]))
        means.append(np.mean(distances) if distances else np.nan)
    return np.array(means)


def sync_offset(motion: Array, audio: Array, max_offset: int, lead: int, edges: str) -> tuple[int, float, float]:
    """Offset, confidence and smallest distance of one clip."""
    means = offset_distances(motion, audio, max_offset, lead, edges)
    return max_offset - int(np.nanargmin(means)), float(np.nanmedian(means) - np.nanmin(means)), float(np.nanmin(means))
