"""Offset of a recording over time, and the face that speaks among several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from avsync._checks import check_positive, checked
from avsync.corpus.clip import SAMPLES_PER_FRAME, Clip
from avsync.errors import ArgumentError
from avsync.evaluation.answer import find_offset
from avsync.evaluation.recording import FRAME_SECONDS, Recording
from avsync.metrics.report import LevelSync


class OffsetPoint(NamedTuple):
    """Offset of a part of a recording."""

    seconds: float
    """Middle of the part after the first image of the video, in seconds."""
    offset: float | None
    """Offset in seconds, positive if the audio is early; None if it cannot be determined."""
    probability: float | None
    """Probability that the offset is right within one frame of its level; None without an offset or without a calibration."""
    confidence: float
    """SyncNet's confidence at the finest level; NaN for a part without audio."""


@checked
def offset_track(
    recording: Recording, measure: Callable[[Recording], list[LevelSync]], *, seconds: float = 4.0, every: float = 1.0
) -> list[OffsetPoint]:
    """Measure the offset of consecutive parts of a recording, each for itself.

    A drift shows as a line, an edit in the audio as a step. :func:`avsync.evaluation.drift.find_drift` decides whether the
    line is a drift.

    Args:
        recording: From :func:`avsync.evaluation.recording.read_recording`.
        measure: :func:`avsync.evaluation.recording.recording_report` with its options, of one argument.
        seconds: Length of a part, in seconds; a shorter clip is one part.
        every: Time between the beginnings of two parts, in seconds.

    Returns:
        One :class:`OffsetPoint` per part, in the order of time.

    Raises:
        ArgumentError: A duration is not above 0.

    Source: ours.
    """
    check_positive("seconds", seconds)
    check_positive("every", every)
    frames, step = max(1, round(seconds / FRAME_SECONDS)), max(1, round(every / FRAME_SECONDS))
    points = []
    starts = recording.starts or (0.0,) * len(recording.clips)
    for clip, start in zip(recording.clips, starts, strict=True):
        for first in range(0, max(1, clip.frames - frames + 1), step):
            part = _part(clip, first, min(first + frames, clip.frames))
            answer, report = find_offset(Recording(recording.name, (part,)), measure)
            middle = start + (first + part.frames / 2) * FRAME_SECONDS
            points.append(OffsetPoint(middle, answer.seconds, answer.probability, float(report[0].sync.confidence)))
    return points


def _part(clip: Clip, first: int, last: int) -> Clip:
    """Return the frames ``first`` to ``last`` of a clip with their audio."""
    missing = tuple((max(a, first) - first, min(b, last) - first) for a, b in clip.missing_audio if a < last and first < b)
    waveform = clip.waveform[SAMPLES_PER_FRAME * first : SAMPLES_PER_FRAME * last]
    return replace(clip, landmarks=clip.landmarks[first:last], waveform=waveform, missing_audio=missing)


class SpeakingFace(NamedTuple):
    """Face of a video whose motion agrees with the audio."""

    person: str | None
    """Name of the most probable face; None if "nobody" is more probable than every face."""
    probabilities: dict[str, float]
    """Probability of each face; together with ``nobody`` they sum to 1."""
    nobody: float
    """Probability that no visible face speaks."""


@checked
def persons_of(recording: Recording) -> dict[str, Recording]:
    """Split a recording with all faces into one recording per person.

    Args:
        recording: From :func:`avsync.evaluation.recording.read_recording` with ``faces="all"``.

    Returns:
        Recordings by the label of the person, such as ``talk_p0``, in the order of their first clips.

    Source: ours.
    """
    persons: dict[str, list[int]] = {}
    for number, clip in enumerate(recording.clips):
        persons.setdefault(clip.speaker, []).append(number)
    return {
        person: replace(
            recording,
            clips=tuple(recording.clips[number] for number in numbers),
            starts=tuple(recording.starts[number] for number in numbers) if recording.starts else (),
        )
        for person, numbers in persons.items()
    }


@checked
def speaking_face(persons: Mapping[str, Recording], measure: Callable[[Recording], list[LevelSync]]) -> SpeakingFace:
    r"""Find the face whose motion agrees with the audio.

    The calibrated probability :math:`p_i` that the audio belongs to face :math:`i`, at any offset of the search, is measured
    for each face alone at the finest level (field ``match`` of :class:`avsync.metrics.posterior.OffsetPosterior`). At most
    one face speaks, so that

    .. math::
        P(i) = \frac{o_i}{1 + \sum_j o_j}, \quad P(\text{nobody}) = \frac{1}{1 + \sum_j o_j}, \quad o_i = \frac{p_i}{1 - p_i}

    A still face, a face that is shown for less than a window, and a face in a recording without speech have :math:`p_i = 0`.

    Args:
        persons: Recordings by name, with the same audio, such as from :func:`persons_of`.
        measure: :func:`avsync.evaluation.recording.recording_report` with its options and a calibration, of one argument.

    Returns:
        :class:`SpeakingFace`.

    Raises:
        ArgumentError: There is no person, or the reports have no probabilities because no calibration was given.

    Source: ours.
    """
    if not persons:
        raise ArgumentError("`persons`: expected at least one face, got none")
    odds = {}
    for name, recording in persons.items():
        finest = measure(recording)[0]
        if finest.posterior is None:
            raise ArgumentError("`measure`: expected reports with a calibration, which probabilities need, got none")
        unknown = finest.answers[0] in ("nothing", "silent", "still")
        sure = 0.0 if unknown else min(float(finest.posterior.match), 1 - 1e-6)
        odds[name] = sure / (1 - sure)
    total = 1 + sum(odds.values())
    probabilities = {name: value / total for name, value in odds.items()}
    best = max(probabilities, key=lambda name: probabilities[name])
    return SpeakingFace(best if probabilities[best] > 1 / total else None, probabilities, 1 / total)
