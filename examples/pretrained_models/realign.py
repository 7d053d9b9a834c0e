"""Training clips with their audio moved to where syncers that have never met their speakers hear it in sync.

Recordings are aligned to a third of a frame at best, and a syncer that is told that 13 ms are in sync here and -13 ms there learns to
be vague. Nobody's own syncer can tell: it has learnt the lags of its clips with the clips. So the speakers are halved, and the syncers
of each half find the lags of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from avsync.corpus.clip import Clip
from avsync.evaluation.recording import FRAME_SECONDS, Recording, recording_report, with_delayed_audio
from avsync.metrics.posterior import sub_frame_offset
from avsync.models.syncer.pyramid import SyncerPyramid

LEAST_FRAMES = 100
"""Frames of a clip (4 s) whose lag is believed; shorter ones stay as they are."""
SEARCH = 4
"""Frames to both sides that a lag is looked for."""
MOST = 1.25
"""Frames that a clip is moved at most."""


def find_lags(clips: Sequence[Clip], train: Callable[[str, list[Clip]], SyncerPyramid], *, seed: int = 0) -> dict[str, float]:
    """The lag of every clip that is long enough, as syncers trained on the other half of the speakers hear it.

    Args:
        clips: A corpus.
        train: Gives a pyramid that is trained on some of them; it is told the name of the training, "half0" or "half1", too.
        seed: Of the halving.

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
    """Frames by which the audio of one clip is early, with their fraction; by level 0 of syncers of log-mel energies or MFCCs."""
    features = pyramid.speech_features()
    assert features is not None, "syncers of waveforms' features"
    finest = recording_report(Recording(clip.id, (clip,)), pyramid, audio_transform=features, max_offsets=(SEARCH,))[0]
    return float(sub_frame_offset(finest.sync.distances).clamp(-MOST, MOST))


def with_sound_moved(clip: Clip, lag: float) -> Clip:
    """A clip whose audio is delayed by so many frames; silence moves in."""
    return with_delayed_audio(Recording(clip.id, (clip,)), lag * FRAME_SECONDS).clips[0]
