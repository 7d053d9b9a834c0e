"""Media files: video frames and audio on one clock, through PyAV (extra ``media``)."""

from __future__ import annotations

from avsync.corpus.media.audio_source import AudioSegment, AudioSource
from avsync.corpus.media.files import read_audio, write_audio, write_video
from avsync.corpus.media.info import MediaInfo, describe
from avsync.corpus.media.video_source import VideoFrame, VideoSource

__all__ = [
    "AudioSegment",
    "AudioSource",
    "MediaInfo",
    "VideoFrame",
    "VideoSource",
    "describe",
    "read_audio",
    "write_audio",
    "write_video",
]
