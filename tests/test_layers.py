"""ConvNeXt-1D blocks against torch's own convolution, and their errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.models.convnext import ConvNeXtBlock1d, depthwise_conv


@given(st.integers(1, 7), st.integers(0, 6), st.integers(1, 5))
def test_depthwise_is_torchs_grouped_convolution(taps: int, more: int, channels: int) -> None:
    x = torch.randn(2, taps + more, channels, dtype=torch.float64)
    weight, bias = torch.randn(taps, channels, dtype=torch.float64), torch.randn(channels, dtype=torch.float64)
    expected = torch.nn.functional.conv1d(x.transpose(1, 2), weight.T[:, None], bias, groups=channels).transpose(1, 2)
    torch.testing.assert_close(depthwise_conv(x, weight, bias), expected)


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_block_is_valid_and_local(kernel_size: int) -> None:
    block = ConvNeXtBlock1d(channels=6, kernel_size=kernel_size).double()
    x = torch.randn(2, 12, 6, dtype=torch.float64)
    whole = block(x)
    assert whole.shape == (2, 13 - kernel_size, 6)
    torch.testing.assert_close(block(x[:, 2 : 2 + kernel_size]), whole[:, 2:3])


def test_gradcheck_and_compile() -> None:
    block = ConvNeXtBlock1d(channels=3, kernel_size=3, expansion=2).double()
    x = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, x)
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="aot_eager")(x), block(x))


@pytest.mark.parametrize(
    "options", [{"kernel_size": 2}, {"kernel_size": 0}, {"channels": 0}, {"expansion": 0}, {"dropout": 1.0}]
)
def test_impossible_options(options: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match=f"`{next(iter(options))}`: expected"):
        ConvNeXtBlock1d(**{"channels": 4, **options})


def test_bad_input() -> None:
    with pytest.raises(ClipTooShortError, match="at least 5 frames"):
        depthwise_conv(torch.zeros(1, 4, 2), torch.zeros(5, 2), torch.zeros(2))
    with pytest.raises(ShapeError, match="channels=2"):
        depthwise_conv(torch.zeros(1, 9, 3), torch.zeros(5, 2), torch.zeros(2))
