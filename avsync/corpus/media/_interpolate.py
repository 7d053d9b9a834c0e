"""Band-limited interpolation of a sampled signal at evenly spaced instants, with any spacing and phase."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from avsync.corpus.media.info import FloatArray

# Zero crossings of the sinc on each side, and shape of the Kaiser window: 80 dB stop-band attenuation, pass band up to 0.84 of
# the Nyquist frequency of the lower rate.
_CROSSINGS = 32
_BETA = 8.0
_ROLLOFF = 0.92
# With more phases than _MAX_PHASES (rates with a small common divisor), filters are computed on demand, _BLOCK at a time.
_MAX_PHASES = 1280
_BLOCK = 1024


def reach(source_rate: int, target_rate: int) -> int:
    """Return the number of source samples on each side of an instant that its value depends on."""
    return math.ceil(_CROSSINGS * max(1.0, source_rate / target_rate)) + 1


def interpolate(samples: FloatArray, position: float, count: int, *, source_rate: int, target_rate: int) -> FloatArray:
    """Compute a sampled signal at the instants ``position + n * source_rate / target_rate``, in units of source samples.

    The filter is a windowed sinc of linear phase, so it adds no delay. The signal counts as silence before and after
    ``samples``. To avoid the effect of this silence, pass :func:`reach` extra samples on each side.

    Args:
        samples: Signal (length,) at ``source_rate``.
        position: Position of the first value, in source samples; may be fractional.
        count: Number of values.
        source_rate: Sample rate of ``samples``, in hertz.
        target_rate: Sample rate of the result, in hertz.

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
    """Return ``samples[start : start + count]``, with silence outside of ``samples``."""
    result = np.zeros(count, dtype=np.float32)
    first, last = max(0, start), min(samples.size, start + count)
    if last > first:
        result[first - start : last - start] = samples[first:last]
    return result


def _filters(offsets: npt.NDArray[np.float64], half: int, cutoff: float) -> FloatArray:
    """Return the filter of each instant (instants, taps); every row sums to one, so that a constant signal is unchanged."""
    distance = np.arange(-half, half + 3)[None] - offsets[:, None]
    window = np.i0(_BETA * np.sqrt(np.clip(1.0 - (distance / half) ** 2, 0.0, None))) * (np.abs(distance) <= half + 1e-5)
    taps = np.sinc(cutoff * distance) * window
    return (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=4)
def _bank(fraction: float, up: int, down: int, half: int, cutoff: float) -> FloatArray:
    return _filters(fraction + np.arange(up) * down % up / up, half, cutoff)
