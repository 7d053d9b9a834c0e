"""CUDA graphs in training: the decision whether a step is recorded, and optimisers that can be."""

from __future__ import annotations

from typing import Any

import torch

from avsync._graphs import CudaRecorder, GraphedStep
from avsync.errors import ArgumentError

__all__ = ["CudaRecorder", "GraphedStep", "make_capturable", "use_cuda_graphs"]


def use_cuda_graphs(asked: bool | None, fabric: Any) -> bool:
    """Decide whether a training step is recorded as a CUDA graph.

    Args:
        asked: True, False, or None for wherever it is possible.
        fabric: A launched Lightning Fabric.

    Returns:
        True on one GPU without a loss scale.

    Raises:
        ArgumentError: True where it is not possible.
    """
    reasons = []
    if fabric.device.type != "cuda":
        reasons.append(f"a GPU, got {fabric.device.type}")
    if fabric.world_size > 1:
        reasons.append(f"one process, got {fabric.world_size}")
    if getattr(fabric.strategy.precision, "scaler", None) is not None:
        reasons.append("a precision other than 16-mixed, whose loss scale is read by the host")
    if asked and reasons:
        raise ArgumentError(f"`cuda_graphs`: expected {' and '.join(reasons)}")
    return not reasons if asked is None else asked


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Prepare Adam or AdamW for a CUDA graph: rate and step numbers become tensors on the device.

    Args:
        optimizer: The optimiser, new, used or restored from a checkpoint.
        device: The device of the graph.
    """
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32).to(device)
        group["capturable"] = True
    for state in optimizer.state.values():
        state["step"] = state["step"].to(device)
