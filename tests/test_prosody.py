"""Loudness, voicing, pitch and slope of speech-like audio."""

from __future__ import annotations

import pytest
import torch

from avsync.audio.features import COEFFICIENTS, KINDS, LogMel, SpeechFeatures, feature_columns
from avsync.audio.prosody import Prosody, prosody
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError

LEVEL, VOICED, PITCH, SLOPE = range(4)


def voice(hertz: torch.Tensor) -> torch.Tensor:
    """Return a pulse-like tone of a changing pitch, (samples,), from the pitch of every sample."""
    phase = 2 * torch.pi * hertz.cumsum(0) / 16000
    return sum(torch.sin(k * phase) / k for k in range(1, 8)) / 4  # type: ignore[return-value]


@pytest.mark.parametrize(("low", "high"), [(90.0, 180.0), (150.0, 300.0)])
def test_pitch_is_found_in_semitones(low: float, high: float) -> None:
    """An octave is 12 semitones, times 3; the clip's median is 0."""
    tones = torch.cat([voice(torch.full((16000,), hertz)) for hertz in (low, (low * high) ** 0.5, high)])
    found = prosody(tones[None])[0]
    for second, semitones in enumerate((-6.0, 0.0, 6.0)):
        inside = found[100 * second + 10 : 100 * second + 90]
        torch.testing.assert_close(inside[:, PITCH], torch.full((80,), 3 * semitones), atol=1.2, rtol=0)
        assert bool((inside[:, VOICED] == 20).all())


def test_slope_has_the_sign_of_the_change() -> None:
    rising = voice(torch.linspace(100, 200, 16000))
    slopes = prosody(torch.stack([rising, rising.flip(0)]))[:, 20:80, SLOPE].mean(dim=1)
    assert float(slopes[0]) > 1 and float(slopes[1]) < -1


def test_pauses_and_noise_are_unvoiced_and_hold_the_pitch(rng: torch.Generator) -> None:
    """Pitch stays at the last voiced frame in a pause; loudness falls to the floor."""
    tone = voice(torch.full((16000,), 120.0))
    clip = torch.cat([tone, torch.zeros(16000), 0.02 * torch.randn(16000, generator=rng)])
    found = prosody(clip[None])[0]
    assert bool((found[110:190, VOICED] == 0).all()) and float(found[205:295, VOICED].mean()) < 1
    torch.testing.assert_close(found[120:190, PITCH], found[90:91, PITCH].expand(70), atol=1.2, rtol=0)
    assert float(found[120:190, LEVEL].max()) == -70 and bool((found[110:190, SLOPE] == 0).all())


def test_silence_is_finite_and_gain_changes_only_the_loudness() -> None:
    assert bool(prosody(torch.zeros(2, 6400)).isfinite().all())
    tone = voice(torch.linspace(100, 200, 16000))[None]
    quiet, loud = prosody(0.1 * tone), prosody(tone)
    torch.testing.assert_close(quiet[..., 1:], loud[..., 1:])
    torch.testing.assert_close(loud[..., LEVEL] - quiet[..., LEVEL], torch.full((1, 100), 20.0), atol=1e-3, rtol=0)


def test_module_frames_and_gradient() -> None:
    """One frame per 160 samples, as for the other features; the gradient of the loudness is finite."""
    tone = voice(torch.linspace(100, 200, 640 * 20))[None].requires_grad_()
    features = Prosody()(tone)
    assert features.shape == (*LogMel()(tone).shape[:2], 4)
    features.sum().backward()
    assert tone.grad is not None and bool(tone.grad.isfinite().all()) and float(tone.grad.abs().max()) > 0
    offset = Prosody().filter_offset(torch.full((3, 26), 6.0))
    torch.testing.assert_close(offset, torch.tensor([[6.0, 0, 0, 0]]).expand(3, 4))


def test_kinds_and_their_columns() -> None:
    waveform = voice(torch.linspace(100, 200, 640 * 20))[None]
    made = {kind: SpeechFeatures(kind=kind)(waveform) for kind in KINDS}
    assert {kind: value.shape[-1] for kind, value in made.items()} == COEFFICIENTS
    for part in ("log-mel", "prosody", "log-mel-prosody"):
        torch.testing.assert_close(made["log-mel-prosody"][..., feature_columns(part, "log-mel-prosody")], made[part])
    with pytest.raises(ArgumentError, match="`kind`"):
        feature_columns("mfcc", "log-mel-prosody")
    joined = SpeechFeatures(kind="log-mel-prosody").features
    assert joined.filter_offset(torch.ones(2, 26)).shape == (2, 30)  # type: ignore[operator]


def test_errors() -> None:
    with pytest.raises(ShapeError, match="`waveform`"):
        prosody(torch.zeros(16000))
    with pytest.raises(ClipTooShortError, match="at least 800"):
        prosody(torch.zeros(1, 640))
