"""MakeItTalk-style baseline: an LSTM from audio to the displacement of all points, trained by regression (Zhou et al. 2020)."""

from __future__ import annotations

import torch
from shared import Animate, SpeechLSTM, Task, fit, moved
from torch import Tensor

from avsync.corpus import Batch
from avsync.landmarks import displacement


def train(task: Task, *, steps: int = 300) -> Animate:
    """Train the LSTM and return the function that animates faces."""
    torch.manual_seed(task.preset.gan.seed)
    points, dims = task.material.crops.landmarks.shape[2:]
    model = SpeechLSTM(task.material, outputs=points * dims)

    def loss(batch: Batch) -> Tensor:
        made = model(batch.landmarks[:, 0], batch.audio)
        error = made - displacement(batch.landmarks, scale=1.0).flatten(2)
        # Velocities are about ten times smaller than displacements.
        return error.abs().mean() + 10 * error.diff(dim=1).abs().mean()

    fit(model, loss, task, steps=steps, name="model")

    @torch.no_grad()
    def animate(face: Tensor, audio: Tensor, rng: torch.Generator) -> Tensor:
        del rng  # a regression has no seeds
        return moved(face, model(face, audio).unflatten(2, (points, dims)))

    return animate
