"""Shifting the audio of a video in time, without encoding wherever the container stores times.

The packets of all streams are copied; those of the audio get other times. Only where a container has no times for its streams
(AVI) the audio is decoded, moved by whole samples, and written as PCM. Everything else of the file stays: further streams,
chapters, names.

A positive shift delays the audio, which corrects a video whose audio is early (a positive offset).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from avsync._checks import checked, import_extra
from avsync._files import check_outputs, claims, replacing
from avsync.errors import ArgumentError, CorpusError

TOLERANCE = 0.002
"""Seconds by which the audio of the copy may deviate from the requested shift: Matroska's times are whole milliseconds."""

_BLOCK = 1024
_MAX_REORDERED = 32
_MP4_FAMILY = (".mp4", ".m4v", ".mov", ".3gp", ".3g2")


class Resynced(NamedTuple):
    """Result of :func:`shift_audio`."""

    path: Path
    """The copy."""
    seconds: float
    """Delay of the audio in seconds; negative if the audio was moved forward."""
    encoded: bool
    """True if the audio had to be decoded and written as PCM."""
    left_out: tuple[str, ...]
    """Short descriptions of the streams that the new container cannot hold."""


def default_output(path: str | os.PathLike[str]) -> Path:
    """Return the default name of a corrected copy: ``talk.mp4`` to ``talk.synced.mp4``.

    Example:
        >>> default_output("a/talk.mp4").as_posix()
        'a/talk.synced.mp4'
    """
    source = Path(path)
    return source.with_name(f"{source.stem}.synced{source.suffix}")


@checked
def ffmpeg_command(
    path: str | os.PathLike[str], out: str | os.PathLike[str], seconds: float, *, encode: bool = False, data: bool = True
) -> str:
    """Return an ffmpeg command line equivalent to :func:`shift_audio`, for a POSIX shell.

    Args:
        path: The video.
        out: The copy.
        seconds: Delay of the audio; negative moves it forward.
        encode: Write the audio as PCM, for containers that store no start time of streams.
        data: Copy data streams too; False if the container creates its own.

    Returns:
        One line.

    Example:
        >>> ffmpeg_command("in.mp4", "out.mp4", 0.12)
        'ffmpeg -i in.mp4 -map 0 -c copy -bsf:a setts=pts=PTS+0.12/TB:dts=DTS+0.12/TB out.mp4'

    Source: ours.
    """
    source, target = _word(path), _word(out)
    streams = "-map 0" if data else "-map 0 -dn"
    if not encode:
        # Not -itsoffset with a second input: of transport and program streams ffmpeg sets each input's own first packet to
        # zero.
        return f"ffmpeg -i {source} {streams} -c copy -bsf:a setts=pts=PTS{seconds:+.6g}/TB:dts=DTS{seconds:+.6g}/TB {target}"
    move = f"adelay={1000 * seconds:.6g}:all=1" if seconds >= 0 else f"atrim=start={-seconds:.6g},asetpts=PTS-STARTPTS"
    return f"ffmpeg -i {source} {streams} -c copy -c:a pcm_s16le -af {move} {target}"


def _word(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    # A name must not look like an option, nor, by its colon, like an address.
    return shlex.quote(f"./{name}" if name.startswith("-") or ":" in name.partition("/")[0] else name)


@checked
def shift_audio(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    seconds: float,
    overwrite: bool = False,
    confirm: Callable[[Path], None] | None = None,
) -> Resynced:
    """Write a copy of a video with delayed or advanced audio. The write is atomic.

    Audio that would come before the image is left out, packet by packet. The copy is read again before it takes its name, and
    the shift is measured on its packets.

    Args:
        path: A video with audio.
        out: The copy; its suffix names the container, which has to hold the streams as they are coded.
        seconds: Delay of all audio streams; negative moves them forward.
        overwrite: Replace ``out`` if it exists.
        confirm: Called with the finished copy before it takes its name; nothing is written if it raises.

    Returns:
        :class:`Resynced`.

    Raises:
        ArgumentError: ``seconds`` is not finite, ``out`` exists, is ``path`` itself, has an unknown suffix, or a container that
            cannot hold the streams.
        CorpusError: The video is missing, damaged, or has no image or no audio.
        MissingExtraError: PyAV is not installed.

    Source: ours.
    """
    av = import_extra("av", "media")
    source, target = Path(path), Path(out)
    if not np.isfinite(seconds):
        raise ArgumentError(f"`seconds`: expected a finite number, got {seconds!r}")
    if not source.is_file():
        raise CorpusError(f"{source}: expected a video, found no file")
    shift = Fraction(seconds).limit_denominator(1_000_000)
    with claims():
        check_outputs([("out", target)], inputs=[source], overwrite=overwrite)
        left_out, encoded = _write_copy(av, source, target, shift, confirm)
    return Resynced(target, float(shift), encoded, left_out)


def _write_copy(
    av: ModuleType, source: Path, target: Path, shift: Fraction, confirm: Callable[[Path], None] | None
) -> tuple[tuple[str, ...], bool]:
    """Write the copy; return descriptions of the streams left out, and whether the audio was coded again."""
    with replacing(target) as part:
        try:
            left_out = _copy(av, source, part, shift, encode=False)
            before, after = _survey(av, source), _survey(av, part)
            if after.images != before.images:
                raise ArgumentError(
                    f"`out`: expected a container that holds all {before.images} images of {source}, got"
                    f" {target.suffix!r} with {after.images}"
                )
            moved = (after.audio - after.video) - (before.audio - before.video)
            encoded = abs(moved - float(shift)) > TOLERANCE
            if encoded:
                left_out = _copy(av, source, part, shift, encode=True)
                if not _starts_alike(av, source, part):
                    raise ArgumentError(f"`out`: expected a container that can hold the shift, got {target.suffix!r}; try .mkv")
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, ArgumentError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise ArgumentError(
                f"`out`: expected a container that holds the streams of {source}, got {target.suffix or target.name!r}:"
                f" {type(error).__name__}: {reason}"
            ) from error
        if confirm is not None:
            confirm(part)
    return left_out, encoded


def _open(av: ModuleType, path: Path) -> Any:
    try:
        container = av.open(f"file:{os.fspath(path)}")
    except (av.FFmpegError, ValueError) as error:
        raise CorpusError(f"{path}: expected a readable video, got {type(error).__name__}: {error}") from error
    for kind in ("video", "audio"):
        if not getattr(container.streams, kind):
            container.close()
            raise CorpusError(f"{path}: expected a video with audio, got no {kind} stream")
    return container


def _copy(av: ModuleType, source: Path, part: Path, shift: Fraction, *, encode: bool) -> tuple[str, ...]:
    try:
        return _copy_streams(av, source, part, shift, encode=encode, data=True)
    except av.FFmpegError:
        # Streams of data are mostly a container's own (MP4 shows its chapters and time code as such) and cannot be copied as
        # streams.
        return _copy_streams(av, source, part, shift, encode=encode, data=False)


def _copy_streams(av: ModuleType, source: Path, part: Path, shift: Fraction, *, encode: bool, data: bool) -> tuple[str, ...]:
    left_out: list[str] = []
    with _open(av, source) as reader, av.open(f"file:{os.fspath(part)}", "w", options=_muxer_options(part, reader)) as writer:
        writer.metadata.update(reader.metadata)
        outputs: dict[int, Any] = {}
        encoders: dict[int, _Encoder] = {}
        for stream in reader.streams:
            if stream.type not in ("video", "audio", "subtitle") and not data:
                left_out.append(f"stream {stream.index} ({stream.type})")
                continue
            try:
                if encode and stream.type == "audio":
                    encoders[stream.index] = _Encoder(av, writer, stream, shift)
                    made = encoders[stream.index].stream
                else:
                    made = writer.add_stream_from_template(stream)
            except (av.FFmpegError, ValueError, TypeError) as error:
                if stream.type in ("video", "audio"):
                    raise
                left_out.append(f"stream {stream.index} ({stream.type}): {error}")
                continue
            made.metadata.update(stream.metadata)
            made.disposition = stream.disposition
            outputs[stream.index] = made
        chapters = reader.chapters()
        if chapters:
            writer.set_chapters(chapters)
        # Where the times of a container may be negative, a player skips what lies before 0 and nothing is lost.
        keeps_negative = part.suffix.lower() in _MP4_FAMILY
        start = _first_picture(reader)
        for packet in _timed(reader.demux([stream for stream in reader.streams if stream.index in outputs])):
            index = packet.stream_index
            if index in encoders:
                for frame in _decoded(av, packet):
                    writer.mux(encoders[index].encode(frame))
                continue
            if packet.size == 0:  # the end of a stream, for decoders
                continue
            if packet.stream.type == "audio":
                ticks = round(shift / packet.time_base)
                packet.dts += ticks
                if packet.pts is not None:
                    packet.pts += ticks
                    if shift < 0 and not keeps_negative and (packet.pts + (packet.duration or 0)) * packet.time_base <= start:
                        continue
            packet.stream = outputs[index]
            writer.mux(packet)
        for encoder in encoders.values():
            writer.mux(encoder.encode(None))
    return tuple(left_out)


def _timed(packets: Iterable[Any]) -> Iterator[Any]:
    """Yield packets with decoding times, which Matroska does not store and the first images of a reordered stream lack."""
    waiting: dict[int, list[Any]] = {}
    last: dict[int, int] = {}
    for packet in packets:
        index = packet.stream_index
        held = waiting.setdefault(index, [])
        if packet.size and packet.dts is None and packet.pts is not None:
            if index not in last and len(held) < _MAX_REORDERED:
                held.append(packet)
                continue
            packet.dts = min(packet.pts, last[index] + 1) if index in last else packet.pts
        elif packet.dts is None and held:  # the stream ended without a decoding time: packets are in the order of their times
            yield from _counted_back(held, held[-1].pts + 1)
            held.clear()
        if packet.dts is not None:
            yield from _counted_back(held, packet.dts)
            held.clear()
            last[index] = packet.dts
        yield packet


def _counted_back(packets: list[Any], known: int) -> Iterator[Any]:
    """Yield packets with decoding times that count up to a known decoding time."""
    step = max(1, min((packet.duration or 1 for packet in packets), default=1))
    for place, packet in enumerate(packets):
        packet.dts = min(packet.pts, known - step * (len(packets) - place))
        yield packet


def _muxer_options(part: Path, reader: Any) -> dict[str, str]:
    # MP4 stores when a stream starts on the clock of the whole film, which has milliseconds unless told otherwise.
    return {"movie_timescale": str(reader.streams.audio[0].rate)} if part.suffix.lower() in _MP4_FAMILY else {}


def _first_picture(container: Any) -> Fraction:
    stream = container.streams.video[0]
    return Fraction(stream.start_time or 0) * stream.time_base


def _decoded(av: ModuleType, packet: Any) -> list[Any]:
    try:
        return list(packet.decode())
    except av.InvalidDataError:  # a damaged packet is lost in any player too, and the next one has a time of its own
        return []


def _starts_alike(av: ModuleType, source: Path, part: Path) -> bool:
    """Return whether the distance between the starts of audio and video is unchanged, because the samples hold the shift."""
    apart = []
    for path in (source, part):
        with _open(av, path) as container:
            video, audio = (
                float((s.start_time or 0) * s.time_base) for s in (container.streams.video[0], container.streams.audio[0])
            )
            apart.append(audio - video)
    return abs(apart[1] - apart[0]) <= TOLERANCE


class _Survey(NamedTuple):
    """Packets of the first video stream, and times of the last packets of the first video and audio streams, in seconds."""

    images: int
    video: float
    audio: float


def _survey(av: ModuleType, path: Path) -> _Survey:
    with _open(av, path) as container:
        chosen = [container.streams.video[0], container.streams.audio[0]]
        times = {stream.index: -np.inf for stream in chosen}
        images = 0
        for packet in container.demux(chosen):
            # AVI has no presentation times with B frames; decoding times serve as well for a difference.
            time = packet.dts if packet.dts is not None else packet.pts
            if packet.size and time is not None:
                images += packet.stream.type == "video"
                times[packet.stream_index] = max(times[packet.stream_index], float(time * packet.time_base))
        return _Survey(images, times[chosen[0].index], times[chosen[1].index])


class _Encoder:
    """Audio as 16-bit PCM, moved by whole samples: silence is put before it, or its beginning is cut off."""

    def __init__(self, av: ModuleType, writer: Any, template: Any, shift: Fraction) -> None:
        context = template.codec_context
        self.stream = writer.add_stream("pcm_s16le", rate=context.rate, layout=context.layout.name)
        self._resampler = av.AudioResampler(format="s16", layout=context.layout.name, rate=context.rate)
        self._av, self._context = av, context
        samples = round(shift * context.rate)
        self._skip, self._silence, self._sent = max(0, -samples), max(0, samples), 0

    def encode(self, frame: Any | None) -> list[Any]:
        packets: list[Any] = []
        for block in self._resampler.resample(frame):
            packets += self._encode(block.to_ndarray(), block)
        return packets if frame is not None else packets + list(self.stream.encode(None))

    def _encode(self, samples: Any, frame: Any) -> list[Any]:
        width = len(frame.layout.channels)  # one row with the channels interleaved
        if self._silence:
            samples = np.concatenate([np.zeros((1, self._silence * width), samples.dtype), samples], axis=1)
            self._silence = 0
        cut = min(self._skip, samples.shape[1] // width)
        self._skip -= cut
        packets: list[Any] = []
        for start in range(cut * width, samples.shape[1], _BLOCK * width):
            block = np.ascontiguousarray(samples[:, start : start + _BLOCK * width])
            made = self._av.AudioFrame.from_ndarray(block, format="s16", layout=frame.layout.name)
            made.sample_rate, made.pts, made.time_base = frame.sample_rate, self._sent, Fraction(1, frame.sample_rate)
            self._sent += block.shape[1] // width
            packets += self.stream.encode(made)
        return packets
