"""ConvNeXt-1D blocks on (batch, frames, channels).

Channels are the last axis, so that the pointwise layers, which do nearly all of the arithmetic, are matrix products without a
transposition. A depthwise convolution with a few taps is a few shifted multiplications.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsync._checks import check_positive, check_shape
from avsync.errors import ArgumentError, ClipTooShortError


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a valid (unpadded) depthwise convolution along time to a channels-last signal.

    Args:
        x: (batch, frames, channels).
        weight: (taps, channels).
        bias: (channels,).

    Returns:
        (batch, frames - taps + 1, channels).

    Raises:
        ShapeError: ``x`` is not (batch, frames, channels) with the channels of ``weight``.
        ClipTooShortError: ``x`` has fewer frames than taps.

    Example:
        >>> depthwise_conv(torch.ones(1, 5, 2), torch.ones(3, 2), torch.zeros(2))[0, :, 0]
        tensor([3., 3., 3.])

    Source: ours.
    """
    check_shape("x", x, "batch frames channels", channels=weight.shape[1])
    frames = x.shape[1] - weight.shape[0] + 1
    if frames < 1:
        raise ClipTooShortError(f"`x`: expected at least {weight.shape[0]} frames, one per tap, got {x.shape[1]}")
    total = torch.addcmul(bias, x[:, :frames], weight[0])
    for tap in range(1, weight.shape[0]):
        total = torch.addcmul(total, x[:, tap : tap + frames], weight[tap])
    return total


class ConvNeXtBlock1d(nn.Module):
    """ConvNeXt-1D block: depthwise convolution, LayerNorm, pointwise x4, GELU, pointwise, residual.

    The convolution is valid: with ``kernel_size`` k the output has k - 1 fewer frames than the input, and the residual is the centre of
    the input. With ``kernel_size=1`` the convolution is left out, as in the dense layers of the paper.

    Args:
        channels: Number of input and output channels.
        kernel_size: Odd number of taps.
        expansion: Hidden channels of the two pointwise layers, as a multiple of ``channels``.
        dropout: Dropout probability of the block's branch in training mode.

    Raises:
        ArgumentError: ``kernel_size`` is even, a size is not positive, or ``dropout`` is not a probability below 1.

    Example:
        >>> ConvNeXtBlock1d(channels=8, kernel_size=3)(torch.zeros(2, 7, 8)).shape
        torch.Size([2, 5, 8])

    Source: paper section 4.1 (blocks); the valid convolutions are ours.
    """

    def __init__(self, *, channels: int, kernel_size: int = 1, expansion: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        check_positive("channels", channels)
        check_positive("expansion", expansion)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ArgumentError(f"`kernel_size`: expected an odd number of taps, got {kernel_size}")
        if not 0 <= dropout < 1:
            raise ArgumentError(f"`dropout`: expected a probability below 1, got {dropout}")
        self.kernel_size = kernel_size
        if kernel_size > 1:
            bound = kernel_size**-0.5
            self.depthwise_weight = nn.Parameter(torch.empty(kernel_size, channels).uniform_(-bound, bound))
            self.depthwise_bias = nn.Parameter(torch.zeros(channels))
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, expansion * channels)
        self.contract = nn.Linear(expansion * channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (batch, frames, channels) -> (batch, frames - kernel_size + 1, channels)."""
        residual = x
        if self.kernel_size > 1:
            margin = self.kernel_size // 2
            residual = x[:, margin : x.shape[1] - margin]
            x = depthwise_conv(x, self.depthwise_weight, self.depthwise_bias)
        hidden = F.gelu(self.expand(self.norm(x)))
        return residual + self.dropout(self.contract(hidden))
