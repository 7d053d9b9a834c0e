"""Time and memory of the losses by clips, frames, levels and windows: ``python -m benchmarks.bench_scale``.

Forward and backward passes at the default sizes, in turns. Memory is what autograd keeps between the two passes, counted tensor
by tensor. Processor time depends less on what else runs on the machine than time by the clock.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from avsync import MultiScaleSyncLoss, SyncerPyramid, SyncerPyramidConfig
from avsync.losses import all_pairs_info_nce
from benchmarks import _harness

CLIPS = (8, 16, 32, 64)
FRAMES = (40, 80, 160, 320)
LEVELS = (1, 2, 3, 4)
WINDOWS = (16, 32, 64, 128)


def kept_bytes(forward: Callable[[], Tensor]) -> int:
    """Count the bytes that autograd keeps for the backward pass; tensors that share memory count once."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = forward()
    del result
    return sum(kept.values())


def loss_case(clips: int, frames: int, levels: int, device: torch.device) -> Callable[[], Tensor]:
    """Make a forward pass of the sync loss with gradients for the landmarks."""
    rng = torch.Generator().manual_seed(0)
    loss = MultiScaleSyncLoss(syncers=SyncerPyramid(SyncerPyramidConfig(num_levels=levels)).to(device))
    landmarks = torch.rand(clips, frames, 68, 2, generator=rng).to(device).requires_grad_()
    audio = torch.randn(clips, 4 * frames, 26, generator=rng).to(device)
    return lambda: loss(landmarks, audio).total


def contrast_case(clips: int, device: torch.device) -> Callable[[], Tensor]:
    """Make a forward pass of InfoNCE over all pairs of ``clips`` times 76 windows."""
    rng = torch.Generator().manual_seed(0)
    motion, audio = (torch.randn(clips, 76, 128, generator=rng).to(device).requires_grad_() for _ in range(2))
    return lambda: all_pairs_info_nce(motion, audio)


def step(forward: Callable[[], Tensor]) -> None:
    forward().backward()


def main(arguments: list[str] | None = None) -> None:
    """Measure all cases."""
    options = _harness.parser(__doc__, repeats=7, warm_up=1).parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    cases: dict[str, Callable[[], Tensor]] = {}
    for clips, frames, levels in dict.fromkeys(
        [*((n, 80, 4) for n in CLIPS), *((16, n, 4) for n in FRAMES), *((16, 80, n) for n in LEVELS)]
    ):
        cases[f"sync loss, {clips} clips, {frames} frames, {levels} levels"] = loss_case(clips, frames, levels, options.device)
    for clips in WINDOWS:
        cases[f"all-pairs InfoNCE, {clips * 76} windows"] = contrast_case(clips, options.device)
    timings = _harness.measure(
        {name: functools.partial(step, case) for name, case in cases.items()}, repeats=options.repeats, warm_up=options.warm_up
    )
    extra: dict[str, Any] = {"kept for the backward pass, MiB": {n: round(kept_bytes(c) / 2**20, 1) for n, c in cases.items()}}
    _harness.report("scale", timings, baseline="sync loss, 16 clips, 80 frames, 4 levels", extra=extra, out=options.out)


if __name__ == "__main__":
    main()
