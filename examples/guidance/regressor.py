"""Typical model and training loop: convolutions over audio features, mean squared error, Adam.

The loss of avsync is one argument and one term of a sum; nothing else here uses the library.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from avsync import MultiScaleSyncLoss

SPREAD = 0.05
"""Typical displacement of a point from its place in the first frame, in face heights; scales outputs and errors to about 1."""


class Residual(nn.Module):
    """Dilated convolution over time with a residual connection."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.normalise = nn.GroupNorm(1, width)
        self.mix = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, frames) to the same shape."""
        return x + nn.functional.gelu(self.mix(self.normalise(x)))


class Regressor(nn.Module):
    """Landmarks from audio features and the first face.

    Args:
        coeffs: Coefficients per audio frame.
        points: Landmarks per face.
        dims: Dimensions per landmark.
        width: Channels.
        basis: Principal motions, (components, points, dims) in face heights; the model then predicts a weight for each instead
            of free coordinates.
    """

    basis: Tensor | None

    def __init__(self, *, coeffs: int, points: int, dims: int, width: int = 128, basis: Tensor | None = None) -> None:
        super().__init__()
        self.hear = nn.Sequential(nn.BatchNorm1d(coeffs), nn.Conv1d(coeffs, width, 8, stride=4, padding=2))
        self.see = nn.Linear(points * dims, width)
        self.body = nn.Sequential(*(Residual(width, dilation) for dilation in (1, 2, 4, 8, 1)))
        self.move = nn.Conv1d(width, points * dims if basis is None else len(basis), 1)
        self.register_buffer("basis", basis)

    def forward(self, audio: Tensor, first: Tensor) -> Tensor:
        """Predict landmarks (batch, frames, points, dims) from features and faces (batch, points, dims)."""
        height = face_height(first)
        face = (first - first.mean(dim=1, keepdim=True)) / height[:, None, None]
        hidden = self.hear(audio.mT) + self.see(face.flatten(1))[..., None]
        motion = self.move(self.body(hidden)).mT
        if self.basis is None:
            displacement = SPREAD * motion.unflatten(-1, first.shape[1:])
        else:
            displacement = 0.3 * torch.einsum("btc,cpd->btpd", motion, self.basis)
        return first[:, None] + height[:, None, None, None] * displacement


def face_height(face: Tensor) -> Tensor:
    """Compute the height of faces (batch, points, dims), (batch,)."""
    return face[..., 1].amax(dim=1) - face[..., 1].amin(dim=1)


def train(
    model: nn.Module,
    batches: Callable[[], tuple[Tensor, Tensor, Tensor]],
    *,
    steps: int,
    mse_weight: float,
    sync_loss: MultiScaleSyncLoss,
    sync_weight: float,
    warm_up: int,
    stop: bool = False,
    share: float | None = None,
    learning_rate: float = 2e-3,
) -> None:
    """Train a model.

    Args:
        model: Model, trained in place.
        batches: Function that returns features (batch, 4 * frames, coeffs), landmarks (batch, frames, points, dims), and the
            frames with speech, (batch, frames) bool.
        steps: Number of steps.
        mse_weight: Weight of the mean squared error.
        sync_loss: The loss of avsync.
        sync_weight: Final weight of the sync loss; 0 disables the loss.
        warm_up: Steps over which the weight rises from 0.
        stop: True for a sync loss that stops at the real motion.
        share: ``target_share`` of that loss.
        learning_rate: Rate of Adam, which falls to 0 along a cosine.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for step in range(steps):
        features, target, speech = batches()
        first_face = target[:, 0]
        landmarks = model(features, first_face)
        error = (landmarks - target) / (SPREAD * face_height(first_face))[:, None, None, None]
        loss = mse_weight * error.square().mean()
        if sync_weight:
            weight = sync_weight * min(1.0, (step + 1) / max(warm_up, 1))
            real = {"target": target, "target_share": share} if stop else {}
            loss = loss + weight * sync_loss(landmarks, features, reference=first_face, speech=speech, **real).total
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
