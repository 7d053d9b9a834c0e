"""Train the syncers of a loss further with fakes as negatives, so that their score is highest for motion that is real.

    python examples/guidance/fakes.py --corpus PATH --out FOLDER     # about ten minutes of one core

A frozen network is fooled by motion that it never saw. Here it sees such motion: the real motion of each clip exaggerated,
trembling or bent, and, round after round, what gradient descent on the syncers of the round before makes of a still face. The
audio has to agree more with the real motion than with any of them. FOLDER then holds a model for ``guide.py --weights FOLDER``
and ``speak.py --guide FOLDER``. The page "Guidance" of the documentation has the results.

The model is written after every round, so that a run that is cut off leaves that of the last one. The pretrained weights
(`landmarks68-25fps-guide`) are of this training with other random numbers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from speak import GUIDE, PRIOR, PRIOR_WEIGHT, descend_loss
from torch import Tensor, nn
from torch.nn import functional as F

from avsync import MultiScaleSyncLoss, SyncerPyramid, from_pretrained
from avsync.corpus import ClipBank, Corpus, SyntheticCorpus
from avsync.landmarks import face_height
from avsync.losses import MotionPrior, all_pairs_info_nce
from avsync.pretrained import save_pretrained
from avsync.training import SYNCER_AUGMENT

FRAMES, BATCH, TEMPERATURE = 100, 12, 0.07
AUGMENT = replace(SYNCER_AUGMENT, equaliser_db=5.0)
FAKES_OF_DESCENT, DESCENT_STEPS, DESCENT_RATE = 48, 80, 4e-3
"""Clips of a round from gradient descent, its steps, and its largest step in face heights."""


class Fakes(NamedTuple):
    """Clips of gradient descent."""

    real: Tensor
    """(clips, frames, points, dims)."""
    made: Tensor
    audio: Tensor
    """Features, (clips, 4 * frames, coeffs)."""


def spoiled(landmarks: Tensor, generator: torch.Generator) -> Tensor:
    """Exaggerate, shake or bend motion, each of a third of the clips: (clips, frames, points, dims) -> the same shape."""
    clips, frames, points, dims = landmarks.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(clips, *shape, 1, 1, generator=generator)

    height = face_height(landmarks)[:, None, None, None]
    middle = landmarks.mean(dim=1, keepdim=True)
    exaggerated = middle + uniform(1.3, 2.2, 1) * (landmarks - middle)
    trembling = landmarks + height * uniform(0.003, 0.012, 1) * torch.randn(landmarks.shape, generator=generator)
    time = torch.arange(frames)[:, None, None] / 25.0
    wave = torch.sin(2 * torch.pi * (uniform(0.5, 5.0, 1) * time + uniform(0.0, 1.0, 1)))
    bent = landmarks + height * uniform(0.01, 0.04, 1) * wave * torch.randn(clips, 1, points, dims, generator=generator)
    kind = torch.randint(3, (clips, 1, 1, 1), generator=generator)
    return torch.where(kind == 0, exaggerated, torch.where(kind == 1, trembling, bent))


def _score(loss: MultiScaleSyncLoss, prior: MotionPrior | None, audio: Tensor, landmarks: Tensor) -> Tensor:
    """Compute the sync loss of motion that starts from its own first face, with the prior if there is one."""
    found = loss(landmarks, audio, reference=landmarks[:, 0].detach()).total
    return found if prior is None else found + PRIOR_WEIGHT * prior(landmarks)


def fooled(syncers: SyncerPyramid, bank: ClipBank, generator: torch.Generator) -> Fakes:
    """Move still faces along the gradient of the loss of these syncers."""
    loss, prior = MultiScaleSyncLoss(syncers=syncers), from_pretrained(PRIOR, model_class=MotionPrior)
    parts = []
    for number in range(FAKES_OF_DESCENT // BATCH):
        batch = bank.sample(BATCH, FRAMES, generator=generator)
        # Without the prior descent ends in scribbles, with it in plausible motion that is clearer than real motion.
        objective = partial(_score, loss, prior if number % 2 else None, batch.audio)
        made = descend_loss(objective, batch.landmarks, steps=DESCENT_STEPS, rate=DESCENT_RATE)
        parts.append((batch.landmarks, made, batch.audio))
    return Fakes(*map(torch.cat, zip(*parts, strict=True)))


def sync_and_fakes(pyramid: SyncerPyramid, real: Tensor, fakes: list[Tensor], audio: Tensor) -> Tensor:
    """Compute InfoNCE over the batch, plus the cross-entropy of real motion against the fakes of the same windows."""
    first = real[:, 0]
    with torch.no_grad():
        heard = pyramid.embed_audio(audio)
    seen = pyramid.embed_motion(real, reference=first)
    others = [pyramid.embed_motion(fake, reference=first) for fake in fakes]
    in_sync = torch.stack([all_pairs_info_nce(m, a, temperature=TEMPERATURE) for m, a in zip(seen, heard, strict=True)])
    against = []
    for level, (motion, sound) in enumerate(zip(seen, heard, strict=True)):
        scores = [
            F.cosine_similarity(each.float(), sound.float(), dim=-1) for each in (motion, *(fake[level] for fake in others))
        ]
        logits = torch.stack(scores, dim=-1) / TEMPERATURE
        against.append(F.cross_entropy(logits.flatten(0, 1), torch.zeros(logits.shape[:2].numel(), dtype=torch.long)))
    return in_sync.sum() + torch.stack(against).sum()


def train(pyramid: SyncerPyramid, bank: ClipBank, descended: list[Fakes], *, steps: int, generator: torch.Generator) -> None:
    """Train the motion encoders for one round, in place; those of the audio stay as they are."""
    encoders = nn.ModuleList(pyramid.get_submodule(f"syncers.{level}.motion_encoder") for level in range(pyramid.num_levels))
    optimizer = torch.optim.AdamW(encoders.parameters(), lr=3e-4, weight_decay=0.1, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    encoders.train()
    for step in range(steps):
        if descended and step % 2:  # every other batch has the motion that fooled an earlier round
            fakes = descended[int(torch.randint(len(descended), (), generator=generator))]
            which = torch.randperm(len(fakes.real), generator=generator)[:BATCH]
            real, audio, fake = fakes.real[which], fakes.audio[which], fakes.made[which]
        else:
            batch = bank.sample(BATCH, FRAMES, generator=generator, augment=AUGMENT)
            real, audio, fake = batch.landmarks, batch.audio, spoiled(batch.landmarks, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = sync_and_fakes(pyramid, real, [fake, spoiled(real, generator)], audio)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoders.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0:
            print(f"step {step}: {loss.item():.2f}", flush=True)
    encoders.eval()


def main(arguments: list[str] | None = None) -> None:
    """Train round after round, and write the syncers of the last one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="synthetic", help="'synthetic', or a folder of clips with a split 'train'")
    parser.add_argument("--rounds", type=int, default=4, help="rounds; the first has no fakes of gradient descent (default: 4)")
    parser.add_argument("--steps", type=int, default=150, help="training steps of a round (default: 150)")
    parser.add_argument("--out", type=Path, default=Path("runs/fakes"), help="folder of the model (default: runs/fakes)")
    args = parser.parse_args(arguments)
    if min(args.rounds, args.steps) < 1:
        parser.error(f"--rounds, --steps: expected at least 1, got {args.rounds} and {args.steps}")
    torch.manual_seed(0)
    pyramid = SyncerPyramid.from_pretrained(GUIDE)
    features = pyramid.speech_features()
    assert features is not None, "the default hears log-mel energies"
    clips = Corpus(args.corpus, split="train") if args.corpus != "synthetic" else SyntheticCorpus(split="train", speakers=8)
    bank, generator = ClipBank(clips, features=features.features), torch.Generator().manual_seed(0)
    descended: list[Fakes] = []
    for number in range(args.rounds):
        if number:
            descended.append(fooled(pyramid, bank, generator))
        train(pyramid, bank, descended, steps=args.steps, generator=generator)
        save_pretrained(pyramid, args.out, dtype=torch.float16, shared=(GUIDE,))
        print(f"round {number}: {args.out}", flush=True)


if __name__ == "__main__":
    main()
