"""The distances and the Frechet family as torchmetrics classes (extra ``metrics``).

The classes update over batches and processes, and compute once. The result does not depend on the size of batches and
processes. The functions are in :mod:`avsync.metrics.distance` and :mod:`avsync.metrics.frechet`. Source: ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from avsync._checks import check_choice, check_positive, checked
from avsync.errors import ArgumentError
from avsync.metrics._torchmetrics import ClipMean, Metric
from avsync.metrics.distance import (
    OVER_POINTS,
    UNITS,
    landmark_distance,
    landmark_error,
    mouth_opening_correlation,
    velocity_error,
)
from avsync.metrics.frechet import (
    GaussianStatistics,
    extract_statistics,
    frechet_distance,
    load_motion_autoencoder,
    merge_statistics,
)

__all__ = [
    "FrechetDistance",
    "FrechetMotionDistance",
    "LandmarkDistance",
    "LandmarkError",
    "MouthOpeningCorrelation",
    "VelocityError",
]


class _DefinedMean(ClipMean):
    """Mean of a score over clips; a clip without NaN whose score is NaN is left out."""

    left_out: Tensor

    def __init__(self, options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(options or {}, dtype=torch.float64, **kwargs)
        self.add_state("left_out", default=torch.tensor(0), dist_reduce_fx="sum")

    @checked
    def update(self, preds: Tensor, target: Tensor, lengths: Tensor | None = None) -> None:
        """Add a batch of clips.

        Args:
            preds: Predicted landmarks, (batch, frames, 68, dims).
            target: True landmarks, the same shape.
            lengths: (batch,), number of valid frames of each clip.
        """
        scores = type(self).score(preds, target, lengths=lengths, reduction="none", **self.options).double()
        finite = preds.isfinite().all(dim=(1, 2, 3)) if preds.ndim == 4 else torch.zeros_like(scores, dtype=torch.bool)
        undefined = scores.isnan() & finite & target.isfinite().all(dim=(1, 2, 3))
        self.total += torch.where(undefined, 0.0, scores).sum().to(self.total)
        self.clips += (~undefined).sum()
        self.left_out += undefined.sum()


def _unit_options(unit: str, reference: str) -> dict[str, Any]:
    check_choice("unit", unit, UNITS)
    check_choice("reference", reference, ("first", "mean"))
    return {"unit": unit, "reference": reference}


class LandmarkDistance(_DefinedMean):
    """LMD, or LMD-f, over all clips: :func:`avsync.metrics.distance.landmark_distance`. Lower is better.

    Args:
        frontal: True for LMD-f.
        over_points: "mean" or "sum" over the 20 mouth points.
        unit: "input" or "face".
        reference: "first" or "mean", the face whose height is the unit.
        **kwargs: Options of the torchmetrics base class.

    Raises:
        ArgumentError: An option has an unknown value.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> metric = LandmarkDistance(unit="face")
        >>> metric.update(torch.ones(2, 5, 68, 2), torch.rand(2, 5, 68, 2))
        >>> bool(metric.compute() > 0)
        True

    Source: as the function.
    """

    score = staticmethod(landmark_distance)

    def __init__(
        self,
        *,
        frontal: bool = False,
        over_points: str = "mean",
        unit: str = "input",
        reference: str = "first",
        **kwargs: Any,
    ) -> None:
        check_choice("over_points", over_points, OVER_POINTS)
        options = _unit_options(unit, reference) | {"frontal": frontal, "over_points": over_points}
        super().__init__(options, **kwargs)


class LandmarkError(_DefinedMean):
    """Distance of all points over all clips: :func:`avsync.metrics.distance.landmark_error`. Lower is better.

    Args:
        unit: "input" or "face".
        reference: "first" or "mean", the face whose height is the unit.
        **kwargs: Options of the torchmetrics base class.

    Raises:
        ArgumentError: An option has an unknown value.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> target = torch.rand(2, 5, 68, 2)
        >>> round(LandmarkError()(target + torch.tensor([3.0, 4.0]), target).item(), 3)
        5.0

    Source: as the function.
    """

    score = staticmethod(landmark_error)

    def __init__(self, *, unit: str = "input", reference: str = "first", **kwargs: Any) -> None:
        super().__init__(_unit_options(unit, reference), **kwargs)


class VelocityError(_DefinedMean):
    """Difference of velocities over all clips: :func:`avsync.metrics.distance.velocity_error`. Lower is better.

    Args:
        unit: "input" or "face", per frame.
        reference: "first" or "mean", the face whose height is the unit.
        **kwargs: Options of the torchmetrics base class.

    Raises:
        ArgumentError: An option has an unknown value.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> target = torch.rand(2, 5, 68, 2)
        >>> round(VelocityError()(target + 7, target).item(), 3)
        0.0

    Source: as the function.
    """

    score = staticmethod(velocity_error)

    def __init__(self, *, unit: str = "input", reference: str = "first", **kwargs: Any) -> None:
        super().__init__(_unit_options(unit, reference), **kwargs)


class MouthOpeningCorrelation(_DefinedMean):
    """Correlation of mouth openings: :func:`avsync.metrics.distance.mouth_opening_correlation`. Higher is better.

    Clips in which either mouth does not move are left out, and counted in the state ``left_out``.

    Args:
        **kwargs: Options of the torchmetrics base class.

    Raises:
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> target = torch.rand(2, 9, 68, 2)
        >>> round(MouthOpeningCorrelation()(target, target).item(), 3)
        1.0

    Source: as the function.
    """

    higher_is_better = True
    score = staticmethod(mouth_opening_correlation)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(None, **kwargs)


def _packed(statistics: GaussianStatistics) -> Tensor:
    """Pack statistics into one square matrix for exchange: count and mean in the first row, the scatter below."""
    row = torch.cat([statistics.vectors[None], statistics.mean])
    below = torch.cat([statistics.mean.new_zeros(statistics.mean.shape[0], 1), statistics.scatter], dim=1)
    return torch.cat([row[None], below])


def _unpacked(matrix: Tensor) -> GaussianStatistics:
    return GaussianStatistics(matrix[0, 0], matrix[0, 1:], matrix[1:, 1:])


def _merged(stack: Tensor) -> Tensor:
    return _packed(merge_statistics([_unpacked(matrix) for matrix in stack]))


class FrechetDistance(Metric):
    """Frechet distance of the features of any network: :func:`avsync.metrics.frechet.frechet_distance`. Lower is better.

    The memory is constant: count, mean and scatter of two sets in float64 take ``16 (features + 1)^2`` bytes.

    Args:
        extractor: Any module from (batch, ...) to (vectors, features); the metric puts it in eval mode. Its parameters are not
            part of the metric's state_dict.
        num_features: Number of features; ``extractor.num_features`` by default.
        chunk: Clips per forward pass of the extractor.
        **kwargs: Options of the torchmetrics base class.

    Raises:
        ArgumentError: ``num_features`` is neither given nor an attribute of the extractor, or not positive.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> metric = FrechetDistance(nn.Flatten(), num_features=4)
        >>> clips = torch.rand(20, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> metric.update(preds=clips[:8] + 1)
        >>> metric.update(preds=clips[8:] + 1, target=clips)
        >>> round(metric.compute().item(), 4)
        4.0

    Source: paper section 4.2.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    preds_statistics: Tensor
    target_statistics: Tensor

    @checked
    def __init__(self, extractor: nn.Module, *, num_features: int | None = None, chunk: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        size = getattr(extractor, "num_features", None) if num_features is None else num_features
        if not isinstance(size, int):
            raise ArgumentError("`num_features`: expected a number, or an extractor with that attribute, got neither")
        check_positive("num_features", size)
        check_positive("chunk", chunk)
        # In a list, so that it is no submodule: saving the metric must not save a network.
        self._extractor = [extractor.eval()]
        self.chunk = chunk
        for name in ("preds_statistics", "target_statistics"):
            self.add_state(name, default=torch.zeros(size + 1, size + 1, dtype=torch.float64), dist_reduce_fx=_merged)

    @property
    def extractor(self) -> nn.Module:
        """Return the network."""
        return self._extractor[0]

    @checked
    def update(self, preds: Tensor | None = None, target: Tensor | None = None) -> None:
        """Add clips to one set or to both; the two batches may differ in size.

        Args:
            preds: Generated clips (batch, ...) in the input format of the extractor.
            target: Real clips in the same format.

        Raises:
            ArgumentError: Neither is given, or features are NaN.
            ShapeError: The extractor returns anything but (vectors, num_features).
        """
        if preds is None and target is None:
            raise ArgumentError("`preds`, `target`: expected at least one of them, got neither")
        if preds is not None:
            self.preds_statistics = self._with(self.preds_statistics, preds)
        if target is not None:
            self.target_statistics = self._with(self.target_statistics, target)

    def _with(self, state: Tensor, clips: Tensor) -> Tensor:
        # The network is no submodule, so it does not follow the metric's `.to`; it follows the clips.
        found = _packed(extract_statistics(self.extractor.to(clips.device), clips, chunk=self.chunk)).to(state.device)
        return _packed(merge_statistics([_unpacked(state), _unpacked(found)]))

    def compute(self) -> Tensor:
        """Return the distance over all clips so far, a scalar float64.

        Raises:
            ArgumentError: Fewer than two feature vectors in a set.

        Warns:
            UserWarning: A set has no more vectors than features.
        """
        return frechet_distance(_unpacked(self.preds_statistics), _unpacked(self.target_statistics))


class FrechetMotionDistance(FrechetDistance):
    """Frechet motion distance over all clips: :func:`avsync.metrics.frechet.frechet_motion_distance`. Lower is better.

    Args:
        chunk: Clips per forward pass of the pretrained autoencoder.
        **kwargs: Options of the torchmetrics base class.

    Raises:
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> metric = FrechetMotionDistance()
        >>> target = torch.rand(40, 80, 68, 2, generator=torch.Generator().manual_seed(0))
        >>> metric.update(preds=target[:, :1] + 0.5 * (target - target[:, :1]), target=target)
        >>> bool(metric.compute() > 1)
        True

    Source: as the function.
    """

    def __init__(self, *, chunk: int = 64, **kwargs: Any) -> None:
        super().__init__(load_motion_autoencoder(), chunk=chunk, **kwargs)
