r"""Silence loss: mouths that move in pauses of speech.

Windows without speech have no target in a sync loss. Real mouths are nearly still in pauses, and the loss penalises mouths that
move more than real ones do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avsync._checks import check_positive, checked, reduce
from avsync.landmarks.pauses import PAUSE_MARGIN, pause_speed
from avsync.pyramid import FPS

REAL_PAUSE_SPEED = 0.136
"""Mean speed of the mouth's opening of real speakers in pauses, in face heights per second: 218 clips of the training speakers
of the pretrained models, of which the middle half lies between 0.06 and 0.19. While they speak, it is 0.37."""


@checked
def silence_loss(
    landmarks: Tensor,
    speech: Tensor,
    *,
    speed: float = REAL_PAUSE_SPEED,
    reference: str | Tensor = "first",
    fps: float = FPS,
    margin: int = PAUSE_MARGIN,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute how much faster mouths move in pauses than real mouths: :math:`\max(0, v / v_{real} - 1)` for each clip.

    :math:`v` is :func:`avsync.landmarks.pauses.pause_speed`, and :math:`v_{real}` is ``speed``. The loss is 0 for clips without
    a pause, and for mouths that are at least as still as real ones.

    Args:
        landmarks: (batch, frames, points=68, dims), any unit.
        speech: True for frames with speech, (batch, frames) bool.
        speed: Speed of real mouths in pauses, in face heights per second.
        reference: The face whose height is the unit: "first", "mean", or a face (batch, points, dims).
        fps: Frames per second.
        margin: Frames next to speech that do not count as pause.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or (batch,) with the reduction "none".

    Raises:
        ShapeError: Not 68 points, or ``speech`` does not fit.
        ArgumentError: ``speed`` is not above 0, or ``reduction`` is unknown.

    Example:
        >>> still = torch.rand(1, 1, 68, 2).expand(1, 30, 68, 2)
        >>> silence_loss(still, torch.zeros(1, 30, dtype=torch.bool))
        tensor(0.)

    Source: ours.
    """
    check_positive("speed", speed)
    found = pause_speed(landmarks, speech, reference=reference, fps=fps, margin=margin)
    # Clips without a pause have the speed NaN, which must reach neither the value nor the gradient.
    excess = (torch.where(found.isnan(), 0.0, found) / speed - 1.0).clamp_min(0.0)
    return reduce(excess, reduction)


class SilenceLoss(nn.Module):
    """Module form of :func:`silence_loss`.

    Args:
        speed: Speed of real mouths in pauses, in face heights per second.
        fps: Frames per second.
        margin: Frames next to speech that do not count as pause.
        reduction: "mean", "sum" or "none".

    Example:
        >>> speech = torch.zeros(2, 30, dtype=torch.bool)
        >>> bool(SilenceLoss()(torch.rand(2, 30, 68, 2), speech) > 0)
        True

    Source: as :func:`silence_loss`.
    """

    def __init__(
        self,
        *,
        speed: float = REAL_PAUSE_SPEED,
        fps: float = FPS,
        margin: int = PAUSE_MARGIN,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_positive("speed", speed)
        self.speed, self.fps, self.margin, self.reduction = speed, fps, margin, reduction

    def forward(self, landmarks: Tensor, speech: Tensor, *, reference: str | Tensor = "first") -> Tensor:
        """Compute the loss of landmarks (batch, frames, points=68, dims) with speech (batch, frames)."""
        return silence_loss(
            landmarks,
            speech,
            speed=self.speed,
            reference=reference,
            fps=self.fps,
            margin=self.margin,
            reduction=self.reduction,
        )
