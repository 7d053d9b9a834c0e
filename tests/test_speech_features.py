"""Features by name: what banks and trainings compute, from a waveform of any level."""

from __future__ import annotations

import pytest
import torch

from avsync.audio.features import MFCC, LogMel, SpeechFeatures, normalise_waveform
from avsync.errors import ArgumentError


@pytest.mark.parametrize(("kind", "plain"), [("log-mel", LogMel), ("mfcc", MFCC)])
def test_features_are_those_of_the_normalised_waveform(kind: str, plain: type[torch.nn.Module]) -> None:
    waveform = torch.randn(2, 6400, generator=torch.Generator().manual_seed(0))
    features = SpeechFeatures(kind=kind)
    torch.testing.assert_close(features(waveform), plain()(normalise_waveform(waveform)))
    torch.testing.assert_close(features(0.01 * waveform), features(waveform), atol=1e-3, rtol=1e-4)


def test_gradients_reach_the_waveform() -> None:
    waveform = torch.randn(1, 3200, generator=torch.Generator().manual_seed(0)).requires_grad_()
    SpeechFeatures()(waveform).sum().backward()
    assert torch.isfinite(waveform.grad).all()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"`kind`: expected one of 'log-mel', 'mfcc', 'prosody', 'log-mel-prosody', got 'mel'"
    ):
        SpeechFeatures(kind="mel")
