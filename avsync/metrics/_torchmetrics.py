"""The base of the metric classes: torchmetrics' own, or, where that is not installed, one that says so when a metric is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avsync._checks import import_extra

if TYPE_CHECKING:
    from torchmetrics import Metric
else:
    try:
        from torchmetrics import Metric
    except ImportError:

        class Metric:
            """Stands in for torchmetrics' base: metrics can be imported and read about, but not made."""

            def __init__(self, *_: Any, **__: Any) -> None:
                import_extra("torchmetrics", "metrics")


__all__ = ["Metric"]
