"""Opening media files and describing their contents.

All times of this package are seconds on the **container's presentation clock**, the clock that video and audio share.
The start time of a stream is never subtracted: if the audio of a file starts 0.4 s after its video, these 0.4 s are kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync._checks import check_path, import_extra
from avsync.errors import CorpusError

Image = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

# Formats that are lists of other files, still images, or text rendered as video; never accepted as a video.
_NO_MEDIA = {"applehttp", "hls", "concat", "dash", "image2", "image2pipe", "ico", "tty", "ansi", "webvtt", "srt", "sdp", "rtsp"}


@dataclass(frozen=True)
class MediaInfo:
    """Contents of a media file.

    Attributes:
        path: Path of the file.
        container: FFmpeg's name of the container format.
        seconds: Duration that the container declares, in seconds; None if unknown.
        has_video: True if there is a video stream; a cover image does not count.
        has_audio: True if there is an audio stream.
        width: Width of the upright image with square pixels, in pixels, before any downscaling; 0 without video.
        height: Height of the upright image with square pixels, in pixels, before any downscaling; 0 without video.
        rotation: Clockwise rotation that makes the coded image upright, in degrees: 0, 90, 180 or 270.
        frame_rate: Average frames per second; None if unknown.
        video_start: Time of the first image that can be decoded, in seconds; None without video.
        audio_start: Start time of the audio according to the container, in seconds; None if unknown.
        sample_rate: Sample rate of the coded audio, in hertz; 0 without audio.
        channels: Number of channels of the coded audio.
        video_codec: Name of the video codec; empty without video.
        audio_codec: Name of the audio codec; empty without audio.
    """

    path: str
    container: str
    seconds: float | None
    has_video: bool
    has_audio: bool
    width: int = 0
    height: int = 0
    rotation: int = 0
    frame_rate: float | None = None
    video_start: float | None = None
    audio_start: float | None = None
    sample_rate: int = 0
    channels: int = 0
    video_codec: str = ""
    audio_codec: str = ""


def failures() -> tuple[type[BaseException], ...]:
    """Return the error types that PyAV raises for an unreadable file."""
    av = import_extra("av", "media")
    return (av.FFmpegError, ValueError, OverflowError, MemoryError)


def reason(error: BaseException) -> str:
    """Return a one-line description of an error of PyAV."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def _lenient(av: ModuleType) -> dict[str, str]:
    """Return the arguments of ``av.open`` that tolerate metadata in invalid UTF-8; empty from PyAV 19 on."""
    return {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def media_url(path: str | os.PathLike[str]) -> str:
    """Return a path with the prefix "file:", because FFmpeg interprets text before a colon in a name as a protocol."""
    return f"file:{os.fspath(path)}"


def open_media(path: str | os.PathLike[str]) -> Any:
    """Open a media file for reading.

    Only the file itself is read. Playlists, image sequences and network addresses raise an error, regardless of the file name.

    Raises:
        CorpusError: The file is missing, empty, a folder, or in a format that FFmpeg does not support.
        MissingExtraError: PyAV is not installed.
    """
    av = import_extra("av", "media")
    file = Path(check_path("path", path))
    if not file.is_file():
        raise CorpusError(
            f"{path}: expected a media file, got "
            f"{'a folder' if file.is_dir() else 'no regular file' if file.exists() else 'nothing there'}"
        )
    if file.stat().st_size == 0:
        raise CorpusError(f"{path}: expected a media file, got an empty one")
    try:
        # Container options only: PyAV passes other options to streams as well, and crashes if a stream appears late (MPEG).
        container = av.open(media_url(file), container_options={"protocol_whitelist": "file"}, **_lenient(av))
    except PermissionError as error:
        raise CorpusError(f"{path}: expected a readable file, got: {reason(error)}") from error
    except failures() as error:
        raise CorpusError(f"{path}: expected a media file, got: {reason(error)}") from error
    names = set(container.format.name.split(","))
    if names & _NO_MEDIA or any(name.endswith("_pipe") for name in names):
        container.close()
        raise CorpusError(f"{path}: expected video or audio, got {container.format.long_name or container.format.name}")
    return container


def pick_video(container: Any) -> Any | None:
    """Return the video stream to read: no cover image; of several the default one, then the largest, then the first."""
    streams = [
        stream for stream in container.streams.video if stream.codec_context is not None and not _has(stream, "attached_pic")
    ]
    return max(
        streams, key=lambda s: (_has(s, "default"), s.codec_context.width * s.codec_context.height, -s.index), default=None
    )


def pick_audio(container: Any, track: int | None = None) -> Any | None:
    """Return the audio stream to read: the track with the given number, from 1, or the default stream, otherwise the first.

    Raises:
        CorpusError: There is no track of that number, or it cannot be decoded.
    """
    if track is not None:
        tracks = list(container.streams.audio)
        if not 1 <= track <= len(tracks) or tracks[track - 1].codec_context is None:
            raise CorpusError(f"expected an audio track {track} that can be decoded, got {len(tracks)} audio tracks")
        return tracks[track - 1]
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    return max(streams, key=lambda s: (_has(s, "default"), -s.index), default=None)


def _has(stream: Any, flag: str) -> bool:
    return bool(stream.disposition & getattr(type(stream.disposition), flag))


def contents(container: Any) -> str:
    """Return a description of the streams of a file, for the error message about a missing stream."""
    words = []
    for stream in container.streams:
        if stream.type == "video" and _has(stream, "attached_pic"):
            words.append("a cover image")
        elif stream.type in {"audio", "video"}:
            words.append(
                f"{'sound' if stream.type == 'audio' else 'video'}{'' if stream.codec_context else ' of an unknown codec'}"
            )
        else:
            words.append(stream.type)
    return f"only {', '.join(sorted(set(words)))}" if words else "no stream at all"


def start_seconds(stream: Any) -> float | None:
    """Return the start time of a stream according to the container, in seconds."""
    if stream is None or stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def describe(container: Any, path: str | os.PathLike[str], **more: Any) -> MediaInfo:
    """Read the headers of an open container; ``more`` overrides fields for which the caller has better values."""
    video, audio = pick_video(container), pick_audio(container)
    fields: dict[str, Any] = {
        "path": os.fspath(path),
        "container": container.format.name,
        "seconds": None if container.duration is None else container.duration / 1e6,
        "has_video": video is not None,
        "has_audio": audio is not None,
    }
    if video is not None:
        rate = video.average_rate or video.guessed_rate
        fields |= {
            "width": video.codec_context.width,
            "height": video.codec_context.height,
            "frame_rate": float(rate) if rate else None,
            "video_start": start_seconds(video),
            "video_codec": video.codec_context.name,
        }
    if audio is not None:
        fields |= {
            "audio_start": start_seconds(audio),
            "sample_rate": audio.codec_context.sample_rate or 0,
            "channels": audio.codec_context.layout.nb_channels,
            "audio_codec": audio.codec_context.name,
        }
    return MediaInfo(**fields | more)
