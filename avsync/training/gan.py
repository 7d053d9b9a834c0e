"""Adversarial training of the generator: equations (9) to (14)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.memory import Batch, ClipBank
from avsync.errors import ConfigError
from avsync.landmarks.geometry import normalise
from avsync.losses.adversarial import hinge_discriminator_loss, hinge_generator_loss
from avsync.losses.sync import MultiScaleSyncLoss
from avsync.models.discriminators import FrameDiscriminator, PairDiscriminator, WindowDiscriminator
from avsync.models.generator.model import GeneratorOutput, MultiScaleGenerator
from avsync.training.chance import RandomState, rank_generator
from avsync.training.checkpoint import Stateful
from avsync.training.ema import WeightAverage
from avsync.training.engine import History, train_loop
from avsync.training.processes import Precision, Trained
from avsync.training.schedule import cosine_schedule, set_learning_rate, step_schedule
from avsync.training.store import CheckpointStore


@dataclass(frozen=True)
class GanTrainingConfig:
    """How a generator is trained; the defaults are the paper's and its code's.

    Attributes:
        steps: Iterations, each one update of the discriminators and one of the generator.
        batch_size: Clips in a batch, of each process; even, because the pair discriminator judges two at a time.
        accumulate: Batches whose gradients are averaged for one step, which is then that of one large batch, save that pairs of clips
            come from one batch, and that spectral norms are brought up to date once a batch. Above 1, every batch is generated
            twice, before and after the discriminators' update, so that only one at a time is held.
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
        ema_decay: Decay of the moving average of the generator's weights (:class:`avsync.training.ema.WeightAverage`), with which it is
            evaluated and ends; 0 keeps none.
        seed: Seed of crops, augmentation and initial states.
    """

    steps: int = 75_000
    batch_size: int = 50
    accumulate: int = 1
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
    ema_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "frames", "observed"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")
        if self.pair_weight and self.batch_size % 2:
            raise ConfigError(f"`batch_size`: expected an even number for the pair discriminator, got {self.batch_size}")
        if self.schedule not in ("paper", "cosine"):
            raise ConfigError(f"`schedule`: expected 'paper' or 'cosine', got {self.schedule!r}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"`ema_decay`: expected a number from 0 to below 1, got {self.ema_decay!r}")


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


class _Updates:
    """One step of discriminators and generator, by turns."""

    def __init__(
        self,
        generator: MultiScaleGenerator,
        discriminators: Discriminators,
        config: GanTrainingConfig,
        *,
        sync_loss: MultiScaleSyncLoss | None,
        fabric: Any,
        chance: torch.Generator,
    ) -> None:
        self.config, self.sync_loss, self.fabric, self.chance = config, sync_loss, fabric, chance
        self.generator, self.discriminators = generator, discriminators
        adam_g = torch.optim.Adam(generator.parameters(), lr=config.generator_lr, betas=(0.0, 0.999))
        adam_d = torch.optim.Adam(discriminators.parameters(), lr=config.discriminator_lr, betas=(0.0, 0.999))

        def roll_out(observed: Tensor, audio: Tensor) -> GeneratorOutput:
            return generator(observed, audio, generator=chance)

        self.generate = Trained(fabric, roll_out, [generator], adam_g)
        self.judge = Trained(fabric, discriminators.loss, [discriminators], adam_d)

    def set_learning_rates(self, factor: float) -> None:
        """Both optimisers follow the same schedule."""
        for part in (self.generate, self.judge):
            set_learning_rate(part.optimizer, factor)

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Update the discriminators, then the generator against them; returns the losses, averaged over the batches."""
        loss_d, rollouts = self._update_discriminators(batches)
        parts, norm = self._update_generator(batches, rollouts)
        return {**parts, "discriminator": loss_d, "grad": norm}

    def _split(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.landmarks[:, : self.config.observed], batch.landmarks[:, self.config.observed :]

    def _update_discriminators(self, batches: Sequence[Batch]) -> tuple[Tensor, list[GeneratorOutput | Tensor]]:
        """Returns the loss and, for each batch, its rollout or, where there are several, the random state that repeats it."""
        rollouts: list[GeneratorOutput | Tensor] = []
        total = torch.zeros((), device=self.fabric.device)
        self.discriminators.requires_grad_(True)
        self.judge.optimizer.zero_grad()
        for part, batch in enumerate(batches, start=1):
            observed, real = self._split(batch)
            before = self.chance.get_state()
            # A single rollout serves both updates: generating it anew would double the dearest part of the step for nothing.
            with torch.set_grad_enabled(len(batches) == 1):
                output = self.generate(observed, batch.audio)
            rollouts.append(output if len(batches) == 1 else before)
            with self.judge.gradients_stay(part < len(batches)):
                loss = self.judge(observed, real, output.landmarks.detach())
                self.fabric.backward(loss / len(batches))
            total += loss.detach() / len(batches)
        self.judge.optimizer.step()
        return total, rollouts

    def _update_generator(
        self, batches: Sequence[Batch], rollouts: list[GeneratorOutput | Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        after = self.chance.get_state()
        means: dict[str, Tensor] = {}
        self.discriminators.requires_grad_(False)
        self.generate.optimizer.zero_grad()
        for part, (batch, rollout) in enumerate(zip(batches, rollouts, strict=True), start=1):
            observed, _ = self._split(batch)
            with self.generate.gradients_stay(part < len(batches)):
                if isinstance(rollout, Tensor):
                    self.chance.set_state(rollout)
                    output = self.generate(observed, batch.audio)
                else:
                    output = rollout
                # Not through `self.judge`, which would wait for gradients of the discriminators.
                with self.fabric.autocast():
                    losses = generator_losses(self.discriminators, self.sync_loss, observed, output, batch, self.config)
                self.fabric.backward(losses["generator"] / len(batches))
            for key, loss in losses.items():
                means[key] = means.get(key, 0.0) + loss.detach() / len(batches)
        self.chance.set_state(after)
        (norm,) = self.generate.clip([self.generator], self.config.grad_clip)
        self.generate.optimizer.step()
        return means, norm


def train_generator(
    generator: MultiScaleGenerator,
    discriminators: Discriminators,
    bank: ClipBank,
    config: GanTrainingConfig,
    *,
    sync_loss: MultiScaleSyncLoss | None,
    fabric: Any,
    augment: AugmentConfig | None = None,
    checkpoint: Path | CheckpointStore | None = None,
    resume: bool = False,
    checkpoint_every: int = 200,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
    logs: Path | None = None,
    progress: bool = True,
) -> History:
    """Train a generator against discriminators and, if given, frozen syncers: equations (13) and (14) by turns.

    Args:
        generator: Trained in place.
        discriminators: Trained in place.
        bank: Clips to train on.
        config: How.
        sync_loss: The multi-scale sync loss; None for training without it.
        fabric: A launched Lightning Fabric (:func:`avsync.training.processes.make_fabric`).
        augment: How clips are varied; None for not at all.
        checkpoint: Folder in which the state is kept, or a :class:`avsync.training.store.CheckpointStore`; None keeps nothing.
        resume: Go on from the newest good checkpoint, if there is one.
        checkpoint_every: Steps between checkpoints.
        evaluate: Called with the step number, the generator holding its average if there is one; what it returns is logged.
        evaluate_every: Steps between evaluations.
        logs: Folder for ``metrics.csv`` and TensorBoard's events; None writes none.
        progress: Show a progress bar.

    Returns:
        The history of all losses, and of the generator's gradient norm before clipping.

    Source: paper section 3.3; the average of weights ours.
    """
    if sync_loss is not None:
        sync_loss = sync_loss.to(fabric.device)
    chance = rank_generator(config.seed, fabric.global_rank)
    updates = _Updates(generator, discriminators, config, sync_loss=sync_loss, fabric=fabric, chance=chance)
    average = WeightAverage(generator, decay=config.ema_decay) if config.ema_decay else None
    schedule = step_schedule if config.schedule == "paper" else cosine_schedule

    def draw() -> Batch:
        frames = config.observed + config.frames
        return bank.sample(config.batch_size, frames, generator=chance, augment=augment).to(fabric.device)

    def step(now: int) -> dict[str, Tensor]:
        updates.set_learning_rates(schedule(now, config.steps))
        scalars = updates.step([draw() for _ in range(config.accumulate)])
        if average is not None:
            average.update()
        return scalars

    def evaluate_average(now: int) -> Mapping[str, float]:
        with average.applied() if average is not None else contextlib.nullcontext():
            return evaluate(now) if evaluate is not None else {}

    state: dict[str, Stateful] = {
        "generator": generator,
        "discriminators": discriminators,
        "optimizer_g": updates.generate.optimizer,
        "optimizer_d": updates.judge.optimizer,
        "precision": Precision(fabric),
        "random": RandomState(chance),
    }
    state |= {} if average is None else {"average": average}
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
        evaluate=None if evaluate is None else evaluate_average,
        evaluate_every=evaluate_every,
        logs=logs,
        progress=progress,
        fabric=fabric,
    )
    if average is not None:
        average.copy_to_module()
    generator.eval()
    return history
