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

    Of the first frame's colours the 256 commonest are the palette of all, without dithering, which lines would suffer from.

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
        stream.pix_fmt = "pal8"
        for image in frames:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or (shape or image.shape) != image.shape:
                expected = "(height, width, 3)" if shape is None else str(shape)
                raise ShapeError(f"`frames`: expected {expected} uint8, got {image.shape} {image.dtype} at frame {count}")
            if shape is None:
                shape = image.shape
                stream.height, stream.width = shape[:2]
                palette, nearest = _palette(image)
            frame = av.VideoFrame.from_ndarray((nearest[_cells(image)], palette), format="pal8")
            frame.pts, frame.time_base = round(100 * count / fps), Fraction(1, 100)
            container.mux(stream.encode(frame))
            count += 1
        if shape is None:
            raise ArgumentError("`frames`: expected at least one frame, got none")
        container.mux(stream.encode(None))
    return count


def _cells(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Number of each pixel's cell when every colour has 32 levels."""
    levels = (image >> 3).astype(np.intp)
    return (levels[..., 0] << 10) | (levels[..., 1] << 5) | levels[..., 2]


def _palette(image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Colours (256, 4), opacity first, of the commonest cells; and for each of the 32768 cells the nearest of them."""
    cells = _cells(image).ravel()
    counts = np.bincount(cells, minlength=1 << 15)
    common = np.argsort(-counts, kind="stable")[: min(256, np.count_nonzero(counts))]
    sums = np.stack([np.bincount(cells, image[..., channel].ravel(), minlength=1 << 15) for channel in range(3)], axis=1)
    colours = sums[common] / counts[common, None]
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 0] = 255
    palette[: len(common), 1:] = np.round(colours)
    number = np.arange(1 << 15)
    centres = 8.0 * np.stack([number >> 10, (number >> 5) & 31, number & 31], axis=1) + 3.5
    distances = (colours**2).sum(axis=1) - 2 * centres @ colours.T
    nearest = distances.argmin(axis=1).astype(np.uint8)
    nearest[common] = np.arange(len(common))
    return palette, nearest
