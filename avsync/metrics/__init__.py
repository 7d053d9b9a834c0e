"""Metrics of audio-visual synchrony."""

from __future__ import annotations

from avsync.metrics.offset import SyncOffset, offset_distances, sync_offset

__all__ = ["SyncOffset", "offset_distances", "sync_offset"]
