"""Distances of each motion window to the audio windows around it, from batched products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SEGMENT = 40  # windows of a segment: a product of c x (c + 2 V) pairs holds c x (2 V + 1) wanted ones
# Up to so many times the pairs, one product of whole clips is faster than several of segments (by 25 % for 76 windows).
_WHOLE = 1.5
_ROWS = 8192  # windows handled at once: bounds the memory of hour-long recordings to some tens of megabytes
_CLOSE = 0.2  # share of |v|^2 below which |v|^2 + |a|^2 - 2 v.a has lost too many digits in float32
_NOTHING = 1e-14  # share of |v|^2 below which nothing is left of it in float64


def band_distances(motion: Tensor, audio: Tensor, *, max_offset: int, before: int, after: int) -> Tensor:
    r"""Compute :math:`\lVert v_i - a_{i + j} \rVert` for :math:`j = 0, \dots, 2V`.

    :math:`|v|^2 + |a|^2 - 2 v \cdot a` needs one matrix product, but loses digits for similar vectors.
    On a CPU it is computed in float32,
    and pairs closer than 0.45 times the norm of the motion are recomputed from their differences. The error of every distance
    is at most 1e-5 of its value or 1e-6 of the norms. On other devices, and in compiled code, which cannot branch on values,
    float64 is used.

    Args:
        motion: (batch, windows, embed), float32 or float64.
        audio: (batch, audio_windows, embed).
        max_offset: V.
        before: Number of zero windows before the audio; negative to drop leading windows.
        after: Number of zero windows after the audio; negative to drop trailing windows; ``audio_windows + before + after`` is
            ``windows + 2 V``.

    Returns:
        (batch, windows, 2 V + 1).
    """
    batch, windows, embed = motion.shape
    count = -(-windows // _SEGMENT)
    length = -(-windows // count)
    heard = audio.shape[1] + min(before, 0) + min(after, 0)
    if windows * heard <= _WHOLE * count * length * (length + 2 * max_offset):
        # Short clips: one product of all pairs. It is padded instead of the audio, which saves the pairs with padding.
        audio = audio[:, max(-before, 0) : audio.shape[1] - max(-after, 0)]
        before, after, count, length = max(before, 0), max(after, 0), 1, windows
    else:
        # Segments of a clip; their audio overlaps by 2 V windows.
        spare = count * length - windows
        audio = F.pad(audio, (0, 0, before, after + spare)).unfold(1, length + 2 * max_offset, length).transpose(2, 3)
        audio = audio[0] if batch == 1 else audio.flatten(0, 1)
        motion = F.pad(motion, (0, 0, 0, spare)).reshape(batch * count, length, embed)
        before = after = 0
    rows = max(1, _ROWS // length)
    found = [
        _distances(some, others, max_offset, (before, after))
        for some, others in zip(motion.split(rows), audio.split(rows), strict=True)
    ]
    return torch.cat(found).reshape(batch, count * length, 2 * max_offset + 1)[:, :windows]


def _distances(motion: Tensor, audio: Tensor, max_offset: int, padding: tuple[int, int]) -> Tensor:
    """Compute distances of segments: motion (segments, windows, embed), audio (segments, windows + 2 V - padding, embed)."""
    if _in_double(motion):
        # The difference of equal embeddings is rounding error.
        squared, norm = _squared(motion.double(), audio.double(), max_offset, padding)
        return squared.masked_fill(squared < _NOTHING * norm, 0).sqrt_().to(motion.dtype)
    squared, norm = _squared(motion, audio, max_offset, padding)
    if not torch.compiler.is_compiling() and bool(squared.amin() < _CLOSE * norm.amax()):
        which, window, shift = (squared < _CLOSE * norm).nonzero(as_tuple=True)
        difference = motion[which, window] - F.pad(audio, (0, 0, *padding))[which, window + shift]
        squared = squared.index_put((which, window, shift), difference.square().sum(-1))
    return squared.clamp_min_(0).sqrt_()


def _squared(motion: Tensor, audio: Tensor, max_offset: int, padding: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Compute squared distances (segments, windows, 2 V + 1), and squared norms of the motion (segments, windows, 1)."""
    norm, audio_norm = _squared_norm(motion)[..., None], _squared_norm(audio)[:, None, :]
    product = torch.baddbmm(audio_norm, motion, audio.transpose(1, 2), alpha=-2)
    product = F.pad(product, padding) if any(padding) else product
    # The pairs that are needed lie along diagonals of all pairs, which a view reads without a copy.
    segment, row, column = product.stride()
    wanted = product.as_strided((*product.shape[:2], 2 * max_offset + 1), (segment, row + column, column))
    return wanted + norm, norm


def can_branch(x: Tensor) -> bool:
    """Return whether a value may decide what is computed: not in compiled code, and not on a GPU, which would have to wait."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _in_double(motion: Tensor) -> bool:
    """Return whether float32 products are not reliable, so that float64 is needed."""
    if motion.dtype == torch.float64:
        return True
    if motion.device.type == "mps":  # there is no float64
        return False
    # A user may let float32 products lose digits for speed; the loss is unknown on devices other than a CPU.
    return not can_branch(motion) or torch.get_float32_matmul_precision() != "highest"


def _squared_norm(x: Tensor) -> Tensor:
    # A norm is taken in one pass, a sum of squares in two.
    return torch.linalg.vector_norm(x, dim=-1).square()
