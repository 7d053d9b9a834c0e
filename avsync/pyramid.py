"""Temporal pyramids (equation 5), and the arithmetic of levels, lengths and durations.

Each level blurs the previous level in time and keeps every second frame. Frame ``t`` of level ``i + 1`` is at the time of frame
``2 t`` of level ``i``, so frame ``t`` of level ``i`` is at the time of frame ``t * 2**i`` of the input. A window of 5 frames
spans 200, 400, 800 and 1600 ms at levels 0 to 3 of a 25-fps clip. Landmarks and audio features go through the same operator,
which keeps 4 audio frames per motion frame at every level.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsync._checks import check_count, check_floating, check_positive, check_same_device, checked, describe_shape, values_known
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError

FPS = 25.0
"""Motion frames per second."""
SAMPLE_RATE = 16000
"""Audio samples per second."""
SAMPLES_PER_FRAME = 640
"""Audio samples per motion frame."""
AUDIO_FRAMES_PER_FRAME = 4
"""Audio frames (100 per second) per motion frame."""
MOST_LEVELS = 32
"""Largest number of levels; a window of the coarsest one would take 13 years. Larger numbers come from damaged files."""
DEFAULT_RADIUS = 3
"""Half-width K of the averaging kernel: 7 taps (from the authors' code; the paper does not state it)."""


@checked
def level_length(length: int, level: int) -> int:
    """Return the frames of a clip of ``length`` frames at ``level``: the ceiling of ``length / 2**level``.

    Args:
        length: Frames at level 0.
        level: Pyramid level; 0 is the finest.

    Returns:
        Frames at ``level``.

    Example:
        >>> [level_length(80, level) for level in range(4)]
        [80, 40, 20, 10]
    """
    _check_level(level)
    return (length + 2**level - 1) // 2**level  # not -(-length // n), which exported programs round towards zero


@checked
def shortest_clip(window: int, level: int) -> int:
    """Return the fewest frames at level 0 that give ``window`` frames at ``level``.

    Args:
        window: Frames per window at every level.
        level: Pyramid level; 0 is the finest.

    Returns:
        Frames at level 0.

    Example:
        >>> [shortest_clip(5, level) for level in range(4)]
        [5, 9, 17, 33]
    """
    _check_level(level)
    return (window - 1) * 2**level + 1


def _check_level(level: int) -> None:
    if not 0 <= level < MOST_LEVELS:
        raise ArgumentError(f"`level`: expected 0 to {MOST_LEVELS - 1}, got {level}")


@checked
def level_fps(fps: float, level: int) -> float:
    """Return the frames per second at ``level``, in the unit of ``fps`` (25 -> 25, 12.5, 6.25, 3.125 at levels 0 to 3)."""
    _check_level(level)
    return fps / 2**level


@checked
def window_seconds(level: int, *, window: int = 5, fps: float = FPS) -> float:
    """Return the duration of a window in seconds at ``level`` (0.2, 0.4, 0.8, 1.6 for the paper's four levels)."""
    check_positive("fps", fps)
    _check_level(level)
    return window * 2**level / fps


@checked
def check_lengths(lengths: Tensor, x: Tensor) -> Tensor:
    """Return ``lengths`` as int64 on the device of ``x``, after checking that it holds one length per clip of ``x``.

    The values are checked if ``lengths`` is on the CPU. On a GPU a check would wait for the device, and a length beyond the end
    of ``x`` counts as the end.

    Raises:
        ShapeError: ``lengths`` is not an integer tensor (batch,).
        ArgumentError: A length is below 1 or beyond the end of ``x``.
    """
    if not isinstance(lengths, Tensor):
        raise ShapeError(f"`lengths`: expected a tensor (batch={x.shape[0]}) of int64, got {describe_shape(lengths)}")
    if lengths.shape != x.shape[:1]:
        raise ShapeError(f"`lengths`: expected (batch={x.shape[0]}), got {describe_shape(lengths)}")
    if lengths.dtype not in (torch.int16, torch.int32, torch.int64):
        raise ShapeError(f"`lengths`: expected int64, got {lengths.dtype}")
    if lengths.device.type != "cpu":
        check_same_device("lengths", lengths, x.device, "the clips")
    if values_known(lengths) and lengths.numel():
        least, most = (int(bound) for bound in torch.aminmax(lengths))
        if least < 1 or most > x.shape[1]:
            raise ArgumentError(f"`lengths`: expected 1 to {x.shape[1]}, the frames of the batch, got {least} to {most}")
    return lengths.to(x.device, torch.int64, non_blocking=True).clamp(max=x.shape[1])


def hold_last_frame(x: Tensor, frames: int, lengths: Tensor) -> Tensor:
    """Repeat the last true frame of each clip up to ``frames`` frames; padding is neither kept nor read.

    Args:
        x: (batch, any frames, ...).
        frames: Number of frames of the result.
        lengths: True frames of each clip, (batch,).

    Returns:
        (batch, frames, ...).

    Example:
        >>> hold_last_frame(torch.tensor([[1.0, 2.0, -1.0]]), 4, torch.tensor([2]))
        tensor([[1., 2., 2., 2.]])
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or x.shape[1] == 0:
        raise ShapeError(f"`x`: expected (batch, frames, ...) with at least 1 frame, got {describe_shape(x)}")
    check_count("frames", frames, 0)
    last = check_lengths(lengths, x)[:, None] - 1
    return _take(x, torch.minimum(torch.arange(frames, device=x.device)[None], last.clamp(min=0)))


@checked
def mean_over_frames(x: Tensor, dim: int, *, lengths: Tensor | None = None) -> Tensor:
    """Compute the mean over the true frames of each clip; the values of padding are ignored.

    Args:
        x: (..., frames, ...), whose leading axes are those of ``lengths``.
        dim: Axis of the frames, counted from the end.
        lengths: (...), true frames of each clip; None if all frames are true.

    Returns:
        ``x`` without the axis ``dim``, in the unit of ``x``.

    Example:
        >>> mean_over_frames(torch.tensor([[[1.0], [3.0], [torch.nan]]]), -2, lengths=torch.tensor([2]))
        tensor([[2.]])

    Source: ours.
    """
    check_floating("x", x)
    if not -x.ndim <= dim < 0:
        raise ArgumentError(f"`dim`: expected an axis counted from the end, {-x.ndim} to -1, got {dim}")
    if lengths is None:
        return x.mean(dim=dim)
    if lengths.shape != x.shape[: dim + x.ndim][: lengths.ndim] or lengths.ndim != dim + x.ndim:
        raise ShapeError(f"`lengths`: expected the shape {tuple(x.shape[:dim])}, got {describe_shape(lengths)}")
    lengths = lengths.to(x.device).reshape(*lengths.shape, *[1] * -dim)
    frame = torch.arange(x.shape[dim], device=x.device).reshape(-1, *[1] * (-dim - 1))
    total = torch.where(frame < lengths, x, torch.zeros_like(x)).sum(dim=dim)
    return total / lengths.squeeze(dim).to(total).clamp_min(1)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Select frames of ``x`` by their index (batch, frames)."""
    return x.gather(1, index.reshape(*index.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]))


def _mirrored(x: Tensor, lengths: Tensor, radius: int) -> Tensor:
    """Add ``radius`` mirrored frames at both ends of the true frames of each clip, so that padding never enters the average."""
    positions = torch.arange(-radius, x.shape[1] + radius, device=x.device)[None].abs()
    last = check_lengths(lengths, x)[:, None] - 1
    overshoot = (positions - last).clamp(min=0, max=radius)
    return _take(x, torch.where(overshoot > 0, last - overshoot, positions).clamp(min=0))


def blur_downsample(x: Tensor, *, radius: int = DEFAULT_RADIUS, lengths: Tensor | None = None) -> Tensor:
    """Compute one pyramid step, equation (5): average ``2 K + 1`` frames around every second frame.

    ``y[t] = 1 / (2 K + 1) * sum over k = -K..K of x[2 t + k]``, with the clip mirrored at both ends.

    Args:
        x: Frames of any signal, (batch, frames, ...), floating point.
        radius: K, half-width of the average, in frames of ``x``.
        lengths: True frames of each clip in a padded batch, (batch,), each at least ``radius + 1``. Padding after the end
            of a clip does not change its result; frames of the result after ``ceil(lengths / 2)`` are padding again.

    Returns:
        (batch, ceil(frames / 2), ...).

    Raises:
        ShapeError: ``x`` has fewer than two axes or is not floating point, or ``lengths`` is not (batch,).
        ClipTooShortError: ``x`` has fewer than ``radius + 1`` frames, which are too few for mirroring.

    Example:
        >>> blur_downsample(torch.ones(1, 80, 68, 2)).shape
        torch.Size([1, 40, 68, 2])

    Source: paper section 3.1; K, mirroring and length are those of the authors' code.
    """
    if not isinstance(x, Tensor) or x.ndim < 2:
        raise ShapeError(f"`x`: expected (batch, frames, ...), got {describe_shape(x)}")
    check_floating("x", x)
    check_count("radius", radius, 0)
    radius = int(radius)
    if x.shape[1] < radius + 1:
        raise ClipTooShortError(f"`x`: expected at least {radius + 1} frames to blur over {2 * radius + 1}, got {x.shape[1]}")
    # Averaging along the height of an "image" (frames x values) avoids a transposition, which would cost more than the average
    # itself.
    if lengths is not None:
        padded = _mirrored(x.flatten(2) if x.ndim > 2 else x[..., None], lengths, radius)[:, None]
    else:
        padded = x.reshape(x.shape[0], 1, x.shape[1], -1)
        if radius:
            # Not `F.pad`, whose gradient on a GPU is an atomic sum, which differs between runs.
            first, last = padded[:, :, 1 : radius + 1], padded[:, :, -radius - 1 : -1]
            padded = torch.cat([first.flip(2), padded, last.flip(2)], dim=2)
    pooled = F.avg_pool2d(padded, (2 * radius + 1, 1), stride=(2, 1))
    return pooled.reshape(x.shape[0], pooled.shape[2], *x.shape[2:])


@checked
def level_lengths(lengths: Tensor, level: int) -> Tensor:
    """Return the true frames of each clip at ``level``, (batch,): the tensor form of :func:`level_length`."""
    return torch.div(lengths + 2**level - 1, 2**level, rounding_mode="floor")


def temporal_pyramid(
    x: Tensor, num_levels: int, *, radius: int = DEFAULT_RADIUS, lengths: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Compute all levels of a clip: the input and ``num_levels - 1`` successive results of :func:`blur_downsample`.

    Args:
        x: (batch, frames, ...), floating point.
        num_levels: Number of levels, at least 1.
        radius: K of equation (5).
        lengths: True frames of each clip in a padded batch, (batch,).

    Returns:
        ``num_levels`` tensors, finest first; level ``i`` has ``ceil(frames / 2**i)`` frames.

    Raises:
        ArgumentError: ``num_levels`` is below 1.
        ShapeError: ``x`` or ``lengths`` has a wrong shape.
        ClipTooShortError: A level has too few frames to compute the next level.

    Example:
        >>> [tuple(level.shape) for level in temporal_pyramid(torch.zeros(2, 80, 26), 4)]
        [(2, 80, 26), (2, 40, 26), (2, 20, 26), (2, 10, 26)]

    Source: paper section 3.1, equation (5).
    """
    check_count("num_levels", num_levels)
    if not isinstance(x, Tensor) or x.ndim < 2:
        raise ShapeError(f"`x`: expected (batch, frames, ...), got {describe_shape(x)}")
    if 0 in x.shape[2:]:
        raise ShapeError(f"`x`: expected at least one value per frame, got {describe_shape(x)}")
    check_floating("x", x)
    lengths = None if lengths is None else check_lengths(lengths, x)
    levels = [x]
    for level in range(num_levels - 1):
        level_frames = None if lengths is None else level_lengths(lengths, level)
        levels.append(blur_downsample(levels[-1], radius=radius, lengths=level_frames))
    return tuple(levels)


class TemporalPyramid(nn.Module):
    """Temporal pyramid as a module; see :func:`temporal_pyramid`.

    Args:
        num_levels: Number of levels.
        radius: K of equation (5).
    """

    def __init__(self, *, num_levels: int = 4, radius: int = DEFAULT_RADIUS) -> None:
        super().__init__()
        check_count("num_levels", num_levels)
        check_count("radius", radius, 0)
        self.num_levels = num_levels
        self.radius = radius

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Compute the levels: (batch, frames, ...) -> ``num_levels`` tensors, finest first."""
        return temporal_pyramid(x, self.num_levels, radius=self.radius, lengths=lengths)
