"""Tracks of faces: one person without a cut, a jump or a loss of the face; and the selection of tracks.

Times are in seconds, and motion is measured in sizes of the face per second. Results are therefore independent of the frame
rate and the resolution of the video.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from avsync._checks import check_choice, check_positive
from avsync.corpus.detectors.protocol import Faces
from avsync.errors import ArgumentError, ShapeError

Times = npt.NDArray[np.float64]

START_OF_VIDEO = "start of video"
FACE_FOUND = "face found"
SCENE_CUT = "scene cut"
FACE_LOST = "face lost"
JUMP = "jump"
GAP = "gap in the video"
LENGTH = "length"
END_OF_VIDEO = "end of video"

POLICIES = ("largest", "stable", "all")
"""Policies for the selection of faces, see :func:`choose_tracks`."""

OTHER_FACE = "another face was chosen"
TOO_SHORT = "too short"

# Noise of a detector, in sizes of the face: apparent motion and growth of a face between two images at any time difference.
_NOISE = 0.05


@dataclass(frozen=True, eq=False)
class FaceTrack:
    """Track of one face through a segment of a video.

    Attributes:
        times: Presentation times (frames,) of the images, in seconds, increasing.
        points: Landmarks (frames, points, dims), in pixels.
        started: Reason for the start: "start of video", "face found", "scene cut", "jump", "gap in the video" or "length".
        ended: Reason for the end: "end of video", "face lost", "scene cut", "jump", "gap in the video" or "length".

    Source: ours.
    """

    times: Times
    points: Faces
    started: str
    ended: str

    @property
    def seconds(self) -> float:
        """Time from the first image to the last, in seconds."""
        return float(self.times[-1] - self.times[0])

    @property
    def height(self) -> float:
        """Median height of the face: the extent of its points along y, in pixels."""
        y = self.points[..., 1]
        return float(np.median(y.max(axis=1) - y.min(axis=1)))

    @property
    def speed(self) -> float:
        """Median speed of the face's centre, in heights of the face per second; 0 for a single image."""
        if len(self.times) < 2 or self.height == 0:
            return 0.0
        centres = self.points[..., :2].mean(axis=1, dtype=np.float64)
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=1) / np.diff(self.times)
        return float(np.median(steps)) / self.height

    def part(self, start: float, stop: float) -> FaceTrack | None:
        """Return the part of the track with ``start <= time <= stop``; None if this part is empty.

        An end that differs from the end of the track has the reason "another face was chosen".
        """
        first, last = int(np.searchsorted(self.times, start, "left")), int(np.searchsorted(self.times, stop, "right"))
        if first >= last:
            return None
        started = self.started if first == 0 else OTHER_FACE
        ended = self.ended if last == len(self.times) else OTHER_FACE
        return FaceTrack(self.times[first:last], self.points[first:last], started, ended)


@dataclass(eq=False)
class _Open:
    """Track that may still grow."""

    started: str
    times: list[float] = field(default_factory=list)
    points: list[Faces] = field(default_factory=list)
    centre: Times = field(default_factory=lambda: np.zeros(2))
    size: float = 0.0
    missing_since: float | None = None

    def add(self, time: float, face: Faces) -> None:
        self.times.append(time)
        self.points.append(face)
        self.centre, self.size = _centre_and_size(face)
        self.missing_since = None

    def closed(self, ended: str) -> FaceTrack:
        return FaceTrack(np.array(self.times), np.stack(self.points), self.started, ended)


def _centre_and_size(face: Faces) -> tuple[Times, float]:
    # The larger extent along both axes, because a head turn reduces the width and a closing mouth the height, but rarely both.
    points = face[:, :2].astype(np.float64)
    extent = points.max(axis=0) - points.min(axis=0)
    return points.mean(axis=0), float(max(extent.max(), 1e-6))


class FaceTracker:
    """Tracker that joins the faces of successive images to tracks.

    A face continues the track whose last face is nearest in position and size, if motion and change of size are within
    ``max_speed`` and ``max_growth``. A track ends if

    * the image is the first of a scene (``cut``): "scene cut";
    * the face is not found for more than ``max_lost`` seconds: "face lost", or "jump" if another face appears in the first
      image without the face, as after a jump cut;
    * there is no image for more than ``max_gap`` seconds: "gap in the video";
    * the oldest open track is ``max_seconds`` long: "length". All open tracks then end at this image, and the next tracks start
      with the same image, so that there is no gap between them;
    * the video ends.

    Only the open tracks are kept, so a video of any length needs little memory.

    Args:
        max_lost: Longest absence of a face that is bridged, in seconds, from the first image without the face.
        max_gap: Longest time between two images, in seconds.
        max_speed: Largest speed of the centre of a face, in sizes of the face per second. 1/20 of the size is added for the
            noise of the detector. The default allows a quarter of the size in 40 ms.
        max_growth: Largest change of size, in natural logarithms per second. 1/20 is added for the noise of the detector. The
            default allows a factor of 1.28 in 40 ms.
        max_seconds: Longest track, in seconds; None for no limit.

    Raises:
        ArgumentError: A limit is not positive.

    Example:
        >>> face = np.array([[0, 0], [10, 20], [0, 20]], np.float32)
        >>> tracker = FaceTracker()
        >>> for k in range(50):
        ...     cut = k == 25
        ...     for track in tracker.push(k / 25, [face + (100 if k >= 25 else 0)], cut=cut):
        ...         print(len(track.times), track.started, "->", track.ended)
        25 start of video -> scene cut
        >>> [(len(track.times), track.ended) for track in tracker.finish()]
        [(25, 'end of video')]

    Source: ours; the limits follow the corpus on which this library was measured.
    """

    def __init__(
        self,
        *,
        max_lost: float = 0.13,
        max_gap: float = 0.25,
        max_speed: float = 5.0,
        max_growth: float = 5.0,
        max_seconds: float | None = None,
    ) -> None:
        limits = {"max_lost": max_lost, "max_gap": max_gap, "max_speed": max_speed, "max_growth": max_growth}
        for name, value in {**limits, "max_seconds": 1.0 if max_seconds is None else max_seconds}.items():
            check_positive(name, value, allow_zero=name == "max_lost")
        self.max_lost, self.max_gap, self.max_seconds = max_lost, max_gap, max_seconds
        self.max_speed, self.max_growth = max_speed, max_growth
        self._open: list[_Open] = []
        self._last_time: float | None = None

    @property
    def open_since(self) -> float | None:
        """Time of the first image of the oldest open track, in seconds; None without open tracks.

        Later tracks do not start before this time.
        """
        return min((track.times[0] for track in self._open), default=None)

    def push(self, time: float, faces: npt.ArrayLike | None, *, cut: bool = False) -> list[FaceTrack]:
        """Process the faces of the next image.

        Args:
            time: Presentation time, in seconds; must increase.
            faces: Landmarks (faces, points, dims), in pixels; None or empty without a face.
            cut: True if the image is the first of a scene.

        Returns:
            Tracks that end at this image.

        Raises:
            ArgumentError: ``time`` is not finite or not later than the time of the previous image.
            ShapeError: ``faces`` has the wrong rank, or other points or dims than the faces of the open tracks.
        """
        found = np.zeros(0, np.float32) if faces is None else np.asarray(faces, np.float32)
        if found.size == 0:
            found = np.zeros((0, 1, 2), np.float32)
        elif found.ndim != 3 or found.shape[2] < 2 or (self._open and found.shape[1:] != self._open[0].points[0].shape):
            points, dims = self._open[0].points[0].shape if self._open else ("points", "dims")
            raise ShapeError(f"`faces`: expected (faces, {points}, {dims}), got {found.shape}")
        last = self._last_time
        if not np.isfinite(time) or (last is not None and time <= last):
            raise ArgumentError(f"`time`: expected a time after {last}, got {time!r}")
        self._last_time = time
        started = START_OF_VIDEO if last is None else FACE_FOUND
        closed: list[FaceTrack] = []
        if cut and last is not None:
            closed, started = self._close(SCENE_CUT), SCENE_CUT
        elif last is not None and time - last > self.max_gap:
            closed, started = self._close(GAP), GAP
        closed += self._expire(time)
        self._extend(time, found, started)
        if self.max_seconds is not None and self.open_since is not None and time - self.open_since >= self.max_seconds:
            closed += self._hand_over()
        return closed

    def finish(self) -> list[FaceTrack]:
        """End the video, reset the tracker, and return the tracks that are still open."""
        closed = self._close(END_OF_VIDEO)
        self._last_time = None
        return closed

    def _close(self, reason: str) -> list[FaceTrack]:
        # A face that was lost before the end of the scene keeps the reason "face lost".
        tracks = [track.closed(reason if track.missing_since is None else FACE_LOST) for track in self._open]
        self._open = []
        return tracks

    def _expire(self, time: float) -> list[FaceTrack]:
        closed = []
        for track in list(self._open):
            if track.missing_since is not None and time - track.missing_since > self.max_lost:
                jumped = any(other.started == JUMP and other.times[0] == track.missing_since for other in self._open)
                closed.append(track.closed(JUMP if jumped else FACE_LOST))
                self._open.remove(track)
        return closed

    def _hand_over(self) -> list[FaceTrack]:
        """End all tracks at this image, and start a new track at this image for each face that is present."""
        closed: list[FaceTrack] = []
        begun: list[_Open] = []
        for track in self._open:
            if track.missing_since is None:
                closed.append(track.closed(LENGTH))
                begun.append(_Open(LENGTH))
                begun[-1].add(track.times[-1], track.points[-1])
            else:
                closed.append(track.closed(FACE_LOST))
        self._open = begun
        return closed

    def _extend(self, time: float, faces: Faces, started: str) -> None:
        places = [_centre_and_size(face) for face in faces]
        pairs = []
        for i, track in enumerate(self._open):
            elapsed = time - track.times[-1]
            for j, (centre, size) in enumerate(places):
                distance = float(np.linalg.norm(centre - track.centre)) / track.size
                growth = abs(float(np.log(size / track.size)))
                if distance <= _NOISE + self.max_speed * elapsed and growth <= _NOISE + self.max_growth * elapsed:
                    pairs.append((distance + growth, i, j))
        # Greedy assignment, closest pairs first; for a few faces, this is as good as an optimal assignment.
        old, new = set(range(len(self._open))), set(range(len(faces)))
        for _, i, j in sorted(pairs):
            if i in old and j in new:
                old.remove(i)
                new.remove(j)
                self._open[i].add(time, faces[j])
        lost_now = [self._open[i] for i in old if self._open[i].missing_since is None]
        for track in lost_now:
            track.missing_since = time
        for j in sorted(new):
            self._open.append(_Open(JUMP if lost_now and started == FACE_FOUND else started))
            self._open[-1].add(time, faces[j])


class Chosen(NamedTuple):
    """Result of :func:`choose_tracks`.

    Attributes:
        kept: Kept tracks.
        dropped: Dropped tracks, each with the reason: "another face was chosen" or "too short".
    """

    kept: list[FaceTrack]
    dropped: list[tuple[FaceTrack, str]]


def choose_tracks(tracks: Iterable[FaceTrack], policy: str = "largest", *, min_seconds: float = 2.0) -> Chosen:
    """Keep one face at a time, or all of them.

    Tracks shorter than ``min_seconds`` are dropped first. The best remaining track is kept, and the parts of all other tracks
    that overlap with this track in time are dropped. This step is repeated until no track remains. The best track has

    * with "largest": the largest median height;
    * with "stable": the largest ``seconds / (1 + speed)``, which prefers long tracks, then steady tracks.

    Args:
        tracks: Tracks of one video, in any order.
        policy: "largest", "stable", or "all" to keep every track that is long enough.
        min_seconds: Shortest track, in seconds.

    Returns:
        Kept tracks, sorted by start, without overlap unless ``policy`` is "all"; and dropped tracks with their reasons,
        including the dropped parts of tracks.

    Raises:
        ArgumentError: ``policy`` is unknown.

    Example:
        >>> def track(start, stop, height):
        ...     points = np.zeros((2, 2, 2), np.float32)
        ...     points[:, 1] = height
        ...     return FaceTrack(np.array([start, stop]), points, "face found", "face lost")
        >>> chosen = choose_tracks([track(0.0, 9.0, 50), track(10.0, 12.5, 90), track(10.0, 11.0, 200)])
        >>> [(float(kept.times[0]), kept.height) for kept in chosen.kept], [reason for _, reason in chosen.dropped]
        ([(0.0, 50.0), (10.0, 90.0)], ['too short'])

    Source: ours.
    """
    check_choice("policy", policy, POLICIES)
    pool: list[FaceTrack] = []
    dropped: list[tuple[FaceTrack, str]] = []

    def sort_in(candidates: Iterable[FaceTrack]) -> None:
        for track in candidates:
            if track.seconds < min_seconds:
                dropped.append((track, TOO_SHORT))
            else:
                pool.append(track)

    sort_in(tracks)
    if policy == "all":
        return Chosen(sorted(pool, key=_start), dropped)
    score = _height if policy == "largest" else _stability
    kept: list[FaceTrack] = []
    while pool:
        # The start breaks ties between equal scores, so that the result does not depend on the order of the input.
        best = max(pool, key=lambda track: (score(track), -_start(track)))
        kept.append(best)
        others = [track for track in pool if track is not best]
        pool = []
        for track in others:
            inside, outside = _split_by(track, best)
            dropped.extend((part, OTHER_FACE) for part in inside)
            sort_in(outside)
    return Chosen(sorted(kept, key=_start), dropped)


def _start(track: FaceTrack) -> float:
    return float(track.times[0])


def _height(track: FaceTrack) -> float:
    return track.height


def _stability(track: FaceTrack) -> float:
    return track.seconds / (1 + track.speed)


def _split_by(track: FaceTrack, other: FaceTrack) -> tuple[list[FaceTrack], list[FaceTrack]]:
    """Return the part of a track during another track, and the parts before and after; touching ends do not overlap."""
    start, stop = float(other.times[0]), float(other.times[-1])
    if track.times[-1] <= start or track.times[0] >= stop:
        return [], [track]
    below, above = float(np.nextafter(start, -np.inf)), float(np.nextafter(stop, np.inf))
    inside = track.part(start, stop)
    outside = [track.part(-np.inf, below), track.part(above, np.inf)]
    return ([] if inside is None else [inside]), [part for part in outside if part is not None]


def split_long(frames: int, max_frames: int) -> list[tuple[int, int]]:
    """Split a segment into the smallest number of parts of at most ``max_frames``, whose lengths differ by at most one frame.

    Args:
        frames: Length of the segment, in frames.
        max_frames: Longest part, in frames.

    Returns:
        Pairs (start, stop) of all parts, in order, which cover every frame once. The list is empty for an empty segment.

    Raises:
        ArgumentError: ``frames`` is negative or ``max_frames`` is not positive.

    Example:
        >>> split_long(10, 4)
        [(0, 3), (3, 6), (6, 10)]

    Source: ours.
    """
    check_positive("frames", frames, allow_zero=True)
    check_positive("max_frames", max_frames)
    count = -(-frames // max_frames)
    return [(k * frames // count, (k + 1) * frames // count) for k in range(count)]
