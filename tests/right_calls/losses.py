"""Right calls of losses, of the temporal pyramid, and of the syncers that losses take."""

from __future__ import annotations

from typing import Any

import torch

from avsync import MultiScaleSyncLoss, SyncerConfig, SyncerPyramid, SyncerPyramidConfig, losses, pyramid
from tests.right_calls import Call

M, A = torch.randn(2, 2, 6, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.ones(2, 6, dtype=torch.bool)
INDICES = torch.zeros(2, 6, 3, dtype=torch.int64)
LANDMARKS, FEATURES = torch.rand(2, 40, 7, 2), torch.randn(2, 160, 5)
LENGTHS = torch.tensor([40, 38])
PYRAMID = SyncerPyramid(SyncerPyramidConfig(syncer=SyncerConfig(audio_features=5, points=7, width=4, embed=2), audio="custom"))
LOSS = MultiScaleSyncLoss(syncers=PYRAMID)
PAIR: dict[str, Any] = {"motion": M, "audio": A}
TARGET = torch.ones(2, 6)
PRIOR = losses.MotionPriorConfig(points=7, components=3, lags=(1, 2))
FACES, SPEECH = torch.rand(2, 40, 68, 2), torch.zeros(2, 40, dtype=torch.bool)
MOVES = torch.rand(6, 40, 7, 2)

CALLS = {
    "SilenceLoss": Call(losses.SilenceLoss, {}),
    "SilenceLoss.forward": Call(losses.SilenceLoss().forward, {"landmarks": FACES, "speech": SPEECH}),
    "silence_loss": Call(losses.silence_loss, {"landmarks": FACES, "speech": SPEECH}),
    "info_nce": Call(losses.info_nce, {**PAIR, "negatives": M[:, :, None]}),
    "sampled_info_nce": Call(losses.sampled_info_nce, {**PAIR, "indices": INDICES, "mask": MASK}),
    "all_pairs_info_nce": Call(
        losses.all_pairs_info_nce, {**PAIR, "exclusion": 1, "mask": MASK, "min_temperature": 0.02, "reduction": "sum"}
    ),
    "within_clips_info_nce": Call(losses.within_clips_info_nce, {**PAIR, "mask": MASK, "reduction": "none"}),
    "offset_info_nce": Call(losses.offset_info_nce, {**PAIR, "max_offset": 2, "span": 2, "mask": MASK}),
    "contrastive_loss": Call(losses.contrastive_loss, {**PAIR, "target": TARGET}),
    "cosine_bce": Call(losses.cosine_bce, {**PAIR, "target": TARGET, "mapping": "affine"}),
    "sigmoid_pair_loss": Call(losses.sigmoid_pair_loss, {**PAIR, "exclusion": 1, "mask": MASK}),
    "level_sync_loss": Call(losses.level_sync_loss, {**PAIR, "mask": MASK}),
    "multi_scale_sync_loss": Call(
        losses.multi_scale_sync_loss, {"motion": [M], "audio": [A], "level_weights": [1.0], "masks": [MASK]}
    ),
    "hinge_discriminator_loss": Call(losses.hinge_discriminator_loss, {"real_logits": A, "fake_logits": M}),
    "hinge_generator_loss": Call(losses.hinge_generator_loss, {"fake_logits": M}),
    "HingeDiscriminatorLoss": Call(losses.HingeDiscriminatorLoss, {}),
    "HingeDiscriminatorLoss.forward": Call(losses.HingeDiscriminatorLoss().forward, {"real_logits": A, "fake_logits": M}),
    "HingeGeneratorLoss": Call(losses.HingeGeneratorLoss, {}),
    "HingeGeneratorLoss.forward": Call(losses.HingeGeneratorLoss().forward, {"fake_logits": M}),
    "sample_negatives": Call(losses.sample_negatives, {"num_clips": 2, "num_windows": 6, "num_negatives": 3, "mask": MASK}),
    "excluded_pairs": Call(losses.excluded_pairs, {"num_clips": 2, "num_windows": 6, "exclusion": 1, "mask": MASK}),
    "gather_negatives": Call(losses.gather_negatives, {"embeddings": M, "indices": INDICES}),
    "chance_level": Call(losses.chance_level, {"num_negatives": 3}),
    "frame_shares": Call(losses.frame_shares, {"counts": torch.ones(1, 8, 3), "window": 5}),
    "LogitScale": Call(losses.LogitScale, {}),
    "InfoNCE": Call(losses.InfoNCE, {"num_negatives": 3}),
    "AllPairsInfoNCE": Call(losses.AllPairsInfoNCE, {}),
    "ContrastiveLoss": Call(losses.ContrastiveLoss, {}),
    "ContrastiveLoss.aligned_cost": Call(losses.ContrastiveLoss().aligned_cost, {"half": TARGET}),
    "ContrastiveLoss.mismatched_cost": Call(losses.ContrastiveLoss().mismatched_cost, {"half": TARGET}),
    "CosineBCE": Call(losses.CosineBCE, {"mapping": "affine"}),
    "CosineBCE.aligned_cost": Call(losses.CosineBCE().aligned_cost, {"half": TARGET}),
    "CosineBCE.mismatched_cost": Call(losses.CosineBCE().mismatched_cost, {"half": TARGET}),
    "SigmoidPairLoss": Call(losses.SigmoidPairLoss, {"scale": 2.0, "bias": 0.0, "max_scale": 50.0}),
    "InfoNCE.forward": Call(losses.InfoNCE(num_negatives=3).forward, {**PAIR, "mask": MASK, "indices": INDICES}),
    "InfoNCE.draw": Call(losses.InfoNCE(num_negatives=3).draw, {"clips": 2, "windows": 6, "mask": MASK}),
    "AllPairsInfoNCE.forward": Call(losses.AllPairsInfoNCE().forward, {**PAIR, "mask": MASK}),
    "ContrastiveLoss.forward": Call(losses.ContrastiveLoss().forward, {**PAIR, "mask": MASK, "indices": INDICES}),
    "CosineBCE.forward": Call(losses.CosineBCE().forward, {**PAIR, "mask": MASK, "indices": INDICES}),
    "SigmoidPairLoss.forward": Call(losses.SigmoidPairLoss().forward, {**PAIR, "mask": MASK}),
    "MultiScaleSyncLoss": Call(MultiScaleSyncLoss, {"syncers": PYRAMID, "level_weights": [1, 1, 1, 1]}),
    "MultiScaleSyncLoss.from_pretrained": Call(MultiScaleSyncLoss.from_pretrained, {"level_weights": [1, 1, 1, 1]}, slow=True),
    "MultiScaleSyncLoss.forward": Call(
        LOSS.forward,
        {
            "landmarks": LANDMARKS,
            "audio": FEATURES,
            "reference": LANDMARKS[:, 0],
            "lengths": LENGTHS,
            "target": LANDMARKS,
            "target_share": 0.7,
        },
    ),
    "MotionPriorConfig": Call(losses.MotionPriorConfig, {}),
    "MotionPrior": Call(losses.MotionPrior, {"config": PRIOR}),
    "MotionPrior.fit": Call(losses.MotionPrior.fit, {"landmarks": MOVES, "config": PRIOR}),
    "MotionPrior.forward": Call(losses.MotionPrior.fit(MOVES, config=PRIOR).forward, {"landmarks": MOVES}),
    "blur_downsample": Call(pyramid.blur_downsample, {"x": LANDMARKS, "lengths": LENGTHS}),
    "temporal_pyramid": Call(pyramid.temporal_pyramid, {"x": LANDMARKS, "num_levels": 3, "lengths": LENGTHS}),
    "hold_last_frame": Call(pyramid.hold_last_frame, {"x": LANDMARKS, "frames": 50, "lengths": LENGTHS}),
    "level_length": Call(pyramid.level_length, {"length": 40, "level": 2}),
    "shortest_clip": Call(pyramid.shortest_clip, {"window": 5, "level": 2}),
    "level_fps": Call(pyramid.level_fps, {"fps": 25.0, "level": 2}),
    "window_seconds": Call(pyramid.window_seconds, {"level": 2}),
    "check_lengths": Call(pyramid.check_lengths, {"lengths": LENGTHS, "x": LANDMARKS}),
    "mean_over_frames": Call(pyramid.mean_over_frames, {"x": LANDMARKS, "dim": -3, "lengths": LENGTHS}),
    "level_lengths": Call(pyramid.level_lengths, {"lengths": LENGTHS, "level": 2}),
    "TemporalPyramid": Call(pyramid.TemporalPyramid, {}),
    "TemporalPyramid.forward": Call(pyramid.TemporalPyramid().forward, {"x": LANDMARKS, "lengths": LENGTHS}),
}
