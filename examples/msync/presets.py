"""Sizes and schedules of the whole system, one frozen dataclass per preset."""

from __future__ import annotations

from dataclasses import dataclass, replace

from avsync.corpus import AugmentConfig
from avsync.models import (
    FrameDiscriminatorConfig,
    GeneratorConfig,
    SyncerConfig,
    SyncerPyramidConfig,
    WindowDiscriminatorConfig,
)
from avsync.training import GanTrainingConfig, SyncerTrainingConfig


@dataclass(frozen=True)
class Preset:
    """Settings of a run, apart from its corpus.

    Attributes:
        features: "log-mel" or "mfcc" (:class:`avsync.audio.SpeechFeatures`), 26 coefficients each.
        synthetic_speakers: Training speakers of the synthetic corpus; a quarter of this number is added for validation.
        synthetic_seconds: Seconds of each synthetic clip; every speaker has four.
        levels: Levels of the sync loss, finest first; the evaluation model always has four.
        syncers: Sizes of both pyramids.
        syncer_training: Training of the pyramid that guides the generator.
        metric_training: Training of the evaluation pyramid.
        augment: Augmentation of the syncers' training clips.
        generator: Sizes of the generator.
        generator_augment: Augmentation of the generator's training clips; no time stretching, because the generator would learn
            slow motion.
        frame_discriminator: Sizes of D_f.
        window_discriminator: Sizes of D_s and D_j.
        shared_embedding: One embedding of the frames for D_s and D_j, as in the paper's code; it also saves time.
        shared_frames: The same embedding for D_f, too, as in the paper's code; needs ``shared_embedding`` and the pair
            discriminator.
        gan: Training of the generator.
        evaluated_frames: Frames of the validation clips.
        evaluated_margin: Audio around each validation clip, in frames.
    """

    features: str = "log-mel"
    synthetic_speakers: int = 32
    synthetic_seconds: float = 16.0
    levels: int = 4
    syncers: SyncerPyramidConfig = SyncerPyramidConfig()
    syncer_training: SyncerTrainingConfig = SyncerTrainingConfig()
    metric_training: SyncerTrainingConfig = SyncerTrainingConfig(objective="contrastive")
    augment: AugmentConfig = AugmentConfig()
    generator: GeneratorConfig = GeneratorConfig()
    generator_augment: AugmentConfig = AugmentConfig()
    frame_discriminator: FrameDiscriminatorConfig = FrameDiscriminatorConfig()
    window_discriminator: WindowDiscriminatorConfig = WindowDiscriminatorConfig()
    shared_embedding: bool = False
    shared_frames: bool = False
    gan: GanTrainingConfig = GanTrainingConfig()
    evaluated_frames: int = 80
    evaluated_margin: int = 40

    def seeded(self, seed: int) -> Preset:
        """Return the preset with all stage seeds derived from ``seed``; evaluation model and syncers get different seeds."""
        return replace(
            self,
            syncer_training=replace(self.syncer_training, seed=seed),
            metric_training=replace(self.metric_training, seed=seed + 1000),
            gan=replace(self.gan, seed=seed),
        )


_STRONG = AugmentConfig(scale=(0.85, 1.15), rotation=0.2, tempo=(1 / 1.5, 1.5), equaliser_db=3.0, noise_db=4.5)

QUICK = Preset(
    syncers=SyncerPyramidConfig(syncer=SyncerConfig(width=64, embed=64, frame_blocks=1), audio="log-mel"),
    syncer_training=SyncerTrainingConfig(steps=200),
    metric_training=SyncerTrainingConfig(steps=200, objective="contrastive", margin=1.4),
    generator=GeneratorConfig(hidden=128, position_embed=128, audio_channels=96, branch_width=96, motion_components=16),
    frame_discriminator=FrameDiscriminatorConfig(embed=96, depth=2),
    window_discriminator=WindowDiscriminatorConfig(embed=96, hidden=128),
    gan=GanTrainingConfig(
        steps=500,
        batch_size=16,
        generator_lr=4e-4,
        discriminator_lr=1e-4,
        schedule="cosine",
        sync_weight=8.0,
        ema_decay=0.98,
    ),
)
"""Minutes on two cores, on the synthetic talker. With half the rate and half the weight of the sync loss, the result depends on
the seed."""

SMALL = Preset(
    syncers=SyncerPyramidConfig(reference="mean", audio="log-mel"),
    syncer_training=SyncerTrainingConfig(steps=1000),
    metric_training=SyncerTrainingConfig(steps=1000, objective="contrastive", margin=1.4),
    augment=_STRONG,
    generator=GeneratorConfig(hidden=160, position_embed=160, audio_channels=128, branch_width=160, motion_components=16),
    frame_discriminator=FrameDiscriminatorConfig(embed=128, depth=2),
    window_discriminator=WindowDiscriminatorConfig(embed=128, hidden=160),
    shared_embedding=True,
    gan=replace(QUICK.gan, steps=600),
)
"""18 minutes on two cores, on an hour of real speakers; the result is in docs/benchmarks.md."""

PAPER = Preset(
    features="mfcc",
    syncers=SyncerPyramidConfig(audio="mfcc"),
    synthetic_speakers=200,
    window_discriminator=WindowDiscriminatorConfig(acceleration_scale=40.0),
    shared_embedding=True,
    shared_frames=True,
    gan=GanTrainingConfig(reconstruction_weight=0.01, observed_weight=1e-3),
    syncer_training=SyncerTrainingConfig(steps=20_000, objective="info_nce", batch_size=32, frames=80, within_clip_weight=0.0),
    metric_training=SyncerTrainingConfig(steps=20_000, objective="contrastive", batch_size=32, frames=80),
)
"""MS-Sync-short: the paper's losses, sizes and schedule where it or its code states them; meant for a GPU and a large corpus.
All discriminators see position, velocity and acceleration, as those of SUHMo, by one frame embedding; the displacement next to
them and the scales are ours. The widths of the generator are ours: the paper states none, and its code has 512 audio channels,
four blocks of the stem and four blocks each for mask and velocity."""

PAPER_LONG = replace(PAPER, gan=replace(PAPER.gan, frames=80))
"""MS-Sync-long: the same on 80 frames."""

PRETRAINED = replace(SMALL, gan=replace(SMALL.gan, steps=350, pair_weight=0.0))
"""The first pretrained generator, which the pretrained pyramid guided: minutes on two cores. The pair discriminator, a third of
the time, is left out, because it affects diversity and not synchrony."""

ABLATION = replace(PRETRAINED, gan=replace(PRETRAINED.gan, generator_lr=2e-4, sync_weight=4.0, ema_decay=0.0))
"""Small enough for twelve generators and two pyramids within an hour on two cores; with the rates of the paper."""

LIFELIKE = replace(
    PRETRAINED,
    generator=replace(PRETRAINED.generator, motion_leak=0.02, noise=16, style=8),
    gan=replace(
        PRETRAINED.gan,
        steps=850,
        batch_size=64,
        frames=80,
        sync_target="capped",
        sync_share=0.6,
        variety_weight=4.0,
        variety=0.6,
        liveliness_weight=2.0,
        ema_decay=0.995,
    ),
)
"""`generator-landmarks68-25fps`, for a GPU (a minute; one core takes an hour and a half): 80 frames and a leak, so that nothing
drifts; noise, a style and the variety loss, so that seeds differ; the liveliness loss, so that faces move as much as people's;
and a sync loss that stops below the agreement of real motion."""

LIFELIKE_END = replace(
    LIFELIKE,
    gan=replace(LIFELIKE.gan, steps=60, batch_size=32, generator_lr=3e-4, sync_share=0.66, opening_weight=3.0, ema_decay=0.98),
)
"""The end of its training, which begins with the weights of a run of `lifelike` (`train.py --start`): minutes on two cores. The
opening loss lets mouths close."""

BASELINES = replace(
    SMALL,
    generator=QUICK.generator,
    frame_discriminator=QUICK.frame_discriminator,
    window_discriminator=QUICK.window_discriminator,
    gan=replace(QUICK.gan, pair_weight=0.0, sync_weight=4.0),
)
"""Settings of `examples/baselines`: those of the quick run with half the weight of the sync loss and without D_j."""

PRESETS = {
    "quick": QUICK,
    "small": SMALL,
    "paper": PAPER,
    "paper-long": PAPER_LONG,
    "pretrained": PRETRAINED,
    "lifelike": LIFELIKE,
    "lifelike-end": LIFELIKE_END,
    "ablation": ABLATION,
    "baselines": BASELINES,
}
