"""Animated images without audio, for pages that show nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync._checks import check_positive, import_extra
from avsync._files import replacing
from avsync.errors import ArgumentError, ShapeError


def write_gif(path: str | os.PathLike[str], frames: Iterable[npt.NDArray[np.uint8]], *, fps: float) -> int:
    """Write a GIF that repeats for ever; whole or not at all.

    Every frame has its own 256 colours, without dithering, which would disturb lines. The frames are held in memory, one byte per pixel.

    GIF counts time in hundredths of a second, so every frame is shown from the hundredth nearest to its time on: 25 frames per second are
    exact, at other rates frames last a hundredth more or less in turn, and the whole keeps its length.

    Args:
        path: The file to write, ``.gif``.
        frames: Images (height, width, 3) uint8, RGB, all of one size.
        fps: Frames per second, at most 50: players slow down what is faster.

    Returns:
        The number of frames written.

    Raises:
        ShapeError: A frame is not (height, width, 3) uint8 or not of the first one's size.
        ArgumentError: No frame came, or an impossible rate.
        MissingExtraError: Pillow is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_gif(Path(folder, "a.gif"), (np.full((16, 16, 3), 50 * n, np.uint8) for n in range(5)), fps=25)
        5

    Source: ours.
    """
    pillow = import_extra("PIL.Image", "plot")
    check_positive("fps", fps)
    if fps > 50:
        raise ArgumentError(f"`fps`: expected at most 50 for a GIF, got {fps:g}")
    count = 0

    def images() -> Iterator[Any]:
        nonlocal count
        shape: tuple[int, ...] | None = None
        for frame in frames:
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or (shape or frame.shape) != frame.shape:
                expected = "(height, width, 3)" if shape is None else str(shape)
                raise ShapeError(f"`frames`: expected {expected} uint8, got {frame.shape} {frame.dtype} at frame {count}")
            shape = frame.shape
            # Median cut, which is Pillow's default; a palette that all frames share costs colours, because Pillow maps to it coarsely.
            image = pillow.fromarray(frame).quantize(256, dither=pillow.Dither.NONE)
            image.info["duration"] = 10 * (round(100 * (count + 1) / fps) - round(100 * count / fps))
            count += 1
            yield image

    ordered = images()
    first = next(ordered, None)
    if first is None:
        raise ArgumentError("`frames`: expected at least one frame, got none")
    with replacing(path) as part:
        first.save(part, format="GIF", save_all=True, append_images=ordered, loop=0)
    return count
