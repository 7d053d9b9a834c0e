"""Missing audio is missing: masked in clips, in speech masks and in reports, never counted as silence that was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from avsync.audio.features import LogMel
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.clip import Clip, Corpus, missing_ranges
from avsync.corpus.extraction.batch import extract_corpus
from avsync.corpus.media import AudioSource, read_audio
from avsync.corpus.speech import clip_speech, speech_mask
from avsync.errors import ShapeError

SECONDS = 4.0
FACE = np.array([[20, 20], [40, 20], [30, 44]], np.float32)


def find_face(images: Sequence[Any]) -> list[Any]:
    return [FACE] * len(images)


def film(path: Path, *, start: float = 0.0, end: float = SECONDS, sides: tuple[float, float] = (1.0, 1.0)) -> Path:
    """Four seconds of video whose audio, noise in stereo, lasts from ``start`` to ``end``."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, round((end - start) * 16000)).astype(np.float32)
    with av.open(str(path), "w", format="matroska") as output:
        video = output.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = output.add_stream("flac", rate=16000, layout="stereo")
        packets: list[tuple[float, Any]] = []
        for number in range(round(SECONDS * 25)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            frame.pts = number
            packets += [(number / 25, packet) for packet in video.encode(frame)]
        packets += [(SECONDS, packet) for packet in video.encode(None)]
        samples = np.stack([side * noise for side in sides]).T
        for first in range(0, len(samples), 1600):
            block = np.ascontiguousarray((samples[first : first + 1600] * 32767).astype(np.int16).reshape(1, -1))
            part = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
            part.sample_rate, part.pts = 16000, round(start * 16000) + first
            packets += [(start + first / 16000, packet) for packet in audio.encode(part)]
        packets += [(end, packet) for packet in audio.encode(None)]
        for _, packet in sorted(packets, key=lambda pair: pair[0]):
            output.mux(packet)
    return path


@pytest.mark.parametrize(
    ("where", "missing"),
    [
        ({}, ()),
        ({"end": 2.0}, ((50, 100),)),
        ({"start": 1.0}, ((0, 25),)),
        ({"start": 1.0, "end": 3.0}, ((0, 25), (75, 100))),
    ],
)
def test_extraction_keeps_and_reports_it(tmp_path: Path, where: dict[str, float], missing: tuple[tuple[int, int], ...]) -> None:
    report = extract_corpus([film(tmp_path / "talk.mkv", **where)], tmp_path / "corpus", detector=find_face)
    [clip] = Corpus(tmp_path / "corpus")
    assert clip.frames == 100 and clip.missing_audio == missing
    there = 100 - sum(stop - first for first, stop in missing)
    assert report.videos[0].clips[0].audio_seconds == pytest.approx(there / 25)
    assert report.to_json()["totals"]["seconds_without_audio"] == pytest.approx((100 - there) / 25)
    assert any("no audio in the file" in warning for warning in report.videos[0].warnings) == bool(missing)
    assert ("no audio in the file" in report.summary()) == bool(missing)
    assert not clip.waveform[~np.repeat(clip.has_audio, 640)][800:-800].any()
    # All of the noise that is there is as loud as speech, and nothing else counts.
    assert np.array_equal(clip_speech(clip), clip.has_audio)
    bank = ClipBank([clip], features=LogMel())
    assert np.array_equal(bank.speech.numpy() > 0.5, clip.has_audio)


def test_channels_that_cancel_are_told(tmp_path: Path) -> None:
    path = film(tmp_path / "opposite.mkv", sides=(1.0, -1.0))
    report = extract_corpus([path], tmp_path / "corpus", detector=find_face)
    assert any("cancel" in warning for warning in report.videos[0].warnings)
    with pytest.warns(UserWarning, match="cancel"):
        read_audio(path)
    for sides in ((1.0, 1.0), (1.0, 0.0), (1.0, -0.2), (0.0, 0.0)):
        with AudioSource(film(tmp_path / "fine.mkv", sides=sides)) as source:
            source.read(0.0, 64000)
            assert not any("cancel" in warning for warning in source.warnings), sides


def test_a_frame_with_less_than_half_of_its_audio_has_none() -> None:
    present: npt.NDArray[np.bool_] = np.ones(640 * 6, dtype=bool)
    present[640 : 640 + 321] = False
    present[1280 : 1280 + 319] = False
    present[-1] = False
    assert missing_ranges(present, 6) == ((1, 2),)
    assert missing_ranges(~np.ones(26667, bool), 50, 30.0) == ((0, 50),)
    assert missing_ranges(np.ones(26667, bool), 50, 30.0) == ()


def test_the_speech_of_the_rest_is_judged_without_the_missing_frames() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 640 * 40).astype(np.float32)
    present = np.arange(40) < 2
    noise[640 * 2 :] = 0.5  # a constant that no recording has; were it heard, it would be the loudest
    assert speech_mask(noise, present=present).tolist() == [True] * 2 + [False] * 38
    assert not speech_mask(noise, present=np.zeros(40, bool)).any()
    for wrong in (np.ones(39, bool), np.ones(40), "all"):
        with pytest.raises(ShapeError, match="`present`"):
            speech_mask(noise, present=wrong)  # type: ignore[arg-type]
    clip = Clip("a", "s", "train", np.ones((40, 68, 2), np.float32), noise, missing_audio=((2, 40),))
    assert clip_speech(clip).sum() == 2
