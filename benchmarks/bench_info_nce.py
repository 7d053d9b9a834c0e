"""InfoNCE over all pairs of a large batch, forward and backward: in chunks, as one matrix, and as two cross entropies of torch.

Usage: ``python -m benchmarks.bench_info_nce [--clips 256] [--device cuda]``. Each candidate runs in a process of its own. On a
CPU the time is that of the processor, which other programs on the machine hardly change, and the memory is how much the peak of
the process rises above what it held before; on a GPU they are wall-clock time and the peak of the allocator.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from avsync._files import write_json
from avsync.losses import all_pairs, all_pairs_info_nce
from benchmarks._harness import RESULTS, run_metadata

WINDOWS, EMBED, TEMPERATURE = 76, 128, 0.07
CANDIDATES = ("chunks", "one matrix", "cross entropy")


def cross_entropy(motion: Tensor, audio: Tensor) -> Tensor:
    """Compute the same loss by two cross entropies."""
    logits = F.normalize(audio.flatten(0, 1), dim=-1) @ F.normalize(motion.flatten(0, 1), dim=-1).T / TEMPERATURE
    target = torch.arange(logits.shape[0], device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def run(candidate: str, clips: int, device: str, repeats: int) -> dict[str, Any]:
    """Measure loss, median seconds and peak bytes of one candidate."""
    all_pairs.LARGEST_MATRIX = 0 if candidate == "chunks" else 2**62
    on_gpu = torch.device(device).type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    generator = torch.Generator().manual_seed(0)
    motion = torch.randn(clips, WINDOWS, EMBED, generator=generator)
    audio = motion + torch.randn(clips, WINDOWS, EMBED, generator=generator)
    motion, audio = motion.to(device).requires_grad_(), audio.to(device).requires_grad_()

    def step(first: int = clips) -> float:
        m, a = motion[:first], audio[:first]
        loss = cross_entropy(m, a) if candidate == "cross entropy" else all_pairs_info_nce(m, a, temperature=TEMPERATURE)
        loss.backward()
        return float(loss.detach())

    step(2)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    times = []
    for _ in range(repeats):
        start = clock()
        loss = step()
        times.append(clock() - start)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"loss": loss, "seconds": statistics.median(times), "times": times, "peak_bytes": peak - held}


def main() -> None:
    """Run the candidates and write ``results/info_nce.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--candidate", choices=CANDIDATES, help="run one in this process and print its figures")
    args = parser.parse_args()
    if args.candidate:
        print(json.dumps(run(args.candidate, args.clips, args.device, args.repeats)))
        return
    found = {}
    for candidate in CANDIDATES:
        command = [sys.executable, "-m", "benchmarks.bench_info_nce", "--candidate", candidate, "--clips", str(args.clips)]
        command += ["--device", args.device, "--repeats", str(args.repeats)]
        found[candidate] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        figures = found[candidate]
        print(
            f"{candidate:14} {figures['seconds']:8.2f} s {figures['peak_bytes'] / 2**30:6.2f} GiB  loss {figures['loss']:.6f}"
        )
    if args.device != "cpu":
        torch.cuda.init()  # so that the record names the GPU, which only the candidates' processes have used
    sizes = {"clips": args.clips, "windows": WINDOWS, "embed": EMBED, "repeats": args.repeats, "device": args.device}
    clock = "processor time" if args.device == "cpu" else "wall-clock time"
    write_json(
        RESULTS / ("info_nce.json" if args.device == "cpu" else "gpu/info_nce.json"),
        {"name": "info_nce", "clock": clock, **sizes, "candidates": found, "metadata": run_metadata()},
    )


if __name__ == "__main__":
    main()
