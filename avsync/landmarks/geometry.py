"""Geometry of landmarks: reference face, normalisation, displacement, velocity and mirror images.

Every function takes landmarks of shape (..., frames, points, dims) with any number of leading axes, including none; ``dims`` is
2 or 3 in the order x (right), y (down), z. All functions are differentiable. All except :func:`flip` and :func:`mouth_opening`
accept any set of points. Differences of coordinates are computed, and returned, in at least float32, because pixel coordinates
in half precision have no digits left for motion. Random views of clips are in :mod:`avsync.landmarks.augmentation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from avsync._checks import (
    at_least_float32,
    check_choice,
    check_floating,
    check_permutation,
    check_same_device,
    checked,
    constant,
    describe_shape,
    is_tensor,
)
from avsync.errors import ClipTooShortError, ShapeError
from avsync.landmarks.layouts import FLIP_INDEX, LOWER_INNER_LIP, NUM_POINTS, UPPER_INNER_LIP
from avsync.pyramid import mean_over_frames


def check_landmarks(landmarks: object, *, min_frames: int = 1, min_dims: int = 1, points: int | None = None) -> None:
    """Raise :class:`ShapeError` unless ``landmarks`` is a floating-point tensor (..., frames, points, dims) of these sizes."""
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
    """Return the reference face of motion: the first frame of a clip, the mean over its frames, or a given face.

    Args:
        landmarks: (..., frames, points, dims).
        reference: "first", "mean", or a face (..., points, dims) that broadcasts against the leading axes of ``landmarks``.
        lengths: (...), number of valid frames of each clip; the mean excludes the padding. "first" ignores it.

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
    if not isinstance(reference, str):
        _check_reference(reference, landmarks)
        return at_least_float32(reference)
    check_choice("reference", reference, ("first", "mean"))
    if reference == "first":
        return at_least_float32(landmarks[..., 0, :, :])
    if lengths is not None and (not is_tensor(lengths) or lengths.shape != landmarks.shape[:-3]):
        raise ShapeError(f"`lengths`: expected {tuple(landmarks.shape[:-3])}, got {describe_shape(lengths)}")
    return mean_over_frames(at_least_float32(landmarks), -3, lengths=lengths)


def _check_reference(reference: Tensor, landmarks: Tensor) -> None:
    leading, face = landmarks.shape[:-3], landmarks.shape[-2:]
    fits = is_tensor(reference) and 2 <= reference.ndim <= 2 + len(leading) and reference.shape[-2:] == face
    if fits:
        own = reference.shape[:-2]
        pairs = zip(own, leading[len(leading) - len(own) :], strict=True)
        # Not `in`, which is false for the symbolic sizes of a compiled program.
        fits = all(size == 1 or size == wanted for size, wanted in pairs)  # noqa: PLR1714
    if not fits:
        axes = ", ".join([*map(str, leading), f"points={face[0]}", f"dims={face[1]}"])
        raise ShapeError(
            f"`reference`: expected 'first', 'mean' or one face for each clip, ({axes}), got {describe_shape(reference)}"
        )
    check_floating("reference", reference)
    check_same_device("reference", reference, landmarks.device, "`landmarks`")


def extent(face: Tensor) -> Tensor:
    """Return the extent of the points along y, or along the only axis if there is one: (..., points, dims) to (...)."""
    y = face[..., min(1, face.shape[-1] - 1)]
    return y.amax(dim=-1) - y.amin(dim=-1)


def unit_length(face: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Return the unit of length of motion: the height of a face, or 1 if the face has no height.

    A face has no height if there is a single dim, because such numbers are coefficients (blendshapes) rather than coordinates,
    or if all points have the same y. Motion then keeps the unit of the input.

    Args:
        face: (..., points, dims).
        eps: A height of at most ``eps`` times the largest coordinate is rounding noise and counts as none.

    Returns:
        (...), in the unit of ``face``, above 0.
    """
    if face.shape[-1] == 1:
        return torch.ones_like(face[..., 0, 0])
    height = extent(face)
    return torch.where(height > eps * face.detach().abs().amax(dim=(-2, -1)), height, 1.0)


def face_height(landmarks: Tensor, reference: str | Tensor = "first", *, lengths: Tensor | None = None) -> Tensor:
    """Compute the height of the reference face: the extent of its points along y (along the only axis if there is one).

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
    """Landmarks normalised by :func:`normalise`, with the centre and the height for :func:`denormalise`.

    Attributes:
        landmarks: (..., frames, points, dims), in heights of the reference face.
        centre: (..., dims), centroid of the reference face, in the unit of the input.
        height: (...), height of the reference face, in the unit of the input; 1 if the face has no height (see
            :func:`displacement`).
    """

    landmarks: Tensor
    centre: Tensor
    height: Tensor


@checked
def displacement(
    landmarks: Tensor,
    *,
    reference: str | Tensor = "first",
    scale: float = 8.0,
    lengths: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    r"""Compute the displacement of every point from a reference face: the input of the motion encoder.

    .. math:: s \, (x_t - x_\mathrm{ref}) / h(x_\mathrm{ref})

    with the scale :math:`s` and the height :math:`h` of the reference face. Identity, position and framing cancel, so the
    encoder receives motion from the first training step on. The scale brings a talking mouth to about unit variance. If the
    face has no height (coefficients with a single dim, such as blendshapes, or points that all have the same y), :math:`h` is
    1.

    Args:
        landmarks: (..., frames, points, dims), any unit.
        reference: "first", "mean", or a face (..., points, dims); see :func:`reference_face`.
        scale: Factor on the displacement, which is measured in face heights.
        lengths: (...), number of valid frames; only "mean" needs it.
        eps: A height of at most ``eps`` times the largest coordinate of the reference face counts as none.

    Returns:
        (..., frames, points, dims), without unit, in at least float32.

    Raises:
        ShapeError: Wrong rank, or a reference of other points or dims.

    Example:
        >>> face = torch.tensor([[0.0, 0.0], [0.0, 10.0]])
        >>> displacement(torch.stack([face, face + 1.0]), scale=10.0)[1, 0].tolist()
        [1.0, 1.0]

    Source: ours.
    """
    face = reference_face(landmarks, reference, lengths=lengths)
    return (landmarks - face[..., None, :, :]) * (scale / unit_length(face, eps=eps))[..., None, None, None]


def velocity(landmarks: Tensor) -> Tensor:
    r"""Compute the motion from each frame to the next, :math:`v_t = x_{t+1} - x_t`.

    Args:
        landmarks: (..., frames, points, dims), at least 2 frames.

    Returns:
        (..., frames - 1, points, dims), in the unit of ``landmarks`` per frame.

    Raises:
        ClipTooShortError: Fewer than 2 frames.

    Example:
        >>> velocity(torch.tensor([1.0, 4.0, 9.0]).reshape(3, 1, 1)).flatten().tolist()
        [3.0, 5.0]

    Source: paper, equation (7).
    """
    check_landmarks(landmarks, min_frames=2)
    landmarks = at_least_float32(landmarks)
    return landmarks[..., 1:, :, :] - landmarks[..., :-1, :, :]


@checked
def accumulate(first: Tensor, velocity: Tensor) -> Tensor:
    r"""Add up velocities from a first frame, :math:`x_t = x_{t-1} + v_t`: equation (7), the inverse of :func:`velocity`.

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
    if (
        not is_tensor(first)
        or not is_tensor(velocity)
        or velocity.ndim < 3
        or first.shape != velocity.shape[:-3] + velocity.shape[-2:]
    ):
        raise ShapeError(
            f"`first` and `velocity`: expected (..., points, dims) and (..., frames - 1, points, dims), "
            f"got {describe_shape(first)} and {describe_shape(velocity)}"
        )
    check_floating("first", first)
    check_floating("velocity", velocity)
    start = at_least_float32(first)[..., None, :, :]
    return torch.cat([start, start + at_least_float32(velocity).cumsum(dim=-3)], dim=-3)


@checked
def normalise(
    landmarks: Tensor, *, reference: str | Tensor = "first", lengths: Tensor | None = None, eps: float = 1e-6
) -> NormalisedLandmarks:
    """Move the centroid of the reference face to the origin and divide by the height of that face.

    Args:
        landmarks: (..., frames, points, dims), any unit.
        reference: "first", "mean", or a face (..., points, dims); see :func:`reference_face`.
        lengths: (...), number of valid frames; only "mean" needs it.
        eps: A height of at most ``eps`` times the largest coordinate of the reference face is treated as zero and replaced by
        1.

    Returns:
        The landmarks, and the centre and height that :func:`denormalise` takes to undo it, in at least float32.

    Raises:
        ShapeError: Wrong rank, or a reference of other points or dims.

    Example:
        >>> face = torch.tensor([[3.0, 0.0], [3.0, 10.0]])
        >>> normalise(face[None]).landmarks.tolist()
        [[[0.0, -0.5], [0.0, 0.5]]]

    Source: ours.
    """
    face = reference_face(landmarks, reference, lengths=lengths)
    centre, height = face.mean(dim=-2), unit_length(face, eps=eps)
    normalised = (landmarks - centre[..., None, None, :]) / height[..., None, None, None]
    return NormalisedLandmarks(normalised, centre, height)


@checked
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
    leading = landmarks.shape[:-3]
    for name, x, shape in (("centre", centre, (*leading, landmarks.shape[-1])), ("height", height, leading)):
        if not is_tensor(x) or x.shape != shape:
            raise ShapeError(f"`{name}`: expected {tuple(shape)}, got {describe_shape(x)}")
    return at_least_float32(landmarks) * height[..., None, None, None] + centre[..., None, None, :]


@checked
def flip(landmarks: Tensor, *, width: float = 0.0, index: Sequence[int] | Tensor = FLIP_INDEX) -> Tensor:
    r"""Mirror faces, :math:`x \to w - x` with the width :math:`w`, and swap left and right points; twice is the identity.

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

    Source: the paper's code, which mirrors without the swap; the swap is ours.
    """
    check_landmarks(landmarks, min_dims=2, points=check_permutation("index", index))
    named = landmarks.index_select(-2, index if isinstance(index, Tensor) else constant(index, landmarks.device))
    return torch.cat([width - named[..., :1], named[..., 1:]], dim=-1)


@checked
def mouth_opening(landmarks: Tensor, *, reference: str | Tensor = "first", eps: float = 1e-6) -> Tensor:
    r"""Compute the opening of the inner lips, :math:`\lVert p_{62} - p_{66} \rVert`, in heights of the reference face.

    Args:
        landmarks: (..., frames, 68, dims).
        reference: "first", "mean", or a face (..., points, dims); see :func:`reference_face`.
        eps: A height of at most ``eps`` times the largest coordinate of the reference face is treated as zero and replaced by
            1.

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
    landmarks = at_least_float32(landmarks)
    opening: Tensor = torch.linalg.vector_norm(landmarks[..., UPPER_INNER_LIP, :] - landmarks[..., LOWER_INNER_LIP, :], dim=-1)
    return opening / unit_length(reference_face(landmarks, reference), eps=eps)[..., None]
