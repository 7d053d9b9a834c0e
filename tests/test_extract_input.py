"""Videos that cannot be used are named in one line; unusual ones are used like any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsync.corpus.extraction.from_video import extract
from avsync.corpus.extraction.report import VideoReport, dropped_seconds
from avsync.errors import CorpusError
from tests.media_samples import flash_click_video
from tests.test_extract import ALLOWED, Faces, Image, Table, face_at, film, peaks, scenery, squares, start_by_picture


def no_face(images: Sequence[Image]) -> list[Faces]:
    return [None] * len(images)


def test_a_video_without_a_face_has_no_clip_and_says_so(tmp_path: Path) -> None:
    report = VideoReport(source="a")
    assert extract(film(tmp_path / "a.mp4", [0] * 75), detector=no_face, report=report) == []
    assert report.line() == "a: no clip in 3.0 s; dropped 3.0 s (no face 3.0)"


def test_a_still_of_hours_is_a_line(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "still.mkv"), "w") as container:
        video = container.add_stream("mpeg4", rate=1)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for hour in range(11):
            frame = av.VideoFrame.from_ndarray(scenery(0), format="rgb24")
            frame.pts = 3600 * hour
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        block.sample_rate, block.pts = 8000, 0
        container.mux(sound.encode(block))
        container.mux(sound.encode(None))
    report = VideoReport(source="still")
    assert extract(tmp_path / "still.mkv", detector=Table(lambda n: face_at(20)), report=report) == []
    assert report.images == 11 and report.seconds >= 36000
    assert dropped_seconds([report])["gap in the video"] == pytest.approx(36000)
    assert len(report.line()) < 200


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no sound": (
        lambda p: flash_click_video(p, seconds=1.0, with_audio=False),
        "expected an audio stream, got a video without",
    ),
    "no picture": (
        lambda p: flash_click_video(p, seconds=1.0, with_video=False),
        "expected a video stream.*only sound",
    ),
    "empty": (lambda p: p.write_bytes(b""), "expected a media file, got an empty one"),
    "text": (lambda p: p.write_text("once upon a time\n" * 50), "expected"),
    "noise": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(50000)), "expected"),
    "missing": (lambda p: None, "expected a media file, got nothing there"),
    "a folder": (lambda p: p.mkdir(), "expected a media file, got a folder"),
    "the start of a file": (lambda p: _cut(p, 0.2), "expected"),
}


def _cut(path: Path, share: float, container: str = "mp4") -> None:
    flash_click_video(path, container=container, seconds=4.0)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("kind", BAD)
def test_files_that_cannot_be_used_are_named_in_one_line(kind: str, tmp_path: Path) -> None:
    make, message = BAD[kind]
    path = tmp_path / "film.mp4"
    make(path)
    with pytest.raises(CorpusError, match=message) as caught:
        extract(path, detector=squares)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_there_is_of_a_truncated_file_is_used(tmp_path: Path) -> None:
    _cut(tmp_path / "a.mkv", 0.65, "mkv")
    report = VideoReport(source="a")
    [clip] = extract(tmp_path / "a.mkv", detector=squares, scene_cuts=False, report=report)
    assert 2.0 <= clip.seconds < 4.0 and report.warnings and "warning" in report.line()


UNUSUAL: dict[str, dict[str, Any]] = {
    "a name that lies": {"container": "avi"},
    "8 kHz": {"sample_rate": 8000},
    "5.1": {"container": "mkv", "layout": "5.1"},
    "turned phone": {"rotation": 90, "size": (64, 128)},
    "upside down": {"rotation": 180},
    "portrait": {"size": (64, 128)},
    "4:4:4": {"pixel_format": "yuv444p"},
    "10 bits": {"pixel_format": "yuv420p10le"},
    "odd size": {"pixel_format": "yuv444p", "size": (129, 65)},
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_videos_are_used_like_any_other(kind: str, tmp_path: Path) -> None:
    settings = {"size": (128, 64), "seconds": 2.4, "flashes": (1.2,), **UNUSUAL[kind]}
    truth = flash_click_video(tmp_path / "film.mp4", **settings)
    [clip] = extract(truth.path, detector=squares, crop="none", scene_cuts=False)
    starts = start_by_picture(clip, truth, width=settings["size"][0])
    np.testing.assert_allclose(starts, 0.0, atol=2 * ALLOWED if settings["size"][0] == 64 else ALLOWED)
    np.testing.assert_allclose(truth.clicks - peaks(clip.waveform) / 16000, 0.0, atol=ALLOWED)
    assert clip.frame_size == settings["size"]


def test_a_detector_that_fails_is_named_with_the_time(tmp_path: Path) -> None:
    def broken(images: Sequence[Image]) -> list[Faces]:
        raise KeyError("mouth")

    path = film(tmp_path / "a.mp4", [0] * 30)
    with pytest.raises(
        CorpusError, match=r"a\.mp4: the detector '.*broken' failed between 0\.00 and 0\.60 s: KeyError: 'mouth'"
    ):
        extract(path, detector=broken)
