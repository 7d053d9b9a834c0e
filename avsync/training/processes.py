"""Processes under Lightning Fabric: launch, work of the first process, means over processes, and processor threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from avsync._checks import check_choice, checked, import_extra
from avsync.errors import ArgumentError, AvsyncError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@checked
def make_fabric(
    *,
    accelerator: str = "auto",
    devices: int | str = 1,
    precision: str = "32-true",
    num_nodes: int = 1,
    strategy: str = "auto",
) -> Any:
    """Launch a Lightning Fabric, which is responsible for devices, precision and processes.

    A script with ``devices`` above 1 that is started without torchrun or srun starts the other processes of its machine. Under
    torchrun or srun, every process reads its rank from the environment.

    Args:
        accelerator: "auto", "cpu", "cuda", ...
        devices: Number of devices of each machine, or "auto" for all.
        precision: "32-true", "bf16-mixed" or "16-mixed"; parameters, losses and the optimiser stay in float32 with each.
        num_nodes: Number of machines.
        strategy: "auto" (one device, or DistributedDataParallel for more than one) or "ddp".

    Returns:
        A ``lightning_fabric.Fabric``.

    Raises:
        ArgumentError: An unknown precision or strategy.
        MissingExtraError: lightning-fabric is not installed (extra "train").
    """
    check_choice("precision", precision, PRECISIONS)
    check_choice("strategy", strategy, ("auto", "ddp"))
    lightning = import_extra("lightning_fabric", "train")
    chosen: Any = strategy
    if strategy == "ddp" or devices != 1 or num_nodes != 1:
        # No copies of gradients in addition to the buckets that are sent.
        chosen = import_extra("lightning_fabric.strategies", "train").DDPStrategy(gradient_as_bucket_view=True)
    try:
        fabric = lightning.Fabric(
            accelerator=accelerator, devices=devices, precision=precision, num_nodes=num_nodes, strategy=chosen
        )
    except Exception as error:  # Lightning has errors of many types for what it finds no devices for
        raise ArgumentError(f"`accelerator`, `devices`: expected what Lightning Fabric can use, got {error!s:.300}") from error
    fabric.launch()
    return fabric


def world_group(fabric: Any) -> dist.ProcessGroup | None:
    """Return the group of all processes, for losses that gather negatives; None for one process."""
    return dist.group.WORLD if fabric.world_size > 1 else None


def mean_over_processes(values: Tensor, fabric: Any) -> Tensor:
    """Compute the mean of a tensor over all processes, without gradients.

    Args:
        values: A tensor of the same shape on every process.
        fabric: A launched Fabric, or None for this process alone.
    """
    if fabric is None or fabric.world_size == 1:
        return values
    return fabric.all_reduce(values, reduce_op="mean")


def check_fabric(fabric: Any) -> None:
    """Raise :class:`ArgumentError` unless ``fabric`` is a Lightning Fabric (:func:`make_fabric`) or acts as one."""
    if isinstance(fabric, type) or not (hasattr(fabric, "is_global_zero") and hasattr(fabric, "device")):
        raise ArgumentError(f"`fabric`: expected a Lightning Fabric (see make_fabric), got {type(fabric).__name__}")


@checked
def first_process(fabric: Any) -> bool:
    """Return whether this is the process that writes, evaluates and shows; True without a fabric."""
    if fabric is not None:
        check_fabric(fabric)
    return fabric is None or bool(fabric.is_global_zero)


@checked
def on_first_process(fabric: Any, function: Callable[[], object]) -> None:
    """Run a function on the first process; the others wait, and raise if it fails.

    Args:
        fabric: A launched Fabric, or None for this process alone.
        function: The function.

    Raises:
        AvsyncError: On the other processes, if the function raised an error of avsync on the first.
    """
    failure: AvsyncError | None = None
    if first_process(fabric):
        try:
            function()
        except AvsyncError as error:
            failure = error
    if fabric is not None and fabric.world_size > 1:
        failed = fabric.all_reduce(torch.tensor(float(failure is not None), device=fabric.device), reduce_op="sum")
        if failure is None and float(failed):
            raise AvsyncError("the first process failed; see its message")
    if failure is not None:
        raise failure


def scales_loss(fabric: Any) -> bool:
    """Return whether the precision scales the loss (float16), and so skips steps whose gradients are infinite."""
    return fabric is not None and getattr(fabric.strategy.precision, "scaler", None) is not None


def free_cores() -> int:
    """Return the number of processor threads that torch should use now: its own choice, less the cores that others keep busy.

    The threads of one operation wait for each other in a loop. On a busy machine one of them is always late, and a small
    operation takes many times as long with two threads as with one.

    Returns:
        At least 1, at most ``torch.get_num_threads()``, and at most the cores that this process may run on less the load
        average of the last minute.

    Source: ours.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, min(torch.get_num_threads(), usable, usable - round(load)))
