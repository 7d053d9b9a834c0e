"""Damaged files either read or raise :class:`CorpusError`: never another exception, never more frames than a file can hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avsync.corpus.media.audio_source import AudioSource
from avsync.corpus.media.video_source import VideoSource
from avsync.errors import CorpusError
from tests.media_samples import flash_click_video

SAMPLES = {
    "mp4": {"container": "mp4", "b_frames": 2},
    "mov": {"container": "mov", "video_codec": "mpeg4", "audio_codec": "pcm_s16le", "sample_rate": 8000, "rotation": 90},
    "mkv": {"container": "mkv", "audio_codec": "flac", "sample_rate": 16000},
    "webm": {"container": "webm"},
    "avi": {"container": "avi", "audio_codec": "libmp3lame", "sample_rate": 44100},
    "mpg": {"container": "mpg", "video_codec": "mpeg1video"},
    "ts": {"container": "ts", "layout": "stereo"},
}
PER_SAMPLE = 76


def mutate(content: bytes, source: np.random.Generator) -> bytes:
    """One of: flipped bytes, a lost end, a lost middle, two blocks exchanged, a block of noise, a block of zeros."""
    data = np.frombuffer(content, dtype=np.uint8).copy()
    size = data.size
    kind = source.integers(6)
    # Headers are small but decide most, so half of the damage falls on the first tenth.
    reach = size if source.random() < 0.5 else max(64, size // 10)
    first, second = (int(x) for x in source.integers(0, reach, 2))
    length = int(source.integers(1, max(2, size // 8)))
    if kind == 0:
        places = source.integers(0, reach, int(source.integers(1, 24)))
        data[places] ^= source.integers(1, 256, places.size, dtype=np.uint8)
    elif kind == 1:
        data = data[: max(1, first)]
    elif kind == 2:
        data = np.concatenate([data[:first], data[first + length :]])
    elif kind == 3:
        left, right = data[first : first + length].copy(), data[second : second + length].copy()
        both = min(left.size, right.size)
        data[first : first + both], data[second : second + both] = right[:both], left[:both]
    elif kind == 4:
        block = data[first : first + length]
        block[:] = source.integers(0, 256, block.size, dtype=np.uint8)
    else:
        data[first : first + length] = 0
    return data.tobytes()


def read_video(path: Path) -> int:
    """How many frames come out; -1 for a refusal."""
    refusal = ""
    count = 0
    try:
        with VideoSource(path) as video:
            last, shape = -np.inf, None
            for frame in video.frames():
                assert frame.time > last
                last, count = frame.time, count + 1
                image = frame.image
                assert image.dtype == np.uint8 and image.ndim == 3 and (shape or image.shape) == image.shape
                shape = image.shape
            assert count >= 1 and all(isinstance(line, str) for line in video.warnings)
    except CorpusError as error:
        refusal = str(error)
    assert not refusal or (str(path) in refusal and "\n" not in refusal)
    return -1 if refusal else count


def read_sound(path: Path) -> bool:
    """Whether sound comes out."""
    refusal = ""
    try:
        with AudioSource(path) as sound:
            for second in range(3):
                samples = sound.read(sound.start + second, 16000)
                assert samples.shape == (16000,) and np.abs(samples).max() <= 1.0
            assert all(isinstance(line, str) for line in sound.warnings)
    except CorpusError as error:
        refusal = str(error)
    assert not refusal or (str(path) in refusal and "\n" not in refusal)
    return not refusal


@pytest.mark.parametrize("name", SAMPLES)
def test_mutated_files_read_or_raise(name: str, tmp_path: Path) -> None:
    made = flash_click_video(tmp_path / "whole", **SAMPLES[name], fps=25, seconds=0.6, flashes=(0.2,), size=(64, 48))
    content = made.path.read_bytes()
    assert read_video(made.path) == 15 and read_sound(made.path)
    path = tmp_path / "damaged"
    seen, heard = [], []
    for index in range(PER_SAMPLE):
        path.write_bytes(mutate(content, np.random.default_rng([index, *name.encode()])))
        seen.append(read_video(path))
        heard.append(read_sound(path))
    # A file of 0.6 s cannot hold more; both outcomes must have been met, or the damage was none or total.
    assert max(seen) <= 40
    assert min(seen) == -1 < sum(seen) and {False, True} == set(heard)
