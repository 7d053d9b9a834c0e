"""The synthetic talker: a generated corpus whose audio and face are linked at three time scales."""

from __future__ import annotations

from avsync.corpus.synthetic.talker import SyntheticConfig, SyntheticCorpus, synthetic_clip
from avsync.corpus.synthetic.video import TalkDetector, write_talk

__all__ = [
    "SyntheticConfig",
    "SyntheticCorpus",
    "TalkDetector",
    "synthetic_clip",
    "write_talk",
]
