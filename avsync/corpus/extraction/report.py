"""Reports on the videos of an extraction: clips, dropped segments, and the reasons."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from avsync._files import untrusted
from avsync.errors import CorpusError

Record = TypeVar("Record")

DONE, FAILED = "done", "failed"

NO_AUDIO = "have no audio in the file"
"""End of the warning about clips with frames without audio."""

NO_FACE = "no face"
"""Reason for dropping a segment in which the detector found no face."""


@dataclass(frozen=True, kw_only=True)
class ClipReport:
    """Report on one clip and its position in the video.

    Attributes:
        id: Name of the clip.
        start: Time of the first frame and the first sample on the video's clock, in seconds.
        seconds: Duration of the clip, in seconds.
        frames: Number of landmark frames.
        started: Reason for the start: "start of video", "scene cut", "length", ...
        ended: Reason for the end.
        face_height: Median height of the face in pixels of the source, from its topmost to its lowest point.
        rms_db: RMS level of the audio, in dB relative to full scale; -200 for digital silence.
        person: Number of the person within the video, from 0.
        native_fps: Frame rate of the video, in images per second.
        audio_seconds: Duration for which the file has audio, in seconds.
        missing_audio: Ranges (first, stop) of frames for which the file has no audio; see :class:`~avsync.corpus.clip.Clip`.
        crop_box: Left, top, right and bottom of the crop in the clip's first image, in pixels of the source.
    """

    id: str
    start: float
    seconds: float
    frames: int
    started: str
    ended: str
    face_height: float
    rms_db: float
    person: int = 0
    native_fps: float = 0.0
    crop_box: Sequence[float] = ()
    audio_seconds: float = math.inf
    missing_audio: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        """Treat the audio as complete if the record is older than the field ``audio_seconds``."""
        if math.isinf(self.audio_seconds):
            object.__setattr__(self, "audio_seconds", self.seconds)


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """Segment of a video that is not part of a clip.

    Attributes:
        start: Start time on the video's clock, in seconds.
        seconds: Duration of the segment, in seconds.
        reason: Reason for dropping: "no face", "too short", "another face was chosen", ...
        started: Reason for the start of the segment, if a face was followed.
        ended: Reason for the end of the segment, if a face was followed.
    """

    start: float
    seconds: float
    reason: str
    started: str = ""
    ended: str = ""


@dataclass(kw_only=True)
class VideoReport:
    """Report on one video, filled during the extraction.

    Attributes:
        source: Path of the video, as passed by the caller.
        status: "done" (also without clips) or "failed".
        error: Error message of a failed video.
        seconds: Time from the first image to the end of the last image, in seconds.
        images: Number of decoded images.
        width: Width of the upright image, in pixels.
        height: Height of the upright image, in pixels.
        clips: Reports on the clips, in order of completion.
        dropped: Dropped segments.
        warnings: Warnings of the decoder: damaged packets, gaps, audio that ends early.

    Example:
        >>> report = VideoReport(source="a.mp4", seconds=10.0)
        >>> report.dropped.append(Dropped(start=0.0, seconds=10.0, reason=NO_FACE))
        >>> report.line()
        'a.mp4: no clip in 10.0 s; dropped 10.0 s (no face 10.0)'

    Source: ours.
    """

    source: str
    status: str = DONE
    error: str = ""
    seconds: float = 0.0
    images: int = 0
    width: int = 0
    height: int = 0
    clips: list[ClipReport] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return the report in one line."""
        source = printable(self.source)
        if self.status == FAILED:
            return f"{source}: failed: {printable(self.error)}"
        kept = sum(clip.seconds for clip in self.clips)
        count = f"{len(self.clips)} clip{'s' if len(self.clips) != 1 else ''}" if self.clips else "no clip"
        text = (
            f"{source}: {count}, {kept:.1f} of {self.seconds:.1f} s"
            if self.clips
            else f"{source}: {count} in {self.seconds:.1f} s"
        )
        lost = dropped_seconds([self])
        if lost:
            text += f"; dropped {sum(lost.values()):.1f} s ({_amounts(lost)})"
        if self.warnings:
            number, first = len(self.warnings), "; ".join(self.warnings[:2])
            text += f"; {number} warning{'s' if number > 1 else ''}{', the first' if number > 2 else ''}: {printable(first)}"
        return text

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VideoReport:
        """Create a report from the values of :meth:`to_json`.

        Raises:
            CorpusError: A field is missing or unknown.
        """
        with untrusted(CorpusError, "expected the report of a video, got"):
            return typed(
                cls,
                {
                    **values,
                    "clips": [typed(ClipReport, clip) for clip in values["clips"]],
                    "dropped": [typed(Dropped, part) for part in values["dropped"]],
                    "warnings": [str(text) for text in values["warnings"]],
                },
            )


def printable(text: str) -> str:
    r"""Return a text that can be printed and written everywhere: bytes that are not UTF-8 are replaced by escapes.

    Example:
        >>> printable("caf\udce9.mp4")
        'caf\\udce9.mp4'

    Source: ours.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def dropped_seconds(videos: Iterable[VideoReport]) -> dict[str, float]:
    """Return the dropped seconds per reason, the largest first.

    Example:
        >>> part = Dropped(start=0.0, seconds=1.5, reason="too short")
        >>> dropped_seconds([VideoReport(source="a", dropped=[part, part])])
        {'too short': 3.0}

    Source: ours.
    """
    lost: Counter[str] = Counter()
    for video in videos:
        for part in video.dropped:
            lost[part.reason] += part.seconds  # type: ignore[assignment]
    return dict(lost.most_common())


def typed(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """Create a dataclass from untrusted values.

    Raises:
        TypeError: A field is unknown, missing, or of a wrong type.
    """
    plain: dict[str, Any] = {"str": str, "int": int, "float": (int, float)}
    for part in dataclasses.fields(kind):  # type: ignore[arg-type]
        expected = plain.get(str(part.type), object)
        value = values.get(part.name)
        if part.name in values and (not isinstance(value, expected) or isinstance(value, bool)):
            raise TypeError(f"{part.name} = {value!r:.100}, expected {part.type}")
    return kind(**values)


def uncovered(covered: Iterable[tuple[float, float]], start: float, end: float) -> list[tuple[float, float]]:
    """Return the parts of [start, end] that no interval covers.

    Args:
        covered: Intervals (start, end) in any order; may overlap.
        start: Start of the whole range.
        end: End of the whole range.

    Returns:
        (start, end) pairs, in order.

    Example:
        >>> uncovered([(2.0, 3.0), (2.5, 4.0)], 0.0, 5.0)
        [(0.0, 2.0), (4.0, 5.0)]

    Source: ours.
    """
    gaps: list[tuple[float, float]] = []
    reached = start
    for low, high in sorted(covered):
        if low > reached:
            gaps.append((reached, min(low, end)))
        reached = max(reached, high)
        if reached >= end:
            return gaps
    if end > reached:
        gaps.append((reached, end))
    return gaps


@dataclass(frozen=True, kw_only=True)
class ExtractionReport:
    """Report on many videos.

    Attributes:
        videos: One report per video, sorted by name.
        kept: Videos that an earlier run finished and this run did not decode again; their reports are included in ``videos``.
        duplicates: Pairs (source, same video) of files with the same bytes and the same name.
        ignored: Files in the folders without a suffix of a video.

    Source: ours.
    """

    videos: Sequence[VideoReport]
    kept: Sequence[str] = ()
    duplicates: Sequence[tuple[str, str]] = ()
    ignored: Sequence[str] = ()

    @property
    def failed(self) -> list[VideoReport]:
        """Reports on the videos that could not be extracted."""
        return [video for video in self.videos if video.status == FAILED]

    def to_json(self) -> dict[str, Any]:
        """Return the totals and the reports of all videos as plain values for JSON."""
        clips = [clip for video in self.videos for clip in video.clips]
        return {
            "totals": {
                "videos": len(self.videos),
                "failed": len(self.failed),
                "without_clips": sum(video.status == DONE and not video.clips for video in self.videos),
                "clips": len(clips),
                "seconds": sum(video.seconds for video in self.videos),
                "seconds_in_clips": sum(clip.seconds for clip in clips),
                "seconds_without_audio": sum(clip.seconds - clip.audio_seconds for clip in clips),
                "seconds_dropped": dropped_seconds(self.videos),
                "starts": dict(Counter(clip.started for clip in clips).most_common()),
                "ends": dict(Counter(clip.ended for clip in clips).most_common()),
            },
            "kept": list(self.kept),
            "duplicates": [list(pair) for pair in self.duplicates],
            "ignored": list(self.ignored),
            "videos": [video.to_json() for video in self.videos],
        }

    def summary(self) -> str:
        """Return the report as text: totals, then one line per video that failed, has no clips, or has warnings."""
        totals = self.to_json()["totals"]
        lines = [
            (
                f"{totals['videos']} videos, {_minutes(totals['seconds'])}: {totals['clips']} clips, "
                f"{_minutes(totals['seconds_in_clips'])}"
            ),
        ]
        if totals["seconds_dropped"]:
            lost = sum(totals["seconds_dropped"].values())
            lines.append(f"dropped {_minutes(lost)} ({_amounts(totals['seconds_dropped'], _minutes)})")
        if totals["seconds_without_audio"]:
            lines.append(f"no audio in the file for {_minutes(totals['seconds_without_audio'])} of the clips")
        if totals["ends"]:
            lines.append(
                "reasons why clips end: " + ", ".join(f"{reason} ({count})" for reason, count in totals["ends"].items())
            )
        if self.kept:
            lines.append(f"{len(self.kept)} videos were already finished and were not decoded again")
        lines += [printable(f"not extracted, the same file as {same}: {source}") for source, same in self.duplicates]
        if self.ignored:
            some = ", ".join(map(printable, self.ignored[:5])) + (", ..." if len(self.ignored) > 5 else "")
            lines.append(f"{len(self.ignored)} files in the folders do not have the suffix of a video: {some}")
        unusual = [video for video in self.videos if video.status == FAILED or not video.clips or video.warnings]
        lines += [video.line() for video in sorted(unusual, key=lambda video: (video.status != FAILED, bool(video.clips)))]
        return "\n".join(lines)


def _amounts(lost: Mapping[str, float], form: Any = lambda seconds: f"{seconds:.1f}") -> str:
    return ", ".join(f"{reason} {form(seconds)}" for reason, seconds in lost.items())


def _minutes(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
