"""Models: syncers and their pyramid, the generator and its discriminators, and the motion autoencoder."""

from __future__ import annotations

from avsync.models.discriminators import (
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    PairDiscriminator,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
)
from avsync.models.generator import (
    AudioPyramid,
    GeneratorConfig,
    GeneratorOutput,
    GeneratorStream,
    MultiScaleGenerator,
    Rollout,
    merge_branches,
    mirror_audio,
)
from avsync.models.motion_autoencoder import MotionAutoencoder, MotionAutoencoderConfig
from avsync.models.syncer import (
    AudioEncoder,
    Embeddings,
    MotionEncoder,
    MultiScaleSyncer,
    Syncer,
    SyncerConfig,
    SyncerEnsemble,
    SyncerEnsembleConfig,
    SyncerInterface,
    SyncerPyramid,
    SyncerPyramidConfig,
    cosine_similarity,
    half_squared_distance,
    unit_norm,
)

__all__ = [
    "AudioEncoder",
    "AudioPyramid",
    "Embeddings",
    "FrameDiscriminator",
    "FrameDiscriminatorConfig",
    "GeneratorConfig",
    "GeneratorOutput",
    "GeneratorStream",
    "MotionAutoencoder",
    "MotionAutoencoderConfig",
    "MotionEncoder",
    "MultiScaleGenerator",
    "MultiScaleSyncer",
    "PairDiscriminator",
    "Rollout",
    "Syncer",
    "SyncerConfig",
    "SyncerEnsemble",
    "SyncerEnsembleConfig",
    "SyncerInterface",
    "SyncerPyramid",
    "SyncerPyramidConfig",
    "WindowDiscriminator",
    "WindowDiscriminatorConfig",
    "cosine_similarity",
    "half_squared_distance",
    "merge_branches",
    "mirror_audio",
    "unit_norm",
]
