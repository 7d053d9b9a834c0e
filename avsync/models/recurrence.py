"""Parts of a recurrence over many steps, whose time on a CPU is that of many small operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avsync._checks import at_least_float32, check_shape
from avsync.errors import ArgumentError

_Products = dict[int, list[tuple[Tensor, Tensor]]]
"""Pairs (gradient of an output, input) by the number of the backward pass that formed them."""


def _backward_pass() -> int:
    return torch._C._current_graph_task_id()  # by which torch.utils.checkpoint separates backward passes


def needs_plain_operations(device: torch.device) -> bool:
    """Return whether code must do without derivatives of its own: in a compiler, under :mod:`torch.func` and autocast."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return torch.is_autocast_enabled(device.type)


def _sum(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else first + second


class _Collected(torch.autograd.Function):
    """Identity of a weight and a bias, whose backward pass adds the products that :class:`_Applied` has left for it.

    Autograd calls this backward pass after those of all uses of the result.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, products: _Products) -> tuple[Tensor, Tensor]:
        ctx.products = products
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        pairs = ctx.products.pop(_backward_pass(), [])
        if pairs:
            gradients, inputs = (torch.cat(parts, dim=-2) for parts in zip(*pairs, strict=True))
            if ctx.needs_input_grad[0]:
                weight = _sum(weight, gradients.transpose(-1, -2) @ inputs)
            if ctx.needs_input_grad[1]:
                bias = _sum(bias, gradients.sum(dim=-2))
        return weight, bias, None


class _Applied(torch.autograd.Function):
    """Product of an input and a weight, plus the bias or a term."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, term: Tensor | None, products: _Products) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.products = products
        return _product(x, weight, bias if term is None else term)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, of_term, _ = ctx.needs_input_grad
        weight_gradient = bias_gradient = None
        if torch.is_grad_enabled():  # a second derivative may follow
            weight_gradient = gradient.transpose(-1, -2) @ x if of_weight else None
            bias_gradient = gradient.sum(dim=-2) if of_bias else None
        elif of_weight or of_bias:
            ctx.products.setdefault(_backward_pass(), []).append((gradient, x))
        return gradient @ weight if of_x else None, weight_gradient, bias_gradient, gradient if of_term else None, None


def _product(x: Tensor, weight: Tensor, added: Tensor | None) -> Tensor:
    if added is None:
        return x @ weight.transpose(-1, -2)
    if x.ndim == 2:
        return torch.addmm(added, x, weight.t())
    return torch.baddbmm(added[:, None] if added.ndim == 2 else added, x, weight.transpose(1, 2))


class RecurrentLinear:
    r"""Linear map that a recurrence applies at every step; it lives as long as one rollout.

    Automatic differentiation forms one gradient of the weight per step, a product of as few rows as the batch has clips, and
    adds it to the sum of the others. This map keeps the inputs :math:`x_t` and the gradients :math:`g_t` of the outputs
    instead, and forms :math:`\sum_t g_t^T x_t` in one product when the backward pass has reached the first step.

    Derivatives of any order are those of plain automatic differentiation, because a backward pass that is differentiated itself
    uses plain operations. The values are the same to the last bit; the weight gradient is summed in another order.

    Args:
        weight: (out_features, in_features), or (branches, out_features, in_features).
        bias: (out_features,), or (branches, out_features); None for a map whose steps have terms of their own, or nothing to
            add.

    Raises:
        ArgumentError: A step of a map with a bias has a term, too.

    Example:
        >>> weight = torch.tensor([[2.0]], requires_grad=True)
        >>> linear, x = RecurrentLinear(weight, torch.zeros(1)), torch.ones(1, 1)
        >>> for _ in range(3):
        ...     x = linear(x)
        >>> x.item(), torch.autograd.grad(x.sum(), weight)[0].item()  # w^3 and 3 w^2
        (8.0, 12.0)

    Source: ours.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._products: _Products | None = None
        learned = weight.requires_grad or (bias is not None and bias.requires_grad)
        if learned and torch.is_grad_enabled() and not needs_plain_operations(weight.device):
            self._products = {}
            weight, shift = _Collected.apply(weight, weight.new_zeros(()) if bias is None else bias, self._products)
            bias = None if bias is None else shift
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor, term: Tensor | None = None) -> Tensor:
        """Compute ``x W^T``, plus the bias or the term of this step.

        Args:
            x: (rows, in_features), or (branches, rows, in_features).
            term: (rows, out_features), or (branches, rows, out_features); only without a bias.

        Returns:
            (rows, out_features), or (branches, rows, out_features).
        """
        if term is not None and self._bias is not None:
            raise ArgumentError("`term`: expected None, because the map has a bias, got a tensor")
        if self._products is not None:
            return _Applied.apply(x, self._weight, self._bias, term, self._products)
        return _product(x, self._weight, self._bias if term is None else term)


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
