"""SyncNet: the published names and shapes, dense and windowed, weight files, and sound features against a NumPy derivation."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from avsync.errors import CheckpointError, ClipTooShortError, ShapeError
from avsync.evaluation.syncnet.audio import num_mfcc_frames, syncnet_mfcc
from avsync.evaluation.syncnet.network import SyncNet, SyncNetConfig
from avsync.pretrained import save_pretrained
from tests.reference import syncnet_audio as reference

# What the published file holds, as its loaders state it: layers and the shapes of their weights.
CONVOLUTIONS = {
    "netcnnaud.0": (64, 1, 3, 3),
    "netcnnaud.4": (192, 64, 3, 3),
    "netcnnaud.8": (384, 192, 3, 3),
    "netcnnaud.11": (256, 384, 3, 3),
    "netcnnaud.14": (256, 256, 3, 3),
    "netcnnaud.18": (512, 256, 5, 4),
    "netcnnlip.0": (96, 3, 5, 7, 7),
    "netcnnlip.4": (256, 96, 1, 5, 5),
    "netcnnlip.8": (256, 256, 1, 3, 3),
    "netcnnlip.11": (256, 256, 1, 3, 3),
    "netcnnlip.14": (256, 256, 1, 3, 3),
    "netcnnlip.18": (512, 256, 1, 6, 6),
    "netfcaud.0": (512, 512),
    "netfcaud.3": (1024, 512),
    "netfclip.0": (512, 512),
    "netfclip.3": (1024, 512),
}
KNOWN = [[16.0684, 24.9525, 15.7937, 8.5032], [16.0617, 23.7901, 14.4275, 7.2282]]
NORMALISED = [name for name in CONVOLUTIONS if not name.endswith(".3")]


def published_layout() -> dict[str, tuple[int, ...]]:
    layout: dict[str, tuple[int, ...]] = {}
    for name, shape in CONVOLUTIONS.items():
        layout |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in NORMALISED:
        room, _, number = name.partition(".")
        norm = f"{room}.{int(number) + 1}"
        layout |= {f"{norm}.{part}": CONVOLUTIONS[name][:1] for part in ("weight", "bias", "running_mean", "running_var")}
        layout[f"{norm}.num_batches_tracked"] = ()
    return layout


@pytest.fixture(scope="module")
def syncnet() -> SyncNet:
    torch.manual_seed(0)
    return SyncNet().eval()


def test_the_state_dictionary_is_the_published_one(syncnet: SyncNet) -> None:
    assert {name: tuple(value.shape) for name, value in syncnet.state_dict().items()} == published_layout()


def test_all_windows_at_once_are_each_by_itself(syncnet: SyncNet, rng: torch.Generator) -> None:
    video = 255 * torch.rand(1, 3, 7, 224, 224, generator=rng)
    features = torch.randn(2, 30, 13, generator=rng)
    with torch.inference_mode():
        lips, sounds = syncnet(video, torch.cat([features, features[:, :1]], dim=1))
        for i in range(3):
            torch.testing.assert_close(lips[:, i], syncnet.embed_video(video[:, :, i : i + 5])[:, 0], rtol=1e-4, atol=1e-5)
            window = features[:, 4 * i : 4 * i + 20]
            # The published stream takes (batch, 1, 13, 20): coefficients by time.
            mid = syncnet.netcnnaud(window.transpose(1, 2)[:, None]).flatten(1)
            torch.testing.assert_close(sounds[:, i], syncnet.netfcaud(mid), rtol=1e-4, atol=1e-5)
    assert lips.shape == (1, 3, 1024) and sounds.shape == (2, 3, 1024)


def test_shapes_are_checked(syncnet: SyncNet) -> None:
    with pytest.raises(ShapeError, match=r"`video`: expected \(batch, channels=3, frames, height=224, width=224\)"):
        syncnet.embed_video(torch.zeros(1, 3, 5, 112, 112))
    with pytest.raises(ShapeError, match="floating-point"):
        syncnet.embed_video(torch.zeros(1, 3, 5, 224, 224, dtype=torch.uint8))
    with pytest.raises(ClipTooShortError, match="`video`: expected at least 5 frames, got 4"):
        syncnet.embed_video(torch.zeros(1, 3, 4, 224, 224))
    with pytest.raises(ShapeError, match="coeffs=13"):
        syncnet.embed_audio(torch.zeros(1, 20, 26))
    with pytest.raises(ClipTooShortError, match="`features`: expected at least 20 audio frames, got 19"):
        syncnet.embed_audio(torch.zeros(1, 19, 13))


class TestFiles:
    def same(self, left: SyncNet, right: SyncNet) -> bool:
        return not right.training and all(
            torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True)
        )

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
    def test_a_published_file_loads(self, syncnet: SyncNet, tmp_path: Path, zipped: bool) -> None:
        path = tmp_path / "syncnet_v2.model"
        weights = OrderedDict((k, v) for k, v in syncnet.state_dict().items() if not k.endswith("num_batches_tracked"))
        torch.save(weights, path, _use_new_zipfile_serialization=zipped)
        assert self.same(syncnet, SyncNet.from_file(path))

    def test_other_forms(self, syncnet: SyncNet, tmp_path: Path) -> None:
        save_file(syncnet.state_dict(), tmp_path / "a.safetensors")
        assert self.same(syncnet, SyncNet.from_file(tmp_path / "a.safetensors"))
        save_pretrained(syncnet, tmp_path / "folder")
        assert self.same(syncnet, SyncNet.from_pretrained(tmp_path / "folder"))
        assert json.loads((tmp_path / "folder" / "config.json").read_text())["config"] == {"embed": 1024}
        assert SyncNet(config=SyncNetConfig(embed=8)).netfcaud[3].out_features == 8

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda weights: {}, r"\(netcnnaud.0.bias, netcnnaud.0.weight, ...\) missing and none unknown"),
            (lambda weights: {**weights, "extra": torch.zeros(1)}, r"none missing and 1 \(extra\) unknown"),
            (lambda weights: {k: v for k, v in weights.items() if k != "netfclip.3.bias"}, r"1 \(netfclip.3.bias\) missing"),
            (lambda weights: {**weights, "netfclip.3.bias": torch.zeros(7)}, r"netfclip.3.bias of \(1024,\), got \(7,\)"),
            (
                lambda weights: {**weights, "netfclip.3.bias": torch.full((1024,), torch.nan)},
                "NaN or infinity in netfclip.3.bias",
            ),
            (lambda weights: [1, 2], "expected a state dictionary of tensors, got list"),
            (lambda weights: {"state": weights}, "expected a state dictionary of tensors, got dict"),
            (lambda weights: {"path": Path("a")}, "holds other Python objects and cannot be read safely"),
        ],
    )
    def test_other_files_do_not(
        self, syncnet: SyncNet, tmp_path: Path, spoil: Callable[[dict[str, Any]], Any], message: str
    ) -> None:
        path = tmp_path / "wrong.model"
        torch.save(spoil(dict(syncnet.state_dict())), path)
        with pytest.raises(CheckpointError, match=message):
            SyncNet.from_file(path)

    def test_no_file_and_garbage(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="found none at"):
            SyncNet.from_file(tmp_path / "syncnet_v2.model")
        for name in ("a.model", "a.safetensors"):
            for content in (b"", b"not weights at all", b"PK\x03\x04" + bytes(50)):
                (tmp_path / name).write_bytes(content)
                with pytest.raises(CheckpointError, match="`path`: expected"):
                    SyncNet.from_file(tmp_path / name)


class TestFeatures:
    @given(st.integers(0, 2**31), st.integers(400, 1500), st.sampled_from([0, 1, 300, 32767]))
    def test_the_derivation_in_numpy(self, seed: int, samples: int, peak: int) -> None:
        values = np.random.default_rng(seed).integers(-peak, peak + 1, samples).astype(np.int16)
        found = syncnet_mfcc(torch.from_numpy(values / 32768)[None])[0]
        np.testing.assert_allclose(found.numpy(), reference.mfcc(values), atol=1e-9)
        assert found.shape[0] == num_mfcc_frames(samples)

    def test_known_values(self) -> None:
        """Of python_speech_features 0.6: ``mfcc(numpy.round(3000 * numpy.sin(0.1 * numpy.arange(560))).astype("int16"), 16000)``."""
        samples = np.round(3000 * np.sin(0.1 * np.arange(560))).astype(np.float32) / 32768
        found = syncnet_mfcc(torch.from_numpy(samples)[None])[0, :, :4]
        np.testing.assert_allclose(found.numpy(), KNOWN, atol=1e-4)

    def test_rounding_to_16_bits(self) -> None:
        quiet = torch.full((1, 800), 0.4 / 32768)
        assert (syncnet_mfcc(quiet)[..., 0] + 36.0437).abs().max() < 1e-3  # the logarithm of what stands for nothing
        assert (syncnet_mfcc(quiet, quantise=False)[..., 0] > -10).all()
        waveform = torch.rand(1, 800, requires_grad=True)
        syncnet_mfcc(waveform, quantise=False).sum().backward()
        assert waveform.grad is not None and waveform.grad.abs().min() >= 0 and waveform.grad.abs().max() > 0

    def test_bad_input(self) -> None:
        with pytest.raises(ClipTooShortError, match="at least 400 samples, got 399"):
            syncnet_mfcc(torch.zeros(1, 399))
        with pytest.raises(ShapeError, match=r"`waveform`: expected \(batch, samples\)"):
            syncnet_mfcc(torch.zeros(800))
        with pytest.raises(ShapeError, match="floating-point"):
            syncnet_mfcc(torch.zeros(1, 800, dtype=torch.int16))
