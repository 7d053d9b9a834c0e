"""Band-limited interpolation of a sampled signal at evenly spaced instants, whatever their spacing and phase."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

# Zero crossings of the sinc on each side, and the Kaiser window's shape: 80 dB of stop band, pass band up to 0.84 of the lower rate's
# half.
_CROSSINGS = 32
_BETA = 8.0
_ROLLOFF = 0.92
# Values gathered at once: 4 MiB of float32.
_BLOCK = 1 << 20
# Filters of more values than this (rates with hardly a common divisor) are made where they are needed instead of being kept.
_KEPT = 1 << 21


def reach(source_rate: int, target_rate: int) -> int:
    """Source samples on each side of an instant that its value depends on."""
    return math.ceil(_CROSSINGS * max(1.0, source_rate / target_rate)) + 1


def interpolate(samples: FloatArray, position: float, count: int, *, source_rate: int, target_rate: int) -> FloatArray:
    """Values of a sampled signal at the instants ``position + n * source_rate / target_rate``, in units of its samples.

    A windowed sinc of linear phase: nothing is delayed. Before and after ``samples`` the signal counts as silence; so that this does
    not matter, give :func:`reach` samples more on either side.

    Args:
        samples: (length,) at ``source_rate``.
        position: Of the first value, in samples; may lie between two.
        count: How many values.
        source_rate: In hertz.
        target_rate: In hertz.

    Returns:
        (count,) float32.
    """
    if source_rate == target_rate and abs(position - round(position)) < 1e-6:
        return _slice(samples, round(position), count)
    common = math.gcd(source_rate, target_rate)
    up, down = target_rate // common, source_rate // common
    whole = math.floor(position)
    fraction = round(position - whole, 6)
    half = reach(source_rate, target_rate)
    taps = 2 * half + 2
    bank = _bank(fraction, up, down, half, _cutoff(source_rate, target_rate)) if up * taps <= _KEPT else None
    ticks = np.arange(count, dtype=np.int64)
    phases = ticks % up
    starts = whole + ticks // up * down + phases * down // up - half + 1
    padded = _slice(samples, int(starts[0]), int(starts[-1] - starts[0]) + taps) if count else np.zeros(taps, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps)
    result = np.empty(count, dtype=np.float32)
    step = max(1, _BLOCK // taps)
    for begin in range(0, count, step):
        part = slice(begin, begin + step)
        rows = windows[starts[part] - starts[0]]
        if bank is None:
            filters = _filters(fraction + phases[part] * down % up / up, half, _cutoff(source_rate, target_rate))
        else:
            filters = bank if up == 1 else bank[phases[part]]
        result[part] = rows @ filters[0] if up == 1 else np.einsum("ij,ij->i", rows, filters)
    return result


def _slice(samples: FloatArray, start: int, count: int) -> FloatArray:
    """``samples[start : start + count]`` with silence where there are none."""
    result = np.zeros(count, dtype=np.float32)
    first, last = max(0, start), min(samples.size, start + count)
    if last > first:
        result[first - start : last - start] = samples[first:last]
    return result


def _cutoff(source_rate: int, target_rate: int) -> float:
    return 1.0 if source_rate == target_rate else _ROLLOFF * min(1.0, target_rate / source_rate)


def _filters(offsets: npt.NDArray[np.float64], half: int, cutoff: float) -> FloatArray:
    """The filter of each instant (instants, taps); every row sums to one, so that a constant stays what it is."""
    distance = np.arange(-half + 1, half + 3)[None] - offsets[:, None]
    window = np.i0(_BETA * np.sqrt(np.clip(1.0 - (distance / half) ** 2, 0.0, None))) * (np.abs(distance) <= half)
    taps = np.sinc(cutoff * distance) * window
    return (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=4)
def _bank(fraction: float, up: int, down: int, half: int, cutoff: float) -> FloatArray:
    return _filters(fraction + np.arange(up) * down % up / up, half, cutoff)
