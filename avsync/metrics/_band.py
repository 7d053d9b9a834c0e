"""Distances of each motion window to the audio windows around it, from batched products of short pieces."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_PIECE = 40  # windows of a piece: a product of c x (c + 2 V) pairs holds c x (2 V + 1) wanted ones
_ROWS = 8192  # windows handled at once: bounds the memory of hour-long recordings to some tens of megabytes
_CLOSE = 0.2  # share of |v|^2 below which |v|^2 + |a|^2 - 2 v.a has lost too many digits in float32
_FEW = 0.125  # share of close pairs up to which they are mended one by one


def band_distances(motion: Tensor, audio: Tensor, *, max_offset: int, before: int, after: int) -> Tensor:
    """``|| v[i] - a[i + j] ||`` for ``j = 0..2 V``, with sound padded by zeros where it does not reach.

    ``|v|^2 + |a|^2 - 2 v.a`` comes out of one product, but cancels where the two are alike. On a CPU it is taken in float32, and
    pairs nearer than 0.45 times the motion's norm are computed again from their differences: every distance is right to 1e-5 of itself
    or 1e-6 of the norms. Elsewhere, and in compiled code, which cannot look at values, it is taken in float64.

    Args:
        motion: (batch, windows, embed), float32 or float64.
        audio: (batch, audio_windows, embed).
        max_offset: V.
        before: Windows of zeros put before the sound; negative to leave out as many of its first windows.
        after: The same behind it; ``audio_windows + before + after`` is ``windows + 2 V``.

    Returns:
        (batch, windows, 2 V + 1).
    """
    batch, windows, embed = motion.shape
    count = -(-windows // _PIECE)
    piece = -(-windows // count)
    spare = count * piece - windows
    audio = F.pad(audio, (0, 0, before, after + spare))
    if spare:
        motion = F.pad(motion, (0, 0, 0, spare))
    reach = piece + 2 * max_offset
    # A piece of sound overlaps the next by 2 V windows; those of one slice of the pieces at a time are copied side by side.
    around, rows = audio.unfold(1, reach, piece).transpose(2, 3), motion.reshape(batch * count, piece, embed)
    step = max(1, _ROWS // piece)
    if batch * count <= step:
        distances = _pieces(rows, around.reshape(batch * count, reach, embed), max_offset)
    else:
        parts = []
        for start in range(0, batch * count, step):
            row = torch.arange(start, min(start + step, batch * count), device=motion.device)
            parts.append(_pieces(rows[start : start + step], around[row // count, row % count], max_offset))
        distances = torch.cat(parts)
    distances = distances.reshape(batch, count * piece, 2 * max_offset + 1)
    return distances[:, :windows] if spare else distances


def _pieces(motion: Tensor, audio: Tensor, max_offset: int) -> Tensor:
    """(pieces, windows, embed) and (pieces, windows + 2 V, embed) to (pieces, windows, 2 V + 1)."""
    exact, wide = motion.dtype == torch.float64, motion.device.type != "mps"  # there is no float64 on MPS
    # A user may let float32 products lose digits for speed; how many is beyond our sight elsewhere than on a CPU.
    if (
        not exact
        and wide
        and (torch.compiler.is_compiling() or motion.device.type != "cpu" or torch.get_float32_matmul_precision() != "highest")
    ):
        return _squared(motion.double(), audio.double(), max_offset)[0].clamp_min_(0).sqrt_().to(motion.dtype)
    squared, motion_norm = _squared(motion, audio, max_offset)
    if not exact and not torch.compiler.is_compiling():
        close = squared < _CLOSE * motion_norm
        number = int(close.sum())
        if wide and number > _FEW * close.numel():
            squared = _squared(motion.double(), audio.double(), max_offset)[0].to(motion.dtype)
        elif number:
            which, window, shift = close.nonzero(as_tuple=True)
            difference = motion[which, window] - audio[which, window + shift]
            squared = squared.index_put((which, window, shift), difference.square().sum(-1))
    return squared.clamp_min_(0).sqrt_()


def _squared(motion: Tensor, audio: Tensor, max_offset: int) -> tuple[Tensor, Tensor]:
    """Squared distances (pieces, windows, 2 V + 1), and the squared norm of each motion window, (pieces, windows, 1)."""
    audio_norm, motion_norm = torch.linalg.vecdot(audio, audio), torch.linalg.vecdot(motion, motion)[..., None]
    product = torch.baddbmm(audio_norm[:, None, :], motion, audio.transpose(1, 2), alpha=-2)
    # All pairs of a piece are there; the wanted ones are diagonals, which a strided view reads without a copy.
    piece_stride, row_stride, column_stride = product.stride()
    shape = (*motion.shape[:2], 2 * max_offset + 1)
    return product.as_strided(shape, (piece_stride, row_stride + column_stride, column_stride)) + motion_norm, motion_norm
