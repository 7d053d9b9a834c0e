"""Augmentation of landmarks: random mirroring, rotation, scaling and translation of clips."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from avsync._checks import at_least_float32, check_permutation, check_positive, checked, constant
from avsync.errors import ArgumentError
from avsync.landmarks.geometry import check_landmarks, extent
from avsync.landmarks.layouts import FLIP_INDEX


@checked
def augment(
    landmarks: Tensor,
    *,
    scale: tuple[float, float] = (0.9, 1.1),
    translation: float = 0.05,
    rotation: float = math.radians(5.0),
    flip_probability: float = 0.5,
    flip_index: Sequence[int] | Tensor = FLIP_INDEX,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Apply one random similarity transform to each clip, the same for all its frames.

    The transform mirrors, rotates in the image plane and scales about the centroid of the clip's first frame, then moves in x
    and y. All draws are uniform. Their number does not depend on the settings, so disabling one part does not change the
    others.

    Args:
        landmarks: (..., frames, points, dims), at least 2 dims; each element of the leading axes is a clip.
        scale: Smallest and largest factor of the size.
        translation: Largest shift in x and in y, in heights of the clip's first face.
        rotation: Largest angle in either direction, in radians.
        flip_probability: Probability that a clip is mirrored.
        flip_index: The permutation that renames mirrored points; the default is for the 68-point layout.
        generator: Random generator, on any device; torch's default if None.

    Returns:
        (..., frames, points, dims), in at least float32.

    Raises:
        ShapeError: There is only one dim, or ``flip_probability`` is above 0 and the number of points differs from
            ``flip_index``.
        ArgumentError: A range is empty or out of bounds.

    Example:
        >>> x = torch.rand(2, 5, 68, 2)
        >>> y = augment(x, flip_probability=0.0, generator=torch.Generator().manual_seed(0))
        >>> ratio = y.diff(dim=1).norm(dim=-1) / x.diff(dim=1).norm(dim=-1)  # one factor per clip
        >>> bool(ratio.flatten(1).std(dim=1).max() < 1e-4)
        True

    Source: the ranges of scale and the flips from the paper's code; the rotation is ours.
    """
    check_landmarks(landmarks, min_dims=2)
    check_positive("scale", scale[0])
    if scale[1] < scale[0]:
        raise ArgumentError(f"`scale`: expected (smallest, largest), got {scale!r}")
    check_positive("translation", translation, allow_zero=True)
    check_positive("rotation", rotation, allow_zero=True)
    if not 0 <= flip_probability <= 1:
        raise ArgumentError(f"`flip_probability`: expected a number from 0 to 1, got {flip_probability!r}")
    landmarks = at_least_float32(landmarks)
    device = landmarks.device if generator is None else generator.device
    draws = torch.rand((*landmarks.shape[:-3], 5), generator=generator, device=device).to(landmarks)
    luck, grow, turn, shift = draws[..., 0], draws[..., 1], draws[..., 2], draws[..., 3:]

    named = landmarks
    mirror = torch.ones_like(luck)
    if flip_probability > 0:
        check_landmarks(landmarks, min_dims=2, points=check_permutation("flip_index", flip_index))
        order = flip_index if isinstance(flip_index, Tensor) else constant(flip_index, landmarks.device)
        flipped = luck < flip_probability
        which = torch.where(flipped[..., None], order, torch.arange(len(order), device=order.device))
        named = landmarks.gather(-2, which[..., None, :, None].expand_as(landmarks))
        mirror = torch.where(flipped, -1.0, 1.0).to(landmarks)
    factor = scale[0] + (scale[1] - scale[0]) * grow
    angle = rotation * (2 * turn - 1)
    # Mirror, rotation and scale are one matrix, so that the coordinates, by far the largest tensor, are read and written once.
    cos, sin = factor * angle.cos(), factor * angle.sin()
    first = landmarks[..., 0, :, :]
    centre = first.mean(dim=-2)
    shifted = centre[..., :2] + translation * extent(first)[..., None] * (2 * shift - 1)
    cos_x, sin_x, x0, y0 = cos * mirror, sin * mirror, centre[..., 0], centre[..., 1]
    move_x, move_y = shifted[..., 0] - (cos_x * x0 - sin * y0), shifted[..., 1] - (sin_x * x0 + cos * y0)
    a, b, c, d, e, f = (value[..., None, None] for value in (cos_x, sin, move_x, sin_x, cos, move_y))
    x, y = named[..., 0], named[..., 1]
    parts = [a * x - b * y + c, d * x + e * y + f]
    if landmarks.shape[-1] > 2:
        depth = centre[..., 2][..., None, None]
        parts.append((named[..., 2] - depth) * factor[..., None, None] + depth)
    return torch.stack(parts, dim=-1)


class LandmarkAugment(nn.Module):
    """Module form of :func:`augment`, active in training mode only.

    Args:
        scale: Smallest and largest factor of the size.
        translation: Largest shift in x and in y, in heights of the clip's first face.
        rotation: Largest angle in either direction, in radians.
        flip_probability: Probability that a clip is mirrored.
        flip_index: The permutation that renames mirrored points; the default is for the 68-point layout.

    Example:
        >>> x = torch.rand(2, 5, 68, 2)
        >>> torch.equal(LandmarkAugment().eval()(x), x)
        True

    Source: as :func:`augment`.
    """

    flip_index: Tensor

    @checked
    def __init__(
        self,
        *,
        scale: tuple[float, float] = (0.9, 1.1),
        translation: float = 0.05,
        rotation: float = math.radians(5.0),
        flip_probability: float = 0.5,
        flip_index: Sequence[int] = FLIP_INDEX,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.translation = translation
        self.rotation = rotation
        self.flip_probability = flip_probability
        self.register_buffer("flip_index", torch.tensor(flip_index), persistent=False)

    @checked
    def forward(self, landmarks: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Augment landmarks (..., frames, points, dims) in training mode; return them unchanged in eval mode."""
        if not self.training:
            return landmarks
        return augment(
            landmarks,
            scale=self.scale,
            translation=self.translation,
            rotation=self.rotation,
            flip_probability=self.flip_probability,
            flip_index=self.flip_index,
            generator=generator,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return (
            f"scale={self.scale}, translation={self.translation}, rotation={self.rotation:.4f}, "
            f"flip_probability={self.flip_probability}"
        )
