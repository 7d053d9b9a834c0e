"""Differentiable multi-scale audio-visual synchrony losses, syncers, generator and discriminators for talking heads.

The names that most people need can be imported from here; all other public names from the rooms below
(:mod:`avsync.losses`, :mod:`avsync.models`, :mod:`avsync.metrics`, ...). Importing avsync needs torch, einops, numpy and safetensors
only.
"""

from __future__ import annotations

from avsync.audio import MFCC, LogMel, SpeechFeatures
from avsync.errors import ArgumentError, AvsyncError, ClipTooShortError, ShapeError
from avsync.losses import (
    AllPairsInfoNCE,
    ContrastiveLoss,
    CosineBCE,
    HingeDiscriminatorLoss,
    HingeGeneratorLoss,
    InfoNCE,
    MultiScaleSyncLoss,
    SigmoidPairLoss,
    SyncLossOutput,
    all_pairs_info_nce,
    hinge_discriminator_loss,
    hinge_generator_loss,
    info_nce,
    multi_scale_sync_loss,
    sample_negatives,
)
from avsync.metrics import multi_scale_offset, sync_offset
from avsync.models import (
    Embeddings,
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    GeneratorConfig,
    GeneratorOutput,
    GeneratorStream,
    MultiScaleGenerator,
    MultiScaleSyncer,
    PairDiscriminator,
    Syncer,
    SyncerConfig,
    SyncerEnsemble,
    SyncerPyramid,
    SyncerPyramidConfig,
    WindowDiscriminator,
    WindowDiscriminatorConfig,
    cosine_similarity,
)
from avsync.pretrained import from_pretrained, pretrained_models, save_pretrained
from avsync.pyramid import TemporalPyramid, blur_downsample, temporal_pyramid

__version__ = "0.1.0"

__all__ = [
    "MFCC",
    "AllPairsInfoNCE",
    "ArgumentError",
    "AvsyncError",
    "ClipTooShortError",
    "ContrastiveLoss",
    "CosineBCE",
    "Embeddings",
    "FrameDiscriminator",
    "FrameDiscriminatorConfig",
    "GeneratorConfig",
    "GeneratorOutput",
    "GeneratorStream",
    "HingeDiscriminatorLoss",
    "HingeGeneratorLoss",
    "InfoNCE",
    "LogMel",
    "MultiScaleGenerator",
    "MultiScaleSyncLoss",
    "MultiScaleSyncer",
    "PairDiscriminator",
    "ShapeError",
    "SigmoidPairLoss",
    "SpeechFeatures",
    "SyncLossOutput",
    "Syncer",
    "SyncerConfig",
    "SyncerEnsemble",
    "SyncerPyramid",
    "SyncerPyramidConfig",
    "TemporalPyramid",
    "WindowDiscriminator",
    "WindowDiscriminatorConfig",
    "all_pairs_info_nce",
    "blur_downsample",
    "cosine_similarity",
    "from_pretrained",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "info_nce",
    "multi_scale_offset",
    "multi_scale_sync_loss",
    "pretrained_models",
    "sample_negatives",
    "save_pretrained",
    "sync_offset",
    "temporal_pyramid",
]
