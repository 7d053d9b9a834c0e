"""Synchrony of audio and landmarks while they arrive, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avsync._checks import check_count, check_floating, check_positive, check_shape, checked, device_of_module
from avsync.errors import ArgumentError
from avsync.metrics.calibration import Calibration
from avsync.metrics.multi_scale import MAX_OFFSETS
from avsync.metrics.report import LevelSync, sync_report
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.pyramid import FPS, SAMPLES_PER_FRAME
from avsync.resampling import check_fps, frames_around, resample_frames


class StreamSync(NamedTuple):
    """Report on the last seconds of a stream."""

    start: float
    """Start of the reported seconds, in seconds since the start of the stream."""
    end: float
    """End of the reported seconds."""
    report: list[LevelSync]
    """One :class:`avsync.metrics.report.LevelSync` per level, each of a batch of one."""


class SyncStream:
    """Scorer of audio and landmarks that arrive together or apart, in chunks of any size.

    Every ``every`` seconds the stream reports the last ``seconds`` seconds. A report equals
    :func:`avsync.metrics.report.sync_report` of the same crop of the whole recording: the landmarks of the crop, and its
    audio with ``margin`` frames on both sides. Features are computed on this audio alone. The stream keeps only the frames and
    samples that the next report needs.

    Args:
        pyramid: Trained syncers; the computation takes place on their device.
        seconds: Length of the reported crop, in seconds.
        every: Time between two reports, in seconds.
        margin: Frames of audio before and after the crop; a multiple of ``2**(levels - 1)``. A report waits for the audio of
            the margin.
        audio_transform: From a waveform (1, samples) to features; by default the features that the syncers were trained on.
        calibration: Calibration of the syncers, for probabilities.
        max_offsets: Largest offset searched at each level, in frames of the level.
        fps: Frames per second of the landmarks. Those of another rate than 25 are resampled as
            :func:`avsync.resampling.resample_frames` resamples the whole recording.

    Raises:
        ArgumentError: ``fps`` is not above 0, the syncers have another rate than 25 frames per second, a length is too short
            for a window at every level, ``margin`` is negative, or the syncers have custom features and no
            ``audio_transform`` is given.

    Example:
        >>> from avsync.models import SyncerConfig, SyncerPyramid, SyncerPyramidConfig
        >>> config = SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4), audio="log-mel")
        >>> stream = SyncStream(SyncerPyramid(config), seconds=2.0, margin=8)
        >>> reports = [stream.push(torch.rand(25, 68, 2), torch.randn(16000)) for _ in range(5)]
        >>> [[(found.start, found.end) for found in some] for some in reports]
        [[], [], [(0.32, 2.32)], [(1.32, 3.32)], [(2.32, 4.32)]]

    Source: ours; each report by SyncNet's protocol (paper section 4.3).
    """

    @checked
    def __init__(
        self,
        pyramid: MultiScaleSyncer,
        *,
        seconds: float = 4.0,
        every: float = 1.0,
        margin: int = 40,
        audio_transform: nn.Module | None = None,
        calibration: Calibration | None = None,
        max_offsets: Sequence[int] = MAX_OFFSETS,
        fps: float = FPS,
    ) -> None:
        check_positive("seconds", seconds)
        check_positive("every", every)
        check_count("margin", margin, 0)
        if pyramid.fps != FPS:
            raise ArgumentError(f"`pyramid`: expected syncers of {FPS:g} frames per second, got {pyramid.fps:g}")
        if margin % 2 ** (pyramid.num_levels - 1):
            raise ArgumentError(f"`margin`: expected a multiple of {2 ** (pyramid.num_levels - 1)} frames, got {margin}")
        self._frames, self._step = round(seconds * FPS), max(1, round(every * FPS))
        if self._frames < pyramid.shortest_clip():
            raise ArgumentError(f"`seconds`: expected at least {pyramid.shortest_clip() / FPS:g} s, got {seconds!r}")
        transform = pyramid.speech_features() if audio_transform is None else audio_transform
        if transform is None:
            raise ArgumentError("`audio_transform`: expected a module, because the syncers have custom features, got None")
        self.pyramid, self.margin, self.fps = pyramid, margin, check_fps("fps", fps)
        self._around = frames_around(self.fps)
        self._transform, self._calibration, self._max_offsets = transform, calibration, max_offsets
        self._landmarks: list[Tensor] = []
        self._waveform: list[Tensor] = []
        self._sizes: dict[str, int] = {}  # points and dims of the landmarks so far
        self._first_frame = self._first_sample = 0  # of what is kept
        self._begin = margin  # frame, of 25 per second, at which the next crop begins

    @property
    def kept(self) -> tuple[int, int]:
        """Frames and samples that the stream keeps."""
        return sum(len(part) for part in self._landmarks), sum(len(part) for part in self._waveform)

    @checked
    def push(self, landmarks: Tensor, audio: Tensor) -> list[StreamSync]:
        """Add landmarks and audio, and return the reports that they complete.

        Args:
            landmarks: (frames, points, dims) at ``fps`` frames per second; may have no frame.
            audio: Waveform (samples,) at 16 kHz; may have no sample. Landmarks and audio begin at the same instant.

        Returns:
            The reports, in the order of time.

        Raises:
            ShapeError: The shapes are wrong, or do not fit the syncers.
        """
        check_shape("landmarks", landmarks, "frames points dims", **self._sizes)
        check_shape("audio", audio, "samples")
        check_floating("audio", audio)
        self._sizes = {"points": landmarks.shape[1], "dims": landmarks.shape[2]}
        device = device_of_module(self.pyramid)
        # Copies, because the caller may fill the same buffer again; no empty chunks, which would pile up.
        self._landmarks += [landmarks.to(device, copy=True)] if len(landmarks) else []
        self._waveform += [audio.to(device, copy=True)] if len(audio) else []
        found = []
        while self._is_complete():
            found.append(self._report())
            self._begin += self._step
            self._forget()
        return found

    def _span(self) -> tuple[int, int]:
        """Return the first frame of the landmarks that the next report needs, and the first one that it does not need."""
        ends = (self._begin, self._begin + self._frames - 1)
        first, last = (math.floor(frame * self.fps / FPS) for frame in ends)
        return max(0, first - self._around), last + self._around + 1

    def _is_complete(self) -> bool:
        frames, samples = self.kept
        heard = self._begin + self._frames + self.margin
        return self._first_frame + frames >= self._span()[1] and self._first_sample + samples >= SAMPLES_PER_FRAME * heard

    @torch.no_grad()
    def _report(self) -> StreamSync:
        self._landmarks, self._waveform = [torch.cat(self._landmarks)], [torch.cat(self._waveform)]
        first, stop = self._span()
        landmarks = self._landmarks[0][None, first - self._first_frame : stop - self._first_frame]
        if self._around:
            start = first / self.fps - self._begin / FPS
            landmarks = resample_frames(landmarks, fps=self.fps, frames=self._frames, start=start)
        sample = SAMPLES_PER_FRAME * (self._begin - self.margin) - self._first_sample
        count = SAMPLES_PER_FRAME * (self._frames + 2 * self.margin)
        waveform = self._waveform[0][None, sample : sample + count]
        features = self._transform.to(waveform.device)(waveform)
        report = sync_report(
            self.pyramid,
            landmarks,
            features,
            margin=self.margin,
            calibration=self._calibration,
            max_offsets=self._max_offsets,
        )
        report = [level._replace(fps=self.fps) for level in report]
        return StreamSync(self._begin / FPS, (self._begin + self._frames) / FPS, report)

    def _forget(self) -> None:
        """Drop what no later report needs."""
        frames, samples = (
            self._span()[0] - self._first_frame,
            SAMPLES_PER_FRAME * (self._begin - self.margin) - self._first_sample,
        )
        (landmarks,), (waveform,) = self._landmarks, self._waveform
        frames, samples = min(frames, len(landmarks)), min(samples, len(waveform))
        # Copies, because a view would keep the whole buffer.
        self._landmarks, self._waveform = [landmarks[frames:].clone()], [waveform[samples:].clone()]
        self._first_frame += frames
        self._first_sample += samples
