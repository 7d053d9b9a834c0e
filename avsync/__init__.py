"""Differentiable multi-scale audio-visual synchrony losses, syncers, generator and discriminators for talking heads.

What most people need is importable from here; everything else from its module. Importing avsync needs torch, einops, numpy and
safetensors only.
"""

from __future__ import annotations

from avsync.audio.features import MFCC, LogMel
from avsync.errors import AvsyncError
from avsync.losses.adversarial import hinge_discriminator_loss, hinge_generator_loss
from avsync.losses.all_pairs import AllPairsInfoNCE
from avsync.losses.info_nce import InfoNCE, info_nce
from avsync.losses.pairs import ContrastiveLoss, CosineBCE, SigmoidPairLoss
from avsync.losses.sync import MultiScaleSyncLoss, SyncLossOutput, multi_scale_sync_loss
from avsync.metrics import multi_scale_offset, sync_offset
from avsync.models.discriminators import FrameDiscriminator, PairDiscriminator, WindowDiscriminator
from avsync.models.generator.model import GeneratorConfig, MultiScaleGenerator
from avsync.models.syncer.encoders import SyncerConfig
from avsync.models.syncer.ensemble import SyncerEnsemble
from avsync.models.syncer.pyramid import Syncer, SyncerPyramid, SyncerPyramidConfig
from avsync.pretrained import from_pretrained, save_pretrained
from avsync.pyramid import blur_downsample, temporal_pyramid

__version__ = "0.1.0"

__all__ = [
    "MFCC",
    "AllPairsInfoNCE",
    "AvsyncError",
    "ContrastiveLoss",
    "CosineBCE",
    "FrameDiscriminator",
    "GeneratorConfig",
    "InfoNCE",
    "LogMel",
    "MultiScaleGenerator",
    "MultiScaleSyncLoss",
    "PairDiscriminator",
    "SigmoidPairLoss",
    "SyncLossOutput",
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
