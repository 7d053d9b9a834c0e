"""Distances of predicted from true landmarks: LMD and LMD-f, all points, velocities, and the correlation of mouth openings.

All functions compare clips frame by frame: prediction and target must have the same number of frames, and ``lengths`` gives
the number of valid frames. NaN in the landmarks makes the value of the clip NaN. Lower is better for all but the correlation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import check_choice, check_floating, check_shape, checked, describe_shape, reduce
from avsync.errors import ClipTooShortError, ShapeError
from avsync.landmarks.frontal import frontalise
from avsync.landmarks.geometry import mouth_opening, reference_face, velocity
from avsync.landmarks.layouts import MOUTH, NUM_POINTS
from avsync.pyramid import check_lengths

UNITS = ("input", "face")
OVER_POINTS = ("mean", "sum")


def _check_pair(
    preds: Tensor, target: Tensor, lengths: Tensor | None, *, points: int | None = None, min_frames: int = 1
) -> None:
    sizes = {} if points is None else {"points": points}
    check_shape("target", target, "batch frames points dims", **sizes)
    check_floating("target", target)
    check_floating("preds", preds)
    if preds.shape != target.shape:
        raise ShapeError(f"`preds`: expected the shape of `target`, {tuple(target.shape)}, got {describe_shape(preds)}")
    if target.shape[1] < min_frames:
        raise ClipTooShortError(f"`target`: expected at least {min_frames} frames, got {target.shape[1]}")
    if lengths is not None:
        check_lengths(lengths, target)


def _mean_over_frames(values: Tensor, lengths: Tensor | None, *, lost: int = 0) -> Tensor:
    """Average (batch, frames) over valid frames; ``lost`` frames of each clip have no value."""
    if lengths is None:
        return values.mean(dim=1)
    counts = _valid(values, lengths - lost)
    return torch.where(counts, values, 0.0).sum(dim=1) / counts.sum(dim=1)


def _valid(values: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(values.shape[1], device=values.device) < lengths.to(values.device)[:, None]


def _in_unit(distance: Tensor, target: Tensor, unit: str, reference: str | Tensor, lengths: Tensor | None) -> Tensor:
    """Return distances (batch,), divided by the height of the target's reference face if that is the unit."""
    check_choice("unit", unit, UNITS)
    if unit == "input":
        return distance
    face = reference_face(target, reference, lengths=lengths)
    y = face[..., min(1, face.shape[-1] - 1)]
    return distance / (y.amax(dim=-1) - y.amin(dim=-1))


@checked
def landmark_distance(
    preds: Tensor,
    target: Tensor,
    *,
    frontal: bool = False,
    over_points: str = "mean",
    unit: str = "input",
    reference: str | Tensor = "first",
    lengths: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute LMD, the distance between predicted and true mouth landmarks, or LMD-f, the same for frontalised faces.

    ``mean over frames, mean or sum over the 20 mouth points of | p - p* |``, after centring the mouth in each
    frame, so that the position of the head does not matter.

    Args:
        preds: (batch, frames, 68, dims).
        target: The same shape, in the same unit.
        frontal: True for LMD-f: every frame is frontalised first by :func:`avsync.landmarks.frontal.frontalise`.
        over_points: "mean" over the mouth points, or "sum" as in the authors' script (20 times the mean).
        unit: "input" for the unit of the landmarks (raw pixels), "face" for heights of the target's reference face.
        reference: Reference face: "first", "mean" or a face (batch, points, dims).
        lengths: (batch,), number of valid frames of each clip; all by default.
        reduction: "none" for (batch,), "mean" or "sum" over clips.

    Returns:
        In the chosen ``unit``; lower is better, 0 the best. With ``unit="face"``, infinite or NaN for a face of height 0.

    Raises:
        ShapeError: Shapes differ, or not 68 points.
        ArgumentError: An option has an unknown value.

    Example:
        >>> target = torch.rand(2, 40, 68, 2)
        >>> preds = target.clone()
        >>> preds[:, :, 66, 1] += 2.0  # the lower lip: it moves the centroid by a tenth, and all others against it
        >>> round(landmark_distance(preds, target).item(), 3)
        0.19

    Source: LMD of Chen et al. 2018, "Lip movements generation at a glance"; frontalised in the paper, section 4.4. The choice
    of sum and unit, where publications differ, ours.
    """
    _check_pair(preds, target, lengths, points=NUM_POINTS)
    check_choice("over_points", over_points, OVER_POINTS)
    mouths = []
    for landmarks in (preds, target):
        mouth = (frontalise(landmarks) if frontal else landmarks)[:, :, MOUTH]
        mouths.append(mouth - mouth.mean(dim=2, keepdim=True))
    each = torch.linalg.vector_norm(mouths[0] - mouths[1], dim=-1)
    distance = _mean_over_frames(each.mean(dim=2) if over_points == "mean" else each.sum(dim=2), lengths)
    return reduce(_in_unit(distance, target, unit, reference, lengths), reduction)


@checked
def landmark_error(
    preds: Tensor,
    target: Tensor,
    *,
    unit: str = "input",
    reference: str | Tensor = "first",
    lengths: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute the mean distance between predicted and true points over frames and all points, including head motion.

    Args:
        preds: (batch, frames, points, dims).
        target: The same shape, in the same unit.
        unit: "input" for the unit of the landmarks, "face" for heights of the target's reference face.
        reference: Reference face: "first", "mean" or a face (batch, points, dims).
        lengths: (batch,), number of valid frames of each clip; all by default.
        reduction: "none" for (batch,), "mean" or "sum" over clips.

    Returns:
        In the chosen ``unit``; lower is better, 0 the best.

    Raises:
        ShapeError: Shapes differ.
        ArgumentError: An option has an unknown value.

    Example:
        >>> target = torch.rand(2, 40, 68, 2)
        >>> round(landmark_error(target + torch.tensor([3.0, 4.0]), target).item(), 3)
        5.0

    Source: ours.
    """
    _check_pair(preds, target, lengths)
    distance = _mean_over_frames(torch.linalg.vector_norm(preds - target, dim=-1).mean(dim=2), lengths)
    return reduce(_in_unit(distance, target, unit, reference, lengths), reduction)


@checked
def velocity_error(
    preds: Tensor,
    target: Tensor,
    *,
    unit: str = "input",
    reference: str | Tensor = "first",
    lengths: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute the mean norm of the difference between predicted and true velocities over frames and all points.

    Args:
        preds: (batch, frames, points, dims), at least 2 frames.
        target: The same shape, in the same unit.
        unit: "input" for the unit of the landmarks per frame, "face" for heights of the target's reference face per frame.
        reference: Reference face: "first", "mean" or a face (batch, points, dims).
        lengths: (batch,), number of valid frames of each clip; all by default. A clip of one frame has no velocity: NaN.
        reduction: "none" for (batch,), "mean" or "sum" over clips.

    Returns:
        In the chosen ``unit`` per frame (multiply by 25 for a value per second); lower is better, 0 the best.

    Raises:
        ShapeError: Shapes differ.
        ClipTooShortError: Fewer than 2 frames.
        ArgumentError: An option has an unknown value.

    Example:
        >>> target = torch.zeros(1, 3, 68, 2)
        >>> preds = torch.arange(3.0)[None, :, None, None].expand_as(target)
        >>> round(velocity_error(preds, target).item(), 4)
        1.4142

    Source: ours.
    """
    _check_pair(preds, target, lengths, min_frames=2)
    each = torch.linalg.vector_norm(velocity(preds) - velocity(target), dim=-1).mean(dim=2)
    distance = _mean_over_frames(each, lengths, lost=1)
    return reduce(_in_unit(distance, target, unit, reference, lengths), reduction)


@checked
def mouth_opening_correlation(
    preds: Tensor, target: Tensor, *, lengths: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Compute Pearson's correlation over time of the predicted and true inner lip openings.

    Args:
        preds: (batch, frames, 68, dims), at least 2 frames.
        target: The same shape.
        lengths: (batch,), number of valid frames of each clip; all by default.
        reduction: "none" for (batch,), "mean" or "sum" over the clips that have a correlation.

    Returns:
        In [-1, 1], higher is better. NaN for a clip in which either mouth does not move. Means and sums exclude
        such clips, and are NaN or 0 if no clip remains. A clip with NaN in its landmarks is not excluded.

    Raises:
        ShapeError: Shapes differ, or not 68 points.
        ClipTooShortError: Fewer than 2 frames.

    Example:
        >>> target = torch.rand(2, 40, 68, 2)
        >>> round(mouth_opening_correlation(3 * target + 5, target).item(), 3)
        1.0

    Source: ours.
    """
    _check_pair(preds, target, lengths, points=NUM_POINTS, min_frames=2)
    # A unit does not change a correlation, so no face height is divided out; this also supports faces of height 0.
    precise = torch.promote_types(target.dtype, torch.float32)
    unit = torch.zeros(NUM_POINTS, target.shape[-1], dtype=precise, device=target.device)
    unit[0, min(1, target.shape[-1] - 1)] = 1.0
    clips = [landmarks.to(precise) for landmarks in (preds, target)]
    openings = [mouth_opening(clip, reference=unit) for clip in clips]
    deviations, sizes = [], []
    for opening in openings:
        mean = _mean_over_frames(opening, lengths)
        deviation = opening - mean[:, None]
        if lengths is not None:
            deviation = torch.where(_valid(opening, lengths), deviation, 0.0)
        deviations.append(deviation)
        sizes.append(deviation.square().sum(dim=1).sqrt())
    product = (deviations[0] * deviations[1]).sum(dim=1) / (sizes[0] * sizes[1])
    # The openings of a rigidly moving face are not exactly constant because of rounding.
    floors = [1e-6 * target.shape[1] ** 0.5 * clip.abs().amax(dim=(1, 2, 3)) for clip in clips]
    still = (sizes[0] <= floors[0]) | (sizes[1] <= floors[1])
    correlation = torch.where(still, torch.nan, product.clamp(-1, 1)).to(target.dtype)
    if reduction == "none":
        return correlation
    total = reduce(torch.where(still, 0.0, correlation), "sum" if reduction == "mean" else reduction)
    return total / (~still).sum() if reduction == "mean" else total
