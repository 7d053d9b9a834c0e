"""Operations on (clips, windows, embed) that the contrastive losses share: checks, sampled scores, masked reduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from avsync._checks import check_counts, describe_shape, is_tensor, reduce
from avsync.errors import ShapeError
from avsync.models.syncer.similarity import check_pair, unit_norm


class Level(NamedTuple):
    """What a loss needs of one level."""

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
    indices: Tensor | Sequence[Tensor] = (),
) -> tuple[list[Level], bool]:
    """Sort arguments of one level, or lists with one entry per level, by level.

    Returns:
        The levels, and whether the caller passed a single one.

    Raises:
        ArgumentError: The lists differ in length or are empty.
    """
    if not isinstance(motion, (list, tuple)):
        return [Level(motion, audio, temperature, mask, indices)], True  # type: ignore[arg-type]  # checked by the loss
    several = isinstance(temperature, (list, tuple))
    temperatures = temperature if several else [temperature] * len(motion)
    masks = [None] * len(motion) if mask is None else mask
    drawn = indices if len(indices) else [None] * len(motion)
    check_counts(motion=motion, audio=audio, temperature=temperatures, mask=masks, indices=drawn)
    return [Level(*level) for level in zip(motion, audio, temperatures, masks, drawn, strict=True)], False


def check_windows(motion: Tensor, audio: Tensor) -> None:
    """Raise :class:`ShapeError` unless both are floating point and of one shape (clips, windows, embed)."""
    check_pair(motion, audio)
    if audio.ndim != 3:
        raise ShapeError(f"`motion`, `audio`: expected (clips, windows, embed), got {describe_shape(audio)}")


def check_indices(indices: Tensor, num_clips: int, num_windows: int) -> None:
    """Raise :class:`ShapeError` unless ``indices`` is (clips, windows, num_negatives) with at least one negative."""
    fits = is_tensor(indices) and indices.ndim == 3 and indices.shape[:2] == (num_clips, num_windows)
    if not fits or indices.shape[2] == 0 or indices.dtype != torch.int64:
        expected = f"int64 (clips={num_clips}, windows={num_windows}, num_negatives)"
        raise ShapeError(f"`indices`: expected {expected}, at least one negative, got {describe_shape(indices)}")


def check_mask(mask: Tensor | None, num_clips: int, num_windows: int) -> None:
    """Raise :class:`ShapeError` unless ``mask`` is None or bool (clips, windows)."""
    if mask is None:
        return
    if not is_tensor(mask) or mask.shape != (num_clips, num_windows) or mask.dtype != torch.bool:
        dtype = getattr(mask, "dtype", "")
        raise ShapeError(
            f"`mask`: expected bool (clips={num_clips}, windows={num_windows}), got {dtype} {describe_shape(mask)}"
        )


def sampled_similarity(motion: Tensor, audio: Tensor, indices: Tensor) -> Tensor:
    """The cosine of each audio window with the motion windows that ``indices`` names.

    Args:
        motion: (clips, windows, embed).
        audio: (clips, windows, embed).
        indices: (clips, windows, num_negatives), int64, into the flattened (clips * windows) axis.

    Returns:
        (clips, windows, num_negatives).

    Raises:
        ShapeError: Shapes that do not fit each other.

    Example:
        >>> embeddings = torch.eye(3)[None]
        >>> sampled_similarity(embeddings, embeddings, torch.tensor([[[0, 1], [0, 1], [0, 1]]])).tolist()
        [[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]]

    Source: ours.
    """
    check_windows(motion, audio)
    num_clips, num_windows, embed = audio.shape
    check_indices(indices, num_clips, num_windows)
    count, num_negatives = num_clips * num_windows, indices.shape[-1]
    with torch.autocast(device_type=audio.device.type, enabled=False):
        a, m = unit_norm(audio).reshape(count, embed), unit_norm(motion).reshape(count, embed)
        rows = indices.reshape(count, num_negatives)
        if count <= num_negatives * embed:  # the matrix of all scores is smaller, and far faster, than copies of the negatives
            scores = (a @ m.transpose(0, 1)).gather(1, rows)
        else:
            scores = torch.bmm(m[rows], a[:, :, None]).squeeze(-1)
    return scores.reshape(num_clips, num_windows, num_negatives)


def reduce_windows(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Reduce (clips, windows) values over the windows that ``mask`` marks True; the others count as nothing."""
    if mask is None:
        return reduce(values, reduction)
    kept = torch.where(mask, values, 0.0)
    if reduction == "mean":
        return kept.sum() / mask.sum().clamp(min=1)
    return reduce(kept, reduction)
