"""Collectives with gradients, so that a loss over several processes equals the loss of one process with the whole batch.

All functions follow one convention. Every process gets the loss over the whole batch and calls backward on this loss. The
gradients of the parameters are then **averaged** over processes, as DistributedDataParallel does. The result equals the
gradient of one process with the whole batch, for means and for sums. The same holds if every process calls backward on its own
share, and the mean of the shares over processes is the loss (:func:`avsync.training.objectives.level_losses`).
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
    """Return the rank of this process in a group and the number of processes; (0, 1) for None.

    Args:
        group: Process group; ``torch.distributed.group.WORLD`` for all processes, None for this process alone.

    Returns:
        Rank and size.

    Raises:
        ArgumentError: This process is not a member of the group.

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

    A collective over different shapes ends the process or hangs. The check costs one small collective. It is skipped for
    tensors on a GPU, because it would wait for the GPU, and in compiled programs. In these cases equal shapes are a
    precondition, which torch checks if ``TORCH_DISTRIBUTED_DEBUG=DETAIL`` is set. A sampler that drops the last, smaller batch
    ensures equal shapes.

    Args:
        group: Process group; None skips the check.
        **arguments: For each name a tensor, None, or a list of tensors and None.

    Raises:
        ShapeError: The shapes or dtypes differ; the message names the argument and its shape on each process.
        ArgumentError: This process is not a member of the group.

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

    Several tensors share one collective in the forward pass and one in the backward pass, because processes wait for each other
    in every collective.

    Args:
        tensors: Each (clips, ...), floating point, of the same shape on every process.
        group: Process group; None returns the tensors themselves.
        checked: True if the caller has already checked that the shapes are the same (:func:`check_alike`).

    Returns:
        One (processes * clips, ...) per tensor. In the backward pass, every process gets the gradient of its own part, summed
        over all processes.

    Raises:
        ShapeError: A tensor is not floating point.
        ArgumentError: This process is not a member of the group.

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
    """Concatenate the masks (clips, ...), bool, of all processes in the order of ranks; return None for None.

    Example:
        >>> gather_mask(torch.tensor([True]), None)
        tensor([True])
    """
    if mask is None or group is None:
        return mask
    return _gathered(mask.to(torch.uint8), group).flatten(0, 1).bool()


def sum_across(tensors: Sequence[Tensor], group: dist.ProcessGroup | None, *, checked: bool = False) -> list[Tensor]:
    """Sum tensors over all processes, with gradients to all of them, in one collective per pass (forward and backward).

    Args:
        tensors: Floating point, each of the same shape on every process.
        group: Process group; None returns the tensors themselves.
        checked: True if the caller has already checked that the shapes are the same (:func:`check_alike`).

    Returns:
        The sums, in the shapes of the tensors.

    Raises:
        ShapeError: A tensor is not floating point.
        ArgumentError: This process is not a member of the group.

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
    """Compute the logarithm of the sum of exp(x) over all processes, without overflow, for several tensors at once.

    Args:
        tensors: Floating point and finite, each of the same shape on every process.
        group: Process group; None returns the tensors themselves.
        moderate: True if the caller guarantees that no value and no result is above 88, and that values below -88 are
            negligible. This saves one of two collectives, the one that finds the largest values.
        checked: True if the caller has already checked that the shapes are the same (:func:`check_alike`).

    Returns:
        The logarithms, in the shapes of the tensors, with gradients to all processes.

    Raises:
        ShapeError: A tensor is not floating point.
        ArgumentError: This process is not a member of the group.

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
    """Reduce (clips, windows) values over the counting windows of all processes, several tensors in one collective.

    Args:
        values: Values of this process, (clips, windows) each.
        masks: One mask per tensor, (clips, windows), bool, or None.
        reduction: "mean" and "sum" are over all processes; "none" returns the values of this process.
        group: Process group; None for this process alone.

    Returns:
        One scalar per tensor, the same on every process, or (clips, windows) for "none".

    Raises:
        ArgumentError: The reduction is unknown.

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
    """Stack the tensors (...) of all processes to (processes, ...)."""
    everyone = x.new_empty(dist.get_world_size(group), *x.shape)
    dist.all_gather(list(everyone.unbind()), x.contiguous(), group=group)
    return everyone


def _joined(tensors: Sequence[Tensor], lead: tuple[int, ...] = ()) -> Tensor:
    """Copy tensors into one tensor (*lead, values), of the widest dtype among them."""
    return torch.cat([x.reshape(*lead, -1) for x in tensors], dim=-1)


def _apart(joined: Tensor, like: Sequence[tuple[torch.Size, torch.dtype]]) -> tuple[Tensor, ...]:
    """Split a joined tensor (values,) into tensors of the given shapes and dtypes."""
    parts = joined.split([shape.numel() for shape, _ in like])
    return tuple(part.reshape(shape).to(dtype) for part, (shape, dtype) in zip(parts, like, strict=True))


def _form(tensors: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(x.shape, x.dtype) for x in tensors]


def _largest_across(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> tuple[Tensor, ...]:
    """Return the maximum of each element over all processes, without gradients."""
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
        # All rows are summed and only the own row is used, because reduce_scatter, which sums only this row, is slower with
        # gloo.
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
