"""Banks: clips in memory or in shards, their crops, loaders and augmentation."""

from __future__ import annotations

from avsync.corpus.banks.augmentation import AugmentConfig
from avsync.corpus.banks.bank import Batch, ClipBank, CropBank
from avsync.corpus.banks.loader import BatchLoader
from avsync.corpus.banks.shards import ShardedBank, build_shards

__all__ = [
    "AugmentConfig",
    "Batch",
    "BatchLoader",
    "ClipBank",
    "CropBank",
    "ShardedBank",
    "build_shards",
]
