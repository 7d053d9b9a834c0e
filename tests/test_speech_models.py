"""Features of speech models: real lengths, the instant of each frame (by clicks), and pyramids and losses that take them.

The networks here are built by hand, with the front ends of HuBERT and Whisper; the session `oracle` runs those of torchaudio and transformers.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from avsync import MultiScaleSyncLoss, SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.audio import SpeechModelFeatures, conv_clock, mel_filterbank, wav2vec2_features, whisper_features
from avsync.errors import ArgumentError, ShapeError

KERNELS, STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]


class Front(nn.Module):
    """Front end of wav2vec2 with the interface of transformers (`config`) or of torchaudio (`feature_extractor`)."""

    def __init__(self, *, transformers: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = [1, *[8] * len(KERNELS)]
        convs = [nn.Conv1d(sizes[n], 8, kernel, step) for n, (kernel, step) in enumerate(zip(KERNELS, STRIDES, strict=True))]
        self.convs = nn.ModuleList(convs)
        if transformers:
            self.config = SimpleNamespace(conv_kernel=KERNELS, conv_stride=STRIDES)
        else:
            self.feature_extractor = SimpleNamespace(conv_layers=[SimpleNamespace(conv=conv) for conv in convs])

    def states(self, waveform: Tensor) -> Tensor:
        x = waveform[:, None]
        for conv in self.convs:
            x = torch.relu(conv(x))
        return x.transpose(1, 2)

    def forward(self, waveform: Tensor, output_hidden_states: bool = False) -> SimpleNamespace:
        found = self.states(waveform)
        return SimpleNamespace(last_hidden_state=found, hidden_states=(found, found + 1, found + 2))

    def extract_features(self, waveform: Tensor, num_layers: int | None = None) -> tuple[list[Tensor], None]:
        found = self.states(waveform)
        return [found + 1, found + 2][:num_layers], None


class Encoder(nn.Module):
    """Front end of Whisper's encoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv1d(80, 16, 3, padding=1)
        self.conv2 = nn.Conv1d(16, 16, 3, stride=2, padding=1)
        for conv in (self.conv1, self.conv2):  # symmetric in time, so that random weights prefer no direction
            conv.weight.data += conv.weight.data.flip(2)

    def forward(self, mel: Tensor) -> Tensor:
        assert mel.shape[1:] == (80, 3000)
        return torch.nn.functional.gelu(self.conv2(torch.nn.functional.gelu(self.conv1(mel)))).transpose(1, 2)


def instants_of_clicks(features: nn.Module, rate: float, seconds: tuple[float, ...]) -> Tensor:
    """Return when each click is heard, in seconds minus the instant of the click: the centre of the changed frames."""
    errors = []
    for instant in seconds:
        silence = 1e-3 * torch.randn(1, 640 * 80, generator=torch.Generator().manual_seed(1))
        click = silence.clone()
        first = round(16000 * instant)
        click[:, first - 8 : first + 8] += 0.5
        with torch.no_grad():
            change = (features(click) - features(silence))[0].square().sum(dim=1)
        near = (torch.arange(len(change)) / rate - instant).abs() < 0.06
        change = torch.where(near & (change > 0.1 * change.max()), change, 0.0)
        errors.append(float((change * torch.arange(len(change))).sum() / change.sum() / rate - instant))
    return torch.tensor(errors)


CLICKS = tuple(0.5 + 0.0371 * number for number in range(40))


@pytest.mark.parametrize("transformers", [False, True])
def test_frames_of_wav2vec2_are_at_the_instant_of_the_click(transformers: bool) -> None:
    model = Front(transformers=transformers)
    assert model.states(torch.zeros(1, 51200)).shape[1] == 159  # as HuBERT
    features = wav2vec2_features(model, normalise=False)
    assert features(torch.zeros(2, 51200)).shape == (2, 320, 8)
    errors = instants_of_clicks(features, 100, CLICKS)
    assert errors.mean().abs() < 0.003 and errors.abs().max() < 0.015
    late = SpeechModelFeatures(features.encode, model_rate=50, first_frame=0.0, normalise=False)
    assert instants_of_clicks(late, 100, CLICKS).mean() < errors.mean() - 0.008  # half a frame without the clock


def test_layers() -> None:
    x = torch.randn(1, 6400)
    for transformers in (False, True):
        model = Front(transformers=transformers)
        first, second, last, plain = (wav2vec2_features(model, layer=layer, frame_rate=50)(x) for layer in (1, 2, -1, None))
        torch.testing.assert_close(second, first + 1)
        torch.testing.assert_close(last, second)
        assert plain.shape == first.shape == (1, 20, 8)
    with pytest.raises(ArgumentError, match="`layer`"):
        wav2vec2_features(model, layer=0)


def test_frames_of_whisper_are_at_the_instant_of_the_click() -> None:
    filters = mel_filterbank(n_mels=80, n_fft=400, sample_rate=16000)
    features = whisper_features(SimpleNamespaceModule(Encoder()), filters)
    assert features(torch.zeros(1, 51200)).shape == (1, 320, 16)
    errors = instants_of_clicks(features, 100, CLICKS[::4])
    assert errors.mean().abs() < 0.004 and errors.abs().max() < 0.015


def test_whisper_takes_clips_of_more_than_30_seconds() -> None:
    filters = mel_filterbank(n_mels=80, n_fft=400, sample_rate=16000)
    features = whisper_features(Encoder(), filters.T, frame_rate=50)
    x = torch.randn(1, 16000 * 31)
    found = features(x)
    assert found.shape == (1, 1550, 16)
    torch.testing.assert_close(found[:, :1400], features(x[:, : 16000 * 30])[:, :1400])


class SimpleNamespaceModule(nn.Module):
    """Model with an encoder."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder


@pytest.mark.parametrize("stride", [2, 4])
def test_pyramids_and_losses_take_the_features(stride: int) -> None:
    features = wav2vec2_features(Front(transformers=True), frame_rate=25 * stride)
    sizes = SyncerConfig(width=8, embed=4, audio_features=8, audio_stride=stride)
    pyramid = SyncerPyramid(SyncerPyramidConfig(syncer=sizes, audio="custom"))
    waveform = torch.randn(1, 640 * 80)
    levels = pyramid(torch.rand(1, 80, 68, 2), features(waveform))
    assert [level.audio.shape[1] for level in levels] == [76, 36, 16, 6]
    loss = MultiScaleSyncLoss(syncers=pyramid, audio_transform=features)
    assert loss(torch.rand(1, 80, 68, 2), waveform).total.isfinite()


def test_the_network_is_frozen_and_gradients_reach_the_waveform() -> None:
    features = wav2vec2_features(Front(transformers=True)).train()
    assert not features.training and not any(parameter.requires_grad for parameter in features.parameters())
    waveform = torch.randn(1, 6400, requires_grad=True)
    features(waveform).square().sum().backward()
    assert waveform.grad is not None and waveform.grad.isfinite().all() and waveform.grad.abs().sum() > 0
    loud, quiet = features(waveform.detach()), features(0.1 * waveform.detach())
    torch.testing.assert_close(loud, quiet, atol=1e-3, rtol=1e-3)


def test_errors() -> None:
    assert conv_clock([400], [160]) == (100.0, 199.5 / 16000)
    with pytest.raises(ArgumentError, match="`kernels`"):
        conv_clock([400], [])
    with pytest.raises(ArgumentError, match="`encode`"):
        SpeechModelFeatures(3, model_rate=50)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"about 50 frames for 1\.00 s \(50 per second\), got 100"):
        SpeechModelFeatures(lambda x: x.reshape(1, 100, 160), model_rate=50)(torch.zeros(1, 16000))
    with pytest.raises(ShapeError, match="`encode`: expected features"):
        SpeechModelFeatures(lambda x: x, model_rate=50)(torch.zeros(1, 16000))
    with pytest.raises(ArgumentError, match="a wav2vec2-like model"):
        wav2vec2_features(nn.Linear(1, 1))
    with pytest.raises(ArgumentError, match="Whisper or its encoder"):
        whisper_features(nn.Linear(1, 1), torch.zeros(201, 80))
    with pytest.raises(ShapeError, match="`mel_filters`"):
        whisper_features(Encoder(), torch.zeros(200, 80))
