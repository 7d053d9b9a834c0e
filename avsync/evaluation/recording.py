"""How early or late the sound of a recording is, by landmark syncers: of one's own video, or of a clip of a corpus.

A video is cut into clips where its face is lost or its scene changes; the distances of all its clips are pooled, level by level, before
an offset is read from them. Signs as everywhere: a positive offset says that the audio is early.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from avsync.corpus.banks.memory import clip_speech
from avsync.corpus.clip import INDEX_NAME, SAMPLE_RATE, Clip, Corpus
from avsync.corpus.detectors import Detector
from avsync.corpus.extraction.from_video import iter_clips
from avsync.corpus.extraction.report import VideoReport
from avsync.corpus.media.audio_source import AudioSource
from avsync.corpus.media.video_source import VideoSource
from avsync.errors import ArgumentError, CorpusError, ShapeError
from avsync.metrics.calibration import Calibration
from avsync.metrics.multi_scale import MAX_OFFSETS, check_max_offsets, multi_scale_embeddings
from avsync.metrics.offset import offset_from_distances, offset_milliseconds, window_distances
from avsync.metrics.posterior import offset_posterior, sub_frame_offset
from avsync.metrics.report import LevelSync, face_speed, level_answers
from avsync.models.syncer.interface import MultiScaleSyncer

FRAME_SECONDS = 0.04
"""Seconds of a frame at level 0."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Clips of one recording, in the order of time.

    Attributes:
        name: As it was asked for.
        clips: At least one.
        starts: Seconds from the first picture of the video to each clip; empty for a clip of a corpus.
        video: The file; None for a clip of a corpus.
    """

    name: str
    clips: tuple[Clip, ...]
    starts: tuple[float, ...] = ()
    video: Path | None = None

    @property
    def seconds(self) -> float:
        """Length of all clips together."""
        return sum(clip.seconds for clip in self.clips)


def read_recording(
    target: str | os.PathLike[str],
    *,
    detector: str | Detector = "face-alignment",
    min_seconds: float = 2.0,
    progress: Callable[[float], None] | None = None,
) -> Recording:
    """Read a video, or a clip of a corpus.

    Args:
        target: A video file, or CORPUS/ID, a folder with an index and the id of one of its clips.
        detector: For videos; see :func:`avsync.corpus.detectors.protocol.as_detector`.
        min_seconds: Shortest stretch of a video with a face that is used.
        progress: Called now and then with the share of a video that has passed, 0 to 1.

    Returns:
        The recording; of several faces at once, the largest.

    Raises:
        CorpusError: There is no such video or clip, it cannot be read, has no sound, or no face stays for ``min_seconds``.
        MissingExtraError: PyAV or the detector's library is not installed.

    Source: ours.
    """
    path = Path(target)
    if not path.is_file() and (path.parent / INDEX_NAME).is_file() and not path.is_dir():
        corpus = Corpus(path.parent)
        for number, entry in enumerate(corpus.entries):
            if entry["id"] == path.name:
                return Recording(os.fspath(target), (corpus[number],))
        raise CorpusError(f"{path.parent}: expected a clip {path.name!r}, got {len(corpus)} clips of other names")
    if path.is_dir():
        raise CorpusError(f"{path}: expected a video, or CORPUS/ID for one clip of a corpus, got a folder")
    report = VideoReport(source=os.fspath(path))
    clips = list(iter_clips(path, detector=detector, min_seconds=min_seconds, report=report, progress=progress))
    if not clips:
        raise CorpusError(f"{path}: expected a face for at least {min_seconds:g} s, got {report.line().partition(': ')[2]}")
    with VideoSource(path) as video:
        first = video.info.video_start or 0.0
    order = sorted(range(len(clips)), key=lambda number: report.clips[number].start)
    starts = tuple(report.clips[number].start - first for number in order)
    return Recording(os.fspath(target), tuple(clips[number] for number in order), starts, path)


def with_delayed_sound(recording: Recording, seconds: float, *, video: str | os.PathLike[str] | None = None) -> Recording:
    """The recording as it would be with its sound delayed; the landmarks stay what they are.

    Args:
        recording: From :func:`read_recording`.
        seconds: Delay; negative moves the sound forward.
        video: Take the sound from this file with the same pictures, as :func:`avsync.evaluation.resync.shift_sound` writes them,
            instead of the recording's own.

    Returns:
        A recording with other waveforms. Of a clip of a corpus, whose surroundings are not known, silence moves in.

    Raises:
        CorpusError: The file cannot be read.

    Source: ours.
    """
    source = recording.video if video is None else Path(video)
    if source is None:
        shift = round(seconds * SAMPLE_RATE)
        moved = []
        for clip in recording.clips:
            around = np.pad(clip.waveform, abs(shift))
            moved.append(replace(clip, waveform=around[abs(shift) - shift :][: clip.waveform.size]))
        return replace(recording, clips=tuple(moved))
    with VideoSource(source) as opened:
        first = opened.info.video_start or 0.0
    with AudioSource(source, sample_rate=SAMPLE_RATE) as sound:
        clips = tuple(
            replace(clip, waveform=sound.read(first + start - seconds, clip.waveform.size))
            for clip, start in zip(recording.clips, recording.starts, strict=True)
        )
    return replace(recording, clips=clips)


@torch.no_grad()
def recording_report(
    recording: Recording,
    pyramid: MultiScaleSyncer,
    *,
    audio_transform: nn.Module,
    calibration: Calibration | None = None,
    threshold: float = 0.5,
    max_offsets: Sequence[int] = MAX_OFFSETS,
) -> list[LevelSync]:
    """What the syncers say of a recording as a whole.

    Args:
        recording: From :func:`read_recording`.
        pyramid: Trained syncers; the computation takes place where they are.
        audio_transform: From waveforms (batch, samples) to the features that the syncers were trained on, such as
            :meth:`avsync.models.syncer.interface.MultiScaleSyncer.speech_features`.
        calibration: Of these syncers; without it there are no probabilities.
        threshold: Probability from which an offset counts as an answer.
        max_offsets: Largest offset searched at each level, in frames of the level.

    Returns:
        One :class:`avsync.metrics.report.LevelSync` a level, each of a batch of one; :func:`avsync.metrics.report.report_rows` makes
        rows of them. A level whose windows are longer than every clip has the answer "nothing".

    Raises:
        ShapeError: The landmarks are not those that the syncers know.
        ArgumentError: The calibration has fewer levels than the pyramid, or ``max_offsets`` does not fit.

    Source: ours; each level by SyncNet's protocol.
    """
    check_max_offsets(max_offsets, pyramid.num_levels)
    if calibration is not None and len(calibration.levels) < pyramid.num_levels:
        raise ArgumentError(f"`calibration`: expected {pyramid.num_levels} levels, got {len(calibration.levels)}")
    levels = range(pyramid.num_levels)
    sums = [torch.zeros(1, 2 * reach + 1, dtype=torch.float64) for reach in max_offsets]
    counts = [torch.zeros_like(total) for total in sums]
    windows = [0 for _ in levels]
    moved = spoken = 0.0
    for clip in recording.clips:
        landmarks, features = _inputs(clip, pyramid, audio_transform)
        moved += float(face_speed(landmarks)) * clip.seconds
        spoken += float(clip_speech(clip).mean()) * clip.seconds
        for level, (distances, some) in _distances(pyramid, landmarks, features, max_offsets).items():
            sums[level] += (distances * some).sum(1).double().cpu()
            counts[level] += some.sum(1).double().cpu()
            windows[level] += distances.shape[1]
    speed, speech = (torch.tensor([total / recording.seconds]) for total in (moved, spoken))
    report = []
    for level in levels:
        sync = offset_from_distances((sums[level] / counts[level]).float())
        number = torch.tensor([windows[level]])
        posterior = None
        if calibration is not None:
            numbers = calibration.levels[level]
            posterior = offset_posterior(sync.distances, number.clamp_min(1), calibration=numbers, threshold=threshold)
        answers = level_answers(sync, speed=speed, speech_fraction=speech, posterior=posterior)
        milliseconds = offset_milliseconds(sync.offset_frames, level=level)
        report.append(LevelSync(level, 2**level * 1000 * FRAME_SECONDS, sync, milliseconds, number, posterior, answers))
    return report


def _inputs(clip: Clip, pyramid: MultiScaleSyncer, audio_transform: nn.Module) -> tuple[Tensor, Tensor]:
    device = next(pyramid.parameters()).device
    dims, points = pyramid.landmark_dims, pyramid.landmark_points
    if clip.landmarks.shape[2] < dims or clip.landmarks.shape[1] != points:
        raise ShapeError(
            f"`recording`: expected landmarks of {points} points with at least {dims} dims, as the syncers know them,"
            f" got {clip.landmarks.shape[1]} points with {clip.landmarks.shape[2]} dims in {clip.id!r}"
        )
    waveform = torch.from_numpy(clip.waveform)[None].to(device)
    features = audio_transform.to(device)(waveform)
    return torch.from_numpy(clip.landmarks)[None, ..., :dims].to(device), features


def _distances(
    pyramid: MultiScaleSyncer, landmarks: Tensor, features: Tensor, max_offsets: Sequence[int]
) -> dict[int, tuple[Tensor, Tensor]]:
    """Distances of a clip's windows and which count, at those levels that have a window."""
    deepest = max(
        (level for level in range(pyramid.num_levels) if landmarks.shape[1] >= pyramid.shortest_clip([level])), default=-1
    )
    if deepest < 0:
        return {}
    found = {}
    for level, embedded in enumerate(multi_scale_embeddings(pyramid, landmarks, features, levels=deepest + 1)):
        distances, some = window_distances(**embedded._asdict(), max_offset=max_offsets[level])
        found[level] = (distances, torch.ones_like(distances) if some is None else some.expand_as(distances))
    return found


@dataclass(frozen=True)
class OffsetAnswer:
    """The offset of a recording, by the finest level that can tell.

    Attributes:
        seconds: By how much the audio is early; negative if it is late. None for "cannot tell".
        level: The level that told.
        probability: That it is right within a frame of the level; None without a calibration.
    """

    seconds: float | None
    level: int | None = None
    probability: float | None = None

    @property
    def words(self) -> str:
        """What to do, in a sentence."""
        if self.seconds is None:
            return "cannot tell whether the audio is early or late"
        frames, milliseconds = abs(self.seconds) / FRAME_SECONDS, 1000 * abs(self.seconds)
        amount = f"{milliseconds:.0f} ms ({frames:.1f} frames)"
        if frames < 0.5:
            return f"in sync: the audio is {'early' if self.seconds >= 0 else 'late'} by {amount}, less than half a frame"
        if self.seconds > 0:
            return f"the audio is early by {amount}: delay it by that"
        return f"the audio is late by {amount}: move it forward by that"


def find_offset(recording: Recording, measure: Callable[[Recording], list[LevelSync]]) -> tuple[OffsetAnswer, list[LevelSync]]:
    """The offset of a recording, and the report that it was read from.

    Fine levels are precise and search half a second, coarse ones search more than a second and are less precise. Where only a coarse
    one can tell, the sound is moved by what it said and the finer ones are asked again.

    Args:
        recording: From :func:`read_recording`.
        measure: :func:`recording_report` with its options, of one argument.

    Returns:
        The answer, and the report of the recording as it is.

    Source: ours.
    """
    report = measure(recording)
    answer = _answer(report)
    if answer.seconds is not None and answer.level:
        again = _answer(measure(with_delayed_sound(recording, answer.seconds)), within=report[answer.level].frame_ms / 1000)
        if again.seconds is not None and again.level is not None and again.level < answer.level:
            answer = OffsetAnswer(answer.seconds + again.seconds, again.level, again.probability)
    return answer, report


def confirms(before: OffsetAnswer, after: OffsetAnswer) -> bool:
    """Return whether an offset is gone after its correction: the corrected recording has an offset, and a smaller one.

    Args:
        before: Of the recording as it was.
        after: Of the corrected recording. Its offset counts as none up to a frame of the level that found it.

    Example:
        >>> confirms(OffsetAnswer(0.16, 0), OffsetAnswer(0.004, 0)), confirms(OffsetAnswer(0.16, 0), OffsetAnswer(None))
        (True, False)

    Source: ours.
    """
    if before.seconds is None or after.seconds is None:
        return False
    return abs(after.seconds) < min(abs(before.seconds), FRAME_SECONDS * 2 ** (after.level or 0))


def _answer(report: Sequence[LevelSync], within: float = float("inf")) -> OffsetAnswer:
    """The finest level that can tell; without a calibration, the one whose offset stands out most.

    How far confidence strays for sound that does not belong shrinks with the root of the windows, so it is multiplied by that.

    ``within`` leaves out offsets of more seconds: what is left of a coarse estimate that was right is at most a frame of its level.
    """
    found = [
        OffsetAnswer(
            float(sub_frame_offset(level.sync.distances)) * level.frame_ms / 1000,
            level.level,
            None if level.posterior is None else float(level.posterior.probability),
        )
        for level in report
        if level.answers[0] == "offset"
    ]
    near = [answer for answer in found if answer.seconds is not None and abs(answer.seconds) <= within]
    if not near:
        return OffsetAnswer(None)
    if near[0].probability is not None or within < float("inf"):
        return near[0]
    return max(near, key=lambda answer: _standing_out(report[answer.level or 0]))


def _standing_out(level: LevelSync) -> float:
    return float(level.sync.confidence) * float(level.windows) ** 0.5
