"""The 68-point layout, the reference face of a clip and its height; :mod:`avsync.landmarks` gives out the public names."""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import check_choice, check_floating, describe_shape
from avsync.errors import ClipTooShortError, ShapeError
from avsync.pyramid import mean_over_frames

NUM_POINTS = 68
"""Number of points of the iBUG layout."""

JAW = slice(0, 17)
"""Contour of the face, from the left of the image over the chin to its right."""
BROWS = slice(17, 27)
"""Both brows, the one on the left of the image first."""
NOSE = slice(27, 36)
"""Ridge (27-30) and base (31-35) of the nose."""
EYES = slice(36, 48)
"""Both eyes, six points each, the one on the left of the image first."""
OUTER_LIP = slice(48, 60)
"""Outer contour of the lips, clockwise in the image from the corner at its left."""
INNER_LIP = slice(60, 68)
"""Inner contour of the lips, clockwise in the image from the corner at its left."""
MOUTH = slice(48, 68)
"""Outer and inner lips."""

_MIRRORED_RUNS = (
    range(16, -1, -1),  # jaw
    range(26, 16, -1),  # brows
    range(27, 31),  # ridge of the nose, its own mirror image
    range(35, 30, -1),  # base of the nose
    (45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes: upper lid, then lower lid
    (54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),  # outer lip
    (64, 63, 62, 61, 60, 67, 66, 65),  # inner lip
)

FLIP_INDEX: tuple[int, ...] = tuple(point for run in _MIRRORED_RUNS for point in run)
"""``mirrored[i] = original[FLIP_INDEX[i]]``: the permutation that gives every point of a mirrored face its proper name."""

UPPER_INNER_LIP, LOWER_INNER_LIP = 62, 66


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
