"""Join pretrained pyramids to ensembles, score them, and write a model card for each.

    python examples/pretrained_models/join.py --corpus PATH [--out avsync/weights]

Nothing is trained: run it after ``pretrain.py`` has written the members, and ``avsync calibrate`` after it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from cards import write_ensemble_card
from pretrain import evaluated

from avsync.audio import SpeechFeatures
from avsync.corpus import ClipBank, Corpus
from avsync.models import SyncerEnsemble, SyncerPyramid
from avsync.pretrained import pretrained_models, save_pretrained


@dataclass(frozen=True)
class Together:
    """Members of an ensemble.

    Attributes:
        about: Purpose of the ensemble, one sentence of the model card.
        members: Weight of each member, by name.
    """

    about: str
    members: dict[str, float]


ENSEMBLES = {
    "landmarks68-25fps-ensemble": Together(
        "The default and the lips alone, asked together: for short clips, and wherever nearly twice the time is no matter.",
        {"landmarks68-25fps": 1.0, "landmarks68-25fps-mouth": 1.0},
    ),
}


def join(name: str, together: Together, val: Corpus, out: Path) -> None:
    """Join, score and write one ensemble of pretrained pyramids."""
    pyramids = [SyncerPyramid.from_pretrained(member) for member in together.members]
    ensemble = SyncerEnsemble.of(pyramids, weights=list(together.members.values()))
    shared = [member for member in together.members if member in pretrained_models()]  # a folder's weights are copied
    save_pretrained(ensemble, out / name, dtype=torch.float16, shared=shared)
    # Scores use the weights as loaded.
    bank = ClipBank(val, features=SpeechFeatures(kind=pyramids[0].config.audio).features)
    numbers = evaluated(SyncerEnsemble.from_pretrained(out / name), bank)
    write_ensemble_card(out / name / "README.md", name, together.about, together.members, numbers)
    print(f"{name}: written to {out / name}")


def main() -> None:
    """Join all ensembles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder of a corpus with the split val")
    parser.add_argument("--out", default="avsync/weights", help="folder of the finished models")
    args = parser.parse_args()
    val = Corpus(args.corpus, split="val")
    for name, together in ENSEMBLES.items():
        join(name, together, val, Path(args.out))


if __name__ == "__main__":
    main()
