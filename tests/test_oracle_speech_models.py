"""The real classes of HuBERT, wav2vec2, WavLM and Whisper, with random weights: lengths, and the instant of each frame by clicks."""

from __future__ import annotations

import importlib
import os
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avsync.audio import SpeechModelFeatures, wav2vec2_features, whisper_features
from benchmarks.trained_examples import FEATURES, PAGES, python_blocks, run_examples

CLICKS = tuple(0.6 + 0.2571 * number for number in range(8))
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
FRONT = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 3, "num_conv_pos_embedding_groups": 4}


def oracle(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        reason = f"{name} cannot be imported here: {error}"
        if os.environ.get("AVSYNC_REQUIRE_ORACLES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def of_transformers(kind: str, seed: int) -> SpeechModelFeatures:
    transformers = oracle("transformers")
    torch.manual_seed(seed)
    if kind == "Whisper":
        config = transformers.WhisperConfig(
            d_model=16,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=16,
            init_std=0.3,  # with the default, 0.02, the embeddings of position hide the audio
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=16,
        )
        model = transformers.WhisperModel(config)
        filters = transformers.WhisperFeatureExtractor(feature_size=80).mel_filters
        return whisper_features(model, filters)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**SMALL, **FRONT))
    return wav2vec2_features(model, layer=1)


def of_torchaudio(seed: int) -> SpeechModelFeatures:
    models = oracle("torchaudio").models
    torch.manual_seed(seed)
    model = models.wav2vec2_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(16, 10, 5), *[(16, 3, 2)] * 4, *[(16, 2, 2)] * 2],
        extractor_conv_bias=False,
        encoder_embed_dim=16,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=3,
        encoder_pos_conv_groups=4,
        encoder_num_layers=2,
        encoder_num_heads=2,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=16,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    )
    return wav2vec2_features(model, layer=1)


def errors_of_clicks(features: nn.Module, clicks: tuple[float, ...] = CLICKS) -> Tensor:
    """Return the difference between the centre of the changed frames and the instant of each click, in seconds."""
    errors = []
    # The noise keeps the statistics of normalisations, which see the whole clip, from following the click.
    silence = 0.1 * torch.randn(1, 640 * 80, generator=torch.Generator().manual_seed(1))
    for instant in clicks:
        click = silence.clone()
        first = round(16000 * instant)
        click[:, first - 8 : first + 8] += 0.5
        with torch.no_grad():
            change = (features(click) - features(silence))[0].square().sum(dim=1)
        frame = torch.arange(len(change))
        change = (change - change.median()).clamp(min=0)  # attention changes all frames a little
        change = torch.where((frame / 100 - instant).abs() < 0.06, change, 0.0)
        errors.append(float((change * frame).sum() / change.sum() / 100 - instant))
    return torch.tensor(errors)


@pytest.mark.parametrize("kind", ["Hubert", "Wav2Vec2", "WavLM", "Whisper", "torchaudio"])
@pytest.mark.filterwarnings("ignore")
def test_frames_are_at_the_instant_of_the_click(kind: str) -> None:
    found = []
    for seed in range(4):  # random kernels lean to one side; their mean does not
        features = of_torchaudio(seed) if kind == "torchaudio" else of_transformers(kind, seed)
        with torch.no_grad():
            assert features(torch.randn(1, 51200)).shape == (1, 320, 16)
        found.append(errors_of_clicks(features, CLICKS[seed::4] if kind == "Whisper" else CLICKS))
    errors = torch.cat(found)
    assert errors.mean().abs() < 0.005, errors  # half a model frame, the error without the clock, is 0.0125
    assert errors.abs().max() < 0.025, errors


@pytest.mark.parametrize("kind", ["Hubert", "Wav2Vec2", "WavLM", "Whisper", "torchaudio"])
@pytest.mark.filterwarnings("ignore")
def test_syncers_learn_from_the_features_and_move_a_face(kind: str) -> None:
    """Random networks keep enough of the audio for the offsets of the synthetic talker; the examples are those of the page."""
    oracle("lightning_fabric")
    features = of_torchaudio(0) if kind == "torchaudio" else of_transformers(kind, 0)
    result = run_examples(FEATURES, features)
    assert result.within_one >= 0.9, result
    assert result.after < result.before - 0.1, result


@pytest.mark.parametrize("network", ["HubertModel", "WAV2VEC2_BASE", "WhisperModel"])
@pytest.mark.filterwarnings("ignore")
def test_blocks_of_the_page_take_the_real_classes(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks load weights by name; here the same classes have random weights."""
    transformers, torchaudio = oracle("transformers"), oracle("torchaudio")
    loaded = {
        "HubertModel": transformers.HubertModel(transformers.HubertConfig(**{**SMALL, "num_hidden_layers": 9}, **FRONT)),
        "WhisperModel": of_transformers("Whisper", 0).encode.encoder,
        "WhisperFeatureExtractor": transformers.WhisperFeatureExtractor(feature_size=80),
    }
    for name, value in loaded.items():
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", lambda _, value=value: value)
    base = SimpleNamespace(get_model=lambda: of_torchaudio(0).encode.model)
    monkeypatch.setattr(torchaudio.pipelines, "WAV2VEC2_BASE", base)
    (block,) = [block for block in python_blocks(PAGES[FEATURES], "py") if network in block]
    namespace: dict[str, Any] = {}
    exec(compile(block, network, "exec"), namespace)  # noqa: S102 - running it is the test
    assert namespace["features"](torch.randn(1, 51200)).shape == (1, 320, 16)


@pytest.mark.filterwarnings("ignore")
def test_features_of_whisper_are_those_of_its_own_extractor() -> None:
    transformers = oracle("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    waveform = 0.1 * torch.randn(1, 48000, generator=torch.Generator().manual_seed(0))
    wanted = extractor(waveform[0].numpy(), sampling_rate=16000, return_tensors="pt").input_features

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv1d(80, 4, 1)

        def forward(self, mel: Tensor) -> Tensor:
            torch.testing.assert_close(mel, wanted, atol=2e-4, rtol=0)
            return torch.zeros(1, 1500, 4)

    assert whisper_features(Spy(), extractor.mel_filters)(waveform).shape == (1, 300, 4)
