"""Compare what several syncers hear in the motion of a generator with what they hear in that of people.

    python examples/baselines/listeners.py generator-landmarks68-25fps --corpus PATH [--half A] [--listeners NAME ...]

Unseen speakers, clips of 80 frames, as in lifelike.py. A listener that finds few offsets of short clips hears little of the
detail of the lips, and so misses little in motion that lacks it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

import shared  # noqa: F401 - finds the modules of examples/msync
import torch
from judging import heard_banks, measure
from lifelike import SHORT, crops_of, motions
from pipeline import load_material
from presets import LIFELIKE
from torch import Tensor

from avsync import AvsyncError, MultiScaleGenerator
from avsync.corpus import Batch
from avsync.models import MultiScaleSyncer

LISTENERS = ("", "-robust", "-mouth", "-judge-mfcc", "-mfcc", "-judge-mouth", "-judge")
"""Ends of the names of the pretrained models that listen by default, the one that finds most short clips first."""


def confidences(motion: Tensor, heard: Mapping[str, Batch], syncers: MultiScaleSyncer) -> list[float]:
    """Return the mean confidence at every level."""
    found = measure(motion, heard, {"face": syncers})
    return [sum(found[f"face{level}"]) / len(motion) for level in range(syncers.num_levels)]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generator", help="a trained generator: a folder or a pretrained model")
    parser.add_argument("--corpus", default="synthetic", help="'synthetic', or a folder of clips (default: synthetic)")
    parser.add_argument("--half", choices=("A", "B", "both"), default="both", help="half of the speakers (default: both)")
    names = [f"landmarks68-25fps{end}" for end in LISTENERS]
    parser.add_argument("--listeners", nargs="+", default=names, help="syncers: folders or pretrained models")
    args = parser.parse_args(arguments)
    try:
        listeners = {name: MultiScaleSyncer.from_pretrained(name) for name in args.listeners}
        material = load_material(args.corpus, LIFELIKE)
        spoken = crops_of(material.val, SHORT, args.half)
        heard = {kind: crops_of(bank, SHORT, args.half) for kind, bank in heard_banks(material.val_clips, listeners).items()}
        made = motions(MultiScaleGenerator.from_pretrained(args.generator).eval(), spoken)
        print(f"{len(spoken)} clips\n\n| listener | people, levels 0-3 | generated | ratio |\n|---|---|---|---|")
        for name, syncers in listeners.items():
            people, generated = (confidences(motion, heard, syncers) for motion in (spoken.landmarks, made))
            ratios = (torch.tensor(generated) / torch.tensor(people)).tolist()
            cells = [
                " ".join(f"{value:.{digits}f}" for value in row) for row, digits in ((people, 3), (generated, 3), (ratios, 2))
            ]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    except AvsyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
