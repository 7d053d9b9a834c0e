"""Audio of a media file as mono, by default at 16 kHz, at any instant of the video's clock."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from avsync._checks import check_positive, check_type, checked
from avsync.corpus.media._audio_clock import AudioClock, Block, Placed
from avsync.corpus.media._downmix import Downmix
from avsync.corpus.media._interpolate import interpolate, reach
from avsync.corpus.media._opened import OpenedMedia
from avsync.corpus.media._packets import decode_stream, tally
from avsync.corpus.media.info import FloatArray, contents, failures, pick_audio, reason
from avsync.errors import ArgumentError, CorpusError

#: Seconds of audio before the latest read that stay readable.
KEPT_SECONDS = 10.0

# A higher sample rate (Hz) indicates a damaged file.
_MAX_RATE = 768000


class AudioSegment(NamedTuple):
    """Segment of audio, with a mask of the samples for which the file has audio.

    Attributes:
        waveform: Samples (samples,) float32 in [-1, 1].
        present: Mask (samples,) bool; False before the start of the audio stream, in its gaps and after its end.
    """

    waveform: FloatArray
    present: npt.NDArray[np.bool_]


class AudioSource(OpenedMedia):
    r"""Audio of a file on the container's presentation clock.

    :class:`~avsync.corpus.media.video_source.VideoSource` uses the same clock.

    Timestamps determine the position of the audio. Silence is returned before the start of the stream, in its gaps and after
    its end. Overlapping audio is cut. Deviations of less than 5 ms (rounding) and single wrong timestamps are ignored. The
    encoder delay is removed if the file states it (edit lists, Opus and Matroska delays, Xing headers of MP3 files). The sample
    rate is changed with a windowed sinc of linear phase, without delay or drift for files of any length.

    Mono is unchanged, and stereo becomes the mean of both channels. More channels are mixed according to ITU-R BS.775 and
    scaled so that the mix does not clip. The centre channel, which carries speech, has :math:`\sqrt{2}` times the weight of a
    front channel. A surround channel has :math:`1 / \sqrt{2}` times this weight. The low-frequency channel is ignored.

    The file is read forwards, in constant memory. The last ten seconds stay readable.

    Args:
        path: Any file that FFmpeg reads.
        sample_rate: Sample rate of the audio that :meth:`read` returns, in hertz.
        track: Number of the audio track, from 1; by default the track that the file marks as default, otherwise the first.

    Raises:
        CorpusError: The file cannot be read, has no audio, or no audio that can be decoded.
        ArgumentError: ``sample_rate`` is not positive.
        MissingExtraError: PyAV is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from avsync.corpus.media.files import write_audio
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_audio(Path(folder, "a.flac"), np.full(1600, 0.5, dtype=np.float32))
        ...     with AudioSource(Path(folder, "a.flac")) as sound:
        ...         sound.read(-2 / 16000, 4).tolist(), sound.read(0.1 - 1 / 16000, 3).tolist()
        ([0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 0.0])

    Source: ours.
    """

    def __init__(self, path: str | os.PathLike[str], *, sample_rate: int = 16000, track: int | None = None) -> None:
        check_type("sample_rate", sample_rate, int)
        check_type("track", track, int, optional=True)
        check_positive("sample_rate", sample_rate)
        if track is not None:
            check_positive("track", track)
        super().__init__(path)
        self.sample_rate = sample_rate
        self._several = False
        self._kept: deque[Placed] = deque()
        self._forgotten: int | None = None  # index before which audio has been discarded
        with self._opening("readable audio"):
            try:
                stream = pick_audio(self._container, track)
            except CorpusError as error:
                raise CorpusError(f"{path}: {error}") from error
            if stream is None:
                raise CorpusError(f"{path}: expected an audio stream that can be decoded, got {contents(self._container)}")
            self._stream = stream
            #: Number of the track that is read, from 1.
            self.track: int = list(self._container.streams.audio).index(stream) + 1
            #: Number of audio tracks of the file.
            self.tracks: int = len(self._container.streams.audio)
            self._several = track is None and self.tracks > 1
            self._decoded = decode_stream(self._container, stream, self._damage)
            first = next(self._decoded, None)
            if first is None:
                why = "; ".join(self.warnings) or "no samples"
                raise CorpusError(f"{path}: expected an audio stream that can be decoded, got {why}")
            #: Sample rate of the coded audio, in hertz.
            self.native_rate: int = first.sample_rate
            if not 0 < self.native_rate <= _MAX_RATE:
                raise CorpusError(f"{path}: expected a sample rate up to {_MAX_RATE} Hz, got {self.native_rate}")
            #: Number of channels of the coded audio.
            self.channels: int = first.layout.nb_channels
            self._clock, self._mix = AudioClock(self.native_rate), Downmix()
            self._placed = self._clock.place(self._blocks(first))
            placed = next(self._placed, None)
            if placed is not None:
                self._kept.append(placed)
        #: Time of the first sample, in seconds.
        self.start: float = self._clock.start
        #: Time after the last sample, in seconds; None until the end has been read.
        self.end: float | None = None
        self._length = 0 if placed is None else placed.samples.size

    @property
    def warnings(self) -> list[str]:
        """Warnings so far, one line per kind, with the count; channels that cancel come first."""
        clock, mix = getattr(self, "_clock", None), getattr(self, "_mix", None)
        lines = [mix.warning] if mix is not None and mix.warning is not None else []
        lines += tally(self._damage)
        if self._several:
            lines.append(f"audio track {self.track} of {self.tracks} was read")
        if clock is not None and clock.gaps[0]:
            lines.append(f"gaps in the audio, {clock.gaps[1]:.3f} s in total, read as silence: {clock.gaps[0]}")
        if clock is not None and clock.overlaps[0]:
            lines.append(
                f"audio blocks cut by {clock.overlaps[1]:.3f} s in total, because they overlap the block before: "
                f"{clock.overlaps[0]}"
            )
        return lines

    @checked
    def read(self, start: float, samples: int) -> FloatArray:
        """Return the audio from an instant on; silence where the file has no audio.

        Args:
            start: Time of the first sample, in seconds on the presentation clock; exact, also between samples of the file.
            samples: Number of samples, at ``sample_rate``.

        Returns:
            (samples,) float32 in [-1, 1].

        Raises:
            ArgumentError: ``start`` is more than ten seconds before an earlier read, an argument is invalid, or the source is
                closed.
        """
        return self.read_segment(start, samples).waveform

    @checked
    def read_segment(self, start: float, samples: int) -> AudioSegment:
        """Return the audio from an instant on, with a mask of the samples for which the file has audio.

        Args:
            start: As in :meth:`read`.
            samples: As in :meth:`read`.

        Returns:
            :class:`AudioSegment`.

        Raises:
            ArgumentError: As in :meth:`read`.
        """
        self._check_open("read")
        fits = isinstance(samples, int | np.integer) and isinstance(start, int | float | np.number)
        if not fits or samples < 0 or not math.isfinite(start):
            raise ArgumentError(
                f"`start`, `samples`: expected a finite time and an integer of at least 0, got {start!r} and {samples!r}"
            )
        margin = reach(self.native_rate, self.sample_rate)
        position = (start - self.start) * self.native_rate
        low = math.floor(position) - margin
        high = math.ceil(position + samples * self.native_rate / self.sample_rate) + margin + 2
        if self._forgotten is not None and low + margin < self._forgotten:
            earliest = self.start + self._forgotten / self.native_rate
            raise ArgumentError(f"`start`: expected at least {earliest:.3f} s, because audio is read forwards, got {start:.3f}")
        self._advance(low, high)
        window, present = np.zeros(high - low, dtype=np.float32), np.zeros(high - low, dtype=bool)
        for begin, block in self._kept:
            first, last = max(begin, low), min(begin + block.size, high)
            if last > first:
                window[first - low : last - low] = block[first - begin : last - begin]
                present[first - low : last - low] = True
        values = interpolate(window, position - low, samples, source_rate=self.native_rate, target_rate=self.sample_rate)
        nearest = np.floor(position - low + np.arange(samples) * (self.native_rate / self.sample_rate) + 0.5).astype(np.int64)
        return AudioSegment(np.clip(values, -1.0, 1.0), present[nearest])

    def _advance(self, low: int, high: int) -> None:
        """Decode until ``high`` and discard audio more than ``KEPT_SECONDS`` before ``low``."""
        oldest = low - round(KEPT_SECONDS * self.native_rate)
        while self.end is None and self._length < high:
            placed = next(self._placed, None)
            if placed is None:
                self.end = self.start + self._length / self.native_rate
                break
            self._kept.append(placed)
            self._length = placed.begin + placed.samples.size
            self._forget(oldest)
        self._forget(oldest)

    def _forget(self, oldest: int) -> None:
        while self._kept and self._kept[0].begin + self._kept[0].samples.size <= oldest:
            block = self._kept.popleft()
            self._forgotten = block.begin + block.samples.size

    def _blocks(self, first: Any) -> Iterator[Block]:
        yield from self._block(first)
        for frame in self._decoded:
            yield from self._block(frame)

    def _block(self, frame: Any) -> Iterator[Block]:
        if frame.is_corrupt:
            self._damage["audio blocks that the decoder reports as damaged"] += 1
        try:
            samples = self._mix(frame)
        except failures() as error:
            self._damage[f"audio blocks that cannot be used ({reason(error)})"] += 1
            return
        rate = frame.sample_rate
        if rate != self.native_rate and 0 < rate <= _MAX_RATE and samples.size:
            self._damage[f"audio blocks at {rate} Hz in a stream at {self.native_rate} Hz"] += 1
            # Linear interpolation suffices: a change of rate is rare, and there are no artefacts between blocks.
            places = np.arange(max(1, round(samples.size * self.native_rate / rate))) * (rate / self.native_rate)
            samples = np.interp(places, np.arange(samples.size), samples).astype(np.float32)
        base = frame.time_base or self._stream.time_base
        yield Block(None if frame.pts is None or base is None else float(frame.pts * base), samples)
