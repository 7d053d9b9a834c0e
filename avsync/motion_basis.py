"""The principal motions of faces, in which a generator may speak instead of in single coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import check_shape
from avsync.errors import ArgumentError
from avsync.landmarks import normalise


def principal_motions(landmarks: Tensor, components: int) -> Tensor:
    """The directions in which faces move most, each as long as faces typically move along it in a frame.

    The directions are those of the displacement from each clip's first face, which holds what velocities hide under the
    detector's noise; the lengths are root mean squares of the velocity.

    Args:
        landmarks: Clips, (batch, frames, points, dims), in any unit; together at least as many frames as ``components``.
        components: Number of directions, at most points * dims.

    Returns:
        (components, points, dims), in heights of the first face a frame; the first direction moves most.

    Raises:
        ShapeError: Not (batch, frames, points, dims).
        ArgumentError: More components than coordinates or displacements.

    Example:
        >>> principal_motions(torch.rand(4, 10, 68, 2), 5).shape
        torch.Size([5, 68, 2])

    Source: ours.
    """
    check_shape("landmarks", landmarks, "batch frames points dims")
    faces = normalise(landmarks.double()).landmarks
    displacement = (faces[:, 1:] - faces[:, :1]).flatten(0, 1).flatten(1)
    most = min(displacement.shape)
    if not 1 <= components <= most:
        raise ArgumentError(f"`components`: expected a number from 1 to {most}, got {components}")
    covariance = displacement.mT @ displacement
    directions = torch.linalg.eigh(covariance).eigenvectors.flip(1).mT[:components]
    velocity = (faces[:, 1:] - faces[:, :-1]).flatten(0, 1).flatten(1)
    lengths = (velocity @ directions.mT).square().mean(dim=0).sqrt()
    return (lengths[:, None] * directions).to(landmarks.dtype).unflatten(1, landmarks.shape[2:])
