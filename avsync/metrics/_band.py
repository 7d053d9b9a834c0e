"""Distances of each motion window to the audio windows around it, from batched products of short pieces."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_PIECE = 40  # windows of a piece: a product of c x (c + 2 V) pairs holds c x (2 V + 1) wanted ones
_WHOLE = 1.5  # up to so many times the pairs, one product of whole clips is faster than several of pieces
_ROWS = 8192  # windows handled at once: bounds the memory of hour-long recordings to some tens of megabytes
_CLOSE = 0.2  # share of |v|^2 below which |v|^2 + |a|^2 - 2 v.a has lost too many digits in float32
_NOTHING = 1e-14  # share of |v|^2 below which nothing is left of it in float64
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
    windows = motion.shape[1]
    count = -(-windows // _PIECE)
    piece = -(-windows // count)
    heard = audio.shape[1] + min(before, 0) + min(after, 0)
    if windows * heard <= _WHOLE * count * piece * (piece + 2 * max_offset):
        return _whole(motion, audio, max_offset, before, after)
    return _in_pieces(motion, audio, max_offset, before, after, piece)


def _in_pieces(motion: Tensor, audio: Tensor, max_offset: int, before: int, after: int, piece: int) -> Tensor:
    """Long clips, ``piece`` windows at a time, so that few pairs are taken that are not wanted."""
    batch, windows = motion.shape[:2]
    count = -(-windows // piece)
    spare = count * piece - windows
    if max(before, after + spare) > 0:
        audio = F.pad(audio, (0, 0, before, after + spare))  # a negative end leaves out
    else:
        audio = audio[:, -before : audio.shape[1] + after + spare]
    if spare:
        motion = F.pad(motion, (0, 0, 0, spare))
    reach = piece + 2 * max_offset
    # A piece of sound overlaps the next by 2 V windows. Products over a batch of views need no copies, and a batch can be the clips at
    # one piece, or the pieces of one clip: whichever is larger, so that there are few products.
    rows = max(1, _ROWS // piece)
    motions, sounds = motion.unfold(1, piece, piece).transpose(2, 3), audio.unfold(1, reach, piece).transpose(2, 3)
    motion_norms, audio_norms = _squared_norm(motion).unfold(1, piece, piece), _squared_norm(audio).unfold(1, reach, piece)

    def pieces(where: tuple[int | slice, int | slice]) -> Tensor:
        return _pieces(motions[where], sounds[where], motion_norms[where], audio_norms[where], max_offset)

    parts = []
    if count <= batch:
        for start in range(0, batch, rows):
            clips = slice(start, start + rows)
            parts.append(torch.stack([pieces((clips, k)) for k in range(count)], dim=1))
        distances = torch.cat(parts)
    else:
        for clip in range(batch):
            parts.extend(pieces((clip, slice(start, start + rows))) for start in range(0, count, rows))
        distances = torch.cat(parts)
    distances = distances.reshape(batch, count * piece, 2 * max_offset + 1)
    return distances[:, :windows] if spare else distances


def _whole(motion: Tensor, audio: Tensor, max_offset: int, before: int, after: int) -> Tensor:
    """Short clips whole, as many at once as the memory is meant for."""
    rows = max(1, _ROWS // motion.shape[1])
    clips = [slice(start, start + rows) for start in range(0, motion.shape[0], rows)]
    parts = [_all_pairs(motion[some], audio[some], max_offset, before, after) for some in clips]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _all_pairs(motion: Tensor, audio: Tensor, max_offset: int, before: int, after: int) -> Tensor:
    """All pairs of clips in one product, which is then padded instead of the sound: pairs with silence are ``|v|`` apart."""
    first, last = max(-before, 0), audio.shape[1] - max(-after, 0)
    around = (max(before, 0), max(after, 0))
    audio = audio[:, first:last]
    if _in_double(motion):
        audio = F.pad(audio, (0, 0, *around))
        return _exactly(motion, audio, max_offset).clamp_min_(0).sqrt_()
    motion_norm = _squared_norm(motion)
    product = torch.baddbmm(_squared_norm(audio)[:, None, :], motion, audio.transpose(1, 2), alpha=-2)
    squared = _diagonals(F.pad(product, around), max_offset) + motion_norm[..., None]
    if not torch.compiler.is_compiling() and bool(squared.amin() < _CLOSE * motion_norm.amax()):
        squared = _mended(squared, motion, F.pad(audio, (0, 0, *around)), motion_norm, max_offset)
    return squared.clamp_min_(0).sqrt_()


def _in_double(motion: Tensor) -> bool:
    """Whether float32 products cannot be relied on, so that float64 has to be taken."""
    if motion.dtype == torch.float64:
        return True
    if motion.device.type == "mps":  # there is no float64
        return False
    # A user may let float32 products lose digits for speed; how many is beyond our sight elsewhere than on a CPU.
    return torch.compiler.is_compiling() or motion.device.type != "cpu" or torch.get_float32_matmul_precision() != "highest"


def _pieces(motion: Tensor, audio: Tensor, motion_norm: Tensor, audio_norm: Tensor, max_offset: int) -> Tensor:
    """(pieces, windows, embed), (pieces, windows + 2 V, embed) and their squared norms to (pieces, windows, 2 V + 1)."""
    if _in_double(motion):
        return _exactly(motion, audio, max_offset).clamp_min_(0).sqrt_()
    squared = _squared(motion, audio, motion_norm, audio_norm, max_offset)
    if not torch.compiler.is_compiling() and bool((squared.amin(dim=2) < _CLOSE * motion_norm).any()):
        squared = _mended(squared, motion, audio, motion_norm, max_offset)
    return squared.clamp_min_(0).sqrt_()


def _mended(squared: Tensor, motion: Tensor, audio: Tensor, motion_norm: Tensor, max_offset: int) -> Tensor:
    """Squared distances with those of near pairs, which have lost their digits, taken anew."""
    close = squared < _CLOSE * motion_norm[..., None]
    if motion.device.type != "mps" and int(close.sum()) > _FEW * close.numel():
        return _exactly(motion, audio, max_offset)
    which, window, shift = close.nonzero(as_tuple=True)
    difference = motion[which, window] - audio[which, window + shift]
    return squared.index_put((which, window, shift), difference.square().sum(-1))


def _squared(motion: Tensor, audio: Tensor, motion_norm: Tensor, audio_norm: Tensor, max_offset: int) -> Tensor:
    """Squared distances, (pieces, windows, 2 V + 1)."""
    product = torch.baddbmm(audio_norm[:, None, :], motion, audio.transpose(1, 2), alpha=-2)
    return _diagonals(product, max_offset) + motion_norm[..., None]


def _diagonals(product: Tensor, max_offset: int) -> Tensor:
    """(pieces, windows, windows + 2 V) of all pairs to the wanted ones, (pieces, windows, 2 V + 1), which a view reads without a copy."""
    piece_stride, row_stride, column_stride = product.stride()
    shape = (*product.shape[:2], 2 * max_offset + 1)
    return product.as_strided(shape, (piece_stride, row_stride + column_stride, column_stride))


def _exactly(motion: Tensor, audio: Tensor, max_offset: int) -> Tensor:
    """Squared distances taken in float64, in the dtype of ``motion``; what is left of equal embeddings, rounding alone, is 0."""
    dtype, motion, audio = motion.dtype, motion.double(), audio.double()
    motion_norm = _squared_norm(motion)
    squared = _squared(motion, audio, motion_norm, _squared_norm(audio), max_offset)
    return squared.masked_fill(squared < _NOTHING * motion_norm[..., None], 0).to(dtype)


def _squared_norm(x: Tensor) -> Tensor:
    # A norm is taken in one pass, a sum of squares in two.
    return torch.linalg.vector_norm(x, dim=-1).square()
