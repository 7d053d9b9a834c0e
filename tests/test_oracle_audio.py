"""Audio features against the field's own tools, torchaudio and librosa.

They are not installed beside every torch. Where they must be (``AVSYNC_REQUIRE_ORACLES=1``) their absence is a failure.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from avsync.audio.features import MFCC, LogMel, dct_matrix, mel_filterbank

FRAMING = {"n_fft": 400, "win_length": 400, "hop_length": 160}
SETTINGS = [
    {"n_mels": 26},
    {"n_mels": 40},
    {"n_mels": 64, "n_fft": 1024, "win_length": 400},
    {"n_mels": 24, "f_min": 60.0, "f_max": 7000.0},
]


def oracle(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        reason = f"{name} cannot be imported here: {error}"
        if os.environ.get("AVSYNC_REQUIRE_ORACLES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def speechlike(batch: int = 3, frames: int = 25) -> Tensor:
    """Harmonics under a moving envelope, with noise: all bands hold something, loud and soft."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(640 * frames) / 16000
    pitch = 90 + 60 * torch.rand(batch, 1, generator=generator)
    voice = torch.stack([torch.sin(2 * torch.pi * k * pitch * time) / k for k in range(1, 30)]).sum(dim=0)
    envelope = torch.sin(2 * torch.pi * 4 * time).square()
    return 0.1 * voice * envelope + 0.003 * torch.randn(batch, 640 * frames, generator=generator)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.filterwarnings("ignore")
def test_log_mel_equals_torchaudio(settings: dict[str, float]) -> None:
    transforms = oracle("torchaudio").transforms
    wave, options = speechlike(), {**FRAMING, **settings}
    mel = transforms.MelSpectrogram(16000, **options)(wave)
    expected = transforms.AmplitudeToDB("power", top_db=None)(mel)[..., :-1].transpose(1, 2)
    torch.testing.assert_close(LogMel(**options)(wave), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.filterwarnings("ignore")
def test_mfcc_equals_torchaudio(settings: dict[str, float]) -> None:
    transforms = oracle("torchaudio").transforms
    wave, options = speechlike(), {**FRAMING, **settings}
    # torchaudio's floor, 80 dB under the loudest, is not reached by this sound: its values are the plain ones.
    expected = transforms.MFCC(16000, n_mfcc=20, melkwargs=options)(wave)[..., :-1].transpose(1, 2)
    torch.testing.assert_close(MFCC(n_mfcc=20, **options)(wave), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_top_db_equals_torchaudio_on_a_batch_of_one() -> None:
    transforms = oracle("torchaudio").transforms
    wave = speechlike(1) * torch.linspace(0, 1, 16000).pow(6)
    mel = transforms.MelSpectrogram(16000, **FRAMING, n_mels=26)(wave)[..., :-1]
    expected = transforms.AmplitudeToDB("power", top_db=30.0)(mel).transpose(1, 2)
    torch.testing.assert_close(LogMel(top_db=30.0)(wave), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_matrices_equal_torchaudio() -> None:
    functional = oracle("torchaudio").functional
    ours = mel_filterbank(n_mels=30, n_fft=512, f_min=20.0, f_max=7600.0)
    torch.testing.assert_close(ours, functional.melscale_fbanks(257, 20.0, 7600.0, 30, 16000), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dct_matrix(n_mfcc=13, n_mels=30), functional.create_dct(13, 30, "ortho"), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.filterwarnings("ignore")
def test_mel_power_equals_librosa(settings: dict[str, float]) -> None:
    librosa = oracle("librosa")
    wave, options = speechlike(), {**FRAMING, **settings}
    names = {"f_min": "fmin", "f_max": "fmax"}
    expected = librosa.feature.melspectrogram(
        y=wave.numpy().astype(np.float64),
        sr=16000,
        htk=True,
        norm=None,
        center=True,
        pad_mode="reflect",
        power=2.0,
        **{names.get(name, name): value for name, value in options.items()},
    )
    ours = 10 ** (LogMel(**options)(wave.double()) / 10)
    np.testing.assert_allclose(ours.numpy(), expected[..., :-1].transpose(0, 2, 1), rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_mfcc_equals_librosa() -> None:
    librosa = oracle("librosa")
    wave = speechlike()
    bands = LogMel(n_mels=40)(wave)
    expected = librosa.feature.mfcc(S=bands.numpy().transpose(0, 2, 1), n_mfcc=26, dct_type=2, norm="ortho")
    np.testing.assert_allclose(MFCC()(wave).numpy(), expected.transpose(0, 2, 1), rtol=1e-4, atol=1e-3)
