"""Offsets at every level of a pyramid, by encoders whose answer is known: both modalities carry the same signal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from avsync.errors import ArgumentError, ShapeError
from avsync.metrics import (
    Calibration,
    LevelCalibration,
    face_speed,
    framewise_confidence,
    multi_scale_embeddings,
    multi_scale_offset,
    report_rows,
    sync_offset,
    sync_report,
)
from avsync.metrics.multi_scale import MAX_OFFSETS as ALL_MAX_OFFSETS
from avsync.models.syncer.interface import unit_norm
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig

MARGIN = 64
LEVELS = SyncerPyramidConfig().num_levels
MAX_OFFSETS = ALL_MAX_OFFSETS[:LEVELS]


def twin_pyramid() -> SyncerPyramid:
    """Motion and sound encoders with the same weights, so that the same signal gets the same embeddings."""
    syncer = SyncerConfig(audio_features=6, points=3, motion_channels=2, audio_stride=1, width=16, embed=16)
    model = SyncerPyramid(config=SyncerPyramidConfig(syncer=syncer, audio="custom")).double().eval()
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
    assert [level.offset_frames.item() for level in levels] == [0] * LEVELS
    assert [level.distances.shape[1] for level in levels] == [2 * v + 1 for v in MAX_OFFSETS]
    for level in levels:
        assert level.distance.item() == pytest.approx(0, abs=1e-6)


def test_short_clips_at_the_levels_that_they_fill() -> None:
    model = twin_pyramid()
    landmarks, face, sound = twin_signal(80)
    short = multi_scale_embeddings(model, landmarks[:, :12], sound[:, :12], reference=face, levels=2)
    for found, expected in zip(short, model(landmarks[:, :12], sound[:, :12], reference=face, levels=[0, 1]), strict=True):
        torch.testing.assert_close(found.motion, unit_norm(expected.motion))
        torch.testing.assert_close(found.audio, unit_norm(expected.audio))
    for levels in (0, 5):
        with pytest.raises(ArgumentError, match=r"`levels`: expected 1 to 4"):
            multi_scale_embeddings(model, landmarks, sound, levels=levels)


def test_mean_over_frames_at_every_level() -> None:
    model = twin_pyramid()
    landmarks, face, sound = twin_signal(160)
    clip = landmarks[:, 40:120]
    got = multi_scale_offset(model, clip, sound, margin=40, reference=face, average="frames")
    embedded = multi_scale_embeddings(model, clip, sound, margin=40, reference=face)
    for level, reach in enumerate(MAX_OFFSETS):
        expected = sync_offset(**embedded[level]._asdict(), max_offset=reach, window=5)
        torch.testing.assert_close(got[level].distances, expected.distances)
        even = sync_offset(**embedded[level]._asdict(), max_offset=reach)
        assert not torch.allclose(got[level].distances, even.distances)
    with pytest.raises(ArgumentError, match="`average`: expected one of"):
        multi_scale_offset(model, clip, sound, margin=40, average="clips")


def test_clips_of_different_lengths_share_a_batch() -> None:
    model = twin_pyramid()
    landmarks, face, sound = twin_signal(200)
    lengths = torch.tensor([80, 61])
    faces = torch.stack([landmarks[0, 40:120], landmarks[0, 60:140]])
    sounds = torch.stack([sound[0, 24:136], sound[0, 44:156]])  # 16 frames around each
    faces[1, 61:], sounds[1, 61 + 32 :] = torch.nan, torch.nan
    face = face.expand(2, -1, -1)
    together = multi_scale_offset(model, faces, sounds, margin=16, reference=face, lengths=lengths, max_offsets=(6, 5, 4, 2))
    for clip, frames in enumerate(lengths.tolist()):
        alone = multi_scale_offset(
            model,
            faces[clip : clip + 1, :frames],
            sounds[clip : clip + 1, : frames + 32],
            margin=16,
            reference=face[:1],
            max_offsets=(6, 5, 4, 2),
        )
        for both, single in zip(together, alone, strict=True):
            torch.testing.assert_close(both.distances[clip : clip + 1], single.distances, equal_nan=True)
            assert both.offset_frames[clip] == 0


def test_frames_that_do_not_count_are_left_out() -> None:
    model = twin_pyramid()
    landmarks, face, sound = twin_signal(160)
    strangers = torch.cat([landmarks[:, :80], landmarks[:, 80:].flip(1)], dim=1)
    counted = torch.arange(160)[None] < 80
    clean = multi_scale_offset(model, strangers, sound, reference=face, frame_mask=counted)
    spoilt = multi_scale_offset(model, strangers, sound, reference=face)
    for level in range(3):
        assert clean[level].distance < 0.5 * spoilt[level].distance
    embedded = multi_scale_embeddings(model, strangers, sound, reference=face, frame_mask=counted)
    # Windows of 5 frames, at least half of which count: at level 0 those that start at 0 to 77.
    assert embedded[0].mask is not None and embedded[0].mask.sum() == 78
    # At level 1 a window spans 9 frames and starts at every second: 0, 2, ... 74 have at least 5 of them below 80.
    assert embedded[1].mask is not None and embedded[1].mask.sum() == 38
    nothing = multi_scale_offset(model, strangers, sound, reference=face, frame_mask=torch.zeros(1, 160, dtype=torch.bool))
    assert all(level.confidence.isnan().all() for level in nothing)


def level_calibration() -> LevelCalibration:
    return LevelCalibration(scale=30.0, power=0.5, match_bias=-2.0, match_weights=(0.5, 0.0, 2.0))


def test_report_tells_what_it_can_and_says_when_it_cannot() -> None:
    model = twin_pyramid()
    landmarks, face, sound = twin_signal(160)
    own, still = landmarks[:, 40:120], landmarks[:, 40:41].expand(-1, 80, -1, -1)
    faces = torch.cat([own, still, own, own])
    sounds = torch.cat([sound[:, 26:138], sound[:, 24:136], sound[:, 24:136], torch.full((1, 112, 6), torch.nan).double()])
    calibration = Calibration(tuple(level_calibration() for _ in range(4)))
    report = sync_report(
        model,
        faces,
        sounds,
        margin=16,
        reference=face.expand(4, -1, -1),
        calibration=calibration,
        speech_fraction=torch.tensor([1.0, 1.0, 0.1, 1.0]),
        max_offsets=(6, 5, 4, 2),
    )
    assert [level.answers for level in report[:2]] == 2 * [("offset", "still", "silent", "nothing")]
    assert [level.frame_ms for level in report] == [40, 80, 160, 320]
    assert [level.windows.tolist() for level in report] == [4 * [count] for count in (76, 36, 16, 6)]
    rows = report_rows(report, ids=["own", "still", "silent", "broken"])
    assert [(row["id"], row["level"]) for row in rows[:5]] == [("own", 0), ("own", 1), ("own", 2), ("own", 3), ("still", 0)]
    first, second = rows[0], rows[1]
    # The sound is from two frames later: early by 80 ms, which is one frame of level 1.
    assert (first["offset_frames"], first["offset_ms"], first["rank_at_zero"] > 1) == (2, 80.0, True)
    assert (second["offset_frames"], second["offset_ms"]) == (1, 80.0)
    assert first["estimate_ms"] == pytest.approx(80, abs=20) and 0.5 < first["probability"] <= first["match"] <= 1
    assert first["lse_d"] < first["distance_at_zero"]
    broken = rows[12]
    assert broken["answer"] == "nothing"
    given = {"id", "level", "frame_ms", "windows", "answer"}
    assert all(value is None for key, value in broken.items() if key not in given)


def test_report_without_a_calibration() -> None:
    model = twin_pyramid()
    landmarks, face, sound = twin_signal(80)
    report = sync_report(model, landmarks, sound, reference=face)
    assert all(level.posterior is None and level.answers == ("offset",) for level in report)
    rows = report_rows(report)
    assert rows[0]["id"] == "0" and rows[0]["probability"] is None and rows[0]["offset_frames"] == 0
    plain = multi_scale_offset(model, landmarks, sound, reference=face)
    for level, expected in zip(report, plain, strict=True):
        torch.testing.assert_close(level.sync, expected, equal_nan=True)
    unsure = sync_report(
        model, landmarks, sound, reference=face, calibration=Calibration(4 * (level_calibration(),)), threshold=1.0
    )
    assert {level.answers for level in unsure} == {("unsure",)}
    with pytest.raises(ArgumentError, match="`calibration`: expected 4 levels, got 1"):
        sync_report(model, landmarks, sound, calibration=Calibration((level_calibration(),)))
    with pytest.raises(ShapeError, match="`speech_fraction`"):
        sync_report(model, landmarks, sound, speech_fraction=torch.ones(2))
    with pytest.raises(ArgumentError, match="`ids`: expected 1"):
        report_rows(report, ids=["a", "b"])


def test_face_speed() -> None:
    face = torch.tensor([[0.0, 0.0], [0.0, 10.0]])
    moving = face + torch.arange(5.0)[:, None, None] * torch.tensor([1.0, 0.0])  # a tenth of its height a frame
    assert face_speed(moving[None]).item() == pytest.approx(2.5)
    padded = torch.cat([moving, torch.full((3, 2, 2), 1e3)])[None]
    assert face_speed(padded, lengths=torch.tensor([5])).item() == pytest.approx(2.5)
    assert face_speed(moving[None, :1]).item() == 0


def test_embeddings_serve_the_other_metrics() -> None:
    landmarks, face, sound = twin_signal(80)
    levels = multi_scale_embeddings(twin_pyramid(), landmarks, sound, reference=face)
    for level, most in zip(levels, MAX_OFFSETS, strict=True):
        curve = framewise_confidence(**level._asdict(), max_offset=most)
        assert curve.confidence.shape == level.motion.shape[:2] and curve.confidence.min() > 0.1


def test_errors() -> None:
    model = twin_pyramid()
    landmarks, _, sound = twin_signal(80)
    with pytest.raises(ArgumentError, match="`margin`: expected a multiple of 8"):
        multi_scale_offset(model, landmarks, sound, margin=4)
    with pytest.raises(ArgumentError, match="`margin`"):
        multi_scale_offset(model, landmarks, sound, margin=-8)
    with pytest.raises(ArgumentError, match="`max_offsets`: expected 4"):
        multi_scale_offset(model, landmarks, sound, max_offsets=(15, 15))
    with pytest.raises(ShapeError, match="`frame_mask`"):
        multi_scale_offset(model, landmarks, sound, frame_mask=torch.ones(1, 80))
    with pytest.raises(ShapeError, match="`frame_mask`"):
        multi_scale_offset(model, landmarks, sound, frame_mask=torch.ones(1, 79, dtype=torch.bool))
    with pytest.raises(ShapeError, match="`lengths`"):
        multi_scale_offset(model, landmarks, sound, lengths=torch.ones(2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="expected 96 audio frames"):
        multi_scale_offset(model, landmarks, sound, margin=8)
