"""Losses: multi-scale sync (equation 4), InfoNCE (2), pair losses, offset search, adversarial losses (9)-(14)."""

from __future__ import annotations

from avsync.losses.adversarial import HingeDiscriminatorLoss, HingeGeneratorLoss, hinge_discriminator_loss, hinge_generator_loss
from avsync.losses.all_pairs import AllPairsInfoNCE, all_pairs_info_nce, within_clips_info_nce
from avsync.losses.info_nce import InfoNCE, chance_level, info_nce, sampled_info_nce
from avsync.losses.motion_prior import MotionPrior, MotionPriorConfig
from avsync.losses.negatives import excluded_pairs, gather_negatives, sample_negatives
from avsync.losses.offsets import frame_shares, offset_info_nce
from avsync.losses.pairs import (
    ContrastiveLoss,
    CosineBCE,
    LogitScale,
    SigmoidPairLoss,
    contrastive_loss,
    cosine_bce,
    sigmoid_pair_loss,
)
from avsync.losses.silence import SilenceLoss, silence_loss
from avsync.losses.sync import MultiScaleSyncLoss, SyncLossOutput, level_sync_loss, multi_scale_sync_loss

__all__ = [
    "AllPairsInfoNCE",
    "ContrastiveLoss",
    "CosineBCE",
    "HingeDiscriminatorLoss",
    "HingeGeneratorLoss",
    "InfoNCE",
    "LogitScale",
    "MotionPrior",
    "MotionPriorConfig",
    "MultiScaleSyncLoss",
    "SigmoidPairLoss",
    "SilenceLoss",
    "SyncLossOutput",
    "all_pairs_info_nce",
    "chance_level",
    "contrastive_loss",
    "cosine_bce",
    "excluded_pairs",
    "frame_shares",
    "gather_negatives",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "info_nce",
    "level_sync_loss",
    "multi_scale_sync_loss",
    "offset_info_nce",
    "sample_negatives",
    "sampled_info_nce",
    "sigmoid_pair_loss",
    "silence_loss",
    "within_clips_info_nce",
]
