"""Fit of a calibration on labelled clips: maximum likelihood of the posterior, then of the odds that audio and motion match."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from avsync._checks import check_shape, checked, describe_shape
from avsync.errors import ArgumentError, ShapeError
from avsync.metrics.calibration import Calibration, LevelCalibration, match_features, offset_evidence


@checked
def fit_calibration(
    matched: Sequence[Sequence[Tensor]],
    mismatched: Sequence[Sequence[Tensor]],
    windows: Sequence[Sequence[int | Tensor]],
    *,
    offsets: Sequence[Sequence[Tensor]] | None = None,
) -> Calibration:
    """Fit every level on clips with their own audio and on clips with audio that does not match at any offset of the search.

    Use speakers outside the training set of the syncers; distances of training speakers are too small. Clips of several lengths
    determine how evidence grows with length. The posterior maximises the likelihood of the true offsets of the matched clips,
    even if its peak is elsewhere. The odds maximise the likelihood of the labels matched and mismatched, with equal weight for
    both classes.

    Args:
        matched: ``matched[k][level]``: distances of clips of the k-th length with their own audio, (clips, offsets of the
            level), as :func:`avsync.metrics.offset.offset_distances` returns them; NaN at offsets without windows.
        mismatched: Distances of clips with other audio.
        windows: ``windows[k][level]``: number of windows in each mean distance, a number or one per offset, (offsets,).
        offsets: ``offsets[k][level]``: true offset of each matched clip in frames of the level, (clips,) int64, positive if the
            audio is early; None if all are in sync.

    Returns:
        The calibration.

    Raises:
        ArgumentError: No lengths or clips, or lists of different lengths.
        ShapeError: Distances are not (clips, an odd number of offsets), or hold NaN at offsets with windows; or ``windows`` or
            ``offsets`` do not fit.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> noise = 1 + 0.1 * torch.randn(2, 200, 11, generator=generator)
        >>> good = noise[0].clone()
        >>> good[:, 5] -= 0.3
        >>> level = fit_calibration([[good]], [[noise[1]]], [[20]]).levels[0]
        >>> level.scale > 0
        True

    Source: ours; the scale is temperature scaling.
    """
    _check_curves(matched, mismatched, windows, offsets)
    levels = []
    for level in range(len(windows[0])):
        good = [curves[level].detach().double() for curves in matched]
        bad = [curves[level].detach().double() for curves in mismatched]
        counts = [torch.as_tensor(count[level]).double().reshape(1, -1) for count in windows]
        true = [curve.shape[1] // 2 - (0 if offsets is None else offsets[k][level]) for k, curve in enumerate(good)]
        scale, power = _fit_posterior(good, counts, true)
        features = [
            torch.cat(
                [match_features(curve, count, scale=scale, power=power) for curve, count in zip(kind, counts, strict=True)]
            )
            for kind in (good, bad)
        ]
        bias, weights = _fit_match(*features)
        levels.append(LevelCalibration(scale=scale, power=power, match_bias=bias, match_weights=weights))
    return Calibration(tuple(levels))


def _check_curves(
    matched: Sequence[Sequence[Tensor]],
    mismatched: Sequence[Sequence[Tensor]],
    windows: Sequence[Sequence[int | Tensor]],
    offsets: Sequence[Sequence[Tensor]] | None,
) -> None:
    if not len(windows) == len(matched) == len(mismatched) or not windows:
        raise ArgumentError(
            "`matched`, `mismatched`, `windows`: expected one entry per length each,"
            f" got {len(matched)}, {len(mismatched)} and {len(windows)}"
        )
    for name, kind in (("matched", matched), ("mismatched", mismatched)):
        for curves, count in zip(kind, windows, strict=True):
            if not len(curves) == len(count) == len(windows[0]) or not count:
                raise ArgumentError(f"`{name}`: expected {len(windows[0])} levels of each length, got {len(curves)}")
            for curve, number in zip(curves, count, strict=True):
                check_shape(name, curve, "clips offsets")
                numbers = torch.as_tensor(number, device=curve.device)
                if numbers.shape not in ((), curve.shape[1:]):
                    raise ShapeError(
                        f"`windows`: expected a number or (offsets={curve.shape[1]}), got {describe_shape(numbers)}"
                    )
                missing = int((curve.isnan() & (numbers > 0)).sum())
                if curve.shape[0] == 0 or curve.shape[1] % 2 == 0 or missing:
                    raise ShapeError(
                        f"`{name}`: expected at least one clip, an odd number of offsets and no NaN where there are windows,"
                        f" got {tuple(curve.shape)} with {missing} NaN"
                    )
    if offsets is not None:
        shapes = [[(curve.shape[0],) for curve in curves] for curves in matched]
        got = [[tuple(true.shape) for true in levels] for levels in offsets]
        if got != shapes:
            raise ShapeError(f"`offsets`: expected one per clip of `matched`, {shapes}, got {got}")
        for curves, levels in zip(matched, offsets, strict=True):
            for curve, true in zip(curves, levels, strict=True):
                if bool((true.abs() > curve.shape[1] // 2).any()):
                    raise ArgumentError(f"`offsets`: expected at most {curve.shape[1] // 2}, got {int(true.abs().max())}")


def _minimise(parameters: Tensor, loss: Callable[[], Tensor]) -> None:
    optimiser = torch.optim.LBFGS([parameters], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    with torch.enable_grad():
        optimiser.step(closure)


def _fit_posterior(curves: Sequence[Tensor], windows: Sequence[Tensor], true: Sequence[int | Tensor]) -> tuple[float, float]:
    """Fit scale and power by maximum likelihood of the true offsets; ``true`` are their columns."""
    # The start is a weakly informative scale. With only one length, power and scale cannot be identified separately, so a weak
    # penalty pulls the power towards one half; several lengths easily outweigh the penalty.
    parameters = torch.tensor([math.log(10.0), 0.5], dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        likelihoods = [
            offset_evidence(curve, count, scale=parameters[0].exp(), power=parameters[1])
            .log_softmax(1)
            .gather(1, torch.as_tensor(column).expand(curve.shape[0])[:, None])
            for curve, count, column in zip(curves, windows, true, strict=True)
        ]
        return -torch.cat(likelihoods).mean() + 1e-3 * ((parameters[0] - math.log(10.0)) ** 2 + (parameters[1] - 0.5) ** 2)

    _minimise(parameters, loss)
    return float(parameters[0].detach().exp()), float(parameters[1].detach())


def _fit_match(matched: Tensor, mismatched: Tensor) -> tuple[float, tuple[float, float, float]]:
    """Fit a logistic regression on standardised features; return bias and weights in the original units."""
    both = torch.cat([matched, mismatched])
    mean, spread = both.mean(0), both.std(0).clamp_min(1e-6)
    parameters = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def odds(features: Tensor) -> Tensor:
        return (features - mean) / spread @ parameters[1:] + parameters[0]

    def loss() -> Tensor:
        softplus = torch.nn.functional.softplus
        wrong = 0.5 * softplus(-odds(matched)).mean() + 0.5 * softplus(odds(mismatched)).mean()
        return wrong + 1e-3 * parameters[1:].square().sum()  # separable classes would drive the weights to infinity

    _minimise(parameters, loss)
    weights = parameters[1:].detach() / spread
    bias = float(parameters[0].detach() - (weights * mean).sum())
    return bias, (float(weights[0]), float(weights[1]), float(weights[2]))
