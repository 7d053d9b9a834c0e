"""Offset between audio and face of a recording (a video or a clip of a corpus), by landmark syncers.

A video is cut into clips where the face is lost or the scene changes. The distances of all clips are pooled per level
before the offset is computed. A positive offset means that the audio is early, as everywhere.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from avsync._checks import check_count, check_finite_numbers, checked, device_of_module
from avsync.corpus.clip import INDEX_NAME, SAMPLE_RATE, SAMPLES_PER_FRAME, Clip, Corpus, missing_ranges, resample_clip
from avsync.corpus.detectors import Detector
from avsync.corpus.extraction.from_video import iter_clips
from avsync.corpus.extraction.report import NO_AUDIO, VideoReport
from avsync.corpus.media.audio_source import AudioSource
from avsync.corpus.media.video_source import VideoSource
from avsync.corpus.speech import clip_speech
from avsync.errors import CorpusError, ShapeError
from avsync.metrics.calibration import Calibration, check_calibrated
from avsync.metrics.multi_scale import MAX_OFFSETS, LevelEmbeddings, check_max_offsets, multi_scale_embeddings
from avsync.metrics.offset import offset_from_distances, offset_milliseconds, window_distances
from avsync.metrics.posterior import offset_posterior
from avsync.metrics.report import LevelSync, face_speed, level_answers
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.pyramid import FPS

FRAME_SECONDS = 1 / FPS
"""Duration of a frame at level 0, in seconds."""
THRESHOLD = 0.6
"""Smallest probability of an accepted offset. Several levels are tried, so that the threshold is above one half."""
NULLS = 19
"""Number of rotations of the reversed audio in the test of an offset without a calibration."""
NULL_GAIN = 1.2
"""Smallest ratio between the confidence of an offset without a calibration and the confidence with reversed audio."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Clips of one recording, in the order of time.

    Attributes:
        name: Name of the video or clip, as given by the caller.
        clips: One or more clips.
        starts: Start of each clip after the first image of the video, in seconds; empty for a clip of a corpus.
        video: The file; None for a clip of a corpus.
        audio_track: Number of the audio track in use, from 1; None for a clip of a corpus.
        audio_tracks: Number of audio tracks of the file.
        fps: Frames per second of the video or of the clip in its corpus; None if unknown. The clips here have 25.
        warnings: Warnings of the decoder about the video, such as audio channels that cancel.
    """

    name: str
    clips: tuple[Clip, ...]
    starts: tuple[float, ...] = ()
    video: Path | None = None
    audio_track: int | None = None
    audio_tracks: int = 1
    fps: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Total length of the clips."""
        return sum(clip.seconds for clip in self.clips)

    @property
    def audio_seconds(self) -> float:
        """Total time of the frames with audio; only these frames are measured."""
        return sum(float(clip.has_audio.sum()) / clip.fps for clip in self.clips)


@checked
def read_recording(
    target: str | os.PathLike[str],
    *,
    detector: str | Detector = "auto",
    min_seconds: float = 2.0,
    audio_track: int | None = None,
    faces: str = "largest",
    progress: Callable[[float], None] | None = None,
) -> Recording:
    """Read a video, or a clip of a corpus.

    Args:
        target: A video file, or CORPUS/ID, a folder with an index and the id of one of its clips.
        detector: For videos; see :func:`avsync.corpus.detectors.protocol.as_detector`.
        min_seconds: Shortest segment with a face that is used, in seconds.
        audio_track: Number of the audio track of a video, from 1; by default the default track of the file, else the first.
        faces: "largest" or "stable" for one face at a time, "all" for clips of every face, which overlap in time and carry the
            label of their person; :func:`avsync.evaluation.track.persons_of` separates them.
        progress: Callback that receives the fraction of the video that was read, 0 to 1.

    Returns:
        The recording.

    Raises:
        CorpusError: There is no such video or clip, it cannot be read, has no audio, or no face is visible for ``min_seconds``.
        MissingExtraError: PyAV or the detector's library is not installed.

    Source: ours.
    """
    if audio_track is not None:
        check_count("audio_track", audio_track)
    path = Path(target)
    if not path.is_file() and (path.parent / INDEX_NAME).is_file() and not path.is_dir():
        corpus = Corpus(path.parent, fps=None)
        for number, entry in enumerate(corpus.entries):
            if entry["id"] == path.name:
                return Recording(os.fspath(target), (resample_clip(corpus[number]),), fps=corpus.fps)
        raise CorpusError(f"{path.parent}: expected a clip {path.name!r}, got {len(corpus)} clips of other names")
    if path.is_dir():
        raise CorpusError(f"{path}: expected a video, or CORPUS/ID for one clip of a corpus, got a folder")
    # A file that is missing, or has no such track, must fail before a detector is made.
    with AudioSource(path, track=audio_track) as audio:
        track, tracks = audio.track, audio.tracks
    report = VideoReport(source=os.fspath(path))
    options = {"min_seconds": min_seconds, "audio_track": track, "faces": faces}
    found = iter_clips(path, detector=detector, report=report, progress=progress, **options)  # type: ignore[arg-type]
    clips = list(found)
    if not clips:
        raise CorpusError(f"{path}: expected a face for at least {min_seconds:g} s, got {report.line().partition(': ')[2]}")
    with VideoSource(path) as video:
        first = video.info.video_start or 0.0
        rate = video.info.frame_rate
    order = sorted(range(len(clips)), key=lambda number: report.clips[number].start)
    starts = tuple(report.clips[number].start - first for number in order)
    ordered = tuple(clips[number] for number in order)
    told = tuple(text for text in report.warnings if not text.endswith(NO_AUDIO))  # the clips know better
    return Recording(os.fspath(target), ordered, starts, path, track, tracks, rate, told)


@checked
def with_delayed_audio(recording: Recording, seconds: float, *, video: str | os.PathLike[str] | None = None) -> Recording:
    """Return a recording with delayed audio and unchanged landmarks.

    Args:
        recording: From :func:`read_recording`.
        seconds: Delay in seconds; negative moves the audio forward.
        video: Take the audio from this file with the same images, as :func:`avsync.evaluation.resync.shift_audio` writes it,
            instead of the recording's own.

    Returns:
        A recording with other waveforms; frames that lost their audio are in ``missing_audio`` of its clips.

    Raises:
        CorpusError: The file cannot be read.

    Source: ours.
    """
    check_finite_numbers(seconds=seconds)
    source = recording.video if video is None else Path(video)
    starts = recording.starts or (0.0,) * len(recording.clips)
    moved: list[Clip] = []
    if source is None:
        for clip in recording.clips:
            shift = round(seconds * SAMPLE_RATE)
            present = np.ones(clip.waveform.size, dtype=bool)
            for first, stop in clip.missing_audio:
                present[SAMPLES_PER_FRAME * first : SAMPLES_PER_FRAME * stop] = False
            waveform, present = (
                np.pad(track, abs(shift))[abs(shift) - shift :][: track.size] for track in (clip.waveform, present)
            )
            moved.append(replace(clip, waveform=waveform, missing_audio=missing_ranges(present, clip.frames)))
    else:
        with VideoSource(source) as opened:
            origin = opened.info.video_start or 0.0
        with AudioSource(source, sample_rate=SAMPLE_RATE, track=recording.audio_track) as audio:
            for clip, start in zip(recording.clips, starts, strict=True):
                segment = audio.read_segment(origin + start - seconds, clip.waveform.size)
                missing = missing_ranges(segment.present, clip.frames)
                moved.append(replace(clip, waveform=segment.waveform, missing_audio=missing))
    return replace(recording, clips=tuple(moved))


@torch.no_grad()
@checked
def recording_report(
    recording: Recording,
    pyramid: MultiScaleSyncer,
    *,
    audio_transform: nn.Module,
    calibration: Calibration | None = None,
    threshold: float = THRESHOLD,
    max_offsets: Sequence[int] = MAX_OFFSETS,
) -> list[LevelSync]:
    """Measure the offset of a recording as a whole at every level.

    Frames without audio are not measured, as if the clip ended there.

    Without a calibration an offset counts as an answer only if it stands out: its confidence must be ``NULL_GAIN`` times the
    largest of the ``NULLS`` confidences of the same embeddings with the audio reversed and rotated in time, so that audio and
    motion are unrelated. Untrained syncers therefore find no offset.

    Args:
        recording: From :func:`read_recording`.
        pyramid: Trained syncers; the computation takes place on their device.
        audio_transform: From waveforms (batch, samples) to the features that the syncers were trained on, such as
            :meth:`avsync.models.syncer.interface.MultiScaleSyncer.speech_features`.
        calibration: Calibration of these syncers; without a calibration no probabilities are reported.
        threshold: Smallest probability of an offset that counts as an answer.
        max_offsets: Largest offset searched at each level, in frames of the level.

    Returns:
        One :class:`avsync.metrics.report.LevelSync` per level, each of a batch of one;
        :func:`avsync.metrics.report.report_rows` makes rows of them. A level whose windows are longer than every clip has the
        answer "nothing".

    Raises:
        ShapeError: The landmarks do not fit the syncers.
        ArgumentError: The calibration has fewer levels than the pyramid, or ``max_offsets`` does not fit.

    Source: ours; each level by SyncNet's protocol.
    """
    check_max_offsets(max_offsets, pyramid.num_levels)
    check_calibrated(calibration, pyramid.num_levels)
    pooled = [_Pool.empty(reach) for reach in max_offsets[: pyramid.num_levels]]
    moved = spoken = 0.0
    for clip in recording.clips:
        found = clip_embeddings(clip, pyramid, audio_transform)
        present = clip.has_audio
        speed = face_speed(torch.from_numpy(clip.landmarks)[None, ..., : pyramid.landmark_dims], frame_mask=_mask(clip))
        moved += float(speed) * float(present.sum()) * FRAME_SECONDS
        spoken += float(clip_speech(clip).sum()) * FRAME_SECONDS
        backwards = _backwards(clip, pyramid, audio_transform, len(found)) if calibration is None else [None] * len(found)
        for level, (embedded, null) in enumerate(zip(found, backwards, strict=True)):
            pooled[level].add(embedded, max_offsets[level], null=null)
    speed, speech = (torch.tensor([total / max(recording.audio_seconds, FRAME_SECONDS)]) for total in (moved, spoken))
    report = []
    for level, pool in enumerate(pooled):
        sync = offset_from_distances(pool.mean)
        number = torch.tensor([pool.windows])
        posterior = None
        if calibration is not None:
            numbers = calibration.levels[level]
            posterior = offset_posterior(sync.distances, pool.counts[:1], calibration=numbers, threshold=threshold)
        answers = level_answers(sync, speed=speed, speech_fraction=speech, posterior=posterior)
        if posterior is None and answers[0] == "offset" and not sync.confidence > NULL_GAIN * pool.null_confidence():
            answers = ("unsure",)
        milliseconds = offset_milliseconds(sync.offset_frames, level=level)
        frame_ms, fps = 2**level * 1000 * FRAME_SECONDS, recording.fps or 1 / FRAME_SECONDS
        report.append(LevelSync(level, frame_ms, sync, milliseconds, number, posterior, answers, fps))
    return report


def _inputs(clip: Clip, pyramid: MultiScaleSyncer, audio_transform: nn.Module) -> tuple[Tensor, Tensor]:
    device = device_of_module(pyramid)
    dims, points = pyramid.landmark_dims, pyramid.landmark_points
    if clip.landmarks.shape[2] < dims or clip.landmarks.shape[1] != points:
        raise ShapeError(
            f"`recording`: expected landmarks of {points} points with at least {dims} dims, as the syncers were trained on,"
            f" got {clip.landmarks.shape[1]} points with {clip.landmarks.shape[2]} dims in {clip.id!r}"
        )
    waveform = torch.from_numpy(clip.waveform)[None].to(device)
    features = audio_transform.to(device)(waveform)
    return torch.from_numpy(clip.landmarks)[None, ..., :dims].to(device), features


def _mask(clip: Clip) -> Tensor | None:
    """Return the mask of the frames with audio, (1, frames) bool; None if all frames have audio."""
    return torch.from_numpy(clip.has_audio)[None] if clip.missing_audio else None


def clip_embeddings(
    clip: Clip, pyramid: MultiScaleSyncer, audio_transform: nn.Module, levels: int | None = None
) -> list[LevelEmbeddings]:
    """Return embeddings of a clip at the first ``levels`` levels (all by default) that have a window, the finest first."""
    landmarks, features = _inputs(clip, pyramid, audio_transform)
    deepest = max(
        (level for level in range(levels or pyramid.num_levels) if landmarks.shape[1] >= pyramid.shortest_clip([level])),
        default=-1,
    )
    present = _mask(clip)
    present = None if present is None else present.to(landmarks.device)
    return [] if deepest < 0 else multi_scale_embeddings(pyramid, landmarks, features, levels=deepest + 1, has_audio=present)


def _backwards(clip: Clip, pyramid: MultiScaleSyncer, audio_transform: nn.Module, levels: int) -> list[LevelEmbeddings]:
    """Embed a clip's audio played backwards: as varied as the true audio, but unrelated to the motion.

    The waveform is reversed, not the order of the embeddings, so that neighbouring windows overlap as they do in true audio.
    Frames without audio stay where they are.
    """
    if not levels:
        return []
    waveform = clip.waveform.copy()
    edges = [SAMPLES_PER_FRAME * edge for edge in (0, *itertools.chain(*clip.missing_audio), clip.frames)]
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        waveform[first:stop] = waveform[first:stop][::-1]
    return clip_embeddings(replace(clip, waveform=waveform), pyramid, audio_transform, levels)


def _rolled(null: LevelEmbeddings, number: int) -> Tensor:
    """Return ``number`` rotations of the audio windows that exist in a clip, (number, windows, embed)."""
    audio = null.audio
    there = torch.arange(audio.shape[1], device=audio.device) if null.audio_mask is None else null.audio_mask[0].nonzero()[:, 0]
    rolled = audio.repeat(number, 1, 1)
    for k in range(number):
        rolled[k, there] = audio[0, there.roll(k * len(there) // number)]
    return rolled


def clip_distances(
    embedded: LevelEmbeddings, reach: int, *, nulls: int = 0, null: LevelEmbeddings | None = None
) -> tuple[Tensor, Tensor]:
    """Return distances of a clip's windows, (1 + nulls, windows, offsets), and their weights, 0 or 1, of the same shape.

    The first row is the clip, the other rows are rotations of the audio of ``null``.
    """
    motion, audio, lead, mask, audio_mask = embedded
    if null is not None:
        audio = torch.cat([audio, _rolled(null, nulls)])
        motion = motion.expand(len(audio), -1, -1)
        mask, audio_mask = (None if one is None else one.expand(len(audio), -1) for one in (mask, audio_mask))
    distances, some = window_distances(motion, audio, max_offset=reach, lead=lead, mask=mask, audio_mask=audio_mask)
    return distances, torch.ones_like(distances) if some is None else some.expand_as(distances)


@dataclass(eq=False)
class _Pool:
    """Distances of the windows of all clips at one level, summed."""

    sums: Tensor
    """(1 + NULLS, offsets); the first row is the recording, the other rows are unrelated audio."""
    counts: Tensor
    windows: int = 0

    @classmethod
    def empty(cls, reach: int) -> _Pool:
        return cls(*torch.zeros(2, 1 + NULLS, 2 * reach + 1, dtype=torch.float64))

    def add(self, embedded: LevelEmbeddings, reach: int, *, null: LevelEmbeddings | None) -> None:
        distances, some = clip_distances(embedded, reach, nulls=0 if null is None else NULLS, null=null)
        rows = len(distances)
        self.sums[:rows] += (distances * some).sum(1).double().cpu()
        self.counts[:rows] += some.sum(1).double().cpu()
        self.windows += distances.shape[1] if embedded.mask is None else int(embedded.mask.sum())

    @property
    def mean(self) -> Tensor:
        """Return the mean distances, (1, offsets) float32; NaN at offsets without a window."""
        return (self.sums[:1] / self.counts[:1]).float()

    def null_confidence(self) -> float:
        """Return the largest confidence of the unrelated audio."""
        return float(offset_from_distances((self.sums[1:] / self.counts[1:]).float()).confidence.nan_to_num(0.0).amax())
