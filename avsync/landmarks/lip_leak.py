"""Removal of lip motion that leaks into the points of the head.

Detectors fit one mesh to the whole face, so nose and eye corners move slightly with the lips. This leak is small (1 % of the
variance above 1 Hz follows lip opening and lip width), but a network that learns from speech uses it. The leak is nearly linear
and is removed by a linear regression.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from avsync._checks import (
    at_least_float32,
    check_choice,
    check_count,
    check_finite_values,
    check_floating,
    check_shape,
    checked,
)
from avsync.errors import ArgumentError
from avsync.landmarks.geometry import check_landmarks, reference_face
from avsync.landmarks.head_frame import head_size, local_shape
from avsync.landmarks.layouts import LOWER_INNER_LIP, MOUTH, NUM_POINTS, REGION_SLICES, UPPER_INNER_LIP
from avsync.pyramid import mean_over_frames

LAGS = 2
"""Number of frames before and after each frame whose lips may leak into the frame."""
_DIMS = 2
LEAK_SHAPE = (2 * LAGS + 1, 20 * _DIMS, NUM_POINTS, _DIMS)
"""Shape of the weights: lags, coordinates of the lips, points, dims."""
_RIDGE = 1e-4  # of the mean power of a regressor
_SLOW_FRAMES = 25
"""Length of the moving average, in frames. Only motion above about 1 Hz is fitted, because slow head motion hides the leak."""


def _lips(landmarks: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Return the lips in head coordinates, minus their mean over the clip, (batch, frames, 40)."""
    lips = local_shape(landmarks, lengths=lengths)[..., MOUTH, :_DIMS].flatten(2)
    return lips - mean_over_frames(lips, -2, lengths=lengths)[:, None]


def _around(x: Tensor) -> Tensor:
    """Repeat the first and the last frame: (batch, frames, n) to (batch, frames + 2 * LAGS, n)."""
    return torch.cat([x[:, :1].expand(-1, LAGS, -1), x, x[:, -1:].expand(-1, LAGS, -1)], dim=1)


def _fast(x: Tensor) -> Tensor:
    """Subtract the moving average from ``x`` (batch, frames, n)."""
    reach = _SLOW_FRAMES // 2
    held = F.pad(x.transpose(1, 2), (reach, reach), mode="replicate")
    return x - F.avg_pool1d(held, _SLOW_FRAMES, 1).transpose(1, 2)


@checked
def fit_lip_leak(landmarks: Tensor, *, components: int = 12, region: str = "head") -> Tensor:
    """Fit the weights of :func:`remove_lip_leak`: a ridge regression from the lips to the points of a region.

    Regressors are the principal motions of the lips in coordinates of the head and the opening of the inner lip, of the same
    frame and of 2 frames before and after it. Motion slower than about 1 Hz is removed from both sides before the fit.

    Args:
        landmarks: Crops of training clips, (clips, frames, points=68, dims=2), at least 25 frames long; 100 or more clips are
            best.
        components: Number of principal motions of the lips.
        region: Points that the leak is fitted for: "head", or "expression" for all points but the lips.

    Returns:
        (5, 40, 68, 2) float32, from coordinates of the lips to shifts of points in head sizes; zeros for points outside of the
        region.

    Raises:
        ShapeError: ``landmarks`` does not have the shape (clips, frames, 68, 2).
        ArgumentError: ``components`` is below 1, ``region`` is another word, or the lips do not move.

    Example:
        >>> fit_lip_leak(torch.rand(3, 50, 68, 2)).shape
        torch.Size([5, 40, 68, 2])

    Source: ours.
    """
    check_shape("landmarks", landmarks, "clips frames points dims", points=NUM_POINTS, dims=_DIMS)
    check_floating("landmarks", landmarks)
    check_count("components", components)
    check_finite_values("landmarks", landmarks)
    check_choice("region", region, ("head", "expression"))
    landmarks = landmarks.double()
    lips = _lips(landmarks)
    _, _, motions = torch.linalg.svd(lips.flatten(0, 1)[::5], full_matrices=False)
    opening = torch.zeros(NUM_POINTS, _DIMS, dtype=lips.dtype, device=lips.device)
    opening[LOWER_INNER_LIP, 1], opening[UPPER_INNER_LIP, 1] = 1.0, -1.0
    basis = torch.cat([motions[:components].T, opening[MOUTH].reshape(-1, 1)], dim=1)

    frames = landmarks.shape[1]
    state = _around(lips @ basis)
    regressors = _fast(torch.cat([state[:, lag : lag + frames] for lag in range(2 * LAGS + 1)], dim=2)).flatten(0, 1)
    size = head_size(reference_face(landmarks, "mean"))[:, None, None, None]
    head = torch.zeros(NUM_POINTS, dtype=torch.bool, device=landmarks.device)
    for points in REGION_SLICES[region]:
        head[points] = True
    shifts = _fast((landmarks[:, :, head] / size).flatten(2)).flatten(0, 1)
    power = regressors.T @ regressors
    ridge = _RIDGE * power.diagonal().mean() * torch.eye(len(power), dtype=power.dtype, device=power.device)
    if not bool(power.diagonal().mean() > 0):
        raise ArgumentError("`landmarks`: expected lips that move, got still ones")
    solved = torch.linalg.solve(power + ridge, regressors.T @ shifts).unflatten(0, (2 * LAGS + 1, -1))
    weights = torch.zeros(2 * LAGS + 1, basis.shape[0], NUM_POINTS, _DIMS, dtype=torch.float32, device=landmarks.device)
    weights[:, :, head] = (basis @ solved).unflatten(2, (-1, _DIMS)).float()
    return weights


@checked
def remove_lip_leak(landmarks: Tensor, weights: Tensor, *, lengths: Tensor | None = None) -> Tensor:
    """Subtract the motion predicted from the lips from the points of the head.

    No gradient reaches the lips, so a generator cannot improve the score of a head model by lip motion.

    Args:
        landmarks: (batch, frames, points=68, dims=2), any unit.
        weights: (5, 40, 68, 2), from :func:`fit_lip_leak`.
        lengths: (batch,), number of valid frames; frames after the end should repeat the last valid frame.

    Returns:
        The shape of ``landmarks``, in at least float32.

    Raises:
        ShapeError: ``landmarks`` or ``weights`` has another shape.

    Example:
        >>> clips = torch.rand(2, 30, 68, 2)
        >>> moved = remove_lip_leak(clips, fit_lip_leak(clips)) - clips
        >>> moved[:, :, 48:].abs().max().item()
        0.0

    Source: ours.
    """
    check_landmarks(landmarks)
    check_shape("landmarks", landmarks, "batch frames points dims", points=NUM_POINTS, dims=_DIMS)
    check_shape(
        "weights", weights, "lags lips points dims", lags=2 * LAGS + 1, lips=LEAK_SHAPE[1], points=NUM_POINTS, dims=_DIMS
    )
    landmarks = at_least_float32(landmarks)
    seen = landmarks.detach()
    lips = _around(_lips(seen, lengths)).transpose(1, 2)
    # One convolution over time: lags are its taps, coordinates of all points its channels.
    leak = F.conv1d(lips, weights.to(lips).flatten(2).permute(2, 1, 0)).transpose(1, 2).unflatten(2, (NUM_POINTS, _DIMS))
    size = head_size(reference_face(seen, "mean", lengths=lengths))
    return landmarks - size[:, None, None, None] * leak
