"""Training of the motion autoencoder that the Frechet motion distance uses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from avsync._checks import check_fields, check_seed, checked
from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.bank import ClipBank
from avsync.errors import ConfigError
from avsync.models.motion_autoencoder import MotionAutoencoder, quickness
from avsync.training.engine import History, LoopOptions, flat_settings, train_loop
from avsync.training.optimisation import OptimizerState, cosine_schedule, set_learning_rate, to_device
from avsync.training.processes import check_fabric
from avsync.training.random_state import RandomState


@dataclass(frozen=True)
class AutoencoderTrainingConfig:
    """Training settings of the motion autoencoder (ours).

    Attributes:
        steps: Optimisation steps.
        batch_size: Crops per batch.
        frames: Frames per crop, at least one window; motion is relative to the first face of the crop, as in the metric.
        learning_rate: Peak rate of AdamW.
        weight_decay: Decay of AdamW.
        warm_up: Steps of linear warm-up before the cosine.
        velocity_weight: Weight of the velocity error; the displacement error has weight 1.
        quickness_weight: Weight of the quickness error.
        grad_clip: Largest gradient norm.
        seed: Seed of the crops and the augmentation.
    """

    steps: int = 3000
    batch_size: int = 48
    frames: int = 80
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warm_up: int = 100
    velocity_weight: float = 1.0
    quickness_weight: float = 0.3
    grad_clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_seed("seed", self.seed)
        for name in ("steps", "batch_size", "frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"`{name}`: expected a finite number of at least 0, got {getattr(self, name)}")


def autoencoder_loss(model: MotionAutoencoder, motion: Tensor, config: AutoencoderTrainingConfig) -> dict[str, Tensor]:
    """Compute the loss of one batch of windows and the parts of the loss.

    Args:
        model: The autoencoder.
        motion: Windows of displacement, (batch, window, points, dims), as :meth:`MotionAutoencoder.windows` returns them.
        config: Weights of the parts.

    Returns:
        The weighted sum "loss"; its parts "motion" and "velocity", errors as shares of the signal's power (1: nothing is
        reconstructed, 0: everything), and "quickness" in squared natural logarithms.
    """
    code = model.encode(motion)
    decoded, decoded_quickness = model.decode(code)
    velocity = motion[:, 1:] - motion[:, :-1]
    # Clips move by very different amounts. Errors relative to the window's own motion give windows with and without head motion
    # similar weights; the floors, a tenth to a fifth of a typical window's power, bound the weight of still ones.
    motion_error = _relative(decoded - motion, motion, floor=0.3)
    velocity_error = _relative(decoded[:, 1:] - decoded[:, :-1] - velocity, velocity, floor=0.002)
    quickness_error = (decoded_quickness - quickness(motion)).square().mean()
    loss = motion_error + config.velocity_weight * velocity_error + config.quickness_weight * quickness_error
    return {
        "loss": loss,
        "motion": motion_error.detach(),
        "velocity": velocity_error.detach(),
        "quickness": quickness_error.detach(),
    }


def _relative(error: Tensor, signal: Tensor, *, floor: float) -> Tensor:
    power = signal.square().mean(dim=(1, 2, 3))
    return (error.square().mean(dim=(1, 2, 3)) / (floor + power)).mean()


@checked
def train_motion_autoencoder(
    model: MotionAutoencoder,
    bank: ClipBank,
    config: AutoencoderTrainingConfig,
    *,
    fabric: Any,
    augment: AugmentConfig | None = None,
    name: str = "motion autoencoder",
    **options: Unpack[LoopOptions],
) -> History:
    """Train the autoencoder on random crops.

    Args:
        model: Trained in place; in eval mode afterwards.
        bank: Clips to train on.
        config: Settings.
        fabric: A launched Lightning Fabric (:func:`avsync.training.processes.make_fabric`).
        augment: Augmentation of the clips; None for none.
        name: Label of the progress bar.
        **options: See :class:`avsync.training.engine.LoopOptions`.

    Returns:
        The history of the loss and its parts.

    Raises:
        ClipTooShortError: ``config.frames`` is less than one window, or no clip has as many frames.

    Source: ours.
    """
    check_fabric(fabric)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    wrapped, optimizer = fabric.setup(model, optimizer)
    for method in ("encode", "decode"):
        if hasattr(wrapped, "mark_forward_method"):
            wrapped.mark_forward_method(method)
    generator = torch.Generator().manual_seed(config.seed)

    def step(now: int) -> dict[str, Tensor]:
        set_learning_rate(optimizer, cosine_schedule(now, config.steps, warm_up=config.warm_up))
        batch = bank.sample(config.batch_size, config.frames, generator=generator, augment=augment)
        hop = max(1, (config.frames - model.config.window) // 2)
        windows = model.windows(to_device(batch.landmarks, fabric.device), hop=hop)
        parts = autoencoder_loss(wrapped, windows, config)
        optimizer.zero_grad()
        fabric.backward(parts["loss"])
        nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        return parts

    model.train()
    history = train_loop(
        name,
        steps=config.steps,
        step=step,
        state={"model": model, "optimizer": OptimizerState(optimizer), "random": RandomState(generator)},
        settings=flat_settings(config=config, augment=augment),
        fabric=fabric,
        **options,
    )
    model.eval()
    return history
