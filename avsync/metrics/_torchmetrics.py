"""Base of the metric classes: the torchmetrics base, or a placeholder that raises on construction without torchmetrics."""

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
            """Placeholder for the torchmetrics base: metrics can be imported and documented, but not constructed."""

            def __init__(self, *_: Any, **__: Any) -> None:
                import_extra("torchmetrics", "metrics")


__all__ = ["Metric"]
