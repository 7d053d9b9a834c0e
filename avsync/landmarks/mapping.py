"""Motion of one layout in another: the map to 68 points, and mirror images of any layout."""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import at_least_float32, checked, constant
from avsync.errors import ArgumentError, ShapeError
from avsync.landmarks.geometry import check_landmarks, flip
from avsync.landmarks.layouts import LAYOUTS, NUM_POINTS, Layout, find_layout


def check_layout(landmarks: object, layout: Layout) -> None:
    """Raise :class:`ShapeError` unless ``landmarks`` are (..., frames, points, dims) of a layout."""
    if isinstance(landmarks, Tensor) and layout.is_coefficients and landmarks.shape[-1] == layout.points:
        raise ShapeError(
            f"`landmarks`: expected coefficients of the layout {layout.name!r} as (..., frames, {layout.points}, 1), got"
            f" {tuple(landmarks.shape)}; add an axis: `landmarks[..., None]`"
        )
    check_landmarks(landmarks, points=layout.points)
    dims = landmarks.shape[-1]  # type: ignore[attr-defined]
    if dims not in layout.dims:
        expected = " or ".join(map(str, layout.dims))
        raise ShapeError(f"`landmarks`: expected {expected} dims in the layout {layout.name!r}, got {dims}")


@checked
def map_weights(layout: str | Layout, *, device: torch.device | None = None) -> Tensor:
    """Return the map of a layout to the 68 points as a matrix.

    Args:
        layout: A layout that maps to 68 points, or its name.
        device: Device of the result.

    Returns:
        (68, points), float32; each row has the sum 1.

    Raises:
        ArgumentError: The layout does not map to 68 points.

    Example:
        >>> map_weights("mediapipe478")[27, [168, 6]].tolist()
        [0.5, 0.5]

    Source: ours.
    """
    layout = find_layout(layout)
    if not layout.to_68:
        known = ", ".join(repr(name) for name, other in LAYOUTS.items() if other.to_68)
        raise ArgumentError(f"`layout`: expected a layout that maps to 68 points, such as {known}, got {layout.name!r}")
    weights = torch.zeros(NUM_POINTS, layout.points)
    for row, points in enumerate(layout.to_68):
        shares = layout.to_68_weights[row] if layout.to_68_weights else (1 / len(points),) * len(points)
        for point, share in zip(points, shares, strict=True):
            weights[row, point] += share
    return weights.to(device)


@checked
def to_landmarks68(
    landmarks: Tensor, layout: str | Layout, *, dims: int | None = None, weights: Tensor | None = None
) -> Tensor:
    """Compute the 68 points from the points of another layout; differentiable.

    Args:
        landmarks: (..., frames, points, dims) of the layout, in any unit.
        layout: A layout that maps to 68 points, or its name.
        dims: Coordinates of the result, at most those of ``landmarks``; all by default.
        weights: :func:`map_weights` of the layout; modules pass their buffer here.

    Returns:
        (..., frames, 68, dims), in the unit of ``landmarks``.

    Raises:
        ShapeError: ``landmarks`` are not of the layout, or have fewer dims than ``dims``.
        ArgumentError: The layout does not map to 68 points.

    Example:
        >>> to_landmarks68(torch.rand(1, 50, 478, 3), "mediapipe478", dims=2).shape
        torch.Size([1, 50, 68, 2])

    Source: ours.
    """
    layout = find_layout(layout)
    check_layout(landmarks, layout)
    if dims is not None and not 1 <= dims <= landmarks.shape[-1]:
        raise ShapeError(f"`landmarks`: expected at least {dims} dims, got {tuple(landmarks.shape)}")
    points = at_least_float32(landmarks[..., :dims])
    if layout.points == NUM_POINTS and all(entry == (point,) for point, entry in enumerate(layout.to_68)):
        return points
    weights = map_weights(layout, device=landmarks.device) if weights is None else weights
    with torch.autocast(device_type=landmarks.device.type, enabled=False):
        return weights.to(points.dtype) @ points


def mirror(landmarks: Tensor, layout: str | Layout, *, width: float = 0.0) -> Tensor:
    """Return the mirror image of motion of any layout; twice is the identity.

    Args:
        landmarks: (..., frames, points, dims) of the layout.
        layout: The layout or its name.
        width: Width of the image in the unit of ``landmarks``; 0 mirrors about x = 0. Ignored for coefficients.

    Returns:
        The shape of ``landmarks``.

    Raises:
        ShapeError: ``landmarks`` are not of the layout.
        ArgumentError: The mirror image of the layout is not known.

    Example:
        >>> coefficients = torch.zeros(1, 52, 1)
        >>> coefficients[0, 0] = 1.0  # eyeBlinkLeft
        >>> mirror(coefficients, "arkit52")[0].nonzero()[:, 0].tolist()  # eyeBlinkRight
        [7]

    Source: ours.
    """
    layout = find_layout(layout)
    check_layout(landmarks, layout)
    if not layout.mirror:
        raise ArgumentError(f"`layout`: expected a layout with a mirror image, got {layout.name!r}, which has none")
    if not layout.is_coefficients:
        return flip(landmarks, width=width, index=layout.mirror)
    mirrored = landmarks.index_select(-2, constant(layout.mirror, landmarks.device))
    if not layout.mirror_signs:
        return mirrored
    return mirrored * constant(layout.mirror_signs, landmarks.device)[:, None].to(mirrored.dtype)
