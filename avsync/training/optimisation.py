"""Optimisation steps: functions of trained modules under Lightning Fabric, with their gradients and learning rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from avsync.corpus.banks.bank import Batch

T = TypeVar("T", Tensor, Batch)


class _Sealed:
    """Container of arguments whose tensors Fabric does not see.

    Under mixed precision Fabric casts every argument to 16 bits, and bfloat16 does not distinguish 641 from 642 pixels:
    landmarks would lose their motion before the first displacement is taken. Autocast, which chooses by operation, is enough.
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

    Gradients are averaged over processes in the backward pass. Therefore everything that depends on the modules' parameters
    belongs in the function, and the function must be called once for each backward pass.

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
        """Return a context without averaging of gradients, for all micro-batches of a step except the last."""
        return self.fabric.no_backward_sync(self._module, enabled=enabled)

    def clip(self, modules: Sequence[nn.Module], largest: float) -> list[Tensor]:
        """Clip the gradients of each module to a norm of its own; 0 measures only.

        Returns:
            The norms before clipping, one per module.
        """
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        return [nn.utils.clip_grad_norm_(module.parameters(), largest or torch.inf) for module in modules]


class OptimizerState:
    """State of an optimiser for a checkpoint, without the settings that depend on the device: those of this process stay.

    A run that was recorded as a CUDA graph can then go on on a CPU, where torch refuses ``capturable``.
    """

    _OF_DEVICE = ("fused", "foreach", "capturable")

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser's state."""
        return dict(self._optimizer.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the optimiser's state."""
        own = self._optimizer.param_groups
        groups = [
            saved | {key: group[key] for key in self._OF_DEVICE if key in group}
            for saved, group in zip(state_dict["param_groups"], own, strict=True)
        ]
        self._optimizer.load_state_dict(state_dict | {"param_groups": groups})


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


def cosine_schedule(step: int, steps: int, *, warm_up: int = 50, floor: float = 0.02) -> float:
    """Compute the factor of a linear warm-up followed by half a cosine down to ``floor`` (ours).

    Example:
        >>> [round(cosine_schedule(step, 100, warm_up=10, floor=0.0), 2) for step in (1, 10, 50, 100)]
        [0.1, 0.98, 0.5, 0.0]
    """
    cosine = 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
    return min(1.0, step / max(warm_up, 1)) * (floor + (1 - floor) * cosine)


def step_schedule(step: int, steps: int, *, decay_at: float = 70 / 75, factor: float = 0.1) -> float:
    """Compute the factor of the paper's schedule: constant, then a tenth for the last 5k of 75k iterations (section 4.1).

    Example:
        >>> [step_schedule(step, 75_000) for step in (1, 70_000, 70_001)]
        [1.0, 1.0, 0.1]
    """
    return 1.0 if step <= decay_at * steps else factor


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to ``factor`` times its initial rate (kept as ``initial_lr``).

    A rate that is a tensor, as CUDA graphs require, is changed in place.
    """
    for group in optimizer.param_groups:
        if "initial_lr" not in group:
            group["initial_lr"] = float(group["lr"])
        rate = factor * group["initial_lr"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
