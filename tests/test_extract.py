"""From videos to clips: on time in every container and rate, split where they must be, every second accounted for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from avsync.corpus.clip import Clip, check_clip, sample_of_frame
from avsync.corpus.extraction._ahead import ahead
from avsync.corpus.extraction.from_video import extract, iter_clips
from avsync.corpus.extraction.report import VideoReport, dropped_seconds, uncovered
from avsync.corpus.media.files import write_video
from avsync.errors import ArgumentError
from tests.media_samples import SQUARE, Truth, flash_click_video, read_picture

Image = npt.NDArray[np.uint8]
Faces = npt.NDArray[np.float32] | None

#: Seconds; what issue 3 allows is 10 ms.
ALLOWED = 0.005

CASES: dict[str, dict[str, Any]] = {
    "mp4 25": {"fps": 25},
    "mp4 variable, sound late": {"fps": "variable", "audio_start": 0.35},
    "mp4 60 B-frames, picture late": {"fps": 60, "b_frames": 2, "video_start": 0.4},
    "mkv 23.976 sound late": {"fps": 23.976, "audio_start": 0.3},
    "mkv variable": {"fps": "variable"},
    "webm 24 picture late": {"fps": 24, "video_start": 0.3},
    "webm 50 sound late": {"fps": 50, "audio_start": 0.3},
    "avi 25 sound late": {"fps": 25, "audio_start": 0.3},
    "avi 29.97": {"fps": 29.97},
    "mpg 25 picture late": {"fps": 25, "video_start": 0.3},
    "mpg 60 sound late": {"fps": 60, "audio_start": 0.3},
    "mpg 23.976": {"fps": 23.976},
}


def squares(images: Sequence[Image]) -> list[Faces]:
    """A detector that finds the square: three corners of a face around it, and the square itself."""
    faces: list[Faces] = []
    for image in images:
        _, x, y = read_picture(image)
        faces.append(np.array([[x - 10, y - 15], [x + 10, y - 15], [x, y + 15], [x, y]], np.float32))
    return faces


def start_by_picture(clip: Clip, truth: Truth, width: int) -> npt.NDArray[np.float64]:
    """(frames,): when the clip starts on the maker's clock, by where the square is in each of its frames."""
    place = clip.landmarks[:, 3, 0].astype(np.float64)
    return (place - SQUARE) / (width - 2 * SQUARE) * truth.seconds - np.arange(clip.frames) / clip.fps


def peaks(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Samples of the clicks."""
    loud = np.abs(waveform)
    return 1 + np.flatnonzero((loud[1:-1] > 0.25) & (loud[1:-1] >= loud[:-2]) & (loud[1:-1] > loud[2:]))


@pytest.mark.parametrize("case", CASES)
def test_landmarks_and_sound_of_clips_start_at_the_same_instant(case: str, tmp_path: Path) -> None:
    settings = {
        "container": case.split(maxsplit=1)[0],
        "seconds": 2.8,
        "flashes": (0.81, 1.59, 2.3),
        "size": (128, 64),
        **CASES[case],
    }
    truth = flash_click_video(tmp_path / "video", **settings)
    report = VideoReport(source="video")
    # The flashes turn the whole picture inside out, which is what a cut looks like.
    [clip] = extract(truth.path, detector=squares, crop="none", scene_cuts=False, report=report)
    check_clip(clip)
    starts = start_by_picture(clip, truth, width=128)
    heard = peaks(clip.waveform)
    assert len(heard) == len(truth.clicks) == 3
    np.testing.assert_allclose(truth.clicks - heard / 16000, np.median(starts), atol=ALLOWED)
    np.testing.assert_allclose(starts, np.median(starts), atol=ALLOWED)
    # The clip is as long as the picture, and where the file says that it is.
    assert clip.seconds == pytest.approx(truth.seconds - truth.frame_times[0], abs=0.11)
    if settings["container"] in {"mp4", "avi"}:
        assert report.clips[0].start == pytest.approx(np.median(starts), abs=ALLOWED)
    assert report.dropped == [] and report.images == len(truth.frame_times)


@pytest.mark.parametrize("fps", [12.5, 29.97, 30.0, 60.0])
def test_other_rates_keep_the_same_contract(fps: float, tmp_path: Path) -> None:
    truth = flash_click_video(tmp_path / "a.mp4", fps=24, seconds=2.8, flashes=(0.81, 1.59), size=(128, 64), audio_start=0.2)
    [clip] = extract(truth.path, detector=squares, crop="none", fps=fps, scene_cuts=False)
    assert clip.fps == fps and clip.waveform.size == sample_of_frame(clip.frames, fps)
    starts = start_by_picture(clip, truth, width=128)
    np.testing.assert_allclose(starts, np.median(starts), atol=ALLOWED)
    np.testing.assert_allclose(truth.clicks - peaks(clip.waveform) / 16000, np.median(starts), atol=ALLOWED)


def test_parts_of_a_long_stretch_follow_one_another_on_time(tmp_path: Path) -> None:
    clicks = (0.5, 1.5, 2.5, 3.5, 4.5)
    truth = flash_click_video(tmp_path / "a.mkv", container="mkv", fps=29.97, seconds=5.0, flashes=clicks, size=(128, 64))
    report = VideoReport(source="a")
    options: dict[str, Any] = {"detector": squares, "crop": "none", "scene_cuts": False, "min_seconds": 1.0, "max_seconds": 2.0}
    clips = extract(truth.path, report=report, **options)
    assert [clip.id for clip in clips] == ["a_000", "a_001", "a_002"]
    assert max(clip.frames for clip in clips) - min(clip.frames for clip in clips) <= 1
    assert [(clip.started, clip.ended) for clip in report.clips] == [
        ("start of video", "length"),
        ("length", "length"),
        ("length", "end of video"),
    ]
    heard = 0
    for clip, told in zip(clips, report.clips, strict=True):
        starts = start_by_picture(clip, truth, width=128)
        np.testing.assert_allclose(starts, told.start, atol=ALLOWED)
        for peak in peaks(clip.waveform):
            assert min(abs(click - told.start - peak / 16000) for click in truth.clicks) < ALLOWED
            heard += 1
    assert heard == 5
    for before, after in zip(report.clips, report.clips[1:], strict=False):
        assert after.start == pytest.approx(before.start + before.seconds, abs=1e-5)


# --- scenes: pictures whose faces a detector reads from a table


def scenery(number: int) -> Image:
    """(48, 64, 3): a picture of its own for each scene."""
    rng = np.random.default_rng(number)
    blots = rng.integers(0, 255, (6, 8, 3)) // (1 + number % 3)
    return np.repeat(np.repeat(blots, 8, axis=0), 8, axis=1).astype(np.uint8)


def film(path: Path, scenes: Sequence[int], *, fps: float = 25, sound: float | None = None) -> Path:
    """A video of as many images, each the number of a scene, with a sound that tells the time: sample s is a ramp of s."""
    seconds = len(scenes) / fps if sound is None else sound
    ramp = (np.arange(round(16000 * seconds)) / 16000 / 100).astype(np.float32)
    write_video(path, (scenery(number) for number in scenes), fps=fps, waveform=ramp)
    return path


def face_at(x: float, size: float = 16.0) -> npt.NDArray[np.float32]:
    return np.array([[x, 10], [x + size, 10], [x + size / 2, 10 + size]], np.float32)


class Table:
    """A detector that looks up what to find by the number of the image."""

    def __init__(self, find: Callable[[int], Any], batch_size: int = 16) -> None:
        self.find, self.seen, self.batch_size = find, 0, batch_size

    def __call__(self, images: Sequence[Image]) -> list[Any]:
        numbers = range(self.seen, self.seen + len(images))
        self.seen += len(images)
        return [self.find(number) for number in numbers]


def accounted(report: VideoReport) -> float:
    """Seconds of clips and of what was dropped."""
    return sum(clip.seconds for clip in report.clips) + sum(part.seconds for part in report.dropped)


def test_splits_and_losses_are_told(tmp_path: Path) -> None:
    # Scene 0: 3 s; scene 1: 1 s, too short; scene 2: 2.4 s, then no face for a second, then 2 s more.
    path = film(tmp_path / "a.mp4", [0] * 75 + [1] * 25 + [2] * 135)
    report = VideoReport(source="a")
    shares: list[float] = []
    clips = extract(
        path,
        detector=Table(lambda n: None if 160 <= n < 185 else face_at(20)),
        min_seconds=1.5,
        report=report,
        progress=shares.append,
    )
    assert [(clip.started, clip.ended, clip.frames) for clip in report.clips] == [
        ("start of video", "scene cut", 75),
        ("scene cut", "face lost", 60),
        ("face found", "end of video", 50),
    ]
    assert [(part.reason, part.started, part.ended) for part in report.dropped] == [
        ("too short", "scene cut", "scene cut"),
        ("no face", "", ""),
    ]
    assert [clip.start for clip in report.clips] == pytest.approx([0.0, 4.0, 7.4], abs=1e-3)
    assert report.seconds == pytest.approx(9.4, abs=1e-3) and accounted(report) == pytest.approx(9.4, abs=0.05)
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert report.line() == "a: 3 clips, 7.4 of 9.4 s; dropped 2.0 s (too short 1.0, no face 1.0)"
    assert VideoReport.from_json(report.to_json()) == report
    # AAC keeps a ramp well enough to tell where each clip's sound is from.
    for clip, told in zip(clips, report.clips, strict=True):
        assert 100 * float(clip.waveform[1000:-1000].mean()) == pytest.approx(told.start + clip.seconds / 2, abs=0.1)


def test_no_second_is_dropped_twice(tmp_path: Path) -> None:
    """At one image per second each image is a track that is too short, and each interval a gap."""
    path = film(tmp_path / "a.mp4", [0] * 10, fps=1)
    report = VideoReport(source="a")
    extract(path, detector=Table(lambda n: face_at(20)), report=report)
    assert report.seconds == pytest.approx(10.0) and accounted(report) == pytest.approx(10.0)
    assert dropped_seconds([report]) == pytest.approx({"gap in the video": 9.0, "too short": 1.0})


def test_a_jump_ends_a_clip(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [0] * 120)
    report = VideoReport(source="a")
    extract(path, detector=Table(lambda n: face_at(5 if n < 60 else 40)), report=report)
    assert [(clip.started, clip.ended, clip.frames) for clip in report.clips] == [
        ("start of video", "jump", 60),
        ("jump", "end of video", 60),
    ]


def test_all_faces_become_clips_of_persons_with_the_sound_of_their_time(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [0] * 200)

    def both(number: int) -> list[npt.NDArray[np.float32]]:
        return [face_at(2, 14), *([face_at(40, 20)] if number >= 50 else [])]

    def of_time(clips: list[Clip], report: VideoReport) -> None:
        for clip, told in zip(clips, report.clips, strict=True):
            assert 100 * float(clip.waveform[1000:-1000].mean()) == pytest.approx(told.start + clip.seconds / 2, abs=0.1)

    report = VideoReport(source="a")
    clips = extract(path, detector=Table(both), faces="all", max_seconds=3.0, speaker="talk", report=report)
    of_time(clips, report)
    assert sorted({clip.speaker for clip in clips}) == ["talk_p0", "talk_p1"]
    assert sum(clip.seconds for clip in clips if clip.speaker == "talk_p0") == pytest.approx(8.0)
    assert sum(clip.seconds for clip in clips if clip.speaker == "talk_p1") == pytest.approx(6.0)
    assert [clip.start for clip in report.clips] == sorted(clip.start for clip in report.clips)
    report = VideoReport(source="a")
    clips = extract(path, detector=Table(both), faces="largest", report=report)
    of_time(clips, report)
    assert [clip.frames for clip in clips] == [50, 150] and {clip.speaker for clip in clips} == {"a"}
    assert dropped_seconds([report]) == pytest.approx({"another face was chosen": 6.0}, abs=0.1)


def test_a_person_keeps_the_number_where_long_tracks_are_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[iter_clips.__module__], "_TRACK_SECONDS", 3.0)
    path = film(tmp_path / "a.mp4", [0] * 200)
    detector = Table(lambda n: [face_at(2, 14), face_at(40, 20)] if n >= 10 else [face_at(2, 14)])
    report = VideoReport(source="a")
    clips = extract(path, detector=detector, faces="all", min_seconds=1.0, report=report)
    assert {clip.speaker for clip in clips} == {"a_p0", "a_p1"} and len(clips) > 4
    lengths = {person: sum(clip.frames for clip in clips if clip.speaker == person) for person in ("a_p0", "a_p1")}
    # Tracks share the image at which they are handed over.
    assert 200 <= lengths["a_p0"] <= 203 and 190 <= lengths["a_p1"] <= 193


def test_clips_come_while_the_video_is_read(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [0] * 60 + [1] * 60 + [2] * 60)
    detector = Table(lambda n: face_at(20), batch_size=5)
    seen = [detector.seen for _ in iter_clips(path, detector=detector)]
    assert seen == [65, 125, 180]


def test_crops(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [0] * 60)

    def clip_of(crop: str) -> Clip:
        return extract(path, detector=Table(lambda n: face_at(5 + n / 4)), crop=crop)[0]

    plain, fixed, centred = clip_of("none"), clip_of("fixed"), clip_of("centred")
    assert plain.frame_size == (64, 48) and fixed.frame_size == centred.frame_size == (256, 256)
    assert plain.landmarks[40, 0].tolist() == pytest.approx([15, 10])
    # The first keeps the motion, in its own unit; the second has none left.
    scale = np.ptp(fixed.landmarks[0, :, 1]) / 16
    np.testing.assert_allclose(np.diff(fixed.landmarks[:, 0, 0]), 0.25 * scale, rtol=1e-3)
    np.testing.assert_allclose(centred.landmarks, centred.landmarks[:1].repeat(60, axis=0), atol=1e-3)
    assert fixed.landmarks.min() > 0 and fixed.landmarks.max() < 256


def test_landmarks_stay_in_pixels_of_the_source_when_pictures_are_made_smaller(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [0] * 60)
    sizes = set()

    def corners(images: Sequence[Image]) -> list[Faces]:
        sizes.update(image.shape[:2] for image in images)
        height, width = images[0].shape[:2]
        return [np.array([[0, 0, 0], [width, 0, 4], [width, height, 8]], np.float32)] * len(images)

    [clip] = extract(path, detector=corners, crop="none", max_height=24)
    assert sizes == {(24, 32)}
    assert clip.landmarks[0].tolist() == [[0, 0, 0], [64, 0, 8], [64, 48, 16]] and clip.frame_size == (64, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"faces": "ugliest"}, "`faces`: expected one of 'largest', 'stable', 'all'"),
        ({"crop": "round"}, "`crop`: expected one of 'fixed', 'centred', 'none'"),
        ({"fps": 0}, "`fps`"),
        ({"min_seconds": -1}, "`min_seconds`"),
        ({"min_seconds": 5, "max_seconds": 4}, "`max_seconds`: expected at least `min_seconds` = 5"),
        ({"detector": "nobody"}, "`detector`: expected 'auto', 'face-alignment', 'litert', 'mediapipe', 'demo'"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        extract(tmp_path / "a.mp4", **{"detector": squares, **options})


def test_uncovered_time_against_a_raster() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        parts = [tuple(sorted(rng.integers(-3, 23, 2).tolist())) for _ in range(rng.integers(0, 6))]
        raster = np.ones(20, dtype=bool)
        for low, high in parts:
            raster[max(low, 0) : max(high, 0)] = False
        gaps = uncovered(parts, 0, 20)
        found = np.zeros(20, dtype=bool)
        for low, high in gaps:
            found[int(low) : int(high)] = True
        assert (found == raster).all() and all(low < high for low, high in gaps)


def test_the_iterator_can_be_left_early(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [0] * 60 + [1] * 60)
    clips: Iterator[Clip] = iter_clips(path, detector=Table(lambda n: face_at(20)))
    assert next(clips).frames == 60
    clips.close()  # type: ignore[attr-defined]


def test_the_thread_that_runs_ahead_ends_with_its_consumer() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    before = threading.active_count()
    left = ahead(items(), depth=2)
    assert [next(left), next(left)] == [0, 1]
    left.close()
    assert len(made) < 10 and threading.active_count() == before

    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    failing = ahead(broken())
    assert next(failing) == 1
    with pytest.raises(KeyError, match="two"):
        next(failing)
    assert threading.active_count() == before
    assert list(ahead(iter(range(50)), depth=3)) == list(range(50))
