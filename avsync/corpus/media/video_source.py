"""Upright frames of a video with their true times, one by one."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from avsync._checks import check_positive, check_type, import_extra
from avsync.corpus.media._opened import OpenedMedia
from avsync.corpus.media._packets import decode_stream, tally
from avsync.corpus.media.info import Image, MediaInfo, contents, describe, failures, pick_video, reason
from avsync.errors import CorpusError

# Frames with more pixels (8192 x 8192) indicate a damaged file.
_MAX_PIXELS = 1 << 26


class VideoFrame:
    """Image and its presentation time.

    Attributes:
        time: Seconds on the container's presentation clock.

    The image is converted on first access, so a frame whose image is not used is only decoded.
    """

    __slots__ = ("_frame", "_image", "_source", "time")

    def __init__(self, time: float, frame: Any, source: VideoSource) -> None:
        self.time = time
        self._frame: Any = frame
        self._source = source
        self._image: Image | None = None

    @property
    def image(self) -> Image:
        """Image (height, width, 3) uint8: RGB, upright, square pixels, contiguous; all images of a file have the same size."""
        if self._image is None:
            self._image = self._source._convert(self._frame)
            self._frame = None
        return self._image

    def __repr__(self) -> str:
        return f"VideoFrame(time={self.time:.6f})"


class VideoSource(OpenedMedia):
    """Video file as a stream of frames with true timestamps, in constant memory.

    Times are the presentation timestamps of the file, so variable frame rates, late starts, gaps and edit lists are respected.
    Images are rotated and mirrored according to the display matrix of the file, and stretched to square pixels. A frame without
    a timestamp gets the time of the previous frame plus one frame interval. A frame is dropped if its time is not after the
    time of the previous frame, or if its time is after the time of the next frame. Fields of interlaced video are not
    separated.

    :attr:`warnings` reports the errors found in the file so far. The file is read once: :meth:`frames` continues where the
    previous iteration stopped.

    Args:
        path: Any file that FFmpeg reads.
        max_height: Largest height of the images, in pixels; higher images are downscaled during the conversion to RGB.

    Raises:
        CorpusError: The file cannot be read, has no video stream, or no frame that can be decoded.
        ArgumentError: ``max_height`` is not positive.
        MissingExtraError: PyAV is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from avsync.corpus.media.files import write_video
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_video(Path(folder, "a.mp4"), (np.zeros((48, 64, 3), np.uint8) for _ in range(3)), fps=25)
        ...     with VideoSource(Path(folder, "a.mp4")) as video:
        ...         [(round(frame.time, 3), frame.image.shape) for frame in video.frames()]
        [(0.0, (48, 64, 3)), (0.04, (48, 64, 3)), (0.08, (48, 64, 3))]

    Source: ours.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_height: int | None = None) -> None:
        av = import_extra("av", "media")
        check_type("max_height", max_height, int, optional=True)
        if max_height is not None:
            check_positive("max_height", max_height)
        super().__init__(path)
        self._held: VideoFrame | None = None
        self._last: float | None = None
        with self._opening("a readable video"):
            stream = pick_video(self._container)
            if stream is None:
                raise CorpusError(f"{path}: expected a video stream that can be decoded, got {contents(self._container)}")
            self._stream: Any = stream
            stream.thread_type = "AUTO"
            stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
            rate = stream.average_rate or stream.guessed_rate
            self._interval = 1.0 / float(rate) if rate else 0.04
            self._decoded = decode_stream(self._container, stream, self._damage)
            self._first = next(self._decoded, None)
            if self._first is None:
                why = "; ".join(self.warnings) or "no image"
                raise CorpusError(f"{path}: expected a video stream that can be decoded, got {why}")
            self._reformatter = av.video.reformatter.VideoReformatter()
            self._orientation = _orientation(self._first)
            self._size, upright = _sizes(self._first, stream, self._orientation, max_height)
            start = self._time(self._first)
        #: Contents of the file.
        self.info: MediaInfo = describe(
            self._container,
            path,
            width=upright[0],
            height=upright[1],
            rotation=(360 - 90 * self._orientation[1]) % 360,
            video_start=start if start is not None else 0.0,
        )

    @property
    def warnings(self) -> list[str]:
        """Warnings so far, one line per kind, with the count."""
        return tally(self._damage)

    def frames(self) -> Iterator[VideoFrame]:
        """Yield the frames in the order of their times.

        Yields:
            :class:`VideoFrame`, with strictly increasing times.

        Raises:
            ArgumentError: The source is closed.
        """
        self._check_open("frames")
        for decoded in self._pending():
            self._check_process()
            if decoded.is_corrupt:
                self._damage["frames that the decoder reports as damaged"] += 1
            time = self._time(decoded)
            if time is None:
                before = self._held.time if self._held is not None else self._last
                time = before + self._interval if before is not None else self.info.video_start or 0.0
                self._damage["frames without a timestamp, placed by the frame rate"] += 1
            frame, held, last = VideoFrame(time, decoded, self), self._held, -math.inf if self._last is None else self._last
            if held is not None and time > held.time:
                self._held, self._last = frame, held.time
                yield held
            elif time > last and (held is None or time < held.time):
                if held is not None:
                    # The held frame has a wrong timestamp after the next frame, which must not discard all following frames.
                    self._damage["frames dropped because their time is after that of the next frame"] += 1
                self._held = frame
            else:
                self._damage["frames dropped because their time is not after that of the frame before"] += 1
        final, self._held = self._held, None
        if final is not None:
            self._last = final.time
            yield final
        self._check_end()

    def _pending(self) -> Iterator[Any]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        # No "yield from" or for loop, because the check must precede each call of the decoder.
        while True:
            self._check_process()
            frame = next(self._decoded, None)
            if frame is None:
                return
            yield frame

    def _time(self, frame: Any) -> float | None:
        base = frame.time_base or self._stream.time_base
        return None if frame.pts is None or base is None else float(frame.pts * base)

    def _check_end(self) -> None:
        stream, last = self._stream, self._last
        if stream.duration is not None and stream.time_base is not None:
            declared = (self.info.video_start or 0.0) + float(stream.duration * stream.time_base)
        elif self.info.seconds is not None:
            declared = self.info.seconds
        else:
            return
        if last is not None and declared - last > 1.0 + 2.0 * self._interval:
            self._damage[
                f"the images end at {last:.2f} s, but the file declares {declared:.2f} s: the file may be incomplete"
            ] = 0

    def _convert(self, frame: Any) -> Image:
        self._check_process()
        try:
            width, height = self._size
            # Area averaging preserves the position of contours in a downscaled image; it has no effect at full size.
            method = "BILINEAR" if (width, height) == (frame.width, frame.height) else "AREA"
            picture = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", interpolation=method)
            image: Image = picture.to_ndarray()
        except failures() as error:
            raise CorpusError(f"{self.path}: expected an image that can be converted to RGB, got: {reason(error)}") from error
        mirror, turns = self._orientation
        if mirror:
            image = image[:, ::-1]
        return np.ascontiguousarray(np.rot90(image, k=turns))


def _orientation(frame: Any) -> tuple[bool, int]:
    """Return whether to mirror the coded image horizontally, and the number of counter-clockwise quarter turns after mirroring.

    The display matrix maps :math:`(x, y)`, with :math:`y` downwards, to :math:`(a x + c y, b x + d y)`. The matrix is rounded
    to the nearest of the eight combinations of mirroring and quarter turns.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")  # PyAV 18 iterates over values, 19 over keys; both know names
    if matrix is None or len(bytes(matrix)) < 36:
        return False, 0
    a, b, _, c, d = struct.unpack("<5i", bytes(matrix)[:20])
    mirror = a * d - b * c < 0
    if mirror:
        a, b = -a, -b
    return mirror, round(math.atan2(-b, a) / (math.pi / 2)) % 4 if (a or b) else 0


def _sizes(
    frame: Any, stream: Any, orientation: tuple[bool, int], max_height: int | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the converted size (width, height) before rotation, and the upright full size (width, height)."""
    width, height = frame.width, frame.height
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if aspect and 0.1 < aspect < 10:
        width = max(1, round(width * float(aspect)))
    across = orientation[1] % 2 == 1
    upright = (height, width) if across else (width, height)
    scale = 1.0 if max_height is None else min(1.0, max_height / upright[1])
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return size, upright
