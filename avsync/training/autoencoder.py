"""Training of the motion autoencoder behind the Frechet motion distance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.memory import ClipBank
from avsync.errors import ConfigError
from avsync.models.motion_autoencoder import MotionAutoencoder, quickness
from avsync.training.checkpoint import RandomState
from avsync.training.engine import History, cosine_schedule, set_learning_rate, train_loop


@dataclass(frozen=True)
class AutoencoderTrainingConfig:
    """How the motion autoencoder is trained (ours).

    Attributes:
        steps: Optimisation steps.
        batch_size: Crops in a batch.
        frames: Frames of a crop, at least a window; motion is measured from its first face, as it is in use.
        learning_rate: Peak rate of AdamW.
        weight_decay: Decay of AdamW.
        warm_up: Steps of linear warm-up before the cosine.
        velocity_weight: Weight of the error of the velocity beside that of the displacement.
        quickness_weight: Weight of the error of the quickness.
        grad_clip: Largest gradient norm.
        seed: Seed of crops and augmentation.
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
        for name in ("steps", "batch_size", "frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")


def autoencoder_loss(model: MotionAutoencoder, motion: Tensor, config: AutoencoderTrainingConfig) -> dict[str, Tensor]:
    """The loss of one batch of windows, and its parts.

    Args:
        model: The autoencoder.
        motion: Windows of displacement, (batch, window, points, dims), as :meth:`MotionAutoencoder.windows` cuts them.
        config: The weights of the parts.

    Returns:
        "loss", the sum, and by themselves "motion" and "velocity" as shares of what they are to bring back (1: nothing is brought back,
        0: all of it) and "quickness" in squared natural logarithms.
    """
    code = model.encode(motion)
    made, told = model.decode(code)
    velocity = motion[:, 1:] - motion[:, :-1]
    # Clips move by very different amounts. Relative to the window's own motion, those in which heads swing do not drown the others; what
    # is added to it, a tenth to a fifth of a typical window's, keeps stillness from counting without bound.
    motion_error = _relative(made - motion, motion, floor=0.3)
    velocity_error = _relative(made[:, 1:] - made[:, :-1] - velocity, velocity, floor=0.002)
    quickness_error = (told - quickness(motion)).square().mean()
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


def train_motion_autoencoder(
    model: MotionAutoencoder,
    bank: ClipBank,
    config: AutoencoderTrainingConfig,
    *,
    fabric: Any,
    augment: AugmentConfig | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> History:
    """Train the autoencoder on random crops.

    Args:
        model: Trained in place; in eval mode afterwards.
        bank: Clips to train on.
        config: How.
        fabric: A launched Lightning Fabric (:func:`avsync.training.processes.make_fabric`).
        augment: How clips are varied; None for not at all.
        checkpoint: Folder in which the state is kept; None keeps nothing.
        resume: Go on from the newest good checkpoint, if there is one.
        progress: Show a progress bar.

    Returns:
        The history of the loss and its parts.

    Raises:
        ClipTooShortError: ``config.frames`` are fewer than a window, or no clip is as long.

    Source: ours.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    wrapped, optimizer = fabric.setup(model, optimizer)
    for name in ("encode", "decode"):
        if hasattr(wrapped, "mark_forward_method"):
            wrapped.mark_forward_method(name)
    chance = torch.Generator().manual_seed(config.seed)

    def step(now: int) -> dict[str, Tensor]:
        set_learning_rate(optimizer, cosine_schedule(now, config.steps, warm_up=config.warm_up))
        batch = bank.sample(config.batch_size, config.frames, generator=chance, augment=augment).to(fabric.device)
        spare = config.frames - model.config.window
        hop = max(1, spare // 2)
        parts = autoencoder_loss(wrapped, model.windows(batch.landmarks, hop=hop), config)
        optimizer.zero_grad()
        fabric.backward(parts["loss"])
        nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        return parts

    model.train()
    history = train_loop(
        "motion autoencoder",
        steps=config.steps,
        step=step,
        state={"model": model, "optimizer": optimizer, "random": RandomState(chance)},
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
        fabric=fabric,
    )
    model.eval()
    return history
