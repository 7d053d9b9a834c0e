"""Coordinates of the head: its size, and faces that are centred and upright in it."""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import at_least_float32, check_shape, checked, constant, is_tensor
from avsync.landmarks.geometry import check_landmarks, reference_face, unit_length
from avsync.landmarks.layouts import LANDMARKS68, NUM_POINTS, Layout, find_layout
from avsync.landmarks.mapping import check_layout, map_weights

_ANCHOR, _EYE_AXIS, _EYE_TO_NOSE = 0, 1, 2  # columns of `head_frame_weights`


def head_frame_weights(device: torch.device, dtype: torch.dtype, *, layout: Layout = LANDMARKS68) -> Tensor:
    """Return the weights of the 68 points in three vectors of a head, (3, 68), or of the points of a layout that maps to them.

    The vectors are the centroid of the anchors, the axis from the left to the right eye of the image, and the nose's base seen
    from the middle of the eyes. One product with these weights replaces eight selections of points.
    """
    weights = torch.zeros(3, NUM_POINTS, device=device, dtype=dtype)
    weights[_ANCHOR, 27:31] = weights[_ANCHOR, 36:46:3] = 1 / 8
    weights[_EYE_AXIS, 36:40:3], weights[_EYE_AXIS, 42:46:3] = -1 / 2, 1 / 2
    weights[_EYE_TO_NOSE, 36:46:3], weights[_EYE_TO_NOSE, 33] = -1 / 4, 1
    return weights if layout == LANDMARKS68 else weights @ map_weights(layout, device=device).to(dtype)


def _head_frame(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute anchor centroid, eye axis and nose of points (..., 68, dims): (..., 3, dims), in the precision of ``x``."""
    if weights is not None:
        check_shape("weights", weights, "vectors points", points=x.shape[-2])
    weights = head_frame_weights(x.device, x.dtype) if weights is None else weights.to(x.dtype)
    with torch.autocast(device_type=x.device.type, enabled=False):
        return weights @ x


def _length(squared: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Return lengths and a mask of lengths above ``floor``, from squared lengths; other lengths are 1 without gradient."""
    some = squared > floor.square()
    return torch.where(some, squared, 1.0).sqrt(), some


def _size_of(frame: Tensor, floor: Tensor) -> Tensor:
    """Compute the size of heads from their frames (..., 3, dims); 1 for heads without any length."""
    lengths, some = _length(frame[..., _EYE_AXIS:, :].square().sum(-1), floor[..., None])
    size = torch.where(some, lengths, 0.0).sum(-1)
    return torch.where(some.any(-1), size, 1.0)


def _noise(face: Tensor, eps: float) -> Tensor:
    """Return the length up to which lengths are rounding noise: (..., points, dims) to (...)."""
    return eps * face.detach().abs().amax(dim=(-2, -1))


@checked
def head_size(face: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Compute the distance of the eyes plus the length of the nose.

    Neither changes when the mouth opens, and a turn of the head shortens only one of them.

    Args:
        face: (..., points=68, dims).
        eps: Lengths of at most ``eps`` times the largest coordinate count as zero; a head without any length has size 1.

    Returns:
        (...), in the unit of ``face``.

    Raises:
        ShapeError: Not 68 points.

    Example:
        >>> face = torch.zeros(68, 2)
        >>> face[[42, 45], 0] = 3.0  # the right eye
        >>> face[33] = torch.tensor([1.5, 4.0])
        >>> head_size(face).item()
        7.0

    Source: ours.
    """
    check_landmarks(face[None] if is_tensor(face) else face, points=NUM_POINTS)
    face = at_least_float32(face)
    origin = face[..., 27:28, :]
    return _size_of(_head_frame(face - origin), _noise(face, eps))


@checked
def local_shape(
    landmarks: Tensor,
    *,
    reference: str | Tensor = "mean",
    lengths: Tensor | None = None,
    weights: Tensor | None = None,
    layout: str | Layout = LANDMARKS68,
) -> Tensor:
    """Express faces in coordinates of the head: centred on the anchors, the eyes level, in sizes of the reference head.

    Expression, identity and rotations out of the image plane remain; position, distance and tilt are removed. A layout that
    does not map to 68 points is centred on its head points (all points if it has none) and divided by the height of the
    reference face, but not turned. Coefficients are divided by their size only.

    Args:
        landmarks: (..., frames, points=68, dims), any unit; dims after the second are centred and divided, not turned.
        reference: The face whose head size is the unit: "first", "mean", or a face (..., points, dims).
        lengths: (...), number of valid frames; only "mean" needs it.
        weights: :func:`head_frame_weights`; modules pass their buffer here.
        layout: Layout of the points, or its name.

    Returns:
        (..., frames, points, dims), without unit.

    Raises:
        ShapeError: ``landmarks`` are not of the layout, or points have fewer than two dims.

    Example:
        >>> face = torch.rand(1, 1, 68, 2, generator=torch.Generator().manual_seed(0))
        >>> tilt = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
        >>> torch.allclose(local_shape(face), local_shape(5 * face @ tilt + 9), atol=1e-4)
        True

    Source: ours.
    """
    layout = find_layout(layout)
    check_layout(landmarks, layout)
    if layout.is_coefficients:
        return at_least_float32(landmarks) / coefficient_size(layout, landmarks.device)
    face = reference_face(landmarks, reference, lengths=lengths)
    if not layout.to_68:
        return _centred_shape(at_least_float32(landmarks), face, layout)
    return upright_shape(landmarks, face, layout, weights)


def upright_shape(landmarks: Tensor, face: Tensor, layout: Layout, weights: Tensor | None) -> Tensor:
    """Centre, turn and divide points of a layout that maps to 68 points, in sizes of the head of ``face``."""
    if weights is None:
        weights = head_frame_weights(face.device, face.dtype, layout=layout)
    # Everything is measured from one point of the reference face, so that large coordinates cost no precision.
    anchor = layout.to_68[27][0]
    origin, noise = face[..., None, anchor : anchor + 1, :], _noise(face, 1e-6)
    size = _size_of(_head_frame(face - origin[..., 0, :, :], weights), noise)
    landmarks = landmarks - origin
    frame = _head_frame(landmarks, weights)
    centred = landmarks - frame[..., _ANCHOR, None, :]
    axis = frame[..., _EYE_AXIS, :2]
    length, some = _length(axis.square().sum(-1, keepdim=True), noise[..., None, None])
    # A face with both eyes in one point has no axis and is not turned.
    axis = torch.where(some, axis / length, torch.zeros_like(axis) + _x_axis(axis))
    # Division by the size is part of the rotation, which saves a pass over all points.
    axis = axis / size[..., None, None]
    cosine, sine = axis[..., None, 0], axis[..., None, 1]
    x, y = centred[..., 0], centred[..., 1]
    upright = [torch.addcmul(cosine * x, sine, y), torch.addcmul(cosine * y, sine, x, value=-1)]
    return torch.stack([*upright, *(z / size[..., None, None] for z in centred.unbind(-1)[2:])], dim=-1)


def coefficient_size(layout: Layout, device: torch.device) -> Tensor:
    """Return the sizes of coefficients, (points or 1, 1)."""
    return constant(layout.size, device)[:, None]


def _centred_shape(landmarks: Tensor, face: Tensor, layout: Layout) -> Tensor:
    """Centre points on those of the head, and divide by the height of the reference face."""
    points = landmarks.index_select(-2, constant(layout.head, landmarks.device)) if layout.head else landmarks
    return (landmarks - points.mean(dim=-2, keepdim=True)) / unit_length(face)[..., None, None, None]


def _x_axis(like: Tensor) -> Tensor:
    """Return (1, 0) without a copy to the device."""
    return 1 - torch.arange(2, device=like.device, dtype=like.dtype)
