"""Training of syncers and of the generator, at sizes that take seconds."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from avsync.audio.features import LogMel
from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.bank import Batch, ClipBank
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.errors import CheckpointError, ConfigError
from avsync.landmarks.principal_motions import principal_motions
from avsync.losses.sync import MultiScaleSyncLoss
from avsync.models.discriminators import (
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    PairDiscriminator,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
)
from avsync.models.generator.model import GeneratorConfig, GeneratorOutput, MultiScaleGenerator
from avsync.models.syncer.pyramid import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.training.ema import weight_average
from avsync.training.gan import Discriminators, GanTrainingConfig, generator_losses, train_generator
from avsync.training.objectives import SyncerTrainingConfig
from avsync.training.processes import make_fabric
from avsync.training.store import CheckpointStore
from avsync.training.syncer_evaluation import evaluate_syncers
from avsync.training.syncers import train_syncers

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


@pytest.mark.parametrize("objective", ["all_pairs", "info_nce", "contrastive"])
def test_every_objective_takes_a_step_and_reports_chance(bank: ClipBank, fabric: object, objective: str) -> None:
    pyramid = SyncerPyramid(config=PYRAMID)
    before = [parameter.clone() for parameter in pyramid.parameters()]
    config = dataclasses.replace(SYNCERS, objective=objective, steps=2)
    history = train_syncers(pyramid, bank, config, fabric=fabric, augment=AugmentConfig(), progress=False)
    assert all(not torch.equal(a, b) for a, b in zip(before, pyramid.parameters(), strict=True))
    signs = {"gap", "in_sync", "off_sync", "spread"} | (set() if objective == "contrastive" else {"temperature"})
    kinds = {"loss", "grad"} | signs
    assert set(history) == {"loss", "chance"} | {f"{kind}{level}" for kind in kinds for level in range(2)}
    assert all(value > 0 for key, points in history.items() for _, value in points if key[:-1] in {"loss", "grad", "spread"})
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

        options = {"checkpoint": folder / "syncers", "checkpoint_every": 2, "evaluate": stop, "evaluate_every": 1}
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


def test_another_rate_or_seed_is_no_resume(bank: ClipBank, fabric: object, tmp_path: Path) -> None:
    short = dataclasses.replace(SYNCERS, steps=2)
    train_syncers(SyncerPyramid(PYRAMID), bank, short, fabric=fabric, checkpoint=tmp_path, progress=False)
    options = {"fabric": fabric, "checkpoint": tmp_path, "resume": True, "progress": False}
    for config, augment, named in (
        (
            dataclasses.replace(short, learning_rate=0.5, seed=9),
            None,
            r"`config\.learning_rate` was .* and is 0\.5, .*`config\.seed`",
        ),
        (dataclasses.replace(short, steps=3), None, r"`config\.schedule_steps` was 2 and is 3"),
        (short, AugmentConfig(), r"`augment`"),
    ):
        with pytest.raises(CheckpointError, match=named):
            train_syncers(SyncerPyramid(PYRAMID), bank, config, augment=augment, **options)
    with pytest.raises(CheckpointError, match=r"`levels` was \[0, 1\] and is \[0\]"):
        train_syncers(SyncerPyramid(PYRAMID), bank, short, levels=[0], **options)
    config = dataclasses.replace(GAN, steps=1)
    train_generator(make_generator(), make_judges(), bank, config, sync_loss=None, **{**options, "checkpoint": tmp_path / "g"})
    other = dataclasses.replace(config, generator_lr=0.1)
    with pytest.raises(CheckpointError, match=r"`config\.generator_lr` was"):
        train_generator(
            make_generator(), make_judges(), bank, other, sync_loss=None, **{**options, "checkpoint": tmp_path / "g"}
        )


def test_a_training_that_ends_early_is_the_beginning_of_a_longer_one(bank: ClipBank, fabric: object) -> None:
    whole: dict[int, Any] = {}
    early: dict[int, Any] = {}
    for config, found in ((SYNCERS, whole), (dataclasses.replace(SYNCERS, steps=3, schedule_steps=6), early)):
        torch.manual_seed(0)
        pyramid = SyncerPyramid(config=PYRAMID)

        def keep(step: int, found: dict[int, Any] = found, pyramid: SyncerPyramid = pyramid) -> dict[str, float]:
            found[step] = {name: value.clone() for name, value in pyramid.state_dict().items()}
            return {}

        train_syncers(pyramid, bank, config, fabric=fabric, evaluate=keep, evaluate_every=3, progress=False)
    assert list(whole) == [3, 6] and list(early) == [3]
    assert all(torch.equal(value, early[3][name]) for name, value in whole[3].items())


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


@pytest.mark.parametrize("target", ["capped", "motion"])
def test_all_losses_of_the_generator_together(bank: ClipBank, fabric: object, target: str) -> None:
    config = dataclasses.replace(
        GAN,
        sync_target=target,
        variety_weight=1.0,
        liveliness_weight=1.0,
        opening_weight=1.0,
        observed_weight=1e-3,
        steps=2,
    )
    sizes = {"hidden": 8, "position_embed": 8, "audio_channels": 8, "branch_width": 8}
    generator = MultiScaleGenerator(GeneratorConfig(noise=4, motion_components=6, motion_leak=0.05, **sizes))
    generator.set_motion_basis(*principal_motions(bank.windows(20, stride=40).landmarks, 6))
    before = {name: parameter.clone() for name, parameter in generator.named_parameters()}
    loss = MultiScaleSyncLoss(syncers=SyncerPyramid(config=PYRAMID))
    history = train_generator(generator, make_judges(), bank, config, sync_loss=loss, fabric=fabric, progress=False)
    assert {"sync", "reconstruction", "observed", "variety", "liveliness", "opening"} < set(history)
    assert all(value > 0 for key in ("reconstruction", "observed") for _, value in history[key])
    unchanged = [name for name, parameter in generator.named_parameters() if torch.equal(parameter, before[name])]
    assert unchanged == ["leak"] or not unchanged, "at the rest position the leak has no gradient yet"


def test_the_capped_sync_loss_stops_at_the_agreement_of_real_motion(bank: ClipBank) -> None:
    batch = bank.sample(4, 23, generator=torch.Generator().manual_seed(0))
    observed, real = batch.landmarks[:, :3], batch.landmarks
    loss, judges = MultiScaleSyncLoss(syncers=SyncerPyramid(config=PYRAMID)), make_judges()

    def sync(made: Tensor, target: str, share: float = 1.0) -> Tensor:
        config = dataclasses.replace(GAN, sync_target=target, sync_share=share, reconstruction_weight=0.0)
        output = GeneratorOutput(made, made, None)
        return generator_losses(judges, loss, observed, output, real, batch.audio, config)["sync"]

    agreement = loss(real, batch.audio, reference=observed[:, 0]).per_level
    other = real[:, 3:].flip(1).clone().requires_grad_()
    reached = loss(torch.cat([observed, other], dim=1), batch.audio, reference=observed[:, 0]).per_level
    expected = torch.maximum(reached, agreement).mean()
    torch.testing.assert_close(sync(other, "capped"), expected)
    torch.testing.assert_close(sync(other, "capped", 0.5), torch.maximum(reached, 0.5 * agreement).mean())
    torch.testing.assert_close(sync(other, "audio"), reached.mean())
    torch.testing.assert_close(sync(real[:, 3:], "motion"), torch.tensor(-1.0))
    # The part of the levels at which the motion agrees better than the real motion has no gradient.
    (gradient,) = torch.autograd.grad(sync(other, "capped"), other)
    (wanted,) = torch.autograd.grad(torch.where(reached > agreement, reached, agreement.detach()).mean(), other)
    torch.testing.assert_close(gradient, wanted)


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
                checkpoint=folder / "generator",
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
    with pytest.raises(ConfigError, match="multiple of 4"):
        GanTrainingConfig(batch_size=6, variety_weight=1.0)
    with pytest.raises(ConfigError, match="sync_share"):
        GanTrainingConfig(sync_share=1.5)
    with pytest.raises(ConfigError, match="sync_share"):
        GanTrainingConfig(sync_share=0.5, sync_target="audio")
    with pytest.raises(ConfigError, match="sync_target"):
        GanTrainingConfig(sync_target="truth")
    with pytest.raises(ConfigError, match="schedule"):
        GanTrainingConfig(schedule="linear")
    with pytest.raises(ConfigError, match="objective"):
        SyncerTrainingConfig(objective="triplet")
    with pytest.raises(ConfigError, match="steps"):
        SyncerTrainingConfig(steps=0)
    with pytest.raises(ConfigError, match="`schedule_steps`: expected at least the 5"):
        SyncerTrainingConfig(steps=5, schedule_steps=4)
    with pytest.raises(ConfigError, match="accumulate"):
        SyncerTrainingConfig(accumulate=0)
    with pytest.raises(ConfigError, match="ema_decay"):
        GanTrainingConfig(ema_decay=1.0)


class Slices:
    """A bank that deals a given batch out in turn, so that one large batch and several small ones hold the same clips."""

    def __init__(self, bank: ClipBank, whole: Batch) -> None:
        self.bank, self.whole, self.dealt, self.features = bank, whole, 0, bank.features

    def __getattr__(self, name: str) -> object:
        return getattr(self.bank, name)

    def sample(self, batch_size: int, frames: int, **options: object) -> Batch:
        first = self.dealt % len(self.whole)
        self.dealt += batch_size
        return self.whole.select(slice(first, first + batch_size))


def fixed_negatives(num_clips: int, num_windows: int, num_negatives: int, **options: object) -> Tensor:
    """Negatives that do not depend on chance: the windows that follow three behind each, in its own clip."""
    window = (torch.arange(num_windows)[:, None] + 3 + torch.arange(num_negatives)) % num_windows
    return window + num_windows * torch.arange(num_clips)[:, None, None]


def test_accumulated_batches_are_one_large_batch_for_syncers(
    bank: ClipBank, fabric: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avsync.losses.pairs.sample_negatives", fixed_negatives)
    whole = bank.sample(8, 48, generator=torch.Generator().manual_seed(1))
    results = []
    for batch_size, accumulate in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        pyramid = SyncerPyramid(config=PYRAMID)
        config = dataclasses.replace(
            SYNCERS,
            steps=1,
            batch_size=batch_size,
            accumulate=accumulate,
            objective="contrastive",
            num_negatives=3,
            first_share=1.0,
        )
        history = train_syncers(pyramid, Slices(bank, whole), config, fabric=fabric, progress=False)
        results.append({key: points[0][1] for key, points in history.items() if key.startswith(("loss", "grad"))})
    # The gradients' norms and the losses: weights after one step of Adam would show little more than signs.
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    assert results[0]["grad0"] > 0.01


def same(module: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
    """A ``train`` that leaves a module as it is."""
    return module


def test_accumulated_batches_are_one_large_batch_for_generators(bank: ClipBank, fabric: object) -> None:
    """Save for two things: pairs are made within a batch, and spectral norms take a power iteration in every call."""
    whole = bank.sample(8, GAN.observed + GAN.frames, generator=torch.Generator().manual_seed(1))
    results = []
    for batch_size, accumulate in ((8, 1), (4, 2)):
        torch.manual_seed(0)
        generator, judges = make_generator(), make_judges()
        judges.pair = None
        for name, module in judges.named_modules():
            if "parametrizations" in name:
                module.train = partial(same, module)  # type: ignore[method-assign]
                module.training = False
        config = dataclasses.replace(GAN, steps=1, batch_size=batch_size, accumulate=accumulate)
        history = train_generator(generator, judges, Slices(bank, whole), config, sync_loss=None, fabric=fabric, progress=False)
        results.append({key: points[0][1] for key, points in history.items()})
    # Adam's first step is a sign, which a gradient near zero may take either way: the generator meets slightly other judges.
    assert results[0] == pytest.approx(results[1], rel=3e-3)
    assert results[0]["discriminator"] == pytest.approx(results[1]["discriminator"], rel=1e-5)
    assert results[0]["grad"] > 1e-4


def test_a_generator_is_judged_and_ends_as_the_average_of_its_weights(bank: ClipBank, fabric: object, tmp_path: Path) -> None:
    def trained(decay: float, **options: object) -> tuple[dict[str, Tensor], list[Tensor]]:
        torch.manual_seed(3)
        generator, judged = make_generator(), []

        def evaluate(step: int) -> dict[str, float]:
            judged.append(generator.head.weight.detach().clone())
            return {}

        config = dataclasses.replace(GAN, ema_decay=decay)
        train_generator(
            generator,
            make_judges(),
            bank,
            config,
            sync_loss=None,
            fabric=fabric,
            evaluate=evaluate,
            evaluate_every=1,
            progress=False,
            **options,
        )
        return generator.state_dict(), judged

    plain, steps = trained(0.0)
    averaged, judged = trained(0.5, checkpoint=tmp_path, checkpoint_every=1)
    module = torch.nn.Linear(1, 1)
    module.weight = torch.nn.Parameter(make_start(3))
    reference = weight_average(module, decay=0.5)
    for weight, seen in zip(steps, judged, strict=True):
        module.weight.data.copy_(weight)
        reference.update_parameters(module)
        assert torch.allclose(reference.module.weight, seen, atol=1e-7), "the average never disturbs the training itself"
    assert torch.equal(averaged["head.weight"], judged[-1]) and not torch.equal(averaged["head.weight"], plain["head.weight"])

    store = CheckpointStore(tmp_path)
    for step in store.steps()[1:]:
        store.path(step).unlink()
    resumed, _ = trained(0.5, checkpoint=tmp_path, checkpoint_every=1, resume=True)
    assert store.steps()[0] < GAN.steps - 1, "it was resumed on the way"
    assert all(torch.equal(averaged[name], resumed[name]) for name in averaged)


def make_start(seed: int) -> Tensor:
    """The head that a generator begins with."""
    torch.manual_seed(seed)
    return make_generator().head.weight.detach().clone()


def test_mixed_precision_trains_as_full_precision_does(bank: ClipBank) -> None:
    """Landmarks in pixels, where bfloat16 would see no motion at all if they were cast to it."""
    whole = bank.sample(8, 48, generator=torch.Generator().manual_seed(1))
    whole = dataclasses.replace(whole, landmarks=1000.0 + 200.0 * whole.landmarks)
    results = []
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        pyramid = SyncerPyramid(config=PYRAMID)
        config = dataclasses.replace(SYNCERS, steps=20, batch_size=8, learning_rate=3e-3, first_share=1.0)
        fabric = make_fabric(accelerator="cpu", precision=precision)
        history = train_syncers(pyramid, Slices(bank, whole), config, fabric=fabric, progress=False)
        assert {parameter.dtype for parameter in pyramid.parameters()} == {torch.float32}
        results.append([value for _, value in history["loss"]])
    assert results[1] == pytest.approx(results[0], rel=0.03)
    assert results[0][-1] < 0.9 * results[0][0]


def test_mixed_precision_of_generators(bank: ClipBank) -> None:
    results = []
    syncers = SyncerPyramid(config=PYRAMID)
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        fabric = make_fabric(accelerator="cpu", precision=precision)
        config = dataclasses.replace(GAN, ema_decay=0.9, steps=2)
        generator = make_generator()
        history = train_generator(
            generator, make_judges(), bank, config, sync_loss=MultiScaleSyncLoss(syncers=syncers), fabric=fabric, progress=False
        )
        assert {parameter.dtype for parameter in generator.parameters()} == {torch.float32}
        results.append({key: points[0][1] for key, points in history.items() if key != "grad"})
    assert results[1] == pytest.approx(results[0], rel=0.05, abs=0.05)


def test_compiled_syncers_train_alike(bank: ClipBank, fabric: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and run as they were traced: generating code takes a minute, and is torch's own business."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        pyramid = SyncerPyramid(config=dataclasses.replace(PYRAMID, num_levels=1))
        config = dataclasses.replace(SYNCERS, steps=2, first_share=1.0)
        history = train_syncers(pyramid, bank, config, fabric=fabric, compiled=compiled, progress=False)
        results.append({key: points[-1][1] for key, points in history.items() if key.startswith(("loss", "grad"))})
    assert results[0] == pytest.approx(results[1], rel=1e-4)
