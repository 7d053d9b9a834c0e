"""Differentiable multi-scale audio-visual synchrony losses, syncers, generator and discriminators for talking heads.

The names that most people need can be imported from here; all other public names from the rooms below
(:mod:`avsync.losses`, :mod:`avsync.models`, :mod:`avsync.metrics`, ...). Importing avsync needs torch, einops, numpy and
safetensors only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        SyncerRegions,
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
    "SyncerRegions",
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

_ROOMS = ("errors", "audio", "losses", "metrics", "models", "pretrained", "pyramid")
"""The rooms whose names are names of avsync, too."""
_OTHER_ROOMS = ("cli", "corpus", "evaluation", "figures", "landmarks", "training")


def __getattr__(name: str) -> Any:
    """Import a room or a name when it is first used, so that `import avsync` and `avsync --help` do not wait for torch."""
    if name in _ROOMS or name in _OTHER_ROOMS:
        return importlib.import_module(f"avsync.{name}")
    if name in __all__:
        for room in _ROOMS:
            module = importlib.import_module(f"avsync.{room}")
            if hasattr(module, name):
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module 'avsync' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS, *_OTHER_ROOMS})
