"""Audio-visual offset and confidence by SyncNet's protocol, for the embeddings of any model.

Signs: **a positive offset says that the audio is early** and has to be delayed by so many frames of the level to be in sync; a
negative one says that it is late. At level ``i`` of a 25-fps pyramid a frame is ``40 * 2**i`` ms.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from avsync._checks import check_choice, check_positive, check_shape
from avsync.errors import ClipTooShortError
from avsync.similarity import check_mask

EDGES = ("masked", "legacy")
_CHUNK = 512  # motion windows handled at once: bounds the memory of hour-long recordings to a few megabytes


class SyncOffset(NamedTuple):
    """What SyncNet's protocol says of each clip. All tensors are (batch,) except the last."""

    offset_frames: Tensor
    """Frames of the level by which the audio is early (int64); 0, with NaN in all else, for a clip without a window that counts."""
    confidence: Tensor
    """Median less minimum of the mean distances over offsets; 0 where all offsets look alike. Higher is better."""
    distance: Tensor
    """Smallest mean distance, at the best offset. Lower is better."""
    distance_at_zero: Tensor
    """Mean distance at offset 0. Lower is better."""
    distances: Tensor
    """Mean distance at each offset from ``+max_offset`` down to ``-max_offset``, (batch, 2 * max_offset + 1)."""


def _pair_distances(motion: Tensor, audio: Tensor, max_offset: int) -> Tensor:
    """Distances of each motion window to the ``2 V + 1`` audio windows around it: (batch, windows, 2 V + 1).

    ``audio`` holds ``V`` windows more than ``motion`` on both sides.
    """
    # |v|^2 + |a|^2 - 2 v.a cancels where the two are alike: in float64 the distance keeps the digits of a direct difference. Where
    # there is no float64 (MPS) it has to do without.
    precise = torch.float32 if motion.device.type == "mps" else torch.float64
    motion, audio = motion.to(precise), audio.to(precise)
    parts = [
        _band_distances(motion[:, start : start + _CHUNK], audio[:, start : start + _CHUNK + 2 * max_offset], max_offset)
        for start in range(0, motion.shape[1], _CHUNK)
    ]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _band_distances(motion: Tensor, audio: Tensor, max_offset: int) -> Tensor:
    # One matrix product gives all pairs; the wanted ones are its diagonals, which a strided view reads without a copy.
    product = torch.bmm(motion, audio.transpose(1, 2)).contiguous()
    batch_stride, row_stride, column_stride = product.stride()
    shape = (*motion.shape[:2], 2 * max_offset + 1)
    band = product.as_strided(shape, (batch_stride, row_stride + column_stride, column_stride))
    motion_norm, audio_norm = torch.linalg.vecdot(motion, motion), torch.linalg.vecdot(audio, audio)
    squared = motion_norm[..., None] + audio_norm.unfold(1, motion.shape[1], 1).transpose(1, 2) - 2 * band
    return squared.clamp_min(0).sqrt()


def offset_distances(
    motion: Tensor,
    audio: Tensor,
    *,
    max_offset: int = 15,
    lead: int = 0,
    edges: str = "masked",
    mask: Tensor | None = None,
) -> Tensor:
    """Mean distance between motion and audio windows at every offset.

    ``m[j] = mean over i of || v[i] - a[i + j - V] ||`` for ``j = 0..2 V``; entry ``j`` belongs to the offset ``V - j``.

    Args:
        motion: Embeddings of motion windows, (batch, windows, embed).
        audio: Embeddings of audio windows, (batch, audio_windows, embed), at the same rate. May reach further than the motion on
            both sides, so that no offset runs out of sound.
        max_offset: V, the largest offset searched, in windows (frames of the level).
        lead: Audio windows that lie before the first motion window: ``audio[:, lead]`` belongs to ``motion[:, 0]``.
        edges: What an offset does that reaches beyond the audio. "masked" leaves those pairs out; "legacy" compares with zero
            embeddings as the published SyncNet script does, which biases short clips.
        mask: True for the motion windows that count, (batch, windows), bool; padding and silence can be left out with it.

    Returns:
        (batch, 2 * max_offset + 1), float32 or float64; NaN at offsets at which no pair is left.

    Raises:
        ShapeError: Shapes do not fit together.
        ArgumentError: ``edges`` is neither "masked" nor "legacy", or ``max_offset`` or ``lead`` is negative.
        ClipTooShortError: There is no motion window, or no audio window beside the first of them.

    Example:
        >>> sound = torch.eye(9)[None]
        >>> offset_distances(sound[:, 2:7], sound, max_offset=2, lead=2).argmin()
        tensor(2)

    Source: SyncNet's published protocol (paper section 4.3); masked edges and lead ours.
    """
    check_shape("motion", motion, "batch windows embed")
    check_shape("audio", audio, "batch audio_windows embed", batch=motion.shape[0], embed=motion.shape[2])
    check_choice("edges", edges, EDGES)
    check_positive("max_offset", max_offset, allow_zero=True)
    check_positive("lead", lead, allow_zero=True)
    windows = motion.shape[1]
    if windows == 0:
        raise ClipTooShortError("`motion`: expected at least 1 window, got 0")
    if audio.shape[1] <= lead:
        raise ClipTooShortError(f"`audio`: expected more than the {lead} windows that `lead` counts, got {audio.shape[1]}")
    check_mask(mask, motion.shape[0], windows)
    before, after = max_offset - lead, windows + max_offset - (audio.shape[1] - lead)
    # Negative padding crops: sound beyond the farthest offset is never looked at.
    around = F.pad(audio, (0, 0, before, after))
    with torch.autocast(device_type=motion.device.type, enabled=False):
        distances = _pair_distances(motion, around, max_offset)
    counts = torch.ones_like(distances, dtype=torch.bool)
    if edges == "masked":
        position = torch.arange(-before, audio.shape[1] + after, device=audio.device)
        inside = (position >= 0) & (position < audio.shape[1])
        counts = counts & inside.unfold(0, windows, 1).transpose(0, 1)
    if mask is not None:
        counts = counts & mask[..., None]
    mean = torch.where(counts, distances, 0.0).sum(1) / counts.sum(1)
    return mean.to(torch.promote_types(motion.dtype, torch.float32))


def sync_offset(
    motion: Tensor,
    audio: Tensor,
    *,
    max_offset: int = 15,
    lead: int = 0,
    edges: str = "masked",
    mask: Tensor | None = None,
) -> SyncOffset:
    """Offset and confidence of clips by SyncNet's protocol.

    ``offset = V - argmin_j m[j]`` (positive: the audio is early) and ``confidence = median_j m[j] - min_j m[j]``, with ``m`` from
    :func:`offset_distances`. Multiply the offset by ``2**level / fps`` for seconds.

    Args:
        motion: Embeddings of motion windows, (batch, windows, embed).
        audio: Embeddings of audio windows, (batch, audio_windows, embed).
        max_offset: V, the largest offset searched, in frames of the level.
        lead: Audio windows before the first motion window.
        edges: "masked" or "legacy"; see :func:`offset_distances`.
        mask: True for the motion windows that count, (batch, windows).

    Returns:
        :class:`SyncOffset`.

    Raises:
        ShapeError: Shapes do not fit together.
        ArgumentError: An option has an impossible value.
        ClipTooShortError: There is no motion window.

    Example:
        >>> sound = torch.eye(9)[None]
        >>> early = sync_offset(sound[:, 1:6], sound, max_offset=2, lead=2)  # what is heard at window i is seen one window later
        >>> early.offset_frames
        tensor([1])

    Source: SyncNet's published protocol (paper section 4.3).
    """
    distances = offset_distances(motion, audio, max_offset=max_offset, lead=lead, edges=edges, mask=mask)
    smallest, best = torch.where(distances.isnan(), torch.inf, distances).min(dim=1)
    nothing = smallest.isinf()
    smallest = torch.where(nothing, torch.nan, smallest)
    # The median of those offsets that have a distance, as NumPy has it; sorting puts NaN last.
    ordered, count = distances.sort(dim=1).values, (~distances.isnan()).sum(dim=1, keepdim=True)
    middle = torch.cat([(count - 1).clamp_min(0) // 2, count // 2], dim=1).clamp_max(distances.shape[1] - 1)
    median = ordered.gather(1, middle).mean(dim=1)
    offset = torch.where(nothing, 0, max_offset - best)
    return SyncOffset(offset, median - smallest, smallest, distances[:, max_offset], distances)
