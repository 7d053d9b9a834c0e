"""Layer over Lightning Fabric: modules, work of the first process, means over processes, and processor threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from avsync._checks import check_choice, import_extra
from avsync.corpus.banks.crops import Batch
from avsync.errors import AvsyncError

T = TypeVar("T", Tensor, Batch)
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def make_fabric(
    *,
    accelerator: str = "auto",
    devices: int | str = 1,
    precision: str = "32-true",
    num_nodes: int = 1,
    strategy: str = "auto",
) -> Any:
    """Launch a Lightning Fabric, which is responsible for devices, precision and processes.

    A script with ``devices`` above 1 that is started by itself starts the other processes of its machine; under torchrun or srun every
    process finds its place by the environment.

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
    fabric = lightning.Fabric(
        accelerator=accelerator, devices=devices, precision=precision, num_nodes=num_nodes, strategy=chosen
    )
    fabric.launch()
    return fabric


def world_group(fabric: Any) -> dist.ProcessGroup | None:
    """Return the group of all processes, for losses that gather negatives; None for one process."""
    return dist.group.WORLD if fabric.world_size > 1 else None


class _Sealed:
    """Container of arguments whose tensors Fabric does not see.

    Under mixed precision Fabric casts every argument to 16 bits, and bfloat16 does not distinguish 641 from 642 pixels: landmarks would
    lose their motion before the first displacement is taken. Autocast, which chooses by operation, is enough.
    """

    def __init__(self, values: tuple[Any, ...], names: dict[str, Any]) -> None:
        self.values, self.names = values, names


class _Call(nn.Module):
    """Module that calls a function of other modules."""

    def __init__(self, function: Callable[..., Any], modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, arguments: _Sealed) -> Any:
        return self.function(*arguments.values, **arguments.names)


class Trained:
    """Function of trained modules, run on Fabric's device, in its precision and on all its processes.

    Gradients are averaged over processes in the backward pass. Therefore everything that depends on the modules' parameters belongs
    into the function, and the function must be called once for each backward pass.

    Args:
        fabric: A launched Fabric.
        function: Function that calls the modules and returns tensors; float tensors are returned as float32.
        modules: The modules whose parameters the function uses, all of which get a gradient in every call.
        optimizer: Their optimiser.
    """

    def __init__(
        self,
        fabric: Any,
        function: Callable[..., Any],
        modules: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.fabric = fabric
        self._module, self.optimizer = fabric.setup(_Call(function, modules), optimizer)

    def __call__(self, *arguments: Any, **names: Any) -> Any:
        """Call the function and return its result."""
        return self._module(_Sealed(arguments, names))

    def gradients_stay(self, enabled: bool) -> AbstractContextManager[Any]:
        """Return a context for calls and backward passes of all micro-batches but the last, in which gradients are not averaged."""
        return self.fabric.no_backward_sync(self._module, enabled=enabled)

    def clip(self, modules: Sequence[nn.Module], largest: float) -> list[Tensor]:
        """Clip the gradients of each module to a norm of its own; 0 measures only.

        Returns:
            The norms before clipping, one per module.
        """
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        return [nn.utils.clip_grad_norm_(module.parameters(), largest or torch.inf) for module in modules]


class Precision:
    """Loss scale of 16-bit training, checkpointed like a module; empty for the other precisions."""

    def __init__(self, fabric: Any) -> None:
        self._precision = fabric.strategy.precision

    def state_dict(self) -> dict[str, Any]:
        """Return the scaler's state."""
        return self._precision.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the scaler's state."""
        if state_dict:
            self._precision.load_state_dict(state_dict)


def to_device(x: T, device: torch.device) -> T:
    """Copy a tensor or a batch to a device; a GPU fetches it from page-locked memory while the host goes on."""
    source = x.device if isinstance(x, Tensor) else x.landmarks.device
    if device.type != "cuda" or source.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def mean_over_processes(values: Tensor, fabric: Any) -> Tensor:
    """Compute the mean of a tensor over all processes, without gradients.

    Args:
        values: A tensor of the same shape on every process.
        fabric: A launched Fabric, or None for this process alone.
    """
    if fabric is None or fabric.world_size == 1:
        return values
    return fabric.all_reduce(values, reduce_op="mean")


def first_process(fabric: Any) -> bool:
    """Return whether this is the process that writes, evaluates and shows; True without a fabric."""
    return fabric is None or bool(fabric.is_global_zero)


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

    The threads of one operation wait for each other in a loop. On a busy machine one of them is always late, and a small operation
    takes many times as long with two threads as with one.

    Returns:
        At least 1, at most ``torch.get_num_threads()``, and at most the cores that this process may run on less the load average of
        the last minute.

    Source: ours.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, min(torch.get_num_threads(), usable, usable - round(load)))
