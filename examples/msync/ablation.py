"""Ablation of the paper's Figure 5: gain from the levels of the loss and from the branches of the generator.

    python examples/msync/ablation.py --corpus PATH --seeds 3

trains one pyramid of syncers and one independent evaluation model, then four kinds of generator (1 or 4 levels of the loss, 1
or 4 branches) from several seeds, two at a time on two cores, and prints the evaluation model's confidence on unseen speakers.
Finished runs are not trained again, so the command can be interrupted and restarted.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from evaluation import Row, baselines, evaluate_motion, generate, syncer_lines, table
from pipeline import Material, generator_stage, load_material, syncer_stage, write_json
from presets import PRESETS, Preset
from report import write_sample

from avsync import AvsyncError, SyncerPyramid
from avsync.figures import confidence_by_level, save_figure
from avsync.training import evaluate_syncers, make_fabric

ARMS = {
    "4 levels, 4 branches": (4, 4),
    "4 levels, 1 branch": (4, 1),
    "1 level, 4 branches": (1, 4),
    "1 level, 1 branch": (1, 1),
}
_T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""Student's t for two-sided 95 %, by degrees of freedom."""


@functools.cache
def _material(corpus: str, preset: Preset) -> Material:
    """Read the corpus, once in each worker process."""
    return load_material(corpus, preset)


def _train_pyramid(name: str, corpus: str, preset: Preset, run: Path) -> str:
    training = preset.syncer_training if name == "syncers" else preset.metric_training
    fabric = make_fabric(accelerator="cpu")
    syncer_stage(name, _material(corpus, preset), preset, training, run, fabric, resume=True, progress=False)
    return name


def _train_arm(arm: str, seed: int, corpus: str, preset: Preset, run: Path) -> str:
    material = _material(corpus, preset)
    levels, branches = ARMS[arm]
    preset = dataclasses.replace(preset, levels=levels, generator=dataclasses.replace(preset.generator, num_branches=branches))
    preset = dataclasses.replace(preset, gan=dataclasses.replace(preset.gan, seed=seed))
    folder = run / f"levels{levels}-branches{branches}-seed{seed}"
    fabric = make_fabric(accelerator="cpu")
    syncers = SyncerPyramid.from_pretrained(run / "syncers")
    generator, _ = generator_stage(material, preset, syncers, folder, fabric, resume=True, progress=False)
    margin = preset.evaluated_margin
    made = generate(generator, material.crops, margin=margin)
    row = evaluate_motion(arm, SyncerPyramid.from_pretrained(run / "judge"), made, material.crops, margin=margin)
    write_json(folder / "metrics.json", row.as_dict())
    write_sample(folder / "sample.mp4", material, preset, made)
    return f"{arm}, seed {seed}"


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Compute the mean and the half-width of its 95 % interval by Student's t; infinite for a single value."""
    if len(values) < 2:
        return values[0], math.inf
    t = _T95.get(len(values) - 1, 1.96)
    return statistics.mean(values), t * statistics.stdev(values) / math.sqrt(len(values))


def pooled(arm: str, rows: list[dict[str, Any]]) -> Row:
    """Average the rows of an arm over seeds; intervals are over seeds."""
    levels = range(len(rows[0]["confidence"]))
    intervals = [mean_and_interval([row["confidence"][level] for row in rows]) for level in levels]
    return Row(
        name=arm,
        confidence=[mean for mean, _ in intervals],
        confidence_error=[half for _, half in intervals],
        absolute_offset=[statistics.mean(row["absolute_offset"][level] for row in rows) for level in levels],
        within_one=[statistics.mean(row["within_one"][level] for row in rows) for level in levels],
        speed=statistics.mean(row["speed"] for row in rows),
    )


def wait_for(jobs: list[Future[str]], began: float) -> None:
    """Report every job that ends; the first error stops the rest."""
    try:
        for number, job in enumerate(as_completed(jobs), start=1):
            print(f"[{(time.monotonic() - began) / 60:5.1f} min] {number}/{len(jobs)} {job.result()}", flush=True)
    except BaseException:
        for job in jobs:
            job.cancel()
        raise


def paired_differences(rows: dict[str, list[dict[str, Any]]], first: str, second: str) -> str:
    """Format the differences of confidence between two arms of equal seeds, with their 95 % interval, by level."""
    cells = []
    for level in range(len(rows[first][0]["confidence"])):
        pairs = zip(rows[first], rows[second], strict=True)
        mean, half = mean_and_interval([a["confidence"][level] - b["confidence"][level] for a, b in pairs])
        cells.append(f"{mean:+.3f} ± {half:.3f}")
    return f"{first} minus {second}: " + ", ".join(cells)


def run_ablation(arguments: argparse.Namespace) -> None:
    """Train the missing models, then print and draw."""
    began = time.monotonic()
    corpus, preset, run = arguments.corpus, PRESETS[arguments.preset].seeded(0), arguments.out / arguments.name
    workers = ProcessPoolExecutor(
        arguments.workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(arguments.threads,),
    )
    with workers as pool:
        wait_for([pool.submit(_train_pyramid, name, corpus, preset, run) for name in ("syncers", "judge")], began)
        jobs = [(arm, seed) for seed in range(arguments.seeds) for arm in ARMS]
        wait_for([pool.submit(_train_arm, arm, seed, corpus, preset, run) for arm, seed in jobs], began)
    rows = {
        arm: [
            json.loads((run / f"levels{levels}-branches{branches}-seed{seed}" / "metrics.json").read_text())
            for seed in range(arguments.seeds)
        ]
        for arm, (levels, branches) in ARMS.items()
    }
    material = load_material(corpus, preset)
    pyramids = {name: SyncerPyramid.from_pretrained(run / name) for name in ("syncers", "judge")}
    reports = {name: evaluate_syncers(it, material.crops, margin=preset.evaluated_margin) for name, it in pyramids.items()}
    print("\n".join(syncer_lines(name, levels) for name, levels in reports.items()))
    lines = baselines(pyramids["judge"], material.crops, margin=preset.evaluated_margin)
    lines += [pooled(arm, of_arm) for arm, of_arm in rows.items()]
    print(f"\n{table(lines)}\n")
    full, *others = ARMS
    differences = [paired_differences(rows, full, other) for other in others]
    print("\n".join(differences))
    minutes = (time.monotonic() - began) / 60
    result = {
        "minutes": minutes,
        "syncers": {name: [report._asdict() for report in levels] for name, levels in reports.items()},
        "rows": [line.as_dict() for line in lines],
        "differences": differences,
        "seeds": rows,
    }
    write_json(run / "metrics.json", result)
    intervals = {
        line.name: [(c, c - e, c + e) for c, e in zip(line.confidence, line.confidence_error, strict=True)] for line in lines
    }
    save_figure(confidence_by_level(intervals, bounds=("static", "shuffled")), run / "confidence.png")
    print(f"\n{run} in {minutes:.1f} min: metrics.json, confidence.png, a video in each folder")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="synthetic", help="'synthetic', or a folder of clips")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="ablation", help="sizes and schedule (default: ablation)")
    parser.add_argument("--seeds", type=int, default=3, help="generators of each kind (default: 3)")
    parser.add_argument("--workers", type=int, default=2, help="training runs at a time (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads of each (default: 1)")
    parser.add_argument("--name", default="ablation", help="name of the folder")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of all runs (default: runs)")
    try:
        run_ablation(parser.parse_args(arguments))
    except AvsyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
