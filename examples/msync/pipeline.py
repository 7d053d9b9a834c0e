"""Stages of the paper's system, one function each: corpus, syncers, generator."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from evaluation import evaluate_motion, generate
from presets import Preset

from avsync import MultiScaleGenerator, MultiScaleSyncLoss, SyncerPyramid, save_pretrained
from avsync.audio import SpeechFeatures
from avsync.corpus import Batch, ClipBank, Corpus, SyntheticCorpus
from avsync.errors import ArgumentError, CorpusError
from avsync.landmarks import principal_motions
from avsync.models import FrameDiscriminator, MultiScaleSyncer, PairDiscriminator, WindowDiscriminator
from avsync.pretrained import PretrainedModel
from avsync.training import (
    Discriminators,
    History,
    SyncerTrainingConfig,
    evaluate_syncers,
    on_first_process,
    train_generator,
    train_syncers,
)

SPEECH_SHARE = 0.4
"""Smallest share of frames with speech (:func:`avsync.corpus.speech_mask`) of a validation clip."""
WATCHED_CLIPS = 48
"""Clips on which a generator is evaluated during training."""
BASIS_CLIPS = 512
"""Clips whose principal motions are the generator's basis."""
CHECKPOINT_SECONDS = 60.0
"""Longest time between checkpoints, so that runs that are often interrupted make progress."""


@dataclass(frozen=True)
class Material:
    """Corpus of a run: training clips, and validation clips of other speakers."""

    train: ClipBank
    val: ClipBank
    val_clips: Any
    crops: Batch
    """Validation clips with speech, with audio around them."""
    silent: int
    """Number of clips left out because of too little speech."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def load_material(corpus: str, preset: Preset, *, skip_bad: bool = False) -> Material:
    """Read or make the corpus.

    Args:
        corpus: "synthetic", or a folder in the format of :class:`avsync.corpus.Corpus`.
        preset: Features, and sizes of the synthetic corpus.
        skip_bad: Skip damaged clips instead of stopping at the first damaged clip.

    Raises:
        CorpusError: The corpus is damaged, or no validation clip is long enough and holds speech.
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
        print(f"skipped {len(bad)} clips in total")
    crops = val_bank.windows(preset.evaluated_frames, stride=preset.evaluated_frames // 2, margin=preset.evaluated_margin)
    speaking = crops.speech_fraction >= SPEECH_SHARE
    if not bool(speaking.any()):
        raise CorpusError(f"expected clips with speech in at least {SPEECH_SHARE:.0%} of their frames in `val`, got none")
    return Material(train_bank, val_bank, val, crops.select(speaking), int((~speaking).sum()))


def stage(
    folder: Path, model: PretrainedModel, train: Callable[[], History], *, fabric: Any, resume: bool
) -> tuple[PretrainedModel, History]:
    """Train a model, or load it if an earlier run of the same stage has ended.

    Args:
        folder: Folder of the finished model.
        model: The model before training.
        train: Function that trains it in place.
        fabric: The Fabric whose first process saves the model.
        resume: Use a finished model.

    Returns:
        The model, and the history of its training (empty if it was loaded).
    """
    if resume and (folder / "config.json").is_file():
        on_first_process(fabric, lambda: print(f"{folder.name}: finished in an earlier run, loaded from {folder}"))
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
    """Train one pyramid of syncers (``"syncers"`` guides the generator, ``"judge"`` evaluates it)."""
    with fabric.init_module():
        torch.manual_seed(training.seed)
        pyramid = SyncerPyramid(config=preset.syncers)

    def evaluate(step: int) -> Mapping[str, float]:
        del step
        reports = evaluate_syncers(pyramid, material.crops.to(fabric.device), margin=preset.evaluated_margin)
        return {f"acc{level}": report.within_one for level, report in enumerate(reports)}

    def train() -> History:
        return train_syncers(
            pyramid,
            material.train,
            training,
            fabric=fabric,
            augment=preset.augment,
            checkpoint=run / "checkpoints" / name,
            checkpoint_seconds=CHECKPOINT_SECONDS,
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
    """Load trained syncers: a folder, or a pretrained model.

    Args:
        name: Name of the option, for errors.
        source: See :func:`avsync.pretrained.model_folder`.
        preset: The run's preset, which names the audio features.
        fabric: A launched Lightning Fabric.

    Raises:
        CheckpointError: There is no such model.
        ArgumentError: The model was trained on other features.
    """
    pyramid = MultiScaleSyncer.from_pretrained(source)
    features = pyramid.speech_features()
    if features is not None and features.kind != preset.features:
        raise ArgumentError(f"`{name}`: expected syncers of {preset.features} features, got {source}, of {features.kind}")
    return pyramid.to(fabric.device)


def begin_with(generator: MultiScaleGenerator, source: str) -> None:
    """Copy the weights, audio statistics and motion basis of a trained generator; leak and noise may be new.

    Raises:
        CheckpointError: There is no such generator.
        ArgumentError: Its sizes differ.
    """
    weights = MultiScaleGenerator.from_pretrained(source).state_dict()
    own = generator.state_dict()
    new = {name for name in own if name not in weights}
    same = all(name in own and own[name].shape == weight.shape for name, weight in weights.items())
    if not same or not all(name.startswith(("leak", "rest.", "noise_entry.")) for name in new):
        raise ArgumentError(f"`start`: expected a generator of the preset's sizes, got {source}")
    generator.load_state_dict(weights, strict=False)


def generator_models(
    material: Material, preset: Preset, syncers: MultiScaleSyncer, fabric: Any, *, start: str | None = None
) -> tuple[MultiScaleGenerator, Discriminators, MultiScaleSyncLoss]:
    """Make the generator, its discriminators, and the sync loss of the first ``preset.levels`` levels of the frozen syncers.

    Args:
        material: The corpus, whose audio statistics and principal motions the generator gets.
        preset: Sizes, and the seed of the weights.
        syncers: The syncers; the loss freezes them.
        fabric: A launched Lightning Fabric.
        start: A trained generator whose weights the new one begins with; None for random weights.
    """
    torch.manual_seed(preset.gan.seed)
    with fabric.init_module():
        generator = MultiScaleGenerator(preset.generator)
        pair = PairDiscriminator(preset.window_discriminator) if preset.gan.pair_weight else None
        shared = pair.embedding if pair is not None and preset.shared_embedding else None
        frame = FrameDiscriminator(preset.frame_discriminator, embedding=shared if preset.shared_frames else None)
        window = WindowDiscriminator(preset.window_discriminator, embedding=shared)
        discriminators = Discriminators(frame=frame, window=window, pair=pair)
    generator.set_audio_statistics(*material.train.audio_statistics())
    if preset.generator.motion_components:
        rng = torch.Generator().manual_seed(0)
        clips = material.train.sample(BASIS_CLIPS, preset.gan.frames, generator=rng, augment=preset.generator_augment)
        generator.set_motion_basis(*principal_motions(clips.landmarks, preset.generator.motion_components))
    if start is not None:
        begin_with(generator, start)
    weights = [float(level < preset.levels) for level in range(syncers.num_levels)]
    return generator, discriminators, MultiScaleSyncLoss(syncers=syncers, level_weights=weights)


def watched_clips(material: Material) -> Batch:
    """Return the validation clips on which generators are measured during training."""
    return material.crops.select(torch.linspace(0, len(material.crops) - 1, min(WATCHED_CLIPS, len(material.crops))).long())


def watch(
    material: Material, preset: Preset, syncers: MultiScaleSyncer, device: torch.device
) -> Callable[[MultiScaleGenerator], dict[str, float]]:
    """Return the function that measures a generator in training: confidence at every level on some validation clips."""
    watched = watched_clips(material).to(device)

    def measure(generator: MultiScaleGenerator) -> dict[str, float]:
        generator.eval()
        made = generate(generator, watched, margin=preset.evaluated_margin)
        generator.train()
        row = evaluate_motion("generated", syncers, made, watched, margin=preset.evaluated_margin)
        return {f"confidence{level}": value for level, value in enumerate(row.confidence)}

    return measure


def generator_stage(
    material: Material,
    preset: Preset,
    syncers: MultiScaleSyncer,
    run: Path,
    fabric: Any,
    *,
    resume: bool,
    progress: bool,
    evaluation_syncers: MultiScaleSyncer | None = None,
    cuda_graphs: bool | None = None,
    start: str | None = None,
) -> tuple[MultiScaleGenerator, History]:
    """Train the generator against the discriminators and the frozen syncers of the first ``preset.levels`` levels.

    With evaluation syncers, their confidence on some validation clips is logged five times during training, as in the paper's
    Figure 5 (``avsync evaluate --history``). ``start`` is a trained generator whose weights the new one begins with.
    """
    # The loss freezes these syncers; the copy in the run's folder stays trainable.
    generator, discriminators, sync_loss = generator_models(material, preset, syncers, fabric, start=start)

    watched = None if evaluation_syncers is None else watch(material, preset, evaluation_syncers, fabric.device)

    def evaluate(step: int) -> Mapping[str, float]:
        del step
        return {} if watched is None else watched(generator)

    def train() -> History:
        return train_generator(
            generator,
            discriminators,
            material.train,
            preset.gan,
            sync_loss=sync_loss,
            fabric=fabric,
            augment=preset.generator_augment,
            cuda_graphs=cuda_graphs,
            checkpoint=run / "checkpoints" / "generator",
            checkpoint_seconds=CHECKPOINT_SECONDS,
            resume=resume,
            evaluate=evaluate if watched is not None else None,
            evaluate_every=max(1, preset.gan.steps // 5),
            logs=run / "logs" / "generator",
            progress=progress,
        )

    trained, history = stage(run / "generator", generator, train, fabric=fabric, resume=resume)
    return cast(MultiScaleGenerator, trained.to(fabric.device).eval()), history
