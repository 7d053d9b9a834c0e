"""CUDA graphs: a training step recorded once and replayed, which saves the launch of thousands of small kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from avsync._checks import describe_shape
from avsync.errors import ArgumentError

Step = Callable[[Sequence[Tensor]], Mapping[str, Tensor]]
"""Function of tensors of fixed shapes that returns scalars and has no other results than changes in place."""


class Recorder(Protocol):
    """Backend of :class:`GraphedStep`."""

    def aside(self, function: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Run the function at once, as CUDA requires before a capture."""
        ...

    def record(self, function: Callable[[], Mapping[str, Tensor]]) -> tuple[Callable[[], object], Mapping[str, Tensor]]:
        """Record the function; return the function that replays it, and the tensors that a replay fills."""
        ...


class CudaRecorder:
    """Recorder of CUDA graphs.

    Source: the recipe of PyTorch's notes on CUDA graphs for whole training steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def aside(self, function: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Run the function on a stream of its own."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def record(self, function: Callable[[], Mapping[str, Tensor]]) -> tuple[Callable[[], object], Mapping[str, Tensor]]:
        """Capture the function in a graph, without running it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            result = function()
        return graph.replay, result


class GraphedStep:
    """Training step that runs eagerly a few times, is then recorded, and is replayed in all later calls.

    Args:
        function: The step; see ``Step``. It must not read a number from the device or draw from a random generator.
        recorder: A :class:`CudaRecorder`, or a stand-in with the same methods.
        warm_up: Number of eager calls before the recording.
        before_recording: Called once before the recording, for example :func:`make_capturable` of the optimisers.

    Source: ours.
    """

    def __init__(
        self, function: Step, *, recorder: Recorder, warm_up: int = 3, before_recording: Callable[[], object] | None = None
    ) -> None:
        self._function, self._recorder, self._before = function, recorder, before_recording
        self._eager_calls_left = warm_up
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], object] | None = None
        self._outputs: Mapping[str, Tensor] = {}

    def __call__(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Do one step.

        Args:
            inputs: Tensors of the same shapes and dtypes in every call.

        Returns:
            The scalars, in tensors that the next call does not change.

        Raises:
            ArgumentError: The inputs differ in shape or dtype from those of the recording.
        """
        if self._eager_calls_left > 0:
            self._eager_calls_left -= 1
            return dict(self._recorder.aside(lambda: self._function(inputs)))
        if self._replay is None:
            if self._before is not None:
                self._before()
            self._inputs = [x.clone() for x in inputs]
            self._replay, self._outputs = self._recorder.record(lambda: self._function(self._inputs))
        for index, (held, x) in enumerate(zip(self._inputs, inputs, strict=True)):
            if held.shape != x.shape or held.dtype != x.dtype:
                raise ArgumentError(f"`inputs`: expected {describe_shape(held)} at {index}, got {describe_shape(x)}")
            held.copy_(x, non_blocking=True)
        self._replay()
        return {key: value.clone() for key, value in self._outputs.items()}


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
