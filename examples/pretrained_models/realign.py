"""Alignment of the audio of training clips by syncers trained on other speakers.

Recordings are aligned to a third of a frame at best. A syncer trained on clips with lags of 13 ms and -13 ms becomes imprecise.
A syncer cannot measure the lags of its own training clips, because training has fitted these lags. Therefore the speakers are
split into halves, and the syncers of each half measure the lags of the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from avsync.corpus.clip import Clip
from avsync.evaluation.recording import FRAME_SECONDS, Recording, recording_report, with_delayed_audio
from avsync.metrics.posterior import sub_frame_offset
from avsync.models.syncer.pyramid import SyncerPyramid

LEAST_FRAMES = 100
"""Smallest length (4 s) of a clip that is moved, in frames; shorter clips stay unchanged."""
SEARCH = 4
"""Search range of a lag in each direction, in frames."""
MOST = 1.25
"""Largest shift of a clip, in frames."""


def find_lags(clips: Sequence[Clip], train: Callable[[str, list[Clip]], SyncerPyramid], *, seed: int = 0) -> dict[str, float]:
    """Measure the lag of every clip that is long enough, by syncers trained on the other half of the speakers.

    Args:
        clips: A corpus.
        train: Function of the run's name ("half0" or "half1") and clips that returns a trained pyramid.
        seed: Seed of the split into halves.

    Returns:
        Frames by which the audio is early (negative: late), by the clip's id.
    """
    speakers = sorted({clip.speaker for clip in clips})
    order = torch.randperm(len(speakers), generator=torch.Generator().manual_seed(seed)).tolist()
    first = {speakers[number] for number in order[: len(order) // 2]}
    lags: dict[str, float] = {}
    for number, half in enumerate((first, set(speakers) - first)):
        pyramid = train(f"half{number}", [clip for clip in clips if clip.speaker not in half]).eval()
        heard = [clip for clip in clips if clip.speaker in half and clip.frames >= LEAST_FRAMES]
        lags |= {clip.id: clip_lag(pyramid, clip) for clip in heard}
    return lags


def clip_lag(pyramid: SyncerPyramid, clip: Clip) -> float:
    """Return the fractional number of frames by which a clip's audio is early, by level 0 (log-mel energies or MFCCs)."""
    features = pyramid.speech_features()
    assert features is not None, "syncers of waveforms' features"
    finest = recording_report(Recording(clip.id, (clip,)), pyramid, audio_transform=features, max_offsets=(SEARCH,))[0]
    return float(sub_frame_offset(finest.sync.distances).clamp(-MOST, MOST))


def with_sound_moved(clip: Clip, lag: float) -> Clip:
    """Return a clip whose audio is delayed by ``lag`` frames; silence fills the gap."""
    return with_delayed_audio(Recording(clip.id, (clip,)), lag * FRAME_SECONDS).clips[0]
