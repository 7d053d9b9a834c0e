"""Score of equation (3): the cosine of a motion embedding and an audio embedding.

Embeddings of any model are accepted, without normalisation. All functions compute in at least float32, also under autocast, because
half precision cannot resolve cosines near 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import check_floating, check_same_device, describe_shape, is_tensor
from avsync.errors import ShapeError

_SMALLEST_SQUARED_NORM = 1e-24


def unit_norm(embeddings: Tensor) -> Tensor:
    """Scale each embedding to length 1, in at least float32.

    Args:
        embeddings: (..., embed), floating point.

    Returns:
        The same shape, float32 or float64. An embedding of zeros stays zeros and receives no gradient instead of a very large one.

    Raises:
        ShapeError: The embeddings are not floating point.

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


def cosine_similarity(motion: Tensor, audio: Tensor) -> Tensor:
    """Compute the score of equation (3): the cosine of the embeddings of a motion window and an audio window.

    Args:
        motion: (..., embed).
        audio: (..., embed), the same shape.

    Returns:
        (...), in [-1, 1].

    Raises:
        ShapeError: The shapes differ, or an embedding is not floating point.

    Example:
        >>> cosine_similarity(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
        tensor([1.])

    Source: paper section 3.1.
    """
    check_pair(motion, audio)
    return (unit_norm(motion) * unit_norm(audio)).sum(dim=-1)


def half_squared_distance(motion: Tensor, audio: Tensor) -> Tensor:
    """Compute one minus the cosine, as half the squared distance of the unit vectors, which is exact if the cosine is close to 1.

    Args:
        motion: (..., embed).
        audio: (..., embed), the same shape.

    Returns:
        (...), in [0, 2].

    Raises:
        ShapeError: The shapes differ, or an embedding is not floating point.

    Example:
        >>> half_squared_distance(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([1.])

    Source: ours.
    """
    check_pair(motion, audio)
    return 0.5 * (unit_norm(motion) - unit_norm(audio)).square().sum(dim=-1)


def check_pair(motion: Tensor, audio: Tensor) -> None:
    """Raise :class:`ShapeError` unless both are floating point and of one shape (..., embed)."""
    if not is_tensor(motion) or not is_tensor(audio) or motion.ndim == 0 or motion.shape != audio.shape:
        shapes = f"{describe_shape(motion)} and {describe_shape(audio)}"
        raise ShapeError(f"`motion`, `audio`: expected the same shape (..., embed), got {shapes}")
    check_floating("motion", motion)
    check_floating("audio", audio)
    check_same_device("audio", audio, motion.device, "`motion`")
