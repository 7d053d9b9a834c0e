"""Slow, obvious contrastive losses: loops over windows, straight from the equations, in float64."""

from __future__ import annotations

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Equation (3)."""
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def info_nce(motion: np.ndarray, audio: np.ndarray, negatives: np.ndarray, temperature: float) -> float:
    """Equation (2) for one anchor, the audio: (embed,), (embed,), (num_negatives, embed)."""
    positive = np.exp(cosine(motion, audio) / temperature)
    return float(-np.log(positive / (positive + sum(np.exp(cosine(audio, x) / temperature) for x in negatives))))


def all_pairs_info_nce(
    motion: np.ndarray, audio: np.ndarray, temperature: float, exclusion: int, mask: np.ndarray, *, symmetric: bool
) -> np.ndarray:
    """One loss a window, zero where masked: (clips, windows, embed) to (clips, windows)."""
    clips, windows, _ = audio.shape
    losses = np.zeros((clips, windows))
    for c in range(clips):
        for w in range(windows):
            others = [
                (k, v)
                for k in range(clips)
                for v in range(windows)
                if mask[k, v] and (k, v) != (c, w) and not (k == c and abs(v - w) <= exclusion)
            ]
            if not mask[c, w] or not others:
                continue
            there = info_nce(motion[c, w], audio[c, w], np.array([motion[p] for p in others]), temperature)
            back = info_nce(audio[c, w], motion[c, w], np.array([audio[p] for p in others]), temperature)
            losses[c, w] = (there + back) / 2 if symmetric else there
    return losses


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Euclidean distance of the unit vectors."""
    return float(np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b)))


def contrastive_loss(motion: np.ndarray, audio: np.ndarray, target: float, m: float) -> float:
    """SyncNet's loss for one pair."""
    d = distance(motion, audio)
    return (target * d**2 + (1 - target) * max(m - d, 0.0) ** 2) / 2


def cosine_bce(motion: np.ndarray, audio: np.ndarray, target: float, mapping: str) -> float:
    """Wav2Lip's loss for one pair."""
    p = cosine(motion, audio)
    if mapping == "affine":
        p = (1 + p) / 2
    return float(-(target * np.log(p) + (1 - target) * np.log(1 - p)))


def sigmoid_pair_loss(
    motion: np.ndarray, audio: np.ndarray, scale: float, bias: float, exclusion: int, mask: np.ndarray
) -> np.ndarray:
    """One sum a window, zero where masked: (clips, windows, embed) to (clips, windows)."""
    clips, windows, _ = audio.shape
    sums = np.zeros((clips, windows))
    for c in range(clips):
        for w in range(windows):
            for k in range(clips):
                for v in range(windows):
                    aligned = (k, v) == (c, w)
                    if not mask[c, w] or not mask[k, v] or (not aligned and k == c and abs(v - w) <= exclusion):
                        continue
                    logit = scale * cosine(audio[c, w], motion[k, v]) + bias
                    sums[c, w] += np.log1p(np.exp(-logit if aligned else logit))
    return sums
