from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from avsync.errors import ArgumentError, ShapeError
from avsync.models.generator.model import StackedLinear, StackedPointwiseBlock, stacked_linear


@given(
    branches=st.integers(1, 5), rows=st.integers(1, 6), width=st.integers(1, 9), out=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_stacked_equals_separate_linears(branches: int, rows: int, width: int, out: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    x, weight, bias = (
        torch.randn(*shape, generator=source, dtype=torch.float64)
        for shape in ((branches, rows, width), (branches, out, width), (branches, out))
    )
    separate = torch.stack([F.linear(x[b], weight[b], bias[b]) for b in range(branches)])
    torch.testing.assert_close(stacked_linear(x, weight, bias), separate)
    torch.testing.assert_close(stacked_linear(x, weight), separate - bias[:, None])


def test_a_block_is_independent_between_branches(rng: torch.Generator) -> None:
    block = StackedPointwiseBlock(width=6, branches=3)
    x = torch.randn(3, 2, 6, generator=rng)
    moved = x.clone()
    moved[1] += 1.0 + torch.arange(6)
    changed = (block(moved) - block(x)).abs().amax(dim=(1, 2))
    assert changed[0] == changed[2] == 0
    assert changed[1] > 0


def test_bad_input() -> None:
    layer = StackedLinear(in_features=3, out_features=5, branches=2)
    with pytest.raises(ShapeError, match=r"`x`: expected .branches=2, rows, in_features=3., got .2, 4, 7."):
        layer(torch.zeros(2, 4, 7))
    with pytest.raises(ArgumentError, match="`branches`"):
        StackedLinear(in_features=3, out_features=5, branches=0)
