"""Talking-head corpora: clip format, media files, detectors, extraction, banks of clips, and the synthetic talker."""

from __future__ import annotations

from avsync.corpus.banks import AugmentConfig, Batch, BatchLoader, ClipBank, CropBank, ShardedBank, build_shards
from avsync.corpus.clip import Clip, Corpus, resample_clip, speaker_half, write_corpus
from avsync.corpus.extraction import extract, extract_corpus, iter_clips
from avsync.corpus.speech import speech_mask
from avsync.corpus.synthetic import SyntheticConfig, SyntheticCorpus, synthetic_clip, write_talk

__all__ = [
    "AugmentConfig",
    "Batch",
    "BatchLoader",
    "Clip",
    "ClipBank",
    "Corpus",
    "CropBank",
    "ShardedBank",
    "SyntheticConfig",
    "SyntheticCorpus",
    "build_shards",
    "extract",
    "extract_corpus",
    "iter_clips",
    "resample_clip",
    "speaker_half",
    "speech_mask",
    "synthetic_clip",
    "write_corpus",
    "write_talk",
]
