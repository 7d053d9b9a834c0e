"""The stages of the paper's system, each a function: corpus, syncers, generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from judging import generate, judge
from presets import Preset
from torch import nn

from avsync.audio.speech import SpeechFeatures
from avsync.corpus.banks.memory import Batch, ClipBank
from avsync.corpus.clip import Corpus
from avsync.corpus.synthetic.talker import SyntheticCorpus
from avsync.errors import ArgumentError, CorpusError
from avsync.landmarks.principal_motions import principal_motions
from avsync.losses.sync import MultiScaleSyncLoss
from avsync.models.discriminators import FrameDiscriminator, PairDiscriminator, WindowDiscriminator
from avsync.models.generator.model import MultiScaleGenerator
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.models.syncer.pyramid import SyncerPyramid
from avsync.pretrained import save_pretrained
from avsync.training.engine import History
from avsync.training.gan import Discriminators, train_generator
from avsync.training.processes import on_first_process
from avsync.training.syncers import SyncerTrainingConfig, evaluate_syncers, train_syncers

SPEECH_SHARE = 0.4
"""Share of a judged clip's frames that must hold speech (:func:`avsync.corpus.banks.memory.speech_mask`) for it to count."""


WATCHED_CLIPS = 48
"""Clips on which a generator is judged while it is trained."""
BASIS_CLIPS = 512
"""Clips whose principal motions the generator speaks in."""


@dataclass(frozen=True)
class Material:
    """The corpus of a run: clips to learn from and clips of other speakers to judge on."""

    train: ClipBank
    val: ClipBank
    val_clips: Any
    crops: Batch
    """Judged clips with sound around them, those without speech left out."""
    silent: int
    """How many were left out for want of speech."""


def load_material(corpus: str, preset: Preset, *, skip_bad: bool = False) -> Material:
    """Read or make the corpus.

    Args:
        corpus: "synthetic", or a folder in the format of :class:`avsync.corpus.clip.Corpus`.
        preset: Features, and sizes of the synthetic corpus.
        skip_bad: Leave damaged clips out instead of stopping at the first.

    Raises:
        CorpusError: The corpus is damaged, or no clip is long enough to be judged.
    """
    features = SpeechFeatures(kind=preset.features).features
    if corpus == "synthetic":
        speakers, seconds = preset.synthetic_speakers, preset.synthetic_seconds
        train: Any = SyntheticCorpus(split="train", speakers=speakers, clips_per_speaker=4, seconds=seconds)
        val: Any = SyntheticCorpus(split="val", speakers=max(2, speakers // 4), clips_per_speaker=4, seconds=seconds)
    else:
        train = Corpus(corpus, split="train", skip_bad=skip_bad)
        val = Corpus(corpus, split="val", skip_bad=skip_bad)
    train_bank = ClipBank(train, features=features, skip_bad=skip_bad)
    val_bank = ClipBank(val, features=features, skip_bad=skip_bad)
    bad = {**dict(train.bad), **dict(val.bad), **dict(train_bank.bad), **dict(val_bank.bad)}
    for clip, reason in bad.items():
        print(f"skipped clip {clip}: {reason}")
    if bad:
        print(f"skipped {len(bad)} clips in all")
    crops = val_bank.windows(preset.judged_frames, stride=preset.judged_frames // 2, margin=preset.judged_margin)
    speaking = crops.speech_fraction >= SPEECH_SHARE
    if not bool(speaking.any()):
        raise CorpusError(f"expected clips with speech in at least {SPEECH_SHARE:.0%} of their frames in `val`, got none")
    return Material(train_bank, val_bank, val, crops.select(speaking), int((~speaking).sum()))


def stage(
    folder: Path, model: nn.Module, train: Callable[[], History], *, fabric: Any, resume: bool
) -> tuple[nn.Module, History]:
    """Train a model, or load it if an earlier run of the same stage has ended.

    Args:
        folder: Where the finished model lies, or is to lie.
        model: The model before training.
        train: Trains it in place.
        fabric: Whose first process saves the model.
        resume: Whether a finished model may be used.

    Returns:
        The model, and the history of its training (empty if it was loaded).
    """
    if resume and (folder / "config.json").is_file():
        return type(model).from_pretrained(folder), {}
    history = train()
    on_first_process(fabric, lambda: save_pretrained(model, folder))
    return model, history


def syncer_stage(
    name: str,
    material: Material,
    preset: Preset,
    training: SyncerTrainingConfig,
    run: Path,
    fabric: Any,
    *,
    resume: bool,
    progress: bool,
    compiled: bool = False,
) -> tuple[SyncerPyramid, History]:
    """Train one pyramid of syncers ("syncers" guides the generator, "judge" measures it)."""
    with fabric.init_module():
        torch.manual_seed(training.seed)
        pyramid = SyncerPyramid(config=preset.syncers)

    def evaluate(step: int) -> Mapping[str, float]:
        del step
        reports = evaluate_syncers(pyramid, material.crops.to(fabric.device), margin=preset.judged_margin)
        return {f"acc{level}": report.within_one for level, report in enumerate(reports)}

    def train() -> History:
        return train_syncers(
            pyramid,
            material.train,
            training,
            fabric=fabric,
            augment=preset.augment,
            checkpoint=run / "checkpoints" / name,
            resume=resume,
            evaluate=evaluate,
            evaluate_every=max(1, training.steps // 4),
            logs=run / "logs" / name,
            compiled=compiled,
            progress=progress,
            name=name,
        )

    trained, history = stage(run / name, pyramid, train, fabric=fabric, resume=resume)
    return trained.to(fabric.device), history  # type: ignore[return-value]


def trained_pyramid(name: str, source: str, preset: Preset, fabric: Any) -> MultiScaleSyncer:
    """Syncers that are trained already: a folder, or one of those that come with the package.

    Args:
        name: Of the option that asked for it.
        source: See :func:`avsync.pretrained.model_folder`.
        preset: Says which features the run computes.
        fabric: A launched Lightning Fabric.

    Raises:
        CheckpointError: There is no such model.
        ArgumentError: It was trained on other features than the run computes.
    """
    pyramid = MultiScaleSyncer.from_pretrained(source)
    features = pyramid.speech_features()
    if features is not None and features.kind != preset.features:
        raise ArgumentError(f"`{name}`: expected syncers of {preset.features} features, got {source}, of {features.kind}")
    return pyramid.to(fabric.device)


def generator_stage(
    material: Material,
    preset: Preset,
    syncers: MultiScaleSyncer,
    run: Path,
    fabric: Any,
    *,
    resume: bool,
    progress: bool,
    judging: MultiScaleSyncer | None = None,
) -> tuple[MultiScaleGenerator, History]:
    """Train the generator against the discriminators and the frozen syncers of the first ``preset.levels`` levels.

    With a pyramid to judge it by, its confidence on some of the judged clips is logged five times along the way, as in the paper's
    Figure 5 (``avsync evaluate --history``).
    """
    torch.manual_seed(preset.gan.seed)
    with fabric.init_module():
        generator = MultiScaleGenerator(preset.generator)
        pair = PairDiscriminator(preset.window_discriminator) if preset.gan.pair_weight else None
        judges = Discriminators(
            frame=FrameDiscriminator(preset.frame_discriminator),
            window=WindowDiscriminator(preset.window_discriminator),
            pair=pair,
        )
    generator.set_audio_statistics(*material.train.audio_statistics())
    if preset.generator.motion_components:
        chance = torch.Generator().manual_seed(0)
        clips = material.train.sample(BASIS_CLIPS, preset.gan.frames, generator=chance, augment=preset.generator_augment)
        generator.set_motion_basis(*principal_motions(clips.landmarks, preset.generator.motion_components))
    weights = [float(level < preset.levels) for level in range(syncers.num_levels)]
    # The loss freezes what it is given; the copy in the run's folder stays trainable.
    sync_loss = MultiScaleSyncLoss(syncers=syncers, level_weights=weights)

    chosen = torch.linspace(0, len(material.crops) - 1, min(WATCHED_CLIPS, len(material.crops))).long()
    watched = material.crops.select(chosen).to(fabric.device)

    def evaluate(step: int) -> Mapping[str, float]:
        del step
        if judging is None:
            return {}
        generator.eval()
        made = generate(generator, watched, margin=preset.judged_margin)
        generator.train()
        row = judge("generated", judging, made, watched, margin=preset.judged_margin)
        return {f"confidence{level}": confidence for level, confidence in enumerate(row.confidence)}

    def train() -> History:
        return train_generator(
            generator,
            judges,
            material.train,
            preset.gan,
            sync_loss=sync_loss,
            fabric=fabric,
            augment=preset.generator_augment,
            checkpoint=run / "checkpoints" / "generator",
            resume=resume,
            evaluate=evaluate if judging is not None else None,
            evaluate_every=max(1, preset.gan.steps // 5),
            logs=run / "logs" / "generator",
            progress=progress,
        )

    trained, history = stage(run / "generator", generator, train, fabric=fabric, resume=resume)
    return trained.to(fabric.device).eval(), history  # type: ignore[return-value]
