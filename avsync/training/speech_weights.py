"""Weights of the windows of training crops, from the share of frames with speech."""

from __future__ import annotations

from torch import Tensor

from avsync._checks import check_shape
from avsync.errors import ClipTooShortError
from avsync.pyramid import shortest_clip, temporal_pyramid


def speech_weights(speech: Tensor, num_levels: int, *, window: int, pause_weight: float) -> tuple[Tensor, ...]:
    """Compute the weight of every window at every level.

    Silent windows carry little timing information, and a syncer trained on them overfits the training clips. A small weight of
    silent windows raises the accuracy on segments of unseen speakers with speech. The same weight lowers the accuracy on
    segments with little speech.

    Args:
        speech: Mask of the frames with speech, (batch, frames), bool.
        num_levels: Number of levels.
        window: Frames per window at every level.
        pause_weight: Weight of a window without speech, from 0 to 1; a window full of speech has weight 1. The weight is
            linear in the share of speech, which coarser levels take from the blurred mask.

    Returns:
        One tensor per level, (batch, windows), with values from ``pause_weight`` to 1.

    Raises:
        ShapeError: ``speech`` has another shape.
        ClipTooShortError: ``speech`` has too few frames for one window at the coarsest level.

    Example:
        >>> import torch
        >>> speech = torch.tensor([[True, True, True, False, False, False]])
        >>> speech_weights(speech, 1, window=2, pause_weight=0.5)
        (tensor([[1.0000, 1.0000, 0.7500, 0.5000, 0.5000]]),)

    Source: ours.
    """
    check_shape("speech", speech, "batch frames")
    shortest = shortest_clip(window, num_levels - 1)
    if speech.shape[1] < shortest:
        raise ClipTooShortError(
            f"`speech`: expected at least {shortest} frames for level {num_levels - 1}, got {speech.shape[1]}"
        )
    levels = temporal_pyramid(speech.float(), num_levels)
    return tuple(pause_weight + (1 - pause_weight) * x.unfold(1, window, 1).mean(dim=-1) for x in levels)
