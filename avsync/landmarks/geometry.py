"""Landmarks as tensors: the 68-point layout, normalisation, displacement, velocity and mirror images.

Every function takes landmarks of shape (..., frames, points, dims) with any number of leading axes, none included; ``dims`` is 2 or
3 in the order x (right), y (down), z. All of them are differentiable, and all but :func:`flip` and :func:`mouth_opening` work on any
set of points. Random views of clips are in :mod:`avsync.landmarks.augmentation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from avsync._checks import check_choice, check_floating, describe_shape
from avsync.errors import ClipTooShortError, ShapeError
from avsync.landmarks.layouts import FLIP_INDEX, LOWER_INNER_LIP, NUM_POINTS, UPPER_INNER_LIP
from avsync.pyramid import mean_over_frames


def check_landmarks(landmarks: object, *, min_frames: int = 1, min_dims: int = 1, points: int | None = None) -> None:
    axes = f"(..., frames, points{'' if points is None else f'={points}'}, dims{'' if min_dims == 1 else f'>={min_dims}'})"
    if (
        not isinstance(landmarks, Tensor)
        or landmarks.ndim < 3
        or landmarks.shape[-1] < min_dims
        or landmarks.shape[-2] != (landmarks.shape[-2] if points is None else points)
        or 0 in landmarks.shape[-2:]
    ):
        raise ShapeError(f"`landmarks`: expected {axes}, got {describe_shape(landmarks)}")
    check_floating("landmarks", landmarks)
    if landmarks.shape[-3] < min_frames:
        raise ClipTooShortError(f"`landmarks`: expected at least {min_frames} frames, got {describe_shape(landmarks)}")


def reference_face(landmarks: Tensor, reference: str | Tensor = "first", *, lengths: Tensor | None = None) -> Tensor:
    """The face that motion is measured from: a clip's first frame, its mean, or one that the caller gives.

    Args:
        landmarks: (..., frames, points, dims).
        reference: "first", "mean", or a face (..., points, dims) that broadcasts against the leading axes of ``landmarks``.
        lengths: (...), number of valid frames of each clip; padding beyond it is left out of the mean. Ignored otherwise.

    Returns:
        (..., points, dims).

    Raises:
        ShapeError: ``landmarks`` or a face given as ``reference`` has the wrong shape.
        ArgumentError: ``reference`` is an unknown word.

    Example:
        >>> reference_face(torch.tensor([1.0, 3.0, 8.0]).reshape(3, 1, 1), "mean").item()
        4.0

    Source: ours.
    """
    check_landmarks(landmarks)
    if isinstance(reference, Tensor):
        if reference.ndim < 2 or reference.shape[-2:] != landmarks.shape[-2:]:
            points, dims = landmarks.shape[-2:]
            raise ShapeError(f"`reference`: expected (..., points={points}, dims={dims}), got {describe_shape(reference)}")
        return reference
    check_choice("reference", reference, ("first", "mean"))
    if reference == "first":
        return landmarks[..., 0, :, :]
    if lengths is not None and lengths.shape != landmarks.shape[:-3]:
        raise ShapeError(f"`lengths`: expected {tuple(landmarks.shape[:-3])}, got {describe_shape(lengths)}")
    return mean_over_frames(landmarks, -3, lengths=lengths)


def extent(face: Tensor) -> Tensor:
    y = face[..., min(1, face.shape[-1] - 1)]
    return y.amax(dim=-1) - y.amin(dim=-1)


def safe_height(face: Tensor, eps: float) -> Tensor:
    # A face squashed onto a line has a height of rounding noise; the floor is relative, so that units do not
    # matter. A face in one point at the origin still needs an absolute one, whose inverse square (its gradient) is finite.
    floor = eps * face.detach().abs().amax(dim=(-2, -1))
    return torch.maximum(extent(face), floor).clamp_min(torch.finfo(face.dtype).tiny ** 0.25)


def face_height(landmarks: Tensor, reference: str | Tensor = "first", *, lengths: Tensor | None = None) -> Tensor:
    """Height of the reference face: the extent of its points along y (along the only axis when there is one).

    Args:
        landmarks: (..., frames, points, dims), any unit.
        reference: "first", "mean", or a face (..., points, dims); see :func:`reference_face`.
        lengths: (...), number of valid frames; only "mean" needs it.

    Returns:
        (...), in the unit of ``landmarks``.

    Raises:
        ShapeError: Wrong rank, or no point at all.

    Example:
        >>> square = torch.tensor([[0.0, 1.0], [2.0, 1.0], [2.0, 5.0], [0.0, 5.0]])
        >>> face_height(square.expand(1, 7, 4, 2)).tolist()
        [4.0]

    Source: ours.
    """
    return extent(reference_face(landmarks, reference, lengths=lengths))


class NormalisedLandmarks(NamedTuple):
    """What :func:`normalise` returns, and all that :func:`denormalise` needs.

    Attributes:
        landmarks: (..., frames, points, dims), in heights of the reference face.
        centre: (..., dims), centroid of the reference face, in the units of the input.
        height: (...), height of the reference face, in the units of the input.
    """

    landmarks: Tensor
    centre: Tensor
    height: Tensor


def displacement(
    landmarks: Tensor,
    *,
    reference: str | Tensor = "first",
    scale: float = 8.0,
    lengths: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Displacement of every point from a reference face: the input of the motion encoder.

    ``scale * (x_t - x_ref) / height(x_ref)``. Identity, position and framing drop out, so the encoder sees motion from the
    first step on; the scale brings a talking mouth to about unit variance.

    Args:
        landmarks: (..., frames, points, dims), any unit.
        reference: "first", "mean", or a face (..., points, dims); see :func:`reference_face`.
        scale: Factor on the displacement, which is measured in face heights.
        lengths: (...), number of valid frames; only "mean" needs it.
        eps: The height is kept above ``eps`` times the largest coordinate of the reference face.

    Returns:
        (..., frames, points, dims), without unit.

    Raises:
        ShapeError: Wrong rank, or a reference of other points or dims.

    Example:
        >>> face = torch.tensor([[0.0, 0.0], [0.0, 10.0]])
        >>> displacement(torch.stack([face, face + 1.0]), scale=10.0)[1, 0].tolist()
        [1.0, 1.0]

    Source: ours.
    """
    face = reference_face(landmarks, reference, lengths=lengths)
    height = safe_height(face, eps)
    return (landmarks - face[..., None, :, :]) * (scale / height)[..., None, None, None]


def velocity(landmarks: Tensor) -> Tensor:
    """Motion from each frame to the next, ``v_t = x_{t+1} - x_t``.

    Args:
        landmarks: (..., frames, points, dims), at least 2 frames.

    Returns:
        (..., frames - 1, points, dims), in the unit of ``landmarks`` a frame.

    Raises:
        ClipTooShortError: Fewer than 2 frames.

    Example:
        >>> velocity(torch.tensor([1.0, 4.0, 9.0]).reshape(3, 1, 1)).flatten().tolist()
        [3.0, 5.0]

    Source: paper, equation (7).
    """
    check_landmarks(landmarks, min_frames=2)
    return landmarks[..., 1:, :, :] - landmarks[..., :-1, :, :]


def accumulate(first: Tensor, velocity: Tensor) -> Tensor:
    """Add up velocities from a first frame, ``x_t = x_{t-1} + v_t``: equation (7), the inverse of :func:`velocity`.

    Args:
        first: (..., points, dims).
        velocity: (..., frames - 1, points, dims).

    Returns:
        (..., frames, points, dims), with ``first`` as its first frame.

    Raises:
        ShapeError: The two differ in points, dims or leading axes.

    Example:
        >>> accumulate(torch.ones(1, 1), torch.tensor([3.0, 5.0]).reshape(2, 1, 1)).flatten().tolist()
        [1.0, 4.0, 9.0]

    Source: paper, equation (7).
    """
    if velocity.ndim < 3 or first.shape != velocity.shape[:-3] + velocity.shape[-2:]:
        raise ShapeError(
            f"`first` and `velocity`: expected (..., points, dims) and (..., frames - 1, points, dims), "
            f"got {describe_shape(first)} and {describe_shape(velocity)}"
        )
    return torch.cat([first[..., None, :, :], first[..., None, :, :] + velocity.cumsum(dim=-3)], dim=-3)


def normalise(
    landmarks: Tensor, *, reference: str | Tensor = "first", lengths: Tensor | None = None, eps: float = 1e-6
) -> NormalisedLandmarks:
    """Move the reference face's centroid to the origin and measure in its heights.

    Args:
        landmarks: (..., frames, points, dims), any unit.
        reference: "first", "mean", or a face (..., points, dims); see :func:`reference_face`.
        lengths: (...), number of valid frames; only "mean" needs it.
        eps: The height is kept above ``eps`` times the largest coordinate of the reference face.

    Returns:
        The landmarks, and the centre and height that :func:`denormalise` takes to undo it.

    Raises:
        ShapeError: Wrong rank, or a reference of other points or dims.

    Example:
        >>> face = torch.tensor([[3.0, 0.0], [3.0, 10.0]])
        >>> normalise(face[None]).landmarks.tolist()
        [[[0.0, -0.5], [0.0, 0.5]]]

    Source: ours.
    """
    face = reference_face(landmarks, reference, lengths=lengths)
    centre, height = face.mean(dim=-2), safe_height(face, eps)
    normalised = (landmarks - centre[..., None, None, :]) / height[..., None, None, None]
    return NormalisedLandmarks(normalised, centre, height)


def denormalise(landmarks: Tensor, centre: Tensor, height: Tensor) -> Tensor:
    """Undo :func:`normalise`.

    Args:
        landmarks: (..., frames, points, dims), in face heights.
        centre: (..., dims).
        height: (...).

    Returns:
        (..., frames, points, dims), in the unit of ``centre`` and ``height``.

    Raises:
        ShapeError: Wrong rank.

    Example:
        >>> x = torch.tensor([[[3.0, 0.0], [3.0, 10.0]]])
        >>> torch.equal(denormalise(*normalise(x)), x)
        True

    Source: ours.
    """
    check_landmarks(landmarks)
    return landmarks * height[..., None, None, None] + centre[..., None, None, :]


def flip(landmarks: Tensor, *, width: float = 0.0, index: Sequence[int] | Tensor = FLIP_INDEX) -> Tensor:
    """Mirror faces in x, ``x -> width - x``, and swap the names of left and right points; twice is the identity.

    Args:
        landmarks: (..., frames, points, dims), at least 2 dims.
        width: Width of the image in the unit of ``landmarks``; 0 mirrors about x = 0.
        index: The permutation that renames the points; the default is for the 68-point layout.

    Returns:
        (..., frames, points, dims).

    Raises:
        ShapeError: Not as many points as ``index`` has entries, or one dim only.

    Example:
        >>> face = torch.zeros(1, 68, 2)
        >>> face[0, 0, 0] = 1.0
        >>> flip(face, width=10.0)[0, [0, 16], 0].tolist()
        [10.0, 9.0]

    Source: the mirror image is the paper's code's, the swap of indices ours (the code forgets it).
    """
    check_landmarks(landmarks, min_dims=2, points=len(index))
    order = index if isinstance(index, Tensor) else torch.tensor(index, device=landmarks.device)
    named = landmarks.index_select(-2, order)
    return torch.cat([width - named[..., :1], named[..., 1:]], dim=-1)


def mouth_opening(landmarks: Tensor, *, reference: str | Tensor = "first", eps: float = 1e-6) -> Tensor:
    """Distance of the middles of the inner lips, ``|p62 - p66|``, in heights of the reference face.

    Args:
        landmarks: (..., frames, 68, dims).
        reference: "first", "mean", or a face (..., points, dims); see :func:`reference_face`.
        eps: The height is kept above ``eps`` times the largest coordinate of the reference face.

    Returns:
        (..., frames), without unit.

    Raises:
        ShapeError: Not 68 points.

    Example:
        >>> face = torch.zeros(1, 68, 2)
        >>> face[0, 8, 1], face[0, 66, 1] = 10.0, 2.0
        >>> round(mouth_opening(face).item(), 4)
        0.2

    Source: ours.
    """
    check_landmarks(landmarks, points=NUM_POINTS)
    opening: Tensor = torch.linalg.vector_norm(landmarks[..., UPPER_INNER_LIP, :] - landmarks[..., LOWER_INNER_LIP, :], dim=-1)
    return opening / safe_height(reference_face(landmarks, reference), eps)[..., None]
