"""Syncers: encoders of motion and audio, their score (equation 3), and syncer pyramids and ensembles."""

from __future__ import annotations

from avsync.models.syncer.ensemble import SyncerEnsemble, SyncerEnsembleConfig
from avsync.models.syncer.interface import (
    Embeddings,
    MultiScaleSyncer,
    SyncerInterface,
    cosine_similarity,
    half_squared_distance,
    unit_norm,
)
from avsync.models.syncer.pyramid import AudioEncoder, MotionEncoder, Syncer, SyncerConfig, SyncerPyramid, SyncerPyramidConfig
from avsync.models.syncer.regions import SyncerRegion, SyncerRegions, SyncerRegionsConfig

__all__ = [
    "AudioEncoder",
    "Embeddings",
    "MotionEncoder",
    "MultiScaleSyncer",
    "Syncer",
    "SyncerConfig",
    "SyncerEnsemble",
    "SyncerEnsembleConfig",
    "SyncerInterface",
    "SyncerPyramid",
    "SyncerPyramidConfig",
    "SyncerRegion",
    "SyncerRegions",
    "SyncerRegionsConfig",
    "cosine_similarity",
    "half_squared_distance",
    "unit_norm",
]
