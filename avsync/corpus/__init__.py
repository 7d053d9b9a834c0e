"""Talking-head corpora: the clip format on disk, media files, detectors, extraction, clips in memory, the synthetic talker."""

from __future__ import annotations

from avsync.corpus.clip import Clip, Corpus
from avsync.corpus.extraction import extract, extract_corpus, iter_clips

__all__ = ["Clip", "Corpus", "extract", "extract_corpus", "iter_clips"]
