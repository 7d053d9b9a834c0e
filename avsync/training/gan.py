"""Adversarial training of the generator: equations (9) to (14)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsync.adversarial import hinge_discriminator_loss, hinge_generator_loss
from avsync.corpus.augment import AugmentConfig
from avsync.corpus.dataset import Batch, ClipBank
from avsync.discriminators import FrameDiscriminator, PairDiscriminator, WindowDiscriminator
from avsync.errors import ConfigError
from avsync.generator import GeneratorOutput, MultiScaleGenerator
from avsync.landmarks import normalise
from avsync.sync_loss import MultiScaleSyncLoss
from avsync.training.checkpoint import RandomState
from avsync.training.engine import History, cosine_schedule, set_learning_rate, step_schedule, train_loop


@dataclass(frozen=True)
class GanTrainingConfig:
    """How a generator is trained; the defaults are the paper's and its code's.

    Attributes:
        steps: Iterations, each one update of the discriminators and one of the generator.
        batch_size: Clips in a batch; even, because the pair discriminator judges two at a time.
        frames: Frames generated (40: MS-Sync-short, 80: MS-Sync-long).
        observed: Real frames before them.
        generator_lr: Learning rate of the generator.
        discriminator_lr: Learning rate of the discriminators.
        schedule: "paper" (constant, then a tenth) or "cosine".
        sync_weight: lambda of equation (13).
        frame_weight: Weight of L_f.
        window_weight: Weight of L_s.
        pair_weight: Weight of L_j; 0 trains no pair discriminator.
        reconstruction_weight: Weak reconstruction loss on the predicted frames, in squared face heights; the paper saw no gain.
        grad_clip: Largest gradient norm of the generator; 0 for none.
        seed: Seed of crops, augmentation and initial states.
    """

    steps: int = 75_000
    batch_size: int = 50
    frames: int = 40
    observed: int = 3
    generator_lr: float = 2e-5
    discriminator_lr: float = 1e-5
    schedule: str = "paper"
    sync_weight: float = 1.0
    frame_weight: float = 1.0
    window_weight: float = 1.0
    pair_weight: float = 1.0
    reconstruction_weight: float = 0.0
    grad_clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "frames", "observed"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")
        if self.pair_weight and self.batch_size % 2:
            raise ConfigError(f"`batch_size`: expected an even number for the pair discriminator, got {self.batch_size}")
        if self.schedule not in ("paper", "cosine"):
            raise ConfigError(f"`schedule`: expected 'paper' or 'cosine', got {self.schedule!r}")


class Discriminators(nn.Module):
    """The discriminators that a training uses, and equation (14) over them.

    Args:
        frame: D_f.
        window: D_s.
        pair: D_j; None leaves the pair loss out.
    """

    def __init__(
        self, *, frame: FrameDiscriminator, window: WindowDiscriminator, pair: PairDiscriminator | None = None
    ) -> None:
        super().__init__()
        self.frame = frame
        self.window = window
        self.pair = pair

    def forward(self, observed: Tensor, landmarks: Tensor) -> dict[str, Tensor]:
        """Logits of each discriminator for the clips (batch, frames, points, dims) that follow ``observed``."""
        # One coordinate frame for the whole clip: a frame measured by itself would hide drift in place and size.
        logits = {"frame": self.frame(landmarks, reference=observed[:, 0]), "window": self.window(observed, landmarks)}
        if self.pair is not None:
            logits["pair"] = self.pair(observed, landmarks)
        return logits

    def loss(self, observed: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """Equation (14): the hinge of every discriminator, summed."""
        real_logits, fake_logits = self(observed, real), self(observed, fake)
        return torch.stack([hinge_discriminator_loss(real_logits[key], fake_logits[key]) for key in real_logits]).sum()


def generator_losses(
    discriminators: Discriminators,
    sync_loss: MultiScaleSyncLoss | None,
    observed: Tensor,
    output: GeneratorOutput,
    batch: Batch,
    config: GanTrainingConfig,
) -> dict[str, Tensor]:
    """The parts of equation (13), each already weighted, and their sum under "generator".

    Args:
        discriminators: Judges; their parameters' gradients are not wanted here.
        sync_loss: Equation (4) with frozen syncers; None trains without it.
        observed: The real first frames, (batch, observed, points, dims).
        output: What the generator made after them.
        batch: The real clip and its sound.
        config: The weights.
    """
    logits = discriminators(observed, output.landmarks)
    weights = {"frame": config.frame_weight, "window": config.window_weight, "pair": config.pair_weight}
    parts = {key: weights[key] * hinge_generator_loss(value) for key, value in logits.items()}
    if sync_loss is not None and config.sync_weight:
        clip = torch.cat([observed, output.landmarks], dim=1)
        parts["sync"] = config.sync_weight * sync_loss(clip, batch.audio, reference=observed[:, 0]).total
    if config.reconstruction_weight:
        real = batch.landmarks[:, observed.shape[1] :]
        height = normalise(observed).height.reshape(-1, 1, 1, 1)
        parts["reconstruction"] = config.reconstruction_weight * ((output.landmarks - real) / height).square().mean()
    parts["generator"] = torch.stack(list(parts.values())).sum()
    return parts


def train_generator(
    generator: MultiScaleGenerator,
    discriminators: Discriminators,
    bank: ClipBank,
    config: GanTrainingConfig,
    *,
    sync_loss: MultiScaleSyncLoss | None,
    fabric: Any,
    augment: AugmentConfig | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 200,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
    progress: bool = True,
) -> History:
    """Train a generator against discriminators and, if given, frozen syncers: equations (13) and (14) by turns.

    Args:
        generator: Trained in place.
        discriminators: Trained in place.
        bank: Clips to train on.
        config: How.
        sync_loss: The multi-scale sync loss; None for training without it.
        fabric: A launched Lightning Fabric (:func:`avsync.training.engine.make_fabric`).
        augment: How clips are varied; None for not at all.
        checkpoint: Where the state is kept; None keeps nothing.
        resume: Go on from ``checkpoint`` if it is there.
        checkpoint_every: Steps between checkpoints.
        evaluate: Called with the step number; what it returns is logged.
        evaluate_every: Steps between evaluations.
        progress: Show a progress bar.

    Returns:
        The history of all losses.

    Source: paper section 3.3.
    """
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=config.generator_lr, betas=(0.0, 0.999))
    optimizer_d = torch.optim.Adam(discriminators.parameters(), lr=config.discriminator_lr, betas=(0.0, 0.999))
    maker, optimizer_g = fabric.setup(generator, optimizer_g)
    judges, optimizer_d = fabric.setup(discriminators, optimizer_d)
    judges.mark_forward_method("loss")
    if sync_loss is not None:
        sync_loss = sync_loss.to(fabric.device)
    chance = torch.Generator().manual_seed(config.seed)
    schedule = step_schedule if config.schedule == "paper" else cosine_schedule

    def step(now: int) -> dict[str, Tensor]:
        for optimizer in (optimizer_g, optimizer_d):
            set_learning_rate(optimizer, schedule(now, config.steps))
        batch = bank.sample(config.batch_size, config.observed + config.frames, generator=chance, augment=augment)
        batch = batch.to(fabric.device)
        observed, real = batch.landmarks[:, : config.observed], batch.landmarks[:, config.observed :]
        output = maker(observed, batch.audio, generator=chance)

        judges.requires_grad_(True)
        loss_d = judges.loss(observed, real, output.landmarks.detach())
        optimizer_d.zero_grad()
        fabric.backward(loss_d)
        optimizer_d.step()

        # The same rollout serves both updates: generating it anew would double the dearest part of the step for nothing.
        judges.requires_grad_(False)
        parts = generator_losses(judges, sync_loss, observed, output, batch, config)
        optimizer_g.zero_grad()
        fabric.backward(parts["generator"])
        if config.grad_clip:
            nn.utils.clip_grad_norm_(generator.parameters(), config.grad_clip)
        optimizer_g.step()
        return {**parts, "discriminator": loss_d}

    state = {
        "generator": generator,
        "discriminators": discriminators,
        "optimizer_g": optimizer_g,
        "optimizer_d": optimizer_d,
        "random": RandomState(chance),
    }
    generator.train()
    discriminators.train()
    history = train_loop(
        "generator",
        steps=config.steps,
        step=step,
        state=state,
        checkpoint=checkpoint,
        resume=resume,
        checkpoint_every=checkpoint_every,
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        progress=progress,
    )
    generator.eval()
    return history
