"""Train the adversarial methods of run.py side by side on one GPU.

    python examples/baselines/side_by_side.py --out runs/baselines --corpus PATH --seeds 5 --processes 4
    python examples/baselines/run.py --out runs/baselines --corpus PATH --seeds 5

A recorded step of one small system leaves a GPU nearly idle, because its thousands of small kernels wait for one another. Here
every process replays the steps of several systems in turns, each on a stream of its own, so that their kernels overlap. The
weights and the curves of Figure 5 are those that run.py would leave. The second command finds them, trains the methods without
discriminators, and writes the table. On a CPU the systems are trained in turns, which saves nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ms_sync
import suhmo
import torch
from judging import WATCHING
from run import add_arguments, material_of, method_folder, preset_of
from shared import Material, Preset, generator_models, trained_pyramid, watch, write_json

from avsync import AvsyncError, MultiScaleGenerator, save_pretrained
from avsync.errors import DivergedError
from avsync.models import MultiScaleSyncer
from avsync.training import GanSteps, averaged, make_fabric

METHODS = ("SUHMo-style", *ms_sync.VARIANTS)
"""The methods of run.py that are trained against discriminators."""
AHEAD = 20
"""Rounds that are queued before the host waits for the GPU."""


@dataclass(frozen=True)
class System:
    """One system in training, the folder of its generator, and the function that measures it, if its curves are drawn."""

    steps: GanSteps
    folder: Path
    measure: Callable[[MultiScaleGenerator], dict[str, float]] | None = None
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def record(self, now: int) -> None:
        """Measure the generator with its averaged weights, if it is due after step ``now``: five times during training."""
        steps = self.steps.config.steps
        if self.measure is None or now > steps or (now % max(1, steps // 5) and now != steps):
            return
        with averaged(self.steps.generator, self.steps.average):
            for name, value in self.measure(self.steps.generator).items():
                self.history.setdefault(name, []).append((now, value))

    def save(self) -> None:
        """Save the generator with its averaged weights.

        Raises:
            DivergedError: A weight is not finite.
        """
        generator: MultiScaleGenerator = self.steps.generator
        with averaged(generator, self.steps.average):
            if not all(bool(parameter.isfinite().all()) for parameter in generator.parameters()):
                raise DivergedError(f"{self.folder}: the weights are not finite after {self.steps.config.steps} steps")
            save_pretrained(generator, self.folder)
        if self.history:
            write_json(self.folder.parent / "history.json", self.history)


def make_system(
    name: str,
    seed: int,
    preset: Preset,
    material: Material,
    guide: MultiScaleSyncer,
    *,
    out: Path,
    fabric: Any,
    measure: Callable[[MultiScaleGenerator], dict[str, float]],
) -> System:
    """Make the system of a method and a seed, with the weights and random numbers that run.py would give it."""
    preset = replace(preset, gan=replace(preset.gan, seed=seed))
    if name == "SUHMo-style":
        preset, material = suhmo.deaf(preset, material)
    else:
        preset = ms_sync.VARIANTS[name](preset)
    generator, discriminators, sync_loss = generator_models(material, preset, guide, fabric)
    steps = GanSteps(
        generator,
        discriminators=discriminators.train(),
        bank=material.train,
        config=preset.gan,
        sync_loss=sync_loss.to(fabric.device),
        fabric=fabric,
        augment=preset.generator_augment,
        cuda_graphs=None,
    )
    return System(steps, method_folder(out, name, seed) / "generator", measure if name in ms_sync.CURVES else None)


def train_together(systems: Sequence[System], device: torch.device) -> None:
    """Train all systems in turns, each on a stream of its own, and save their generators.

    Raises:
        DivergedError: A weight of a system is not finite; the other systems are saved.
    """
    cuda = device.type == "cuda"
    streams = [torch.cuda.Stream(device) if cuda else None for _ in systems]
    for now in range(1, max((system.steps.config.steps for system in systems), default=0) + 1):
        for system, stream in zip(systems, streams, strict=True):
            place: AbstractContextManager[object] = torch.cuda.stream(stream) if stream else contextlib.nullcontext()
            with place:
                system.steps.step(now)
                system.record(now)
        if cuda and now % AHEAD == 0:
            torch.cuda.synchronize(device)
    if cuda:
        torch.cuda.synchronize(device)
    diverged = []
    for system in systems:
        try:
            system.save()
        except DivergedError as error:
            diverged.append(str(error))
    if diverged:
        raise DivergedError("; ".join(diverged))


def train_share(args: argparse.Namespace, share: int) -> None:
    """Train every ``args.processes``-th of the systems that have no generator yet, from number ``share`` on."""
    torch.set_num_threads(args.threads)
    fabric = make_fabric(accelerator=args.accelerator)
    preset = preset_of(args)
    missing = [
        (name, seed)
        for name in args.only
        for seed in range(args.seeds)
        if not (method_folder(args.out, name, seed) / "generator" / "config.json").is_file()
    ]
    mine = missing[share :: args.processes]
    if not mine:
        return
    began = time.monotonic()
    material, guide = material_of(args, preset), trained_pyramid("guide", args.guide, preset, fabric)
    judge = trained_pyramid("watching", WATCHING, preset, fabric)
    measure = watch(material, preset, judge, fabric.device)
    systems = [
        make_system(name, seed, preset, material, guide, out=args.out, fabric=fabric, measure=measure) for name, seed in mine
    ]
    train_together(systems, fabric.device)
    print(f"{len(systems)} systems in {(time.monotonic() - began) / 60:.1f} min", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=sorted(METHODS), default=list(METHODS), help="methods (default: all)")
    parser.add_argument("--accelerator", default="auto", help="device (default: auto, the GPU if there is one)")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the device (default: 1)")
    args = parser.parse_args(arguments)
    if args.processes < 1:
        parser.error(f"--processes: expected at least 1, got {args.processes}")
    try:
        if args.processes == 1:
            train_share(args, 0)
            return 0
        # A process that has used CUDA cannot be forked.
        workers = [
            multiprocessing.get_context("spawn").Process(target=train_share, args=(args, share))
            for share in range(args.processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return max(abs(worker.exitcode or 0) for worker in workers)
    except AvsyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
