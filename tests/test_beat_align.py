"""Beat Align: beats where they are, both directions by their definition, what has no beats, and errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.corpus.synthetic.talker import synthetic_clip
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.metrics.beat_align import audio_onsets, beat_align, motion_beats, onset_strength


def moving(position: Tensor) -> Tensor:
    """A face whose points all follow (frames,) along both axes."""
    return position[None, :, None, None].expand(1, -1, 68, 2)


def clicks(times: list[float], seconds: float, *, noise: float = 0.0) -> Tensor:
    wave = noise * torch.randn(1, round(16000 * seconds), generator=torch.Generator().manual_seed(0))
    for time in times:
        wave[0, round(16000 * time) : round(16000 * time) + 40] += 0.5
    return wave


def times_of(found: Tensor, *, audio: bool) -> list[float]:
    index = found[0].nonzero()[:, 0]
    return ((index - 1) / 100 if audio else (index + 0.5) / 25).tolist()


@given(st.lists(st.integers(2, 27), min_size=1, max_size=6, unique=True), st.sampled_from([0.0, 1e-3]))
def test_clicks_are_onsets(tenths: list[int], noise: float) -> None:
    placed = sorted(0.1 * n + 0.004 for n in tenths)
    placed = [time for i, time in enumerate(placed) if i == 0 or time - placed[i - 1] > 0.15]
    found = times_of(audio_onsets(clicks(placed, 3.0, noise=noise)), audio=True)
    assert len(found) == len(placed)
    assert max(abs(f - p) for f, p in zip(found, placed, strict=True)) <= 0.02


def test_level_does_not_matter_and_silence_has_no_onset() -> None:
    wave = clicks([0.5, 1.2], 2.0, noise=1e-3)
    assert torch.equal(audio_onsets(wave), audio_onsets(0.01 * wave))
    assert not audio_onsets(torch.zeros(1, 16000)).any()
    assert not audio_onsets(torch.full((1, 16000), 0.3)).any()
    tone = torch.sin(torch.arange(32000) * 0.3)[None]
    assert not audio_onsets(tone)[:, 10:].any()
    assert onset_strength(wave).shape == (1, 200)


def test_a_swing_turns_where_its_speed_is_least() -> None:
    times = torch.arange(100) / 25
    swing = moving(torch.sin(times * 2 * math.pi))  # turns at 0.25, 0.75, ... and is fastest at 0.5, 1, ...
    least = times_of(motion_beats(swing), audio=False)
    assert torch.tensor(least).sub(torch.tensor([0.25 + 0.5 * n for n in range(len(least))])).abs().max() <= 0.021
    assert len(least) == 8
    most = times_of(motion_beats(swing, extrema="maxima"), audio=False)
    assert all(min(abs(time - 0.5 * n) for n in range(1, 8)) <= 0.021 for time in most)
    assert len(most) == 7
    both = times_of(motion_beats(swing, extrema="both"), audio=False)
    assert sorted(least + most) == both


def test_a_face_that_stays_or_glides_has_no_beat() -> None:
    assert not motion_beats(torch.full((1, 50, 68, 2), 300.1)).any()
    assert not motion_beats(moving(torch.linspace(0, 100, 50)) + 300.1).any()
    started = moving(torch.cat([torch.zeros(25), torch.arange(25.0)]))
    assert not motion_beats(started, extrema="maxima", smoothing=0.0).any(), "a speed that rises and stays has no peak"


def test_spacing_thins_out() -> None:
    position = torch.rand(1, 200, generator=torch.Generator().manual_seed(0)).cumsum(1)[0]
    counts = [int(motion_beats(moving(position), spacing=spacing).sum()) for spacing in (0.04, 0.1, 0.3)]
    assert counts[0] > counts[1] > counts[2] > 0
    found = motion_beats(moving(position), spacing=0.3)[0].nonzero()[:, 0]
    assert found.diff().min() > 0.3 * 25 - 1


def score(motion: list[float], audio: list[float], sigma: float) -> float:
    """Mean over the first beats of the kernel of the distance to the nearest of the second."""
    return sum(math.exp(-(min(abs(m - a) for a in audio) ** 2) / (2 * sigma**2)) for m in motion) / len(motion)


@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.1, 0.3]))
def test_both_directions_are_their_definitions(seed: int, sigma: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    position = (torch.rand(75, generator=rng) - 0.5).cumsum(0)
    placed = [0.3 + 0.4 * n for n in range(int(torch.randint(1, 6, (), generator=rng)))]
    face, wave = moving(position), clicks(placed, 3.0)
    motion, audio = times_of(motion_beats(face), audio=False), times_of(audio_onsets(wave), audio=True)
    assert motion
    assert audio
    got = beat_align(face, wave, sigma=sigma)
    assert got.motion_to_audio.item() == pytest.approx(score(motion, audio, sigma), rel=1e-3, abs=1e-6)
    assert got.audio_to_motion.item() == pytest.approx(score(audio, motion, sigma), rel=1e-3, abs=1e-6)


def test_the_directions_differ_as_documented() -> None:
    """One turn on one of many clicks is perfect from the motion's side only; trembling is perfect from the sound's only."""
    one_turn = moving((torch.arange(100) / 25 - 2).abs() ** 1.5)  # turns at 2 s
    many = clicks([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5], 4.0)
    sparse = beat_align(one_turn, many)
    assert sparse.motion_to_audio > 0.9
    assert sparse.audio_to_motion < 0.3
    trembling = moving(torch.rand(100, generator=torch.Generator().manual_seed(0)))
    dense = beat_align(trembling, clicks([2.0], 4.0), spacing=0.04)
    assert dense.audio_to_motion > 0.7
    assert dense.motion_to_audio < 0.3


def test_what_has_no_beats() -> None:
    still, swing = torch.zeros(1, 50, 68, 2), moving(torch.sin(torch.arange(50) / 3))
    sound, silence = clicks([0.5, 1.0], 2.0), torch.zeros(1, 32000)
    frozen = beat_align(still, sound)
    assert frozen.motion_to_audio.isnan()
    assert frozen.audio_to_motion == 0
    quiet = beat_align(swing, silence)
    assert quiet.motion_to_audio == 0
    assert quiet.audio_to_motion.isnan()


def test_a_batch_is_its_clips_and_nan_stays_in_its_own() -> None:
    clips = [synthetic_clip(speaker=n, seconds=4.0) for n in range(3)]
    faces = torch.stack([torch.from_numpy(clip.landmarks) for clip in clips])
    waves = torch.stack([torch.from_numpy(clip.waveform) for clip in clips])
    together = beat_align(faces, waves)
    for n in range(3):
        alone = beat_align(faces[n : n + 1], waves[n : n + 1])
        assert together.motion_to_audio[n].item() == pytest.approx(alone.motion_to_audio.item(), rel=1e-5)
        assert together.audio_to_motion[n].item() == pytest.approx(alone.audio_to_motion.item(), rel=1e-5)
    assert (together.motion_to_audio > 0.2).all()
    faces[1, 3, 5] = torch.nan
    got = beat_align(faces, waves)
    assert got.motion_to_audio.isnan().tolist() == got.audio_to_motion.isnan().tolist() == [False, True, False]


def test_errors() -> None:
    faces, wave = torch.rand(1, 50, 68, 2), torch.rand(1, 32000)
    with pytest.raises(ShapeError, match=r"expected 2.000 s of audio for 50 frames at 25 per second, got 1.000 s"):
        beat_align(faces, wave[:, :16000])
    with pytest.raises(ShapeError, match="batch=1"):
        beat_align(faces, wave.expand(2, -1))
    with pytest.raises(ShapeError, match="landmarks"):
        motion_beats(faces[0])
    with pytest.raises(ShapeError, match="sample_rate"):
        onset_strength(wave, sample_rate=11025)
    with pytest.raises(ClipTooShortError, match="at least 4 frames"):
        motion_beats(faces[:, :3])
    for name, value in (
        ("sigma", 0.0),
        ("fps", 0.0),
        ("sample_rate", 0),
        ("spacing", -1.0),
        ("smoothing", -1.0),
        ("threshold", -1.0),
    ):
        with pytest.raises(ArgumentError, match=name):
            beat_align(faces, wave, **{name: value})
    with pytest.raises(ArgumentError, match="extrema"):
        motion_beats(faces, extrema="turns")
