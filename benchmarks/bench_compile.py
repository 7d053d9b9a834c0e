"""Gain of ``torch.compile`` in a training step of the syncers: ``python -m benchmarks.bench_compile``.

One step is a forward and a backward pass of the pyramid with its losses, at the sizes of the default training, as
``train_syncers(..., compiled=True)`` runs it. The time of the compilation is reported too, with the number of steps after which
it is regained.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from avsync.corpus import Batch
from avsync.models import SyncerPyramid
from avsync.training.objectives import LevelObjective, SyncerTrainingConfig, level_losses
from avsync.training.syncers import embed_crops
from benchmarks._harness import measure, parser, report


def training_step(
    pyramid: SyncerPyramid, *, compiled: bool, batch: int, frames: int, device: torch.device
) -> Callable[[], None]:
    """Make a function that does one forward and backward pass over all levels."""
    rng = torch.Generator().manual_seed(0)
    crops = Batch(
        torch.rand(batch, frames, 68, 2, generator=rng),
        torch.randn(batch, 4 * frames, 26, generator=rng),
        torch.zeros(batch, dtype=torch.int64),
        torch.zeros(batch, dtype=torch.int64),
        torch.ones(batch, frames, dtype=torch.bool),
    ).to(device)
    config = SyncerTrainingConfig()
    objectives = [LevelObjective(config=config).to(device) for _ in range(pyramid.num_levels)]
    encode = torch.compile(pyramid.forward) if compiled else pyramid

    def step() -> None:
        pyramid.zero_grad()
        embedded = embed_crops(encode, crops, range(pyramid.num_levels), config.fine_frames, "first")
        level_losses(objectives, embedded, rng).sum().backward()

    return step


def main() -> None:
    """Time the eager and the compiled step."""
    options = parser(__doc__, repeats=10, warm_up=2)
    options.add_argument("--batch", type=int, default=16, help="clips")
    options.add_argument("--frames", type=int, default=160, help="frames of each clip")
    arguments = options.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    pyramid = SyncerPyramid().to(arguments.device)
    sizes = {"batch": arguments.batch, "frames": arguments.frames}
    steps = {
        name: training_step(pyramid, compiled=name == "compiled", device=arguments.device, **sizes)
        for name in ("eager", "compiled")
    }
    began = time.perf_counter()
    steps["compiled"]()
    compilation = time.perf_counter() - began
    timings = measure(steps, repeats=arguments.repeats, warm_up=arguments.warm_up)
    gained = timings["eager"].median - timings["compiled"].median
    earned = round(compilation / gained) if gained > 0 else "never"
    extra = {**sizes, "seconds of the first compiled step": round(compilation, 1), "steps that earn it back": earned}
    report("compile", timings, baseline="eager", extra=extra, out=arguments.out)


if __name__ == "__main__":
    main()
