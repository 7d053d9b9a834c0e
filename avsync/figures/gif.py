"""Animated GIFs, for pages that cannot embed videos."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync._checks import check_positive, check_type, checked, import_extra
from avsync._files import replacing
from avsync.errors import ArgumentError, ShapeError


@checked
def write_gif(path: str | os.PathLike[str], frames: Iterable[npt.NDArray[np.uint8]], *, fps: float) -> int:
    """Write a GIF that repeats forever, atomically.

    Every frame has its own 256 colours, without dithering, because dithering would disturb lines. The frames are held in
    memory, one byte per pixel.

    GIF has a time resolution of 10 ms, so the start of every frame is rounded to 10 ms. 25 frames per second are exact. At
    other rates the durations of frames may differ by 10 ms, and the total duration is kept.

    Args:
        path: The file to write, ``.gif``.
        frames: Images (height, width, 3) uint8, RGB, all of the same size.
        fps: Frames per second, at most 50, because players slow down faster GIFs.

    Returns:
        The number of frames written.

    Raises:
        ShapeError: A frame is not (height, width, 3) uint8 or differs in size from the first frame.
        ArgumentError: No frame, or an invalid rate.
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
    if getattr(frames, "ndim", 1) == 0:
        raise ShapeError("`frames`: expected images, got a single number")
    if fps > 50:
        raise ArgumentError(f"`fps`: expected at most 50 for a GIF, got {fps:g}")
    count = 0

    def images() -> Iterator[Any]:
        nonlocal count
        shape: tuple[int, ...] | None = None
        for frame in frames:
            check_type("frames", frame, np.ndarray)
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or (shape or frame.shape) != frame.shape:
                expected = "(height, width, 3)" if shape is None else str(shape)
                raise ShapeError(f"`frames`: expected {expected} uint8, got {frame.shape} {frame.dtype} at frame {count}")
            shape = frame.shape
            # Median cut, which is Pillow's default; a shared palette loses colours, because Pillow maps to it coarsely.
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
