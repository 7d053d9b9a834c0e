"""Fit the motion prior of the package to a corpus of real faces.

    python examples/pretrained_models/fit_prior.py --corpus PATH [--out avsync/weights] [--clips 768]

Uses the train speakers only. Takes seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from avsync import SpeechFeatures, save_pretrained
from avsync.corpus import ClipBank, Corpus
from avsync.losses import MotionPrior

NAME = "motion-prior-landmarks68-25fps"
CARD = """# {name}

Statistics of how real faces move, for `avsync.losses.MotionPrior`: an energy that is zero for motion as lively as real motion.

## Data

{clips} crops of {frames} frames (68 points, 25 frames per second) of {speakers} train speakers of the corpus that the
pretrained syncers were trained on; points by MediaPipe FaceMesh. Made by `python examples/pretrained_models/fit_prior.py
--corpus PATH`.

## Intended use and limits

An energy next to a sync loss, so that gradient descent does not leave real faces. It knows how much faces move on average, not
what they say, and it is no detector of generated video. Other layouts, detectors or frame rates need a prior of their own
(`MotionPrior.fit`).
"""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of clips with the split 'train'")
    parser.add_argument("--out", type=Path, default=Path("avsync/weights"), help="folder of models (default: avsync/weights)")
    parser.add_argument("--clips", type=int, default=768, help="random crops to fit to (default: 768)")
    parser.add_argument("--frames", type=int, default=80, help="frames of a crop (default: 80)")
    arguments = parser.parse_args()
    bank = ClipBank(Corpus(arguments.corpus, split="train"), features=SpeechFeatures().features)
    crops = bank.sample(arguments.clips, arguments.frames, generator=torch.Generator().manual_seed(0))
    prior = MotionPrior.fit(crops.landmarks)
    folder = arguments.out / NAME
    save_pretrained(prior, folder)
    speakers = len(set(bank.clip_speakers))
    card = CARD.format(name=NAME, clips=arguments.clips, frames=arguments.frames, speakers=speakers)
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(f"{folder}: mean energy of the crops {prior(crops.landmarks).item():.4f}")


if __name__ == "__main__":
    main()
