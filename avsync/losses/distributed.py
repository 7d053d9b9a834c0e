"""Collectives with gradients, so that a loss over several processes is the loss of one process that holds the whole batch.

One convention everywhere: every process gets the value of the loss over the whole batch and calls backward on it, and the gradients
of the parameters are then **averaged** over processes, which is what DistributedDataParallel does by itself. The result is the
gradient of one process with the whole batch, whether the loss is a mean or a sum. So is that of shares whose mean over processes is the
loss, where nobody needs its value at once (:func:`avsync.training.objectives.level_losses`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch import distributed as dist

from avsync._checks import REDUCTIONS, check_choice, check_floating, describe_shape
from avsync.errors import ArgumentError, ShapeError
from avsync.losses._windows import reduce_windows


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


def check_alike(group: dist.ProcessGroup | None, **arguments: Tensor | Sequence[Tensor | None] | None) -> None:
    """Raise on every process unless all processes of a group pass tensors of the same shapes and dtypes.

    A collective over different shapes ends the process, or hangs. The check takes one small collective. It is left out for tensors on
    a GPU, which it would have to wait for, and in compiled programs: there the same shapes are a precondition, and
    ``TORCH_DISTRIBUTED_DEBUG=DETAIL`` makes torch check it. A sampler that drops the last, smaller batch fulfils it.

    Args:
        group: The processes; None checks nothing.
        **arguments: By name, a tensor, None, or a list of them.

    Raises:
        ShapeError: Naming the argument, and what each process passed.
        ArgumentError: This process is no member of the group.

    Example:
        >>> check_alike(None, motion=torch.ones(2, 3), mask=None)

    Source: ours.
    """
    if group is None:
        return
    rank_and_size(group)
    lists: dict[str, list[Tensor | None]] = {
        name: list(value) if isinstance(value, (list, tuple)) else [cast("Tensor | None", value)]
        for name, value in arguments.items()
    }
    if torch.compiler.is_compiling() or any(x is not None and x.device.type != "cpu" for xs in lists.values() for x in xs):
        return
    own = {name: ", ".join("None" if x is None else f"{describe_shape(x)} {x.dtype}" for x in xs) for name, xs in lists.items()}
    digest = hashlib.sha256(repr(own).encode()).digest()[:8]
    everyone = _gathered(torch.frombuffer(bytearray(digest), dtype=torch.int64), group)
    if bool((everyone == everyone[0]).all()):
        return
    others: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(others, own, group=group)
    for name in own:
        found = [other.get(name) for other in others]
        if len(set(found)) > 1:
            raise ShapeError(
                f"`{name}`: expected the same shapes on all processes of `group`, got {'; '.join(map(str, found))}"
            )


def gather(tensors: Sequence[Tensor], group: dist.ProcessGroup | None, *, checked: bool = False) -> list[Tensor]:
    """Concatenate the tensors of all processes in the order of ranks, with gradients to all of them.

    Several tensors take one collective forward and one backward, because processes wait for each other in every collective.

    Args:
        tensors: Each (clips, ...), floating point, of the same shape on every process.
        group: The processes; None returns the tensors themselves.
        checked: The caller has checked that the shapes are the same (:func:`check_alike`).

    Returns:
        One (processes * clips, ...) per tensor. In backward every process gets the sum of all processes' gradients of its own part.

    Raises:
        ShapeError: One of the tensors is not floating point.
        ArgumentError: This process is no member of the group.

    Example:
        >>> [part.shape[0] for part in gather([torch.ones(2, 3), torch.ones(1)], None)]
        [2, 1]

    Source: ours.
    """
    for x in tensors:
        check_floating("tensors", x)
    if group is None or not tensors:
        return list(tensors)
    if not checked:
        check_alike(group, tensors=tensors)
    return list(_Gather.apply(group, *tensors))


@torch.no_grad()
def gather_mask(mask: Tensor | None, group: dist.ProcessGroup | None) -> Tensor | None:
    """The masks (clips, ...), bool, of all processes, one after the other; None stays None.

    Example:
        >>> gather_mask(torch.tensor([True]), None)
        tensor([True])
    """
    if mask is None or group is None:
        return mask
    return _gathered(mask.to(torch.uint8), group).flatten(0, 1).bool()


def sum_across(tensors: Sequence[Tensor], group: dist.ProcessGroup | None, *, checked: bool = False) -> list[Tensor]:
    """Sum tensors over all processes, with gradients to all of them, in one collective forward and one backward.

    Args:
        tensors: Floating point, each of the same shape on every process.
        group: The processes; None returns the tensors themselves.
        checked: The caller has checked that the shapes are the same (:func:`check_alike`).

    Returns:
        The sums, in the shapes of the tensors.

    Raises:
        ShapeError: One of the tensors is not floating point.
        ArgumentError: This process is no member of the group.

    Example:
        >>> sum_across([torch.tensor(2.0), torch.tensor([1.0])], None)
        [tensor(2.), tensor([1.])]

    Source: ours.
    """
    for x in tensors:
        check_floating("tensors", x)
    if group is None or not tensors:
        return list(tensors)
    if not checked:
        check_alike(group, tensors=tensors)
    return list(_SumAcross.apply(group, *tensors))


def log_sum_exp_across(
    tensors: Sequence[Tensor], group: dist.ProcessGroup | None, *, moderate: bool = False, checked: bool = False
) -> list[Tensor]:
    """The logarithm of the sum of exp(x) over all processes, without overflow, of several tensors at once.

    Args:
        tensors: Floating point and finite, each of the same shape on every process.
        group: The processes; None returns the tensors themselves.
        moderate: Promises that no value, nor any of the results, is above 88 or, where its exp counts, below -88. Spares one of two
            collectives, which finds the largest values.
        checked: The caller has checked that the shapes are the same (:func:`check_alike`).

    Returns:
        The logarithms, in the shapes of the tensors, with gradients to all processes.

    Raises:
        ShapeError: One of the tensors is not floating point.
        ArgumentError: This process is no member of the group.

    Example:
        >>> log_sum_exp_across([torch.tensor(2.0)], None)
        [tensor(2.)]

    Source: ours.
    """
    if group is None:
        return sum_across(tensors, None)
    for x in tensors:
        check_floating("tensors", x)
    if not checked:
        check_alike(group, tensors=tensors)
    if moderate:
        return [total.log() for total in sum_across([x.exp() for x in tensors], group, checked=True)]
    largest = _largest_across([x.detach() for x in tensors], group)
    sums = sum_across([(x - top).exp() for x, top in zip(tensors, largest, strict=True)], group, checked=True)
    return [total.log() + top for total, top in zip(sums, largest, strict=True)]


def reduce_windows_across(
    values: Sequence[Tensor], masks: Sequence[Tensor | None], reduction: str, group: dist.ProcessGroup | None = None
) -> list[Tensor]:
    """Reduce (clips, windows) values over the windows of all processes that count, several tensors in one collective.

    Args:
        values: Each (clips, windows), this process's.
        masks: One a tensor, (clips, windows), bool, or None.
        reduction: "mean" and "sum" are over all processes; "none" returns this process's values.
        group: The processes; None for this one alone.

    Returns:
        A scalar for each tensor, the same on every process, or (clips, windows) for "none".

    Raises:
        ArgumentError: An unknown reduction.

    Example:
        >>> reduce_windows_across([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])], [None, None], "sum")
        [tensor(3.), tensor(3.)]

    Source: ours.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    pairs = list(zip(values, masks, strict=True))
    if group is None or reduction == "none":
        return [reduce_windows(each, mask, reduction) for each, mask in pairs]
    totals = [reduce_windows(each, mask, "sum") for each, mask in pairs]
    if reduction == "sum":
        return sum_across(totals, group, checked=True)
    counts = [each.new_full((), each.numel()) if mask is None else mask.sum().to(each) for each, mask in pairs]
    sums = sum_across(totals + counts, group, checked=True)
    return [total / count.clamp(min=1) for total, count in zip(sums[: len(pairs)], sums[len(pairs) :], strict=True)]


def _gathered(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """(...) of each process to (processes, ...)."""
    everyone = x.new_empty(dist.get_world_size(group), *x.shape)
    dist.all_gather(list(everyone.unbind()), x.contiguous(), group=group)
    return everyone


def _joined(tensors: Sequence[Tensor], lead: tuple[int, ...] = ()) -> Tensor:
    """Tensors side by side in one (*lead, values), a copy; of the widest of their types."""
    return torch.cat([x.reshape(*lead, -1) for x in tensors], dim=-1)


def _apart(joined: Tensor, like: Sequence[tuple[torch.Size, torch.dtype]]) -> tuple[Tensor, ...]:
    """(values,) back to tensors of the given shapes and types."""
    parts = joined.split([shape.numel() for shape, _ in like])
    return tuple(part.reshape(shape).to(dtype) for part, (shape, dtype) in zip(parts, like, strict=True))


def _form(tensors: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(x.shape, x.dtype) for x in tensors]


def _largest_across(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> tuple[Tensor, ...]:
    """The largest value of each element over all processes; no gradients."""
    joined = _joined(tensors)
    dist.all_reduce(joined, dist.ReduceOp.MAX, group=group)
    return _apart(joined, _form(tensors))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, group: dist.ProcessGroup, *tensors: Tensor) -> tuple[Tensor, ...]:
        context.group, context.form = group, _form(tensors)
        everyone = _gathered(_joined(tensors), group)
        parts = everyone.split([x.numel() for x in tensors], dim=1)
        return tuple(part.reshape(-1, *x.shape[1:]).to(x.dtype) for part, x in zip(parts, tensors, strict=True))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # A sum over all, of which the own row is taken: over gloo a reduce_scatter, which spares the other rows, takes longer.
        total = _joined(gradients, (dist.get_world_size(context.group),))
        dist.all_reduce(total, group=context.group)
        return None, *_apart(total[dist.get_rank(context.group)], context.form)


class _SumAcross(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, group: dist.ProcessGroup, *tensors: Tensor) -> tuple[Tensor, ...]:
        context.group = group
        return _sums(tensors, group)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_sums(gradients, context.group)


def _sums(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> tuple[Tensor, ...]:
    joined = _joined(tensors)
    dist.all_reduce(joined, group=group)
    return _apart(joined, _form(tensors))
