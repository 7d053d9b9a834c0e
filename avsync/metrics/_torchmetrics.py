"""Bases of the metric classes: the torchmetrics base, or a placeholder without torchmetrics, and the mean over clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from avsync._checks import import_extra
from avsync.errors import ArgumentError

if TYPE_CHECKING:
    from torchmetrics import Metric
else:
    try:
        from torchmetrics import Metric
    except ImportError:

        class Metric:
            """Placeholder for the torchmetrics base: metrics can be imported and documented, but not constructed."""

            def __init__(self, *_: Any, **__: Any) -> None:
                import_extra("torchmetrics", "metrics")


__all__ = ["ClipMean", "Metric"]


class ClipMean(Metric):
    """Mean of a score over clips; a subclass adds clips in ``update``, and may leave out clips without a score.

    Args:
        options: Options of the score.
        dtype: Dtype of the sum.
        **kwargs: Options of the torchmetrics base class.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    score: Callable[..., Tensor]
    total: Tensor
    clips: Tensor
    left_out: Tensor | int = 0

    def __init__(self, options: dict[str, Any], *, dtype: torch.dtype = torch.float32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.options = options
        self.add_state("total", default=torch.tensor(0.0, dtype=dtype), dist_reduce_fx="sum")
        self.add_state("clips", default=torch.tensor(0), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """Return the mean over all clips so far that have a value; NaN if no clip has one.

        Raises:
            ArgumentError: No clip was added.
        """
        if int(self.clips) + int(self.left_out) == 0:
            raise ArgumentError("`update`: expected at least one clip before `compute`, got none")
        return self.total / self.clips
