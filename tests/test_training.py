"""Training of syncers and of the generator, at sizes that take seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from avsync.audio import LogMel
from avsync.corpus.augment import AugmentConfig
from avsync.corpus.dataset import ClipBank
from avsync.corpus.synthetic import SyntheticCorpus
from avsync.discriminators import (
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    PairDiscriminator,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
)
from avsync.encoders import SyncerConfig
from avsync.errors import ConfigError
from avsync.generator import GeneratorConfig, MultiScaleGenerator
from avsync.sync_loss import MultiScaleSyncLoss
from avsync.syncer import SyncerPyramid, SyncerPyramidConfig
from avsync.training.engine import make_fabric
from avsync.training.gan import Discriminators, GanTrainingConfig, train_generator
from avsync.training.syncers import SyncerTrainingConfig, evaluate_syncers, train_syncers

PYRAMID = SyncerPyramidConfig(syncer=SyncerConfig(width=32, embed=32, frame_blocks=1, window_blocks=0), num_levels=2)
SYNCERS = SyncerTrainingConfig(steps=6, batch_size=4, frames=48, warm_up=1)
GAN = GanTrainingConfig(steps=4, batch_size=4, frames=20, generator_lr=1e-3, discriminator_lr=1e-3, reconstruction_weight=0.01)


@pytest.fixture(scope="module")
def bank() -> ClipBank:
    corpus = SyntheticCorpus(split="train", speakers=6, clips_per_speaker=2, seconds=8.0)
    return ClipBank(corpus, features=LogMel())


@pytest.fixture(scope="module")
def fabric() -> object:
    return make_fabric(accelerator="cpu")


def make_judges() -> Discriminators:
    windows = WindowDiscriminatorConfig(embed=8, hidden=8, windows=(5, 10))
    frame = FrameDiscriminator(FrameDiscriminatorConfig(embed=8, depth=1))
    return Discriminators(frame=frame, window=WindowDiscriminator(windows), pair=PairDiscriminator(windows))


def make_generator() -> MultiScaleGenerator:
    return MultiScaleGenerator(GeneratorConfig(hidden=8, position_embed=8, audio_channels=8, branch_width=8))


@pytest.mark.parametrize("objective", ["all_pairs", "info_nce", "margin"])
def test_every_objective_takes_a_step_and_reports_chance(bank: ClipBank, fabric: object, objective: str) -> None:
    pyramid = SyncerPyramid(config=PYRAMID)
    before = [parameter.clone() for parameter in pyramid.parameters()]
    config = dataclasses.replace(SYNCERS, objective=objective, steps=2)
    history = train_syncers(pyramid, bank, config, fabric=fabric, augment=AugmentConfig(), progress=False)
    assert all(not torch.equal(a, b) for a, b in zip(before, pyramid.parameters(), strict=True))
    assert set(history) == {"loss", "chance", "loss0", "loss1", "grad0", "grad1"}
    assert all(value > 0 for points in history.values() for _, value in points)
    assert not pyramid.training


def test_syncers_learn_the_synthetic_talker(bank: ClipBank, fabric: object) -> None:
    """A minute's worth of material and seconds of training lift the offsets of unseen speakers far above chance."""
    val = ClipBank(SyntheticCorpus(split="val", speakers=3, clips_per_speaker=2, seconds=10.0), features=LogMel())
    crops = val.windows(80, stride=20, margin=40)
    pyramid = SyncerPyramid(config=PYRAMID)
    untrained = evaluate_syncers(pyramid, crops, margin=40)
    config = dataclasses.replace(SYNCERS, steps=60, batch_size=8, frames=80, learning_rate=3e-3)
    train_syncers(pyramid, bank, config, fabric=fabric, progress=False)
    trained = evaluate_syncers(pyramid, crops, margin=40)
    assert trained[0].within_one > max(0.6, untrained[0].within_one + 0.2)
    assert trained[0].confidence > untrained[0].confidence


def test_interrupted_syncers_end_with_the_same_weights(bank: ClipBank, fabric: object, tmp_path: Path) -> None:
    def trained(folder: Path, *, until: int, resume: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(7)
        pyramid = SyncerPyramid(config=PYRAMID)

        def stop(step: int) -> dict[str, float]:
            if step == until < SYNCERS.steps:
                raise KeyboardInterrupt
            return {}

        options = {"checkpoint": folder / "syncers.pt", "checkpoint_every": 2, "evaluate": stop, "evaluate_every": 1}
        try:
            train_syncers(
                pyramid, bank, SYNCERS, fabric=fabric, augment=AugmentConfig(), resume=resume, progress=False, **options
            )
        except KeyboardInterrupt:
            return {}
        return pyramid.state_dict()

    whole = trained(tmp_path / "whole", until=SYNCERS.steps, resume=False)
    trained(tmp_path / "parts", until=3, resume=False)
    resumed = trained(tmp_path / "parts", until=SYNCERS.steps, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_generator_training_moves_generator_and_judges_but_not_syncers(bank: ClipBank, fabric: object) -> None:
    syncers = SyncerPyramid(config=PYRAMID)
    generator, judges = make_generator(), make_judges()
    generator.set_audio_statistics(*bank.audio_statistics())
    frozen = [parameter.clone() for parameter in syncers.parameters()]
    moving = [[parameter.clone() for parameter in module.parameters()] for module in (generator, judges.frame, judges.window)]
    history = train_generator(
        generator, judges, bank, GAN, sync_loss=MultiScaleSyncLoss(syncers=syncers), fabric=fabric, progress=False
    )
    assert all(torch.equal(a, b) for a, b in zip(frozen, syncers.parameters(), strict=True))
    for before, module in zip(moving, (generator, judges.frame, judges.window), strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert {"frame", "window", "pair", "sync", "reconstruction", "generator", "discriminator", "grad"} == set(history)


def test_interrupted_generator_ends_with_the_same_weights(bank: ClipBank, fabric: object, tmp_path: Path) -> None:
    def trained(folder: Path, *, until: int, resume: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        generator, judges = make_generator(), make_judges()

        def stop(step: int) -> dict[str, float]:
            if step == until < GAN.steps:
                raise KeyboardInterrupt
            return {}

        try:
            train_generator(
                generator,
                judges,
                bank,
                GAN,
                sync_loss=None,
                fabric=fabric,
                checkpoint=folder / "generator.pt",
                checkpoint_every=1,
                resume=resume,
                evaluate=stop,
                evaluate_every=1,
                progress=False,
            )
        except KeyboardInterrupt:
            return {}
        return generator.state_dict()

    whole = trained(tmp_path / "whole", until=GAN.steps, resume=False)
    trained(tmp_path / "parts", until=3, resume=False)
    resumed = trained(tmp_path / "parts", until=GAN.steps, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_configs_refuse_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="even number"):
        GanTrainingConfig(batch_size=5)
    with pytest.raises(ConfigError, match="schedule"):
        GanTrainingConfig(schedule="linear")
    with pytest.raises(ConfigError, match="objective"):
        SyncerTrainingConfig(objective="triplet")
    with pytest.raises(ConfigError, match="steps"):
        SyncerTrainingConfig(steps=0)
