"""Pointwise ConvNeXt block of syncers and discriminators."""

from __future__ import annotations

import pytest
import torch

from avsync.errors import ArgumentError
from avsync.models.syncer.pyramid import PointwiseBlock


def test_frames_are_independent() -> None:
    block = PointwiseBlock(channels=6).double()
    x = torch.randn(2, 12, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x[:, 2:3]), block(x)[:, 2:3])


def test_gradcheck_and_compile() -> None:
    block = PointwiseBlock(channels=3, expansion=2).double()
    x = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, x)
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="aot_eager")(x), block(x))


@pytest.mark.parametrize("options", [{"channels": 0}, {"expansion": 0}, {"dropout": 1.0}])
def test_impossible_options(options: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match=f"`{next(iter(options))}`: expected"):
        PointwiseBlock(**{"channels": 4, **options})
