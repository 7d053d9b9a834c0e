"""Shared operations of the losses on (clips, windows, embed): levels, checks, sampled scores and masked reduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from avsync._checks import check_counts, check_same_device, describe_shape, is_tensor, reduce, same_precision
from avsync.errors import ClipTooShortError, ShapeError
from avsync.models.syncer.interface import check_windows, unit_norm


class Level(NamedTuple):
    """Arguments of a loss at one level."""

    motion: Tensor
    audio: Tensor
    temperature: float | Tensor
    mask: Tensor | None
    indices: Tensor


def as_levels(
    motion: Tensor | Sequence[Tensor],
    audio: Tensor | Sequence[Tensor],
    *,
    temperature: float | Tensor | Sequence[float | Tensor],
    mask: Tensor | Sequence[Tensor | None] | None,
    indices: Tensor | Sequence[Tensor] | None = None,
) -> tuple[list[Level], bool]:
    """Sort arguments of one level, or lists with one entry per level, by level.

    Returns:
        The levels, and True if the caller passed a single level.

    Raises:
        ArgumentError: The lists differ in length or are empty.
    """
    if not isinstance(motion, (list, tuple)):
        return [Level(motion, audio, temperature, mask, indices)], True  # type: ignore[arg-type]  # checked by the loss
    several = isinstance(temperature, (list, tuple))
    temperatures: Any = temperature if several else [temperature] * len(motion)
    masks = [None] * len(motion) if mask is None else mask
    given = {"motion": motion, "audio": audio, "temperature": temperatures, "mask": masks}
    check_counts(**given if indices is None else {**given, "indices": indices})
    drawn = [None] * len(motion) if indices is None else indices
    return [Level(*level) for level in zip(motion, audio, temperatures, masks, drawn, strict=True)], False


def check_negatives(num_clips: int, num_windows: int, exclusion: int) -> None:
    """Raise :class:`ClipTooShortError` unless the sizes leave every window at least one negative.

    A mask may still leave a window without negatives. The loss of this window is 0, because checking a mask on a GPU would be
    slow.
    """
    if num_clips < 2 and num_windows < 2 * exclusion + 2:
        raise ClipTooShortError(
            f"`motion`: expected several clips, or at least {2 * exclusion + 2} windows, so that every window has a negative "
            f"at a distance above {exclusion}, got 1 clip of {num_windows} windows"
        )


def check_indices(indices: Tensor, num_clips: int, num_windows: int, device: torch.device) -> None:
    """Raise :class:`ShapeError` unless ``indices`` is (clips, windows, num_negatives) with at least one negative."""
    fits = is_tensor(indices) and indices.ndim == 3 and indices.shape[:2] == (num_clips, num_windows)
    if not fits or indices.shape[2] == 0 or indices.dtype != torch.int64:
        expected = f"int64 (clips={num_clips}, windows={num_windows}, num_negatives)"
        dtype = getattr(indices, "dtype", "")
        raise ShapeError(f"`indices`: expected {expected}, at least one negative, got {dtype} {describe_shape(indices)}")
    check_same_device("indices", indices, device, "the embeddings")


def sampled_similarity(motion: Tensor, audio: Tensor, indices: Tensor) -> Tensor:
    """Compute the cosine of each audio window with the motion windows at ``indices``.

    Args:
        motion: (clips, windows, embed), the candidates.
        audio: (clips, windows, embed), the anchors.
        indices: (clips, windows, num_negatives), int64, into the flattened (clips * windows) axis.

    Returns:
        (clips, windows, num_negatives).

    Raises:
        ShapeError: The shapes do not match.

    Example:
        >>> embeddings = torch.eye(3)[None]
        >>> sampled_similarity(embeddings, embeddings, torch.tensor([[[0, 1], [0, 1], [0, 1]]])).tolist()
        [[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]]

    Source: ours.
    """
    check_windows(motion, audio)
    num_clips, num_windows, embed = audio.shape
    check_indices(indices, num_clips, num_windows, audio.device)
    count, num_negatives = num_clips * num_windows, indices.shape[-1]
    with torch.autocast(device_type=audio.device.type, enabled=False):
        motion, audio = same_precision(motion, audio)
        a, m = unit_norm(audio).reshape(count, embed), unit_norm(motion).reshape(count, embed)
        rows = indices.reshape(count, num_negatives)
        if count <= num_negatives * embed:  # the matrix of all scores is smaller, and far faster, than copies of the negatives
            scores = (a @ m.transpose(0, 1)).gather(1, rows)
        else:
            scores = torch.bmm(m[rows], a[:, :, None]).squeeze(-1)
    return scores.reshape(num_clips, num_windows, num_negatives)


def reduce_windows(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Reduce (clips, windows) values over the windows whose ``mask`` is True, and ignore the others."""
    if mask is None:
        return reduce(values, reduction)
    kept = torch.where(mask, values, 0.0)
    if reduction == "mean":
        return kept.sum() / mask.sum().clamp(min=1)
    return reduce(kept, reduction)
