"""Resampling of tracks with a constant or variable frame rate to an exact time grid."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from avsync._checks import as_numbers, check_positive, check_type
from avsync.errors import ArgumentError, ShapeError

# Tolerance at both ends of a track, in seconds, so that no frame is lost in containers that round times to milliseconds.
_SLACK = 1e-3
_MAX_FPS = 1_000_000


def resample_track(
    times: npt.ArrayLike, points: npt.ArrayLike, *, fps: float = 25.0, start: float | None = None
) -> tuple[float, npt.NDArray[np.float32]]:
    """Compute landmarks at exact instants by linear interpolation in time between the neighbouring images.

    There is no extrapolation: the instants of the grid lie between the first and the last image. A tolerance of one millisecond
    allows for rounded timestamps; within this tolerance the first or last image is used unchanged. Linear interpolation is
    exact for motion at constant speed and adds no time shift at any rate. At the time of an image, the result equals the
    landmarks of the image.

    Args:
        times: Presentation times (frames,), in seconds, increasing.
        points: Landmarks (frames, points, dims), in any unit.
        fps: Instants per second.
        start: Any instant of the grid, in seconds; None for ``times[0]``. The grid starts at its first instant inside the
            track.

    Returns:
        Time of the first instant, in seconds, and landmarks (instants, points, dims) of float32. Instant ``k`` is ``k / fps``
        later. The number of instants is 0 if no instant lies inside the track.

    Raises:
        ShapeError: Ranks or lengths are wrong, or there are no images.
        ArgumentError: Times are not finite or do not increase, or the rate is not positive.

    Example:
        >>> times = np.arange(4) / 30
        >>> start, landmarks = resample_track(times, times[:, None, None], start=-1.0)
        >>> start, [f"{value:.3f}" for value in landmarks.ravel()]
        (0.0, ['0.000', '0.040', '0.080'])

    Source: ours.
    """
    when, what = as_numbers("times", times), as_numbers("points", points)
    check_type("fps", fps, int, float)
    check_type("start", start, int, float, optional=True)
    if when.ndim != 1 or when.size == 0:
        raise ShapeError(f"`times`: expected (frames,) with at least one frame, got {when.shape}")
    if what.ndim != 3 or what.shape[0] != when.size:
        raise ShapeError(f"`points`: expected (frames={when.size}, points, dims), got {what.shape}")
    if not (np.isfinite(when).all() and (np.diff(when) > 0).all()):
        raise ArgumentError("`times`: expected finite numbers that increase, got others")
    if start is not None and not math.isfinite(start):
        raise ArgumentError(f"`start`: expected a finite time, got {start!r}")
    if not math.isfinite(fps):
        raise ArgumentError(f"`fps`: expected a finite rate, got {fps!r}")
    check_positive("fps", fps)
    if fps > _MAX_FPS:
        raise ArgumentError(f"`fps`: expected at most {_MAX_FPS}, got {fps!r}")
    origin = float(when[0]) if start is None else start
    first = math.ceil((float(when[0]) - origin - _SLACK) * fps)
    last = math.floor((float(when[-1]) - origin + _SLACK) * fps)
    instants = np.clip(origin + np.arange(first, last + 1) / fps, when[0], when[-1])
    after = np.clip(np.searchsorted(when, instants, "left"), 1, max(1, when.size - 1))
    before = after - 1
    after = np.minimum(after, when.size - 1)
    span = when[after] - when[before]
    weight = np.divide(instants - when[before], span, out=np.zeros_like(instants), where=span > 0)[:, None, None]
    # As a sum of two products, the result at the time of an image equals the image bit for bit.
    landmarks = (1 - weight) * what[before] + weight * what[after]
    return origin + first / fps, landmarks.astype(np.float32)
