"""Linear layers for several branches at once: one batched product instead of one ``Linear`` per branch.

The branches of the generator (section 3.2 of the paper) have the same shape and different inputs. Their weights are one tensor with a
leading branch axis, so that a step of the rollout costs one batched product per layer for any number of branches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync._checks import at_least_float32, check_positive, check_shape


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Apply one linear map per branch, :math:`y_b = x_b W_b^T + c_b`, in one batched product.

    Args:
        x: (branches, rows, in_features).
        weight: (branches, out_features, in_features).
        bias: (branches, out_features), (branches, 1, out_features) or (branches, rows, out_features).

    Returns:
        (branches, rows, out_features).

    Raises:
        ShapeError: The rank is wrong, or the sizes do not match.

    Example:
        >>> x = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
        >>> weight = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]])
        >>> stacked_linear(x, weight).flatten().tolist()
        [3.0, -1.0]

    Source: ours.
    """
    check_shape("weight", weight, "branches out_features in_features")
    check_shape("x", x, "branches rows in_features", branches=weight.shape[0], in_features=weight.shape[2])
    if bias is None:
        return torch.bmm(x, weight.transpose(1, 2))
    if bias.ndim == 2:
        bias = bias[:, None]
    return torch.baddbmm(bias, x, weight.transpose(1, 2))


def _uniform(*shape: int, fan_in: int, gain: float = 1.0) -> nn.Parameter:
    bound = gain / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class StackedLinear(nn.Module):
    """Linear layers of several branches, each with its own input and weights; see :func:`stacked_linear`.

    Args:
        in_features: Input features per branch.
        out_features: Output features per branch.
        branches: Number of branches.
        gain: Factor on the usual range of the initial weights, 1 / sqrt(in_features).

    Raises:
        ArgumentError: A size is not positive.

    Example:
        >>> StackedLinear(in_features=3, out_features=5, branches=4)(torch.zeros(4, 2, 3)).shape
        torch.Size([4, 2, 5])

    Source: ours.
    """

    def __init__(self, *, in_features: int, out_features: int, branches: int, gain: float = 1.0) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features), ("branches", branches)):
            check_positive(name, size)
        self.weight = _uniform(branches, out_features, in_features, fan_in=in_features, gain=gain)
        self.bias = _uniform(branches, out_features, fan_in=in_features, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers: (branches, rows, in_features) -> (branches, rows, out_features)."""
        return stacked_linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes for ``repr``."""
        branches, out_features, in_features = self.weight.shape
        return f"in_features={in_features}, out_features={out_features}, branches={branches}"


def layer_norm(x: Tensor) -> Tensor:
    """Apply LayerNorm over the last axis without an affine part, because the following linear layer can express this part."""
    return F.layer_norm(x, x.shape[-1:])


class StackedPointwiseBlock(nn.Module):
    """ConvNeXt block with kernel 1 for several branches: LayerNorm, pointwise, GELU, pointwise, residual.

    With kernel 1 the depthwise convolution is one scale and shift per channel, and so is the affine part of the LayerNorm. Both are
    left out, because the following pointwise layer can express them (ours).

    Args:
        width: Channels per branch.
        branches: Number of branches.
        expansion: Hidden channels, as a multiple of ``width``.

    Raises:
        ArgumentError: A size is not positive.

    Example:
        >>> StackedPointwiseBlock(width=6, branches=4)(torch.zeros(4, 2, 6)).shape
        torch.Size([4, 2, 6])

    Source: paper, section 3.2 (one fully connected branch per scale); the block from the paper's code; the stacking is ours.
    """

    def __init__(self, *, width: int, branches: int, expansion: int = 4) -> None:
        super().__init__()
        self.expand = StackedLinear(in_features=width, out_features=expansion * width, branches=branches)
        self.project = StackedLinear(in_features=expansion * width, out_features=width, branches=branches)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (branches, rows, width) -> (branches, rows, width)."""
        return x + self.project(F.gelu(self.expand(layer_norm(x))))


def merge_branches(velocities: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    r"""Merge the velocities of the branches, equation (8): :math:`v = \sum_b m_b v_b`.

    The masks :math:`m_b` are the softmax of their logits over the branches.

    Args:
        velocities: (branches, batch, points, dims).
        mask_logits: (branches, batch, points); the coordinates of a landmark share a mask.

    Returns:
        The velocity (batch, points, dims) and the mask (branches, batch, points), which sums to 1 over the branches.

    Raises:
        ShapeError: The shapes do not match.

    Example:
        >>> velocities = torch.tensor([2.0, 4.0]).reshape(2, 1, 1, 1)
        >>> merge_branches(velocities, torch.zeros(2, 1, 1))[0].item()
        3.0

    Source: paper, equation (8).
    """
    check_shape("velocities", velocities, "branches batch points dims")
    branches, batch, points, _ = velocities.shape
    check_shape("mask_logits", mask_logits, "branches batch points", branches=branches, batch=batch, points=points)
    mask = at_least_float32(mask_logits).softmax(dim=0)
    return (mask[..., None] * velocities).sum(dim=0), mask


def lstm_update(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the new hidden and cell state of an LSTM from its gates before activation.

    The gates are in the order input, forget, output, cell, so that one sigmoid serves three gates.

    Args:
        gates: (batch, 4 * hidden).
        cell: (batch, hidden).

    Returns:
        Hidden and cell state, (batch, hidden) each, at least float32.

    Raises:
        ShapeError: The sizes do not match.

    Example:
        >>> hidden, cell = lstm_update(torch.zeros(1, 4), torch.ones(1, 1))
        >>> cell.item()
        0.5

    Source: the usual LSTM; the order of the gates is ours.
    """
    check_shape("cell", cell, "batch hidden")
    check_shape("gates", gates, "batch gates", batch=cell.shape[0], gates=4 * cell.shape[1])
    gates = at_least_float32(gates)
    size = cell.shape[-1]
    opening, new = gates.split([3 * size, size], dim=1)  # the gradient of a split is one concatenation
    enter, forget, leave = opening.sigmoid().chunk(3, dim=1)
    cell = torch.addcmul(forget * cell, enter, new.tanh())
    return leave * cell.tanh(), cell
