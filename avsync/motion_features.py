"""What the syncers see of a face: displacement, shape, and regions of it.

Displacement is a face less a reference face. It knows neither identity nor framing, and a network learns from it at once; but a
clip of five frames is all of its own reference, so that an open mouth that stays open leaves no displacement. Shape is the face
itself, turned upright, centred on the bridge of the nose and divided by its size, less the average speaker's: it says how far the
mouth is open in every single frame, however short the clip. The two together beat each of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import check_choice, check_shape
from avsync._faces import check_landmarks, reference_face
from avsync.errors import ShapeError
from avsync.landmarks import displacement

MOTIONS = ("displacement", "shape", "both")
"""What of the motion a syncer is shown."""

REGIONS: dict[str, tuple[int, ...]] = {
    "face": tuple(range(68)),
    "mouth": tuple(range(48, 68)),
    "head": (0, 16, 27, 28, 29, 30, 36, 39, 42, 45),
}
"""Points of the 68 that a syncer is shown: all, both lips, or those that speech leaves in their place on the head."""

ANCHORS = (27, 28, 29, 30, 36, 39, 42, 45)
"""Bridge of the nose and corners of the eyes: what defines a head's place, turn and size."""

_LEFT_EYE, _RIGHT_EYE, _NOSE_BASE = (36, 39), (42, 45), 33


def _eyes(landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of the left and the right eye of the image, (..., dims) each."""
    return landmarks[..., _LEFT_EYE, :].mean(dim=-2), landmarks[..., _RIGHT_EYE, :].mean(dim=-2)


def head_size(face: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Distance of the eyes plus length of the nose: neither opens with the mouth, and a turn of the head shortens only one.

    Args:
        face: (..., points=68, dims).
        eps: The size is kept above ``eps`` times the largest coordinate.

    Returns:
        (...), in the unit of ``face``.

    Example:
        >>> face = torch.zeros(68, 2)
        >>> face[[42, 45], 0] = 3.0  # the right eye
        >>> face[33] = torch.tensor([1.5, 4.0])
        >>> head_size(face).item()
        7.0

    Source: ours.
    """
    left, right = _eyes(face)
    # Norms have no gradient at zero; a floor under the square gives them one and changes no real face.
    floor = eps * face.detach().abs().amax(dim=(-2, -1)).clamp_min(torch.finfo(face.dtype).tiny ** 0.25)
    nose = face[..., _NOSE_BASE, :] - (left + right) / 2
    return sum(((part.square().sum(-1) + floor.square()).sqrt() for part in (right - left, nose)), torch.zeros_like(floor))


def local_shape(landmarks: Tensor, *, reference: str | Tensor = "mean", lengths: Tensor | None = None) -> Tensor:
    """Faces in coordinates of the head: centred on the anchors, the eyes level, in sizes of the reference face.

    What is left is expression, identity and turns out of the picture's plane; place, distance and tilt drop out.

    Args:
        landmarks: (..., frames, points=68, dims), any unit; dims beyond the second are centred and divided, not turned.
        reference: The face whose size is the unit: "first", "mean", or a face (..., points, dims).
        lengths: (...), number of valid frames; only "mean" needs it.

    Returns:
        (..., frames, points, dims), without unit.

    Raises:
        ShapeError: Another number of points than 68, or fewer than two dims.

    Example:
        >>> face = torch.rand(1, 1, 68, 2, generator=torch.Generator().manual_seed(0))
        >>> tilt = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
        >>> torch.allclose(local_shape(face), local_shape(5 * face @ tilt + 9), atol=1e-4)
        True

    Source: ours.
    """
    check_landmarks(landmarks, min_dims=2, points=68)
    size = head_size(reference_face(landmarks, reference, lengths=lengths))[..., None, None, None]
    centred = landmarks - landmarks[..., ANCHORS, :].mean(dim=-2, keepdim=True)
    left, right = _eyes(landmarks)
    axis = (right - left)[..., :2]
    # Degenerate faces (both eyes in one point) get some axis and a finite gradient.
    floor = (1e-6 * size[..., 0, 0].detach()).clamp_min(torch.finfo(landmarks.dtype).tiny ** 0.25)
    axis = axis / (axis.square().sum(-1) + floor.square()).sqrt()[..., None]
    cosine, sine = axis[..., None, 0], axis[..., None, 1]
    x, y = centred[..., 0], centred[..., 1]
    upright = [cosine * x + sine * y, cosine * y - sine * x]
    return torch.stack([*upright, *centred.unbind(-1)[2:]], dim=-1) / size


def motion_channels(motion: str, dims: int) -> int:
    """Coordinates of a point in :func:`motion_features` of ``motion``."""
    check_choice("motion", motion, MOTIONS)
    return 2 * dims if motion == "both" else dims


def motion_features(
    landmarks: Tensor,
    *,
    motion: str = "both",
    region: str = "face",
    average_shape: Tensor | None = None,
    reference: str | Tensor = "mean",
    scale: float = 8.0,
    lengths: Tensor | None = None,
) -> Tensor:
    """What a syncer is shown of a clip, at the full rate.

    Args:
        landmarks: (batch, frames, points, dims), any unit.
        motion: "displacement", "shape" or "both".
        region: "face", "mouth" or "head"; the last two need the 68-point layout.
        average_shape: Shape that others are measured from, (points, dims); zeros if None.
        reference: The face that displacement is measured from and shape is divided by the size of: "first", "mean", or a face
            (batch, points, dims).
        scale: Factor on displacement, which is in face heights, and on shape, in head sizes.
        lengths: (batch,), number of valid frames; only "mean" needs it.

    Returns:
        (batch, frames, points of the region, channels), without unit; "both" has displacement before shape.

    Raises:
        ShapeError: A region or shape of another layout than the 68 points.
        ArgumentError: ``motion`` or ``region`` is an unknown word.

    Example:
        >>> motion_features(torch.rand(2, 5, 68, 2), region="mouth").shape
        torch.Size([2, 5, 20, 4])

    Source: displacement and shape ours.
    """
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_choice("motion", motion, MOTIONS)
    check_choice("region", region, tuple(REGIONS))
    parts = []
    if motion != "shape":
        parts.append(displacement(landmarks, reference=reference, scale=scale, lengths=lengths))
    if motion != "displacement":
        shape = local_shape(landmarks, reference=reference, lengths=lengths)
        parts.append(scale * (shape if average_shape is None else shape - average_shape))
    features = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
    if region == "face":
        return features
    if features.shape[-2] != len(REGIONS["face"]):
        raise ShapeError(f"`landmarks`: expected 68 points for the region {region!r}, got {features.shape[-2]}")
    return features[..., REGIONS[region], :]
