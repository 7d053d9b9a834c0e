"""Slow, obvious audio features: one frame and one filter at a time, in float64."""

from __future__ import annotations

import numpy as np


def mel_energies(
    waveform: np.ndarray,
    *,
    sample_rate: int = 16000,
    n_fft: int = 400,
    win_length: int = 400,
    hop_length: int = 160,
    n_mels: int = 26,
    f_min: float = 0.0,
    f_max: float | None = None,
) -> np.ndarray:
    """Mel power of one clip (samples,): (samples // hop_length, n_mels)."""
    top = sample_rate / 2 if f_max is None else f_max
    window = np.zeros(n_fft)
    first = (n_fft - win_length) // 2
    for n in range(win_length):
        window[first + n] = 0.5 - 0.5 * np.cos(2 * np.pi * n / win_length)
    padded = np.pad(waveform.astype(np.float64), n_fft // 2, mode="reflect")
    mels = np.linspace(2595 * np.log10(1 + f_min / 700), 2595 * np.log10(1 + top / 700), n_mels + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequencies = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    energies = np.zeros((len(waveform) // hop_length, n_mels))
    for s in range(len(energies)):
        power = np.abs(np.fft.rfft(padded[s * hop_length : s * hop_length + n_fft] * window)) ** 2
        for b in range(n_mels):
            for frequency, p in zip(frequencies, power, strict=True):
                if edges[b] < frequency <= edges[b + 1]:
                    energies[s, b] += p * (frequency - edges[b]) / (edges[b + 1] - edges[b])
                elif edges[b + 1] < frequency < edges[b + 2]:
                    energies[s, b] += p * (edges[b + 2] - frequency) / (edges[b + 2] - edges[b + 1])
    return energies


def log_mel(waveform: np.ndarray, *, amin: float = 1e-10, **settings: int) -> np.ndarray:
    """Decibels of :func:`mel_energies`."""
    return 10 * np.log10(np.maximum(mel_energies(waveform, **settings), amin))


def dct(values: np.ndarray, n_mfcc: int) -> np.ndarray:
    """Orthonormal DCT-II along the last axis, its first coefficients."""
    n = values.shape[-1]
    out = np.zeros((*values.shape[:-1], n_mfcc))
    for k in range(n_mfcc):
        for b in range(n):
            out[..., k] += values[..., b] * np.cos(np.pi * k * (2 * b + 1) / (2 * n))
        out[..., k] *= np.sqrt((1 if k == 0 else 2) / n)
    return out
