"""Run the examples of the pages "Other representations of motion" and "Speech features" with every layout and feature.

    python -m benchmarks.trained_examples [--only NAME ...]

The code is read from the pages, so that the tables there report on the code above them. The result is
``benchmarks/results/trained_examples.json``; the site makes the tables from it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from avsync._files import write_json
from avsync.audio import MFCC, LogMel, Prosody, SpeechFeatures
from avsync.landmarks import LAYOUTS, Layout
from benchmarks import _harness

DOCS = Path(__file__).parents[1] / "docs"
RECORD = "trained_examples"
LAYOUT, FEATURES = "layout", "features"
PAGES = {LAYOUT: DOCS / "representations.md", FEATURES: DOCS / "speech-features.md"}
"""Page by the name that its examples set in a line of its own."""
MOST_LINES = 15


class Result(NamedTuple):
    """Results of both examples of a page."""

    clips: int
    """Crops of unseen speakers."""
    within_one: float
    """Share of the crops whose offset is within one frame."""
    seconds: float
    """Time by the clock of the first example: making the clips, training, evaluation."""
    processor_seconds: float
    before: float
    """Sync loss of the second example before its first step."""
    after: float


def layouts() -> dict[str, Layout]:
    """Return the layouts by the name of their row."""
    solid = replace(LAYOUTS["landmarks68"], dims=(3, 2))
    every_tenth = LAYOUTS["flame5023"].subset(range(0, 5023, 10))
    return {**LAYOUTS, "landmarks68 in 3D": solid, "every tenth vertex of flame5023": every_tenth}


def own_network() -> Any:
    """Return the features of the random network of the page, from the block that builds it."""
    (block,) = [block for block in python_blocks(PAGES[FEATURES]) if "SpeechModelFeatures(" in block]
    namespace: dict[str, Any] = {"torch": torch}
    exec(compile(block, PAGES[FEATURES].name, "exec"), namespace)  # noqa: S102 - running it is the purpose
    return namespace[FEATURES]


FEATURE_MODULES: dict[str, Callable[[], Any]] = {
    "log-mel": LogMel,
    "MFCC": MFCC,
    "prosody": Prosody,
    "log-mel and prosody": lambda: SpeechFeatures(kind="log-mel-prosody"),
    "random network with the kernels of HuBERT": own_network,
}
"""Speech features by the name of their row."""


def python_blocks(page: Path, language: str = "python") -> list[str]:
    """Return the blocks of Python of a page; blocks that need more than this package have the language "py"."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def examples(name: str) -> tuple[str, str]:
    """Return the example that trains and the one that guides, without the line that sets ``name``.

    Args:
        name: A key of :data:`PAGES`.
    """
    found = [
        next(block for block in python_blocks(PAGES[name]) if text in block) for text in ("train_syncers(", "optimizer.step()")
    ]
    trains, set_once = re.subn(rf"^{name} = .*\n", "", found[0], flags=re.MULTILINE)
    if set_once != 1:
        raise ValueError(f"expected one line that sets `{name}` in {PAGES[name]}, got {set_once}")
    return trains, found[1]


def run_examples(name: str, value: Any) -> Result:
    """Run both examples of a page with another layout or other features.

    Args:
        name: A key of :data:`PAGES`.
        value: The layout or the features.
    """
    trains, guides = examples(name)
    namespace: dict[str, Any] = {"__name__": "__main__", "torch": torch, name: value}
    with contextlib.redirect_stdout(io.StringIO()):
        start, processor = time.perf_counter(), time.process_time()
        exec(compile(trains, PAGES[name].name, "exec"), namespace)  # noqa: S102 - running it is the purpose
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        exec(compile(guides, PAGES[name].name, "exec"), namespace)  # noqa: S102
    found, values = namespace["result"], [loss.item() for loss in namespace["values"]]
    return Result(found.clips, found.within_one, seconds, processor, values[0], values[-1])


def record() -> dict[str, Any]:
    """Return the results that are recorded, by page and row."""
    path = _harness.RESULTS / f"{RECORD}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def rows(name: str) -> list[str]:
    """Return the table of a page in Markdown, with a line on the machine below it.

    Args:
        name: A key of :data:`PAGES`.
    """
    lines = [
        f"| {name} | crops | within one frame | training, s | processor time, s | loss before | loss after |",
        "|---" * 7 + "|",
    ]
    entry = record()[name]
    for row, values in entry["rows"].items():
        result = Result(**values)
        cells = [row, f"{result.clips}", f"{100 * result.within_one:.0f} %"]
        cells += [f"{value:.1f}" for value in (result.seconds, result.processor_seconds)]
        cells += [f"{value:.2f}" for value in (result.before, result.after)]
        lines.append(f"| {' | '.join(cells)} |")
    metadata = entry["metadata"]
    machine = (
        f"Measured on {metadata['cores']} cores of {metadata['cpu']}, no GPU, {metadata['threads']} thread(s), torch"
        f" {metadata['torch']}, {metadata['date'][:10]}, mean load {metadata['load_average'][0]:.1f}. Training includes"
        " making the clips and the evaluation. Other work slows the clock, but not the processor time."
    )
    return [*lines, "", machine]


def main() -> None:
    """Measure, print and write ``benchmarks/results/trained_examples.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="rows to measure; the others are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    makers: dict[str, dict[str, Callable[[], Any]]] = {
        LAYOUT: {row: lambda layout=layout: layout for row, layout in layouts().items()},  # type: ignore[misc]
        FEATURES: FEATURE_MODULES,
    }
    run_examples(FEATURES, LogMel())  # imports are not part of the measurement
    for name, made in makers.items():
        for row in [row for row in made if not args.only or row in args.only]:
            result = run_examples(name, made[row]())
            print(f"{row}: {result}", flush=True)
            found = record()
            results = {**found.get(name, {"rows": {}})["rows"], row: result._asdict()}
            ordered = {known: results[known] for known in made if known in results}
            found[name] = {"metadata": _harness.run_metadata(), "rows": ordered}
            write_json(_harness.RESULTS / f"{RECORD}.json", found)


if __name__ == "__main__":
    main()
