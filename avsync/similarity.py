"""Equation (3) and the few operations on pairs of embeddings that every contrastive loss shares.

Embeddings come un-normalised from any model. Everything here works in float32 at least, whatever autocast says, because a
cosine near 1 has no digits left in half precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import check_floating, describe_shape, reduce
from avsync.errors import ShapeError

__all__ = ["cosine_similarity", "half_squared_distance", "sampled_similarity", "unit_norm"]

_SMALLEST_SQUARED_NORM = 1e-24


def unit_norm(embeddings: Tensor) -> Tensor:
    """Scale each embedding to length 1, in float32 at least.

    Args:
        embeddings: (..., embed), floating point.

    Returns:
        The same shape, float32 or float64. An embedding of zeros stays zeros and receives no gradient, rather than a huge one.

    Raises:
        ShapeError: Not floating point.

    Example:
        >>> unit_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])

    Source: the normalisation inside equation (3).
    """
    check_floating("embeddings", embeddings)
    x = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    squared = x.square().sum(dim=-1, keepdim=True)
    scale = torch.where(squared > _SMALLEST_SQUARED_NORM, squared.clamp(min=_SMALLEST_SQUARED_NORM).rsqrt(), 0.0)
    return x * scale


def cosine_similarity(audio: Tensor, motion: Tensor) -> Tensor:
    """Equation (3): the score of an audio window and a motion window is the cosine of their embeddings.

    Args:
        audio: (..., embed).
        motion: (..., embed), the same shape.

    Returns:
        (...), in [-1, 1].

    Raises:
        ShapeError: The shapes differ, or not floating point.

    Example:
        >>> cosine_similarity(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
        tensor([1.])

    Source: paper section 3.1.
    """
    check_pair(audio, motion)
    return (unit_norm(audio) * unit_norm(motion)).sum(dim=-1)


def half_squared_distance(audio: Tensor, motion: Tensor) -> Tensor:
    """One minus the cosine, as half the squared distance of the unit vectors: exact where the cosine is close to 1.

    Args:
        audio: (..., embed).
        motion: (..., embed), the same shape.

    Returns:
        (...), in [0, 2].

    Raises:
        ShapeError: The shapes differ, or not floating point.

    Example:
        >>> half_squared_distance(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([1.])

    Source: ours.
    """
    check_pair(audio, motion)
    return 0.5 * (unit_norm(audio) - unit_norm(motion)).square().sum(dim=-1)


def sampled_similarity(audio: Tensor, motion: Tensor, indices: Tensor) -> Tensor:
    """The cosine of each audio window with the motion windows that ``indices`` names.

    Args:
        audio: (clips, windows, embed).
        motion: (clips, windows, embed).
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
    check_windows(audio, motion)
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


def is_tensor(x: object) -> bool:
    """Whether ``x`` is a tensor; for arguments that are declared as one but come from a stranger."""
    return isinstance(x, Tensor)


def check_pair(audio: Tensor, motion: Tensor) -> None:
    """Raise :class:`ShapeError` unless both are floating point and of one shape (..., embed)."""
    if not is_tensor(audio) or not is_tensor(motion) or audio.ndim == 0 or audio.shape != motion.shape:
        shapes = f"{describe_shape(audio)} and {describe_shape(motion)}"
        raise ShapeError(f"`audio`, `motion`: expected the same shape (..., embed), got {shapes}")
    check_floating("audio", audio)
    check_floating("motion", motion)


def check_windows(audio: Tensor, motion: Tensor) -> None:
    """Raise :class:`ShapeError` unless both are floating point and of one shape (clips, windows, embed)."""
    check_pair(audio, motion)
    if audio.ndim != 3:
        raise ShapeError(f"`audio`, `motion`: expected (clips, windows, embed), got {describe_shape(audio)}")


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


def reduce_windows(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Reduce (clips, windows) values over the windows that ``mask`` marks True; the others count as nothing."""
    if mask is None:
        return reduce(values, reduction)
    kept = torch.where(mask, values, 0.0)
    if reduction == "mean":
        return kept.sum() / mask.sum().clamp(min=1)
    return reduce(kept, reduction)
