"""Offsets at every level of a pyramid, by encoders whose answer is known: both modalities carry the same signal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from avsync.encoders import SyncerConfig
from avsync.errors import ArgumentError, ShapeError
from avsync.metrics import multi_scale_offset
from avsync.metrics.multi_scale import MAX_OFFSETS
from avsync.syncer import SyncerPyramid, SyncerPyramidConfig

MARGIN = 64


def twin_pyramid() -> SyncerPyramid:
    """Motion and sound encoders with the same weights, so that the same signal gets the same embeddings."""
    syncer = SyncerConfig(audio_features=6, points=3, dims=2, audio_stride=1, width=16, embed=16)
    model = SyncerPyramid(config=SyncerPyramidConfig(syncer=syncer)).double().eval()
    for level in model.syncers:
        level.motion_encoder.encoder.load_state_dict(level.audio_encoder.encoder.state_dict())
    return model


def twin_signal(frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Landmarks, the reference face, and sound that is the very displacement of the landmarks: (1, frames, ...) each."""
    generator = torch.Generator().manual_seed(0)
    # Slow and fast motion, so that every level has something to see.
    noise = torch.randn(4, frames, 6, generator=generator, dtype=torch.float64)
    motion = sum(noise[i, : -(-frames // 2**i)].repeat_interleave(2**i, dim=0)[:frames] for i in range(4))[None]
    face = torch.tensor([[0.0, 0.0], [1.0, 8.0], [2.0, 4.0]], dtype=torch.float64)[None]
    return face[:, None] + motion.reshape(1, frames, 3, 2), face, motion


@pytest.mark.parametrize("level", range(4))
def test_every_offset_of_every_level_is_found(level: int) -> None:
    model = twin_pyramid()
    landmarks, face, sound = twin_signal(2 * 96 + 80)
    for offset in range(-MAX_OFFSETS[level] if level else -15, MAX_OFFSETS[level] + 1):
        shift = offset * 2**level
        start = 96
        around = sound[:, start + shift - MARGIN : start + shift + 80 + MARGIN] if abs(shift) <= 32 else None
        if around is None:
            continue
        # Taking the sound from `shift` frames later puts what belongs to a motion frame `shift` frames early.
        got = multi_scale_offset(model, landmarks[:, start : start + 80], around, margin=MARGIN, reference=face)[level]
        assert got.offset_frames.tolist() == [offset]
        assert got.confidence.item() > 0.1


def test_in_sync_is_zero_at_all_levels_without_a_margin() -> None:
    landmarks, face, sound = twin_signal(80)
    levels = multi_scale_offset(twin_pyramid(), landmarks, sound, reference=face)
    assert [level.offset_frames.item() for level in levels] == [0, 0, 0, 0]
    assert [level.distances.shape[1] for level in levels] == [2 * v + 1 for v in MAX_OFFSETS]
    for level in levels:
        assert level.distance.item() == pytest.approx(0, abs=1e-6)


def test_errors() -> None:
    model = twin_pyramid()
    landmarks, _, sound = twin_signal(80)
    with pytest.raises(ArgumentError, match="`margin`: expected a multiple of 8"):
        multi_scale_offset(model, landmarks, sound, margin=4)
    with pytest.raises(ArgumentError, match="`margin`"):
        multi_scale_offset(model, landmarks, sound, margin=-8)
    with pytest.raises(ArgumentError, match="`max_offsets`: expected 4"):
        multi_scale_offset(model, landmarks, sound, max_offsets=(15, 15))
    with pytest.raises(ShapeError, match="expected 96 audio frames"):
        multi_scale_offset(model, landmarks, sound, margin=8)
