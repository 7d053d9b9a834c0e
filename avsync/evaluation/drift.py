"""Drift: an offset that changes over a recording because audio and video run at different speeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from avsync._checks import checked
from avsync.corpus.clip import Clip
from avsync.evaluation.recording import FRAME_SECONDS, Recording, clip_distances, clip_embeddings
from avsync.metrics.posterior import sub_frame_offset
from avsync.models.syncer.interface import MultiScaleSyncer

MAX_DRIFT = 0.06
"""Largest drift that counts, in seconds per second."""
DRIFT_REACH = 2.0
"""Search range of a drift in each direction, in seconds."""
DRIFT_SEGMENT = 3.0
"""Length of the segments whose offsets show a drift, in seconds."""
DRIFT_SEGMENTS, DRIFT_SHARE, DRIFT_TOLERANCE = 4, 0.8, 0.08
"""A drift has at least so many segments, of which this share lies within the tolerance of a line, in seconds."""
LEAST_DRIFT = 0.08
"""Smallest change of the offset along the line that counts as drift, in seconds."""
DRIFT_GAIN = 2.0
"""Smallest ratio between the distances of the segments from a constant offset and from the line."""
_DRIFT_PAIRS = 1000  # segments of which all pairs are compared


@dataclass(frozen=True)
class Drift:
    """An offset that changes over the recording because audio and video run at different speeds.

    Attributes:
        rate: Growth of the offset in seconds per second; 0.04 if the audio plays 4 % too fast.
        segments: (middle, offset) of consecutive segments, in seconds; a positive offset means that the audio is early.
    """

    rate: float
    segments: tuple[tuple[float, float], ...]

    @property
    def words(self) -> str:
        """Describe the drift in a sentence."""
        first, last = (f"{1000 * offset:+.0f} ms at {middle:.1f} s" for middle, offset in (self.segments[0], self.segments[-1]))
        return (
            f"the audio drifts by {1000 * self.rate:+.1f} ms per second ({first}, {last}): its speed differs from the "
            "video's by"
            f" {100 * abs(self.rate):.1f} %, and no single offset is right"
        )


@torch.no_grad()
@checked
def find_drift(recording: Recording, pyramid: MultiScaleSyncer, *, audio_transform: nn.Module) -> Drift | None:
    """Return the drift of a recording if the offset changes at a constant rate.

    The offset of every segment of ``DRIFT_SEGMENT`` seconds is measured at the finest level, and a line is fitted by the
    medians of Theil and Sen, which a quarter of wrong offsets does not move. The line is a drift if there are
    ``DRIFT_SEGMENTS`` segments, a share of ``DRIFT_SHARE`` lies within ``DRIFT_TOLERANCE`` of the line, the offset changes by
    ``LEAST_DRIFT`` along the line, and the line fits ``DRIFT_GAIN`` times as well as a constant offset. The clips of a video
    share a line; each clip of a corpus has its own, of one slope.

    Args:
        recording: From :func:`avsync.evaluation.recording.read_recording`.
        pyramid: Trained syncers, with or without a calibration.
        audio_transform: As in :func:`avsync.evaluation.recording.recording_report`.

    Returns:
        The drift, with the segments near the line; None if a constant offset fits equally well.

    Raises:
        ShapeError: The landmarks do not fit the syncers.

    Source: ours; the line by Theil 1950 and Sen 1968.
    """
    groups: list[list[tuple[float, float]]] = []
    for number, clip in enumerate(recording.clips):
        segments = _segments(clip, pyramid, audio_transform, recording.starts[number] if recording.starts else 0.0)
        if recording.starts and groups:
            groups[0] += segments
        else:
            groups.append(segments)
    return fit_drift(groups)


def _segments(clip: Clip, pyramid: MultiScaleSyncer, audio_transform: nn.Module, start: float) -> list[tuple[float, float]]:
    """Return (middle, offset) of the segments of a clip that have audio, in seconds."""
    length = round(DRIFT_SEGMENT / FRAME_SECONDS)
    if clip.frames < max(length, pyramid.shortest_clip([0])):
        return []
    embedded = clip_embeddings(clip, pyramid, audio_transform, 1)[0]
    distances, some = clip_distances(embedded, round(DRIFT_REACH / FRAME_SECONDS))
    depth, there = _depth(distances[0], some[0]), some[0].amax(1).cpu()
    found, first = [], 0
    # Windows, not frames, are divided, so that the segments are of equal length.
    for part, heard in zip(*(x.tensor_split(clip.frames // length) for x in (depth, there)), strict=True):
        middle = start + (first + (len(part) - 1) / 2 + (pyramid.window - 1) / 2) * FRAME_SECONDS
        first += len(part)
        if heard.mean() >= 0.5:
            mean = part.mean(0, keepdim=True)
            found.append((middle, float(sub_frame_offset(mean.amax() - mean)) * FRAME_SECONDS))
    return found


def _depth(distances: Tensor, some: Tensor) -> Tensor:
    """Return the median of each window minus each distance, (windows, offsets); 0 without audio."""
    known = some > 0
    middle = distances.masked_fill(~known, torch.nan).nanmedian(1, keepdim=True).values
    return torch.where(known, middle - distances, 0.0).float().cpu()


def fit_drift(groups: Sequence[Sequence[tuple[float, float]]]) -> Drift | None:
    """Fit a line to the offsets of segments, and return it if it is a drift; see :func:`find_drift`.

    Args:
        groups: (time, offset) of the segments of each group, in seconds; groups share the slope, not the offset.

    Returns:
        The drift, with the segments near the line; None for other offsets.

    Example:
        >>> drift = fit_drift([[(1.5, 0.0), (4.5, 0.03), (7.5, 0.06), (10.5, 0.09), (13.5, -1.3)]])
        >>> round(drift.rate, 6), len(drift.segments)
        (0.01, 4)
        >>> fit_drift([[(1.5, 0.04), (4.5, 0.05), (7.5, 0.05), (10.5, 0.04)]]) is None
        True

    Source: ours.
    """
    tables = [np.array(sorted(group), dtype=np.float64) for group in groups if len(group)]
    if sum(map(len, tables)) < DRIFT_SEGMENTS:
        return None
    slopes = []
    for table in tables:
        some = table[:: -(-len(table) // _DRIFT_PAIRS)]  # all pairs of the segments of a day would not fit into memory
        times, offsets = (later - earlier for earlier, later in ((x[None], x[:, None]) for x in some.T))
        slopes.append(offsets[times > 0] / times[times > 0])
    rates = np.concatenate(slopes)
    if not rates.size:
        return None
    rate = float(np.median(rates))
    lines, constants = (
        np.concatenate([np.abs(rest - np.median(rest)) for table in tables for rest in [table[:, 1] - slope * table[:, 0]]])
        for slope in (rate, 0.0)
    )
    near = lines <= DRIFT_TOLERANCE
    change = abs(rate) * (DRIFT_SEGMENT + max(float(np.ptp(table[:, 0])) for table in tables))
    if (
        near.mean() < DRIFT_SHARE
        or not change >= LEAST_DRIFT
        or abs(rate) > MAX_DRIFT
        or DRIFT_GAIN * lines[near].mean() > constants[near].mean()
    ):
        return None
    segments = [(float(time), float(offset)) for time, offset in np.concatenate(tables)[near]]
    return Drift(rate, tuple(segments))
