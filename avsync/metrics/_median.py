"""The median as NumPy has it, of the numbers among values that may be NaN."""

from __future__ import annotations

import torch
from torch import Tensor


def nan_median(values: Tensor) -> Tensor:
    """Median over the last axis of those values that are numbers; NaN where there is none.

    torch's own takes the lower of two middle values; NumPy, and with it SyncNet's script, their mean.
    """
    if not torch.compiler.is_compiling() and values.shape[-1] % 2 and not bool(values.isnan().any()):
        return values.median(dim=-1).values  # the same, and fast
    ordered, count = values.sort(dim=-1).values, (~values.isnan()).sum(dim=-1, keepdim=True)  # sorting puts NaN last
    middle = torch.cat([(count - 1).clamp_min(0) // 2, count // 2], dim=-1).clamp_max(values.shape[-1] - 1)
    return ordered.gather(-1, middle).mean(dim=-1)
