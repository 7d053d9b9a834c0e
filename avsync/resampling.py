"""Resampling of motion and features to another rate, differentiable, by the same function for every rate.

Frame ``k`` of a signal at ``fps`` frames per second is at ``k / fps`` seconds. A resampled signal has the same clock: its frame
``k`` is at ``k / to_fps`` seconds, whatever the two rates are.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from avsync._checks import at_least_float32, check_count, check_floating, check_positive, check_shape, describe_shape, is_tensor
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.pyramid import FPS, check_lengths

_SUPPORT = 2  # frames on both sides that the cubic kernel sees, if the rate does not fall


def resampled_length(frames: int, fps: float, to_fps: float = FPS) -> int:
    """Return the number of frames of the same duration at another rate, rounded to the nearest whole number.

    Args:
        frames: Frames at ``fps``.
        fps: Frames per second.
        to_fps: Frames per second of the result.

    Returns:
        ``frames * to_fps / fps``, rounded.

    Example:
        >>> resampled_length(96, 24), resampled_length(120, 30), resampled_length(80, 25)
        (100, 100, 80)
    """
    return math.floor(frames * to_fps / fps + 0.5)


def resampled_lengths(lengths: Tensor, fps: float, to_fps: float = FPS) -> Tensor:
    """Return the true frames of each clip at another rate, (batch,), at least 1: :func:`resampled_length` for tensors."""
    return (lengths.double() * to_fps / fps + 0.5).floor().long().clamp(min=1)


def check_fps(name: str, fps: object) -> float:
    """Return a rate in frames per second.

    Raises:
        ArgumentError: ``fps`` is not a finite number above 0.
    """
    if isinstance(fps, bool) or not isinstance(fps, int | float):
        raise ArgumentError(f"`{name}`: expected frames per second, a number above 0, got {fps!r}")
    check_positive(name, fps)
    if not 1e-3 <= fps <= 1e6:
        raise ArgumentError(f"`{name}`: expected 0.001 to 1000000 frames per second, got {fps!r}")
    return float(fps)


def frames_around(fps: float, to_fps: float = FPS) -> int:
    """Return how many frames before and after an instant :func:`resample_frames` sees at most; 0 for equal rates."""
    return 0 if fps == to_fps else math.ceil(_SUPPORT * max(1.0, fps / to_fps)) + 1


def _cubic(distance: Tensor) -> Tensor:
    """Return Keys' cubic kernel (a = -1/2), which is 0 from a distance of 2 on."""
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance <= 1, near, torch.where(distance < _SUPPORT, far, 0.0))


def resample_frames(
    x: Tensor,
    *,
    fps: float,
    to_fps: float = FPS,
    frames: int | None = None,
    start: float = 0.0,
    lengths: Tensor | None = None,
) -> Tensor:
    r"""Compute a signal at another constant rate by cubic interpolation in time.

    .. math:: y_k = \sum_j w\left(\frac{j - p_k}{s}\right) x_j \Big/ \sum_j w\left(\frac{j - p_k}{s}\right), \qquad
        p_k = f \left(\frac{k}{g} - t_0\right)

    with the rates :math:`f` (``fps``) and :math:`g` (``to_fps``), the instant :math:`t_0` of the first input frame (``start``),
    Keys' cubic kernel :math:`w`, and :math:`s = \max(1, f / g)`: if the rate falls, the kernel is stretched, which removes the
    frequencies that the new rate cannot hold. There is no time shift: a straight line stays one within 1 % of a frame. Before
    the first and after the last input frame the signal counts as constant.

    Args:
        x: Motion or features, (batch, frames, ...), floating point.
        fps: Frames per second of ``x``.
        to_fps: Frames per second of the result.
        frames: Number of frames of the result; by default those of the same duration (:func:`resampled_length`).
        start: Instant of the first frame of ``x``, in seconds; the first frame of the result is at 0 seconds.
        lengths: True frames of each clip in a padded batch, (batch,). The padding does not affect the result; the true frames
            of the result are :func:`resampled_lengths`.

    Returns:
        (batch, frames, ...), in the unit of ``x`` and in at least float32. If nothing changes, ``x`` itself.

    Raises:
        ShapeError: ``x`` is not (batch, frames, ...) or not floating point.
        ArgumentError: A rate is not above 0, or ``start`` is not finite.
        ClipTooShortError: ``x`` has no frame.

    Example:
        >>> seconds = torch.arange(60)[None] / 60
        >>> resample_frames(seconds, fps=60, to_fps=25)[0, 5:9].round(decimals=3)
        tensor([0.2000, 0.2400, 0.2800, 0.3200])

    Source: ours; the kernel is from Keys, "Cubic convolution interpolation for digital image processing" (1981).
    """
    if not is_tensor(x) or x.ndim < 2:
        raise ShapeError(f"`x`: expected (batch, frames, ...), got {describe_shape(x)}")
    check_floating("x", x)
    fps, to_fps = check_fps("fps", fps), check_fps("to_fps", to_fps)
    if not math.isfinite(start):
        raise ArgumentError(f"`start`: expected a finite time in seconds, got {start!r}")
    if x.shape[1] == 0:
        raise ClipTooShortError(f"`x`: expected at least 1 frame, got {describe_shape(x)}")
    if frames is None:
        frames = resampled_length(x.shape[1], fps, to_fps)
    check_count("frames", frames)
    if lengths is not None:
        lengths = check_lengths(lengths, x)
    if fps == to_fps and start == 0 and frames == x.shape[1]:
        return x
    x = at_least_float32(x)
    precise = torch.float32 if x.device.type == "mps" else torch.float64
    position = (torch.arange(frames, device=x.device, dtype=precise) / to_fps - start) * fps
    stretch = max(1.0, fps / to_fps)
    reach = math.ceil(_SUPPORT * stretch)
    first = position.floor().long() - reach + 1
    taps = [first + step for step in range(2 * reach)]
    weights = torch.stack([_cubic((tap - position).abs() / stretch) for tap in taps])
    weights = (weights / weights.sum(dim=0)).to(x.dtype)
    # One tap after the other: all taps at once would need the memory of the signal 4 to 12 times.
    trailing = [1] * (x.ndim - 2)
    parts = (_at(x, tap, lengths) * weight.reshape(-1, *trailing) for weight, tap in zip(weights, taps, strict=True))
    return functools.reduce(torch.add, parts)


def _at(x: Tensor, index: Tensor, lengths: Tensor | None) -> Tensor:
    """Return frames of ``x``, the first and the last true frame where ``index`` (frames,) lies outside."""
    if lengths is None:
        return x.index_select(1, index.clamp(0, x.shape[1] - 1))
    inside = torch.minimum(index.clamp(min=0)[None], lengths[:, None] - 1)
    return x.gather(1, inside.reshape(*inside.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]))


def fit_frames(x: Tensor, frames: int) -> Tensor:
    """Cut a signal to ``frames`` frames, or repeat its last frame up to that number.

    Args:
        x: (batch, any frames, ...).
        frames: Frames of the result.

    Returns:
        (batch, frames, ...).

    Example:
        >>> fit_frames(torch.tensor([[1.0, 2.0]]), 3)
        tensor([[1., 2., 2.]])

    Source: ours.
    """
    if not is_tensor(x) or x.ndim < 2:
        check_shape("x", x, "batch frames")
    missing = frames - x.shape[1]
    if missing <= 0:
        return x[:, :frames]
    return torch.cat([x, x[:, -1:].expand(-1, missing, *x.shape[2:])], dim=1)
