"""Measures of motion without a reference: drift of the face's height, opening of the mouth, and differences between samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avsync._checks import at_least_float32, check_count, check_shape, checked, describe_shape
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.landmarks.geometry import extent, mouth_opening, unit_length

DRIFT_FRAMES = 10
"""Frames at the end of a clip over which :func:`height_drift` averages (ours)."""


@checked
def height_drift(landmarks: Tensor, *, last: int = DRIFT_FRAMES) -> Tensor:
    """Compute the height of the face at the end of a clip, in heights of its first face.

    1 is no drift. A face that nods or comes nearer also changes its height, so compare the mean over many clips with that of
    real clips.

    Args:
        landmarks: (batch, frames, points, dims), in any unit.
        last: Frames at the end whose heights are averaged; all frames of a shorter clip.

    Returns:
        (batch,).

    Raises:
        ShapeError: The rank is wrong, or there is no point or no coordinate.
        ClipTooShortError: There is no frame.

    Example:
        >>> faces = torch.rand(1, 1, 68, 2) * torch.linspace(1.0, 0.5, 30)[:, None, None]
        >>> round(height_drift(faces, last=1).item(), 3)
        0.5

    Source: ours.
    """
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_count("last", last)
    if landmarks.shape[1] == 0:
        raise ClipTooShortError("`landmarks`: expected at least 1 frame, got 0")
    if 0 in landmarks.shape[2:]:
        raise ShapeError(f"`landmarks`: expected at least one point and one coordinate, got {describe_shape(landmarks)}")
    landmarks = at_least_float32(landmarks)
    return extent(landmarks[:, -last:]).mean(dim=1) / unit_length(landmarks[:, 0])


@checked
def mouth_opening_quantile(landmarks: Tensor, *, quantile: float = 0.95) -> Tensor:
    """Compute a quantile over time of the opening of the inner lips, in heights of the first face.

    Args:
        landmarks: (batch, frames, 68, dims), in any unit.
        quantile: From 0 to 1.

    Returns:
        (batch,).

    Raises:
        ShapeError: Not 68 points, no clip or no frame.
        ArgumentError: The quantile is outside 0 to 1.

    Example:
        >>> mouth_opening_quantile(torch.ones(2, 10, 68, 2)).tolist()
        [0.0, 0.0]

    Source: ours.
    """
    check_shape("landmarks", landmarks, "batch frames points dims")
    if not 0 <= quantile <= 1:
        raise ArgumentError(f"`quantile`: expected a number from 0 to 1, got {quantile!r}")
    if 0 in landmarks.shape[:2]:
        raise ShapeError(f"`landmarks`: expected at least 1 clip of 1 frame, got {tuple(landmarks.shape)}")
    return mouth_opening(landmarks).quantile(quantile, dim=1)


@checked
def seed_spread(samples: Sequence[Tensor]) -> Tensor:
    r"""Compute how far samples of the same clip are from each other, as a share of their displacement.

    .. math:: \frac{\sqrt{n / (n - 1)} \operatorname{mean}_{s,t,p} \|x_{s,t,p} - \bar x_{t,p}\|}
        {\operatorname{mean}_{s,t,p} \|x_{s,t,p} - x_{s,0,p}\|}

    with :math:`n` samples :math:`s`, frames :math:`t`, points :math:`p` and the mean :math:`\bar x` over the samples. A
    deterministic generator has 0.

    Args:
        samples: At least two, (batch, frames, points, dims) each, for example of several seeds.

    Returns:
        (batch,); 0 where no sample moves.

    Raises:
        ArgumentError: There are fewer than two samples.
        ShapeError: The shapes differ.

    Example:
        >>> clip = torch.rand(1, 10, 68, 2)
        >>> seed_spread([clip, clip])
        tensor([0.])

    Source: ours.
    """
    if len(samples) < 2:
        raise ArgumentError(f"`samples`: expected at least 2, got {len(samples)}")
    check_shape("samples[0]", samples[0], "batch frames points dims")
    batch, frames, points, dims = samples[0].shape
    for number, sample in enumerate(samples):
        check_shape(
            f"samples[{number}]", sample, "batch frames points dims", batch=batch, frames=frames, points=points, dims=dims
        )
    together = at_least_float32(torch.stack(list(samples)))
    count = together.shape[0]
    apart = (together - together.mean(dim=0)).norm(dim=-1).mean(dim=(0, 2, 3)) * (count / (count - 1)) ** 0.5
    moved = (together - together[:, :, :1]).norm(dim=-1).mean(dim=(0, 2, 3))
    return torch.where(moved > 0, apart / moved.clamp_min(torch.finfo(moved.dtype).tiny), 0.0)
