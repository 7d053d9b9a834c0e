"""Share of clips of unseen speakers whose offset a pyramid finds, with intervals over speakers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avsync.corpus import Batch, ClipBank
from avsync.metrics import bootstrap_interval, multi_scale_offset, sync_offset
from avsync.models import MultiScaleSyncer

SHORT_LENGTHS = (5, 9, 15, 25, 50, 80)
"""Frames of the clips of the short-clip curve."""
SHORT_SPEECH_SHARE = 0.8
"""Smallest fraction of speech frames in a short clip that counts as speech."""
_CHUNK = 128


def share(right: Tensor, groups: Tensor) -> dict[str, Any]:
    """Compute the share of clips in percent with its 95 % interval over speakers; no share without clips."""
    if right.numel() == 0:
        return {"clips": 0}
    found = bootstrap_interval(100.0 * right.double(), groups=groups)
    return {
        "percent": round(float(found.estimate), 1),
        "low": round(float(found.low), 1),
        "high": round(float(found.high), 1),
        "clips": right.numel(),
    }


def speakers_of(bank: ClipBank, crops: Batch) -> Tensor:
    """Return the speaker index of each crop."""
    number = {name: i for i, name in enumerate(bank.speakers)}
    return torch.tensor([number[name] for name in bank.clip_speakers])[crops.clip_index]


def fixed_clips(
    pyramid: MultiScaleSyncer, bank: ClipBank, *, frames: int, stride: int, margin: int, speech_share: float
) -> dict[str, Any]:
    """Evaluate every level on clips of one length.

    Args:
        pyramid: Trained syncers.
        bank: Clips of unseen speakers.
        frames: Length of the clips.
        stride: Distance between the starts of consecutive clips, in frames.
        margin: Audio around each clip, in frames.
        speech_share: Smallest fraction of speech frames in a clip.

    Returns:
        Numbers of clips used and left out, and one share per level.
    """
    crops = bank.windows(frames, stride=stride, margin=margin)
    speaking = crops.speech_fraction >= speech_share
    chosen = crops.select(speaking)
    offsets = [
        multi_scale_offset(pyramid, x.landmarks, x.audio, margin=margin)
        for x in (chosen.select(slice(start, start + _CHUNK)) for start in range(0, len(chosen), _CHUNK))
    ]
    near, exact = (
        [torch.cat([found.within(most) for found in level]) for level in zip(*offsets, strict=True)] for most in (1, 0)
    )
    groups = speakers_of(bank, chosen)
    return {
        "frames": frames,
        "stride": stride,
        "speech_share": speech_share,
        "clips": len(chosen),
        "left_out": int((~speaking).sum()),
        "within_one": [share(right, groups) for right in near],
        "exact": [share(right, groups) for right in exact],
    }


@torch.no_grad()
def short_clips(pyramid: MultiScaleSyncer, bank: ClipBank, *, margin: int) -> list[dict[str, Any]]:
    """Evaluate level 0 on short clips, with and without the clips that hold little speech.

    Every frame of a clip counts once (``window`` of :func:`avsync.metrics.sync_offset`), and, as "windows", every window
    does, as in the published protocol. A clip of 5 frames is a single window. The model sees no
    landmarks outside a clip. The audio has ``margin`` additional frames on both sides: the offset search needs 15, an encoder
    with context needs more, and mean normalisation uses all of them.
    """
    rows = []
    for frames in SHORT_LENGTHS:
        crops = bank.windows(frames, stride=max(10, frames // 2), margin=margin)
        found: dict[int, list[Tensor]] = {1: [], pyramid.window: []}
        for start in range(0, len(crops), _CHUNK):
            x = crops.select(slice(start, start + _CHUNK))
            motion = torch.nn.functional.normalize(pyramid.embed_motion(x.landmarks, levels=[0])[0], dim=-1)
            audio = torch.nn.functional.normalize(pyramid.embed_audio(x.audio, levels=[0])[0], dim=-1)
            for window, right in found.items():
                right.append(sync_offset(motion, audio, max_offset=15, lead=margin, window=window).within(1))
        by_window, by_frame = (torch.cat(right) for right in found.values())
        groups, speaking = speakers_of(bank, crops), crops.speech_fraction >= SHORT_SPEECH_SHARE
        rows.append(
            {
                "frames": frames,
                "all": share(by_frame, groups),
                "speech": share(by_frame[speaking], groups[speaking]),
                "windows": share(by_window[speaking], groups[speaking]),
            }
        )
    return rows
