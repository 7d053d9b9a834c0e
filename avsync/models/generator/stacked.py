"""Linear layers for several branches at once: one batched product where the obvious network has one ``Linear`` a branch.

The branches of the generator (section 3.2 of the paper) have the same shape and see different inputs. Their weights are kept in one
tensor with a leading branch axis, so that a step of the rollout costs one batched product a layer, however many branches there are.

A recurrent rollout meets the same weight once a step, and plain automatic differentiation then forms and adds up one weight
gradient a step: a thin product (as many rows as the batch) and three passes over the whole weight. :func:`deferred` collects the
inputs and forms the gradient of all steps in a single product when the backward pass has reached the first of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync._checks import check_positive, check_shape


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply one linear map a branch, ``y_b = x_b W_b^T + c_b``, in one batched product.

    Args:
        x: (branches, rows, in_features).
        weight: (branches, out_features, in_features).
        bias: (branches, out_features), (branches, 1, out_features) or (branches, rows, out_features).

    Returns:
        (branches, rows, out_features).

    Raises:
        ShapeError: Wrong rank, or sizes that do not match.

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


class _Deferred(torch.autograd.Function):
    """Identity on ``term`` whose backward pass also forms the gradient of ``weight`` from the inputs collected since."""

    @staticmethod
    def forward(ctx: Any, term: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs = inputs
        ctx.weight_dtype = weight.dtype
        ctx.weight_shape = weight.shape
        return term.view_as(term)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        if not ctx.needs_input_grad[1]:
            return gradient, None, None
        if not ctx.inputs:
            return gradient, gradient.new_zeros(ctx.weight_shape, dtype=ctx.weight_dtype), None
        # Inputs and gradients in one dtype: under autocast the product's output, and with it the gradient, may be a half.
        inputs = torch.stack([x.to(gradient.dtype) for x in ctx.inputs])
        rows = gradient[: len(ctx.inputs)]
        if rows.ndim == 3:  # (steps, rows, features): one linear map
            weight_gradient = rows.flatten(0, 1).t() @ inputs.flatten(0, 1)
        else:  # (steps, branches, rows, features)
            weight_gradient = torch.bmm(
                rows.permute(1, 3, 0, 2).flatten(2), inputs.expand(*rows.shape[:3], -1).transpose(0, 1).flatten(1, 2)
            )
        return gradient, weight_gradient.to(ctx.weight_dtype), None


class DeferredLinear:
    """A linear map that a recurrence applies many times, with the weight's gradient formed once for all steps.

    Made by :func:`deferred`; lives as long as one rollout.
    """

    __slots__ = ("_collected", "_terms", "_transposed")

    def __init__(self, transposed: Tensor, terms: Sequence[Tensor], collected: list[Tensor] | None) -> None:
        self._transposed = transposed
        self._terms = terms
        self._collected = collected

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """``terms[step] + x W^T``; when gradients are deferred, steps must come in order, from 0, without gaps.

        Args:
            x: (rows, in_features), or for a stacked weight (branches, rows, in_features); (1, rows, in_features) is shared by all.
            step: Index into the terms; where gradients are not deferred, a single term serves every step.

        Returns:
            (rows, out_features) or (branches, rows, out_features).
        """
        if self._collected is not None:
            self._collected.append(x.detach())
            term = self._terms[step]  # a shared term would lose the gradients of the single steps
        else:
            term = self._terms[step if len(self._terms) > 1 else 0]
        if x.ndim == 2:
            return torch.addmm(term, x, self._transposed)
        return torch.baddbmm(term, x.expand(self._transposed.shape[0], -1, -1), self._transposed)


def deferred(weight: Tensor, terms: Tensor, *, defer: bool = True) -> DeferredLinear:
    """Prepare ``terms[t] + x_t W^T`` for a recurrence over t, with one weight gradient for all steps.

    The gradient is that of plain automatic differentiation (tests compare the two); the second derivative is not available.
    Without gradients, under ``torch.compile`` (which does not follow the bookkeeping) or with ``defer=False``, it is plain.

    Args:
        weight: (out_features, in_features), or (branches, out_features, in_features).
        terms: (steps, rows, out_features), or (steps, branches, rows, out_features): what is added at each step, a bias expanded
            over the steps at the least. Any step not taken gets no gradient.
        defer: Form the weight's gradient once at the end.

    Returns:
        A callable of (x, step).

    Example:
        >>> weight = torch.tensor([[2.0]], requires_grad=True)
        >>> linear = deferred(weight, torch.zeros(3, 1, 1))
        >>> x = torch.ones(1, 1)
        >>> for step in range(3):
        ...     x = linear(x, step)
        >>> x.item(), torch.autograd.grad(x.sum(), weight)[0].item()  # w^3 and 3 w^2
        (8.0, 12.0)

    Source: ours.
    """
    axes = "steps rows out_features" if weight.ndim == 2 else "steps branches rows out_features"
    check_shape("terms", terms, axes, out_features=weight.shape[-2])
    device = weight.device.type
    # One cast for the rollout: autocast itself would cast this view again at every step.
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    cast = weight.to(half) if half is not None and weight.dtype == torch.float32 else weight
    if defer and torch.is_grad_enabled() and weight.requires_grad and not torch.compiler.is_compiling():
        collected: list[Tensor] = []
        return DeferredLinear(cast.detach().transpose(-1, -2), _Deferred.apply(terms, weight, collected).unbind(0), collected)
    return DeferredLinear(cast.transpose(-1, -2), terms.unbind(0), None)


def _uniform(*shape: int, fan_in: int, gain: float = 1.0) -> nn.Parameter:
    bound = gain / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class StackedLinear(nn.Module):
    """``branches`` linear layers with their own inputs and weights, in one product; see :func:`stacked_linear`.

    Args:
        in_features: Features of a branch's input.
        out_features: Features of a branch's output.
        branches: Number of branches.
        gain: Factor on the usual initial range, 1 / sqrt(in_features).

    Raises:
        ArgumentError: A size that is not positive.

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
        """(branches, rows, in_features) -> (branches, rows, out_features)."""
        return stacked_linear(x, self.weight, self.bias)

    def unroll(self, steps: int, rows: int, *, defer: bool = True) -> DeferredLinear:
        """This layer, prepared for ``steps`` applications to ``rows`` rows; see :func:`deferred`."""
        branches, out_features = self.bias.shape
        return deferred(self.weight, self.bias[None, :, None].expand(steps, branches, rows, out_features), defer=defer)

    def extra_repr(self) -> str:
        branches, out_features, in_features = self.weight.shape
        return f"in_features={in_features}, out_features={out_features}, branches={branches}"


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm over the last axis without an affine part: the linear layer that follows holds it."""
    return F.layer_norm(x, x.shape[-1:])


class StackedPointwiseBlock(nn.Module):
    """A ConvNeXt block with kernel 1 for several branches: LayerNorm, pointwise, GELU, pointwise, residual.

    With kernel 1 the depthwise convolution would be one scale and shift a channel, and so is the LayerNorm's affine part; both are
    left out, since the pointwise layer that follows holds what they could say (ours).

    Args:
        width: Channels of a branch.
        branches: Number of branches.
        expansion: Hidden channels over ``width``.

    Raises:
        ArgumentError: A size that is not positive.

    Example:
        >>> StackedPointwiseBlock(width=6, branches=4)(torch.zeros(4, 2, 6)).shape
        torch.Size([4, 2, 6])

    Source: paper, section 3.2 (one fully connected branch a scale); the block from the paper's code; the stacking ours.
    """

    def __init__(self, *, width: int, branches: int, expansion: int = 4) -> None:
        super().__init__()
        self.expand = StackedLinear(in_features=width, out_features=expansion * width, branches=branches)
        self.project = StackedLinear(in_features=expansion * width, out_features=width, branches=branches)

    def forward(self, x: Tensor) -> Tensor:
        """(branches, rows, width) -> (branches, rows, width)."""
        return x + self.project(F.gelu(self.expand(layer_norm(x))))


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def merge_branches(velocities: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Equation (8): ``v = sum_b m_b v_b`` with the softmax over the branches as mask.

    Args:
        velocities: (branches, batch, points, dims).
        mask_logits: (branches, batch, points); a landmark's mask is shared by its coordinates.

    Returns:
        The velocity (batch, points, dims) and the mask (branches, batch, points), which sums to 1 over the branches.

    Raises:
        ShapeError: The two do not agree.

    Example:
        >>> velocities = torch.tensor([2.0, 4.0]).reshape(2, 1, 1, 1)
        >>> merge_branches(velocities, torch.zeros(2, 1, 1))[0].item()
        3.0

    Source: paper, equation (8).
    """
    check_shape("velocities", velocities, "branches batch points dims")
    branches, batch, points, _ = velocities.shape
    check_shape("mask_logits", mask_logits, "branches batch points", branches=branches, batch=batch, points=points)
    mask = _at_least_float32(mask_logits).softmax(dim=0)
    return (mask[..., None] * velocities).sum(dim=0), mask


def lstm_update(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The LSTM's new hidden and cell state from its four gates before their activations, in the order input, forget, output, cell.

    Args:
        gates: (batch, 4 * hidden).
        cell: (batch, hidden).

    Returns:
        Hidden and cell state, (batch, hidden) each, at least float32.

    Raises:
        ShapeError: Sizes that do not match.

    Example:
        >>> hidden, cell = lstm_update(torch.zeros(1, 4), torch.ones(1, 1))
        >>> cell.item()
        0.5

    Source: the usual LSTM; the order ours (one sigmoid for three gates).
    """
    check_shape("cell", cell, "batch hidden")
    check_shape("gates", gates, "batch gates", batch=cell.shape[0], gates=4 * cell.shape[1])
    gates = _at_least_float32(gates)
    size = cell.shape[-1]
    enter, forget, leave = gates[:, : 3 * size].sigmoid().chunk(3, dim=1)
    cell = torch.addcmul(forget * cell, enter, gates[:, 3 * size :].tanh())
    return leave * cell.tanh(), cell
