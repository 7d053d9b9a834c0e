"""Extraction of clips of landmarks and audio from videos."""

from __future__ import annotations

from avsync.corpus.extraction.batch import extract_corpus
from avsync.corpus.extraction.from_video import extract, iter_clips

__all__ = [
    "extract",
    "extract_corpus",
    "iter_clips",
]
