"""Certainty of an offset: the posterior over offsets, a sub-frame estimate, a calibrated probability, and "cannot tell".

Two probabilities are computed separately. The posterior over offsets, given that audio and motion match, is a softmax over the
negative distances with a calibrated scale. The probability of a match is a calibrated logistic regression: the distance curve
of a clip with unrelated audio also has a minimum, but the minimum is shallower and at a larger distance. The probability that
an offset is right within one frame is the product. A positive offset means that the audio is early.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from avsync._checks import check_shape, checked, describe_shape
from avsync.errors import ArgumentError, ShapeError
from avsync.metrics.calibration import LevelCalibration, match_features, offset_probabilities, probability_near
from avsync.metrics.offset import offset_from_distances


class OffsetPosterior(NamedTuple):
    """Posterior over the offsets of clips. All tensors are (batch,) except the last."""

    offset_frames: Tensor
    """Sub-frame estimate in frames of the level; positive: the audio is early. 0 for a clip without any distance."""
    probability: Tensor
    """Probability that audio and motion belong together and the best whole offset is right within one frame; 0 for a clip
    without any distance."""
    match: Tensor
    """Probability that audio and motion belong together."""
    answered: Tensor
    """True if ``probability`` reaches the threshold; False stands for "cannot tell"."""
    probabilities: Tensor
    """Posterior of each offset from ``+max_offset`` down to ``-max_offset``, given a match, (batch, 2 * max_offset + 1)."""


@checked
def sub_frame_offset(distances: Tensor) -> Tensor:
    """Compute the sub-frame offset at the minimum of a parabola through the smallest mean distance and its neighbours.

    Args:
        distances: (batch, 2 V + 1) from ``+V`` down to ``-V``, as :func:`avsync.metrics.offset.offset_distances` returns them.

    Returns:
        (batch,), in frames of the level, within half a frame of the best whole offset. Equal to the best whole offset if this
        offset lies at the end of the search or lacks a neighbour, or if the minimum is not distinct.

    Raises:
        ShapeError: Not (batch, an odd number of offsets).

    Example:
        >>> offsets = torch.arange(3.0, -4.0, -1.0)
        >>> sub_frame_offset((offsets - 0.4).square()[None])
        tensor([0.4000])

    Source: ours.
    """
    best = offset_from_distances(distances).offset_frames
    reach = distances.shape[1] // 2
    if reach == 0:
        return best.to(distances.dtype)
    middle = (reach - best).clamp(1, 2 * reach - 1)
    left, centre, right = (distances.gather(1, (middle + step)[:, None]).squeeze(1) for step in (-1, 0, 1))
    bend = left - 2 * centre + right
    whole = ((reach - best) != middle) | ~(bend > 0) | (centre > torch.minimum(left, right))
    step = 0.5 * (left - right) / torch.where(whole, 1.0, bend)
    return best - torch.where(whole, 0.0, step)


@checked
def offset_posterior(
    distances: Tensor,
    windows: Tensor | float,
    *,
    calibration: LevelCalibration,
    prior: float = 0.5,
    threshold: float = 0.5,
) -> OffsetPosterior:
    """Compute posterior over offsets, sub-frame estimate and calibrated probability of clips at one level.

    Args:
        distances: Mean distance at each offset, (batch, 2 V + 1), as :func:`avsync.metrics.offset.offset_distances` returns
            them.
        windows: Number of windows in each mean: a number, (batch,), or (batch, 2 V + 1) if clips have no audio around them, so
            that offsets differ in windows. A first dimension of 1 stands for all clips.
        calibration: Calibration of the syncers that computed the distances, at this level.
        prior: Prior probability that the audio belongs to the motion and the offset lies within the search. One half is
            neutral; 1 assumes that every clip matches, as for one's own recordings.
        threshold: Smallest probability at which the offset is reported.

    Returns:
        :class:`OffsetPosterior`.

    Raises:
        ShapeError: ``distances`` is not (batch, an odd number of offsets).
        ArgumentError: ``prior`` is not above 0 and at most 1, or ``threshold`` outside 0 to 1.

    Example:
        >>> level = LevelCalibration(scale=20.0, power=0.5, match_bias=2.0, match_weights=(0.5, -2.0, 1.0))
        >>> curve = torch.tensor([[1.0, 1.0, 0.6, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
        >>> offset_posterior(curve, 25, calibration=level).answered
        tensor([ True, False])

    Source: ours.
    """
    if not 0 < prior <= 1:
        raise ArgumentError(f"`prior`: expected a share above 0 and at most 1, got {prior!r}")
    if not 0 <= threshold <= 1:
        raise ArgumentError(f"`threshold`: expected a probability from 0 to 1, got {threshold!r}")
    check_shape("distances", distances, "batch offsets")
    batch, offsets = distances.shape
    if isinstance(windows, Tensor) and windows.shape not in ((), (batch,), (batch, offsets), (1, offsets)):
        raise ShapeError(
            f"`windows`: expected a number, (batch={batch}) or (batch={batch}, offsets={offsets}), got"
            f" {describe_shape(windows)}"
        )
    shape = {"scale": calibration.scale, "power": calibration.power}
    whole = offset_from_distances(distances).offset_frames
    best = distances.shape[1] // 2 - whole
    probabilities = offset_probabilities(distances, windows, **shape)
    near = probability_near(probabilities, best)
    features = match_features(distances, windows, **shape)
    odds = features @ features.new_tensor(calibration.match_weights) + calibration.match_bias
    match = torch.ones_like(odds) if prior == 1 else (odds + torch.tensor(prior, dtype=torch.float64).logit().item()).sigmoid()
    match = match.masked_fill(distances.isnan().all(1), 0.0)
    probability = (near * match).nan_to_num(0.0)
    return OffsetPosterior(sub_frame_offset(distances), probability, match, probability >= threshold, probabilities)
