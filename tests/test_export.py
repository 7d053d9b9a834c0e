"""ONNX programs against torch, by onnxruntime, at three lengths and other batches than that of the export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from avsync.cli import main
from avsync.errors import ArgumentError
from avsync.models import (
    GeneratorConfig,
    MultiScaleGenerator,
    Rollout,
    SyncerPyramid,
    mirror_audio,
)
from avsync.models.export import export_onnx
from avsync.pretrained import from_pretrained, save_pretrained

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

LENGTHS = (33, 80, 131)
SIZES: dict[str, Any] = {"hidden": 8, "position_embed": 8, "audio_channels": 8, "branch_width": 8, "num_branches": 2}


def run(path: Path, **inputs: Tensor | npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: x.numpy() if isinstance(x, Tensor) else x for name, x in inputs.items()})


@pytest.fixture(scope="module")
def pyramid() -> SyncerPyramid:
    """A pyramid with the options of the pretrained one; the time of an export grows with the levels and blocks alone."""
    torch.manual_seed(0)
    config = SyncerPyramid.from_pretrained("landmarks68-25fps").config
    sizes = replace(config.syncer, width=8, embed=4, frame_blocks=1, window_blocks=1)
    pyramid = SyncerPyramid(replace(config, syncer=sizes, num_levels=2, width=(8, 6), audio_context=(4, 0))).eval()
    assert config.mean_normalisation and config.audio == "log-mel"
    pyramid.set_audio_statistics(torch.zeros(26), torch.full((26,), 10.0))  # as a trained one has: features of about 1
    return pyramid


@pytest.fixture(scope="module")
def exported(pyramid: SyncerPyramid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the command writes, from a model in a folder."""
    folder = tmp_path_factory.mktemp("export")
    save_pretrained(pyramid, folder / "model")
    assert main(["export", str(folder / "model"), "--out", str(folder / "onnx")]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("frames", LENGTHS)
def test_syncers(pyramid: SyncerPyramid, exported: Path, frames: int) -> None:
    generator = torch.Generator().manual_seed(frames)
    batch = 1 + frames % 3
    landmarks = 100 * torch.rand(batch, frames, 68, 2, generator=generator)
    waveform = torch.randn(batch, 640 * frames, generator=generator)
    features = pyramid.speech_features()
    assert features is not None
    with torch.no_grad():
        audio = features(waveform)
        expected = {"motion": pyramid.embed_motion(landmarks), "audio": pyramid.embed_audio(audio)}
    found = {
        "motion": run(exported / "onnx/motion.onnx", landmarks=landmarks),
        "audio": run(exported / "onnx/audio.onnx", audio=audio),
    }
    for name, levels in expected.items():
        assert len(found[name]) == 2
        for level, ours in zip(levels, found[name], strict=True):
            np.testing.assert_allclose(ours, level.numpy(), rtol=1e-5, atol=1e-5)
    # Decibels of weak bands magnify the rounding of the two Fourier transforms.
    np.testing.assert_allclose(run(exported / "onnx/features.onnx", waveform=waveform)[0], audio.numpy(), rtol=0, atol=5e-3)


def test_the_command_keeps_to_its_files(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((exported / "onnx" / "export.json").read_text())
    assert manifest["class"] == "SyncerPyramid" and manifest["config"]["num_levels"] == 2
    assert manifest["programs"]["audio"] == {"inputs": ["audio"], "outputs": ["audio_0", "audio_1"]}
    assert {path.name for path in (exported / "onnx").iterdir()} == {
        "motion.onnx",
        "audio.onnx",
        "features.onnx",
        "export.json",
    }
    assert main(["export", str(exported / "model"), "--out", str(exported / "onnx")]) == 1
    assert (
        "`--out`" in capsys.readouterr().err
        and main(["export", "landmarks68-25fps", "--out", str(exported / "a"), "--warm-up", "0"]) == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("channels", [0, 3])
def test_generator(tmp_path: Path, channels: int) -> None:
    torch.manual_seed(0)
    released = from_pretrained("generator-landmarks68-25fps").config
    assert isinstance(released, GeneratorConfig) and released.motion_components and released.noise
    model = MultiScaleGenerator(replace(released, **SIZES, motion_components=4, noise=channels, style=channels // 2))
    model.set_motion_basis(0.02 * torch.randn(4, 68, 2), torch.full((4,), 3.0))
    export_onnx(model, tmp_path)
    assert model.training
    model.eval()
    names = json.loads((tmp_path / "export.json").read_text())["programs"]["start"]["outputs"]
    for frames in LENGTHS:
        face, state = 100 * torch.rand(3, 68, 2), torch.randn(2, 3, 8)
        audio, noise = torch.randn(3, 4 * frames, 26), model.draw_noise(3, frames)
        observed = face[:, None].expand(-1, 3, -1, -1)
        with torch.no_grad():
            expected = model(observed, mirror_audio(audio, 3), initial_state=state, noise=noise).landmarks
        (terms,) = run(tmp_path / "audio.onnx", audio=audio, **({"noise": noise} if channels else {}))
        values = run(tmp_path / "start.onnx", face=face, initial_state=state)
        step = onnxruntime.InferenceSession(str(tmp_path / "step.onnx"), providers=["CPUExecutionProvider"])
        found = []
        for term in terms:
            landmarks, *values = step.run(None, {"face": face.numpy(), "term": term, **dict(zip(names, values, strict=True))})
            found.append(landmarks)
        assert len(found) == frames
        # Faces are about 100 pixels high.
        np.testing.assert_allclose(np.stack(found, 1) / 100, expected.numpy() / 100, rtol=0, atol=1e-5)


@pytest.mark.parametrize("components", [0, 4])
def test_a_rollout_continues_from_its_state(components: int) -> None:
    torch.manual_seed(0)
    model = MultiScaleGenerator(GeneratorConfig(**SIZES, motion_components=components)).eval()
    observed, terms = torch.rand(2, 3, 68, 2), torch.randn(6, 2, 2, 8)
    with torch.no_grad():
        whole = model.start(observed, initial_state=torch.zeros(2, 2, 8))
        expected = [whole.faces(whole.step(term).displacement[:, None]) for term in terms]
        first = model.start(observed, initial_state=torch.zeros(2, 2, 8))
        for term in terms[:3]:
            first.step(term)
        assert (first.state.place is None) == (components == 0)
        second: Rollout = model.start(observed[:, :1])
        second.restore(first.state)
        found = [second.faces(second.step(term).displacement[:, None]) for term in terms[3:]]
    torch.testing.assert_close(found, expected[3:], rtol=0, atol=0)


def test_other_modules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="`model`: expected a syncer or a MultiScaleGenerator, got Linear"):
        export_onnx(nn.Linear(1, 1), tmp_path)
    with pytest.raises(ArgumentError, match="`warm_up`"):
        export_onnx(nn.Linear(1, 1), tmp_path, warm_up=0)
