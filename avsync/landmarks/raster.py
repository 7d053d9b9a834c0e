"""Landmarks drawn as pictures, one pixel a point: what Inception-v3 and I3D see in the paper's FID, FVD and t-FID.

Channel 0 holds the contour (points 0-16), channel 1 brows, nose and eyes (17-47), channel 2 the mouth (48-67).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from avsync._checks import check_positive, check_shape
from avsync.errors import ArgumentError
from avsync.landmarks.geometry import check_landmarks, reference_face, unit_length
from avsync.landmarks.layouts import JAW, MOUTH, NUM_POINTS

IMAGE_CHANNELS = 3
"""Channels of a picture: contour; brows, nose and eyes; mouth."""


def _channel_of_point(device: torch.device) -> Tensor:
    channel = torch.ones(NUM_POINTS, dtype=torch.long, device=device)
    channel[JAW], channel[MOUTH] = 0, 2
    return channel


def to_pixels(
    landmarks: Tensor,
    *,
    size: int = 224,
    frame_size: tuple[float, float] | None = None,
    reference: str | Tensor = "first",
    view: float = 2.5,
) -> Tensor:
    """Landmarks in the coordinates of a square picture, ``0 <= x < size`` inside it.

    Args:
        landmarks: (..., frames, points, dims), at least 2 dims; a third is left out.
        size: Width and height of the picture, in pixels.
        frame_size: Width and height of the source image in the unit of ``landmarks``: the whole of it becomes the picture, the longer
            side filling it. None cuts a square around the reference face instead, which no movement moves.
        reference: "first", "mean", or a face (..., points, dims), for pictures without ``frame_size``.
        view: Side of that square, in heights of the reference face.

    Returns:
        (..., frames, points, 2), in pixels.

    Raises:
        ShapeError: Wrong rank or one dim only.
        ArgumentError: ``size``, ``view`` or ``frame_size`` is not positive.

    Example:
        >>> face = torch.tensor([[[0.0, 0.0], [0.0, 10.0]]])
        >>> to_pixels(face, size=100, view=2.0).tolist()
        [[[50.0, 25.0], [50.0, 75.0]]]

    Source: size from the authors' code; the square around the face ours.
    """
    check_landmarks(landmarks, min_dims=2)
    check_positive("size", size)
    if frame_size is not None:
        if len(frame_size) != 2 or min(frame_size) <= 0:
            raise ArgumentError(f"`frame_size`: expected (width, height) above 0, got {frame_size!r}")
        return landmarks[..., :2] * (size / max(frame_size))
    check_positive("view", view)
    face = reference_face(landmarks, reference)[..., :2]
    centre = (face.amax(dim=-2) + face.amin(dim=-2)) / 2
    scale = size / (view * unit_length(face))
    return (landmarks[..., :2] - centre[..., None, None, :]) * scale[..., None, None, None] + size / 2


def rasterise(
    landmarks: Tensor,
    *,
    size: int = 224,
    frame_size: tuple[float, float] | None = None,
    reference: str | Tensor = "first",
    view: float = 2.5,
) -> Tensor:
    """Draw faces, one pixel of value 1 a point on black. Points outside the picture, or NaN, are not drawn.

    Args:
        landmarks: (..., frames, 68, dims), at least 2 dims.
        size: Width and height of the pictures, in pixels.
        frame_size: Width and height of the source image; None for a square around the reference face. See :func:`to_pixels`.
        reference: "first", "mean", or a face (..., points, dims).
        view: Side of the square, in heights of the reference face.

    Returns:
        (..., frames, 3, size, size), float32, 0 or 1. There is no gradient.

    Raises:
        ShapeError: Not 68 points, or one dim only.
        ArgumentError: ``size``, ``view`` or ``frame_size`` is not positive.

    Example:
        >>> pictures = rasterise(torch.rand(2, 5, 68, 2), size=64)
        >>> pictures.shape, pictures.unique().tolist()
        (torch.Size([2, 5, 3, 64, 64]), [0.0, 1.0])

    Source: the pictures of the authors' code, which the paper names in section 4.2 (Figure 4).
    """
    check_landmarks(landmarks, min_dims=2, points=NUM_POINTS)
    place = to_pixels(landmarks.detach(), size=size, frame_size=frame_size, reference=reference, view=view)
    seen = ((place >= 0) & (place < size)).all(dim=-1)  # False for NaN
    column, row = torch.where(seen[..., None], place, 0.0).long().unbind(dim=-1)
    # A spare pixel after each picture takes the points that are not to be seen, so that the shapes do not depend on the values.
    pixel = (_channel_of_point(landmarks.device) * size + row) * size + column
    spare = IMAGE_CHANNELS * size * size
    pictures = torch.zeros(*landmarks.shape[:-2], spare + 1, device=landmarks.device)
    pictures.scatter_(-1, torch.where(seen, pixel, spare), 1.0)
    return pictures[..., :spare].unflatten(-1, (IMAGE_CHANNELS, size, size))


def temporal_weights(frames: int, *, low: float = 0.2, high: float = 0.8, device: torch.device | None = None) -> Tensor:
    """The weights of t-FID: from ``low`` at the first frame to ``high`` at the last, divided by their sum.

    Args:
        frames: Number of frames.
        low: Weight of the first frame before the division.
        high: Weight of the last.
        device: Where to put them.

    Returns:
        (frames,), sum 1.

    Raises:
        ArgumentError: No frame, or a weight that is not positive.

    Example:
        >>> temporal_weights(4).tolist()
        [0.1..., 0.2..., 0.3..., 0.4...]

    Source: the authors' code.
    """
    check_positive("frames", frames)
    check_positive("low", low)
    check_positive("high", high)
    weights = torch.linspace(low, high, frames, device=device)
    return weights / weights.sum()


def temporal_picture(pictures: Tensor) -> Tensor:
    """A sequence in one picture, the mean over time by :func:`temporal_weights`: late frames are bright, and motion leaves a trail.

    Args:
        pictures: (batch, frames, channels, height, width).

    Returns:
        (batch, channels, height, width).

    Raises:
        ShapeError: Wrong rank.

    Example:
        >>> round(float(temporal_picture(torch.ones(1, 40, 3, 8, 8)).mean()), 4)
        1.0

    Source: the authors' code; the paper names it t-FID in section 4.2.
    """
    check_shape("pictures", pictures, "batch frames channels height width")
    weights = temporal_weights(pictures.shape[1], device=pictures.device).to(pictures.dtype)
    return torch.einsum("t,btchw->bchw", weights, pictures)


def chunk_of(clips: int, frames: int, *, size: int, megabytes: float = 64.0) -> int:
    """How many of ``clips`` can be drawn at once in so much memory; at least 1.

    Example:
        >>> chunk_of(1000, 40, size=224)
        2

    Source: ours.
    """
    return min(clips, max(1, math.floor(megabytes * 2**20 / (4 * IMAGE_CHANNELS * size * size * frames))))
