"""Make `landmarks68-25fps-pose`: the head model without the leak from the lips into nose and eyes.

    python examples/pretrained_models/heads.py --corpus PATH [--out avsync/weights]

Nothing is trained: the weights are those of `landmarks68-25fps-head`, and the leak is fitted on the train split and subtracted
inside the model (``remove_lips`` of :class:`avsync.models.syncer.pyramid.SyncerPyramidConfig`). ``head_accuracy.py`` measures
both.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from avsync.audio import SpeechFeatures
from avsync.corpus import ClipBank, Corpus, CropBank
from avsync.models import SyncerPyramid
from avsync.pretrained import save_pretrained
from avsync.training import lip_leak

NAME, START = "landmarks68-25fps-pose", "landmarks68-25fps-head"


def without_lips(head: SyncerPyramid, bank: CropBank) -> SyncerPyramid:
    """Return a pyramid with the same weights that subtracts the leak of the lips, fitted on the clips of a bank."""
    pyramid = SyncerPyramid(replace(head.config, remove_lips=True)).eval()
    pyramid.load_state_dict(head.state_dict(), strict=False)
    pyramid.set_lip_leak(lip_leak(bank))
    return pyramid


def main() -> None:
    """Write the model; its card is written by hand from the results of ``head_accuracy.py``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder of a corpus with the split train")
    parser.add_argument("--out", default="avsync/weights", help="folder of the finished models")
    args = parser.parse_args()
    bank = ClipBank(Corpus(args.corpus, split="train"), features=SpeechFeatures(kind="log-mel").features)
    save_pretrained(without_lips(SyncerPyramid.from_pretrained(START), bank), Path(args.out) / NAME, dtype=torch.float16)


if __name__ == "__main__":
    main()
