"""CUDA streams: independent work side by side on one GPU, whose small kernels would leave most of it idle one after another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


@functools.cache
def _side_streams(stream: torch.cuda.Stream, count: int) -> list[torch.cuda.Stream]:
    """Return the side streams of a stream.

    Each stream has side streams of its own, because all work of a side stream shares one cuBLAS workspace, and graphs that were
    captured on different streams may be replayed at the same time. After 32 streams of a priority, torch returns earlier ones
    again; the high priority keeps side streams apart from the streams of recorders and of systems that are trained together.
    """
    return [torch.cuda.Stream(stream.device, priority=-1) for _ in range(count)]


def on_streams(functions: Sequence[Callable[[], Tensor]], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Call functions that do not depend on each other, on a GPU each on a CUDA stream of its own.

    The first function runs on the current stream. The other streams wait for the current stream first, and the current stream
    waits for all of them at the end. The results can be used at once, and all of this can be captured in a CUDA graph. Autograd
    runs the backward pass of each function on the stream of its forward pass.

    The functions are called in turn on a CPU, while a compiler or fake tensors trace them, and in a process group, because
    DistributedDataParallel expects all gradients on one stream.

    Args:
        functions: Functions without arguments that return one tensor each.
        inputs: All tensors that the functions read, except parameters and buffers.

    Returns:
        The results, in the order of the functions.

    Source: ours.
    """
    traced = torch.compiler.is_compiling() or any(isinstance(x, FakeTensor) for x in inputs)
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if traced or together or any(x.device.type != "cuda" for x in inputs):
        return [function() for function in functions]
    current = torch.cuda.current_stream(inputs[0].device)
    streams = [current, *_side_streams(current, len(functions) - 1)]
    for stream in streams[1:]:
        stream.wait_stream(current)
        for x in inputs:
            x.record_stream(stream)  # memory must not be used again before the backward pass on this stream has read it
    results = []
    for stream, function in zip(streams, functions, strict=True):
        with torch.cuda.stream(stream):
            results.append(function())
    for stream, result in zip(streams[1:], results[1:], strict=True):
        current.wait_stream(stream)
        result.record_stream(current)
    return results
