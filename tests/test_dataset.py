"""Clips in memory: crops are the clips' own frames and features, chance is fair, augmentation is exact."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from avsync.audio.features import MFCC, LogMel, normalise_waveform
from avsync.corpus.banks.bank import AugmentConfig, Batch, ClipBank
from avsync.corpus.clip import Clip, Corpus, write_clip, write_index
from avsync.corpus.speech import speech_mask
from avsync.errors import ArgumentError, ClipTooShortError, ConfigError, CorpusError, ShapeError
from avsync.landmarks.geometry import velocity
from avsync.pretrained import config_from_dict, config_to_dict

REAL_CORPUS = Path(os.environ.get("AVSYNC_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))
LENGTHS = {"a": ("s0", 40), "b": ("s1", 25), "c": ("s0", 12), "d": ("s2", 60), "e": ("s1", 30)}


def make_clip(name: str, speaker: str, frames: int, **fields: Any) -> Clip:
    """Every landmark of frame t says 1000 * clip + t, so that crops can be recognised."""
    number = ord(name) - ord("a")
    rng = np.random.default_rng(number)
    landmarks = np.broadcast_to(1000.0 * number + np.arange(frames)[:, None, None], (frames, 68, 2)).astype(np.float32)
    waveform = (rng.normal(0, 0.1, 640 * frames)).astype(np.float32)
    return Clip(**{"id": name, "speaker": speaker, "split": "train", "landmarks": landmarks, "waveform": waveform, **fields})


def make_clips() -> list[Clip]:
    return [make_clip(name, speaker, frames) for name, (speaker, frames) in LENGTHS.items()]


BANK = ClipBank(make_clips(), features=LogMel())  # hypothesis wants no fixtures


@pytest.fixture
def bank() -> ClipBank:
    return BANK


def check_crops(bank: ClipBank, batch: Batch, frames: int, margin: int) -> None:
    """Slow and obvious: cut every crop out of its clip again."""
    clips = make_clips()
    assert batch.landmarks.shape == (len(batch), frames, 68, 2)
    assert batch.audio.shape == (len(batch), 4 * (frames + 2 * margin), 26)
    for i in range(len(batch)):
        clip, start = clips[int(batch.clip_index[i])], int(batch.start[i])
        assert margin <= start and start + frames + margin <= clip.frames
        np.testing.assert_array_equal(batch.landmarks[i].numpy(), clip.landmarks[start : start + frames])
        audio = bank.features(normalise_waveform(torch.from_numpy(clip.waveform)[None]))[0]
        torch.testing.assert_close(batch.audio[i], audio[4 * (start - margin) : 4 * (start + frames + margin)])
        expected = speech_mask(clip.waveform)[start : start + frames]
        np.testing.assert_array_equal(batch.speech[i].numpy(), expected)
        assert batch.speech_fraction[i].item() == pytest.approx(expected.mean())


@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 30), st.integers(0, 6), st.booleans())
def test_samples_are_crops_of_the_clips(seed: int, size: int, frames: int, margin: int, distinct: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    batch = BANK.sample(size, frames, generator=generator, margin=margin, speakers_distinct=distinct)
    assert len(batch) == size
    check_crops(BANK, batch, frames, margin)


@given(st.integers(1, 40), st.integers(1, 15), st.integers(0, 8))
def test_windows_are_all_crops_inside(frames: int, stride: int, margin: int) -> None:
    expected = [
        (i, start)
        for i, (_, length) in enumerate(LENGTHS.values())
        for start in range(margin, length - frames - margin + 1, stride)
    ]
    batch = BANK.windows(frames, stride=stride, margin=margin)
    assert list(zip(batch.clip_index.tolist(), batch.start.tolist(), strict=True)) == expected
    check_crops(BANK, batch, frames, margin)


def test_the_bank_says_what_it_holds(bank: ClipBank) -> None:
    assert len(bank) == 5 and bank.ids == ("a", "b", "c", "d", "e") and bank.speakers == ("s0", "s1", "s2")
    assert bank.clip_speakers == ("s0", "s1", "s0", "s2", "s1")
    assert bank.lengths.tolist() == [40, 25, 12, 60, 30] and bank.offsets.tolist() == [0, 40, 65, 77, 137]
    assert bank.landmarks.shape == (167, 68, 2) and bank.audio.shape == (668, 26)
    assert bank.landmarks.dtype == bank.audio.dtype == torch.float32 and not bank.audio.requires_grad
    assert "5 clips, 3 speakers" in repr(bank)


def test_every_crop_is_equally_likely(bank: ClipBank) -> None:
    batch = bank.sample(40000, 20, generator=torch.Generator().manual_seed(0), speakers_distinct=False)
    crops = torch.bincount(batch.clip_index * 100 + batch.start, minlength=500)
    possible = {100 * i + start for i, (_, n) in enumerate(LENGTHS.values()) for start in range(n - 20 + 1)}
    assert {int(i) for i in crops.nonzero()} == possible  # 79 crops; the clip of 12 frames has none
    expected = 40000 / len(possible)
    assert ((crops[crops > 0] - expected).abs() < 6 * expected**0.5).all()


def test_speaker_power_evens_out_speakers(bank: ClipBank) -> None:
    for power, expected in ((1.0, [21, 17, 41]), (0.0, [1, 1, 1]), (0.5, [21**0.5, 17**0.5, 41**0.5])):
        batch = bank.sample(20000, 20, generator=torch.Generator().manual_seed(0), speakers_distinct=False, speaker_power=power)
        speaker = torch.tensor([0, 1, 0, 2, 1])[batch.clip_index]
        share = torch.bincount(speaker) / 20000
        torch.testing.assert_close(share, torch.tensor(expected) / sum(expected), atol=0.02, rtol=0)


def test_distinct_speakers_come_in_rounds(bank: ClipBank) -> None:
    for seed in range(20):
        batch = bank.sample(7, 10, generator=torch.Generator().manual_seed(seed))
        speaker = torch.tensor([0, 1, 0, 2, 1])[batch.clip_index].tolist()
        assert sorted(speaker[:3]) == sorted(speaker[3:6]) == [0, 1, 2]
    assert set(bank.sample(7, 50, generator=torch.Generator().manual_seed(0)).clip_index.tolist()) == {3}


def test_chance_is_the_generators(bank: ClipBank) -> None:
    config = AugmentConfig()
    state = torch.get_rng_state()
    first, again, other = (
        bank.sample(8, 10, generator=torch.Generator().manual_seed(seed), augment=config) for seed in (1, 1, 2)
    )
    assert torch.equal(first.landmarks, again.landmarks) and torch.equal(first.audio, again.audio)
    assert not torch.equal(first.landmarks, other.landmarks)
    assert torch.equal(state, torch.get_rng_state())


def random_clip(gain: float = 1.0) -> Clip:
    rng = np.random.default_rng(5)
    landmarks = rng.normal(100, 10, (30, 68, 2)).astype(np.float32)
    return make_clip("a", "s0", 30, landmarks=landmarks, waveform=(gain * rng.normal(0, 0.1, 19200)).astype(np.float32))


@pytest.mark.parametrize("features", [LogMel(), MFCC()])
def test_gain_is_that_of_a_louder_waveform(features: nn.Module) -> None:
    clip = random_clip()
    bank = ClipBank([clip], features=features)
    config = AugmentConfig(gain_db=(4.0, 4.0), scale=(1.0, 1.0), translation=0.0, rotation=0.0, flip_probability=0.0)
    batch = bank.sample(2, 30, generator=torch.Generator().manual_seed(0), augment=config)
    louder = features(normalise_waveform(torch.from_numpy(clip.waveform)[None]) * 10 ** (4 / 20))
    torch.testing.assert_close(batch.audio, louder.expand(2, -1, -1), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(batch.landmarks[0], torch.from_numpy(clip.landmarks))


def test_augmentation_is_one_similarity_a_crop_and_can_be_off() -> None:
    bank = ClipBank([random_clip()], features=LogMel())
    plain, off, varied = (
        bank.sample(6, 30, generator=torch.Generator().manual_seed(0), augment=augment)
        for augment in (None, AugmentConfig(enabled=False), AugmentConfig(flip_probability=0.0))
    )
    assert torch.equal(plain.landmarks, off.landmarks) and torch.equal(plain.audio, off.audio)
    ratio = (velocity(varied.landmarks).norm(dim=-1) / velocity(plain.landmarks).norm(dim=-1)).flatten(1)
    assert (ratio.std(dim=1) < 1e-3).all() and (ratio.mean(1) >= 0.9).all() and (ratio.mean(1) <= 1.1).all()
    gain = (varied.audio - plain.audio).flatten(1)
    assert (gain.std(dim=1) < 1e-3).all() and (gain.abs() <= 6.001).all() and gain[:, 0].std() > 0.5
    assert torch.equal(plain.speech_fraction, varied.speech_fraction)


def test_batches_select_and_move(bank: ClipBank) -> None:
    batch = bank.windows(20, stride=5)
    part = batch.select(batch.clip_index == 3)
    assert set(part.clip_index.tolist()) == {3} and len(part) == 9 and len(batch.select(slice(2, 4))) == 2
    assert torch.equal(batch.to("cpu").audio, batch.audio)
    assert len(bank.to("cpu").sample(2, 10)) == 2


def test_features_are_normalised_first() -> None:
    quiet, loud = (ClipBank([random_clip(gain)], features=LogMel()) for gain in (0.1, 1.0))
    torch.testing.assert_close(quiet.audio, loud.audio, atol=1e-3, rtol=1e-4)


def test_too_long_crops_say_what_would_fit(bank: ClipBank) -> None:
    with pytest.raises(ClipTooShortError, match="expected at most 60, the longest clip has 60 frames, got 61"):
        bank.sample(2, 61)
    with pytest.raises(ClipTooShortError, match="at most 52, the longest clip has 60 frames, got 53 and a margin of 4"):
        bank.windows(53, stride=1, margin=4)


def test_bad_arguments(bank: ClipBank) -> None:
    for call in (
        lambda: bank.sample(0, 10),
        lambda: bank.sample(2, 0),
        lambda: bank.windows(10, stride=0),
        lambda: bank.sample(2, 10, margin=-1),
    ):
        with pytest.raises(ArgumentError):
            call()
    for values in (
        {"scale": (0.0, 1.0)},
        {"scale": (1.1, 0.9)},
        {"gain_db": (3.0, -3.0)},
        {"gain_db": (float("nan"), 1.0)},
        {"translation": -0.1},
        {"rotation": float("nan")},
        {"flip_probability": 1.5},
    ):
        with pytest.raises(ConfigError, match=next(iter(values))):
            AugmentConfig(**values)
    with pytest.raises(dataclasses.FrozenInstanceError):
        AugmentConfig().rotation = 1.0  # type: ignore[misc]
    config = AugmentConfig(gain_db=(-1.0, 2.0), enabled=False)
    assert config_from_dict(AugmentConfig, config_to_dict(config)) == config


class Strided(nn.Module):
    """Features at another rate than the library's."""

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform.unfold(-1, 320, 320)


class Plain(nn.Module):
    """Features of the right rate that know no gain."""

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform.unfold(-1, 160, 160)


def test_other_features() -> None:
    with pytest.raises(ShapeError, match=r"`features`: expected \(1, 160, coeffs\) for 40 frames, got \(1, 80, 320\)"):
        ClipBank(make_clips(), features=Strided())
    bank = ClipBank(make_clips(), features=Plain())
    with pytest.raises(ArgumentError, match="no filter_offset"):
        bank.sample(2, 10, augment=AugmentConfig())
    assert bank.sample(2, 10, augment=AugmentConfig(gain_db=(0.0, 0.0))).audio.shape == (2, 40, 160)


def test_bad_clips_raise_or_are_listed(tmp_path: Path) -> None:
    good, other = make_clips()[:2]
    damaged = [
        make_clip("x", "s", 10, waveform=np.zeros(100, np.float32)),
        make_clip("y", "s", 10, landmarks=np.full((10, 68, 2), np.nan, np.float32)),
        make_clip("z", "s", 10, landmarks=np.zeros((10, 20, 2), np.float32)),
    ]
    for clip in damaged:
        with pytest.raises(CorpusError, match=f"clip '{clip.id}'"):
            ClipBank([good, clip, other], features=LogMel())
    bank = ClipBank([good, *damaged, other], features=LogMel(), skip_bad=True)
    assert bank.ids == ("a", "b") and [name for name, _ in bank.bad] == ["x", "y", "z"]
    with pytest.raises(CorpusError, match="expected at least one good clip, got none and 2 bad ones"):
        ClipBank(damaged[:2], features=LogMel(), skip_bad=True)
    clips = [dataclasses.replace(clip, waveform=clip.waveform.clip(-1, 1)) for clip in make_clips()]
    write_index(tmp_path, [write_clip(clip, tmp_path) for clip in clips])
    (tmp_path / "b.npz").unlink()
    with pytest.raises(CorpusError, match="clip 'b'"):
        ClipBank(Corpus(tmp_path), features=LogMel())
    for skipping in (Corpus(tmp_path), Corpus(tmp_path, skip_bad=True)):
        bank = ClipBank(skipping, features=LogMel(), skip_bad=True)
        assert bank.ids == ("a", "c", "d", "e") and [name for name, _ in bank.bad] == ["b"]


def test_speech_mask() -> None:
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.1, 640 * 100)
    sound[640 * 30 : 640 * 50] *= 10 ** (-25 / 20)
    sound[640 * 50 : 640 * 60] *= 10 ** (-15 / 20)
    expected = np.ones(100, dtype=bool)
    expected[30:50] = False
    np.testing.assert_array_equal(speech_mask(sound.astype(np.float32)), expected)
    np.testing.assert_array_equal(speech_mask(torch.from_numpy(sound + 0.3)), expected)
    np.testing.assert_array_equal(speech_mask((sound * 0.1).astype(np.float32)), expected)
    assert speech_mask(sound.astype(np.float32), threshold_db=-30).all()
    assert not speech_mask(np.zeros(6400, np.float32)).any() and speech_mask(np.zeros(700, np.float32)).shape == (1,)
    with pytest.raises(ShapeError, match=r"`waveform`: expected \(samples,\) of numbers, got \(1, 640\)"):
        speech_mask(np.zeros((1, 640), np.float32))
    with pytest.raises(ClipTooShortError, match="at least 640 samples, got 639"):
        speech_mask(np.zeros(639, np.float32))


@pytest.mark.skipif(not (REAL_CORPUS / "index.json").is_file(), reason="the real corpus is not on this machine")
def test_on_the_real_corpus() -> None:
    bank = ClipBank(Corpus(REAL_CORPUS, split="val")[:12], features=LogMel())
    batch = bank.windows(80, stride=40, margin=15)
    assert len(batch) > 20 and torch.isfinite(batch.audio).all() and torch.isfinite(batch.landmarks).all()
    assert 0.5 < batch.speech_fraction.median() < 0.95
