"""The paper's whole system: syncers, generator, judge; on the embedded synthetic talker or on a corpus of your own.

    python examples/msync/train.py                          # a few minutes on two cores
    python examples/msync/train.py --preset small --corpus PATH
    python examples/msync/train.py --preset small --corpus PATH --syncers landmarks68-25fps --judge landmarks68-25fps-judge
    python examples/msync/train.py --levels 1 --branches 1  # the paper's single-scale ablation
    python examples/msync/train.py --devices 2              # two processes; torchrun and srun start them as well (docs/training.md)

Everything a run makes lies under ``runs/<name>/``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from judging import Row, bounds, generate, judge, syncer_lines, table
from pipeline import Material, generator_stage, load_material, syncer_stage, trained_pyramid
from presets import PRESETS, Preset
from report import write_figures, write_sample

from avsync._files import write_json
from avsync.errors import AvsyncError, CheckpointError
from avsync.models.generator.model import MultiScaleGenerator
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.pretrained import config_to_dict
from avsync.training.engine import History
from avsync.training.processes import first_process, make_fabric, on_first_process
from avsync.training.syncers import evaluate_syncers


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="quick", help="sizes and schedule (default: quick)")
    parser.add_argument("--corpus", default="synthetic", help="'synthetic', or a folder of clips (default: synthetic)")
    parser.add_argument("--levels", type=int, choices=range(1, 5), help="levels of the sync loss (ablation)")
    parser.add_argument("--branches", type=int, help="branches of the generator (ablation)")
    parser.add_argument(
        "--syncers", help="trained syncers that guide the generator: a folder or a shipped model (default: train them)"
    )
    parser.add_argument("--judge", help="trained syncers that judge it, others than those (default: train them)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything")
    parser.add_argument("--name", help="name of the run's folder (default: the preset and the corpus)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where runs lie (default: runs)")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run of this name stopped")
    parser.add_argument("--skip-bad", action="store_true", help="leave damaged clips out, and list them, instead of stopping")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu or cuda (Lightning Fabric)")
    parser.add_argument("--devices", type=int, default=1, help="devices, or processes on a CPU, of each machine (default: 1)")
    parser.add_argument("--num-nodes", type=int, default=1, help="machines (default: 1)")
    parser.add_argument("--compile", action="store_true", help="compile the syncers with torch.compile")
    parser.add_argument("--precision", default="32-true", help="32-true, bf16-mixed or 16-mixed (Lightning Fabric)")
    parser.add_argument("--threads", type=int, help="processor threads (default: torch's choice)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(arguments)


def choose_preset(arguments: argparse.Namespace) -> Preset:
    """The preset with the command line's changes."""
    preset = PRESETS[arguments.preset]
    if arguments.levels is not None:
        preset = dataclasses.replace(preset, levels=arguments.levels)
    if arguments.branches is not None:
        preset = dataclasses.replace(preset, generator=dataclasses.replace(preset.generator, num_branches=arguments.branches))
    return preset.seeded(arguments.seed)


def run_folder(arguments: argparse.Namespace) -> Path:
    """Where the run lies."""
    corpus = "synthetic" if arguments.corpus == "synthetic" else Path(arguments.corpus).resolve().name
    folder: Path = arguments.out / (arguments.name or f"{arguments.preset}-{corpus}")
    return folder


def open_run(run: Path, arguments: argparse.Namespace, preset: Preset) -> None:
    """Make the run's folder, or check that the one to resume was made by the same settings.

    Raises:
        CheckpointError: The folder holds another run, or holds one and ``--resume`` was not given.
    """
    settings = {"preset": config_to_dict(preset), "corpus": arguments.corpus, "precision": arguments.precision}
    settings |= {name: getattr(arguments, name) for name in ("syncers", "judge")}
    settings = json.loads(json.dumps(settings))
    if (run / "config.json").is_file():
        if not arguments.resume:
            raise CheckpointError(f"{run} holds a run already; go on with it (--resume), or choose another --name")
        if json.loads((run / "config.json").read_text()) != settings:
            raise CheckpointError(f"{run / 'config.json'} is of other settings than these; choose another --name")
    write_json(run / "config.json", settings)


def evaluate(
    material: Material, preset: Preset, judge_pyramid: MultiScaleSyncer, generator: MultiScaleGenerator
) -> tuple[list[Row], torch.Tensor]:
    """The rows of the table, and the motion that the generator made for the judged clips."""
    margin = preset.judged_margin
    made = generate(generator, material.crops, margin=margin)
    rows = bounds(judge_pyramid, material.crops, margin=margin)
    return [rows[0], judge("generated", judge_pyramid, made, material.crops, margin=margin), *rows[1:]], made


def run_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """All stages, from the corpus to the table; returns what metrics.json holds, and nothing on other processes than the first."""
    began = time.monotonic()
    preset = choose_preset(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # First of all, so that the processes which Fabric starts run everything below once each.
    fabric = make_fabric(
        accelerator=arguments.accelerator,
        devices=arguments.devices,
        num_nodes=arguments.num_nodes,
        precision=arguments.precision,
    )
    material = load_material(arguments.corpus, preset, skip_bad=arguments.skip_bad)
    run = run_folder(arguments)
    on_first_process(fabric, lambda: open_run(run, arguments, preset))
    if first_process(fabric):
        print(f"training on {material.train}")
        print(f"judging on {len(material.crops)} clips of {material.val} ({material.silent} without speech)")
    progress, histories = not arguments.quiet, dict[str, History]()
    options: dict[str, Any] = {"resume": arguments.resume, "progress": progress}
    generator_options = dict(options)
    options["compiled"] = arguments.compile
    pyramids = {}
    for name, training in (("syncers", preset.syncer_training), ("judge", preset.metric_training)):
        source = getattr(arguments, name)
        if source is not None:
            pyramids[name] = trained_pyramid(name, source, preset, fabric)
        else:
            pyramids[name], histories[name] = syncer_stage(name, material, preset, training, run, fabric, **options)
    syncers, judging = pyramids["syncers"], pyramids["judge"]
    generator, histories["generator"] = generator_stage(
        material, preset, syncers, run, fabric, judging=judging, **generator_options
    )
    if not first_process(fabric):
        return {}
    crops = dataclasses.replace(material, crops=material.crops.to(fabric.device))
    reports = {
        name: evaluate_syncers(pyramid, crops.crops, margin=preset.judged_margin)
        for name, pyramid in (("syncers", syncers), ("judge", judging))
    }
    rows, made = evaluate(crops, preset, judging, generator)
    metrics = {
        "minutes": (time.monotonic() - began) / 60,
        "judged_clips": len(material.crops),
        "syncers": {name: [report._asdict() for report in levels] for name, levels in reports.items()},
        "rows": [row.as_dict() for row in rows],
    }
    write_json(run / "metrics.json", metrics)
    write_figures(run / "figures", crops, preset, histories, rows, syncers, generator, made)
    write_sample(run / "sample.mp4", crops, preset, made)
    print("\n".join(syncer_lines(name, levels) for name, levels in reports.items()))
    print(f"\n{table(rows)}\n\n{run} in {metrics['minutes']:.1f} min: metrics.json, figures/, sample.mp4")
    return metrics


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; errors of ours are one line, not a traceback."""
    try:
        run_all(parse_arguments(arguments))
    except AvsyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
