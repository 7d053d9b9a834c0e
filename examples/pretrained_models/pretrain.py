"""Train and evaluate the pretrained pyramids: one folder with weights and a model card per variant.

    python examples/pretrained_models/pretrain.py --corpus PATH [--variants NAME ...] [--out avsync/weights] [--resume]

Trains on the corpus' train speakers only and evaluates on its val speakers. The small variants take about ten minutes of one
core, the default half an hour of two, the mouth's a quarter, and the lags that these two need ten minutes more; an interrupted
run goes on with ``--resume``. ``join.py`` then joins the ensemble, and ``avsync calibrate`` adds the calibrations.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cards import write_card
from curves import fixed_clips, short_clips
from realign import find_lags, with_sound_moved

from avsync.audio import SpeechFeatures
from avsync.corpus import Clip, ClipBank, Corpus
from avsync.landmarks import MOTIONS, REGIONS, motion_channels
from avsync.models import MultiScaleSyncer, SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import save_pretrained
from avsync.training import (
    SYNCER_AUGMENT,
    SyncerTrainingConfig,
    WarmStartConfig,
    evaluate_syncers,
    make_fabric,
    train_finest_first,
    train_syncers,
)

DIMS = 2
MARGIN = 40
"""Frames of audio around an evaluated clip."""
SPEECH_SHARE = 0.4
"""Share of an evaluated clip's frames that must hold speech."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


@dataclass(frozen=True)
class Variant:
    """Settings of one pretrained pyramid.

    Attributes:
        about: Purpose of the model, one sentence of the model card.
        audio: "log-mel" or "mfcc".
        motion: Motion features of the input; see :func:`avsync.landmarks.motion_features.motion_features`.
        region: "face", "mouth" or "head".
        objective: "all_pairs" or, for the evaluation model, "contrastive".
        audio_context: Audio context around a window, in frames of the level.
        mean_normalisation: True to subtract the mean of a clip's features.
        steps: Optimisation steps of levels 0 and 1, whose weights initialise the coarser levels.
        schedule_steps: Steps after which the learning rate of levels 0 and 1 reaches 0; None for ``steps``.
        batch_size: Clips per batch.
        fine_frames: Frames of each crop used by level 0.
        window_share: Share of the batches in which level 0 receives single windows without their clip.
        weight_decay: Decay of AdamW.
        dropout: Dropout of the encoders.
        width: Channels of the encoders, of all levels or level by level; the special pyramids are smaller, so that all of them
            fit into a small package.
        equaliser_db: Largest gain or attenuation of the audio bands, in dB.
        offset_window: Number of frames of a window in the mean over windows of the offset search.
        pause_weight: Weight of windows without speech in the loss.
        realign: True to align the audio of training clips by syncers trained on the other half of the speakers.
        seed: Seed of the training run.
    """

    about: str
    audio: str = "log-mel"
    motion: tuple[str, ...] = MOTIONS
    region: str = "face"
    objective: str = "all_pairs"
    audio_context: tuple[int, ...] = (4, 0, 0, 0)
    mean_normalisation: bool = True
    steps: int = 700
    schedule_steps: int | None = None
    batch_size: int = 32
    fine_frames: int = 80
    window_share: float = 0.5
    weight_decay: float = 0.1
    dropout: float = 0.1
    width: tuple[int, ...] = (64,)
    equaliser_db: float = 3.0
    offset_window: int = 1
    pause_weight: float = 1.0
    realign: bool = False
    seed: int = 0

    def pyramid(self) -> SyncerPyramidConfig:
        """Return the sizes of the model."""
        syncer = SyncerConfig(
            points=len(REGIONS[self.region]),
            motion_channels=motion_channels(self.motion, DIMS),
            width=self.width[0],
            window_blocks=2,
            dropout=self.dropout,
        )
        return SyncerPyramidConfig(
            syncer=syncer,
            audio=self.audio,
            motion=self.motion,
            region=self.region,
            reference="mean",
            audio_context=self.audio_context,
            width=self.width if len(self.width) > 1 else (),
            mean_normalisation=self.mean_normalisation,
        )

    def training(self) -> SyncerTrainingConfig:
        """Return the settings of the training run."""
        common = SyncerTrainingConfig(
            steps=self.steps,
            schedule_steps=self.schedule_steps,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            window_share=self.window_share,
            first_share=0.2,
            short_share=0.3,
            ema_decay=0.99,
            fine_frames=self.fine_frames,
            pause_weight=self.pause_weight,
            seed=self.seed,
        )
        if self.objective == "contrastive":
            return replace(common, objective="contrastive", margin=1.4)
        return replace(common, objective=self.objective, offset_weight=1.0, offset_window=self.offset_window)


MOUTH = Variant(
    "The lips alone, in coordinates of the head: what it hears is said by the lips and by nothing else.",
    motion=("shape", "velocity", "speed"),
    region="mouth",
    # Accuracy is best here; 200 steps later the model overfits its clips.
    steps=400,
    schedule_steps=700,
    batch_size=48,
    fine_frames=160,
    dropout=0.15,
    width=(192, 64, 64, 64),
    equaliser_db=5.0,
    offset_window=5,
    # None would find more clips with speech, but fewer with little speech (docs/experiments-short-clips.md, "Pauses").
    pause_weight=0.1,
    realign=True,
)
"""The recipe of the lips."""

VARIANTS = {
    "landmarks68-25fps": Variant(
        "The whole face against log-mel energies: the default of the loss and of the commands.",
        steps=1000,
        fine_frames=160,
        dropout=0.15,
        # Only level 0 handles short clips; more channels and more varied voices improve its accuracy on them.
        width=(192, 96, 96, 96),
        equaliser_db=5.0,
        offset_window=5,
        realign=True,
    ),
    "landmarks68-25fps-judge": Variant(
        "An independent evaluation model, trained with SyncNet's contrastive loss and another seed, for generators that "
        "the default has guided.",
        objective="contrastive",
        # The evaluation model also differs in its audio input: the window alone, and audio without normalisation.
        audio_context=(),
        mean_normalisation=False,
        steps=1000,
        batch_size=16,
        window_share=0.0,
        weight_decay=0.01,
        dropout=0.05,
        width=(128,),
        seed=1000,
    ),
    "landmarks68-25fps-judge-mfcc": Variant(
        "An evaluation model of the whole face with other audio features than the default, MFCCs, without two of its motion "
        "features, shape and speed, and with another seed; it finds more short clips than `landmarks68-25fps-judge`.",
        audio="mfcc",
        motion=("displacement", "velocity"),
        steps=800,
        fine_frames=120,
        dropout=0.15,
        width=(160, 96, 96, 96),
        equaliser_db=5.0,
        offset_window=5,
        realign=True,
        seed=3000,
    ),
    "landmarks68-25fps-judge-mouth": replace(
        MOUTH,
        about="An evaluation model of the lips alone with other audio features than the default, MFCCs, and another seed.",
        audio="mfcc",
        motion=("displacement", "velocity"),
        fine_frames=120,
        width=(160, 64, 64, 64),
        seed=4000,
    ),
    "landmarks68-25fps-mfcc": Variant("The whole face against 26 MFCCs, the paper's audio features.", audio="mfcc"),
    "landmarks68-25fps-mouth": MOUTH,
    "landmarks68-25fps-head": Variant(
        "Bridge of the nose, eye corners and ends of the jaw. Much of what it finds, at level 0 about half, is lip motion "
        "that leaks"
        " into these points; `landmarks68-25fps-pose` has the leak subtracted.",
        motion=("displacement", "velocity", "speed"),
        region="head",
        width=(40,),
    ),
}


WARM_START = WarmStartConfig(runs=4)
"""Warm start of levels 2 and 3 from the weights of the level before."""
HALF_STEPS, HALF_WIDTH = 400, 128
"""Steps and channels of the two training runs of level 0 that find the lags of training clips."""
LAGS_BY = "landmarks68-25fps"
"""The variant whose recipe these two follow."""


def training_bank(name: str, variant: Variant, lags: Mapping[str, float], args: argparse.Namespace) -> ClipBank:
    """Return the training clips of a variant with aligned audio."""
    corpus = Corpus(args.corpus, split="train")
    features = SpeechFeatures(kind=variant.audio).features
    if not variant.realign:
        return ClipBank(corpus, features=features)
    print(f"{name}: the audio of {len(lags)} clips moved, by {np.std(list(lags.values())):.2f} frames (s.d.)", flush=True)
    return ClipBank([with_sound_moved(clip, lags.get(clip.id, 0.0)) for clip in corpus], features=features)


def training_lags(args: argparse.Namespace) -> dict[str, float]:
    """Return the lags of the training clips, computed once because all variants share them."""
    work, variant = Path(args.work) / "lags", VARIANTS[LAGS_BY]
    features = SpeechFeatures(kind=variant.audio).features
    file = work / "lags.json"

    def train_half(stage: str, some: list[Clip]) -> SyncerPyramid:
        torch.manual_seed(variant.seed)
        pyramid = SyncerPyramid(config=replace(variant.pyramid().finest(1), width=(HALF_WIDTH,)))
        train_syncers(
            pyramid,
            ClipBank(some, features=features),
            replace(variant.training(), steps=HALF_STEPS, schedule_steps=None, fine_frames=80),
            fabric=make_fabric(accelerator=args.accelerator, precision=args.precision),
            augment=replace(SYNCER_AUGMENT, equaliser_db=variant.equaliser_db),
            checkpoint=work / stage,
            resume=args.resume,
            progress=not args.no_progress,
            name=stage,
        )
        return pyramid

    if not (args.resume and file.is_file()):
        write_json(file, find_lags(list(Corpus(args.corpus, split="train")), train_half))
    found: dict[str, float] = json.loads(file.read_text())
    return found


def evaluated(syncers: MultiScaleSyncer, val: ClipBank) -> dict[str, Any]:
    """Compute the numbers of a model card: the share of clips of unseen speakers whose offset is found."""
    return {
        "levels": fixed_clips(syncers, val, frames=80, stride=20, margin=MARGIN, speech_share=SPEECH_SHARE),
        "short": short_clips(syncers, val, margin=MARGIN),
        "val_minutes": round(float(val.lengths.sum()) / 1500, 1),
        "val_speakers": len(val.speakers),
    }


def train_variant(name: str, lags: Mapping[str, float], args: argparse.Namespace) -> None:
    """Train, evaluate and write one variant."""
    variant = VARIANTS[name]
    work = Path(args.work) / name
    train = training_bank(name, variant, lags, args)
    val = ClipBank(Corpus(args.corpus, split="val"), features=SpeechFeatures(kind=variant.audio).features)
    torch.manual_seed(variant.seed)
    pyramid = SyncerPyramid(config=variant.pyramid())
    crops = val.windows(80, stride=20, margin=MARGIN)
    crops = crops.select(crops.speech_fraction >= SPEECH_SHARE)

    def evaluate(step: int) -> dict[str, float]:
        reports = evaluate_syncers(pyramid, crops, margin=MARGIN)
        print(f"{name} step {step}: " + " ".join(f"{report.within_one:.1%}" for report in reports), flush=True)
        return {f"acc{level}": report.within_one for level, report in enumerate(reports)}

    if not (args.resume and (work / "model" / "config.json").is_file()):
        history = train_finest_first(
            pyramid,
            train,
            variant.training(),
            WARM_START,
            fabric=make_fabric(accelerator=args.accelerator, precision=args.precision),
            augment=replace(SYNCER_AUGMENT, equaliser_db=variant.equaliser_db),
            checkpoint=work / "checkpoints",
            resume=args.resume,
            evaluate=evaluate,
            evaluate_every=args.evaluate_every,
            progress=not args.no_progress,
            name=name,
        )
        write_json(work / "history.json", history)
        save_pretrained(pyramid, work / "model", dtype=torch.float16)
    # Scores use the float16 weights that are written.
    pyramid = SyncerPyramid.from_pretrained(work / "model")
    numbers = evaluated(pyramid, val) | {
        "train_minutes": round(float(train.lengths.sum()) / 1500, 1),
        "train_speakers": len(train.speakers),
        "steps": variant.steps,
    }
    write_json(work / "numbers.json", numbers)
    target = Path(args.out) / name
    save_pretrained(pyramid, target, dtype=torch.float16)
    write_card(target / "README.md", name, variant, numbers)
    print(f"{name}: written to {target}")


def main() -> None:
    """Train the selected variants one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder of a corpus with the splits train and val")
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--out", default="avsync/weights", help="folder of the finished models")
    parser.add_argument("--work", default="runs/pretrain", help="folder of checkpoints, histories and numbers")
    parser.add_argument("--evaluate-every", type=int, default=500)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    parser.add_argument("--no-progress", action="store_true")
    args = parser.parse_args()
    lags = training_lags(args) if any(VARIANTS[name].realign for name in args.variants) else {}
    for name in args.variants:
        train_variant(name, lags, args)


if __name__ == "__main__":
    main()
