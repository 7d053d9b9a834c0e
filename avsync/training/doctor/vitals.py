"""Vital signs of syncer training, cheap enough to compute at every step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsync._checks import check_positive, checked
from avsync.errors import ArgumentError
from avsync.models.syncer.interface import Embeddings


@torch.no_grad()
@checked
def vital_signs(
    embedded: Sequence[Embeddings],
    *,
    temperatures: Sequence[float | Tensor] | None = None,
    gradient_norms: Sequence[Tensor] | None = None,
    levels: Sequence[int] | None = None,
    max_clips: int = 8,
) -> dict[str, Tensor]:
    """Measure the separation of aligned from misaligned windows and the spread of the embeddings at each level.

    The similarity of every window's audio to its own motion is compared with that to the motion half a clip away:

    * ``gap``: mean cosine of aligned pairs minus that of misaligned pairs; 0 at chance level;
    * ``in_sync``, ``off_sync``: share of the aligned pairs above, and of the misaligned pairs below, the middle of the two
      means; 0.5
      at chance level, 1 if every pair is classified correctly;
    * ``spread``: 1 less the squared length of the mean unit embedding, for the modality where it is smaller; 1 for embeddings
      in
      all directions, 0 for embeddings that have collapsed into one;
    * ``temperature``: that of the loss, if given;
    * ``grad``: norm of the level's gradient, if given.

    Args:
        embedded: The embeddings of each level, as :class:`avsync.models.syncer.pyramid.SyncerPyramid` returns them.
        temperatures: The temperature of each level's loss.
        gradient_norms: The norm of each level's gradient, before clipping.
        levels: Number of each level; None for all levels from 0.
        max_clips: Largest number of clips of the batch that are evaluated.

    Returns:
        Scalars by name and level: ``gap0``, ``in_sync0``, ``off_sync0``, ``spread0``, ... On the device of the embeddings,
        without waiting for it.

    Raises:
        ArgumentError: The number of temperatures, gradient norms or level numbers differs from the number of levels.

    Example:
        >>> windows = torch.eye(8)[None]
        >>> signs = vital_signs([Embeddings(windows, windows)])
        >>> {name: round(value.item(), 3) for name, value in signs.items()}
        {'gap0': 1.0, 'in_sync0': 1.0, 'off_sync0': 1.0, 'spread0': 0.875}

    Source: ours.
    """
    check_positive("max_clips", max_clips)
    for name, values in (("temperatures", temperatures), ("gradient_norms", gradient_norms), ("levels", levels)):
        if values is not None and len(values) != len(embedded):
            raise ArgumentError(f"`{name}`: expected {len(embedded)} values, one per level, got {len(values)}")
    signs: dict[str, Tensor] = {}
    for index, windows in enumerate(embedded):
        level = index if levels is None else levels[index]
        for name, value in _signs_of_level(windows, max_clips).items():
            signs[f"{name}{level}"] = value
        device = windows.audio.device
        if temperatures is not None:
            signs[f"temperature{level}"] = torch.as_tensor(temperatures[index], device=device).detach().float()
        if gradient_norms is not None:
            signs[f"grad{level}"] = gradient_norms[index].detach().float()
    return signs


def loss_temperatures(losses: Iterable[nn.Module]) -> list[float | Tensor] | None:
    """Return the current temperature of each level's loss, or None if a loss has no temperature.

    Args:
        losses: One loss per level, such as :class:`avsync.losses.info_nce.InfoNCE` or
            :class:`avsync.losses.all_pairs.AllPairsInfoNCE`.

    Returns:
        Numbers or scalar tensors, for :func:`vital_signs`.

    Example:
        >>> from avsync.losses import ContrastiveLoss, InfoNCE
        >>> loss_temperatures([InfoNCE(temperature=0.1)]), loss_temperatures([ContrastiveLoss()])
        ([0.1], None)
    """
    temperatures: list[float | Tensor] = []
    for loss in losses:
        scale = getattr(loss, "logit_scale", None)
        fixed = getattr(loss, "temperature", None)
        if scale is not None:
            temperatures.append(1.0 / scale())
        elif fixed is not None:
            temperatures.append(float(fixed))
        else:
            return None
    return temperatures


def _signs_of_level(windows: Embeddings, max_clips: int) -> dict[str, Tensor]:
    audio, motion = (F.normalize(x[:max_clips].detach().float(), dim=-1) for x in (windows.audio, windows.motion))
    # A clip with a single window has no second window, so the next clip's window is used.
    shift, axis = (motion.shape[1] // 2, 1) if motion.shape[1] > 1 else (1, 0)
    aligned = torch.linalg.vecdot(audio, motion)
    other = torch.linalg.vecdot(audio, motion.roll(shift, axis))
    real = torch.ones_like(aligned) if windows.mask is None else windows.mask[:max_clips].to(aligned)
    paired = real * real.roll(shift, axis)
    threshold = 0.5 * (_mean(aligned, real) + _mean(other, paired))
    directions = [(real[..., None] * x).sum((0, 1)) / real.sum().clamp_min(1) for x in (audio, motion)]
    return {
        "gap": _mean(aligned, real) - _mean(other, paired),
        "in_sync": _mean((aligned > threshold).float(), real),
        "off_sync": _mean((other < threshold).float(), paired),
        "spread": 1 - torch.stack([direction.square().sum() for direction in directions]).max(),
    }


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1)
