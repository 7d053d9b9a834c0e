"""Losses: multi-scale sync (equation 4), InfoNCE (2), pair losses, offset search, adversarial (9)-(14)."""

from __future__ import annotations

from avsync.losses.adversarial import HingeDiscriminatorLoss, HingeGeneratorLoss, hinge_discriminator_loss, hinge_generator_loss
from avsync.losses.all_pairs import AllPairsInfoNCE, info_nce_all_pairs, info_nce_all_pairs_each, info_nce_within_clips
from avsync.losses.info_nce import InfoNCE, chance_level, info_nce, info_nce_sampled, info_nce_sampled_each
from avsync.losses.negatives import excluded_pairs, gather_negatives, sample_negatives
from avsync.losses.offsets import frame_shares, offset_info_nce
from avsync.losses.pairs import CosineBCE, LogitScale, MarginLoss, SigmoidPairLoss, cosine_bce, margin_loss, sigmoid_pairs
from avsync.losses.sync import MultiScaleSyncLoss, SyncLoss, level_sync_loss, multi_scale_sync_loss

__all__ = [
    "AllPairsInfoNCE",
    "CosineBCE",
    "HingeDiscriminatorLoss",
    "HingeGeneratorLoss",
    "InfoNCE",
    "LogitScale",
    "MarginLoss",
    "MultiScaleSyncLoss",
    "SigmoidPairLoss",
    "SyncLoss",
    "chance_level",
    "cosine_bce",
    "excluded_pairs",
    "frame_shares",
    "gather_negatives",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "info_nce",
    "info_nce_all_pairs",
    "info_nce_all_pairs_each",
    "info_nce_sampled",
    "info_nce_sampled_each",
    "info_nce_within_clips",
    "level_sync_loss",
    "margin_loss",
    "multi_scale_sync_loss",
    "offset_info_nce",
    "sample_negatives",
    "sigmoid_pairs",
]
