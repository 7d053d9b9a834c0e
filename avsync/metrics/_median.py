"""Median of values without NaN, as in NumPy."""

from __future__ import annotations

import torch
from torch import Tensor


def nan_median(values: Tensor) -> Tensor:
    """Compute the median over the last axis, ignoring NaN; NaN if all values are NaN.

    torch uses the lower of two middle values; NumPy and SyncNet's script use their mean.
    """
    if not torch.compiler.is_compiling() and values.shape[-1] % 2 and not bool(values.isnan().any()):
        return values.median(dim=-1).values  # the same, and fast
    ordered, count = values.sort(dim=-1).values, (~values.isnan()).sum(dim=-1, keepdim=True)  # sorting puts NaN last
    middle = torch.cat([(count - 1).clamp_min(0) // 2, count // 2], dim=-1).clamp_max(values.shape[-1] - 1)
    return ordered.gather(-1, middle).mean(dim=-1)
