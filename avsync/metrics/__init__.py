"""Metrics of audio-visual synchrony."""

from __future__ import annotations

from avsync.metrics.multi_scale import multi_scale_offset
from avsync.metrics.offset import SyncOffset, offset_distances, sync_offset

__all__ = ["SyncOffset", "multi_scale_offset", "offset_distances", "sync_offset"]
