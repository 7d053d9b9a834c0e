"""SyncNet's protocol at every level of a pyramid: the paper's sync metrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avsync._checks import check_positive, check_shape
from avsync.errors import ArgumentError, ShapeError
from avsync.metrics.offset import SyncOffset, sync_offset
from avsync.syncer import SyncerPyramid

MAX_OFFSETS = (15, 15, 8, 5)
"""Frames of the level searched to both sides at levels 0 to 3 (15 at the finest is SyncNet's; the rest ours)."""


@torch.no_grad()
def multi_scale_offset(
    pyramid: SyncerPyramid,
    landmarks: Tensor,
    audio: Tensor,
    *,
    margin: int = 0,
    max_offsets: Sequence[int] = MAX_OFFSETS,
    reference: str | Tensor | None = None,
    edges: str = "masked",
) -> list[SyncOffset]:
    """Offset and confidence of clips at every level.

    Args:
        pyramid: Trained syncers.
        landmarks: (batch, frames, points, dims), 25 frames a second.
        audio: Features of the clip with ``margin`` motion frames more on both sides,
            (batch, stride * (frames + 2 * margin), coeffs): sound around the clip lets every offset be tried on every window.
        margin: Motion frames of sound before and after the clip; a multiple of ``2**(levels - 1)``, so that it is whole at every
            level.
        max_offsets: Largest offset searched at each level, in frames of the level.
        reference: The face motion is measured from; default as the pyramid is configured.
        edges: "masked" or "legacy" for offsets that reach beyond the sound; see :func:`avsync.metrics.offset.offset_distances`.

    Returns:
        One :class:`avsync.metrics.offset.SyncOffset` a level, offsets in frames of the level (positive: the audio is early).

    Raises:
        ArgumentError: ``margin`` is negative or does not divide, or ``max_offsets`` has not one value a level.
        ShapeError: Audio that does not last as long as the clip and its margins.

    Source: paper section 4.3; sound around the clip ours.
    """
    levels, stride = pyramid.num_levels, pyramid.config.syncer.audio_stride
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_shape("audio", audio, "batch audio_frames coeffs", batch=landmarks.shape[0])
    if len(max_offsets) < levels:
        raise ArgumentError(f"`max_offsets`: expected {levels} values, one a level, got {len(max_offsets)}")
    check_positive("margin", margin, allow_zero=True)
    if margin % 2 ** (levels - 1):
        raise ArgumentError(f"`margin`: expected a multiple of {2 ** (levels - 1)} frames, got {margin}")
    if audio.shape[1] != stride * (landmarks.shape[1] + 2 * margin):
        raise ShapeError(
            f"`audio`: expected {stride * (landmarks.shape[1] + 2 * margin)} audio frames for {landmarks.shape[1]} motion frames"
            f" and margins of {margin}, got {audio.shape[1]}"
        )
    motions = pyramid.embed_motion(landmarks, reference=reference)
    sounds = pyramid.embed_audio(audio)
    normalise = torch.nn.functional.normalize
    return [
        sync_offset(
            normalise(motion.float(), dim=-1),
            normalise(sound.float(), dim=-1),
            max_offset=max_offsets[level],
            lead=margin // 2**level,
            edges=edges,
        )
        for level, (motion, sound) in enumerate(zip(motions, sounds, strict=True))
    ]
