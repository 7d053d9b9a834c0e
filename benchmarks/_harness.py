"""Shared benchmark harness: interleaved timing, this machine's matrix-product peak, run metadata, a table and a JSON file.

Candidates are timed in one process and in turns (first, second, ..., first, second, ...), each round in another order, so that
a machine that slows down or is shared slows all of them alike. Medians and interquartile ranges are reported, never the best
run.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

import avsync

RESULTS = Path(__file__).parent / "results"


class Timing(NamedTuple):
    """Times of one candidate in seconds, and its memory."""

    median: float
    iqr: float
    times: list[float]
    peak_bytes: int | None = None
    """Peak of the memory that one call allocates on a GPU; None on a CPU."""
    processor: float | None = None
    """Median processor time of all threads, which depends less on what else the machine does; None if not measured."""


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _peak_bytes(function: Callable[[], object]) -> int | None:
    """Call a function, and return the peak of the memory that the call allocates on a GPU."""
    if not torch.cuda.is_initialized():
        function()
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def kernel_count(function: Callable[[], object]) -> int | None:
    """Count the kernels that one call launches on a GPU; None on a CPU."""
    if not torch.cuda.is_initialized():
        return None
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        function()
        torch.cuda.synchronize()
    return sum(event.device_type.name == "CUDA" for event in profile.events())


def _timed(function: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of one call by the clock and of the processor."""
    _synchronise()
    start, processor = time.perf_counter(), time.process_time()
    function()
    _synchronise()
    return time.perf_counter() - start, time.process_time() - processor


def timing_of(times: Sequence[float]) -> Timing:
    """Compute median and interquartile range of times in seconds."""
    if len(times) == 1:
        return Timing(times[0], 0.0, list(times))
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(statistics.median(times), high - low, list(times))


def measure(functions: Mapping[str, Callable[[], object]], *, repeats: int = 20, warm_up: int = 3) -> dict[str, Timing]:
    """Time the candidates in turns.

    Args:
        functions: The candidates by name, in the order of the report.
        repeats: Timed calls of each candidate.
        warm_up: Untimed calls of each candidate before the measurement.

    Returns:
        One :class:`Timing` per candidate, in the order of ``functions``.
    """
    if repeats < 1:
        raise ValueError(f"`repeats`: expected a number above 0, got {repeats}")
    peaks: dict[str, int | None] = dict.fromkeys(functions)
    for _ in range(warm_up):
        for name, function in functions.items():
            peaks[name] = _peak_bytes(function)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    names = list(functions)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for repeat in range(repeats):
            turn = repeat % len(names)
            for name in names[turn:] + names[:turn]:
                times[name].append(_timed(functions[name]))
            gc.collect(0)
    finally:
        if collecting:
            gc.enable()
    return {
        name: timing_of([clock for clock, _ in values])._replace(
            peak_bytes=peaks[name], processor=statistics.median(processor for _, processor in values)
        )
        for name, values in times.items()
    }


def matmul_peak(threads: int | None = None, *, size: int = 2048, repeats: int = 9, device: str | torch.device = "cpu") -> float:
    """Measure the floating-point operations per second of one large float32 product on this machine.

    Args:
        threads: Threads that torch may use; unchanged if None.
        size: Rows and columns of the two square matrices.
        repeats: Timed products; the median counts.
        device: Device of the product.

    Returns:
        Operations per second (a multiplication and an addition count as two).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        generator = torch.Generator().manual_seed(0)
        left = torch.randn(size, size, generator=generator).to(device)
        right = torch.randn(size, size, generator=generator).to(device)
        timing = measure({"product": lambda: left @ right}, repeats=repeats, warm_up=2)["product"]
    finally:
        torch.set_num_threads(before)
    return 2.0 * size**3 / timing.median


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def run_metadata() -> dict[str, Any]:
    """Return the description of the machine and the package versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "avsync": avsync.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def report(
    name: str,
    timings: Mapping[str, Timing],
    *,
    baseline: str,
    flops: Mapping[str, float] | None = None,
    peak: float | None = None,
    extra: Mapping[str, Any] | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Print a table of the timings and write them as JSON.

    Args:
        name: The benchmark's name, which is also the name of its file.
        timings: Result of :func:`measure`.
        baseline: The candidate whose median the others are compared with; a speed-up above 1 means faster than it.
        flops: Floating-point operations per call of a candidate, by name, if known.
        peak: Operations per second that count as 100 %; measured by :func:`matmul_peak` if ``flops`` is given and this is not.
        extra: Sizes and other facts to keep next to the numbers.
        out: Folder for ``<name>.json``; ``benchmarks/results`` if None. A measurement on a GPU goes to its subfolder ``gpu``.

    Returns:
        The content of the file: name, metadata, peak, extra and one entry per candidate.
    """
    if baseline not in timings:
        raise ValueError(f"`baseline`: expected one of {', '.join(map(repr, timings))}, got {baseline!r}")
    flops = dict(flops or {})
    if flops and peak is None:
        peak = matmul_peak()
    reference = timings[baseline].median
    candidates: dict[str, dict[str, Any]] = {}
    for candidate, timing in timings.items():
        entry: dict[str, Any] = {
            "median_seconds": timing.median,
            "iqr_seconds": timing.iqr,
            "speed_up": reference / timing.median,
            "times_seconds": timing.times,
        }
        if timing.processor is not None:
            entry["processor_seconds"] = timing.processor
        if timing.peak_bytes is not None:
            entry["peak_bytes"] = timing.peak_bytes
        if candidate in flops and peak:
            entry["flops"] = flops[candidate]
            entry["share_of_peak"] = flops[candidate] / timing.median / peak
        candidates[candidate] = entry
    result = {
        "name": name,
        "metadata": run_metadata(),
        "peak_flops_per_second": peak,
        "baseline": baseline,
        "extra": dict(extra or {}),
        "candidates": candidates,
    }
    _print_table(result)
    folder = RESULTS if out is None else out
    folder = folder / "gpu" if torch.cuda.is_initialized() else folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"written to {path}")
    return result


def _print_table(result: Mapping[str, Any]) -> None:
    metadata = result["metadata"]
    print(f"\n{result['name']}: {metadata['cpu']}, {metadata['threads']} threads, torch {metadata['torch']}")
    if result["peak_flops_per_second"]:
        print(f"matrix-product peak measured here: {result['peak_flops_per_second'] / 1e9:.1f} GFLOP/s")
    for key, value in result["extra"].items():
        print(f"{key}: {value}")
    width = max(9, *(len(candidate) for candidate in result["candidates"]))
    print(f"{'candidate':<{width}}  {'median ms':>10}  {'IQR ms':>8}  {'speed-up':>8}  {'of peak':>7}")
    for candidate, entry in result["candidates"].items():
        share = f"{100 * entry['share_of_peak']:6.1f}%" if "share_of_peak" in entry else "      -"
        print(
            f"{candidate:<{width}}  {1e3 * entry['median_seconds']:10.3f}  {1e3 * entry['iqr_seconds']:8.3f}"
            f"  {entry['speed_up']:8.2f}  {share}"
        )


def _device(name: str) -> torch.device:
    """Parse ``--device``; a GPU that is not there is a usage error."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise argparse.ArgumentTypeError("this machine has no GPU that torch can use")
        torch.cuda.init()
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # its default is True, and candidates in float32 are to agree
    return device


def parser(description: str | None, *, repeats: int = 20, warm_up: int = 3, device: bool = True) -> argparse.ArgumentParser:
    """Make a parser with ``--repeats``, ``--warm-up``, ``--threads``, ``--device`` and ``--out``.

    Args:
        description: Text of ``--help``.
        repeats: Default of ``--repeats``.
        warm_up: Default of ``--warm-up``.
        device: Offer ``--device``; False for work that no GPU can do, such as decoding files.
    """
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--repeats", type=int, default=repeats, help="timed calls of each candidate")
    result.add_argument("--warm-up", type=int, default=warm_up, help="uncounted calls of each candidate")
    result.add_argument(
        "--threads", type=int, default=None, help="processor threads that torch may use (default: torch's choice)"
    )
    if device:
        result.add_argument("--device", type=_device, default=torch.device("cpu"), help="cpu, cuda or cuda:1 (default: cpu)")
    result.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON file (default: benchmarks/results)")
    return result
