"""Differentiable multi-scale audio-visual synchrony losses, syncers, generator and discriminators for talking heads.

What most people need is importable from here; everything else from its module. Importing avsync needs torch, einops, numpy and
safetensors only.
"""

from __future__ import annotations

from avsync.adversarial import hinge_discriminator_loss, hinge_generator_loss
from avsync.audio import MFCC, LogMel
from avsync.contrastive import AllPairsInfoNCE, CosineBCE, InfoNCE, MarginLoss, SigmoidPairLoss, info_nce
from avsync.discriminators import FrameDiscriminator, PairDiscriminator, WindowDiscriminator
from avsync.encoders import SyncerConfig
from avsync.ensemble import SyncerEnsemble
from avsync.errors import AvsyncError
from avsync.generator import GeneratorConfig, MultiScaleGenerator
from avsync.metrics import multi_scale_offset, sync_offset
from avsync.pretrained import from_pretrained, save_pretrained
from avsync.pyramid import blur_downsample, temporal_pyramid
from avsync.sync_loss import MultiScaleSyncLoss, SyncLoss, multi_scale_sync_loss
from avsync.syncer import Syncer, SyncerPyramid, SyncerPyramidConfig

__version__ = "0.1.0"

__all__ = [
    "MFCC",
    "AllPairsInfoNCE",
    "AvsyncError",
    "CosineBCE",
    "FrameDiscriminator",
    "GeneratorConfig",
    "InfoNCE",
    "LogMel",
    "MarginLoss",
    "MultiScaleGenerator",
    "MultiScaleSyncLoss",
    "PairDiscriminator",
    "SigmoidPairLoss",
    "SyncLoss",
    "Syncer",
    "SyncerConfig",
    "SyncerEnsemble",
    "SyncerPyramid",
    "SyncerPyramidConfig",
    "WindowDiscriminator",
    "blur_downsample",
    "from_pretrained",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "info_nce",
    "multi_scale_offset",
    "multi_scale_sync_loss",
    "save_pretrained",
    "sync_offset",
    "temporal_pyramid",
]
