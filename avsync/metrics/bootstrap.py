"""Intervals for means and medians over clips, by the percentile bootstrap over clips or over speakers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avsync._checks import check_choice, check_positive, checked
from avsync.errors import ArgumentError, ShapeError

STATISTICS = ("mean", "median")
_CELLS = 2**22  # counts held at once: 32 megabytes


class Interval(NamedTuple):
    """A statistic of a sample and its interval, in the unit of the values; each a scalar or (columns,), float64."""

    estimate: Tensor
    """The statistic of the sample itself."""
    low: Tensor
    """Lower end of the interval."""
    high: Tensor
    """Upper end of the interval."""


@checked
def bootstrap_interval(
    values: Tensor | npt.NDArray[Any],
    *,
    groups: Tensor | npt.NDArray[Any] | Sequence[Any] | None = None,
    statistic: str = "mean",
    level: float = 0.95,
    resamples: int = 2000,
    generator: torch.Generator | None = None,
) -> Interval:
    """Compute the percentile bootstrap interval of a statistic over clips.

    Each of the ``resamples`` samples has as many clips as the data, drawn with replacement. The interval runs between the
    quantiles ``(1 -+ level) / 2`` of the statistic. Clips of one speaker are correlated, so intervals over clips are too
    narrow for a claim about speakers. With ``groups``, whole speakers are drawn instead (a cluster bootstrap). For the
    difference of two methods on the same clips, pass the differences.

    Args:
        values: One number per clip, (clips,), or several, (clips, columns), resampled together.
        groups: Speaker of each clip, (clips,), of any comparable type.
        statistic: "mean" or "median" (the lower one of two middle values) over clips.
        level: Share of resamples inside the interval, in (0, 1).
        resamples: Number of resamples.
        generator: Random generator on the CPU; by default seeded with 0, so that the same values give the same interval.

    Returns:
        :class:`Interval`, float64 on the CPU. A single clip, or a single group, has an interval of zero width, which is not
        informative.

    Raises:
        ShapeError: No clips, or the numbers of groups and clips differ.
        ArgumentError: A value is NaN or infinite, or an option is out of its range.

    Example:
        >>> found = bootstrap_interval(torch.tensor([1.0, 2.0, 3.0, 4.0]), resamples=200)
        >>> float(found.estimate), float(found.low) < 2.5 < float(found.high)
        (2.5, True)

    Source: Efron's percentile bootstrap.
    """
    check_choice("statistic", statistic, STATISTICS)
    check_positive("resamples", resamples)
    if not 0 < level < 1:
        raise ArgumentError(f"`level`: expected a share above 0 and below 1, got {level!r}")
    data = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if data.ndim not in (1, 2) or data.numel() == 0:
        raise ShapeError(f"`values`: expected (clips,) or (clips, columns) with at least one clip, got {tuple(data.shape)}")
    if not bool(data.isfinite().all()):
        raise ArgumentError(f"`values`: expected finite numbers, got {int((~data.isfinite()).sum())} that are not")
    columns = data.reshape(data.shape[0], -1)
    clips = columns.shape[0]
    member = torch.arange(clips)
    if groups is not None:
        names = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
        if names.shape != (clips,):
            raise ShapeError(f"`groups`: expected (clips={clips}), got {names.shape}")
        member = torch.from_numpy(np.unique(names, return_inverse=True)[1]).to(torch.int64)
    number = int(member.max()) + 1
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    at_once = max(1, _CELLS // max(clips, number))
    compute = _means if statistic == "mean" else _medians
    statistics = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = torch.randint(number, (rows, number), generator=generator)
        times = torch.zeros(rows, number, dtype=torch.float64).scatter_add_(
            1, drawn, torch.ones_like(drawn, dtype=torch.float64)
        )
        statistics.append(compute(columns, times[:, member]))
    edges = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(statistics).quantile(edges, dim=0).reshape(2, *data.shape[1:])
    estimate = compute(columns, torch.ones(1, clips, dtype=torch.float64)).reshape(data.shape[1:])
    return Interval(estimate, low, high)


def _means(values: Tensor, times: Tensor) -> Tensor:
    """Compute means of (clips, columns) in which clip ``i`` comes ``times[r, i]`` times: (resamples, columns)."""
    return times @ values / times.sum(1, keepdim=True)


def _medians(values: Tensor, times: Tensor) -> Tensor:
    """Compute the medians like :func:`_means`: the first value at which half of the clips are reached."""
    found = []
    for column in values.unbind(1):
        order = column.argsort()
        reached = times[:, order].cumsum(1)
        half = (reached >= reached[:, -1:] / 2).to(torch.uint8).argmax(1)
        found.append(column[order][half])
    return torch.stack(found, dim=1)
