"""Scores of videos in the image domain: the crops, the frames, the protocol as the published script has it, signs, bad input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from avsync.corpus.detectors import as_detector
from avsync.corpus.media.audio_source import AudioSource
from avsync.corpus.media.files import write_video
from avsync.corpus.media.video_source import VideoSource
from avsync.errors import ArgumentError, ClipTooShortError, CorpusError, ShapeError
from avsync.evaluation.syncnet.audio import syncnet_mfcc
from avsync.evaluation.syncnet.face_crop import crop_face, crop_path, face_boxes, median_filter
from avsync.evaluation.syncnet.face_track import face_paths, frames_at
from avsync.evaluation.syncnet.network import SyncNet
from avsync.evaluation.syncnet.scoring import score_video
from tests.reference import offset as reference

Images = Sequence[npt.NDArray[np.uint8]]
BOX = np.array([[100.0, 60.0], [220.0, 180.0]], np.float32)


def box(images: Images) -> list[npt.NDArray[np.float32]]:
    return [BOX] * len(images)


class LoudAndBright(SyncNet):
    """A network that can be reasoned about: how bright the crop is, and whether the sound is loud, at each picture of a window."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def embed_video(self, video: Tensor) -> Tensor:
        bright = (video.mean(dim=(1, 3, 4)) > 128).float()
        return self.scale * bright.unfold(1, 5, 1)

    def embed_audio(self, features: Tensor) -> Tensor:
        # Only the two frames of sound that lie wholly within each picture's 40 ms.
        level = features[..., 0].unfold(1, 20, 4).unflatten(2, (5, 4))[..., :2].mean(dim=3)
        return self.scale * (level > 18).float()


def talk(
    path: Path,
    *,
    frames: int = 60,
    shift: int = 0,
    sound_frames: int | None = None,
    start: int = 0,
    fps: int = 25,
    seed: int = 0,
) -> Path:
    """A face that brightens whenever there is noise; a shift of k frames makes the sound k frames early."""
    rng = np.random.default_rng(seed)
    active = rng.random(frames + 200) < 0.3
    sound = np.repeat(active[100 + shift :][: sound_frames or frames], 640).astype(np.float32)
    sound *= rng.uniform(-0.5, 0.5, sound.size).astype(np.float32)
    count = frames * fps // 25

    def image(k: int) -> npt.NDArray[np.uint8]:
        return np.full((240, 320, 3), 220 if active[100 + k * 25 // fps] else 40, np.uint8)

    write_video(path, (image(k) for k in range(count)), fps=fps, waveform=sound)
    return path


class TestCrop:
    def test_the_crop_is_the_published_one(self) -> None:
        image = np.zeros((300, 400, 3), np.uint8)
        image[:] = np.arange(300)[:, None, None] // 2
        image[..., 2] = np.arange(400) // 2
        half, x, y = 50.0, 200.0, 120.0
        crop = crop_face(image, x, y, half)
        # One half box above the centre to 1.8 below it, 1.4 to both sides, 140 pixels to 224.
        rows = 70 + (np.arange(224) + 0.5) * 140 / 224 - 0.5
        columns = 130 + (np.arange(224) + 0.5) * 140 / 224 - 0.5
        assert np.abs(crop[:, 0, 0] - rows.clip(70) / 2).max() <= 1
        assert np.abs(crop[0, :, 2] - columns.clip(130) / 2).max() <= 1

    def test_beyond_the_picture_is_grey(self) -> None:
        crop = crop_face(np.zeros((100, 100, 3), np.uint8), 0.0, 50.0, 40.0)
        assert (crop[:, :100] == 110).all()
        assert (crop[20:80, 130:] == 0).all()
        assert (crop[200:] == 110).all()  # 50 + 1.8 * 40 is below the picture

    def test_the_median_filter_is_scipys(self, rng: torch.Generator) -> None:
        from scipy.signal import medfilt

        values = torch.rand(29, generator=rng, dtype=torch.float64).numpy()
        np.testing.assert_array_equal(median_filter(values), medfilt(values, 13))
        with pytest.raises(ArgumentError, match="below 12 for 6 values, got 13"):
            median_filter(values[:6])

    def test_landmarks_and_boxes(self) -> None:
        points = np.stack([np.array([[0, 10], [30, 10], [15, 60]], np.float32)] * 9)
        np.testing.assert_allclose(face_boxes(points, forehead=0.2), [[0, 0, 30, 60]] * 9)
        np.testing.assert_allclose(face_boxes(np.stack([BOX] * 9)), [[100, 60, 220, 180]] * 9)
        path = crop_path(face_boxes(np.stack([BOX] * 9)))
        assert (path.half[6:-6] == 60).all() and path.size <= 120

    def test_bad_input(self) -> None:
        with pytest.raises(ShapeError, match=r"`image`: expected \(height, width, 3\) uint8"):
            crop_face(np.zeros((10, 10), np.uint8), 1, 1, 1)
        with pytest.raises(ArgumentError, match="at least a pixel"):
            crop_face(np.zeros((10, 10, 3), np.uint8), 5.5, 5.5, 0.01)
        with pytest.raises(ArgumentError, match="boxes with an extent"):
            crop_path(np.zeros((20, 4)))


class TestFramesAt:
    @pytest.mark.parametrize("rate", [12.5, 23.976, 25, 29.97, 50, 60])
    def test_the_nearest_frame_of_any_rate(self, rate: float) -> None:
        times = 0.3 + np.arange(int(4 * rate)) / rate
        taken = list(frames_at(SimpleNamespace(time=time) for time in times))
        assert [number for number, _, _ in taken] == list(range(len(taken)))
        assert abs(len(taken) - 100) <= 2
        for number, time, frame in taken:
            assert time == pytest.approx(0.3 + number / 25)
            assert abs(frame.time - time) <= np.abs(times - time).min() + 1e-6


def test_the_score_is_the_published_script(tmp_path: Path) -> None:
    """Whole track at once, window by window, zeros beyond its ends, distances by a loop over pairs."""
    torch.manual_seed(3)
    syncnet = SyncNet().eval()
    path = tmp_path / "talk.mp4"
    rng = np.random.default_rng(1)
    scene = rng.integers(0, 200, (24, 32, 3)).repeat(10, axis=0).repeat(10, axis=1)
    lit = ((scene + 55 * np.sin(k * k / 9)).clip(0, 255).astype(np.uint8) for k in range(13))
    write_video(path, lit, fps=25, waveform=rng.uniform(-0.5, 0.5, 13 * 640).astype(np.float32))
    options = {"syncnet": syncnet, "detector": box, "max_offset": 3, "min_seconds": 0.5, "batch_size": 5}
    [score] = score_video(path, edges="legacy", **options)

    with VideoSource(path) as video, AudioSource(path) as sound:
        crops = np.stack([crop_face(frame.image, 160, 120, 60) for frame in video.frames()])
        waveform = torch.from_numpy(sound.read(0.0, 13 * 640))[None]
    pictures = torch.from_numpy(crops[..., ::-1].copy()).float().permute(3, 0, 1, 2)[None]
    features = syncnet_mfcc(waveform)
    # 13 pictures and 51 frames of sound; the script leaves the last five pictures.
    with torch.inference_mode():
        lips = torch.cat([syncnet.embed_video(pictures[:, :, i : i + 5])[:, 0] for i in range(8)])
        sounds = torch.cat([syncnet.embed_audio(features[:, 4 * i : 4 * i + 20])[:, 0] for i in range(8)])
    motion, audio = lips.double().numpy(), sounds.double().numpy()
    np.testing.assert_allclose(score.distances, reference.offset_distances(motion, audio, 3, 0, "legacy"), rtol=1e-5)
    offset, confidence, distance = reference.sync_offset(motion, audio, 3, 0, "legacy")
    assert (score.frames, len(score.framewise), score.offset_frames) == (13, 8, offset)
    assert (score.confidence, score.distance) == (pytest.approx(confidence, abs=1e-5), pytest.approx(distance, rel=1e-5))
    assert score.framewise.mean() == pytest.approx(confidence, abs=1e-5)


def test_masked_edges_compare_with_the_sound_around(tmp_path: Path) -> None:
    """A track that starts and ends inside the video hears what lies around it; beyond the video's sound nothing counts."""
    path = talk(tmp_path / "a.mp4", frames=100, shift=1)
    seen = 0

    def middle(images: Images) -> list[npt.NDArray[np.float32] | None]:
        nonlocal seen
        seen += len(images)
        return [BOX if 5 <= k < 80 else None for k in range(seen - len(images), seen)]

    [score] = score_video(path, syncnet=LoudAndBright(), detector=middle, max_offset=9)
    with VideoSource(path) as video, AudioSource(path) as sound:
        crops = np.stack([crop_face(frame.image, 160, 120, 60) for frame in video.frames()])
        waveform = torch.from_numpy(sound.read(0.0, 101 * 640))[None]
    net = LoudAndBright()
    with torch.no_grad():
        lips = net.embed_video(torch.from_numpy(crops).float().permute(3, 0, 1, 2)[None])[0, 5:76].double().numpy()
        sounds = net.embed_audio(syncnet_mfcc(waveform))[0, :96].double().numpy()
    means = reference.offset_distances(lips, sounds, 9, 5, "masked")
    assert (score.frames, score.offset_frames) == (75, 1)
    np.testing.assert_allclose(score.distances, means, atol=1e-5)


@pytest.mark.parametrize("shift", [-7, 0, 3])
def test_a_positive_offset_says_that_the_sound_is_early(tmp_path: Path, shift: int) -> None:
    [score] = score_video(talk(tmp_path / "a.mp4", shift=shift), syncnet=LoudAndBright(), detector=box)
    assert score.offset_frames == shift
    assert score.offset_seconds == pytest.approx(shift / 25)
    assert score.distance < score.distance_at_zero or shift == 0
    assert score.confidence > 0.3 and (score.rank_at_zero == 1) == (shift == 0)


@pytest.mark.parametrize("edges", ["masked", "legacy"])
def test_batches_change_nothing(tmp_path: Path, edges: str) -> None:
    path = talk(tmp_path / "a.mp4", shift=2, sound_frames=48)
    scores = [
        score_video(path, syncnet=LoudAndBright(), detector=box, batch_size=size, edges=edges, max_offset=9)[0]
        for size in (1, 7, 128)
    ]
    for score in scores[1:]:
        np.testing.assert_allclose(score.distances, scores[0].distances, rtol=1e-6)
        np.testing.assert_allclose(score.framewise, scores[0].framewise, atol=1e-6)
    assert scores[0].offset_frames == 2
    # The sound ends 12 pictures before the video, so it fills 43 windows; the first two have no partner at the offset of 2.
    assert {score.windows for score in scores} == {43}
    assert int(np.isfinite(scores[0].framewise).sum()) == (43 if edges == "legacy" else 41)


def test_other_rates_come_to_the_same(tmp_path: Path) -> None:
    fast = talk(tmp_path / "fast.mp4", shift=4, fps=50)
    [score] = score_video(fast, syncnet=LoudAndBright(), detector=box)
    assert (score.offset_frames, score.frames) == (4, 60)


def test_faces_come_and_go(tmp_path: Path) -> None:
    """Two stretches with a face make two tracks; a face that is missed for less than a second is bridged."""
    path = talk(tmp_path / "a.mp4", frames=150)
    seen = 0

    def sometimes(images: Images) -> list[npt.NDArray[np.float32] | None]:
        nonlocal seen
        seen += len(images)
        numbers = range(seen - len(images), seen)
        return [None if 20 <= k < 30 or 70 <= k < 100 else BOX for k in numbers]

    found: list[float] = []
    scores = score_video(path, syncnet=LoudAndBright(), detector=sometimes, min_seconds=1.5, progress=found.append)
    assert [(round(score.start, 3), score.frames) for score in scores] == [(0.0, 70), (4.0, 50)]
    assert [score.offset_frames for score in scores] == [0, 0]
    assert found == sorted(found) and found[-1] == pytest.approx(1.0)


def test_bad_input(tmp_path: Path) -> None:
    path, silent = talk(tmp_path / "a.mp4"), tmp_path / "silent.mp4"
    syncnet = LoudAndBright()
    write_video(silent, (np.zeros((64, 64, 3), np.uint8) for _ in range(60)), fps=25)
    with pytest.raises(CorpusError, match="expected an audio stream"):
        score_video(silent, syncnet=syncnet, detector=box)
    with pytest.raises(CorpusError, match=r"expected a face for at least 2 s, found none"):
        score_video(path, syncnet=syncnet, detector=lambda images: [None] * len(images))
    with pytest.raises(CorpusError, match=r"expected a face for at least 20 s, found one for 2.40 s at most"):
        score_video(path, syncnet=syncnet, detector=box, min_seconds=20)
    with pytest.raises(CorpusError, match=r"the detector .* failed between 0.00 and 0.60 s: ZeroDivisionError"):
        score_video(path, syncnet=syncnet, detector=lambda images: [1 / 0])
    with pytest.raises(ClipTooShortError, match=r"expected audio for at least 0.215 s next to the face that starts at 0.00 s"):
        score_video(talk(tmp_path / "b.mp4", sound_frames=4), syncnet=syncnet, detector=box, edges="legacy")
    for options, message in (
        ({"batch_size": 0}, "1 to 128"),
        ({"edges": "zero"}, "'masked', 'legacy'"),
        ({"faces": "ugly"}, "stable"),
    ):
        with pytest.raises(ArgumentError, match=message):
            score_video(path, syncnet=syncnet, detector=box, **options)
    with pytest.raises(CorpusError, match=r"missing\.mp4"):
        score_video(tmp_path / "missing.mp4", syncnet=syncnet, detector=box)


def test_paths_fill_the_frames_between(tmp_path: Path) -> None:
    """A face that moves and is not found in every picture moves on evenly."""
    seen = 0

    def moving(images: Images) -> list[npt.NDArray[np.float32] | None]:
        nonlocal seen
        seen += len(images)
        return [None if k % 3 == 1 else BOX + k for k in range(seen - len(images), seen)]

    [path] = face_paths(talk(tmp_path / "a.mp4"), as_detector(moving))
    np.testing.assert_allclose(path.crops.x[10:50], 160 + np.arange(10, 50), atol=1e-4)
    assert (path.first, path.frames) == (0, 60)
