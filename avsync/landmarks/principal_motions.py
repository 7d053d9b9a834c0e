"""Principal motions of faces, as an alternative to single coordinates in the output of a generator."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from avsync._checks import check_floating, check_shape, check_some_clips, checked
from avsync.errors import ArgumentError
from avsync.landmarks.geometry import normalise


class PrincipalMotions(NamedTuple):
    """Directions and limits of motion found by :func:`principal_motions`."""

    motions: Tensor
    """(components, points, dims), in heights of the first face per frame. The length of each is the typical motion per frame
    along it. The motions are sorted by the displacement along them, largest first."""
    reach: Tensor
    """(components,), largest usual displacement from the first face along each motion, as a multiple of the motion."""


@checked
def principal_motions(landmarks: Tensor, components: int, *, quantile: float = 0.995) -> PrincipalMotions:
    """Find the directions of the largest motion of faces, and the velocity and reach along each direction.

    The directions are the principal components of the displacement from each clip's first face, because velocities are
    dominated by the detector's noise. The lengths are root mean squares of the velocity.

    Args:
        landmarks: Clips, (batch, frames, points, dims), in any unit, with at least ``components`` frames in total.
        components: Number of directions, at most points * dims.
        quantile: Share of the frames that lie within ``reach``.

    Returns:
        :class:`PrincipalMotions`.

    Raises:
        ShapeError: Not (batch, frames, points, dims), or not floating point.
        ArgumentError: More components than coordinates or displacements, or a quantile outside 0 to 1.

    Example:
        >>> motions, reach = principal_motions(torch.rand(4, 10, 68, 2), 5)
        >>> motions.shape, reach.shape
        (torch.Size([5, 68, 2]), torch.Size([5]))

    Source: ours.
    """
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_floating("landmarks", landmarks)
    check_some_clips("landmarks", landmarks)
    faces = normalise(landmarks.double()).landmarks
    displacement = (faces[:, 1:] - faces[:, :1]).flatten(0, 1).flatten(1)
    most = min(displacement.shape)
    if not 1 <= components <= most:
        raise ArgumentError(f"`components`: expected a number from 1 to {most}, got {components}")
    if not 0 < quantile <= 1:
        raise ArgumentError(f"`quantile`: expected a share above 0 and at most 1, got {quantile}")
    covariance = displacement.mT @ displacement
    directions = torch.linalg.eigh(covariance).eigenvectors.flip(1).mT[:components]
    velocity = (faces[:, 1:] - faces[:, :-1]).flatten(0, 1).flatten(1)
    lengths = (velocity @ directions.mT).square().mean(dim=0).sqrt()
    motions = (lengths[:, None] * directions).unflatten(1, landmarks.shape[2:])
    distance = (displacement @ directions.mT).abs()
    rank = max(0, math.ceil(quantile * distance.shape[0]) - 1)  # torch.quantile refuses more than 16 million values
    reach = distance.sort(dim=0).values[rank] / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
    return PrincipalMotions(motions.to(landmarks.dtype), reach.to(landmarks.dtype))
