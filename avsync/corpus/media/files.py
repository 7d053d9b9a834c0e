"""Reading of audio, and writing of FLAC and of videos with audio, through PyAV (extra ``media``)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync._checks import check_path, check_positive, check_type, import_extra
from avsync._files import replacing, untrusted
from avsync.corpus.media._downmix import Downmix
from avsync.corpus.media._interpolate import interpolate
from avsync.corpus.media.info import FloatArray, media_url
from avsync.errors import ArgumentError, CorpusError, ShapeError

_MAX_FPS = 1000
_MAX_SAMPLE_RATE = 655350  # of FLAC


def _pyav() -> ModuleType:
    return import_extra("av", "media")


def read_audio(
    path: str | os.PathLike[str], *, sample_rate: int | None = None, max_samples: int | None = None
) -> tuple[FloatArray, int]:
    """Decode the first audio stream of a file to one channel.

    Channels are mixed as in :class:`~avsync.corpus.media.audio_source.AudioSource`. A warning is issued if the channels cancel
    each other. Integer samples are divided by the range of their format, so 16-bit audio becomes exact multiples of 1/32768. A
    packet with a wrong checksum raises an error. Timestamps are ignored: samples are concatenated from the first packet on.

    Args:
        path: Any file that FFmpeg reads.
        sample_rate: Sample rate of the result, in hertz; None keeps the rate of the file.
        max_samples: Largest number of samples, at the rate of the file; longer files raise an error early. None for no limit.

    Returns:
        The waveform (samples,) float32 in [-1, 1], and its sample rate in hertz.

    Raises:
        CorpusError: The file is missing or damaged, has no audio, or has more than ``max_samples`` samples.
        MissingExtraError: PyAV is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_audio(Path(folder, "a.flac"), np.full(100, 0.5, dtype=np.float32))
        ...     waveform, rate = read_audio(Path(folder, "a.flac"))
        >>> waveform.shape, float(waveform[0]), rate
        ((100,), 0.5, 16000)

    Source: ours.
    """
    av = _pyav()
    if not Path(check_path("path", path)).is_file():
        raise CorpusError(f"{path}: expected an audio file, found none")
    check_type("max_samples", max_samples, int, optional=True)
    check_type("sample_rate", sample_rate, int, optional=True)
    if sample_rate is not None:
        check_positive("sample_rate", sample_rate)
    blocks: list[FloatArray] = []
    mix, total = Downmix(), 0
    with untrusted(CorpusError, f"{path}: expected readable audio, got"):
        with av.open(media_url(path), container_options={"protocol_whitelist": "file"}) as container:
            if not container.streams.audio:
                raise CorpusError(f"{path}: expected an audio stream, got {len(container.streams)} streams without one")
            stream = container.streams.audio[0]
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
            # Threads would live until the container is garbage-collected, and the collection hangs in a forked process.
            stream.codec_context.thread_count = 1
            rate = int(stream.rate)
            for frame in container.decode(stream):
                total += frame.samples
                if max_samples is not None and total > max_samples:
                    raise ValueError(f"more than the expected {max_samples} samples")
                blocks.append(mix(frame))
        if not blocks:
            raise ValueError("no samples")
        waveform = np.concatenate(blocks)
        if sample_rate is not None and sample_rate != rate:
            count = round(waveform.size * sample_rate / rate)
            waveform = interpolate(waveform, 0.0, count, source_rate=rate, target_rate=sample_rate)
            waveform, rate = np.clip(waveform, -1.0, 1.0), sample_rate
    if mix.warning is not None:
        warnings.warn(f"{path}: {mix.warning}", stacklevel=2)
    return waveform, rate


def _check_waveform(waveform: FloatArray) -> FloatArray:
    check_type("waveform", waveform, np.ndarray)
    if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
        raise ShapeError(f"`waveform`: expected (samples,) of a floating-point type, got {waveform.shape} {waveform.dtype}")
    peak = float(np.abs(waveform).max(initial=0.0))
    if not peak <= 1.0:
        raise ArgumentError(f"`waveform`: expected samples in [-1, 1], got a magnitude of {peak}")
    return waveform.astype(np.float32, copy=False)


def _check_rates(sample_rate: int, fps: float | Fraction = 1) -> None:
    """Raise :class:`ArgumentError` unless both rates are valid for media files."""
    check_positive("fps", fps)
    check_positive("sample_rate", sample_rate)
    if fps > _MAX_FPS or sample_rate > _MAX_SAMPLE_RATE:
        limits = f"at most {_MAX_FPS} and {_MAX_SAMPLE_RATE} per second"
        raise ArgumentError(f"`fps`, `sample_rate`: expected {limits}, got {fps} and {sample_rate}")


def _audio_frame(av: ModuleType, samples: npt.NDArray[Any], sample_format: str, sample_rate: int, position: int) -> Any:
    frame = av.AudioFrame.from_ndarray(samples[None], format=sample_format, layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, position, Fraction(1, sample_rate)
    return frame


def write_audio(path: str | os.PathLike[str], waveform: FloatArray, *, sample_rate: int = 16000) -> None:
    """Write a 16-bit mono FLAC file atomically.

    Args:
        path: File to write.
        waveform: Samples (samples,) in [-1, 1], rounded to multiples of 1/32768; the largest value written is 32767/32768.
        sample_rate: Sample rate, in hertz.

    Raises:
        ShapeError: ``waveform`` is not one channel of floating-point samples.
        ArgumentError: Samples are outside [-1, 1] or NaN.
        MissingExtraError: PyAV is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_audio(Path(folder, "a.flac"), np.zeros(640, dtype=np.float32))

    Source: ours.
    """
    av = _pyav()
    check_path("path", path)
    check_type("sample_rate", sample_rate, int)
    _check_rates(sample_rate)
    samples = np.clip(np.round(_check_waveform(waveform) * 32768.0), -32768, 32767).astype(np.int16)
    with replacing(path) as part, av.open(media_url(part), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=sample_rate, layout="mono", format="s16")
        for start in range(0, samples.size, 4096):
            container.mux(stream.encode(_audio_frame(av, samples[start : start + 4096], "s16", sample_rate, start)))
        container.mux(stream.encode(None))


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[npt.NDArray[np.uint8]],
    *,
    fps: float,
    waveform: FloatArray | None = None,
    sample_rate: int = 16000,
    crf: int = 18,
) -> int:
    """Write an MP4 file atomically, with H.264 video (yuv420p, index at the start of the file) and optional AAC audio.

    Frames are read one by one, so a generator of any length needs little memory. yuv420p requires an even width and height; an
    odd width or height is made even by repeating the last column or row.

    Args:
        path: File to write, ``.mp4``.
        frames: Images (height, width, 3) uint8, RGB, all of one size.
        fps: Frames per second.
        waveform: Samples (samples,) in [-1, 1]; the first sample is aligned with the first frame.
        sample_rate: Sample rate of ``waveform``, in hertz.
        crf: Quality of H.264; lower values give better quality and larger files.

    Returns:
        The number of frames written.

    Raises:
        ShapeError: A frame is not (height, width, 3) uint8, or differs in size from the first frame.
        ArgumentError: There are no frames, ``fps`` is not positive, or samples are outside [-1, 1].
        MissingExtraError: PyAV is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_video(Path(folder, "a.mp4"), (np.zeros((64, 64, 3), np.uint8) for _ in range(5)), fps=25)
        5

    Source: ours.
    """
    av = _pyav()
    check_path("path", path)
    check_type("fps", fps, int, float, Fraction)
    check_type("sample_rate", sample_rate, int)
    check_type("crf", crf, int)
    _check_rates(sample_rate, fps)
    if not 0 <= crf <= 51:
        raise ArgumentError(f"`crf`: expected a number from 0 to 51, got {crf!r}")
    if not isinstance(frames, Iterable) or getattr(frames, "ndim", 1) == 0:
        raise ArgumentError(f"`frames`: expected images, got {type(frames).__name__}")
    samples = None if waveform is None else _check_waveform(waveform)
    size: tuple[int, ...] | None = None
    count = sent = 0
    # PyAV writes the index of the file when the container closes, so the container must be closed before the rename.
    with replacing(path) as part, av.open(media_url(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf), "preset": "veryfast"}
        )
        video.pix_fmt = "yuv420p"
        audio = None if samples is None else container.add_stream("aac", rate=sample_rate, layout="mono")
        for image in frames:
            check_type("frames", image, np.ndarray)
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or (size or image.shape) != image.shape:
                expected = "(height, width, 3)" if size is None else str(size)
                raise ShapeError(f"`frames`: expected {expected} uint8, got {image.shape} {image.dtype} at frame {count}")
            even = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
            if size is None:
                size = image.shape
                video.height, video.width = even.shape[:2]
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
            count += 1
            if audio is not None and samples is not None:
                due = min(samples.size, round(count / fps * sample_rate))
                if due > sent:
                    container.mux(audio.encode(_audio_frame(av, samples[sent:due], "flt", sample_rate, sent)))
                    sent = due
        if size is None:
            raise ArgumentError("`frames`: expected at least one frame, got none")
        container.mux(video.encode(None))
        if audio is not None and samples is not None:
            if samples.size > sent:
                container.mux(audio.encode(_audio_frame(av, samples[sent:], "flt", sample_rate, sent)))
            container.mux(audio.encode(None))
    return count
