"""Write the page "Speed" of the documentation from the results of the benchmarks: ``python -m benchmarks.page``.

Results of a GPU are read from ``benchmarks/results/gpu/``, where the benchmarks write them with ``--device cuda``. Where a
record is missing there, the page reports "not measured".
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._harness import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
NOT_MEASURED = "not measured"
WIDTH = 128


class Section(NamedTuple):
    """Table of the page."""

    record: str
    """Name of the record, without its suffix."""
    command: str
    """Command that measures it."""
    title: str


SECTIONS = (
    Section("sync_loss", "bench_sync_loss", "Sync loss, forward and backward, 32 clips of 80 frames"),
    Section("scale", "bench_scale", "How the losses scale"),
    Section("info_nce", "bench_info_nce", "InfoNCE of 256 x 76 windows, forward and backward"),
    Section("peers_all_pairs", "bench_peers", "InfoNCE of all pairs, forward and backward"),
    Section("peers_sampled", "bench_peers", "InfoNCE with 48 sampled negatives, forward and backward"),
    Section("peers_log_mel", "bench_peers", "Log-mel energies"),
    Section("peers_mfcc", "bench_peers", "MFCCs"),
    Section("generator_rollout", "bench_generator", "Generator, one clip of 200 frames"),
    Section("generator_training", "bench_generator", "Generator, training rollout of 32 clips of 80 frames"),
    Section("offset", "bench_offset", "Offset search"),
    Section("processes", "bench_processes", "Training in several processes, seconds per clip"),
    Section("extract", "bench_extract", "Extraction of a video"),
    Section("gpu", "gpu", "Losses, rollouts and training steps on a GPU"),
)

LABELS = {
    "dense": "dense (avsync)",
    "stacked": "avsync",
    "separate": "one `Linear` per branch and `nn.LSTMCell`, as the paper's code has them",
    "loop over clips and windows": "loop over clips and windows, as syncnet-python publishes it",
    "plain cross entropy": "two calls of `cross_entropy`",
    "chunks": "avsync",
    "one matrix": "avsync with the whole matrix",
    "cross entropy": "two calls of `cross_entropy`",
}
"""Names in the table of candidates whose names in the records are short."""

INTRODUCTION = """# Speed

This page is made from the records in `benchmarks/results/` by `python -m benchmarks.page`; a test compares the two. Each table
names its machine. Candidates take turns in one process, and their results are checked to agree before anything is timed. A time
is a median, with the interquartile range in parentheses. The load is the mean number of busy processes in the minute before the
end of the measurement: above the number of cores, other work slowed every candidate. Processor time is then more reliable than
time by the clock, and shares of the peak are left out.

A GPU column is filled by a GPU only: `python -m benchmarks.gpu`, or any other benchmark with `--device cuda`, and then
`python -m benchmarks.page`. Its candidates launch kernel by kernel, so their time is that of Python and of the launches: 45 to
70 microseconds for each kernel of the sync losses, of which the device computes for 9 to 15. [In a CUDA
graph](training.md#on-a-gpu), as training runs its steps, the loss takes a quarter of the time and the generator a seventh.

Rows of the GPU columns that are behind a peer: InfoNCE of few windows has more operations than two calls of `cross_entropy` or
the one formula of info-nce-pytorch, because it has masks, weights and exclusions. The search in one recording of an hour is 2
ms slower than a loop over its 31 shifts. With 256 x 76 windows, InfoNCE is faster than two calls of `cross_entropy` in a ninth
of their memory ([last table](#losses-rollouts-and-training-steps-on-a-gpu)).
"""


def read(record: str, folder: Path) -> dict[str, Any] | None:
    """Read a record; None if there is none."""
    path = folder / f"{record}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def busy(record: Mapping[str, Any]) -> bool:
    """Return whether other work kept the cores busy, so that a share of their peak means nothing."""
    metadata = record["metadata"]
    load = metadata.get("load_average")
    return bool(load) and not metadata.get("cuda") and load[0] > metadata["cores"] + 1


def machine(record: Mapping[str, Any]) -> str:
    """Describe the machine and the versions of a record."""
    metadata = record["metadata"]
    device = metadata.get("cuda") or f"{metadata['cores']} cores of {metadata['cpu']}, no GPU, {metadata['threads']} thread(s)"
    load = metadata.get("load_average")
    around = f", load {load[0]:.1f}" if load else ""
    peak = None if busy(record) else record.get("peak_flops_per_second")
    limit = f" Peak of matrix products: {peak / 1e9:.0f} GFLOP/s." if peak else ""
    return f"Measured on {device}, torch {metadata['torch']}, {metadata['date'][:10]}{around}.{limit}"


def duration(seconds: float) -> str:
    """Format a time in milliseconds, with three digits."""
    milliseconds = 1e3 * seconds
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def times(name: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of a candidate by column, as its record has them."""
    entry, extra = record["candidates"].get(name, {}), record.get("extra", {})
    if not entry:
        return {}
    kept, kernels = (extra.get(key, {}) for key in ("kept for the backward pass, MiB", "kernels"))
    spread = f" ({duration(entry['iqr_seconds'])})" if "iqr_seconds" in entry else ""
    on_gpu = record["metadata"].get("cuda")
    processor = entry.get("processor_seconds") if not on_gpu else None
    return {
        f"{record.get('clock', 'time')}, ms": duration(seconds(entry)) + spread,
        **({} if processor is None else {"processor time, ms": duration(processor)}),
        "speed-up": f"{entry['speed_up']:.2f}" if "speed_up" in entry else "",
        "share of peak": f"{100 * entry['share_of_peak']:.0f} %" if "share_of_peak" in entry and not busy(record) else "",
        "kernels": str(kernels.get(name, "")),
        "peak memory, MiB": f"{entry['peak_bytes'] / 2**20:.0f}" if entry.get("peak_bytes") else "",
        "kept for the backward pass, MiB": f"{kept[name]:.1f}" if name in kept else "",
    }


def seconds(entry: Mapping[str, Any]) -> float:
    """Return the time of a candidate."""
    found: float = entry.get("median_seconds", entry.get("seconds"))
    return found


def table(record: Mapping[str, Any], gpu: Mapping[str, Any] | None) -> str:
    """Render the candidates of a record and of that of a GPU, one per row; columns without a value are left out."""
    on_gpu = {} if gpu is None else gpu["candidates"]
    rows: list[dict[str, str]] = []
    for name in dict.fromkeys([*record["candidates"], *on_gpu]):
        row = {"": LABELS.get(name, name), **times(name, record)}
        if gpu is not record:
            row["GPU, ms"] = duration(seconds(on_gpu[name])) if name in on_gpu else NOT_MEASURED
            if "peak_bytes" in on_gpu.get(name, {}) and row.get("peak memory, MiB"):
                row["GPU, MiB"] = f"{on_gpu[name]['peak_bytes'] / 2**20:.0f}"
        rows.append(row)
    columns = [
        column for column in dict.fromkeys(column for row in rows for column in row) if any(row.get(column) for row in rows)
    ]
    lines = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def render(folder: Path = RESULTS) -> str:
    """Render the page from the records of a folder."""
    parts = [INTRODUCTION]
    for section in SECTIONS:
        record, gpu = read(section.record, folder), read(section.record, folder / "gpu")
        shown = record or gpu
        parts.append(f"## {section.title}\n\n`python -m benchmarks.{section.command}`\n")
        if shown is None:
            parts.append(f"{NOT_MEASURED.capitalize()}.\n")
            continue
        baseline = f" Speed-ups are over `{shown['baseline']}`." if "baseline" in shown else ""
        measured = f" GPU: {machine(gpu)}" if gpu is not None and record is not None else ""
        settings = f" {shown['extra']['settings']}" if "settings" in shown.get("extra", {}) else ""
        text = textwrap.fill(f"{machine(shown)}{baseline}{settings}{measured}", WIDTH, break_on_hyphens=False)
        parts.append(f"{text}\n\n{table(shown, gpu)}\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(), encoding="utf-8")
    print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
