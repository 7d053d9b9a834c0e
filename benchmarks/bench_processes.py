"""Clips per second of syncer training with one process and with two: ``python -m benchmarks.bench_processes``.

Every process has one thread and its own batches, gathers negatives and averages gradients over gloo (``--device cuda``: NCCL on
two GPUs). A step of two processes therefore trains on twice as many clips. Wall-clock figures need as many idle cores as there
are processes. Processor seconds per clip are reported too: they give the cost of the second process on a shared machine,
because waiting for a core costs none. With InfoNCE every process scores its windows against those of all processes, so that
each of two has twice the score matrix that one has with the same batch. So there are two measures: against one process with the
batch of one of the two (more work for each window), and against one process with the batch of both together (the same step, to
the last gradient). Two independent runs at the same time measure the limit of the machine. ``--objective contrastive`` has its
negatives in the clip, and both measures are the same.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from avsync.audio import LogMel
from avsync.corpus import ClipBank, SyntheticCorpus
from avsync.models import SyncerPyramid
from avsync.training import SyncerTrainingConfig, make_fabric, train_syncers
from avsync.training.objectives import OBJECTIVES
from benchmarks._harness import Timing, parser, report, timing_of

BATCH, FRAMES = 16, 160
APART = "2 apart, both batches each"
ROOT = Path(__file__).parent.parent


def train_and_time(objective: str, batch: int, steps: int, warm_up: int, fabric: Any) -> list[tuple[float, float]]:
    """Measure wall and processor time of ``steps`` training steps after ``warm_up`` others; first process only."""
    bank = ClipBank(SyntheticCorpus(speakers=32, clips_per_speaker=1, seconds=10.0), features=LogMel())
    marks: list[tuple[float, float]] = []

    def mark(step: int) -> dict[str, float]:
        if step in (warm_up, warm_up + steps):
            marks.append((time.perf_counter(), time.process_time()))
        return {}

    torch.manual_seed(0)
    config = SyncerTrainingConfig(steps=warm_up + steps, batch_size=batch, frames=FRAMES, objective=objective)
    # Called on the first process only; the others run in step with it.
    train_syncers(SyncerPyramid(), bank, config, fabric=fabric, evaluate=mark, evaluate_every=warm_up, progress=False)
    return marks


def _worker(objective: str, accelerator: str, world: int, batch: int, steps: int, warm_up: int) -> None:
    torch.set_num_threads(1)
    fabric = make_fabric(accelerator=accelerator, devices=world)
    torch.set_num_threads(1)
    marks = train_and_time(objective, batch, steps, warm_up, fabric)
    if fabric.is_global_zero:
        wall, processor = (end - begin for begin, end in zip(marks[0], marks[-1], strict=True))
        print("RESULT", wall / steps, processor / steps)


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def run_group(
    objective: str, world: int, batch: int, steps: int, warm_up: int, accelerator: str = "cpu"
) -> tuple[float, float]:
    """Measure wall and processor seconds per step of the first of ``world`` processes."""
    port = str(_free_port())
    children = []
    for rank in range(world):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank}
        place |= {"LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "bench", "OMP_NUM_THREADS": 1}
        environment = os.environ | {name: str(value) for name, value in place.items()}
        command = [sys.executable, "-m", "benchmarks.bench_processes", "--worker", objective, accelerator]
        command += map(str, (world, batch, steps, warm_up))
        children.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError("a process failed; see above")
    (line,) = [line for line in outputs[0].splitlines() if line.startswith("RESULT")]
    wall, processor = map(float, line.split()[1:])
    return wall, processor


def run_apart(objective: str, batch: int, steps: int, warm_up: int, accelerator: str = "cpu") -> tuple[float, float]:
    """Measure wall and processor seconds per step, the means of two independent runs of one process each at the same time."""
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: run_group(objective, 1, batch, steps, warm_up, accelerator), range(2)))
    wall, processor = (sum(column) / len(found) for column in zip(*found, strict=True))
    return wall, processor


def main() -> None:
    """Run one and two processes in turns, and report seconds per clip of both kinds."""
    options = parser(__doc__, repeats=3, warm_up=5)
    options.add_argument("--steps", type=int, default=20, help="timed steps of each run")
    options.add_argument("--objective", choices=OBJECTIVES, default="all_pairs", help="loss; only InfoNCE gathers negatives")
    arguments = options.parse_args()
    candidates = {
        "1 process": (1, BATCH),
        "1 process, both batches": (1, 2 * BATCH),
        "2 processes": (2, BATCH),
        APART: (2, 2 * BATCH),
    }
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(arguments.repeats):
        for name, (world, batch) in candidates.items():
            sizes = (batch, arguments.steps, arguments.warm_up, arguments.device.type)
            run = run_apart(arguments.objective, *sizes) if name == APART else run_group(arguments.objective, world, *sizes)
            results[name].append(run)
            print(f"{name}: {results[name][-1][0]:.3f} s per step, {results[name][-1][1]:.3f} s of processor time", flush=True)
    timings: dict[str, Timing] = {}
    for name, (world, batch) in candidates.items():
        for column, kind in enumerate(("wall", "processor")):
            # Processor seconds are the first process's: were every process on a core of its own, the group would take as long.
            per_clip = [values[column] / (world * batch) for values in results[name]]
            timings[f"{name}, {kind}"] = timing_of(per_clip)

    def ratio(baseline: str, kind: str, two: str = "2 processes") -> float:
        return round(timings[f"{baseline}, {kind}"].median / timings[f"{two}, {kind}"].median, 3)

    extra = {
        "objective": arguments.objective,
        "batch of each process": BATCH,
        "frames": FRAMES,
        "clips per second, wall": {name: round(1 / timings[f"{name}, wall"].median, 2) for name in candidates},
        "2 processes over 1, wall": ratio("1 process", "wall"),
        "2 processes over 1, by processor time": ratio("1 process", "processor"),
        "2 processes over 1 with both batches, wall": ratio("1 process, both batches", "wall"),
        "2 processes over 1 with both batches, by processor time": ratio("1 process, both batches", "processor"),
        "2 apart over 1, both batches each, wall": ratio("1 process, both batches", "wall", APART),
    }
    report("processes", timings, baseline="1 process, wall", extra=extra, out=arguments.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _worker(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
    else:
        main()
