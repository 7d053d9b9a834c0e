"""Train every baseline and every variant of the system, and write one table of all of them.

    python examples/baselines/run.py --out runs/baselines                                  # the synthetic talker
    python examples/baselines/run.py --out runs/baselines --corpus PATH --seeds 5
    python examples/baselines/run.py --out runs/baselines --corpus PATH --only MS-Sync-short SUHMo-style

"-style" in a name means: a small model of the same kind, trained here, and not the published system. Outputs of published
systems are evaluated with `avsync evaluate`. Finished runs are kept, so the command can be interrupted and repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import audio2head
import makeittalk
import ms_sync
import suhmo
import torch
import wav2lip
from judging import MARGIN, WATCHING, Estimate, estimate, heard_banks, load_models, measure, motion_distance
from shared import PRESETS, SPEECH_SHARE, Animate, Material, Preset, Task, load_material, trained_pyramid, write_json
from torch import Tensor

from avsync import AvsyncError
from avsync.corpus import Batch, ClipBank
from avsync.figures import confidence_by_level, save_figure
from avsync.models import MultiScaleSyncer
from avsync.training import make_fabric

METHODS: dict[str, Callable[[Task], Animate]] = {
    "SUHMo-style": suhmo.train,
    "MakeItTalk-style": makeittalk.train,
    "Audio2Head-style": audio2head.train,
    "Wav2Lip-style": wav2lip.train,
    **{name: functools.partial(ms_sync.train, variant=name) for name in ms_sync.VARIANTS},
}
"""Training function of every method."""
ROWS = (
    "SUHMo-style",
    "MakeItTalk-style",
    "Audio2Head-style",
    "Wav2Lip-style",
    "no sync loss",
    "level 0 only",
    "MS-Sync-short",
    "MS-Sync-long",
)
"""Rows of the table of baselines."""
BOUNDS = ("ground truth", "static", "shuffled")
GUIDE = "landmarks68-25fps"
LENGTHS = (80,)

Results = dict[str, dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that this command shares with claims.py."""
    parser.add_argument("--corpus", default="synthetic", help="'synthetic', or a folder of clips (default: synthetic)")
    parser.add_argument("--evaluation-corpus", help="folder whose validation clips are used (default: that of --corpus)")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="baselines", help="sizes and schedule (default: baselines)"
    )
    parser.add_argument("--steps", type=int, help="steps of the adversarial training (default: the preset's)")
    parser.add_argument("--batch-size", type=int, help="clips per batch (default: the preset's)")
    parser.add_argument(
        "--generator-lr", type=float, help="learning rate of generators that --out does not hold yet (default: the preset's)"
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of every method (default: 1)")
    parser.add_argument("--guide", default=GUIDE, help="syncers that guide the generators (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads (default: 1)")
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")


def preset_of(arguments: argparse.Namespace) -> Preset:
    """Return the preset of the command line, with its steps, batches and learning rate."""
    preset = PRESETS[arguments.preset]
    names = ("steps", "batch_size", "generator_lr")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return dataclasses.replace(preset, gan=dataclasses.replace(preset.gan, **given))


def material_of(arguments: argparse.Namespace, preset: Preset) -> Material:
    """Load the corpus of the command line, with the validation clips of ``--evaluation-corpus``."""
    material = load_material(arguments.corpus, preset)
    if arguments.evaluation_corpus is None:
        return material
    return dataclasses.replace(load_material(arguments.evaluation_corpus, preset), train=material.train)


def method_folder(out: Path, name: str, seed: int) -> Path:
    """Return the folder of a method's run."""
    return out / name.replace(" ", "-").replace(",", "") / f"seed{seed}"


class Bench:
    """Corpus, guide and evaluation models, loaded once for all methods.

    Args:
        arguments: See :func:`add_arguments`.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.set_num_threads(arguments.threads)
        self.out: Path = arguments.out
        self.preset, self.seeds = preset_of(arguments), arguments.seeds
        self.fabric = make_fabric(accelerator="cpu")
        self.guide = trained_pyramid("guide", arguments.guide, self.preset, self.fabric)
        self.material = material_of(arguments, self.preset)
        self.watching = MultiScaleSyncer.from_pretrained(WATCHING)
        self.models = load_models()
        self.banks = heard_banks(self.material.val_clips, self.models)

    def crops(self, frames: int, bank: ClipBank | None = None) -> Batch:
        """Return the validation clips of a length, with audio around them; ``bank`` holds them with other audio features."""
        stride = frames // 2 if frames == self.preset.evaluated_frames else frames
        crops = (bank or self.material.val).windows(frames, stride=stride, margin=MARGIN)
        return crops.select(crops.speech_fraction >= SPEECH_SHARE)

    def speakers(self, crops: Batch) -> list[str]:
        """Return the speaker of every clip."""
        return [self.material.val.clip_speakers[int(number)] for number in crops.clip_index]

    def motion(self, animate: Animate, crops: Batch, seed: int) -> Tensor:
        """Animate the first face of every clip by its audio."""
        rng = torch.Generator().manual_seed(seed)
        audio = crops.audio[:, 4 * MARGIN : -4 * MARGIN]
        parts = zip(crops.landmarks[:, 0].split(64), audio.split(64), strict=True)
        with torch.no_grad():
            return torch.cat([animate(face, heard, rng) for face, heard in parts])

    def animator(self, name: str, seed: int, folder: Path | None = None) -> Animate:
        """Return the function of a method that animates faces; train the method if ``folder`` holds no finished run."""
        preset = dataclasses.replace(self.preset, gan=dataclasses.replace(self.preset.gan, seed=seed))
        folder = method_folder(self.out, name, seed) if folder is None else folder
        return METHODS[name](Task(self.material, preset, self.guide, folder, self.fabric, self.watching))

    def results(self, name: str, lengths: Sequence[int] = LENGTHS) -> list[Results]:
        """Return the measures of a method for every seed, by length; train what is missing."""
        found = []
        for seed in range(self.seeds):
            folder = method_folder(self.out, name, seed)
            path = folder / "metrics.json"
            known: Results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if any(str(frames) not in known for frames in lengths):
                began = time.monotonic()
                animate = self.animator(name, seed)
                known = {}
                for frames in sorted({*lengths, *LENGTHS}):
                    known[str(frames)] = self.judged(self.motion(animate, self.crops(frames), seed))
                write_json(path, known)
                print(f"{name}, seed {seed}: {(time.monotonic() - began) / 60:.1f} min", flush=True)
            found.append(known)
        return found

    def judged(self, made: Tensor) -> dict[str, Any]:
        """Return the measures of motion for the audio of :meth:`crops`: one value per clip, and the distance of the whole."""
        frames = made.shape[1]
        heard = {kind: self.crops(frames, bank) for kind, bank in self.banks.items()}
        return {**measure(made, heard, self.models), "distance": motion_distance(made, self.crops(frames))}

    def bounds(self, frames: int = 80) -> dict[str, dict[str, Any]]:
        """Return the measures of real motion, of a static face, and of the motion of another clip."""
        path = self.out / f"bounds-{frames}.json"
        if path.is_file():
            known: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
            return known
        crops = self.crops(frames)
        real = crops.landmarks
        motions = (real, real[:, :1].expand_as(real), real.roll(max(1, len(crops) // 2), dims=0))
        found = {name: self.judged(motion) for name, motion in zip(BOUNDS, motions, strict=True)}
        write_json(path, found)
        return found


def confidences(results: Sequence[Mapping[str, Any]], speakers: Sequence[str], part: str = "face") -> list[Estimate]:
    """Compute the confidence of a method at every level."""
    return [estimate([seed[f"{part}{level}"] for seed in results], speakers) for level in range(4)]


def row_lines(rows: Mapping[str, Sequence[Mapping[str, Any]]], speakers: Sequence[str]) -> list[str]:
    """Format a Markdown table: confidences of face, mouth and head, and the dynamics; intervals over seeds and speakers."""
    lines = [
        "| | face, levels 0 to 3 | mouth | head | speed | height at the end | mouth opening, mean / 95 % | motion distance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, results in rows.items():
        cells = []
        for part in ("face", "mouth", "head"):
            found = confidences(results, speakers, part)
            half = max(max(each.high - each.mean, each.mean - each.low) for each in found)
            cells.append(" ".join(f"{each.mean:.3f}" for each in found) + f" (±{half:.3f})")
        means = {
            key: estimate([seed[key] for seed in results], speakers).mean for key in ("speed", "height", "opening", "opening95")
        }
        cells += [f"{means['speed']:.3f}", f"{means['height']:.3f}", f"{means['opening']:.3f} / {means['opening95']:.3f}"]
        cells.append(" ".join(f"{seed['distance']:.1f}" for seed in results))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def figure_rows(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], speakers: Sequence[str], part: str = "face"
) -> dict[str, list[tuple[float, float, float]]]:
    """Return (mean, low, high) per level and method, for the figure."""
    return {
        name: [(each.mean, each.low, each.high) for each in confidences(results, speakers, part)]
        for name, results in rows.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=sorted(METHODS), default=list(ROWS), help="methods (default: all rows)")
    args = parser.parse_args(arguments)
    try:
        bench = Bench(args)
        bounds = bench.bounds()
        rows = {name: [bounds[name]] for name in BOUNDS}
        rows |= {name: [result["80"] for result in bench.results(name)] for name in args.only}
    except AvsyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    speakers = bench.speakers(bench.crops(80))
    lines = row_lines(rows, speakers)
    note = (
        f"{len(speakers)} clips of {len(set(speakers))} unseen speakers, {args.seeds} seeds, {bench.preset.gan.steps} steps of"
        f" {bench.preset.gan.batch_size} clips; the largest half-width of the 95 % intervals in parentheses."
    )
    text = "\n".join([*lines, "", note, ""])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(text, encoding="utf-8")
    for part in ("face", "mouth", "head"):
        figure = confidence_by_level(figure_rows(rows, speakers, part), bounds=BOUNDS, ylabel=f"confidence of the {part}")
        save_figure(figure, args.out / f"{part}.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
