"""Audio features: values, alignment, edges, gradients, precision."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avsync.audio.features import MFCC, LogMel, SpeechFeatures, dct_matrix, log_mel, mel_filterbank, mfcc, normalise_waveform
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from tests.reference import audio as reference

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
MODULES: list[Callable[[], LogMel]] = [LogMel, MFCC]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", MODULES)
def test_four_frames_a_motion_frame(make: Callable[[], LogMel], device: str) -> None:
    features = make().to(device)
    out = features(noise(2, 640 * 7).to(device))
    assert out.shape == (2, 28, 26) and out.device.type == device and out.dtype == torch.float32
    assert (features.num_features, features.sample_rate, features.hop_length, features.frame_rate) == (26, 16000, 160, 100.0)


@given(samples=st.integers(min_value=201, max_value=2000))
def test_frame_count(samples: int) -> None:
    assert log_mel(torch.zeros(1, samples)).shape == (1, samples // 160, 26)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"n_fft": 512, "win_length": 400, "n_mels": 20},
        {"n_fft": 401, "win_length": 401, "n_mels": 12, "hop_length": 100},
        {"f_min": 80, "f_max": 7600, "n_mels": 24},
    ],
)
def test_values_against_the_reference(settings: dict[str, int]) -> None:
    wave = noise(1, 1600, dtype=torch.float64)
    expected = reference.log_mel(wave[0].numpy(), **settings)
    np.testing.assert_allclose(log_mel(wave, **settings)[0].numpy(), expected, atol=1e-9)
    bands = settings.get("n_mels", 26)
    coefficients = mfcc(wave, **{**settings, "n_mels": bands}, n_mfcc=10)[0].numpy()
    np.testing.assert_allclose(coefficients, reference.dct(expected, 10), atol=1e-8)


def test_modules_equal_functions() -> None:
    wave = noise(2, 3200)
    torch.testing.assert_close(LogMel(n_mels=20, top_db=40.0)(wave), log_mel(wave, n_mels=20, top_db=40.0))
    torch.testing.assert_close(MFCC(n_mfcc=13, f_min=50.0)(wave), mfcc(wave, n_mfcc=13, f_min=50.0), rtol=1e-5, atol=1e-4)


@given(frame=st.integers(min_value=1, max_value=9))
def test_a_click_lands_in_the_frame_of_its_motion_frame(frame: int) -> None:
    wave = torch.zeros(1, 640 * 10)
    wave[0, 640 * frame] = 1.0
    loudness = log_mel(wave).exp2().sum(dim=-1)[0]
    assert int(loudness.argmax()) == 4 * frame
    # the window is symmetric about the click: the same on both sides
    torch.testing.assert_close(loudness[4 * frame - 1], loudness[4 * frame + 1], rtol=1e-3, atol=1e-6)


def test_the_click_at_the_first_sample_and_between_frames() -> None:
    wave = torch.zeros(2, 3200)
    wave[0, 0] = 1.0
    wave[1, 5 * 160 + 80] = 1.0
    energy = log_mel(wave).sum(dim=-1)
    assert int(energy[0].argmax()) == 0
    torch.testing.assert_close(energy[1, 5], energy[1, 6], rtol=1e-3, atol=1e-2)


def test_features_of_a_crop_are_those_of_the_clip_away_from_its_ends() -> None:
    wave = noise(1, 640 * 12)
    whole, crop = log_mel(wave), log_mel(wave[:, 640 * 3 : 640 * 8])
    torch.testing.assert_close(crop[:, 2:-2], whole[:, 14:30], rtol=1e-4, atol=1e-3)


def test_appended_samples_leave_earlier_frames_alone() -> None:
    wave = noise(1, 640 * 6)
    longer = torch.cat([wave, torch.zeros(1, 1280)], dim=1)
    torch.testing.assert_close(log_mel(longer)[:, :22], log_mel(wave)[:, :22], rtol=1e-4, atol=1e-3)


def test_top_db_is_relative_to_each_clip() -> None:
    wave = torch.cat([noise(1, 3200), torch.zeros(1, 3200)], dim=1)
    batch = torch.cat([wave, 1e-3 * wave])
    out = log_mel(batch, top_db=30.0)
    torch.testing.assert_close(out.amax(dim=(1, 2)) - out.amin(dim=(1, 2)), torch.tensor([30.0, 30.0]))
    assert out[1].amin() < out[0].amin() - 50
    torch.testing.assert_close(out[1:], log_mel(batch[1:], top_db=30.0))
    assert log_mel(batch).amin() == -100.0


@pytest.mark.parametrize("make", MODULES)
@given(db=st.floats(min_value=-20, max_value=20))
def test_gain_offset_is_what_a_gain_adds(make: Callable[[], LogMel], db: float) -> None:
    features, wave = make(), noise(1, 1600)
    louder = features(wave * 10 ** (db / 20))
    offset = features.gain_offset(torch.tensor([db]))
    assert offset.shape == (1, 26)
    torch.testing.assert_close(louder, features(wave) + offset[:, None], rtol=1e-4, atol=2e-3)


def test_gain_offset_shapes() -> None:
    assert LogMel().gain_offset(torch.tensor(1.0)).shape == (26,)
    offset = MFCC(n_mels=16, n_mfcc=5).gain_offset(torch.ones(2, 3))
    assert offset.shape == (2, 3, 5)
    torch.testing.assert_close(offset[0, 0], torch.tensor([4.0, 0.0, 0.0, 0.0, 0.0]), rtol=1e-6, atol=1e-6)


def test_filters_and_cosines() -> None:
    bank = mel_filterbank(n_mels=26, dtype=torch.float64)
    assert bank.min() == 0 and bank.max() <= 1 and (bank.sum(dim=0) > 0).all()
    basis = dct_matrix(n_mfcc=26, n_mels=26, dtype=torch.float64)
    torch.testing.assert_close(basis.T @ basis, torch.eye(26, dtype=torch.float64), rtol=0, atol=1e-12)
    assert basis[:, 0].tolist() == pytest.approx([1 / math.sqrt(26)] * 26)


def test_bad_arguments() -> None:
    with pytest.raises(ShapeError, match=r"`waveform`: expected \(batch, samples\), got \(3200,\)"):
        log_mel(torch.zeros(3200))
    with pytest.raises(ShapeError, match="floating-point"):
        log_mel(torch.zeros(1, 3200, dtype=torch.int16))
    with pytest.raises(ClipTooShortError, match="at least 201 samples"):
        MFCC()(torch.zeros(1, 200))
    with pytest.raises(ClipTooShortError):
        LogMel()(torch.zeros(1, 0))
    for wrong in ({"f_max": 9000.0}, {"f_min": 5000.0, "f_max": 4000.0}, {"n_mels": 0}, {"win_length": 500}, {"hop_length": 0}):
        with pytest.raises(ArgumentError):
            LogMel(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="`n_mfcc`"):
        MFCC(n_mfcc=41)
    with pytest.raises(ArgumentError, match="`top_db`"):
        LogMel(top_db=-1.0)
    with pytest.warns(UserWarning, match="mel bands hold no frequency bin"):
        LogMel(n_mels=128)


@pytest.mark.parametrize("function", [log_mel, mfcc])
def test_gradcheck(function: Callable[..., Tensor]) -> None:
    wave = noise(1, 96, dtype=torch.float64).requires_grad_()
    small = {"n_fft": 64, "win_length": 64, "hop_length": 32, "n_mels": 4}
    extra = {"n_mfcc": 3} if function is mfcc else {}
    assert torch.autograd.gradcheck(lambda x: function(x, **small, **extra), (wave,))


def test_silence_has_finite_values_and_gradients() -> None:
    wave = torch.zeros(1, 3200, requires_grad=True)
    out = MFCC()(wave)
    out.sum().backward()
    assert out.isfinite().all() and wave.grad is not None and wave.grad.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_under_autocast_and_for_half_input(dtype: torch.dtype, device: str) -> None:
    features, wave = MFCC().to(device), noise(2, 3200).to(device)
    expected = features(wave)
    with torch.autocast(device_type=device, dtype=dtype):
        torch.testing.assert_close(features(wave), expected)
    half = features(wave.to(dtype))
    assert half.dtype == torch.float32 and half.isfinite().all()


@pytest.mark.parametrize("make", MODULES)
def test_compiles_whole(make: Callable[[], LogMel]) -> None:
    features, wave = make(), noise(2, 3200)
    compiled = torch.compile(features, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(wave), features(wave))


def test_constants_stay_out_of_the_state() -> None:
    assert not MFCC().state_dict() and not list(MFCC().parameters())


@given(gain=st.floats(min_value=1e-3, max_value=1.0), shift=st.floats(min_value=-0.5, max_value=0.5), seed=st.integers(0, 1000))
def test_normalise_waveform(gain: float, shift: float, seed: int) -> None:
    wave = noise(2, 500, seed=seed, dtype=torch.float64)
    out = normalise_waveform(gain * wave + shift)
    torch.testing.assert_close(out.abs().amax(dim=-1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(out, normalise_waveform(wave), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(out.mean(dim=-1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("level", [0.0, 0.1, -0.7])
def test_normalise_waveform_leaves_silence_silent(level: float) -> None:
    wave = torch.full((1, 16001), level, requires_grad=True)
    out = normalise_waveform(wave)
    out.sum().backward()
    assert (out.abs() < 1e-6).all() and wave.grad is not None and wave.grad.isfinite().all()


def test_normalise_waveform_bad_arguments() -> None:
    with pytest.raises(ClipTooShortError):
        normalise_waveform(torch.zeros(2, 0))
    with pytest.raises(ShapeError):
        normalise_waveform(torch.zeros(2, 5, dtype=torch.int16))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_features_of_any_dtype(dtype: torch.dtype) -> None:
    waveform = (0.3 * torch.randn(2, 6400, generator=torch.Generator().manual_seed(0))).to(dtype)
    for kind in ("log-mel", "mfcc"):
        exact = SpeechFeatures(kind=kind)(waveform.float())
        for of_module in (torch.float64, torch.float32, torch.bfloat16):
            found = SpeechFeatures(kind=kind).to(of_module)(waveform)
            assert found.dtype in (torch.float32, torch.float64)
            torch.testing.assert_close(found.float(), exact, atol=1.0 if of_module == torch.bfloat16 else 1e-3, rtol=1e-3)


def test_mistakes_with_waveforms_are_named() -> None:
    waveform = torch.zeros(2, 6400)
    for wrong, message in (
        (waveform.numpy(), r"`waveform`: .*got ndarray"),
        (waveform[0], r"`waveform`: expected \(batch, samples\), got \(6400,\)"),
        (waveform.int(), r"`waveform`: expected a floating-point tensor"),
        (waveform[:0], r"`waveform`: expected at least 1 clip"),
        (waveform.to("meta"), r"`waveform`: expected it on the device of the features' window and filters, cpu, got meta"),
    ):
        for features in (SpeechFeatures(), SpeechFeatures().features):
            with pytest.raises(ArgumentError, match=message):
                features(wrong)


@pytest.mark.parametrize(("function", "module"), [(log_mel, LogMel), (mfcc, MFCC), (mel_filterbank, LogMel)])
def test_function_and_module_have_the_same_defaults(function: Callable[..., Tensor], module: type[LogMel]) -> None:
    ours, theirs = inspect.signature(function).parameters, inspect.signature(module).parameters
    shared = set(ours) & set(theirs)
    assert {"sample_rate", "n_fft", "n_mels", "f_min", "f_max"} <= shared
    assert {name: ours[name].default for name in shared} == {name: theirs[name].default for name in shared}
