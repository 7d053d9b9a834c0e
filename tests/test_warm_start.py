"""Levels that are trained apart from others, levels that begin with a finer one's weights, and what batches are measured from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from avsync.audio.features import SpeechFeatures
from avsync.corpus.banks.augmentation import AugmentConfig, deform
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.errors import ArgumentError, ConfigError
from avsync.landmarks.head_frame import local_shape
from avsync.landmarks.layouts import REGIONS
from avsync.landmarks.motion_features import motion_channels
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.training import syncers as training_of_syncers
from avsync.training import warm_start
from avsync.training.processes import make_fabric
from avsync.training.syncers import (
    SyncerTrainingConfig,
    average_shape,
    draw_reference,
    embed_single_windows,
    lip_leak,
    train_syncers,
)
from avsync.training.warm_start import WarmStartConfig, train_finest_first

PYRAMID = SyncerPyramidConfig(
    syncer=SyncerConfig(width=8, embed=8, frame_blocks=1, motion_channels=4),
    num_levels=3,
    motion=("displacement", "shape"),
    audio="log-mel",
)
TRAINING = SyncerTrainingConfig(
    steps=4,
    batch_size=4,
    frames=48,
    fine_frames=24,
    warm_up=1,
    offset_weight=1.0,
    short_share=0.4,
    window_share=0.5,
    ema_decay=0.9,
)


@pytest.fixture(scope="module")
def bank() -> ClipBank:
    corpus = SyntheticCorpus(split="train", speakers=4, clips_per_speaker=1, seconds=4.0)
    return ClipBank(corpus, features=SpeechFeatures().features)


@pytest.fixture(scope="module")
def fabric() -> object:
    return make_fabric(accelerator="cpu")


def weights(pyramid: SyncerPyramid, level: int) -> torch.Tensor:
    return torch.cat([value.flatten() for value in pyramid.syncers[level].parameters()]).detach().clone()


def test_levels_that_are_not_asked_for_stay_as_they_are(bank: ClipBank, fabric: object) -> None:
    pyramid = SyncerPyramid(config=PYRAMID)
    before = [weights(pyramid, level) for level in range(3)]
    history = train_syncers(pyramid, bank, TRAINING, fabric=fabric, levels=[1], progress=False)
    assert [torch.equal(weights(pyramid, level), before[level]) for level in range(3)] == [True, False, True]
    assert {"loss1", "grad1", "gap1"} <= set(history)
    assert not {"loss0", "gap0", "gap2"} & set(history)


@pytest.mark.parametrize("levels", [[], [3], [-1]])
def test_levels_that_are_not_there_are_refused(bank: ClipBank, fabric: object, levels: list[int]) -> None:
    with pytest.raises(ArgumentError, match="`levels`: expected some of 0 to 2"):
        train_syncers(SyncerPyramid(config=PYRAMID), bank, TRAINING, fabric=fabric, levels=levels, progress=False)


def test_a_coarse_level_begins_with_the_finer_ones_weights(bank: ClipBank, fabric: object) -> None:
    pyramid = SyncerPyramid(config=PYRAMID)
    frozen = WarmStartConfig(first_level=1, steps=1, learning_rate=0.0)
    histories = train_finest_first(pyramid, bank, TRAINING, frozen, fabric=fabric, progress=False)
    assert list(histories) == ["fine", "level1-run0", "level2-run0"]
    torch.testing.assert_close(weights(pyramid, 1), weights(pyramid, 0))
    torch.testing.assert_close(weights(pyramid, 2), weights(pyramid, 0))


@pytest.mark.parametrize("own", [{"audio_context": (2, 0, 0)}, {"width": (12, 8, 8)}])
def test_levels_built_otherwise_cannot_begin_with_each_others_weights(
    bank: ClipBank, fabric: object, own: dict[str, tuple[int, ...]]
) -> None:
    pyramid = SyncerPyramid(config=dataclasses.replace(PYRAMID, **own))
    with pytest.raises(ConfigError, match="`audio_context` and `width`: expected one number each from level 0 on"):
        train_finest_first(pyramid, bank, TRAINING, WarmStartConfig(first_level=1, steps=1), fabric=fabric, progress=False)
    train_finest_first(pyramid, bank, TRAINING, WarmStartConfig(first_level=2, steps=1), fabric=fabric, progress=False)


def test_single_windows_are_clips_of_their_own(bank: ClipBank) -> None:
    config = dataclasses.replace(
        PYRAMID, motion=("displacement", "shape", "velocity"), syncer=SyncerConfig(width=8, embed=8, motion_channels=6)
    )
    pyramid = SyncerPyramid(config=config).eval()
    batch = bank.windows(20, stride=20).select(slice(0, 2))
    motion, audio, _ = embed_single_windows(pyramid, batch, 16)
    assert audio.shape == motion.shape == (2, 12, 8)
    torch.testing.assert_close(audio, pyramid.embed_audio(batch.audio[:, :64], levels=[0])[0])
    for t in range(12):
        alone = pyramid.embed_motion(batch.landmarks[:, t : t + 5], reference="mean", levels=[0])[0]
        torch.testing.assert_close(motion[:, t : t + 1], alone, atol=1e-5, rtol=1e-5)
    whole = pyramid.embed_motion(batch.landmarks[:, :16], reference="mean", levels=[0])[0]
    assert not torch.allclose(motion, whole, atol=1e-2)


@pytest.mark.parametrize(("share", "levels", "expected"), [(1.0, [0, 1], 2), (0.0, [0, 1], 0), (1.0, [1], 0)])
def test_single_windows_are_shown_in_their_share(
    bank: ClipBank, fabric: object, monkeypatch: pytest.MonkeyPatch, share: float, levels: list[int], expected: int
) -> None:
    shown = []
    original = training_of_syncers.embed_single_windows
    monkeypatch.setattr(training_of_syncers, "embed_single_windows", lambda *values: (shown.append(1), original(*values))[1])
    settings = dataclasses.replace(TRAINING, steps=2, window_share=share)
    train_syncers(SyncerPyramid(config=PYRAMID), bank, settings, fabric=fabric, levels=levels, progress=False)
    assert len(shown) == expected


def test_the_mean_of_several_runs_is_kept(bank: ClipBank, fabric: object, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[list[int], int, torch.Tensor]] = []

    def noting(
        pyramid: SyncerPyramid, _: ClipBank, settings: SyncerTrainingConfig, *, levels: list[int], **options: Any
    ) -> Any:
        history = train_syncers(pyramid, _, settings, levels=levels, **options)
        found.append((levels, settings.seed, weights(pyramid, levels[-1])))
        return history

    monkeypatch.setattr(warm_start, "train_syncers", noting)
    pyramid = SyncerPyramid(config=dataclasses.replace(PYRAMID, num_levels=2))
    settings = WarmStartConfig(first_level=1, steps=2, runs=3)
    train_finest_first(pyramid, bank, TRAINING, settings, fabric=fabric, progress=False)
    assert [levels for levels, _, _ in found] == [[0], [1], [1], [1]]
    assert len({seed for _, seed, _ in found}) == 4
    runs = torch.stack([value for _, _, value in found[1:]])
    assert (runs - runs[0]).abs().max() > 0
    torch.testing.assert_close(weights(pyramid, 1), runs.mean(0))


def test_stages_that_were_interrupted_end_alike(bank: ClipBank, fabric: object, tmp_path: Path) -> None:
    settings = WarmStartConfig(first_level=2, steps=3)

    def run(folder: Path, resume: bool) -> SyncerPyramid:
        torch.manual_seed(0)
        pyramid = SyncerPyramid(config=PYRAMID)
        train_finest_first(
            pyramid,
            bank,
            TRAINING,
            settings,
            fabric=fabric,
            checkpoint=folder,
            resume=resume,
            checkpoint_every=2,
            progress=False,
        )
        return pyramid

    whole = run(tmp_path / "whole", resume=False)
    # An earlier run that stopped inside the second stage: its first stage is complete, its second has one checkpoint.
    torch.manual_seed(0)
    stopped = SyncerPyramid(config=PYRAMID)

    def stop(now: int) -> dict[str, float]:
        if now == 3 and not torch.equal(weights(stopped, 2), start):
            raise KeyboardInterrupt
        return {}

    start = weights(stopped, 2)
    with pytest.raises(KeyboardInterrupt):
        train_finest_first(
            stopped,
            bank,
            TRAINING,
            settings,
            fabric=fabric,
            checkpoint=tmp_path / "cut",
            checkpoint_every=2,
            evaluate=stop,
            evaluate_every=1,
            progress=False,
        )
    resumed = run(tmp_path / "cut", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_references_come_in_their_shares() -> None:
    landmarks = torch.rand(2, 40, 68, 2)
    generator = torch.Generator().manual_seed(0)
    config = SyncerTrainingConfig(first_share=0.3, short_share=0.3)
    drawn = [draw_reference(landmarks, config, generator) for _ in range(300)]
    faces = [face for face in drawn if isinstance(face, torch.Tensor)]
    assert 60 < len(faces) < 120
    assert 60 < sum(isinstance(face, str) and face == "first" for face in drawn) < 120
    assert all(face.shape == (2, 68, 2) for face in faces)
    # A mean of at least five frames lies well inside the cloud of single ones.
    assert all(bool((face - 0.5).abs().max() < 0.5) for face in faces)


def test_average_shape_counts_every_speaker_once(bank: ClipBank) -> None:
    shape = average_shape(bank)
    by_speaker = [
        local_shape(bank.landmarks[begin : begin + length : 25][:, None])[:, 0].mean(0)
        for begin, length in zip(bank.offsets.tolist(), bank.lengths.tolist(), strict=True)
    ]
    torch.testing.assert_close(shape, torch.stack(by_speaker).mean(0), atol=1e-5, rtol=1e-5)


def test_training_sets_the_average_shape(bank: ClipBank, fabric: object) -> None:
    pyramid = SyncerPyramid(config=PYRAMID)
    train_syncers(pyramid, bank, dataclasses.replace(TRAINING, steps=1), fabric=fabric, progress=False)
    assert pyramid.average_shape is not None
    torch.testing.assert_close(pyramid.average_shape, average_shape(bank))


def test_deformed_faces_are_other_faces_with_the_same_motion_in_time() -> None:
    face = torch.rand(3, 1, 68, 2, generator=torch.Generator().manual_seed(0)).expand(3, 30, 68, 2)
    still = deform(face, AugmentConfig(shear=0.1, identity=0.02), torch.Generator().manual_seed(1))
    assert (still - face).abs().mean() > 0.01
    torch.testing.assert_close(still, still[:, :1].expand_as(still))
    swaying = deform(face, AugmentConfig(sway=0.1), torch.Generator().manual_seed(1))
    step = swaying.diff(dim=1).abs()
    assert 0 < float(step.max()) < 0.1  # slow
    jittered = deform(face, AugmentConfig(jitter=0.01), torch.Generator().manual_seed(1))
    assert 0.005 < float((jittered - face).std()) < 0.02


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="`first_share`"):
        SyncerTrainingConfig(first_share=0.7, short_share=0.4)
    with pytest.raises(ConfigError, match="`window_share`"):
        SyncerTrainingConfig(window_share=1.5)
    with pytest.raises(ConfigError, match="`spans`"):
        SyncerTrainingConfig(spans=())
    with pytest.raises(ConfigError, match="`ema_decay`"):
        SyncerTrainingConfig(ema_decay=1.0)
    with pytest.raises(ConfigError, match="`first_level`"):
        WarmStartConfig(first_level=0)
    with pytest.raises(ConfigError, match="`sway`"):
        AugmentConfig(sway=-1.0)


def test_training_fits_the_leak_of_the_lips(bank: ClipBank, fabric: object) -> None:
    motion = ("displacement", "velocity", "speed")
    syncer = SyncerConfig(width=8, embed=4, points=len(REGIONS["head"]), motion_channels=motion_channels(motion, 2))
    pyramid = SyncerPyramid(SyncerPyramidConfig(syncer=syncer, num_levels=1, motion=motion, region="head", remove_lips=True))
    train_syncers(pyramid, bank, SyncerTrainingConfig(steps=1, batch_size=2, frames=20), fabric=fabric, progress=False)
    torch.testing.assert_close(pyramid.lip_leak, lip_leak(bank))
    assert float(pyramid.lip_leak.abs().max()) > 0
