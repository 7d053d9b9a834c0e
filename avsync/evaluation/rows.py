"""Segments of clips, and baselines without a generator for tables of results.

Clips are cut into segments of equal length (80 frames in the paper), each evaluated as a clip of its own. Motions of a row are
(segments, frames, points, dims).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from avsync.corpus.clip import SAMPLES_PER_FRAME
from avsync.corpus.speech import speech_mask
from avsync.evaluation.sources import LeftOut, Track
from avsync.landmarks.geometry import face_height

BOUNDS = ("ground truth", "static", "shuffled", "reversed", "shifted")
"""Baselines without a network: real motion, a held first frame, motion of another speaker, reversed and delayed motion."""


class Segment(NamedTuple):
    """A segment of a clip."""

    id: str
    """Name of the clip."""
    start: int
    """First frame within it."""
    group: str
    """The group that the bootstrap draws as a whole: the speaker, or the clip if speakers are not known."""


def cut_segments(
    refs: Mapping[str, Track], *, frames: int, stride: int, min_speech: float = 0.0
) -> tuple[list[Segment], list[LeftOut]]:
    """Cut real clips into segments.

    Args:
        refs: By id, with audio.
        frames: Frames of a segment.
        stride: Frames from one segment to the next; the first starts at 0.
        min_speech: Smallest fraction of speech frames in a segment, by :func:`avsync.corpus.speech.speech_mask` of its
            clip.

    Returns:
        The segments in the order of the clips, and the rejected clips (too short, or
            without audio) and segments (without speech).

    Example:
        >>> import numpy as np
        >>> noise = np.random.default_rng(0).normal(0, 0.1, 640 * 100).astype(np.float32)
        >>> segments, _ = cut_segments({"a": Track("a", np.ones((100, 68, 2), np.float32), noise)}, frames=40, stride=40)
        >>> [segment.start for segment in segments]
        [0, 40]

    Source: paper section 4.3; the share of speech ours.
    """
    segments: list[Segment] = []
    left_out: list[LeftOut] = []
    for name, track in refs.items():
        if track.waveform is None:
            left_out.append(LeftOut("refs", name, "expected audio, found none"))
            continue
        if track.frames < frames:
            left_out.append(LeftOut("refs", name, f"expected at least {frames} frames, got {track.frames}"))
            continue
        spoken = speech_mask(track.waveform, present=track.has_audio)
        for start in range(0, track.frames - frames + 1, stride):
            share = float(spoken[start : start + frames].mean())
            if share < min_speech:
                reason = f"frames {start} to {start + frames - 1}: speech in {share:.0%} of them, expected {min_speech:.0%}"
                left_out.append(LeftOut("refs", name, reason))
            else:
                segments.append(Segment(name, start, name if track.speaker is None else track.speaker))
    return segments, left_out


def segment_landmarks(tracks: Mapping[str, Track], segments: Sequence[Segment], *, frames: int, delay: int = 0) -> Tensor:
    """Return the landmarks of segments.

    Args:
        tracks: By id; each reaches to the end of its segments.
        segments: Segments of these tracks.
        frames: Frames of a segment.
        delay: Delay of the motion in frames; the first face of a clip fills the time before the clip begins.

    Returns:
        (segments, frames, points, dims) float32.

    Example:
        >>> import numpy as np
        >>> count = Track("a", np.arange(5, dtype=np.float32)[:, None, None])
        >>> segment_landmarks({"a": count}, [Segment("a", 1, "a")], frames=3, delay=2).flatten().tolist()
        [0.0, 0.0, 1.0]

    Source: ours.
    """
    parts = []
    for segment in segments:
        which = (torch.arange(segment.start, segment.start + frames) - delay).clamp_min(0)
        parts.append(torch.from_numpy(tracks[segment.id].landmarks)[which])
    return torch.stack(parts)


def segment_waveforms(tracks: Mapping[str, Track], segments: Sequence[Segment], *, frames: int) -> Tensor:
    """Return the audio of segments, (segments, 640 * frames); arguments as :func:`segment_landmarks`, all tracks with audio."""
    parts = []
    for segment in segments:
        waveform = tracks[segment.id].waveform
        if waveform is not None:
            parts.append(torch.from_numpy(waveform)[SAMPLES_PER_FRAME * segment.start :][: SAMPLES_PER_FRAME * frames])
    return torch.stack(parts)


def segment_has_audio(tracks: Mapping[str, Track], segments: Sequence[Segment], *, frames: int) -> Tensor:
    """Return which frames of segments have audio, (segments, frames) bool; arguments as :func:`segment_landmarks`."""
    present = {name: torch.from_numpy(tracks[name].present) for name in {segment.id for segment in segments}}
    return torch.stack([present[segment.id][segment.start : segment.start + frames] for segment in segments])


def others(groups: Sequence[str]) -> list[int] | None:
    """Assign each segment a segment of another group, each used once.

    Args:
        groups: Group of each segment.

    Returns:
        Indices of the assigned segments; None if a group has more than half of the segments.

    Example:
        >>> others(["anna", "anna", "ben", "carl"])
        [2, 3, 0, 1]
        >>> others(["anna", "anna", "ben"]) is None
        True

    Source: ours.
    """
    if not groups:
        return None
    order = sorted(range(len(groups)), key=lambda number: groups[number])
    largest = max(groups.count(group) for group in set(groups))
    if 2 * largest > len(groups):
        return None
    # Segments of a group lie side by side in this order, so a step of at least the largest group, either way round, leaves each
    # group.
    step = len(groups) // 2
    taken = [0] * len(groups)
    for place, number in enumerate(order):
        taken[number] = order[(place + step) % len(groups)]
    return taken


def bound_motions(
    refs: Mapping[str, Track], segments: Sequence[Segment], *, frames: int, shift: int = 8
) -> tuple[dict[str, Tensor], list[str]]:
    """Make the motions of the baselines.

    Args:
        refs: Real clips.
        segments: Segments of the real clips.
        frames: Frames of a segment.
        shift: Frames by which "shifted" comes late: its audio is early, so its offset is ``+shift`` frames at level 0.

    Returns:
        (segments, frames, points, dims) by row, in the order of ``BOUNDS``; and notes on baselines that could not be made.

    Example:
        >>> import numpy as np
        >>> ref = Track("a", np.random.default_rng(0).random((50, 68, 2)).astype(np.float32))
        >>> motions, notes = bound_motions({"a": ref}, [Segment("a", 0, "a")], frames=40)
        >>> list(motions)
        ['ground truth', 'static', 'reversed', 'shifted']

    Source: the uncorrelated bound of paper section 4.3; the others ours.
    """
    truth = segment_landmarks(refs, segments, frames=frames)
    motions = {"ground truth": truth, "static": truth[:, :1].expand_as(truth)}
    notes = []
    taken = others([segment.group for segment in segments])
    if taken is None:
        notes.append("no row 'shuffled': one speaker has more than half of the segments")
    else:
        # The displacement of the other speaker is applied to this face: identity and size stay, so distances of shapes keep
        # their meaning.
        heights = face_height(truth)
        scale = (heights / heights[taken].clamp_min(torch.finfo(truth.dtype).tiny))[:, None, None, None]
        motions["shuffled"] = truth[:, :1] + (truth - truth[:, :1])[taken] * scale
    motions["reversed"] = truth.flip(1)
    motions["shifted"] = segment_landmarks(refs, segments, frames=frames, delay=shift)
    return motions, notes
