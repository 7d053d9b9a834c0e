"""Moving pictures without sound, for pages that show nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from avsync._checks import check_positive, import_extra
from avsync._files import replacing
from avsync.errors import ArgumentError, ShapeError


def write_gif(path: str | os.PathLike[str], frames: Iterable[npt.NDArray[np.uint8]], *, fps: float) -> int:
    """Write a GIF that repeats for ever; whole or not at all.

    GIF counts time in hundredths of a second, so every frame is shown from the hundredth nearest to its time on: 25 frames a second
    are exact, at other rates frames last a hundredth more or less in turn, and the whole keeps its length.

    Args:
        path: The file to write, ``.gif``.
        frames: Images (height, width, 3) uint8, RGB, all of one size.
        fps: Frames a second, at most 50: players slow down what is faster.

    Returns:
        The number of frames written.

    Raises:
        ShapeError: A frame is not (height, width, 3) uint8 or not of the first one's size.
        ArgumentError: No frame came, or an impossible rate.
        MissingExtraError: PyAV is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_gif(Path(folder, "a.gif"), (np.full((16, 16, 3), 50 * n, np.uint8) for n in range(5)), fps=25)
        5

    Source: ours.
    """
    av = import_extra("av", "media")
    check_positive("fps", fps)
    if fps > 50:
        raise ArgumentError(f"`fps`: expected at most 50 for a GIF, got {fps:g}")
    shape: tuple[int, ...] | None = None
    count = 0
    with replacing(path) as part, av.open(os.fspath(part), "w", format="gif", options={"loop": "0"}) as container:
        stream = container.add_stream("gif", rate=Fraction(100))
        stream.pix_fmt = "rgb8"
        for image in frames:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or (shape or image.shape) != image.shape:
                expected = "(height, width, 3)" if shape is None else str(shape)
                raise ShapeError(f"`frames`: expected {expected} uint8, got {image.shape} {image.dtype} at frame {count}")
            if shape is None:
                shape = image.shape
                stream.height, stream.width = shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(100 * count / fps), Fraction(1, 100)
            container.mux(stream.encode(frame))
            count += 1
        if shape is None:
            raise ArgumentError("`frames`: expected at least one frame, got none")
        container.mux(stream.encode(None))
    return count
