"""The paper's system and its variants: MS-Sync-short, MS-Sync-long, fewer levels or branches, no sync loss, other losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from shared import Animate, Preset, Task, generator_stage, write_json
from torch import Tensor

from avsync.models import GeneratorConfig, MultiScaleGenerator

Change = Callable[[Preset], Preset]


def matched_width(config: GeneratorConfig) -> int:
    """Return the branch width with which one branch has as many parameters as all branches of ``config``."""

    def parameters(changed: GeneratorConfig) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in MultiScaleGenerator(changed).parameters())

    wanted = parameters(config)
    low, high = config.branch_width, 8 * config.branch_width
    while high - low > 1:
        middle = (low + high) // 2
        below = parameters(replace(config, num_branches=1, branch_width=middle)) <= wanted
        low, high = (middle, high) if below else (low, middle)
    return low


def arm(*, levels: int, branches: int) -> Change:
    """Return the change to so many levels of the loss and 1 or 4 branches, with the same number of parameters."""

    def change(preset: Preset) -> Preset:
        if branches == 1:
            width = matched_width(preset.generator)
            preset = replace(preset, generator=replace(preset.generator, num_branches=1, branch_width=width))
        return replace(preset, levels=levels)

    return change


def with_gan(**changes: float) -> Change:
    """Return the change of settings of the adversarial training."""
    return lambda preset: replace(preset, gan=replace(preset.gan, **changes))  # type: ignore[arg-type]


def long(preset: Preset) -> Preset:
    """Train on 80 frames instead of 40, with half of the clips per batch, so that a step costs the same."""
    return replace(preset, gan=replace(preset.gan, frames=80, batch_size=preset.gan.batch_size // 2))


VARIANTS: dict[str, Change] = {
    "MS-Sync-short": lambda preset: preset,
    "MS-Sync-long": long,
    "4 levels, 1 branch": arm(levels=4, branches=1),
    "1 level, 4 branches": arm(levels=1, branches=4),
    "level 0 only": arm(levels=1, branches=1),
    "no sync loss": with_gan(sync_weight=0.0),
    "with D_j": with_gan(pair_weight=1.0),
    "with reconstruction": with_gan(reconstruction_weight=10.0),
    "capped": with_gan(sync_target="capped"),  # type: ignore[arg-type]
}
"""Changes of the preset. "level 0 only" is the paper's single-scale loss with a single-scale generator."""


CURVES = ("MS-Sync-short", "4 levels, 1 branch", "level 0 only")
"""Variants of the paper's Figure 5, which are measured during training."""


def train(task: Task, variant: str) -> Animate:
    """Train a variant of the system and return the function that animates faces."""
    preset = VARIANTS[variant](task.preset)
    generator, history = generator_stage(
        task.material,
        preset,
        task.guide,
        task.folder,
        task.fabric,
        resume=True,
        progress=False,
        evaluation_syncers=task.evaluation_syncers if variant in CURVES else None,
    )
    curves = {name: points for name, points in history.items() if name.startswith("confidence")}
    if curves:
        write_json(task.folder / "history.json", curves)

    def animate(face: Tensor, audio: Tensor, rng: torch.Generator) -> Tensor:
        return generator.generate(face, audio, generator=rng).landmarks

    return animate
