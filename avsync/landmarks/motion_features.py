r"""Motion features: displacement, shape, velocity and speed of the points of a face or of a region.

**Displacement** is a face minus a reference face. Identity and framing cancel, so a network learns from displacement quickly. A
clip of five frames is its own reference, however, so a mouth that stays open has no displacement.

**Shape** is the face itself, turned upright, centred on the bridge of the nose, divided by the size of the head, minus the
average speaker's shape. Shape contains the mouth opening in every frame, even in short clips. Syncers with displacement and
shape are better than syncers with only one of them.

**Velocity** and **speed** are changes from one frame to the next. They are computed at the full rate, before the pyramid,
because the pyramid averages: lips that opened and closed twice within a window of a coarse level have a constant average
position there, but their average speed still shows speech.

All features are computed, and returned, in at least float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avsync._checks import at_least_float32, check_choice, check_same_device, check_shape, checked, constant, is_launch_bound
from avsync.errors import ConfigError, ShapeError
from avsync.landmarks._few_operations import Displacement, JoinedFeatures, UprightShape, noise_of
from avsync.landmarks.geometry import check_landmarks, displacement, reference_face, velocity
from avsync.landmarks.head_frame import coefficient_size, local_shape, upright_shape
from avsync.landmarks.head_pose import POSE_PARAMETERS, head_pose
from avsync.landmarks.layouts import LANDMARKS68, NUM_POINTS, REGION_SLICES, REGIONS, Layout, find_layout
from avsync.landmarks.mapping import check_layout

MOTIONS = ("displacement", "shape", "velocity", "speed")
"""Motion features, in the order of their channels."""

POSE = "pose"
"""Region whose points are the parameters of :func:`avsync.landmarks.head_pose.head_pose`, with one coordinate each."""
MOTION_REGIONS = (*REGIONS, POSE)
"""Regions that a syncer may receive."""

_RATE_SCALE = {"velocity": 4.0, "speed": 2.0}
"""Factors that bring changes from frame to frame to the order of magnitude of the positions."""
_SPEED_FLOOR = 1e-2
"""Floor that keeps the gradient of the speed finite without motion; half the median step of eyes and nose (0.022),
a sixth of the median step of the lips (0.063)."""


def check_motion(motion: Sequence[str]) -> None:
    """Raise :class:`ConfigError` unless ``motion`` is an ordered subset of :data:`MOTIONS` with displacement or shape."""
    ordered = tuple(part for part in MOTIONS if part in motion)
    if isinstance(motion, str) or tuple(motion) != ordered or not {"displacement", "shape"} & set(ordered):
        raise ConfigError(
            f"`motion`: expected some of {MOTIONS}, in this order, 'displacement' or 'shape' among them, got {motion!r}"
        )


@checked
def region_points(region: str, layout: Layout = LANDMARKS68) -> int:
    """Return the number of points of a region; the region "pose" has one per parameter.

    Raises:
        ArgumentError: The layout has no such region.

    Example:
        >>> region_points("mouth"), region_points("pose")
        (20, 8)
    """
    if region == POSE:
        return len(POSE_PARAMETERS)
    return len(REGIONS[region] if layout == LANDMARKS68 and region in REGIONS else layout.region(region))


@checked
def motion_channels(motion: Sequence[str], dims: int) -> int:
    """Return the channels per point of :func:`motion_features`: ``dims`` for each feature, 1 for speed.

    The parameters of the region "pose" have 1 dim.

    Example:
        >>> motion_channels(("displacement", "shape", "velocity", "speed"), 2)
        7
    """
    check_motion(motion)
    return sum(1 if part == "speed" else dims for part in motion)


def frame_velocity(positions: Tensor) -> Tensor:
    """Compute the motion of each point since the previous frame.

    The first frame has the velocity of the second one; a clip of one frame has zero velocity. A window of a clip therefore
    depends on the frame before it, too.

    Args:
        positions: (batch, frames, points, dims).

    Returns:
        The shape of ``positions``, in their unit per frame.

    Example:
        >>> frame_velocity(torch.tensor([1.0, 4.0, 9.0]).reshape(1, 3, 1, 1)).flatten().tolist()
        [3.0, 3.0, 5.0]

    Source: ours.
    """
    check_shape("positions", positions, "batch frames points dims")
    if positions.shape[1] < 2:
        return torch.zeros_like(at_least_float32(positions))
    steps = velocity(positions)
    return torch.cat([steps[:, :1], steps], dim=1)


@checked
def motion_features(
    landmarks: Tensor,
    *,
    motion: Sequence[str] = ("displacement", "shape"),
    region: str = "face",
    average_shape: Tensor | None = None,
    reference: str | Tensor = "mean",
    scale: float = 8.0,
    lengths: Tensor | None = None,
    weights: Tensor | None = None,
    layout: str | Layout | None = None,
) -> Tensor:
    """Compute the motion features of a syncer, at the full frame rate.

    Args:
        landmarks: (batch, frames, points, dims), any unit.
        motion: Some of "displacement", "shape", "velocity" and "speed", in this order. Velocity and speed are rates of the
            shape if "shape" is among them, so that head rotation does not count as lip speed, and rates of the displacement
            otherwise.
        region: "face", "mouth", "head" or "expression"; all but the first need the 68-point layout, or a ``layout`` that has
            such points. Or "pose" for the parameters of :func:`avsync.landmarks.head_pose.head_pose`, which need the 68-point
            layout and have no shape.
        average_shape: Shape that is subtracted from all shapes, (points, dims); zeros if None.
        reference: The face that displacement is measured from, and whose head size divides the shape: "first", "mean", or a
            face (batch, points, dims).
        scale: Factor on displacement, which is in face heights, and on shape, in head sizes.
        lengths: (batch,), number of valid frames; only "mean" needs it.
        weights: :func:`head_frame_weights`; modules pass their buffer here.
        layout: Layout of the points, or its name, which defines the regions and the size. By default any points, with the
            regions and the shape of the 68 points.

    Returns:
        (batch, frames, points of the region, channels), without unit; channels in the order of ``motion``.

    Raises:
        ShapeError: ``landmarks`` are not of the layout.
        ConfigError: ``motion`` is not as described above.
        ArgumentError: ``region`` is an unknown word, or ``average_shape`` is on another device.

    Example:
        >>> motion_features(torch.rand(2, 5, 68, 2), region="mouth").shape
        torch.Size([2, 5, 20, 4])

    Source: ours.
    """
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_motion(motion)
    check_choice("region", region, MOTION_REGIONS)
    check_landmarks(landmarks)
    described = None if layout is None else find_layout(layout)
    if described is not None:
        check_layout(landmarks, described)
    face = reference_face(landmarks, reference, lengths=lengths)
    few = is_launch_bound(landmarks) and landmarks.shape[-1] == 2 and face.shape == landmarks[:, 0].shape
    noise = noise_of(face) if few and face.dtype == at_least_float32(landmarks).dtype else None
    parts: dict[str, Tensor] = {}
    if region == POSE:
        if "shape" in motion:
            raise ConfigError(f"`motion`: expected no 'shape' with the region {POSE!r}, got {tuple(motion)!r}")
        parts["displacement"] = scale * head_pose(landmarks, reference=face)[..., None]
    elif "displacement" in motion:
        parts["displacement"] = _displacement(landmarks, face, scale, noise)
        if described is not None and described.is_coefficients:  # whose unit of length is 1 so far
            parts["displacement"] = parts["displacement"] / coefficient_size(described, landmarks.device)
    if "shape" in motion:
        if described is None:
            check_landmarks(landmarks, points=NUM_POINTS, min_dims=2)
        if average_shape is not None:
            check_shape("average_shape", average_shape, "points dims", points=landmarks.shape[-2], dims=landmarks.shape[-1])
            check_same_device("average_shape", average_shape, landmarks.device, "`landmarks`")
        parts["shape"] = _shape(landmarks, face, average_shape, scale, weights, described, noise)
    if region not in ("face", POSE):
        if described is None and landmarks.shape[-2] != NUM_POINTS:
            raise ShapeError(f"`landmarks`: expected 68 points for the region {region!r}, got {landmarks.shape[-2]}")
        parts = {name: _of_region(part, region, described or LANDMARKS68) for name, part in parts.items()}
    if len(motion) == 1:
        return parts[motion[0]]
    if noise is not None and landmarks.shape[1] > 1 and {"velocity", "speed"} <= set(motion):
        joined: Tensor = JoinedFeatures.apply(*_RATE_SCALE.values(), _SPEED_FLOOR, *parts.values())
        return joined
    rate = frame_velocity(parts["shape" if "shape" in parts else "displacement"])
    if "velocity" in motion:
        parts["velocity"] = _RATE_SCALE["velocity"] * rate
    if "speed" in motion:
        parts["speed"] = _RATE_SCALE["speed"] * (rate.square().sum(dim=-1, keepdim=True) + _SPEED_FLOOR**2).sqrt()
    return torch.cat([parts[name] for name in motion], dim=-1)


def _displacement(landmarks: Tensor, face: Tensor, scale: float, noise: Tensor | None) -> Tensor:
    if noise is None:
        return displacement(landmarks, reference=face, scale=scale)
    few: Tensor = Displacement.apply(at_least_float32(landmarks), face, noise, scale)
    return few


def _shape(
    landmarks: Tensor,
    face: Tensor,
    average: Tensor | None,
    scale: float,
    weights: Tensor | None,
    layout: Layout | None,
    noise: Tensor | None,
) -> Tensor:
    """Compute the shape minus the average shape, times the scale; with ``noise``, in few operations."""
    to_68 = (layout or LANDMARKS68).to_68
    if noise is not None and weights is not None and to_68:
        arguments = (noise, weights.to(face.dtype), average, scale, to_68[27][0])
        with torch.autocast(device_type=landmarks.device.type, enabled=False):
            few: Tensor = UprightShape.apply(at_least_float32(landmarks), face, *arguments)
        return few
    if layout is None:
        shape = upright_shape(landmarks, face, LANDMARKS68, weights)
    else:
        shape = local_shape(landmarks, reference=face, weights=weights, layout=layout)
    return scale * (shape if average is None else shape - average)


def _of_region(part: Tensor, region: str, layout: Layout) -> Tensor:
    if layout != LANDMARKS68:
        return part.index_select(-2, constant(layout.region(region), part.device))
    slices = [part[..., points, :] for points in REGION_SLICES[region]]
    return slices[0] if len(slices) == 1 else torch.cat(slices, dim=-2)
