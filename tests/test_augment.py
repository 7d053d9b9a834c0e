"""Augmentation of training crops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avsync.audio.features import MFCC, LogMel
from avsync.corpus.banks.augmentation import AugmentConfig, interpolate_rows, random_tempo, vary_audio
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.errors import ArgumentError, ConfigError

PLAIN = AugmentConfig(scale=(1.0, 1.0), translation=0.0, rotation=0.0, flip_probability=0.0, gain_db=(0.0, 0.0))


@given(begin=st.integers(0, 20), tempo=st.floats(0.5, 2.0), count=st.integers(1, 20))
def test_a_line_stays_a_line(begin: int, tempo: float, count: int) -> None:
    """Linear interpolation of a ramp is exact, up to the last row the crop may read."""
    rows = torch.arange(60.0).reshape(60, 1).expand(60, 3)
    read = interpolate_rows(rows, torch.tensor([begin]), torch.tensor([tempo]), count, torch.tensor([50]))
    expected = (begin + tempo * torch.arange(count)).clamp(max=50.0)
    torch.testing.assert_close(read[0], expected[:, None].expand(-1, 3), atol=1e-4, rtol=1e-5)


def test_tempo_stays_in_its_range(rng: torch.Generator) -> None:
    tempo = random_tempo(1000, AugmentConfig(tempo=(0.5, 2.0)), rng)
    assert 0.5 <= tempo.min() < 0.55 and 1.9 < tempo.max() <= 2.0
    assert abs(float(tempo.log().mean())) < 0.05, "even in the logarithm: as much slower as faster"


def test_tempo_moves_face_and_sound_together(rng: torch.Generator) -> None:
    """Replace both by the clip's own time, and every crop reads the same time in both, at its own speed."""
    bank = ClipBank(SyntheticCorpus(split="train", speakers=3, clips_per_speaker=1, seconds=6.0), features=LogMel())
    time = torch.cat([torch.arange(float(length)) for length in bank.lengths])
    bank.landmarks = time[:, None, None].expand(-1, 68, 2).clone()
    bank.audio = torch.cat([torch.arange(4.0 * length) / 4 for length in bank.lengths])[:, None].expand(-1, 26).clone()
    bank.speech = (time % 7 < 3).float()
    batch = bank.sample(64, 40, generator=rng, augment=AugmentConfig(**{**vars(PLAIN), "tempo": (0.7, 1.4)}))
    face, sound = batch.landmarks[:, :, 0, 0], batch.audio[:, ::4, 0]
    torch.testing.assert_close(face, sound, atol=1e-3, rtol=0)
    speed = face.diff(dim=1)
    assert float(speed.max()) <= 1.4 + 1e-3 and float(speed.min()) >= 0.7 - 1e-3
    assert float(speed.std(dim=1).max()) < 1e-3, "one speed a crop"
    assert float(speed[:, 0].std()) > 0.1, "different speeds in a batch"
    between = (face % 1 - 0.5).abs() < 1e-3  # as near to one frame as to the next
    assert torch.equal(batch.speech | between, (face.round() % 7 < 3) | between), "speech is that of the nearest frame"
    assert 0.2 < float(batch.speech_fraction.mean()) < 0.7


def test_a_clip_too_short_for_a_tempo_is_played_as_fast_as_it_allows(rng: torch.Generator) -> None:
    bank = ClipBank(SyntheticCorpus(split="train", speakers=2, clips_per_speaker=1, seconds=2.0), features=LogMel())
    batch = bank.sample(8, 50, generator=rng, augment=AugmentConfig(**{**vars(PLAIN), "tempo": (2.0, 2.0)}))
    first = bank.landmarks[bank.offsets[batch.clip_index]]
    torch.testing.assert_close(batch.landmarks[:, 0], first)
    assert batch.landmarks.shape[1] == 50


@pytest.mark.parametrize("features", [LogMel(), MFCC(n_mels=30, n_mfcc=13)], ids=["log-mel", "mfcc"])
def test_gain_and_equaliser_are_one_offset_a_crop(features: LogMel, rng: torch.Generator) -> None:
    audio = torch.zeros(5, 12, features.num_features)
    varied = vary_audio(audio, features, AugmentConfig(gain_db=(-3.0, 3.0), equaliser_db=4.0), rng)
    torch.testing.assert_close(varied, varied[:, :1].expand_as(varied))
    assert len(varied[:, 0].unique(dim=0)) == 5


def test_noise_has_its_level(rng: torch.Generator) -> None:
    config = AugmentConfig(gain_db=(0.0, 0.0), noise_db=3.0)
    assert abs(float(vary_audio(torch.zeros(8, 400, 26), LogMel(), config, rng).std()) - 3.0) < 0.05


def test_what_cannot_be_is_refused(rng: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="tempo"):
        AugmentConfig(tempo=(1.5, 1.0))
    with pytest.raises(ConfigError, match="noise_db"):
        AugmentConfig(noise_db=-1.0)
    with pytest.raises(ArgumentError, match="filter_offset"):
        vary_audio(torch.zeros(1, 4, 3), torch.nn.Identity(), AugmentConfig(), rng)
    bank = ClipBank(SyntheticCorpus(split="train", speakers=2, clips_per_speaker=1, seconds=4.0), features=LogMel())
    with pytest.raises(ArgumentError, match="margin"):
        bank.sample(2, 20, margin=4, generator=rng, augment=AugmentConfig(tempo=(0.8, 1.2)))
