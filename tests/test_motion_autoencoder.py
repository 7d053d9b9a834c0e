"""The motion autoencoder: windows, what it does not see, training, and the weights that ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avsync.audio.features import LogMel
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.synthetic.talker import SyntheticCorpus, synthetic_clip
from avsync.errors import ArgumentError, ClipTooShortError, ConfigError, ShapeError
from avsync.landmarks.geometry import displacement
from avsync.metrics.frechet import load_motion_autoencoder
from avsync.models.motion_autoencoder import FACE_PARTS, MotionAutoencoder, MotionAutoencoderConfig, quickness
from avsync.pretrained import save_pretrained
from avsync.training.autoencoder import AutoencoderTrainingConfig, autoencoder_loss, train_motion_autoencoder
from avsync.training.processes import make_fabric

SMALL = MotionAutoencoderConfig(window=16, hop=8, width=12, features=6)


@given(st.integers(16, 60), st.integers(1, 20))
def test_windows_are_crops_of_the_displacement(frames: int, hop: int) -> None:
    landmarks = torch.rand(2, frames, 68, 2, generator=torch.Generator().manual_seed(frames))
    windows = MotionAutoencoder(config=SMALL).windows(landmarks, hop=hop)
    motion = displacement(landmarks)
    starts = range(0, frames - 16 + 1, hop)
    assert torch.equal(windows, torch.stack([clip[start : start + 16] for clip in motion for start in starts]))


def test_place_size_and_unit_do_not_matter() -> None:
    model = load_motion_autoencoder()
    landmarks = torch.from_numpy(synthetic_clip(seconds=4.0).landmarks)[None]
    torch.testing.assert_close(model(landmarks), model(0.01 * landmarks + 70), atol=1e-2, rtol=1e-2)


def test_decoding_has_the_shape_of_what_was_encoded() -> None:
    model = MotionAutoencoder(config=SMALL).eval()
    made = model.decode(model.encode(torch.rand(3, 16, 68, 2)))
    assert made.motion.shape == (3, 16, 68, 2)
    assert made.quickness.shape == (3, 2 * len(FACE_PARTS))


def test_quickness_is_its_definition() -> None:
    motion = torch.rand(2, 9, 68, 2, generator=torch.Generator().manual_seed(0))
    velocity = np.diff(motion.numpy(), axis=1)
    for power, got in ((velocity, quickness(motion)[:, :5]), (np.diff(velocity, axis=1), quickness(motion)[:, 5:])):
        expected = [np.log(np.sqrt((power[:, :, region] ** 2).sum(-1).mean((1, 2)))) for region in FACE_PARTS]
        np.testing.assert_allclose(got.numpy(), np.stack(expected, axis=1), atol=1e-4)


def test_training_brings_back_more_and_resumes(tmp_path: Path) -> None:
    clips = SyntheticCorpus(split="train", speakers=3, clips_per_speaker=1, seconds=2.0)
    bank = ClipBank(clips, features=LogMel())
    config = AutoencoderTrainingConfig(steps=30, batch_size=4, frames=16, warm_up=3, learning_rate=1e-2)
    model = MotionAutoencoder(config=SMALL)
    fabric = make_fabric(accelerator="cpu")
    motion = model.windows(bank.windows(16, stride=24).landmarks)
    before = autoencoder_loss(model.eval(), motion, config)
    history = train_motion_autoencoder(model, bank, config, fabric=fabric, checkpoint=tmp_path / "state.ckpt", progress=False)
    assert not model.training
    after = autoencoder_loss(model, motion, config)
    assert after["loss"] < 0.7 * before["loss"]
    assert after["quickness"] < before["quickness"]
    assert set(history) == {"loss", "motion", "velocity", "quickness"}
    again = MotionAutoencoder(config=SMALL)
    resumed = train_motion_autoencoder(
        again, bank, config, fabric=fabric, checkpoint=tmp_path / "state.ckpt", resume=True, progress=False
    )
    assert resumed == history
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_weights_are_saved_and_read(tmp_path: Path) -> None:
    model = MotionAutoencoder(config=SMALL).eval()
    save_pretrained(model, tmp_path)
    landmarks = torch.rand(2, 20, 68, 2)
    assert torch.equal(MotionAutoencoder.from_pretrained(tmp_path)(landmarks), model(landmarks))


def test_the_shipped_weights_know_faces() -> None:
    """On talkers that they were not trained on, most of the motion comes back, and features have about unit size."""
    model = load_motion_autoencoder()
    assert (
        sum(path.stat().st_size for path in (Path(__file__).parents[1] / "avsync/weights/motion-autoencoder").iterdir()) < 2e6
    )
    faces = torch.stack([torch.from_numpy(synthetic_clip(speaker=n, seconds=4.0).landmarks) for n in range(6)])
    motion = model.windows(faces)
    with torch.no_grad():
        loss = autoencoder_loss(model, motion, AutoencoderTrainingConfig())
        spread = model.encode(motion).std(dim=0)
    assert loss["motion"] < 0.35
    assert loss["quickness"] < 0.5
    assert 0.1 < spread.median() < 3


def test_errors() -> None:
    model = MotionAutoencoder(config=SMALL)
    with pytest.raises(ClipTooShortError, match="at least 16 frames"):
        model(torch.rand(1, 15, 68, 2))
    with pytest.raises(ShapeError, match="dims=2"):
        model(torch.rand(1, 20, 68, 3))
    with pytest.raises(ShapeError, match="window=16"):
        model.encode(torch.rand(1, 20, 68, 2))
    with pytest.raises(ClipTooShortError):
        quickness(torch.rand(1, 2, 68, 2))
    for bad in ({"window": 20}, {"features": 0}, {"points": 20}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            MotionAutoencoderConfig(**bad)
    with pytest.raises(ConfigError, match="steps"):
        AutoencoderTrainingConfig(steps=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_landmarks_of_any_dtype(dtype: torch.dtype) -> None:
    model = MotionAutoencoder(MotionAutoencoderConfig(width=8)).eval()
    landmarks = torch.rand(2, 40, 68, 2, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    codes = model(landmarks)
    codes.sum().backward()
    assert codes.dtype == torch.float32 and landmarks.grad.dtype == dtype and landmarks.grad.isfinite().all()
    assert model.bfloat16()(landmarks).isfinite().all()
    with pytest.raises(ArgumentError, match="`config`: expected MotionAutoencoderConfig or None, got dict"):
        MotionAutoencoder({"width": 8})
