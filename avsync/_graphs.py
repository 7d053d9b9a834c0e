"""CUDA graphs: work recorded once and replayed, which saves the launch of thousands of small kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from avsync._checks import describe_shape
from avsync.errors import ArgumentError

Step = Callable[[Sequence[Tensor]], Mapping[str, Tensor]]
"""Function of tensors of fixed shapes that returns tensors and has no other results than changes in place."""


class Recorder(Protocol):
    """Backend of :class:`GraphedStep`."""

    def aside(self, function: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Run the function at once, as CUDA requires before a capture."""
        ...

    def record(self, function: Callable[[], Mapping[str, Tensor]]) -> tuple[Callable[[], object], Mapping[str, Tensor]]:
        """Record the function; return the function that replays it, and the tensors that a replay fills."""
        ...


class CudaRecorder:
    """Recorder of CUDA graphs. All its recordings share one pool of memory, so a replay may overwrite the results of another.

    Source: the recipe of PyTorch's notes on CUDA graphs for whole training steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def aside(self, function: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Run the function on a stream of its own."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = function()
        current.wait_stream(self._stream)
        return result

    def record(self, function: Callable[[], Mapping[str, Tensor]]) -> tuple[Callable[[], object], Mapping[str, Tensor]]:
        """Capture the function in a graph, without running it; other threads may use the GPU meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self._stream.device),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            result = function()
        return graph.replay, result


class GraphedStep:
    """Step that runs eagerly a few times, is then recorded, and is replayed in all later calls.

    Args:
        function: The step; see ``Step``. It must not read a number from the device or draw from a random generator.
        recorder: A :class:`CudaRecorder`, or a stand-in with the same methods.
        warm_up: Number of eager calls before the recording.
        before_recording: Called once before the recording, for example
            :func:`~avsync.training.graphs.make_capturable` of the optimisers.

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
            The results, in tensors that the next call does not change.

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
