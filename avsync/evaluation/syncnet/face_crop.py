"""The face crops that SyncNet sees, made as the published pipeline makes them, from the landmarks or boxes of any detector.

A face is one box per frame. Its centre and its size are median-filtered over 13 frames, and the crop reaches from one (half)
box above the centre to 1.8 below it and 1.4 to both sides, so the mouth lies in the middle of the image; outside the image it
is grey. It is scaled to 224 x 224 pixels.

Differences from the published pipeline: frames are not compressed again (the published pipeline writes JPEG and MPEG-4 files in
between), and the caller chooses the detector (instead of S3FD). Boxes of landmarks reach above the brows, because boxes of S3FD
do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from avsync._checks import check_finite_numbers, check_positive, checked
from avsync.corpus.media.info import Image
from avsync.errors import ArgumentError, ShapeError

Points = npt.NDArray[np.float32]
_Points = npt.NDArray[np.float64]

CROP_SCALE = 0.4
"""Reach of a crop beyond the sides of the box, as a share of half the box."""
CROP_SIZE = 224
"""Height and width of a crop, in pixels."""
FILTER_FRAMES = 13
"""Frames of the median filter."""
FOREHEAD = 0.2
"""Raise of the box of a face above its landmarks, in heights of the landmarks."""
_GREY = 110


class CropPath(NamedTuple):
    """Positions of the crops of a track, in pixels of the video; all are (frames,)."""

    x: _Points
    """Centre of the box."""
    y: _Points
    """Centre of the box."""
    half: _Points
    """Half the longer side of the box."""

    @property
    def size(self) -> float:
        """Mean length of the longer side of the box, in pixels."""
        return float(2 * self.half.mean())


@checked
def face_boxes(points: Points, *, forehead: float = FOREHEAD) -> _Points:
    """Compute boxes around faces.

    Args:
        points: (frames, points, dims) in pixels. Two points are opposite corners of a box, as a face detector returns
            them, and are returned unchanged.
        forehead: Raise of the top of the box in heights of the landmarks, because the landmarks end at the brows.

    Returns:
        (frames, 4): left, top, right, bottom.

    Raises:
        ShapeError: Another rank, or fewer than two points.

    Example:
        >>> face_boxes(np.array([[[10, 20], [30, 60]]], np.float32)).tolist()
        [[10.0, 20.0, 30.0, 60.0]]

    Source: ours.
    """
    if points.ndim != 3 or points.shape[1] < 2 or points.shape[2] < 2:
        raise ShapeError(f"`points`: expected (frames, points >= 2, dims >= 2), got {points.shape}")
    low, high = points[..., :2].min(axis=1).astype(np.float64), points[..., :2].max(axis=1).astype(np.float64)
    if points.shape[1] > 2:
        low[:, 1] -= forehead * (high[:, 1] - low[:, 1])
    return np.concatenate([low, high], axis=1)


def median_filter(values: _Points, size: int = FILTER_FRAMES) -> _Points:
    """Compute the median of ``size`` neighbours around each value, with zeros beyond both ends.

    The zeros follow the published pipeline: near an end the filter prefers the smaller values.

    Args:
        values: (frames,).
        size: An odd number, at most twice the frames.

    Returns:
        (frames,).

    Raises:
        ArgumentError: ``size`` is even, or so large that the zeros would outnumber the values.

    Example:
        >>> median_filter(np.array([5.0, 6.0, 50.0, 7.0, 8.0]), 3).tolist()
        [5.0, 6.0, 7.0, 8.0, 7.0]

    Source: as ``scipy.signal.medfilt``, which the published pipeline uses.
    """
    check_positive("size", size)
    if size % 2 == 0 or size // 2 + 1 > len(values):
        raise ArgumentError(f"`size`: expected an odd number below {2 * len(values)} for {len(values)} values, got {size}")
    return np.median(np.lib.stride_tricks.sliding_window_view(np.pad(values, size // 2), size), axis=1)


@checked
def crop_path(boxes: _Points) -> CropPath:
    """Smooth the boxes of a track into the path of its crops.

    Args:
        boxes: (frames, 4): left, top, right, bottom, one per frame of 40 ms; at least 7 of them.

    Returns:
        :class:`CropPath`.

    Raises:
        ShapeError: Not (frames, 4).
        ArgumentError: Fewer than 7 frames, or a box without extent.

    Example:
        >>> path = crop_path(np.tile([10.0, 20.0, 30.0, 60.0], (25, 1)))
        >>> path.x[12], path.y[12], path.half[12]
        (np.float64(20.0), np.float64(40.0), np.float64(20.0))

    Source: the published pipeline.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ShapeError(f"`boxes`: expected (frames, 4), got {boxes.shape}")
    left, top, right, bottom = boxes.T
    half = np.maximum(bottom - top, right - left) / 2
    if not (half > 0).all():
        raise ArgumentError(
            f"`boxes`: expected boxes with an extent, got one of {float(half.min())} at frame {int(half.argmin())}"
        )
    return CropPath(*(median_filter(value) for value in ((left + right) / 2, (top + bottom) / 2, half)))


@checked
def crop_face(image: Image, x: float, y: float, half: float, *, crop_scale: float = CROP_SCALE) -> Image:
    """Cut one face out of one frame.

    Args:
        image: (height, width, 3) uint8.
        x, y: Centre of the box, in pixels.
        half: Half the longer side of the box, in pixels.
        crop_scale: Reach of the crop beyond the sides of the box, as a share of half the box; twice as much downwards.

    Returns:
        (224, 224, 3) uint8, channels as in ``image``; grey (110) where the crop leaves the image.

    Raises:
        ShapeError: ``image`` is not (height, width, 3) uint8.
        ArgumentError: ``half`` is too small for a single pixel.

    Example:
        >>> crop_face(np.full((200, 300, 3), 7, np.uint8), 150, 100, 40)[112, 112].tolist()
        [7, 7, 7]

    Source: the published pipeline.
    """
    check_finite_numbers(x=x, y=y, half=half, crop_scale=crop_scale)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ShapeError(f"`image`: expected (height, width, 3) uint8, got {image.shape} {image.dtype}")
    # Bounds are rounded down after a shift by a whole number of pixels, as the published pipeline pads the image before it
    # cuts.
    shift = int(half * (1 + 2 * crop_scale))
    rows = np.arange(int(y + shift - half), int(y + shift + half * (1 + 2 * crop_scale))) - shift
    columns = np.arange(int(x + shift - half * (1 + crop_scale)), int(x + shift + half * (1 + crop_scale))) - shift
    if rows.size == 0 or columns.size == 0:
        raise ArgumentError(f"`half`: expected a box of at least a pixel, got {half!r}")
    height, width = image.shape[:2]
    cut = image[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
    cut[(rows < 0) | (rows >= height)] = _GREY
    cut[:, (columns < 0) | (columns >= width)] = _GREY
    pixels = torch.from_numpy(cut).permute(2, 0, 1)[None].float()
    scaled = F.interpolate(pixels, (CROP_SIZE, CROP_SIZE), mode="bilinear", align_corners=False)
    return scaled[0].permute(1, 2, 0).round().byte().numpy()
