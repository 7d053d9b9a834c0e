"""The two crops of the paper's data: one centres the face in every frame, the other keeps a fixed reference frame.

The paper (section 4.1, Datasets) trains on VoxCeleb2 (II), "which keeps the reference frames fixed, thus preserving head
motion". The paper compares with VoxCeleb2 (I), which centres the face in every frame and so loses the translation of the head.
:func:`crop_fixed` implements (II), and :func:`crop_centred` implements (I). Both functions transform landmarks and return the
boxes with which :func:`crop_image` crops the images. The losses and syncers of this library measure displacement in heights of
the face. A fixed crop therefore does not affect them, and a centred crop removes the translation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from avsync._checks import as_numbers, check_positive, check_type
from avsync.corpus.media.info import Image
from avsync.errors import ArgumentError, ShapeError


class Crop(NamedTuple):
    """Landmarks in a crop, and the boxes of the crop.

    Attributes:
        points: Landmarks (frames, points, dims) float32, in pixels of the crop; a third dim is scaled only.
        boxes: Boxes (frames, 4) float64: left, top, right and bottom in pixels of the source; may extend beyond the image.
    """

    points: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float64]


def crop_fixed(points: npt.ArrayLike, *, size: int = 256, margin: float = 0.2) -> Crop:
    """Crop a clip with one square around the area that the face covers, which keeps head motion (VoxCeleb2 II, the default).

    Args:
        points: Landmarks (frames, points, dims), x to the right and y down.
        size: Side of the crop, in pixels.
        margin: Margin on every side, as a fraction of the longer side of the area that the face covers.

    Returns:
        :class:`Crop`, with the same box for all frames.

    Raises:
        ShapeError: ``points`` has the wrong rank, or no frame or point.
        ArgumentError: ``size`` is not positive, ``margin`` is negative, or the landmarks are not finite or all in one place.

    Example:
        >>> points = np.array([[[10, 10], [20, 30]], [[30, 10], [40, 30]]], np.float32)
        >>> crop = crop_fixed(points, size=60, margin=0.0)
        >>> crop.boxes[0].tolist(), crop.points[:, 0].tolist()
        ([10.0, 5.0, 40.0, 35.0], [[0.0, 10.0], [40.0, 10.0]])

    Source: paper section 4.1; ``size`` and ``margin`` ours.
    """
    values = _checked(points, size, margin)
    low, high = values[..., :2].min(axis=(0, 1)), values[..., :2].max(axis=(0, 1))
    boxes = _squares((low + high)[None] / 2, (high - low).max(keepdims=True), margin)
    return _move(values, boxes.repeat(len(values), axis=0), size)


def crop_centred(points: npt.ArrayLike, *, size: int = 256, margin: float = 0.2) -> Crop:
    """Crop every frame with a square around the face, which removes the translation of the face (VoxCeleb2 I).

    The side is the same for the whole clip: the largest side that any frame needs. A face that moves closer therefore still
    grows, and an opening mouth does not shrink the rest of the face. The centre is the centre of the bounding box of the face.

    Args:
        points: Landmarks (frames, points, dims), x to the right and y down.
        size: Side of the crop, in pixels.
        margin: Margin on every side, as a fraction of the longest side of the face in the clip.

    Returns:
        :class:`Crop`.

    Raises:
        ShapeError: ``points`` has the wrong rank, or no frame or point.
        ArgumentError: ``size`` is not positive, ``margin`` is negative, or the landmarks are not finite or all in one place.

    Example:
        >>> points = np.array([[[10, 10], [20, 30]], [[30, 10], [40, 30]]], np.float32)
        >>> crop = crop_centred(points, size=60, margin=0.0)
        >>> crop.boxes[1].tolist(), crop.points[:, 0].tolist()
        ([25.0, 10.0, 45.0, 30.0], [[15.0, 0.0], [15.0, 0.0]])

    Source: paper section 4.1; constant side, ``size`` and ``margin`` ours.
    """
    values = _checked(points, size, margin)
    low, high = values[..., :2].min(axis=1), values[..., :2].max(axis=1)
    side = np.full(len(values), (high - low).max())
    return _move(values, _squares((low + high) / 2, side, margin), size)


def _checked(points: npt.ArrayLike, size: int, margin: float) -> npt.NDArray[np.float64]:
    values = as_numbers("points", points)
    check_type("size", size, int)
    check_type("margin", margin, int, float)
    if values.ndim != 3 or values.shape[2] < 2 or 0 in values.shape:
        raise ShapeError(f"`points`: expected (frames, points, dims>=2), none of them 0, got {values.shape}")
    check_positive("size", size)
    check_positive("margin", margin, allow_zero=True)
    if not np.isfinite(values).all():
        raise ArgumentError("`points`: expected finite landmarks, got NaN or infinity")
    if not np.ptp(values[..., :2], axis=1).any():
        raise ArgumentError("`points`: expected faces with an extent, got faces whose points are all equal")
    return values


def _squares(centres: npt.NDArray[np.float64], sides: npt.NDArray[np.float64], margin: float) -> npt.NDArray[np.float64]:
    reach = sides[:, None] * (0.5 + margin)
    return np.concatenate([centres - reach, centres + reach], axis=1)


def _move(points: npt.NDArray[np.float64], boxes: npt.NDArray[np.float64], size: int) -> Crop:
    scale = size / (boxes[:, 2] - boxes[:, 0])[:, None, None]
    moved = points.copy()
    moved[..., :2] -= boxes[:, None, :2]
    return Crop((moved * scale).astype(np.float32), boxes)


def crop_image(image: Image, box: npt.ArrayLike, *, size: int = 256) -> Image:
    """Crop a box out of an image and resize the crop to a square, with the pixel positions of the landmarks of :class:`Crop`.

    Downscaling uses area averaging, and upscaling uses linear interpolation. Pixels outside of the image are black.

    Args:
        image: Image (height, width, channels) uint8.
        box: Left, top, right and bottom, in pixels; may be fractional and outside of the image.
        size: Side of the result, in pixels.

    Returns:
        (size, size, channels) uint8.

    Raises:
        ShapeError: ``image`` or ``box`` has the wrong form.
        ArgumentError: ``box`` has no area, or ``size`` is not positive.

    Example:
        >>> image = np.arange(4, dtype=np.uint8).repeat(4).reshape(4, 4, 1)
        >>> crop_image(image, (0, 0, 4, 4), size=2)[..., 0].tolist()
        [[1, 1], [2, 2]]

    Source: ours.
    """
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.dtype != np.uint8 or 0 in image.shape:
        got = f"{image.shape} of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ShapeError(f"`image`: expected (height, width, channels) of uint8, got {got}")
    edges = as_numbers("box", box)
    check_type("size", size, int)
    if edges.shape != (4,):
        raise ShapeError(f"`box`: expected (left, top, right, bottom), got {edges.shape}")
    left, top, right, bottom = edges.tolist()
    if not (np.isfinite(edges).all() and right > left and bottom > top):
        raise ArgumentError(f"`box`: expected left < right and top < bottom, got {edges.tolist()}")
    check_positive("size", size)
    rows, row_weights = _weights(top, bottom, size, image.shape[0])
    columns, column_weights = _weights(left, right, size, image.shape[1])
    part = image[rows, columns].astype(np.float32)
    narrow = np.tensordot(column_weights, part, axes=(1, 1))  # (size, rows, channels)
    cut = np.tensordot(row_weights, narrow, axes=(1, 1))
    return np.clip(np.rint(cut), 0, 255).astype(np.uint8)


def _weights(low: float, high: float, size: int, length: int) -> tuple[slice, npt.NDArray[np.float32]]:
    """Return the range of source pixels that one axis of a crop needs, and their weights (size, source pixels)."""
    step = (high - low) / size
    centres = low + step * (np.arange(size) + 0.5)
    reach = max(1.0, step)
    first, last = max(0, int(np.floor(low - reach))), min(length, int(np.ceil(high + reach)))
    if first >= last:
        return slice(0, 1), np.zeros((size, 1), np.float32)
    # Pixel j covers the interval from j to j + 1, so its centre is j + 1/2.
    distance = np.abs(np.arange(first, last)[None] + 0.5 - centres[:, None]) / reach
    triangle = np.maximum(0.0, 1.0 - distance)
    # The edge of the image is not darkened: a pixel with its centre inside uses only existing pixels, any other pixel is black.
    total = triangle.sum(axis=1, keepdims=True)
    inside = ((centres >= 0) & (centres <= length))[:, None] & (total > 0)
    weights = np.divide(triangle, total, out=np.zeros_like(triangle), where=inside)
    return slice(first, last), weights.astype(np.float32)
