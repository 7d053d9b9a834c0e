"""What the syncers see of a face: displacement, shape, and regions of it.

Displacement is a face less a reference face. It knows neither identity nor framing, and a network learns from it at once; but a
clip of five frames is all of its own reference, so that an open mouth that stays open leaves no displacement. Shape is the face
itself, turned upright, centred on the bridge of the nose and divided by its size, less the average speaker's: it says how far the
mouth is open in every single frame, however short the clip. The two together beat each of them.

Velocity and speed are what happens from one frame to the next. They are taken at the full rate, before the pyramid, and that is the
point of speed: the pyramid averages, so that at its coarse levels lips that have opened and closed twice are lips that stayed half
open. The average of their speed still says that somebody spoke. To the coarsest level that is worth nine points of per cent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avsync._checks import check_choice, check_shape
from avsync.errors import ConfigError, ShapeError
from avsync.landmarks.geometry import check_landmarks, displacement, reference_face, velocity
from avsync.landmarks.layouts import ANCHORS, REGIONS

MOTIONS = ("displacement", "shape", "velocity", "speed")
"""What of the motion a syncer can be shown, in the order in which it is."""

_RATE_SCALE = {"velocity": 4.0, "speed": 2.0}
"""Factors that bring changes from frame to frame to the order of the positions that they are changes of."""
_SPEED_FLOOR = 1e-2
"""Keeps the gradient of a speed finite where nothing moves; half the median step of eyes and nose (0.022), a sixth of the lips' (0.063)."""

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
    eyes, nose_length = ((part.square().sum(-1) + floor.square()).sqrt() for part in (right - left, nose))
    return eyes + nose_length


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


def check_motion(motion: Sequence[str]) -> None:
    """Raise :class:`ConfigError` unless ``motion`` is some of :data:`MOTIONS`, each once, in that order, with a position among them."""
    ordered = tuple(part for part in MOTIONS if part in motion)
    if isinstance(motion, str) or tuple(motion) != ordered or not {"displacement", "shape"} & set(ordered):
        raise ConfigError(
            f"`motion`: expected some of {MOTIONS}, in this order, 'displacement' or 'shape' among them, got {motion!r}"
        )


def motion_channels(motion: Sequence[str], dims: int) -> int:
    """Coordinates of a point in :func:`motion_features` of ``motion``: ``dims`` of each part, one of a speed.

    Example:
        >>> motion_channels(("displacement", "shape", "velocity", "speed"), 2)
        7
    """
    check_motion(motion)
    return sum(1 if part == "speed" else dims for part in motion)


def frame_velocity(positions: Tensor) -> Tensor:
    """How far each point has come since the frame before; the first frame has the velocity of the second, a single one has none.

    So a window of a clip sees one frame more than its own, the one before it.

    Args:
        positions: (batch, frames, points, dims).

    Returns:
        As ``positions``, in their unit a frame.

    Example:
        >>> frame_velocity(torch.tensor([1.0, 4.0, 9.0]).reshape(1, 3, 1, 1)).flatten().tolist()
        [3.0, 3.0, 5.0]

    Source: ours.
    """
    if positions.shape[1] < 2:
        return torch.zeros_like(positions)
    steps = velocity(positions)
    return torch.cat([steps[:, :1], steps], dim=1)


def motion_features(
    landmarks: Tensor,
    *,
    motion: Sequence[str] = ("displacement", "shape"),
    region: str = "face",
    average_shape: Tensor | None = None,
    reference: str | Tensor = "mean",
    scale: float = 8.0,
    lengths: Tensor | None = None,
) -> Tensor:
    """What a syncer is shown of a clip, at the full rate.

    Args:
        landmarks: (batch, frames, points, dims), any unit.
        motion: Some of "displacement", "shape", "velocity" and "speed", in this order. The last two are rates of the shape where it is
            among them, so that turning the head is no speed of the lips, and of the displacement otherwise.
        region: "face", "mouth" or "head"; the last two need the 68-point layout.
        average_shape: Shape that others are measured from, (points, dims); zeros if None.
        reference: The face that displacement is measured from and shape is divided by the size of: "first", "mean", or a face
            (batch, points, dims).
        scale: Factor on displacement, which is in face heights, and on shape, in head sizes.
        lengths: (batch,), number of valid frames; only "mean" needs it.

    Returns:
        (batch, frames, points of the region, channels), without unit; channels in the order of ``motion``.

    Raises:
        ShapeError: A region or shape of another layout than the 68 points.
        ConfigError: ``motion`` is not as above.
        ArgumentError: ``region`` is an unknown word.

    Example:
        >>> motion_features(torch.rand(2, 5, 68, 2), region="mouth").shape
        torch.Size([2, 5, 20, 4])

    Source: all but the pyramid that it is put through is ours.
    """
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_motion(motion)
    check_choice("region", region, tuple(REGIONS))
    parts: dict[str, Tensor] = {}
    if "displacement" in motion:
        parts["displacement"] = displacement(landmarks, reference=reference, scale=scale, lengths=lengths)
    if "shape" in motion:
        shape = local_shape(landmarks, reference=reference, lengths=lengths)
        parts["shape"] = scale * (shape if average_shape is None else shape - average_shape)
    if region != "face":
        if landmarks.shape[-2] != len(REGIONS["face"]):
            raise ShapeError(f"`landmarks`: expected 68 points for the region {region!r}, got {landmarks.shape[-2]}")
        parts = {name: part[..., REGIONS[region], :] for name, part in parts.items()}
    if len(motion) == 1:
        return parts[motion[0]]
    rate = frame_velocity(parts["shape" if "shape" in parts else "displacement"])
    if "velocity" in motion:
        parts["velocity"] = _RATE_SCALE["velocity"] * rate
    if "speed" in motion:
        parts["speed"] = _RATE_SCALE["speed"] * (rate.square().sum(dim=-1, keepdim=True) + _SPEED_FLOOR**2).sqrt()
    return torch.cat([parts[name] for name in motion], dim=-1)
