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


def frame_mean_distances(motion: Array, audio: Array, max_offset: int, lead: int, window: int, counted: list[bool]) -> Array:
    """One clip with masked edges, its frames dealt out: to the first window that sees them, and to the last, half each."""
    means = []
    for j in range(2 * max_offset + 1):
        pairs = [(i, i + j - max_offset + lead) for i in range(motion.shape[0]) if counted[i]]
        pairs = [(i, at) for i, at in pairs if 0 <= at < audio.shape[0]]
        share = dict.fromkeys((i for i, _ in pairs), 0.0)
        for reading in (pairs, pairs[::-1]):
            seen: set[int] = set()
            for i, _ in reading:
                frames = set(range(i, i + window))
                share[i] += 0.5 * len(frames - seen)
                seen |= frames
        total = sum(share.values())
        sums = sum(share[i] * np.linalg.norm(motion[i] - audio[at]) for i, at in pairs)
        means.append(sums / total if pairs else np.nan)
    return np.array(means)


def sync_offset(motion: Array, audio: Array, max_offset: int, lead: int, edges: str) -> tuple[int, float, float]:
    """Offset, confidence and smallest distance of one clip."""
    means = offset_distances(motion, audio, max_offset, lead, edges)
    return max_offset - int(np.nanargmin(means)), float(np.nanmedian(means) - np.nanmin(means)), float(np.nanmin(means))


def rank_at_zero(motion: Array, audio: Array, max_offset: int, lead: int, edges: str) -> int:
    """Offsets whose distance is not above that of offset 0."""
    means = offset_distances(motion, audio, max_offset, lead, edges)
    return sum(1 for mean in means if mean <= means[max_offset])


def framewise(motion: Array, audio: Array, max_offset: int, lead: int, edges: str) -> tuple[Array, Array]:
    """Confidence of each window of a clip at its best offset, unfiltered, and its distance."""
    means = offset_distances(motion, audio, max_offset, lead, edges)
    best = int(np.nanargmin(means))
    distances = []
    for i in range(motion.shape[0]):
        at = i + best - max_offset + lead
        if 0 <= at < audio.shape[0]:
            distances.append(np.linalg.norm(motion[i] - audio[at]))
        else:
            distances.append(np.linalg.norm(motion[i]) if edges == "legacy" else np.nan)
    return np.nanmedian(means) - np.array(distances), np.array(distances)


def published_script(motion: Array, audio: Array, max_offset: int) -> tuple[int, float, float]:
    """SyncNet's protocol as its publication words it: the audio padded with zeros, one motion window against its neighbours at a time.

    Offset, confidence and smallest distance; its distance adds 1e-6 to every difference, as torch's pairwise distance does.
    """
    padded = np.concatenate([np.zeros((max_offset, audio.shape[1])), audio, np.zeros((max_offset, audio.shape[1]))])
    rows = [np.sqrt(((motion[i] - padded[i : i + 2 * max_offset + 1] + 1e-6) ** 2).sum(axis=1)) for i in range(motion.shape[0])]
    means = np.stack(rows).mean(axis=0)
    return max_offset - int(means.argmin()), float(np.median(means) - means.min()), float(means.min())
