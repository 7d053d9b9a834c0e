"""mediapipe 0.10.14 itself on the two real videos beside the corpus, against the landmarks of the clips that they are cut from.

Not collected with the other tests: it needs mediapipe and the shared corpus (``AVSYNC_CORPUS``, by default ``../shared/corpus``), neither of
which is part of the package. ``python -m nox -s mediapipe`` installs the one and fails without the other. Run with ``-s`` it prints its
figures.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from avsync.corpus.detectors import CheckedDetector, as_detector
from avsync.corpus.extraction.cropping import crop_image
from avsync.corpus.extraction.retime import resample_track
from avsync.corpus.extraction.scene_cuts import SceneCuts
from avsync.corpus.extraction.tracks import FaceTrack, FaceTracker, choose_tracks
from tests.real_video import CORPUS, NAMES, Image, detect, errors, images_of, reference

pytestmark = pytest.mark.filterwarnings("ignore")


def track_of(times: npt.NDArray[np.float64], images: list[Image], found: list[npt.NDArray[np.float32]]) -> list[FaceTrack]:
    tracker, cuts = FaceTracker(), SceneCuts()
    tracks = []
    for time, image, faces in zip(times, images, found, strict=True):
        tracks += tracker.push(float(time), faces, cut=cuts.push(image))
    return choose_tracks(tracks + tracker.finish()).kept


@pytest.fixture(scope="module")
def detector() -> CheckedDetector:
    assert (CORPUS / "index.json").is_file(), f"no corpus at {CORPUS}: set AVSYNC_CORPUS"
    return as_detector("mediapipe")


@pytest.mark.parametrize("name", NAMES)
def test_landmarks_of_the_corpus_are_met(detector: CheckedDetector, name: str) -> None:
    times, images = images_of(name)
    found = detect(detector, images)
    assert [len(faces) for faces in found] == [1] * len(images)
    (track,) = track_of(times, images, found)
    assert len(track.times) == len(images)
    start, landmarks = resample_track(track.times, track.points)
    theirs, offset = reference(name, images[0].shape[1])
    first = (offset + start) * 25
    lags = np.arange(-3, 3.01, 0.25)
    means = [errors(landmarks, theirs, first + lag).mean() for lag in lags]
    here = errors(landmarks, theirs, first)
    best = lags[int(np.argmin(means))]
    print(
        f"\n{name}: {len(landmarks)} frames, error {100 * here.mean():.2f} % of the face's height, lips {100 * here[:, 48:].mean():.2f} %, "
        f"worst point {100 * here.mean(axis=0).max():.2f} %, worst frame {100 * here.mean(axis=1).max():.2f} %; smallest at a lag of {best:+.2f} frames"
    )
    assert here.mean() < 0.01 and here[:, 48:].mean() < 0.01
    # No point of the table may be another one than in the corpus.
    assert here.mean(axis=0).max() < 0.02
    assert best == 0


def test_two_people_in_one_image(detector: CheckedDetector) -> None:
    (_, first), (_, second) = images_of("sample_a"), images_of("sample_b")
    second = [crop_image(image, (0, 150, 540, 690), size=512) for image in second]
    alone = [detect(detector, images[:40])[-1][0] for images in (first, second)]
    together = detect(detector, [np.concatenate(pair, axis=1) for pair in zip(first[:40], second[:40], strict=True)])
    assert [len(faces) for faces in together[1:]] == [2] * 39
    left, right = sorted(together[-1], key=lambda face: float(face[:, 0].mean()))
    for face, expected, shift in ((left, alone[0], 0.0), (right, alone[1], 512.0)):
        assert np.linalg.norm(face - expected - np.array([shift, 0.0]), axis=1).mean() < 0.02 * np.ptp(expected[:, 1])


@pytest.mark.parametrize("side", [60, 120])
def test_a_small_face_in_a_large_image(detector: CheckedDetector, side: int) -> None:
    """A head of 60 pixels in 720p: far below what the mesh finds by itself, so the finder and the cut-out must work."""
    _, images = images_of("sample_a")
    whole = detect(detector, images[:30])
    large = []
    for image in images[:30]:
        canvas = np.full((720, 1280, 3), 128, np.uint8)
        canvas[200 : 200 + 2 * side, 900 : 900 + 2 * side] = crop_image(image, (0, 0, 512, 512), size=2 * side)
        large.append(canvas)
    found = detect(detector, large)
    assert [len(faces) for faces in found] == [1] * 30
    scale = 2 * side / 512
    for small, face in zip(found, whole, strict=True):
        error = np.linalg.norm((small[0] - np.array([900, 200])) / scale - face[0], axis=1).mean() / np.ptp(face[0][:, 1])
        assert error < 0.06


def test_lost_faces_and_cuts(detector: CheckedDetector) -> None:
    (_, first), (_, second) = images_of("sample_a"), images_of("sample_b")
    second = [crop_image(image, (0, 150, 540, 690), size=512) for image in second]
    nothing = np.full((512, 512, 3), 90, np.uint8)
    images = [*first[:60], *[nothing] * 10, *first[70:130], *second[:60]]
    found = detect(detector, images)
    counts = [len(faces) for faces in found]
    assert counts[:60] == [1] * 60 and counts[60:70] == [0] * 10 and counts[70:] == [1] * 120
    tracks = track_of(np.arange(len(images)) / 25, images, found)
    assert [(round(t.times[0] * 25), round(t.times[-1] * 25), t.ended) for t in tracks] == [
        (0, 59, "face lost"),
        (70, 129, "scene cut"),
        (130, 189, "end of video"),
    ]


def test_depth(detector: CheckedDetector) -> None:
    _, images = images_of("sample_a")
    (flat,) = detect(detector, images[:1])
    (deep,) = detect(as_detector("mediapipe", dims=3), images[:1])
    np.testing.assert_allclose(deep[..., :2], flat, atol=1e-3)
    # The tip of the nose is nearer to the camera than the ends of the jaw, by something like a third of the face's height.
    depth = deep[0, [0, 16], 2].mean() - deep[0, 30, 2]
    assert 0.2 < depth / np.ptp(deep[0, :, 1]) < 0.9
