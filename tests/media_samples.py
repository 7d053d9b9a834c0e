"""Small videos with known times: white flashes on black, clicks in the sound, and a bright square whose place tells the time."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

CLOCK = 90000
VARIABLE = (Fraction(33, 1000), Fraction(50, 1000), Fraction(20, 1000), Fraction(40, 1000), Fraction(67, 1000))
RATES = {23.976: Fraction(24000, 1001), 29.97: Fraction(30000, 1001), 59.94: Fraction(60000, 1001)}
SQUARE = 12

# Muxer, video codec, sound codec.
CONTAINERS = {
    "mp4": ("mp4", "libx264", "aac"),
    "mov": ("mov", "libx264", "aac"),
    "mkv": ("matroska", "libx264", "aac"),
    "webm": ("webm", "libvpx", "libopus"),
    "avi": ("avi", "mpeg4", "pcm_s16le"),
    "mpg": ("mpeg", "mpeg2video", "mp2"),
    "ts": ("mpegts", "libx264", "aac"),
}
# In packets of 2 KiB several pictures as small as these would share one timestamp, which pictures of real videos do not.
MUXER_OPTIONS = {"mpg": {"packetsize": "256"}}
SAMPLE_FORMATS = {"aac": "fltp", "libopus": "flt", "vorbis": "fltp", "libmp3lame": "fltp", "mp2": "s16"}
ENCODER_OPTIONS = {
    "libx264": {"preset": "ultrafast", "crf": "20"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "b": "600k"},
    "vorbis": {"strict": "experimental"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "row-mt": "0"},
}


@dataclass(frozen=True)
class Truth:
    """What a file holds, in seconds of the clock that its maker used.

    A container may shift both streams by the same amount (MPEG program streams by half a second, Matroska by a codec's delay), so
    only differences between sound and picture are the same in every container; for MP4 and AVI the times themselves are.

    Attributes:
        path: The file.
        frame_times: Time of each frame.
        flashes: Times of the white frames, each of them one of ``frame_times``.
        clicks: Times of the clicks: the flashes that fall into the sound.
        audio_start: Time of the first sample.
        audio_end: Time after the last sample.
        seconds: Length that was asked for.
    """

    path: Path
    frame_times: tuple[float, ...]
    flashes: tuple[float, ...]
    clicks: tuple[float, ...]
    audio_start: float
    audio_end: float
    seconds: float


def square_position(time: float, *, seconds: float, width: int, height: int) -> tuple[float, float]:
    """Centre of the square at ``time``: it crosses the picture once, on a slant, at constant speed."""
    share = time / seconds
    return SQUARE + share * (width - 2 * SQUARE), SQUARE + share * (height - 2 * SQUARE)


def picture(time: float, *, flash: bool, seconds: float, width: int, height: int) -> npt.NDArray[np.uint8]:
    """(height, width, 3): the square, its edges softened to a fraction of a pixel, white on black; black on white for a flash."""
    x, y = square_position(time, seconds=seconds, width=width, height=height)
    across = np.clip(SQUARE / 2 + 0.5 - np.abs(np.arange(width) - x), 0.0, 1.0)
    down = np.clip(SQUARE / 2 + 0.5 - np.abs(np.arange(height) - y), 0.0, 1.0)
    grey = np.round(255 * down[:, None] * across[None]).astype(np.uint8)
    return np.repeat((255 - grey if flash else grey)[..., None], 3, axis=2)


def read_picture(image: npt.NDArray[np.uint8]) -> tuple[bool, float, float]:
    """Whether an upright picture is a flash, and the centre (x, y) of its square."""
    grey = image.astype(np.float64).mean(axis=2) / 255.0
    flash = bool(grey.mean() > 0.5)
    weight = np.clip((1.0 - grey if flash else grey) - 0.2, 0.0, None)
    total = weight.sum()
    return (
        flash,
        float(weight.sum(axis=0) @ np.arange(image.shape[1]) / total),
        float(weight.sum(axis=1) @ np.arange(image.shape[0]) / total),
    )


def picture_time(image: npt.NDArray[np.uint8], *, seconds: float) -> float:
    """The time that the place of the square tells, in seconds of the maker's clock."""
    width = image.shape[1]
    _, x, _ = read_picture(image)
    return (x - SQUARE) / (width - 2 * SQUARE) * seconds


def clicks_waveform(clicks: Sequence[float], *, start: float, samples: int, sample_rate: int) -> npt.NDArray[np.float32]:
    """(samples,) float32 from time ``start`` on: silence, with a pulse of about a millisecond around each click."""
    times = start + np.arange(samples) / sample_rate
    waveform = np.zeros(samples)
    for click in clicks:
        waveform += 0.8 * np.exp(-0.5 * ((times - click) / 0.0004) ** 2)
    return waveform.astype(np.float32)


def frame_times(fps: float | str, seconds: float, start: float = 0.0) -> list[Fraction]:
    """Times of the frames from ``start`` until ``seconds``; "variable" repeats intervals of 33, 50, 20, 40 and 67 ms."""
    time, times = Fraction(start).limit_denominator(1000), []
    steps: Iterator[Fraction] = cycle(VARIABLE) if fps == "variable" else cycle([1 / rate_of(fps)])
    while time < Fraction(seconds).limit_denominator(1000):
        times.append(time)
        time += next(steps)
    return times


def rate_of(fps: float | str) -> Fraction:
    """Frames per second as a fraction; 23.976, 29.97 and 59.94 are the broadcasters'."""
    if fps == "variable":
        return len(VARIABLE) / sum(VARIABLE, Fraction(0))
    return RATES.get(float(fps), Fraction(float(fps)).limit_denominator(1001))


def flash_click_video(
    path: str | Path,
    *,
    container: str = "mp4",
    fps: float | str = 25,
    seconds: float = 3.0,
    flashes: Sequence[float] = (0.8, 1.6, 2.4),
    audio_start: float = 0.0,
    video_start: float = 0.0,
    audio_gap: tuple[float, float] | None = None,
    audio_jitter: float = 0.0,
    video_codec: str | None = None,
    audio_codec: str | None = None,
    b_frames: int = 0,
    rotation: int = 0,
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (160, 96),
    sample_rate: int = 48000,
    layout: str = "mono",
    sample_format: str | None = None,
    with_video: bool = True,
    with_audio: bool = True,
) -> Truth:
    """Write a video whose flashes and clicks fall together.

    Args:
        path: The file to write; ``container`` decides what it is, not its name.
        container: A key of ``CONTAINERS``.
        fps: Frames per second, or "variable".
        seconds: End of both streams.
        flashes: Wanted times of the flashes; each moves to the nearest frame, and its click with it.
        audio_start: Time of the first sample. AVI cannot say it, so there silence is written before.
        video_start: Time of the first frame. AVI cannot say it, so there black frames are written before.
        audio_gap: (from, until): packets that lie within are left out of the file.
        audio_jitter: Each sound packet's time is off by up to this many seconds, back and forth.
        video_codec: Encoder instead of the container's own.
        audio_codec: Encoder instead of the container's own.
        b_frames: Frames between references that are sent out of order.
        rotation: Degrees clockwise by which a player has to turn the coded picture (MP4 and MOV); the pictures stay upright.
        pixel_format: Of the coded picture.
        size: (width, height) of the upright picture.
        sample_rate: Of the coded sound, in hertz.
        layout: Of the coded sound; every channel but the low-frequency one has the clicks.
        sample_format: Of the coded sound, instead of the encoder's usual one.
        with_video: Write a video stream.
        with_audio: Write a sound stream.
    """
    muxer, own_video, own_audio = CONTAINERS[container]
    lead_video, lead_audio = (0.0, 0.0) if container == "avi" else (video_start, audio_start)
    times = frame_times(fps, seconds, lead_video)
    shown = [time for time in times if time >= Fraction(video_start).limit_denominator(1000)]
    snapped = sorted({min(shown, key=lambda time, flash=flash: abs(time - flash)) for flash in flashes})
    flashing = {time for time in snapped if float(time) >= video_start}
    audible = [
        float(t) for t in snapped if t >= audio_start and not (audio_gap and audio_gap[0] - 0.05 < t < audio_gap[1] + 0.05)
    ]
    with av.open(str(path), "w", format=muxer, options=MUXER_OPTIONS.get(container, {})) as output:
        packets: list[tuple[float, Any]] = []
        streams: list[Any] = []
        if with_video:
            stream, coded = _video(
                output, video_codec or own_video, times, flashing, rate_of(fps), seconds, size, pixel_format, rotation, b_frames
            )
            streams.append(stream)
            packets += coded
        if with_audio:
            start = lead_audio
            samples = round((seconds - start) * sample_rate)
            waveform = clicks_waveform(audible, start=start, samples=samples, sample_rate=sample_rate)
            stream, coded = _audio(
                output, audio_codec or own_audio, waveform, start, sample_rate, layout, sample_format, audio_gap, audio_jitter
            )
            streams.append(stream)
            packets += coded
        for _, packet in sorted(packets, key=lambda pair: pair[0]):
            output.mux(packet)
    if rotation:
        _rotate(Path(path), rotation)
    return Truth(
        path=Path(path),
        frame_times=tuple(map(float, times)),
        flashes=tuple(sorted(map(float, flashing))),
        clicks=tuple(audible) if with_audio else (),
        audio_start=lead_audio,
        audio_end=seconds,
        seconds=seconds,
    )


def _timed(packets: list[Any], stream: Any, shift: Fraction) -> list[tuple[float, Any]]:
    """The packets moved by ``shift`` seconds on a clock of 90 kHz, each with the time at which it is due in the file."""
    result = []
    for packet in packets:
        base, clock = packet.time_base, Fraction(1, CLOCK)
        packet.stream = stream
        pts, dts = packet.pts * base + shift, packet.dts * base + shift
        duration = (packet.duration or 0) * base
        packet.time_base = clock
        packet.pts, packet.dts, packet.duration = round(pts / clock), round(dts / clock), round(duration / clock)
        result.append((float(dts), packet))
    return result


def _video(
    output: Any,
    codec: str,
    times: list[Fraction],
    flashing: set[Fraction],
    rate: Fraction,
    seconds: float,
    size: tuple[int, int],
    pixel_format: str,
    rotation: int,
    b_frames: int,
) -> tuple[Any, list[tuple[float, Any]]]:
    stream = output.add_stream(codec, rate=rate, options=ENCODER_OPTIONS.get(codec, {}))
    width, height = size if rotation % 180 == 0 else size[::-1]
    stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
    context = stream.codec_context
    context.thread_count = 1
    context.bit_rate = 1_000_000
    constant = all(later - earlier == 1 / rate for earlier, later in pairwise(times))
    context.time_base = 1 / rate if constant else Fraction(1, CLOCK)
    if b_frames:
        context.max_b_frames = b_frames
    packets = []
    for index, time in enumerate(times):
        image = picture(float(time), flash=time in flashing, seconds=seconds, width=size[0], height=size[1])
        turned = np.ascontiguousarray(np.rot90(image, k=rotation // 90))  # counter-clockwise, so that a player's turn undoes it
        frame = av.VideoFrame.from_ndarray(turned, format="rgb24")
        frame.pts = index if constant else round((time - times[0]) * CLOCK)
        frame.time_base = context.time_base
        packets += stream.encode(frame)
    packets += stream.encode(None)
    return stream, _timed(packets, stream, times[0])


def _audio(
    output: Any,
    codec: str,
    waveform: npt.NDArray[np.float32],
    start: float,
    sample_rate: int,
    layout: str,
    sample_format: str | None,
    gap: tuple[float, float] | None,
    jitter: float,
) -> tuple[Any, list[tuple[float, Any]]]:
    stream = output.add_stream(codec, rate=sample_rate, layout=layout, options=ENCODER_OPTIONS.get(codec, {}))
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    if sample_format or codec in SAMPLE_FORMATS:
        stream.codec_context.format = sample_format or SAMPLE_FORMATS[codec]
    if codec == "libmp3lame" and output.format.name == "avi":
        # AVI has no place for the encoder's delay, so what is decoded would come late by it; here the clicks are where they sound.
        waveform = waveform[1105:]
    block = stream.codec_context.frame_size or 1024
    planes = np.stack([np.zeros_like(waveform) if name == "LFE" else waveform for name in names])
    packets = []
    for position in range(0, waveform.size, block):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(planes[:, position : position + block]), format="fltp", layout=layout
        )
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, position, Fraction(1, sample_rate)
        packets += stream.encode(frame)
    packets += stream.encode(None)
    if codec == "libmp3lame" and output.format.name == "avi":
        for packet in packets:
            packet.pts, packet.dts = packet.pts + 1105, packet.dts + 1105
    timed = _timed(packets, stream, Fraction(start).limit_denominator(1000))
    kept = []
    for index, (due, packet) in enumerate(timed):
        time, length = packet.pts / CLOCK, (packet.duration or 0) / CLOCK
        if gap is not None and time >= gap[0] and time + length <= gap[1]:
            continue
        if jitter:
            wobble = round((1, -1, 0.3, -0.6)[index % 4] * jitter * CLOCK) if index else 0
            packet.pts, packet.dts = packet.pts + wobble, packet.dts + wobble
        kept.append((due, packet))
    return stream, kept


def _rotate(path: Path, degrees: int) -> None:
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees % 360]
    set_display_matrix(path, cos, sin, -sin, cos)


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Set the display matrix of an MP4's first track, which PyAV cannot write: (x, y) is shown at (a x + c y, b x + d y)."""
    content = bytearray(path.read_bytes())
    box = content.index(b"tkhd") + 4
    matrix = box + 4 + (32 if content[box] == 1 else 20) + 8 + 8
    one = 1 << 16
    struct.pack_into(">9i", content, matrix, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
