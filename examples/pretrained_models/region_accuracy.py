"""Measure and draw how well each region of the face fits speech at each level.

    python examples/pretrained_models/region_accuracy.py --corpus PATH [--model NAME_OR_FOLDER] [--out FILE] [--figure FILE]

Each region of the model alone, all regions together, and the whole-face default, on validation speakers, by the measures of
``head_accuracy.py``. The figure shows half B of the speakers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from head_accuracy import measured
from outputs import add_outputs, write_outputs

from avsync.audio import SpeechFeatures
from avsync.corpus import ClipBank, Corpus
from avsync.models import MultiScaleSyncer, SyncerPyramid, SyncerRegions

WHOLE_FACE = "landmarks68-25fps"
CHANCE = (100 * 3 / 31, 100 * 3 / 31, 100 * 3 / 17, 100 * 3 / 11, 100 * 3 / 7, 100 * 3 / 5)
"""Chance level of an offset within one frame, per level."""
MEASURES = {"within_one": "offset within one frame, %", "above_stranger": "own audio above a stranger's, %"}


def measure(syncers: SyncerRegions, corpus: Corpus, *, stride: int = 20) -> dict[str, Any]:
    """Measure every region alone, all together, and the whole face."""
    models: dict[str, MultiScaleSyncer] = {name: syncers.region(name) for name in syncers.regions}
    models |= {"all regions": syncers, "whole face": SyncerPyramid.from_pretrained(WHOLE_FACE)}
    kinds = {model.interface.audio for model in models.values()}
    banks = {kind: ClipBank(corpus, features=SpeechFeatures(kind=kind).features) for kind in kinds}
    return {name: measured(model, banks[model.interface.audio], stride=stride) for name, model in models.items()}


def values(found: Mapping[str, Any], group: str, name: str) -> list[float]:
    """Return a measure of all levels, for one half of the speakers."""
    return [value for lengths in found.values() for value in lengths[group][name]]


def draw(numbers: Mapping[str, Any], path: Path, *, group: str = "B") -> None:
    """Draw both measures by level."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axes, (name, label) in zip(panels, MEASURES.items(), strict=True):
        for region, found in numbers.items():
            shares = values(found, group, name)
            style = "--" if region in ("all regions", "whole face") else "-"
            axes.plot(range(len(shares)), shares, style, marker="o", markersize=4, label=region)
        chance = CHANCE if name == "within_one" else (50.0,) * 6
        axes.plot(range(6), chance, ":", color="grey", label="chance")
        axes.set(xlabel="level", ylabel=label, ylim=(0 if name == "within_one" else 45, 102), xticks=range(6))
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder of a corpus with the split val")
    parser.add_argument("--model", default="landmarks68-25fps-regions", help="name or folder of syncers of regions")
    add_outputs(parser, figure=True)
    args = parser.parse_args()
    numbers = measure(SyncerRegions.from_pretrained(args.model), Corpus(args.corpus, split="val"))
    print(json.dumps(numbers, indent=1))
    write_outputs(args, numbers, draw)


if __name__ == "__main__":
    main()
