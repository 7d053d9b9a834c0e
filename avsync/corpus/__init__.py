"""Talking-head corpora: the clip format on disk, media files, extraction from videos, clips in memory, the synthetic talker.

``avsync.corpus.extract(video)`` is the function; its module, :mod:`avsync.corpus.extract`, is imported from by its full name.
"""

from __future__ import annotations

from avsync.corpus.clip import Clip, Corpus
from avsync.corpus.extract import extract, iter_clips

__all__ = ["Clip", "Corpus", "extract", "iter_clips"]
