"""How much each window of a training crop counts: as much as it holds speech."""

from __future__ import annotations

import torch
from torch import Tensor

from avsync.pyramid import temporal_pyramid


def speech_weights(speech: Tensor, num_levels: int, *, window: int, pause_weight: float) -> tuple[Tensor, ...]:
    """The weight of every window at every level.

    A pause says little of when it is, so a syncer that is asked about pauses spends much of what it learns on the training clips' own.
    Asked less about them it knows unseen speakers better where they speak, and worse where they hardly do.

    Args:
        speech: (batch, frames), bool, which frames hold speech.
        num_levels: How many levels.
        window: Frames of a window at every level.
        pause_weight: Weight of a window without speech beside one full of it, from 0 to 1; in between, windows count by their share
            of speech, which coarser levels take from the blurred mask.

    Returns:
        One a level, (batch, windows), from ``pause_weight`` to 1.

    Raises:
        ClipTooShortError: A level has too few frames for the next.

    Example:
        >>> speech = torch.tensor([[True, True, True, False, False, False]])
        >>> speech_weights(speech, 1, window=2, pause_weight=0.5)
        (tensor([[1.0000, 1.0000, 0.7500, 0.5000, 0.5000]]),)

    Source: ours.
    """
    levels = temporal_pyramid(speech.float(), num_levels)
    return tuple(torch.lerp(x.new_tensor(pause_weight), x.new_tensor(1.0), x.unfold(1, window, 1).mean(dim=-1)) for x in levels)
