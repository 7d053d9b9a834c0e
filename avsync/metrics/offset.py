"""Audio-visual offset and confidence by SyncNet's protocol, for the embeddings of any model.

Signs: **a positive offset means that the audio is early** and has to be delayed by that many frames of the level to be in
sync; a negative offset means that the audio is late. At level ``i`` of a 25-fps pyramid a frame is ``40 * 2**i`` ms;
:func:`offset_milliseconds` converts. Distances and confidences are in the unit of the embeddings, 0 to 2 for unit vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from avsync._checks import check_choice, check_count, check_floating, check_positive, check_shape, checked, describe_shape
from avsync.errors import ClipTooShortError, ShapeError
from avsync.losses.offsets import frame_shares
from avsync.metrics._band import band_distances, can_branch
from avsync.metrics._median import nan_median
from avsync.models.syncer.interface import check_mask
from avsync.pyramid import level_fps

EDGES = ("masked", "legacy")
_ROUNDING = 8  # units in the last place within which mean distances count as equal


class SyncOffset(NamedTuple):
    """Offset and confidence of each clip by SyncNet's protocol. All tensors are (batch,) except the last.

    A clip without valid windows, or with NaN in a valid window, has offset 0, rank 0, and NaN in all other fields. A clip with
    equal distances at all offsets (constant embeddings) has offset 0, confidence 0 and the last rank.
    """

    offset_frames: Tensor
    """Frames of the level by which the audio is early (int64)."""
    confidence: Tensor
    """Median minus minimum of the mean distances over offsets; 0 if all distances are equal. Higher is better (LSE-C)."""
    distance: Tensor
    """Smallest mean distance, at the best offset. Lower is better (LSE-D)."""
    distance_at_zero: Tensor
    """Mean distance at offset 0, the strict LSE-D, which penalises a constant delay. Lower is better."""
    rank_at_zero: Tensor
    """Rank of offset 0 among all offsets by distance (int64): 1 is best, and ties count against it. Lower is better."""
    distances: Tensor
    """Mean distance at each offset from ``+max_offset`` down to ``-max_offset``, (batch, 2 * max_offset + 1)."""

    def known(self) -> Tensor:
        """Return the offsets, (batch,), with NaN where none can be determined; see :func:`known_offset`."""
        return known_offset(self.offset_frames, self.confidence)

    @checked
    def within(self, tolerance: int = 1) -> Tensor:
        """Return which clips have an offset of at most ``tolerance`` frames; see :func:`offset_within`.

        Returns:
            (batch,), bool.
        """
        return offset_within(self.offset_frames, self.confidence, tolerance)


@checked
def known_offset(offset_frames: Tensor, confidence: Tensor) -> Tensor:
    """Return offsets, with NaN for clips whose offset cannot be determined.

    Clips with equal distances at all offsets have offset 0 and confidence 0. Typical causes are a collapsed
    network and digital silence. Clips without a score have confidence NaN. Neither is evidence of an offset of 0.

    Args:
        offset_frames: Offsets of :class:`SyncOffset`, any shape.
        confidence: Their confidences, the same shape.

    Returns:
        The same shape, in the dtype of ``confidence``.

    Example:
        >>> known_offset(torch.tensor([0, 0, 3]), torch.tensor([0.0, 0.4, 0.2]))
        tensor([nan, 0., 3.])

    Source: ours.
    """
    check_floating("confidence", confidence)
    if offset_frames.shape != confidence.shape:
        raise ShapeError(
            f"`confidence`: expected the shape of `offset_frames`, {tuple(offset_frames.shape)},"
            f" got {describe_shape(confidence)}"
        )
    return offset_frames.to(confidence.dtype).masked_fill(~(confidence > 0), torch.nan)


@checked
def offset_within(offset_frames: Tensor, confidence: Tensor, tolerance: float = 1) -> Tensor:
    """Return which offsets count as right: determined, and at most ``tolerance`` frames from 0.

    Args:
        offset_frames: Offsets of :class:`SyncOffset`, any shape.
        confidence: Their confidences, the same shape.
        tolerance: Largest accepted offset, in frames of the level.

    Returns:
        The same shape, bool; False for offsets that :func:`known_offset` cannot determine.

    Example:
        >>> offset_within(torch.tensor([0, 0, 3]), torch.tensor([0.0, 0.4, 0.2]))
        tensor([False,  True, False])

    Source: ours.
    """
    return known_offset(offset_frames, confidence).abs() <= tolerance


@checked
def offset_milliseconds(offset_frames: Tensor, *, level: int = 0, fps: float = 25.0) -> Tensor:
    """Convert offsets to milliseconds; positive still means that the audio is early.

    Args:
        offset_frames: Offsets in frames of ``level``, any shape; may be fractional.
        level: Pyramid level, 0 the finest.
        fps: Frames per second at level 0.

    Returns:
        The same shape, floating point: ``offset_frames * 2**level * 1000 / fps``.

    Raises:
        ArgumentError: ``level`` is negative or ``fps`` not above 0.

    Example:
        >>> offset_milliseconds(torch.tensor([1, -3]), level=1)
        tensor([  80., -240.])

    Source: ours.
    """
    check_positive("level", level, allow_zero=True)
    check_positive("fps", fps)
    return offset_frames * (1000.0 / level_fps(fps, level))


def window_distances(
    motion: Tensor,
    audio: Tensor,
    *,
    max_offset: int = 15,
    lead: int = 0,
    edges: str = "masked",
    mask: Tensor | None = None,
    audio_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute the distance of every motion window to the audio at every offset, without averaging over windows.

    Args:
        motion, audio, max_offset, lead, edges, mask, audio_mask: As in :func:`offset_distances`.

    Returns:
        Distances (batch, windows, 2 * max_offset + 1), where entry ``j`` belongs to the offset ``V - j``; and the weights
        of the distances, 1 or 0, in the same dtype and a shape that broadcasts, or None if all are valid. Invalid distances
        are finite.

    Raises:
        ShapeError, ArgumentError, ClipTooShortError: As :func:`offset_distances`.

    Example:
        >>> audio = torch.eye(9)[None]
        >>> window_distances(audio[:, 2:7], audio, max_offset=2, lead=2)[0].shape
        torch.Size([1, 5, 5])

    Source: SyncNet's published protocol (paper section 4.3); masked edges, masks and lead ours.
    """
    check_shape("motion", motion, "batch windows embed")
    check_shape("audio", audio, "batch audio_windows embed", batch=motion.shape[0], embed=motion.shape[2])
    check_floating("motion", motion)
    check_floating("audio", audio)
    check_choice("edges", edges, EDGES)
    check_count("max_offset", max_offset, 0)
    check_count("lead", lead, 0)
    windows, audio_windows = motion.shape[1], audio.shape[1]
    if motion.shape[0] == 0:
        raise ShapeError("`motion`: expected at least 1 clip, got 0")
    if windows == 0:
        raise ClipTooShortError("`motion`: expected at least 1 window, got 0")
    if audio_windows <= lead:
        raise ClipTooShortError(f"`audio`: expected more than the {lead} windows that `lead` counts, got {audio_windows}")
    check_mask(mask, motion.shape[0], windows)
    if audio_mask is not None:
        check_shape("audio_mask", audio_mask, "batch audio_windows", batch=motion.shape[0], audio_windows=audio_windows)
        if audio_mask.dtype != torch.bool:
            raise ShapeError(f"`audio_mask`: expected bool, got {audio_mask.dtype}")
    dtype = torch.promote_types(torch.promote_types(motion.dtype, audio.dtype), torch.float32)
    motion, audio = motion.to(dtype), audio.to(dtype)
    # Masked windows may hold NaN, so they are replaced by zeros.
    if mask is not None:
        motion = torch.where(mask[..., None], motion, 0.0)
    if audio_mask is not None:
        audio = torch.where(audio_mask[..., None], audio, 0.0)
    before, after = max_offset - lead, windows + max_offset - (audio_windows - lead)
    with torch.autocast(device_type=motion.device.type, enabled=False):
        distances = band_distances(motion, audio, max_offset=max_offset, before=before, after=after)
    counts: Tensor | None = None
    if edges == "masked" and audio_mask is not None:
        real = torch.nn.functional.pad(audio_mask.to(dtype), (before, after))
        counts = real.unfold(1, windows, 1).transpose(1, 2)
    elif edges == "masked" and max(before, after) > 0:
        position = torch.arange(-before, audio_windows + after, device=audio.device)
        real = ((position >= 0) & (position < audio_windows)).to(dtype)
        counts = real.unfold(0, windows, 1).transpose(0, 1)[None]
    if mask is not None:
        counts = mask[..., None].to(dtype) if counts is None else counts * mask[..., None]
    return distances, counts


@checked
def offset_distances(
    motion: Tensor,
    audio: Tensor,
    *,
    max_offset: int = 15,
    lead: int = 0,
    edges: str = "masked",
    mask: Tensor | None = None,
    audio_mask: Tensor | None = None,
    window: int = 1,
) -> Tensor:
    r"""Compute the mean distance between motion and audio windows at every offset.

    .. math:: m_j = \frac{1}{W} \sum_{i=1}^{W} \lVert v_i - a_{i + j - V} \rVert, \quad j = 0, \dots, 2V

    with the embeddings :math:`v_i` and :math:`a_i` of the :math:`W` motion and audio windows and the largest offset :math:`V`.
    Entry :math:`j` belongs to the offset :math:`V - j`. With a ``window`` above 1 the mean is weighted by
    :func:`avsync.losses.offsets.frame_shares`.

    Args:
        motion: Embeddings of motion windows, (batch, windows, embed).
        audio: Embeddings of audio windows, (batch, audio_windows, embed), at the same rate. May extend beyond the motion on
            both sides, so that audio exists at every offset.
        max_offset: V, the largest offset searched, in windows (frames of the level).
        lead: Audio windows that lie before the first motion window: ``audio[:, lead]`` belongs to ``motion[:, 0]``.
        edges: Treatment of offsets that reach beyond the audio. "masked" leaves those pairs out; "legacy" compares with zero
            embeddings as the published SyncNet script does, which biases short clips.
        mask: True for the motion windows that count, (batch, windows), bool; use it to exclude padding and silence.
        audio_mask: True for the audio windows that exist, (batch, audio_windows), bool; the others are padding. Needed if
            clips of different lengths share a batch.
        window: Frames per window. With the window length of the syncers (5 in this package) the mean counts every *frame* of a
            clip once. With 1 the mean counts every window once, as in the published protocol, so that frames in the middle of
            a clip count several times. 5 improves the accuracy of the offsets of short clips (docs/pretrained.md, "Short
            clips").

    Returns:
        (batch, 2 * max_offset + 1), float32 or float64; NaN at offsets without valid pairs, and at all offsets of a clip with
        NaN in a valid pair.

    Raises:
        ShapeError: Shapes do not fit together, or embeddings are not floating point.
        ArgumentError: ``edges`` is neither "masked" nor "legacy", ``max_offset`` or ``lead`` is negative, or ``window`` below
            1.
        ClipTooShortError: There is no motion window, or no audio window for the first motion window.

    Example:
        >>> audio = torch.eye(9)[None]
        >>> offset_distances(audio[:, 2:7], audio, max_offset=2, lead=2).argmin()
        tensor(2)

    Source: SyncNet's published protocol (paper section 4.3); masked edges, masks, lead and ``window`` ours.
    """
    check_positive("window", window)
    distances, counts = window_distances(
        motion, audio, max_offset=max_offset, lead=lead, edges=edges, mask=mask, audio_mask=audio_mask
    )
    if window > 1:
        counts = frame_shares(distances.new_ones(1, distances.shape[1], 1) if counts is None else counts, window)
    return mean_over_windows(distances, counts)


def mean_over_windows(distances: Tensor, counts: Tensor | None) -> Tensor:
    """Compute the mean distance at every offset from the result of :func:`window_distances`.

    Args:
        distances: (batch, windows, offsets).
        counts: Weight of each distance, in a shape that broadcasts to ``distances``; None for equal weights.

    Returns:
        (batch, offsets); NaN as in :func:`offset_distances`.

    Example:
        >>> mean_over_windows(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]))
        tensor([[1., 3.]])

    Source: SyncNet's published protocol.
    """
    if counts is None:
        mean = distances.mean(1)
        broken = mean
    else:
        broken = (distances * counts).sum(1)
        mean = broken / counts.sum(1)
        # If the distances of every window are equal at all offsets (digital silence), the means still differ, because each
        # mean is over different windows. Such a clip has no offset, so all offsets get the same mean.
        outside = counts <= 0
        if not can_branch(distances) or bool(_flat(distances[:, :1], outside[:, :1]).any()):
            flat = _flat(distances, outside)
            flat = flat & ((~outside).sum(2) > 1).any(1, keepdim=True)  # with one offset per window there is no comparison
            mean = torch.where(flat & ~mean.isnan(), mean.nanmean(1, keepdim=True), mean)
    return mean.masked_fill(broken.isnan().any(1, keepdim=True), torch.nan)


def _flat(distances: Tensor, outside: Tensor) -> Tensor:
    """Return which clips have equal distances at all offsets of every window, (batch, 1); ``outside`` does not count."""
    most = distances.masked_fill(outside, -torch.inf).amax(2)
    least = distances.masked_fill(outside, torch.inf).amin(2)
    return (most <= least * (1 + _ROUNDING * torch.finfo(distances.dtype).eps)).all(1, keepdim=True)


@checked
def sync_offset(
    motion: Tensor,
    audio: Tensor,
    *,
    max_offset: int = 15,
    lead: int = 0,
    edges: str = "masked",
    mask: Tensor | None = None,
    audio_mask: Tensor | None = None,
    window: int = 1,
) -> SyncOffset:
    r"""Compute offset and confidence of clips by SyncNet's protocol.

    .. math::
        \text{offset} = V - \arg\min_j m_j, \qquad \text{confidence} = \operatorname{median}_j m_j - \min_j m_j

    with the mean distances :math:`m_j` of :func:`offset_distances` and the largest offset :math:`V`. A positive offset means
    that the audio is early. The first of several equal minima is used. :func:`offset_milliseconds` converts the offset to
    milliseconds.

    Args:
        motion: Embeddings of motion windows, (batch, windows, embed).
        audio: Embeddings of audio windows, (batch, audio_windows, embed).
        max_offset: V, the largest offset searched, in frames of the level.
        lead: Audio windows before the first motion window.
        edges: "masked" or "legacy"; see :func:`offset_distances`.
        mask: True for the motion windows that count, (batch, windows).
        audio_mask: True for the audio windows that exist, (batch, audio_windows).
        window: Frames per window, for a mean over frames; 1 for the protocol's mean over windows. See
            :func:`offset_distances`.

    Returns:
        :class:`SyncOffset`.

    Raises:
        ShapeError: Shapes do not fit together, or embeddings are not floating point.
        ArgumentError: An option has an impossible value.
        ClipTooShortError: There is no motion window.

    Example:
        >>> audio = torch.eye(9)[None]
        >>> early = sync_offset(audio[:, 1:6], audio, max_offset=2, lead=2)  # motion is one window later than audio
        >>> early.offset_frames, early.rank_at_zero
        (tensor([1]), tensor([5]))

    Source: SyncNet's published protocol (paper section 4.3); rank at offset zero and ``window`` ours.
    """
    return offset_from_distances(
        offset_distances(
            motion, audio, max_offset=max_offset, lead=lead, edges=edges, mask=mask, audio_mask=audio_mask, window=window
        )
    )


def offset_from_distances(distances: Tensor) -> SyncOffset:
    """Read offset and confidence from the mean distances of clips at all offsets.

    Args:
        distances: (batch, 2 V + 1) from ``+V`` down to ``-V``, from :func:`offset_distances`; NaN for missing distances.

    Returns:
        :class:`SyncOffset`.

    Raises:
        ShapeError: Not (batch, an odd number of offsets).

    Example:
        >>> offset_from_distances(torch.tensor([[3.0, 1.0, 2.5, 3.0, 3.0]])).confidence
        tensor([2.])

    Source: SyncNet's published protocol (paper section 4.3); rank at offset zero ours.
    """
    check_shape("distances", distances, "batch offsets")
    check_floating("distances", distances)
    if distances.shape[1] % 2 == 0:
        raise ShapeError(f"`distances`: expected an odd number of offsets, got {distances.shape[1]}")
    max_offset = distances.shape[1] // 2
    known = ~distances.isnan()
    nothing = ~known.any(dim=1)
    smallest = distances.masked_fill(~known, torch.inf).amin(dim=1).masked_fill(nothing, torch.nan)
    # Means over different windows differ in their last digits even for equal distances; rounding must not produce an offset.
    rounding = 1 + _ROUNDING * torch.finfo(distances.dtype).eps
    lowest = distances <= (smallest * rounding)[:, None]
    best = lowest.to(torch.uint8).argmax(dim=1)  # the first
    flat = (lowest == known).all(dim=1) & (known.sum(dim=1) > 1)
    at_zero = distances[:, max_offset]
    confidence = (nan_median(distances) - smallest).masked_fill(flat, 0)
    offset = (max_offset - best).masked_fill(flat | nothing, 0)
    rank = (distances <= (at_zero * rounding)[:, None]).sum(dim=1)
    return SyncOffset(offset, confidence, smallest, at_zero, rank, distances)


def at_edge(distances: Tensor) -> Tensor:
    """Return which clips have their smallest distance at the first or last offset of the search.

    Args:
        distances: (batch, 2 V + 1) from :func:`offset_distances`; NaN for missing distances, which end the search.

    Returns:
        (batch,) bool. True means that a better offset may lie beyond the search. False for clips with equal distances at all
        offsets, with fewer than three offsets, or without distances.

    Raises:
        ShapeError: Not (batch, an odd number of offsets).

    Example:
        >>> at_edge(torch.tensor([[1.0, 2.0, 3.0, 3.0, 3.0], [torch.nan, 3.0, 1.0, 3.0, torch.nan]]))
        tensor([ True, False])

    Source: ours.
    """
    found = offset_from_distances(distances)
    known = ~distances.isnan()
    best = distances.shape[1] // 2 - found.offset_frames
    first = known.to(torch.uint8).argmax(dim=1)
    last = distances.shape[1] - 1 - known.flip(1).to(torch.uint8).argmax(dim=1)
    return ((best == first) | (best == last)) & (found.confidence > 0) & (known.sum(dim=1) > 2)
