"""SyncNet's sound features written out frame by frame: what python_speech_features' ``mfcc(samples, 16000)`` does, in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def filterbank() -> Array:
    """(26, 257): triangles whose corners, evenly spaced in mel, are rounded down to bins."""
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    corner = np.floor(513 * 700 * (10 ** (mels / 2595) - 1) / 16000).astype(int)
    bank = np.zeros((26, 257))
    for band in range(26):
        left, middle, right = corner[band : band + 3]
        for k in range(left, middle):
            bank[band, k] = (k - left) / (middle - left)
        for k in range(middle, right):
            bank[band, k] = (right - k) / (right - middle)
    return bank


def mfcc(samples: NDArray[np.int16]) -> Array:
    """Whole frames only, (frames, 13)."""
    signal = samples.astype(np.float64)
    signal = np.concatenate([signal[:1], signal[1:] - 0.97 * signal[:-1]])
    bank, rows = filterbank(), []
    for start in range(0, len(signal) - 399, 160):
        power = np.abs(np.fft.rfft(signal[start : start + 400], 512)) ** 2 / 512
        energy = power.sum() or np.finfo(float).eps
        bands = bank @ power
        logs = np.log(np.where(bands == 0, np.finfo(float).eps, bands))
        row = [np.log(energy)]
        for n in range(1, 13):
            total = sum(logs[m] * np.cos(np.pi * n * (m + 0.5) / 26) for m in range(26))
            row.append(np.sqrt(2 / 26) * total * (1 + 11 * np.sin(np.pi * n / 22)))
        rows.append(row)
    return np.array(rows)
