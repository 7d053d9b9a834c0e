"""Band-limited interpolation of a sampled signal at evenly spaced instants, whatever their spacing and phase."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from avsync.corpus.media.info import FloatArray

# Zero crossings of the sinc on each side, and the Kaiser window's shape: 80 dB of stop band, pass band up to 0.84 of the lower rate's
# half.
_CROSSINGS = 32
_BETA = 8.0
_ROLLOFF = 0.92
# With more phases than this (rates with hardly a common divisor) filters are made where they are needed, so many at a time.
_MAX_PHASES = 1280
_BLOCK = 1024


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
    taps = 2 * half + 3
    cutoff = 1.0 if source_rate == target_rate else _ROLLOFF * min(1.0, target_rate / source_rate)
    first = whole - half
    padded = _slice(samples, first, (count - 1) // up * down + down + taps if count else taps)
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps)
    result = np.empty(count, dtype=np.float32)
    if up <= _MAX_PHASES:
        bank = _bank(fraction, up, down, half, cutoff)
        for phase in range(min(up, count)):
            rows = windows[phase * down // up :: down][: (count - phase - 1) // up + 1]
            result[phase::up] = np.einsum("ij,j->i", rows, bank[phase])
        return result
    for begin in range(0, count, _BLOCK):
        ticks = np.arange(begin, min(begin + _BLOCK, count), dtype=np.int64)
        filters = _filters(fraction + ticks * down % up / up, half, cutoff)
        result[ticks] = np.einsum("ij,ij->i", windows[ticks * down // up], filters)
    return result


def _slice(samples: FloatArray, start: int, count: int) -> FloatArray:
    """``samples[start : start + count]`` with silence where there are none."""
    result = np.zeros(count, dtype=np.float32)
    first, last = max(0, start), min(samples.size, start + count)
    if last > first:
        result[first - start : last - start] = samples[first:last]
    return result


def _filters(offsets: npt.NDArray[np.float64], half: int, cutoff: float) -> FloatArray:
    """Return the filter of each instant (instants, taps); every row sums to one, so that a constant stays what it is."""
    distance = np.arange(-half, half + 3)[None] - offsets[:, None]
    window = np.i0(_BETA * np.sqrt(np.clip(1.0 - (distance / half) ** 2, 0.0, None))) * (np.abs(distance) <= half + 1e-5)
    taps = np.sinc(cutoff * distance) * window
    return (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=4)
def _bank(fraction: float, up: int, down: int, half: int, cutoff: float) -> FloatArray:
    return _filters(fraction + np.arange(up) * down % up / up, half, cutoff)
