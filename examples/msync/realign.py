"""Training clips with their sound moved to where syncers that have never met their speakers hear it in sync.

Recordings are aligned to a third of a frame at best, and a syncer that is told that 13 ms are in sync here and -13 ms there learns to
be vague. Nobody's own syncer can tell: it has learnt the lags of its clips with the clips. So the speakers are halved, and the syncers
of each half find the lags of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from avsync.corpus.clip import SAMPLES_PER_FRAME, Clip
from avsync.corpus.dataset import ClipBank
from avsync.metrics import offset_distances
from avsync.metrics.posterior import sub_frame_offset
from avsync.similarity import unit_norm
from avsync.syncer import SyncerPyramid

LEAST_FRAMES = 100
"""Frames of a clip (4 s) whose lag is believed; shorter ones stay as they are."""
SEARCH = 4
"""Frames to both sides that a lag is looked for."""
MOST = 1.25
"""Frames that a clip is moved at most."""


def find_lags(
    clips: Sequence[Clip], train: Callable[[list[Clip]], SyncerPyramid], bank: ClipBank, *, seed: int = 0
) -> dict[str, float]:
    """The lag of every clip that is long enough, as syncers trained on the other half of the speakers hear it.

    Args:
        clips: A corpus.
        train: Gives a pyramid that is trained on some of them.
        bank: The same clips with their features.
        seed: Of the halving.

    Returns:
        Frames by which the sound is early (negative: late), by the clip's id.
    """
    speakers = sorted({clip.speaker for clip in clips})
    order = torch.randperm(len(speakers), generator=torch.Generator().manual_seed(seed)).tolist()
    first = {speakers[number] for number in order[: len(order) // 2]}
    lags: dict[str, float] = {}
    for half in (first, set(speakers) - first):
        pyramid = train([clip for clip in clips if clip.speaker not in half]).eval()
        for number, clip in enumerate(clips):
            if clip.speaker in half and clip.frames >= LEAST_FRAMES:
                lags[clip.id] = clip_lag(pyramid, bank, number)
    return lags


@torch.no_grad()
def clip_lag(pyramid: SyncerPyramid, bank: ClipBank, number: int) -> float:
    """Frames by which the sound of one clip is early, with their fraction."""
    begin, frames = int(bank.offsets[number]), int(bank.lengths[number])
    landmarks, audio = bank.landmarks[begin : begin + frames], bank.audio[4 * begin : 4 * (begin + frames)]
    device = next(pyramid.parameters()).device
    motion = pyramid.embed_motion(landmarks[None].to(device), levels=[0])[0]
    sound = pyramid.embed_audio(audio[None].to(device), levels=[0])[0]
    found = sub_frame_offset(offset_distances(unit_norm(motion), unit_norm(sound), max_offset=SEARCH))
    return float(found.clamp(-MOST, MOST))


def with_sound_moved(clip: Clip, lag: float) -> Clip:
    """A clip whose sound is delayed by so many frames; silence moves in."""
    shift = round(lag * SAMPLES_PER_FRAME)
    around = np.pad(clip.waveform, abs(shift))
    return replace(clip, waveform=around[abs(shift) - shift :][: clip.waveform.size])
