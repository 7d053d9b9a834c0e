"""SUHMo-style baseline: the adversarial generator without audio and without a sync loss (Airale et al. 2022)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from ms_sync import arm
from shared import Animate, Material, Preset, Task, generator_stage
from torch import Tensor

from avsync.corpus import Batch


class Deaf:
    """Bank whose crops have no audio."""

    def __init__(self, bank: Any) -> None:
        self._bank = bank

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bank, name)

    def sample(self, *arguments: Any, **options: Any) -> Batch:
        """Draw crops, and replace their audio by zeros."""
        batch: Batch = self._bank.sample(*arguments, **options)
        return replace(batch, audio=torch.zeros_like(batch.audio))


def deaf(preset: Preset, material: Material) -> tuple[Preset, Material]:
    """Return the settings and the clips of the baseline: one branch, no sync loss, no audio."""
    preset = arm(levels=1, branches=1)(replace(preset, gan=replace(preset.gan, sync_weight=0.0)))
    return preset, replace(material, train=cast(Any, Deaf(material.train)))


def train(task: Task) -> Animate:
    """Train the generator with the discriminators alone, and return the function that animates faces."""
    preset, material = deaf(task.preset, task.material)
    generator, _ = generator_stage(material, preset, task.guide, task.folder, task.fabric, resume=True, progress=False)

    def animate(face: Tensor, audio: Tensor, rng: torch.Generator) -> Tensor:
        return generator.generate(face, torch.zeros_like(audio), generator=rng).landmarks

    return animate
