"""The offset of a recording in one answer, or none, from the offsets of its levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from avsync._checks import checked
from avsync.evaluation.drift import Drift
from avsync.evaluation.recording import FRAME_SECONDS, Recording, with_delayed_audio
from avsync.metrics.posterior import sub_frame_offset
from avsync.metrics.report import LevelSync

COARSE_LEVEL = 2
"""The finest level that cannot confirm the offset of a coarser one."""


@dataclass(frozen=True)
class OffsetAnswer:
    """Offset of a recording, from the finest level that has an answer.

    Attributes:
        seconds: Offset in seconds, positive if the audio is early; None if the offset cannot be determined.
        level: Level that gave the offset.
        probability: Probability that the offset is correct within one frame of the level; None without a calibration.
        drift: Drift that rules out a constant offset; None without a drift.
    """

    seconds: float | None
    level: int | None = None
    probability: float | None = None
    drift: Drift | None = None

    @property
    def words(self) -> str:
        """Describe the correction in a sentence."""
        if self.drift is not None:
            return self.drift.words
        if self.seconds is None:
            return "cannot tell whether the audio is early or late"
        frames, milliseconds = abs(self.seconds) / FRAME_SECONDS, 1000 * abs(self.seconds)
        amount = f"{milliseconds:.0f} ms ({frames:.1f} frames)"
        if frames < 0.5:
            return f"in sync: the audio is {'early' if self.seconds >= 0 else 'late'} by {amount}, less than half a frame"
        if self.seconds > 0:
            return f"the audio is early by {amount}: delay it by that"
        return f"the audio is late by {amount}: move it forward by that"


@checked
def find_offset(
    recording: Recording,
    measure: Callable[[Recording], list[LevelSync]],
    *,
    drift: Callable[[Recording], Drift | None] | None = None,
) -> tuple[OffsetAnswer, list[LevelSync]]:
    """Find the offset of a recording, and return the offset with its report.

    Fine levels are precise and search half a second. Coarse levels search more than a second and
    often find a false offset if audio and motion are unrelated. The offset of a coarse level therefore counts only if a finer
    level finds the rest of the offset after the audio was moved. An offset at the edge of the search never counts.

    Args:
        recording: From :func:`avsync.evaluation.recording.read_recording`.
        measure: :func:`avsync.evaluation.recording.recording_report` with its options, of one argument.
        drift: :func:`avsync.evaluation.drift.find_drift` with its options, of one argument; None does not look for a drift.

    Returns:
        The answer, and the report of the uncorrected recording.

    Source: ours.
    """
    report = measure(recording)
    answers = _answers(report)
    # Without probabilities the level with the clearest offset comes first.
    if any(answer.probability is None for answer in answers):
        answers.sort(key=lambda answer: -_standing_out(report[answer.level or 0]))
    if drift is not None and (found := drift(recording)) is not None:
        return OffsetAnswer(None, drift=found), report
    for answer in answers:
        if answer.level == 0 or len(report) == 1:
            return answer, report
        finer = _confirmation(answer, with_delayed_audio(recording, answer.seconds or 0.0), measure)
        if finer is not None:
            return finer, report
    return OffsetAnswer(None), report


def _confirmation(
    answer: OffsetAnswer, moved: Recording, measure: Callable[[Recording], list[LevelSync]]
) -> OffsetAnswer | None:
    """Return a coarse level's answer plus the remaining offset, measured by the finest level after the move."""
    if answer.seconds is None or answer.level is None:
        return None
    for finer in _answers(measure(moved)):
        # The remainder of a correct estimate is at most one frame of its level.
        near = finer.seconds is not None and abs(finer.seconds) <= FRAME_SECONDS * 2**answer.level
        if near and finer.level is not None and finer.level < min(answer.level, COARSE_LEVEL):
            return replace(finer, seconds=answer.seconds + (finer.seconds or 0.0))
    return None


def _standing_out(level: LevelSync) -> float:
    """Return the confidence relative to unrelated audio, whose confidence falls with the square root of the windows."""
    return float(level.sync.confidence) * float(level.windows) ** 0.5


def _answers(report: Sequence[LevelSync]) -> list[OffsetAnswer]:
    """Return the offsets of the levels that have one, the finest first."""
    return [
        OffsetAnswer(
            float(sub_frame_offset(level.sync.distances)) * level.frame_ms / 1000,
            level.level,
            None if level.posterior is None else float(level.posterior.probability),
        )
        for level in report
        if level.answers[0] == "offset"
    ]


def confirms(before: OffsetAnswer, after: OffsetAnswer) -> bool:
    """Return whether a correction removed the offset: the corrected recording has a known and smaller offset.

    Args:
        before: Answer for the original recording.
        after: Answer for the corrected recording; offsets up to one frame of their level count as zero.

    Example:
        >>> confirms(OffsetAnswer(0.16, 0), OffsetAnswer(0.004, 0)), confirms(OffsetAnswer(0.16, 0), OffsetAnswer(None))
        (True, False)

    Source: ours.
    """
    if before.seconds is None or after.seconds is None:
        return False
    return abs(after.seconds) < min(abs(before.seconds), FRAME_SECONDS * 2 ** (after.level or 0))
