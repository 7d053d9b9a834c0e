"""Raster images of landmarks, one pixel per point: the input of Inception-v3 and I3D in the paper's FID, FVD and t-FID.

Channel 0 holds the contour (points 0-16), channel 1 brows, nose and eyes (17-47), channel 2 the mouth (48-67).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from avsync._checks import check_positive, check_shape, checked
from avsync.errors import ArgumentError
from avsync.landmarks.geometry import check_landmarks, reference_face, unit_length
from avsync.landmarks.layouts import JAW, MOUTH, NUM_POINTS

IMAGE_CHANNELS = 3
"""Channels of an image: contour; brows, nose and eyes; mouth."""


def _channel_of_point(device: torch.device) -> Tensor:
    channel = torch.ones(NUM_POINTS, dtype=torch.long, device=device)
    channel[JAW], channel[MOUTH] = 0, 2
    return channel


@checked
def to_pixels(
    landmarks: Tensor,
    *,
    size: int = 224,
    frame_size: tuple[float, float] | None = None,
    reference: str | Tensor = "first",
    view: float = 2.5,
) -> Tensor:
    """Convert landmarks to the coordinates of a square image, with ``0 <= x < size`` inside the image.

    Args:
        landmarks: (..., frames, points, dims), at least 2 dims; a third dim is ignored.
        size: Width and height of the image, in pixels.
        frame_size: Width and height of the source image in the unit of ``landmarks``; its longer side fills the image. None
            uses a fixed square around the reference face instead.
        reference: "first", "mean", or a face (..., points, dims); used without ``frame_size``.
        view: Side of the square around the reference face, in heights of that face.

    Returns:
        (..., frames, points, 2), in pixels.

    Raises:
        ShapeError: Wrong rank or one dim only.
        ArgumentError: ``size``, ``view`` or ``frame_size`` is not positive.

    Example:
        >>> face = torch.tensor([[[0.0, 0.0], [0.0, 10.0]]])
        >>> to_pixels(face, size=100, view=2.0).tolist()
        [[[50.0, 25.0], [50.0, 75.0]]]

    Source: the size from the authors' code; the square around the face is ours.
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


@checked
def rasterise(
    landmarks: Tensor,
    *,
    size: int = 224,
    frame_size: tuple[float, float] | None = None,
    reference: str | Tensor = "first",
    view: float = 2.5,
) -> Tensor:
    """Draw faces on black, one pixel of value 1 per point. Points outside the image, or NaN, are not drawn.

    Args:
        landmarks: (..., frames, 68, dims), at least 2 dims.
        size: Width and height of the images, in pixels.
        frame_size: Width and height of the source image; None for a square around the reference face. See :func:`to_pixels`.
        reference: "first", "mean", or a face (..., points, dims).
        view: Side of the square, in heights of the reference face.

    Returns:
        (..., frames, 3, size, size), float32, 0 or 1, without a gradient.

    Raises:
        ShapeError: Not 68 points, or one dim only.
        ArgumentError: ``size``, ``view`` or ``frame_size`` is not positive.

    Example:
        >>> images = rasterise(torch.rand(2, 5, 68, 2), size=64)
        >>> images.shape, images.unique().tolist()
        (torch.Size([2, 5, 3, 64, 64]), [0.0, 1.0])

    Source: the authors' code; paper section 4.2 (Figure 4).
    """
    check_landmarks(landmarks, min_dims=2, points=NUM_POINTS)
    place = to_pixels(landmarks.detach(), size=size, frame_size=frame_size, reference=reference, view=view)
    seen = ((place >= 0) & (place < size)).all(dim=-1)  # False for NaN
    column, row = torch.where(seen[..., None], place, 0.0).long().unbind(dim=-1)
    # A spare pixel after each image receives the points outside, so that shapes do not depend on values.
    pixel = (_channel_of_point(landmarks.device) * size + row) * size + column
    spare = IMAGE_CHANNELS * size * size
    images = torch.zeros(*landmarks.shape[:-2], spare + 1, device=landmarks.device)
    images.scatter_(-1, torch.where(seen, pixel, spare), 1.0)
    return images[..., :spare].unflatten(-1, (IMAGE_CHANNELS, size, size))


@checked
def temporal_weights(frames: int, *, low: float = 0.2, high: float = 0.8, device: torch.device | None = None) -> Tensor:
    """Return the weights of t-FID: from ``low`` at the first frame to ``high`` at the last, divided by their sum.

    Args:
        frames: Number of frames.
        low: Weight of the first frame before the division.
        high: Weight of the last frame before the division.
        device: Device of the result.

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


def temporal_image(images: Tensor) -> Tensor:
    """Merge a sequence into one image, the mean over time with :func:`temporal_weights`.

    Late frames are bright, and motion leaves a trail.

    Args:
        images: (batch, frames, channels, height, width).

    Returns:
        (batch, channels, height, width).

    Raises:
        ShapeError: Wrong rank.

    Example:
        >>> round(float(temporal_image(torch.ones(1, 40, 3, 8, 8)).mean()), 4)
        1.0

    Source: the authors' code; t-FID in paper section 4.2.
    """
    check_shape("images", images, "batch frames channels height width")
    weights = temporal_weights(images.shape[1], device=images.device).to(images.dtype)
    return torch.einsum("t,btchw->bchw", weights, images)


def chunk_of(clips: int, frames: int, *, size: int, megabytes: float = 64.0) -> int:
    """Return the number of clips that can be drawn at once in ``megabytes`` of memory, from 1 to ``clips``.

    Example:
        >>> chunk_of(1000, 40, size=224)
        2

    Source: ours.
    """
    return min(clips, max(1, math.floor(megabytes * 2**20 / (4 * IMAGE_CHANNELS * size * size * frames))))
