"""Videos of the synthetic talker, and the detector that reads them: every command can be tried without a file of one's own.

The face is drawn as points. Two rows of black and white blocks at the top of each image hold the numbers of the speaker, the
clip and the frame, so that the detector returns the true landmarks. A real detector would find no face in these images.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from avsync._checks import check_path, checked
from avsync.corpus.clip import Clip
from avsync.corpus.media.files import write_video
from avsync.corpus.media.info import Image
from avsync.corpus.synthetic.talker import FRAME_SIZE, synthetic_clip
from avsync.errors import ArgumentError
from avsync.pyramid import FPS, SAMPLE_RATE

_BLOCK = 16
_ROWS = 2
_FIELDS = (20, 10, 14, 14)  # bits of the numbers of the speaker, the clip, its frames, and the frame
_CHECK_BITS = 12
_LATEST = 1.0


@checked
def write_talk(
    path: str | os.PathLike[str], *, speaker: int = 0, clip: int = 0, seconds: float = 8.0, audio_delay: float = 0.0
) -> Clip:
    """Write a video of the synthetic talker: the points of a face, with the voice.

    Args:
        path: File to write, ``.mp4``.
        speaker: Number of the speaker, as in :func:`avsync.corpus.synthetic.talker.synthetic_clip`.
        clip: Number of the clip among the clips of the speaker.
        seconds: Length, in seconds.
        audio_delay: Delay of the audio, in seconds, -1 to 1; negative values make the audio early.

    Returns:
        The clip in sync, as it was before the delay.

    Raises:
        ArgumentError: A number is out of its range.
        MissingExtraError: PyAV is not installed (extra "media").

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_talk(os.path.join(folder, "talk.mp4"), seconds=1.0).frames
        25

    Source: ours.
    """
    check_path("path", path)
    if not abs(audio_delay) <= _LATEST:
        raise ArgumentError(f"`audio_delay`: expected seconds from -{_LATEST:g} to {_LATEST:g}, got {audio_delay!r}")
    made = synthetic_clip(speaker=speaker, clip=clip, seconds=seconds)
    numbers = (speaker, clip, made.frames)
    if any(number >= 1 << bits for number, bits in zip(numbers, _FIELDS, strict=False)):
        raise ArgumentError(f"`speaker`, `clip`, `seconds`: expected smaller numbers, got {speaker}, {clip} and {seconds}")
    late = round(audio_delay * SAMPLE_RATE)
    audio = np.zeros_like(made.waveform)
    audio[max(0, late) : audio.size + min(0, late)] = made.waveform[max(0, -late) : audio.size - max(0, late)]

    def images() -> Iterator[Image]:
        for number, points in enumerate(made.landmarks):
            image = np.full((FRAME_SIZE[1], FRAME_SIZE[0], 3), 24, np.uint8)
            for x, y in np.round(points).astype(int):
                image[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = 235
            _write_code(image, (*numbers, number))
            yield image

    write_video(path, images(), fps=FPS, waveform=audio)
    return made


class TalkDetector:
    """Detector of the faces in the videos that :func:`write_talk` writes.

    It follows :class:`avsync.corpus.detectors.protocol.Detector`. Images without the code have no face. Images must keep their
    size.

    Example:
        >>> TalkDetector()([np.zeros((480, 640, 3), np.uint8)])
        [None]

    Source: ours.
    """

    def __call__(self, images: Sequence[Image], /) -> list[npt.NDArray[np.float32] | None]:
        """Return the landmarks of each image, (68, 2); None if there is no code."""
        return [_face(_read_code(image)) for image in images]


def _face(numbers: tuple[int, ...] | None) -> npt.NDArray[np.float32] | None:
    if numbers is None:
        return None
    speaker, clip, frames, number = numbers
    return _landmarks(speaker, clip, frames)[number] if number < frames else None


@functools.lru_cache(maxsize=8)
def _landmarks(speaker: int, clip: int, frames: int) -> npt.NDArray[np.float32]:
    return synthetic_clip(speaker=speaker, clip=clip, seconds=frames / FPS).landmarks


def _bits(numbers: Sequence[int]) -> list[int]:
    text = "".join(f"{number:0{bits}b}" for number, bits in zip(numbers, _FIELDS, strict=True))
    # A checksum, so that an image of something else does not become a face.
    check = int(text, 2) * 2654435761 % (1 << 32) >> (32 - _CHECK_BITS)
    return [int(bit) for bit in f"{text}{check:0{_CHECK_BITS}b}"]


def _places() -> Iterator[tuple[slice, slice]]:
    for number in range(sum(_FIELDS) + _CHECK_BITS):
        row, column = divmod(number, FRAME_SIZE[0] // _BLOCK)
        yield slice(row * _BLOCK, (row + 1) * _BLOCK), slice(column * _BLOCK, (column + 1) * _BLOCK)


def _write_code(image: Image, numbers: Sequence[int]) -> None:
    image[: _ROWS * _BLOCK] = 0
    for place, bit in zip(_places(), _bits(numbers), strict=True):
        image[place] = 255 * bit


def _read_code(image: Image) -> tuple[int, ...] | None:
    if image.shape != (FRAME_SIZE[1], FRAME_SIZE[0], 3):
        return None
    bits = [int(image[place].mean() > 127) for place in _places()]
    text, numbers = "".join(map(str, bits)), []
    for size in _FIELDS:
        numbers.append(int(text[:size], 2))
        text = text[size:]
    return tuple(numbers) if _bits(numbers) == bits else None
