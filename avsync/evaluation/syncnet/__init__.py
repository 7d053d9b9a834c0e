"""SyncNet: the network of the published lip-sync scores, its features, face crops and protocol."""

from __future__ import annotations

from avsync.evaluation.syncnet.audio import num_mfcc_frames, syncnet_mfcc
from avsync.evaluation.syncnet.face_crop import crop_face, crop_path, face_boxes
from avsync.evaluation.syncnet.network import SyncNet, SyncNetConfig
from avsync.evaluation.syncnet.scoring import TrackScore, score_video

__all__ = [
    "SyncNet",
    "SyncNetConfig",
    "TrackScore",
    "crop_face",
    "crop_path",
    "face_boxes",
    "num_mfcc_frames",
    "score_video",
    "syncnet_mfcc",
]
