"""Extraction of clips from a video: faces are tracked and resampled in time, together with the audio of the same time.

All times are on the clock that images and audio of a file share. A clip starts at a time ``t0`` of this clock. Landmark frame
``k`` is the face at ``t0 + k / fps``, and sample ``s`` is the audio at ``t0 + s / 16000``, for any frame rate, sample rate,
start times and gaps of the file.

The video is read once, in batches of images. The next batch is decoded while the detector processes the current batch. Only the
faces of undecided tracks are kept, for at most ten minutes. A video of any length therefore needs little memory, and clips are
returned while the video is still being decoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from avsync._checks import check_choice, check_path, check_positive, check_type, checked
from avsync.corpus.clip import Clip, is_rate, missing_ranges, rms_db, sample_of_frame
from avsync.corpus.detectors import CheckedDetector, Detector, as_detector
from avsync.corpus.detectors.protocol import Faces
from avsync.corpus.extraction._ahead import ahead
from avsync.corpus.extraction.cropping import crop_centred, crop_fixed
from avsync.corpus.extraction.report import NO_AUDIO, NO_FACE, ClipReport, Dropped, VideoReport, uncovered
from avsync.corpus.extraction.retime import resample_track
from avsync.corpus.extraction.scene_cuts import SceneCuts
from avsync.corpus.extraction.tracks import GAP, LENGTH, POLICIES, FaceTrack, FaceTracker, choose_tracks, split_long
from avsync.corpus.media.audio_source import AudioSource
from avsync.corpus.media.video_source import VideoSource
from avsync.errors import ArgumentError, AvsyncError, CorpusError
from avsync.pyramid import SAMPLE_RATE

CROPS = ("fixed", "centred", "none")
"""Coordinate systems of landmarks: one square per clip (the paper's VoxCeleb2 II), one square per frame (I), or the image."""

_TRACK_SECONDS = 600.0  # tracks are decided at least this often, which limits the memory per video
_CROP_SIZE = 256
_BATCH_BYTES = 1 << 26  # a batch of large images has fewer images, for the same reason


def extract(video: str | os.PathLike[str], *, report: VideoReport | None = None, **options: object) -> list[Clip]:
    """Return all clips of a video as a list.

    Args:
        video: Path of the video.
        report: Report that is filled with the clips and the dropped segments of the video.
        **options: Options of :func:`iter_clips`, which yields the same clips one by one.

    Returns:
        The clips; an empty list for a video without a face.

    Raises:
        CorpusError: The file cannot be read or has no image or no audio, or the detector failed.

    Example:
        >>> import tempfile
        >>> from avsync.corpus.media.files import write_video
        >>> face = np.array([[20, 20], [40, 20], [30, 44]], np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     images = (np.full((48, 64, 3), 90, np.uint8) for _ in range(90))
        ...     _ = write_video(Path(folder, "talk.mp4"), images, fps=30, waveform=np.zeros(48000, np.float32))
        ...     [clip] = extract(Path(folder, "talk.mp4"), detector=lambda images: [face] * len(images))
        >>> clip.id, clip.landmarks.shape, clip.waveform.shape
        ('talk_000', (75, 3, 2), (48000,))

    Source: ours.
    """
    return list(iter_clips(video, report=report, **options))  # type: ignore[arg-type]


def check_options(
    *,
    fps: float,
    faces: str,
    crop: str,
    min_seconds: float,
    max_seconds: float,
    max_height: int | None,
    scene_cuts: bool,
    audio_track: int | None,
) -> None:
    """Raise :class:`ArgumentError` unless all options of :func:`iter_clips` that are common to a corpus are possible."""
    check_type("max_height", max_height, int, optional=True)
    check_type("scene_cuts", scene_cuts, bool)
    check_type("audio_track", audio_track, int, optional=True)
    for key, count in {"max_height": max_height, "audio_track": audio_track}.items():
        if count is not None:
            check_positive(key, count)
    check_choice("faces", faces, POLICIES)
    check_choice("crop", crop, CROPS)
    for key, value in {"fps": fps, "min_seconds": min_seconds, "max_seconds": max_seconds}.items():
        check_type(key, value, int, float)
        check_positive(key, value)
    if not is_rate(fps):
        raise ArgumentError(f"`fps`: expected a rate that a clip can have, got {fps!r}")
    if max_seconds < min_seconds or max_seconds * fps < 1:
        raise ArgumentError(
            f"`max_seconds`: expected at least `min_seconds` = {min_seconds:g} and a frame, got {max_seconds:g}"
        )


@checked
def iter_clips(
    video: str | os.PathLike[str],
    *,
    detector: str | Detector = "auto",
    fps: float = 25.0,
    faces: str = "largest",
    crop: str = "fixed",
    min_seconds: float = 2.0,
    max_seconds: float = 32.0,
    max_height: int | None = None,
    scene_cuts: bool = True,
    audio_track: int | None = None,
    name: str | None = None,
    speaker: str | None = None,
    split: str = "train",
    report: VideoReport | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Clip]:
    """Yield the clips of a video one by one, while the video is decoded.

    A clip ends at a scene cut, if the face is lost or jumps, if images are missing, and at ``max_seconds``. Longer segments are
    cut into equal parts without gaps.

    Args:
        video: Path of the video.
        detector: Name, model file, "package.module:function", or a callable; see
            :func:`avsync.corpus.detectors.protocol.as_detector`.
        fps: Landmark frames per second; syncers, training runs and metrics of this library use 25.
        faces: "largest" or "stable" for one face at a time, "all" for one clip per person; see
            :func:`avsync.corpus.extraction.tracks.choose_tracks`.
        crop: Coordinate system of the landmarks: "fixed" (one square of 256 pixels around the area that the face covers in the
            clip, which keeps head motion), "centred" (a square around the face in every frame) or "none" (pixels of the image).
            See :mod:`avsync.corpus.extraction.cropping`.
        min_seconds: Shortest clip, in seconds; shorter clips are dropped.
        max_seconds: Longest clip, in seconds.
        max_height: Largest image height for detection, in pixels; higher images are downscaled to save time. Landmarks stay in
            pixels of the source.
        scene_cuts: True to detect scene cuts in the images; False for videos with flashing lights, where only jumps of the face
            indicate cuts.
        audio_track: Number of the audio track, from 1; by default the track that the file marks as default, otherwise the
            first. If a file has several tracks, the report states which track was used.
        name: Prefix of the ids of the clips; the file name without suffix by default.
        speaker: Label of the person; ``name`` by default. With ``faces="all"``, ``_p0``, ``_p1``, ... is appended.
        split: Label of the split.
        report: Report that is filled with the clips and the dropped segments of the video; complete after the iteration.
        progress: Function that is called at intervals with the processed fraction of the video, 0 to 1.

    Yields:
        Clips in the order in which they are decided, numbered in this order.

    Raises:
        CorpusError: The file cannot be read or has no image or no audio, or the detector failed.
        ArgumentError: An option has an impossible value.

    Source: ours; the cuts into clips follow the corpus on which this library was measured, the crops follow paper section 4.1.
    """
    check_path("video", video)
    check_options(
        fps=fps,
        faces=faces,
        crop=crop,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        max_height=max_height,
        scene_cuts=scene_cuts,
        audio_track=audio_track,
    )
    for key, text in {"name": name, "speaker": speaker, "split": split}.items():
        check_type(key, text, str, optional=key != "split")
    check_type("report", report, VideoReport, optional=True)
    if progress is not None and not callable(progress):
        raise ArgumentError(f"`progress`: expected a function of the finished share, got {type(progress).__name__}")
    report = VideoReport(source=os.fspath(video)) if report is None else report
    name = Path(video).stem if name is None else name
    found = as_detector(detector)
    found.reset()
    with ExitStack() as stack:
        source = stack.enter_context(VideoSource(video, max_height=max_height))
        if not source.info.has_audio:
            raise CorpusError(f"{video}: expected an audio stream, got a video without audio")
        audio = stack.enter_context(AudioSource(video, sample_rate=SAMPLE_RATE, track=audio_track))
        report.width, report.height = source.info.width, source.info.height
        ledger = _Ledger(report)
        persons = _Persons()
        # The next images are decoded while the detector processes the current images.
        images = ahead(_batches(source, found.batch_size, SceneCuts() if scene_cuts else None))
        batches = stack.enter_context(closing(images))
        for tracks in _groups(source, batches, found, ledger, progress):
            # The length of a track is the time between its first and last image; a clip is one frame longer.
            chosen = choose_tracks(tracks, faces, min_seconds=max(0.0, min_seconds - 1 / fps - 1e-6))
            for track, reason in chosen.dropped:
                ledger.drop(track, reason)
            parts = [part for track in chosen.kept for part in _parts(track, persons.number(track), fps, max_seconds)]
            # Sorted by start, because audio is read forwards and the tracks of several persons overlap.
            for part in sorted(parts, key=lambda part: part.start):
                landmarks, size, box = _cropped(part.landmarks, crop, (source.info.width, source.info.height))
                label = (speaker or name) if faces != "all" else f"{speaker or name}_p{part.person}"
                segment = audio.read_segment(part.start, sample_of_frame(len(landmarks), fps))
                clip = Clip(
                    id=f"{name}_{len(report.clips):03d}",
                    speaker=label,
                    split=split,
                    landmarks=landmarks,
                    waveform=segment.waveform,
                    fps=fps,
                    sample_rate=SAMPLE_RATE,
                    frame_size=size,
                    missing_audio=missing_ranges(segment.present, len(landmarks), fps),
                )
                report.clips.append(_clip_report(clip, part, box, ledger.native_fps))
                yield clip
        ledger.close()
        lacking = [clip for clip in report.clips if clip.audio_seconds < clip.seconds]
        without = sum(clip.seconds - clip.audio_seconds for clip in lacking)
        missing = [f"{without:.2f} s of {len(lacking)} clips {NO_AUDIO}"] if lacking else []
        # A report prints the first two: audio that is lost matters more than damaged packets.
        texts = (*missing, *audio.warnings, *source.warnings)
        report.warnings += [text for text in texts if text not in report.warnings]
    if progress is not None:
        progress(1.0)


class _Ledger:
    """Record of the covered and dropped segments of a video while it is read."""

    def __init__(self, report: VideoReport) -> None:
        self.report = report
        self._covered: list[tuple[float, float]] = []  # images with a face, tracks, gaps between images
        self._first: float | None = None
        self._last = 0.0
        self._max_gap = 0.0
        self._face_since: float | None = None

    @property
    def native_fps(self) -> float:
        """Images per second so far."""
        span = self._last - (self._first or 0.0)
        return (self.report.images - 1) / span if span > 0 else 0.0

    def image(self, time: float, has_face: bool, max_gap: float) -> None:
        """Record the next image."""
        self._max_gap = max_gap
        if self._first is None:
            self._first = time
        else:
            interval = time - self._last
            if interval > max_gap:
                self._end_of_faces(self._last)
                self._covered.append((self._last, time))
                self.report.dropped.append(Dropped(start=self._last, seconds=interval, reason=GAP))
        self._last = time
        self.report.images += 1
        if has_face and self._face_since is None:
            self._face_since = time
        elif not has_face:
            self._end_of_faces(time)

    def track(self, track: FaceTrack) -> None:
        """Record a track, including images without its face that the track bridges."""
        self._covered.append((float(track.times[0]), float(track.times[-1])))

    def drop(self, track: FaceTrack, reason: str) -> None:
        """Record a track, or a part of a track, that is dropped."""
        # The time after the last image belongs to the track, unless a gap begins there, which is recorded as one.
        seconds = track.seconds + (1 / self.native_fps if self.native_fps and track.ended != GAP else 0.0)
        if seconds > 0:
            start, started, ended = float(track.times[0]), track.started, track.ended
            self.report.dropped.append(Dropped(start=start, seconds=seconds, reason=reason, started=started, ended=ended))

    def close(self) -> None:
        """Record the end of the video."""
        if self._first is None:
            return
        end = self._last + (1 / self.native_fps if self.native_fps else 0.0)
        self._end_of_faces(end)
        self.report.seconds = end - self._first
        gaps = uncovered(self._covered, self._first, end)
        self.report.dropped += [Dropped(start=low, seconds=high - low, reason=NO_FACE) for low, high in gaps]
        self.report.dropped = _joined(self.report.dropped, slack=min(2 * (end - self._last), self._max_gap))

    def _end_of_faces(self, time: float) -> None:
        if self._face_since is not None:
            self._covered.append((self._face_since, time))
            self._face_since = None


def _joined(dropped: list[Dropped], slack: float) -> list[Dropped]:
    """Sort by start and join neighbours with the same reason, so that the report does not list many single images."""
    joined: list[Dropped] = []
    for part in sorted(dropped, key=lambda part: (part.reason, part.start)):
        last = joined[-1] if joined else None
        if last is not None and last.reason == part.reason and 0 <= part.start - last.start - last.seconds <= slack:
            seconds = part.start + part.seconds - last.start
            joined[-1] = Dropped(start=last.start, seconds=seconds, reason=last.reason, started=last.started, ended=part.ended)
        else:
            joined.append(part)
    return sorted(joined, key=lambda part: part.start)


class _Persons:
    """Numbers of the persons of a video. A track that continues another track at the same image has the same number."""

    def __init__(self) -> None:
        self._count = 0
        self._handed_over: list[tuple[FaceTrack, int]] = []

    def number(self, track: FaceTrack) -> int:
        found = self._count
        if track.started == LENGTH:
            for earlier, person in self._handed_over:
                if earlier.times[-1] == track.times[0] and np.array_equal(earlier.points[-1], track.points[0]):
                    found = person
        if found == self._count:
            self._count += 1
        if track.ended == LENGTH:
            self._handed_over = [(t, p) for t, p in self._handed_over if t.times[-1] >= track.times[0]] + [(track, found)]
        return found


class _Image(NamedTuple):
    time: float
    picture: npt.NDArray[np.uint8]
    cut: bool


def _batches(source: VideoSource, size: int, cuts: SceneCuts | None) -> Iterator[list[_Image]]:
    """Yield the images of a video in batches of at most ``size`` images."""
    batch: list[_Image] = []
    for frame in source.frames():
        batch.append(_Image(frame.time, frame.image, cuts is not None and cuts.push(frame.image)))
        if len(batch) >= min(size, max(1, _BATCH_BYTES // frame.image.nbytes)):
            yield batch
            batch = []
    if batch:
        yield batch


def _groups(
    source: VideoSource,
    batches: Iterable[list[_Image]],
    detector: CheckedDetector,
    ledger: _Ledger,
    progress: Callable[[float], None] | None,
) -> Iterator[list[FaceTrack]]:
    """Yield groups of tracks that no other track overlaps in time, so that each group can be decided independently."""
    tracker = FaceTracker(max_seconds=_TRACK_SECONDS)
    start, length = source.info.video_start or 0.0, source.info.seconds or 0.0
    pending: list[FaceTrack] = []
    for batch in batches:
        for image, faces in zip(batch, _detect(source, detector, batch), strict=True):
            ledger.image(image.time, len(faces) > 0, tracker.max_gap)
            for track in tracker.push(image.time, faces, cut=image.cut):
                ledger.track(track)
                pending.append(track)
            if pending and (tracker.open_since is None or tracker.open_since >= max(track.times[-1] for track in pending)):
                yield pending
                pending = []
        if progress is not None and length > 0:
            progress(min(1.0, max(0.0, (batch[-1].time - start) / length)))
    for track in tracker.finish():
        ledger.track(track)
        pending.append(track)
    yield pending


def _detect(source: VideoSource, detector: CheckedDetector, batch: list[_Image]) -> list[Faces]:
    """Return the faces of each image, in pixels of the source."""
    try:
        found = detector([image.picture for image in batch])
    except AvsyncError:
        raise
    except Exception as error:  # errors of a custom detector must name the video and the time
        raise CorpusError(
            f"{source.path}: the detector {detector.name!r} failed between {batch[0].time:.2f} and {batch[-1].time:.2f} s: "
            f"{type(error).__name__}: {error}"
        ) from error
    height, width = batch[0].picture.shape[:2]
    if (width, height) == (source.info.width, source.info.height):
        return found
    # Detectors return depth in the scale of the width.
    scale = np.array([source.info.width / width, source.info.height / height, source.info.width / width], np.float32)
    return [faces * scale[: faces.shape[-1]] if len(faces) else faces for faces in found]


class _Part(NamedTuple):
    """Landmarks of one clip: one person at exact instants from ``start`` on, in pixels of the source."""

    start: float
    landmarks: Faces
    person: int
    started: str
    ended: str


def _parts(track: FaceTrack, person: int, fps: float, max_seconds: float) -> Iterator[_Part]:
    """Yield equal parts of a track, each at most ``max_seconds`` long."""
    start, landmarks = resample_track(track.times, track.points, fps=fps)
    bounds = split_long(len(landmarks), int(max_seconds * fps + 1e-9))
    for number, (first, stop) in enumerate(bounds):
        started = track.started if number == 0 else LENGTH
        ended = track.ended if number == len(bounds) - 1 else LENGTH
        yield _Part(start + first / fps, landmarks[first:stop], person, started, ended)


def _cropped(landmarks: Faces, crop: str, picture: tuple[int, int]) -> tuple[Faces, tuple[int, int], list[float]]:
    """Return the cropped landmarks, the size of the crop, and its box in the first image: left, top, right, bottom."""
    if crop == "none":
        return landmarks, picture, [0.0, 0.0, float(picture[0]), float(picture[1])]
    points, boxes = (crop_fixed if crop == "fixed" else crop_centred)(landmarks, size=_CROP_SIZE)
    return points, (_CROP_SIZE, _CROP_SIZE), [round(float(edge), 2) for edge in boxes[0]]


def _clip_report(clip: Clip, part: _Part, box: list[float], native_fps: float) -> ClipReport:
    heights = np.ptp(part.landmarks[..., 1], axis=1)
    return ClipReport(
        id=clip.id,
        start=round(part.start, 6),
        seconds=clip.seconds,
        frames=clip.frames,
        started=part.started,
        ended=part.ended,
        face_height=round(float(np.median(heights)), 2),
        rms_db=round(rms_db(clip), 2),
        person=part.person,
        native_fps=round(native_fps, 3),
        crop_box=tuple(box),
        audio_seconds=round(float(clip.has_audio.sum()) / clip.fps, 6),
        missing_audio=clip.missing_audio,
    )
