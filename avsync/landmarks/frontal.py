"""Frontalisation: faces are turned to the front frame by frame, so that mouths are comparable in any head pose (LMD-f)."""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import at_least_float32, check_positive, checked, describe_shape
from avsync.errors import ShapeError
from avsync.landmarks.geometry import check_landmarks
from avsync.landmarks.layouts import NUM_POINTS

LEFT_EYE_CORNER, RIGHT_EYE_CORNER, NOSE_BASE = 36, 45, 33
"""Points that define the pose: the outer corners of the eyes, left of the image first, and the middle of the base of the nose.
Speech does not move them."""

FRONTAL_ASPECT = 2.0
"""Distance between the outer eye corners divided by the distance from their midpoint to the base of the nose, for frontal
faces: the median over the training speakers of the corpus, from frames with the nose within 3 % of the middle (2.02;
quartiles 1.88 and 2.20)."""


def _unit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Scale (x, y) to length 1; (1, 0) if the length is 0."""
    length = torch.hypot(x, y)
    nothing = length < torch.finfo(x.dtype).tiny ** 0.5
    safe = torch.where(nothing, 1.0, length)
    return torch.where(nothing, 1.0, x / safe), torch.where(nothing, 0.0, y / safe)


@checked
def frontalise(landmarks: Tensor, *, aspect: float | Tensor = FRONTAL_ASPECT, max_stretch: float = 3.0) -> Tensor:
    """Turn the face in each frame to the front, about the midpoint between the outer eye corners.

    In 3D the yaw is removed: each frame is turned about the vertical axis until the outer eye corners are equally deep. In 2D
    the roll is removed, so that the eye corners are level, and then the foreshortening that a yaw causes: x is stretched until
    the distance of the eye corners is ``aspect`` times the distance of the base of the nose below them. A nod, which shortens
    the distance of the nose, makes the face wider; predictions and targets change in the same way.

    Args:
        landmarks: (..., frames, 68, dims), 2 or 3 dims.
        aspect: Ratio of the two distances, a number or (...) with one ratio per clip; 2D only.
        max_stretch: Largest factor on x, reached at a yaw of about 70 degrees; its inverse is the smallest factor; 2D only.

    Returns:
        (..., frames, 68, dims), in at least float32.

    Raises:
        ShapeError: There are not 68 points, or there is only one dim.
        ArgumentError: ``max_stretch`` is not positive.

    Example:
        >>> face = torch.zeros(1, 68, 2)
        >>> face[0, [36, 45, 33]] = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0]])
        >>> turned = frontalise(face)
        >>> turned[0, [36, 45, 33]].round(decimals=3).tolist()
        [[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]

    Source: paper section 4.4 ("frontalized"); the method and the 2D form are ours.
    """
    check_landmarks(landmarks, min_dims=2, points=NUM_POINTS)
    check_positive("max_stretch", max_stretch)
    if isinstance(aspect, Tensor) and aspect.shape not in ((), landmarks.shape[:-2], landmarks.shape[:-3]):
        raise ShapeError(f"`aspect`: expected a number, one per clip or one per face, got {describe_shape(aspect)}")
    landmarks = at_least_float32(landmarks)
    middle = (landmarks[..., LEFT_EYE_CORNER, :] + landmarks[..., RIGHT_EYE_CORNER, :]) / 2
    centred = landmarks - middle[..., None, :]
    across = landmarks[..., RIGHT_EYE_CORNER, :] - landmarks[..., LEFT_EYE_CORNER, :]
    if landmarks.shape[-1] == 3:
        cos, sin = _unit(across[..., 0], across[..., 2])
        x, depth = centred[..., 0], centred[..., 2]
        turned_x = cos[..., None] * x + sin[..., None] * depth
        turned_depth = cos[..., None] * depth - sin[..., None] * x
        turned = torch.stack([turned_x, centred[..., 1], turned_depth], dim=-1)
    else:
        cos, sin = _unit(across[..., 0], across[..., 1])
        x = cos[..., None] * centred[..., 0] + sin[..., None] * centred[..., 1]
        y = cos[..., None] * centred[..., 1] - sin[..., None] * centred[..., 0]
        width = torch.hypot(across[..., 0], across[..., 1])
        wanted = aspect if isinstance(aspect, float | int) else aspect.to(y)[..., None]
        floor = torch.finfo(y.dtype).tiny ** 0.5
        stretch = (wanted * y[..., NOSE_BASE].abs() / width.clamp_min(floor)).clamp(1 / max_stretch, max_stretch)
        turned = torch.stack([stretch[..., None] * x, y], dim=-1)
    return turned + middle[..., None, :]
