"""Wav2Lip-style baseline: only the mouth moves, guided by an expert trained with cross-entropy (Prajwal et al. 2020)."""

from __future__ import annotations

from dataclasses import replace

import torch
from shared import Animate, SpeechLSTM, Task, fit, moved
from torch import Tensor
from torch.nn import functional as F

from avsync import SyncerPyramid
from avsync.corpus import Batch
from avsync.landmarks import MOUTH, displacement
from avsync.losses import CosineBCE
from avsync.models import SyncerConfig, cosine_similarity


def lip_expert(task: Task, *, steps: int) -> SyncerPyramid:
    """Train a syncer of the finest level that sees the lips, with binary cross-entropy on the cosine."""
    syncer = SyncerConfig(points=MOUTH.stop - MOUTH.start, width=48, embed=48, frame_blocks=1)
    expert = SyncerPyramid(replace(task.preset.syncers, syncer=syncer, num_levels=1, region="mouth", reference="first"))
    pairs = CosineBCE(mapping="affine")

    def loss(batch: Batch) -> Tensor:
        [level] = expert(batch.landmarks, batch.audio)
        return pairs(level.motion, level.audio)

    fit(expert, loss, task, steps=steps, name="expert")
    return expert.requires_grad_(False).eval()


def train(task: Task, *, steps: int = 300) -> Animate:
    """Train the expert and the model, and return the function that animates faces."""
    torch.manual_seed(task.preset.gan.seed)
    points, dims = task.material.crops.landmarks.shape[2:]
    expert = lip_expert(task, steps=steps)
    model = SpeechLSTM(task.material, outputs=len(range(*MOUTH.indices(points))) * dims)

    def lips(face: Tensor, audio: Tensor) -> Tensor:
        made = model(face, audio).unflatten(2, (-1, dims))
        return F.pad(made, (0, 0, MOUTH.start, points - MOUTH.stop))

    def loss(batch: Batch) -> Tensor:
        face = batch.landmarks[:, 0]
        made, real = lips(face, batch.audio), displacement(batch.landmarks, scale=1.0)
        # The head is fixed, so the lips of the target are those relative to the mouth's centre.
        mouth = real[:, :, MOUTH] - real[:, :, MOUTH].mean(dim=2, keepdim=True)
        [level] = expert(moved(face, made), batch.audio)
        agreement = (1 + cosine_similarity(level.motion, level.audio)) / 2
        return (made[:, :, MOUTH] - mouth).abs().mean() - 0.01 * agreement.clamp_min(1e-4).log().mean()

    fit(model, loss, task, steps=steps, name="model")

    @torch.no_grad()
    def animate(face: Tensor, audio: Tensor, rng: torch.Generator) -> Tensor:
        del rng  # a regression has no seeds
        return moved(face, lips(face, audio))

    return animate
