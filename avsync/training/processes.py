"""What Lightning Fabric leaves to us: how models enter it, what the first process does alone, and means over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from avsync._checks import check_choice, import_extra
from avsync.errors import AvsyncError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def make_fabric(
    *,
    accelerator: str = "auto",
    devices: int | str = 1,
    precision: str = "32-true",
    num_nodes: int = 1,
    strategy: str = "auto",
) -> Any:
    """A launched Lightning Fabric: devices, precision and processes are its business.

    Started by itself, a script with ``devices`` above 1 starts the other processes of its machine; under torchrun or srun every
    process finds its place by the environment.

    Args:
        accelerator: "auto", "cpu", "cuda", ...
        devices: How many devices of each machine, or "auto" for all of them.
        precision: "32-true", "bf16-mixed" or "16-mixed"; parameters, losses and the optimiser stay in float32 with all of them.
        num_nodes: Machines.
        strategy: "auto" (one device, or DistributedDataParallel where there are more) or "ddp".

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
        # No copies of gradients beside the buckets that are sent.
        chosen = import_extra("lightning_fabric.strategies", "train").DDPStrategy(gradient_as_bucket_view=True)
    fabric = lightning.Fabric(
        accelerator=accelerator, devices=devices, precision=precision, num_nodes=num_nodes, strategy=chosen
    )
    fabric.launch()
    return fabric


def world_group(fabric: Any) -> dist.ProcessGroup | None:
    """The group of all processes for losses that gather negatives; None where there is only one."""
    return dist.group.WORLD if fabric.world_size > 1 else None


class _Sealed:
    """Holds arguments so that Fabric does not see the tensors among them.

    Under mixed precision Fabric casts every argument to 16 bits, and bfloat16 cannot tell 641 pixels from 642: landmarks would be
    ruined before the first displacement is taken. Autocast chooses by operation, and is all that is wanted.
    """

    def __init__(self, values: tuple[Any, ...], names: dict[str, Any]) -> None:
        self.values, self.names = values, names


class _Call(nn.Module):
    """A function of modules, as a module."""

    def __init__(self, function: Callable[..., Any], modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, arguments: _Sealed) -> Any:
        return self.function(*arguments.values, **arguments.names)


class Trained:
    """A function of trained modules, run on Fabric's device, in its precision and on all its processes.

    Gradients are averaged over processes in the backward pass of what the call returns, so everything that depends on the modules'
    parameters belongs into the function, and it must be called once for each backward pass.

    Args:
        fabric: A launched Fabric.
        function: Calls the modules and returns tensors; float tensors come back as float32.
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
        """Call the function and return what it returns."""
        return self._module(_Sealed(arguments, names))

    def gradients_stay(self, enabled: bool) -> AbstractContextManager[Any]:
        """Around calls and backward passes of all micro-batches but the last: gradients add up here and are averaged later."""
        return self.fabric.no_backward_sync(self._module, enabled=enabled)

    def clip(self, modules: Sequence[nn.Module], largest: float) -> list[Tensor]:
        """Clip the gradients of each module to a norm by itself; 0 only measures.

        Returns:
            The norms before clipping, one a module.
        """
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        return [nn.utils.clip_grad_norm_(module.parameters(), largest or torch.inf) for module in modules]


class Precision:
    """Lets the loss scale of 16-bit training be checkpointed like a module; empty for the other precisions."""

    def __init__(self, fabric: Any) -> None:
        self._precision = fabric.strategy.precision

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state."""
        return self._precision.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put it back."""
        if state_dict:
            self._precision.load_state_dict(state_dict)


def mean_over_processes(values: Tensor, fabric: Any) -> Tensor:
    """Mean of a tensor over all processes, without gradients.

    Args:
        values: Of the same shape on every process.
        fabric: A launched Fabric, or None for this process alone.
    """
    if fabric is None or fabric.world_size == 1:
        return values
    return fabric.all_reduce(values, reduce_op="mean")


def first_process(fabric: Any) -> bool:
    """Whether this is the process that writes, evaluates and shows; True without a fabric."""
    return fabric is None or bool(fabric.is_global_zero)


def on_first_process(fabric: Any, function: Callable[[], object]) -> None:
    """Run a function on the first process; the others wait, and fail where it fails instead of waiting for ever.

    Args:
        fabric: A launched Fabric, or None for this process alone.
        function: What to do.

    Raises:
        AvsyncError: On the other processes, when the function raised one of ours on the first.
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
