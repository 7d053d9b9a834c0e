"""Ablation: the pose of the head against log-mel energies, against prosody, and against both.

    python examples/pretrained_models/pose_audio.py --corpus PATH [--kinds KIND ...] [--seeds 0 1] [--steps 250] [--out FILE]

Trains the pose pyramid of ``regions.py`` once per kind of audio features and seed, with everything else the same, and measures
each model as ``region_accuracy.py`` does. About 5 minutes of one core per run; an interrupted run goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from head_accuracy import measured
from outputs import add_outputs, write_outputs
from region_accuracy import values
from regions import LEVELS, RECIPES, train_region
from robust import finest, moved

from avsync.audio import SpeechFeatures
from avsync.corpus import Clip, ClipBank, Corpus
from avsync.models import SyncerPyramid

KINDS = ("log-mel", "prosody", "log-mel-prosody")


def run(clips: Mapping[str, Sequence[Clip]], kind: str, seed: int, steps: int, work: Path) -> dict[str, Any]:
    """Train the pose against audio features of ``kind`` and measure it.

    Args:
        clips: Clips of the splits "train" and "val".
        kind: Audio features.
        seed: Seed of the run.
        steps: Optimisation steps.
        work: Folder of checkpoints.

    Returns:
        The result of ``head_accuracy.measured``.
    """
    train, val = (ClipBank(clips[split], features=SpeechFeatures(kind=kind).features) for split in ("train", "val"))
    recipe = replace(RECIPES["pose"], audio=kind, seed=seed, steps=steps)
    pose = train_region(recipe, train, work / f"{kind}-{seed}-{steps}.ckpt")
    return measured(finest(pose, LEVELS["pose"][-1] + 1), val)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure and print one row per run and half of the speakers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder of a corpus with the splits train and val")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="audio features (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="seeds of the runs (default: 0 1)")
    parser.add_argument("--steps", type=int, default=RECIPES["pose"].steps, help="optimisation steps (default: 250)")
    parser.add_argument("--work", default="runs/pose-audio", help="folder of checkpoints")
    add_outputs(parser)
    args = parser.parse_args(arguments)
    start = SyncerPyramid.from_pretrained("landmarks68-25fps")
    clips = {"train": moved(Corpus(args.corpus, split="train"), start), "val": list(Corpus(args.corpus, split="val"))}
    numbers: dict[str, dict[str, Any]] = {}
    for seed in args.seeds:
        for kind in args.kinds:
            found = numbers[f"{kind}, seed {seed}"] = run(clips, kind, seed, args.steps, Path(args.work))
            for half in "AB":
                pairs = zip(values(found, half, "within_one"), values(found, half, "above_stranger"), strict=True)
                print(f"{kind}, seed {seed}, half {half}:", *(f"{within} / {above}" for within, above in pairs), flush=True)
    write_outputs(args, numbers)


if __name__ == "__main__":
    main()
