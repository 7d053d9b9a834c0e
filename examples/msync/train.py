"""Complete system of the paper (syncers, generator, evaluation) on the synthetic talker or on your own corpus.

    python examples/msync/train.py                          # a few minutes on two cores
    python examples/msync/train.py --preset small --corpus PATH
    python examples/msync/train.py --preset small --corpus PATH --syncers landmarks68-25fps --judge landmarks68-25fps-judge
    python examples/msync/train.py --preset lifelike-end --corpus PATH --start runs/NAME/generator   # further training
    python examples/msync/train.py --levels 1 --branches 1  # the paper's single-scale ablation
    python examples/msync/train.py --devices 2              # two processes; torchrun and srun start them as well
    (docs/training.md)

All files of a run are in ``runs/<name>/``. Ctrl-C and SIGTERM save the state; --resume continues.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch
from evaluation import (
    Row,
    baselines,
    dynamics,
    dynamics_table,
    evaluate_motion,
    generate,
    spread,
    syncer_lines,
    table,
)
from pipeline import Material, generator_stage, load_material, syncer_stage, trained_pyramid, write_json
from presets import PRESETS, Preset
from report import write_figures, write_sample

from avsync.errors import AvsyncError, CheckpointError
from avsync.models import MultiScaleGenerator, MultiScaleSyncer
from avsync.pretrained import config_to_dict
from avsync.training import (
    History,
    TrainingInterrupted,
    evaluate_syncers,
    first_process,
    free_cores,
    make_fabric,
    on_first_process,
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="quick", help="sizes and schedule (default: quick)")
    parser.add_argument("--corpus", default="synthetic", help="'synthetic', or a folder of clips (default: synthetic)")
    parser.add_argument("--levels", type=int, choices=range(1, 5), help="levels of the sync loss (ablation)")
    parser.add_argument(
        "--frames", type=int, help="generated frames per training clip; 80 for MS-Sync-long (default: the preset's)"
    )
    parser.add_argument("--branches", type=int, help="branches of the generator (ablation)")
    parser.add_argument(
        "--syncers", help="trained syncers that guide the generator: a folder or a pretrained model (default: train them)"
    )
    parser.add_argument(
        "--judge", help="trained syncers that evaluate the generator, other than --syncers (default: train them)"
    )
    parser.add_argument(
        "--start",
        help="trained generator whose weights the new one begins with: a folder or a pretrained model (default: none)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything")
    parser.add_argument("--name", help="name of the run's folder (default: the preset and the corpus)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of all runs (default: runs)")
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted run of this name from its last checkpoints"
    )
    parser.add_argument("--skip-bad", action="store_true", help="list damaged clips and leave them out, instead of stopping")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu or cuda (Lightning Fabric)")
    parser.add_argument("--devices", type=int, default=1, help="devices, or processes on a CPU, of each machine (default: 1)")
    parser.add_argument("--num-nodes", type=int, default=1, help="machines (default: 1)")
    parser.add_argument("--compile", action="store_true", help="compile the syncers with torch.compile")
    parser.add_argument("--precision", default="32-true", help="32-true, bf16-mixed or 16-mixed (Lightning Fabric)")
    parser.add_argument(
        "--cuda-graphs",
        action=argparse.BooleanOptionalAction,
        help="record the generator's training step as a CUDA graph (default: on one GPU, without 16-mixed)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="processor threads of each process (default: torch's choice, less the cores that other programs keep busy now:"
        " on a busy machine two threads can be many times slower than one)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(arguments)


def choose_preset(arguments: argparse.Namespace) -> Preset:
    """Return the preset with the command line's changes."""
    preset = PRESETS[arguments.preset]
    if arguments.levels is not None:
        preset = dataclasses.replace(preset, levels=arguments.levels)
    if arguments.frames is not None:
        preset = dataclasses.replace(preset, gan=dataclasses.replace(preset.gan, frames=arguments.frames))
    if arguments.branches is not None:
        preset = dataclasses.replace(preset, generator=dataclasses.replace(preset.generator, num_branches=arguments.branches))
    return preset.seeded(arguments.seed)


def run_folder(arguments: argparse.Namespace) -> Path:
    """Return the run's folder."""
    corpus = "synthetic" if arguments.corpus == "synthetic" else Path(arguments.corpus).resolve().name
    folder: Path = arguments.out / (arguments.name or f"{arguments.preset}-{corpus}")
    return folder


def open_run(run: Path, arguments: argparse.Namespace, preset: Preset) -> None:
    """Make the run's folder, or check that the run to resume has the same settings.

    Raises:
        CheckpointError: The folder holds a run and ``--resume`` was not given, or its settings differ or cannot be read.
    """
    settings = {"preset": config_to_dict(preset), "corpus": arguments.corpus, "precision": arguments.precision}
    settings |= {name: getattr(arguments, name) for name in ("syncers", "judge", "start")}
    settings = json.loads(json.dumps(settings))
    if (run / "config.json").is_file():
        if not arguments.resume:
            raise CheckpointError(f"{run} holds a run already; continue it (--resume), or choose another --name")
        try:
            saved = json.loads((run / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"`--resume`: {run / 'config.json'} is damaged ({error}); choose another --name") from error
        differing = sorted(name for name in settings if not isinstance(saved, dict) or saved.get(name) != settings[name])
        if differing:
            raise CheckpointError(f"`--resume`: {run / 'config.json'} differs in {', '.join(differing)}; choose another --name")
    write_json(run / "config.json", settings)


def evaluate(
    material: Material, preset: Preset, syncers: MultiScaleSyncer, generator: MultiScaleGenerator
) -> tuple[list[Row], torch.Tensor]:
    """Compute the rows of the table, and the generated motion of the validation clips."""
    margin = preset.evaluated_margin
    made = generate(generator, material.crops, margin=margin)
    truth, *others = baselines(syncers, material.crops, margin=margin)
    return [truth, evaluate_motion("generated", syncers, made, material.crops, margin=margin), *others], made


def run_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all stages, from the corpus to the table.

    Returns:
        The content of metrics.json; nothing on other processes than the first.
    """
    began = time.monotonic()
    preset = choose_preset(arguments)
    torch.set_num_threads(arguments.threads or max(1, free_cores() // arguments.devices))
    # Launch first, so that each process started by Fabric runs the code below once.
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
        print(f"validation on {len(material.crops)} clips of {material.val} ({material.silent} without speech)")
        print(f"processor threads: {torch.get_num_threads()} (--threads)")
    progress, histories = not arguments.quiet, dict[str, History]()
    options: dict[str, Any] = {"resume": arguments.resume, "progress": progress}
    generator_options = {**options, "cuda_graphs": arguments.cuda_graphs, "start": arguments.start}
    options["compiled"] = arguments.compile
    pyramids = {}
    for name, training in (("syncers", preset.syncer_training), ("judge", preset.metric_training)):
        source = getattr(arguments, name)
        if source is not None:
            pyramids[name] = trained_pyramid(name, source, preset, fabric)
        else:
            pyramids[name], histories[name] = syncer_stage(name, material, preset, training, run, fabric, **options)
    syncers, evaluation_syncers = pyramids["syncers"], pyramids["judge"]
    generator, histories["generator"] = generator_stage(
        material, preset, syncers, run, fabric, evaluation_syncers=evaluation_syncers, **generator_options
    )
    if not first_process(fabric):
        return {}
    crops = dataclasses.replace(material, crops=material.crops.to(fabric.device))
    reports = {
        name: evaluate_syncers(pyramid, crops.crops, margin=preset.evaluated_margin) for name, pyramid in pyramids.items()
    }
    rows, made = evaluate(crops, preset, evaluation_syncers, generator)
    real = crops.crops.landmarks
    moving = [dynamics(name, motion, real) for name, motion in (("ground truth", real), ("generated", made))]
    apart = spread(made, generate(generator, crops.crops, margin=preset.evaluated_margin, seed=1))
    metrics = {
        "minutes": (time.monotonic() - began) / 60,
        "validation_clips": len(material.crops),
        "threads": torch.get_num_threads(),
        "syncers": {name: [report._asdict() for report in levels] for name, levels in reports.items()},
        "rows": [row.as_dict() for row in rows],
        "dynamics": [dataclasses.asdict(row) for row in moving],
        "spread": apart,
    }
    write_json(run / "metrics.json", metrics)
    write_figures(run / "figures", crops, preset, histories, rows, syncers, generator, made)
    write_sample(run / "sample.mp4", crops, preset, made)
    print("\n".join(syncer_lines(name, levels) for name, levels in reports.items()))
    print(f"\n{table(rows)}\n\n{dynamics_table(moving, apart)}\n")
    print(f"{run} in {metrics['minutes']:.1f} min: metrics.json, figures/, sample.mp4")
    return metrics


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; an error of avsync is printed as one line, not as a traceback."""
    show_messages()
    try:
        run_all(parse_arguments(arguments))
    except AvsyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except TrainingInterrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_status
    except KeyboardInterrupt:
        print("interrupted; --resume continues with the first stage that is not finished", file=sys.stderr)
        return 130
    return 0


def show_messages() -> None:
    """Print what training reports, for example the checkpoint that a run continues from."""
    messages = logging.getLogger("avsync")
    messages.setLevel(logging.INFO)
    if not messages.handlers:
        handler = logging.Handler()
        handler.emit = lambda record: print(record.getMessage())  # type: ignore[method-assign]
        messages.addHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
