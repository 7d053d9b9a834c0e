"""Parts that all baselines share: the task of a method, the motion that it returns, and a plain LSTM with its training."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from avsync.corpus import Batch
from avsync.landmarks import face_height, normalise
from avsync.models import MultiScaleSyncer

# The training of the whole system is that of examples/msync.
sys.path.append(str(Path(__file__).resolve().parents[1] / "msync"))

from pipeline import (
    SPEECH_SHARE,
    Material,
    generator_models,
    generator_stage,
    load_material,
    trained_pyramid,
    watch,
    watched_clips,
    write_json,
)
from presets import PRESETS, Preset

__all__ = [
    "PRESETS",
    "SPEECH_SHARE",
    "Animate",
    "Material",
    "Preset",
    "SpeechLSTM",
    "Task",
    "fit",
    "generator_models",
    "generator_stage",
    "load_material",
    "moved",
    "trained_pyramid",
    "watch",
    "watched_clips",
    "write_json",
]

Animate = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Function of first faces (clips, points, dims), audio features (clips, 4 * frames, coeffs) and a random generator, to motion
(clips, frames, points, dims)."""


@dataclass(frozen=True)
class Task:
    """Task of a method: clips to train on, settings, and the syncers that may guide it.

    Attributes:
        material: The corpus.
        preset: Sizes and schedule; its seeds are those of the run.
        guide: Frozen syncers.
        folder: Folder of the run, for checkpoints.
        fabric: A launched Lightning Fabric.
        evaluation_syncers: Evaluation model that measures some generators during training; None for none.
    """

    material: Material
    preset: Preset
    guide: MultiScaleSyncer
    folder: Path
    fabric: Any
    evaluation_syncers: MultiScaleSyncer | None = None


class SpeechLSTM(nn.Module):
    """LSTM from audio and the first face to one vector per motion frame.

    Args:
        material: The corpus, whose statistics standardise the audio.
        outputs: Size of the output.
        extra: Size of a further input per frame.
        hidden: Size of the LSTM in each of its two directions.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, material: Material, *, outputs: int, extra: int = 0, hidden: int = 96) -> None:
        super().__init__()
        mean, std = material.train.audio_statistics()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        points, dims = material.crops.landmarks.shape[2:]
        self.lstm = nn.LSTM(4 * len(mean) + points * dims + extra, hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden, outputs)

    def forward(self, face: Tensor, audio: Tensor, extra: Tensor | None = None) -> Tensor:
        """Compute the outputs.

        Args:
            face: (clips, points, dims).
            audio: (clips, 4 * frames, coeffs).
            extra: (clips, frames, extra).

        Returns:
            (clips, frames, outputs), a tenth of the last layer's output, because displacements are small.
        """
        heard = ((audio - self.mean) / self.std).unflatten(1, (-1, 4)).flatten(2)
        shape = normalise(face[:, None]).landmarks.flatten(2).expand(-1, heard.shape[1], -1)
        inputs = [heard, shape] if extra is None else [heard, shape, extra]
        states, _ = self.lstm(torch.cat(inputs, dim=2))
        found: Tensor = 0.1 * self.out(states)
        return found


def moved(face: Tensor, displacement: Tensor) -> Tensor:
    """Return faces from displacements in face heights: (clips, points, dims), (clips, frames, points, dims)."""
    return face[:, None] + face_height(face[:, None])[:, None, None, None] * displacement


def fit(model: nn.Module, loss: Callable[[Batch], Tensor], task: Task, *, steps: int, name: str) -> None:
    """Minimise the loss of random training clips with Adam, and keep the model; load it if an earlier run has ended.

    Args:
        model: The model; trained in place.
        loss: Function of a batch of clips.
        task: Clips, the size of the batches, and the folder of the model's file.
        steps: Number of steps.
        name: Name of the file, without its suffix.
    """
    path = task.folder / f"{name}.safetensors"
    if path.is_file():
        model.load_state_dict(load_file(path))
        return
    gan = task.preset.gan
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = torch.Generator().manual_seed(gan.seed)
    for _ in range(steps):
        batch = task.material.train.sample(gan.batch_size, gan.frames, generator=rng, augment=task.preset.generator_augment)
        optimiser.zero_grad()
        loss(batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    task.folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(save(model.state_dict()))
    temporary.replace(path)
