"""What ``torch.compile`` brings to a training step of the syncers: ``python -m benchmarks.bench_compile``.

One step is a forward and a backward pass of the pyramid with its losses, at the sizes of the default training, as
``train_syncers(..., compiled=True)`` runs it. The time that the compilation itself takes is reported too, because it must be earned
back before anything is gained.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from avsync.corpus.banks.crops import Batch
from avsync.models.syncer.pyramid import SyncerPyramid
from avsync.training.level_losses import level_losses
from avsync.training.objectives import LevelObjective, SyncerTrainingConfig
from avsync.training.syncers import embed_crops
from benchmarks._harness import measure, parser, report


def training_step(pyramid: SyncerPyramid, *, compiled: bool, batch: int, frames: int) -> Callable[[], None]:
    """One forward and backward pass over all levels."""
    chance = torch.Generator().manual_seed(0)
    crops = Batch(
        torch.rand(batch, frames, 68, 2, generator=chance),
        torch.randn(batch, 4 * frames, 26, generator=chance),
        torch.zeros(batch, dtype=torch.int64),
        torch.zeros(batch, dtype=torch.int64),
        torch.ones(batch, frames, dtype=torch.bool),
    )
    config = SyncerTrainingConfig()
    objectives = [LevelObjective(config=config) for _ in range(pyramid.num_levels)]
    encode = torch.compile(pyramid.forward) if compiled else pyramid

    def step() -> None:
        pyramid.zero_grad()
        embedded = embed_crops(encode, crops, range(pyramid.num_levels), config.fine_frames, "first")
        level_losses(objectives, embedded, chance).sum().backward()

    return step


def main() -> None:
    """Time the step as it is and compiled."""
    options = parser(__doc__, repeats=10, warm_up=2)
    options.add_argument("--batch", type=int, default=16, help="clips")
    options.add_argument("--frames", type=int, default=160, help="frames of each clip")
    arguments = options.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    pyramid = SyncerPyramid()
    sizes = {"batch": arguments.batch, "frames": arguments.frames}
    steps = {name: training_step(pyramid, compiled=name == "compiled", **sizes) for name in ("eager", "compiled")}
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
