"""Positions of faces in a video (first scoring pass), at 25 images per second on the video's own clock.

The published pipeline writes the video again at 25 frames per second and numbers them; here every 25th of a second takes the
image that lies nearest in time, whatever the file's rate. Only boxes are kept, so hours of video need a few megabytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from avsync._checks import check_choice, check_positive
from avsync.corpus.detectors import CheckedDetector
from avsync.corpus.extraction.scene_cuts import SceneCuts
from avsync.corpus.extraction.tracks import POLICIES, FaceTrack, FaceTracker, choose_tracks
from avsync.corpus.media.video_source import VideoFrame, VideoSource
from avsync.errors import AvsyncError, CorpusError
from avsync.evaluation.syncnet.face_crop import FILTER_FRAMES, CropPath, crop_path, face_boxes
from avsync.pyramid import FPS

_LOST_SECONDS = 1.0  # 25 frames without the face end a published track
_GAP_SECONDS = 0.25
_BATCH_BYTES = 1 << 27


class FacePath(NamedTuple):
    """One face through a segment of video."""

    first: int
    """Number of the first image, counted at 25 per second from the video's first."""
    start: float
    """Time of the first image, in seconds on the container's clock."""
    crops: CropPath
    """Positions of its crops, one per image."""

    @property
    def frames(self) -> int:
        """Number of images."""
        return len(self.crops.x)


def frames_at(frames: Iterable[VideoFrame], *, fps: float = FPS) -> Iterator[tuple[int, float, VideoFrame]]:
    """Resample frames to a constant rate: the nearest frame to each instant, the earlier frame in a tie.

    Args:
        frames: With increasing times.
        fps: Instants per second; the first instant is the first frame.

    Yields:
        Number of the instant, its time in seconds, the frame.

    Example:
        >>> from types import SimpleNamespace as Frame
        >>> [frame.time for _, _, frame in frames_at([Frame(time=t / 50) for t in range(6)])]
        [0.0, 0.04, 0.08]

    Source: ours.
    """
    held: VideoFrame | None = None
    start, number = 0.0, 0
    for frame in frames:
        if held is None:
            start = frame.time
        else:
            middle = (held.time + frame.time) / 2 + 1e-9
            while start + number / fps <= middle:
                yield number, start + number / fps, held
                number += 1
        held = frame
    # The duration of the last frame is unknown.
    while held is not None and start + number / fps <= held.time + 1e-9:
        yield number, start + number / fps, held
        number += 1


def face_paths(
    path: str | os.PathLike[str],
    detector: CheckedDetector,
    *,
    faces: str = "largest",
    min_seconds: float = 2.0,
    progress: Callable[[float], None] | None = None,
) -> list[FacePath]:
    """Find the faces of a video.

    Args:
        path: The video.
        detector: See :func:`avsync.corpus.detectors.protocol.as_detector`. Faces of two points are boxes, by opposite corners.
        faces: "largest", "stable" or "all"; see :func:`avsync.corpus.extraction.tracks.choose_tracks`.
        min_seconds: Shortest track; 4 in the published pipeline.
        progress: Called now and then with the share of the video that has passed, 0 to 1.

    Returns:
        By their start; at least one.

    Raises:
        CorpusError: The video cannot be read, the detector failed, or no face is visible for ``min_seconds``.
        ArgumentError: An option has an impossible value.

    Source: the published pipeline's rules for tracks; cuts and choice of faces ours.
    """
    check_choice("faces", faces, POLICIES)
    check_positive("min_seconds", min_seconds)
    detector.reset()
    tracker = FaceTracker(max_lost=_LOST_SECONDS, max_gap=_GAP_SECONDS)
    tracks: list[FaceTrack] = []
    start: float | None = None
    with VideoSource(path) as video:
        for time, boxes, cut in _boxes(video, detector):
            start = time if start is None else start
            tracks += tracker.push(time, boxes, cut=cut)
            if progress is not None and video.info.seconds:
                progress(min(1.0, max(0.0, time - start) / video.info.seconds))
    tracks += tracker.finish()
    shortest = max(min_seconds, FILTER_FRAMES / FPS)
    kept = choose_tracks(
        tracks, faces, min_seconds=shortest - 1 / FPS - 1e-6
    ).kept  # tracks end at the time of their last image
    if not kept or start is None:
        longest = max((track.seconds + 1 / FPS for track in tracks), default=0.0)
        found = f"one for {longest:.2f} s at most" if tracks else "none"
        raise CorpusError(f"{path}: expected a face for at least {shortest:g} s, found {found}")
    return [_path(track, start) for track in kept]


def _path(track: FaceTrack, start: float) -> FacePath:
    numbers = np.round((track.times - start) * FPS).astype(int)
    every = np.arange(numbers[0], numbers[-1] + 1)
    boxes = track.points.reshape(len(numbers), 4).astype(np.float64)
    filled = np.stack([np.interp(every, numbers, boxes[:, side]) for side in range(4)], axis=1)
    return FacePath(int(numbers[0]), start + int(numbers[0]) / FPS, crop_path(filled))


def _boxes(video: VideoSource, detector: CheckedDetector) -> Iterator[tuple[float, npt.NDArray[np.float32], bool]]:
    """Yield time, boxes as corner pairs (faces, 2, 2), and a scene-start flag for every instant with an image."""
    cuts = SceneCuts()
    batch: list[tuple[float, npt.NDArray[np.uint8], bool]] = []
    for _, time, frame in frames_at(video.frames()):
        if abs(time - frame.time) > _GAP_SECONDS / 2:
            continue
        batch.append((time, frame.image, cuts.push(frame.image)))
        if len(batch) >= min(detector.batch_size, max(1, _BATCH_BYTES // frame.image.nbytes)):
            yield from _detect(video, detector, batch)
            batch = []
    if batch:
        yield from _detect(video, detector, batch)


def _detect(
    video: VideoSource, detector: CheckedDetector, batch: list[tuple[float, npt.NDArray[np.uint8], bool]]
) -> Iterator[tuple[float, npt.NDArray[np.float32], bool]]:
    try:
        found = detector([image for _, image, _ in batch])
    except AvsyncError:
        raise
    except Exception as error:  # a custom detector may raise any error; the message names the video and the time
        raise CorpusError(
            f"{video.path}: the detector {detector.name!r} failed between {batch[0][0]:.2f} and {batch[-1][0]:.2f} s:"
            f" {type(error).__name__}: {error}"
        ) from error
    for (time, _, cut), faces in zip(batch, found, strict=True):
        boxes = face_boxes(faces) if len(faces) else np.zeros((0, 4))
        valid = boxes[:, 3] > boxes[:, 1]  # a box without height is no face
        yield time, boxes[valid].reshape(-1, 2, 2).astype(np.float32), cut
