"""Collectives with gradients, so that a loss over several processes is the loss of one process that holds the whole batch.

One convention everywhere: every process gets the value of the loss over the whole batch and calls backward on it, and the gradients
of the parameters are then **averaged** over processes, which is what DistributedDataParallel does by itself. The result is the
gradient of one process with the whole batch, whether the loss is a mean or a sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from avsync._checks import REDUCTIONS, check_choice, check_floating
from avsync.errors import ArgumentError
from avsync.similarity import reduce_windows


def rank_and_size(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """This process's number within a group and how many there are; (0, 1) for None.

    Args:
        group: A process group, for all processes ``torch.distributed.group.WORLD``; None for this process alone.

    Returns:
        Rank and size.

    Raises:
        ArgumentError: This process is no member of the group.

    Example:
        >>> rank_and_size(None)
        (0, 1)

    Source: ours.
    """
    if group is None:
        return 0, 1
    rank = dist.get_rank(group)
    if rank < 0:
        raise ArgumentError("`group`: expected a group that this process is a member of, got one without it")
    return rank, dist.get_world_size(group)


def gather(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The tensors of all processes, one after the other in the order of ranks, with gradients to all of them.

    Args:
        x: (clips, ...), floating point, of the same shape on every process.
        group: The processes; None returns ``x`` itself.

    Returns:
        (processes * clips, ...). In backward every process gets the sum of all processes' gradients of its own part.

    Raises:
        ShapeError: ``x`` is not floating point.
        ArgumentError: This process is no member of the group.

    Example:
        >>> gather(torch.ones(2, 3), None).shape
        torch.Size([2, 3])

    Source: ours.
    """
    check_floating("x", x)
    if group is None:
        return x
    rank_and_size(group)
    return _Gather.apply(x, group)


@torch.no_grad()
def gather_mask(mask: Tensor | None, group: dist.ProcessGroup | None) -> Tensor | None:
    """The masks (clips, ...), bool, of all processes, one after the other; None stays None.

    Example:
        >>> gather_mask(torch.tensor([True]), None)
        tensor([True])
    """
    if mask is None or group is None:
        return mask
    return _gathered(mask.to(torch.uint8), group).bool()


def sum_across(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The sum of a tensor over all processes, with gradients to all of them.

    Args:
        x: Floating point, of the same shape on every process.
        group: The processes; None returns ``x`` itself.

    Returns:
        The same shape, and the same values on every process.

    Raises:
        ShapeError: ``x`` is not floating point.
        ArgumentError: This process is no member of the group.

    Example:
        >>> sum_across(torch.tensor(2.0), None)
        tensor(2.)

    Source: ours.
    """
    check_floating("x", x)
    if group is None:
        return x
    rank_and_size(group)
    return _SumAcross.apply(x, group)


def reduce_windows_across(
    values: Tensor, mask: Tensor | None, reduction: str, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Reduce (clips, windows) values over the windows that count, those of all processes together.

    Args:
        values: (clips, windows), this process's.
        mask: (clips, windows), bool, False for windows that count as nothing; on all processes or on none.
        reduction: "mean" and "sum" are over all processes; "none" returns this process's values.
        group: The processes; None for this one alone.

    Returns:
        A scalar, the same on every process, or (clips, windows) for "none".

    Raises:
        ArgumentError: An unknown reduction.

    Example:
        >>> reduce_windows_across(torch.tensor([[1.0, 2.0]]), torch.tensor([[True, False]]), "mean")
        tensor(1.)

    Source: ours.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    if group is None or reduction == "none":
        return reduce_windows(values, mask, reduction)
    total = sum_across(reduce_windows(values, mask, "sum"), group)
    if reduction == "sum":
        return total
    if mask is None:
        return total / (dist.get_world_size(group) * values.numel())
    return total / sum_across(mask.sum().to(values), group).clamp(min=1)


def _gathered(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.contiguous(), group=group)
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        context.group, context.clips = group, x.shape[0]
        return _gathered(x, group)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # A sum over all and a slice; gloo has no reduce_scatter, which would spare the other parts.
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=context.group)
        first = dist.get_rank(context.group) * context.clips
        return total[first : first + context.clips], None


class _SumAcross(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        context.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        dist.all_reduce(total, group=context.group)
        return total, None
