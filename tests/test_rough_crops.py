"""Faults of tracks and of audio that training crops are given."""

from __future__ import annotations

import pytest
import torch

from avsync.audio.features import MFCC, LogMel, log_mel
from avsync.corpus.banks.augmentation import AugmentConfig, vary_audio, vary_landmarks
from avsync.corpus.banks.interference import add_interference
from avsync.errors import ArgumentError, ConfigError, ShapeError
from avsync.landmarks.tracking_faults import dropped_frames, held_frames, repeat_frames, smooth_frames, track_roughly

PLAIN = {"scale": (1.0, 1.0), "translation": 0.0, "rotation": 0.0, "flip_probability": 0.0, "gain_db": (0.0, 0.0)}


def moving(batch: int, frames: int) -> torch.Tensor:
    """Faces whose points move 1 per frame in x, with a height of 100."""
    face = torch.zeros(68, 2)
    face[:, 1] = torch.linspace(0.0, 100.0, 68)
    x = torch.arange(float(frames))[None, :, None, None] * torch.tensor([1.0, 0.0])
    return (face + x).expand(batch, -1, -1, -1).clone()


def test_a_held_frame_is_never_from_the_future() -> None:
    every, phase = torch.tensor([1, 2, 3, 3]), torch.tensor([0, 1, 0, 2])
    shown = held_frames(30, every, phase)
    time = torch.arange(30)
    assert bool((shown <= time).all()) and bool((time - shown < every[:, None]).all())
    assert torch.equal(shown[0], time)
    assert [len(row.unique()) for row in shown] == [30, 16, 10, 11]
    assert bool((shown.diff(dim=1) >= 0).all())


def test_lost_frames_show_the_last_one_before_them() -> None:
    kept = torch.tensor([[False, True, False, False, True, True]])
    assert dropped_frames(kept).tolist() == [[0, 1, 1, 1, 4, 5]]
    clip = moving(1, 6)
    assert repeat_frames(clip, dropped_frames(kept))[0, :, 0, 0].tolist() == [0, 1, 1, 1, 4, 5]
    with pytest.raises(ShapeError, match="newest"):
        repeat_frames(clip, torch.zeros(1, 5, dtype=torch.int64))


def test_smoothing_keeps_time_and_takes_fast_movement(rng: torch.Generator) -> None:
    """A symmetric filter leaves a steady movement where it is, and removes one that alternates."""
    steady = moving(2, 20)
    smoothed = smooth_frames(steady, [0.25, 0.5, 0.25])
    torch.testing.assert_close(smoothed[:, 1:-1], steady[:, 1:-1])
    trembling = steady.clone()
    trembling[:, ::2] += 1.0
    calm = smooth_frames(trembling, [0.25, 0.5, 0.25])[:, 1:-1, 0, 0]
    torch.testing.assert_close(calm.diff(dim=1), torch.ones_like(calm[:, 1:]))
    each = smooth_frames(trembling, torch.tensor([[0.0, 1.0, 0.0], [0.25, 0.5, 0.25]]))
    assert torch.equal(each[0], trembling[0]) and not torch.equal(each[1], trembling[1])
    with pytest.raises(ArgumentError, match="odd"):
        smooth_frames(steady, [0.5, 0.5])


def test_each_fault_reaches_its_share_of_the_clips(rng: torch.Generator) -> None:
    clips = torch.randn(400, 30, 4, 2, generator=rng).cumsum(dim=1)
    for name in ("jitter_share", "repeat_share", "smooth_share"):
        shares = {"jitter_share": 0.0, "repeat_share": 0.0, "smooth_share": 0.0}
        changed = (track_roughly(clips, **(shares | {name: 0.3}), generator=rng) != clips).flatten(1).any(dim=1)
        assert 0.2 < float(changed.float().mean()) < 0.4, name


def test_jitter_is_in_face_heights(rng: torch.Generator) -> None:
    clips = moving(300, 20)
    offset = track_roughly(clips, jitter=0.01, jitter_share=1.0, repeat_share=0.0, smooth_share=0.0, generator=rng) - clips
    sigma = offset.flatten(1).std(dim=1)
    assert 0.9 < float(sigma.max()) < 1.1 and float(sigma.min()) < 0.1 and abs(float(sigma.mean()) - 0.5) < 0.06


def power(audio: torch.Tensor) -> torch.Tensor:
    """Mean power of each crop, in decibels."""
    return 10.0 * torch.log10((10.0 ** (audio / 10.0)).sum(-1).mean(1))


def test_interference_has_its_ratio(rng: torch.Generator) -> None:
    """Power of the sum is that of speech and noise together: 10 dB below doubles nothing, 0 dB doubles the power (3 dB)."""
    waveforms = torch.randn(64, 16000, generator=rng) * torch.linspace(0.01, 1.0, 16000)
    audio = log_mel(waveforms)
    for db, gain in ((0.0, 3.01), (10.0, 0.41), (20.0, 0.04)):
        louder = power(add_interference(audio, share=1.0, snr_db=(db, db), generator=rng)) - power(audio)
        assert abs(float(louder.mean()) - gain) < 0.25, db
    same = add_interference(audio, share=0.3, generator=rng)
    assert 0.1 < float((same != audio).flatten(1).any(dim=1).float().mean()) < 0.5


def test_noise_of_features_resembles_noise_of_waveforms(rng: torch.Generator) -> None:
    """Steady noise on silence fluctuates by about as many decibels as real white noise does."""
    real = log_mel(torch.randn(8, 32000, generator=rng))
    audio = torch.full((256, 200, 26), -60.0)
    audio[..., 0] = -20.0  # all of the power in one band, so that the others hold the noise alone
    made = add_interference(audio, share=1.0, snr_db=(0.0, 0.0), generator=rng)
    steady = made[made.std(dim=1).amin(dim=1) > 0.5]  # the other half has voices, which are as even as the crops
    assert len(steady) > 60
    bands = slice(8, 26)
    assert abs(float(steady[..., bands].std(dim=1).mean() - real[..., bands].std(dim=1).mean())) < 1.5


def test_augmentation_asks_for_them(rng: torch.Generator) -> None:
    clips, audio = moving(64, 24), torch.randn(64, 96, 26, generator=rng)
    off = AugmentConfig(**PLAIN)
    torch.testing.assert_close(vary_landmarks(clips, off, rng), clips, atol=1e-4, rtol=0)
    assert torch.equal(vary_audio(audio, LogMel(), off, rng), audio)
    for name in ("smooth_share", "repeat_share", "tremble_share"):
        varied = vary_landmarks(clips, AugmentConfig(**PLAIN, **{name: 1.0}), rng)
        assert float((varied - clips).abs().max()) > 0.1, name
    loud = vary_audio(audio, LogMel(), AugmentConfig(**PLAIN, interference_share=1.0, snr_db=(0.0, 0.0)), rng)
    assert float((loud - audio).mean()) > 1.0
    with pytest.raises(ArgumentError, match="interference_share"):
        vary_audio(audio, MFCC(), AugmentConfig(**PLAIN, interference_share=0.5), rng)
    for wrong in ({"snr_db": (10.0, 0.0)}, {"smooth_share": 1.5}, {"repeat_share": -0.1}, {"interference_share": 2.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            AugmentConfig(**wrong)
