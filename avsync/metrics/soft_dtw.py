"""Soft dynamic time warping: a differentiable distance between motions that may be shifted or stretched in time."""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import check_floating, check_positive, check_shape, checked, reduce, same_precision
from avsync.errors import ClipTooShortError


def _soft_dtw(costs: Tensor, gamma: float) -> Tensor:
    """Return the soft minimum over all paths through costs (batch, n, m): (batch,)."""
    batch, n, m = costs.shape
    infinite = costs.new_full((batch, 1), torch.inf)
    # Diagonal d holds the cells (i, d - i) by i, so that each depends on the two diagonals before it only.
    before = [costs.new_full((batch, n + 1), torch.inf), costs.new_full((batch, n + 1), torch.inf)]
    before[0] = torch.cat([costs.new_zeros(batch, 1), infinite.expand(-1, n)], dim=1)  # diagonal 0: the cell (0, 0)
    row = torch.arange(1, n + 1, device=costs.device)
    for diagonal in range(2, n + m + 1):
        column = diagonal - row
        inside = (column >= 1) & (column <= m)
        cost = costs[:, row - 1, column.clamp(1, m) - 1]
        steps = torch.stack([before[0][:, :-1], before[1][:, :-1], before[1][:, 1:]])
        reached = inside & ~torch.isinf(steps).all(dim=0)
        # The infinities of unreachable cells would make the gradient NaN.
        steps = torch.where(torch.isinf(steps), torch.finfo(costs.dtype).max / 4, steps)
        value = cost - gamma * torch.logsumexp(-steps / gamma, dim=0)
        before = [before[1], torch.cat([infinite, torch.where(reached, value, torch.inf)], dim=1)]
    return before[1][:, n]


@checked
def soft_dtw_distance(
    preds: Tensor,
    target: Tensor,
    *,
    gamma: float = 0.1,
    normalise: bool = True,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute the soft-DTW distance between two motions; differentiable, as a metric or as a loss.

    .. math::
        \operatorname{dtw}_\gamma(x, y) = -\gamma \log \sum_\pi
        \exp\left(-\frac{1}{\gamma} \sum_{(i, j) \in \pi} d(x_i, y_j)\right)

    over all monotonous paths :math:`\pi`, with the mean squared distance :math:`d` of the points of two frames. With
    ``normalise`` the result is the divergence :math:`\operatorname{dtw}_\gamma(x, y) - \frac{1}{2}
    (\operatorname{dtw}_\gamma(x, x) + \operatorname{dtw}_\gamma(y, y))`, which is at least 0, and 0 for equal motions.

    Args:
        preds: (batch, frames, points, dims). Divide landmarks by the height of the face first
            (:func:`avsync.landmarks.normalise`), so that ``gamma`` has a fixed meaning.
        target: (batch, other_frames, points, dims); the lengths may differ.
        gamma: Smoothing, in squared units of the motion, above 0; dynamic time warping in the limit of 0.
        normalise: Subtract the distances of both motions to themselves.
        reduction: "none" for (batch,), "mean" or "sum" over clips.

    Returns:
        In squared units of the motion; lower is better.

    Raises:
        ShapeError: Points or dims differ.
        ClipTooShortError: A clip has no frame.
        ArgumentError: ``gamma`` is not above 0.

    Example:
        >>> motion = torch.sin(torch.arange(30.0) / 3)[None, :, None, None]
        >>> late = torch.cat([motion[:, :1].expand(-1, 3, -1, -1), motion], dim=1)
        >>> soft_dtw_distance(late, motion) < soft_dtw_distance(torch.cos(torch.arange(30.0))[None, :, None, None], motion) / 10
        tensor(True)

    Source: Cuturi and Blondel 2017, "Soft-DTW: a differentiable loss function for time-series"; the divergence is that of
    Blondel, Mensch and Vert 2021.
    """
    check_shape("target", target, "batch other_frames points dims")
    batch, _, points, dims = target.shape
    check_shape("preds", preds, "batch frames points dims", batch=batch, points=points, dims=dims)
    for name, motion in (("preds", preds), ("target", target)):
        check_floating(name, motion)
        if motion.shape[1] == 0:
            raise ClipTooShortError(f"`{name}`: expected at least 1 frame, got 0")
    check_positive("gamma", gamma)
    x, y = (motion.flatten(2) for motion in same_precision(preds, target))

    def distance(first: Tensor, second: Tensor) -> Tensor:
        with torch.autocast(device_type=first.device.type, enabled=False):
            squares = first.square().sum(-1)[:, :, None] + second.square().sum(-1)[:, None]
            costs = (squares - 2 * first @ second.transpose(1, 2)).clamp(min=0) / points
        return _soft_dtw(costs, gamma)

    value = distance(x, y)
    if normalise:
        value = value - (distance(x, x) + distance(y, y)) / 2
    return reduce(value, reduction)
