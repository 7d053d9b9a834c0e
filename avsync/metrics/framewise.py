"""Confidence of every window of a clip.

The confidence is a curve with one value per motion window, as saved by SyncNet's published script. Window ``i`` covers frames
``i`` to ``i + 4`` of its level.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from avsync._checks import check_positive, check_shape, checked
from avsync.errors import ArgumentError, ShapeError
from avsync.metrics._median import nan_median
from avsync.metrics.offset import mean_over_windows, offset_from_distances, window_distances


class FramewiseSync(NamedTuple):
    """Synchrony of every window at one offset per clip."""

    confidence: Tensor
    """Median over offsets of the clip's mean distances, minus the window's distance, median-filtered: (batch, windows). Higher
    is better; NaN for masked windows and for windows without audio."""
    distance: Tensor
    """Distance of each window at the offset, unfiltered: (batch, windows). Lower is better; NaN as above."""
    offset_frames: Tensor
    """Offset at which the windows were compared, in frames of the level, (batch,) int64; positive: the audio is early."""


@checked
def framewise_confidence(
    motion: Tensor,
    audio: Tensor,
    *,
    max_offset: int = 15,
    lead: int = 0,
    edges: str = "masked",
    mask: Tensor | None = None,
    audio_mask: Tensor | None = None,
    offset_frames: Tensor | None = None,
    filter_windows: int = 9,
) -> FramewiseSync:
    """Compute the confidence of each window at its clip's offset: ``c[i] = median_j m[j] - D[i, j*]``, then a running median.

    ``D`` are the distances of :func:`avsync.metrics.offset.window_distances`, ``m`` their means over windows and ``j*`` the
    offset. Before the filter, the mean of ``c`` is the clip's confidence.

    Args:
        motion, audio, max_offset, lead, edges, mask, audio_mask: As in :func:`avsync.metrics.offset.sync_offset`.
        offset_frames: Offset of each clip in frames of the level, (batch,) whole numbers from ``-max_offset`` to
            ``max_offset``; zeros evaluate the clip without a shift. By default the clip's best offset.
        filter_windows: Width of the running median, an odd number of windows; 9 is SyncNet's, 1 is none. At the ends of a clip
            and next to masked windows, "masked" uses the median of the available windows, and "legacy" pads with zeros, as
            the published script does.

    Returns:
        :class:`FramewiseSync`.

    Raises:
        ShapeError, ArgumentError, ClipTooShortError: As :func:`avsync.metrics.offset.sync_offset`.
        ShapeError: ``offset_frames`` is not (batch,) of whole numbers.
        ArgumentError: ``filter_windows`` is not odd.

    Example:
        >>> audio = torch.eye(9)[None]
        >>> framewise_confidence(audio[:, 2:7], audio, max_offset=2, lead=2).distance
        tensor([[0., 0., 0., 0., 0.]])

    Source: SyncNet's published script (its frame-wise confidence); masks ours.
    """
    check_positive("filter_windows", filter_windows)
    if filter_windows % 2 == 0:
        raise ArgumentError(f"`filter_windows`: expected an odd number, got {filter_windows}")
    distances, counts = window_distances(
        motion, audio, max_offset=max_offset, lead=lead, edges=edges, mask=mask, audio_mask=audio_mask
    )
    means = mean_over_windows(distances, counts)
    if offset_frames is None:
        offset_frames = offset_from_distances(means).offset_frames
    else:
        check_shape("offset_frames", offset_frames, "batch", batch=motion.shape[0])
        if offset_frames.dtype not in (torch.int16, torch.int32, torch.int64):
            raise ShapeError(f"`offset_frames`: expected whole numbers, got {offset_frames.dtype}")
        if not bool((offset_frames.abs() <= max_offset).all()):
            raise ArgumentError(f"`offset_frames`: expected -{max_offset} to {max_offset}, got {offset_frames.tolist()}")
    column = (max_offset - offset_frames.to(torch.int64))[:, None, None].expand(-1, distances.shape[1], 1)
    distance = distances.gather(2, column).squeeze(2)
    if counts is not None:
        counted = counts.expand_as(distances).gather(2, column).squeeze(2) > 0
        distance = torch.where(counted, distance, torch.nan)
    confidence = nan_median(means)[:, None] - distance
    return FramewiseSync(_median_filter(confidence, filter_windows, edges), distance, offset_frames)


def _median_filter(values: Tensor, width: int, edges: str) -> Tensor:
    """Compute the running median of (batch, windows); NaN stays NaN and is treated like the end of a clip by its neighbours."""
    if width == 1:
        return values
    beyond = 0.0 if edges == "legacy" else torch.nan
    missing = values.isnan()
    around = F.pad(values.masked_fill(missing, beyond), (width // 2, width // 2), value=beyond)
    return nan_median(around.unfold(1, width, 1)).masked_fill(missing, torch.nan)
