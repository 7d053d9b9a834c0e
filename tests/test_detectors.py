"""Detectors: what the protocol accepts, what it refuses and in which words; and the logic around mediapipe's models.

The libraries themselves are run elsewhere: face-alignment in ``test_face_alignment_real.py``, mediapipe in ``mediapipe_real_run.py``. Here
mediapipe's two models are stood in for by functions that find white rectangles, so that what is around them can be tested anywhere.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from avsync.corpus.detectors import CheckedDetector, Detections, as_detector
from avsync.corpus.detectors.fan import FaceAlignmentDetector
from avsync.corpus.detectors.landmarker import FaceLandmarkerDetector
from avsync.corpus.detectors.mesh import MESH_TO_68, MediapipeDetector, mesh_to_68
from avsync.corpus.detectors.protocol import DETECTORS, chosen_detector
from avsync.errors import ArgumentError, BrokenExtraError, CheckpointError, MissingExtraError, ShapeError
from avsync.landmarks.layouts import FLIP_INDEX

Image = npt.NDArray[np.uint8]
IMAGES = [np.zeros((8, 10, 3), np.uint8)] * 3
FACE = np.arange(136.0).reshape(68, 2)


class Fixed:
    """A detector that returns what it was given, one element a call or an image."""

    batch_size = 4

    def __init__(self, answer: object = None) -> None:
        self.answer, self.resets = answer, 0

    def __call__(self, images: Sequence[Image]) -> object:
        return self.answer if self.answer is not None else [FACE] * len(images)

    def reset(self) -> None:
        self.resets += 1


def test_every_form_of_answer_comes_out_as_one() -> None:
    answers: list[Detections] = [None, FACE, np.stack([FACE, FACE + 1])]
    found = CheckedDetector(Fixed(answers), name="mine")(IMAGES)
    assert [faces.shape for faces in found] == [(0, 0, 0), (1, 68, 2), (2, 68, 2)]
    assert all(faces.dtype == np.float32 for faces in found)
    np.testing.assert_array_equal(found[2][1], FACE + 1)
    for nothing in (None, [], np.zeros((0, 68, 2)), np.zeros((0, 2))):
        assert [len(faces) for faces in CheckedDetector(Fixed([nothing] * 3), name="mine")(IMAGES)] == [0, 0, 0]
    # Lists, tensors and one array for the whole batch will do.
    assert CheckedDetector(Fixed([FACE.tolist(), torch.from_numpy(FACE), FACE]), name="mine")(IMAGES)[1].shape == (1, 68, 2)
    assert CheckedDetector(Fixed(np.stack([FACE] * 3)), name="mine")(IMAGES)[2].shape == (1, 68, 2)
    detector = CheckedDetector(Fixed([np.ones((2, 5, 3))] * 3), name="mine")
    assert detector(IMAGES)[0].shape == (2, 5, 3) and detector.points_and_dims == (5, 3)


def test_no_images_no_call() -> None:
    assert CheckedDetector(Fixed([1, 2]), name="mine")([]) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([FACE], "expected 'mine' to return 3 results, one per image, got 1 results"),
        (7, "expected 'mine' to return 3 results, one per image, got int"),
        ([FACE, FACE, np.zeros((1, 2, 68, 2))], r"got shape \(1, 2, 68, 2\)"),
        ([FACE, FACE, np.zeros(136)], r"got shape \(136,\)"),
        ([FACE, FACE, np.zeros((68, 1))], r"got shape \(68, 1\)"),
        ([FACE, FACE, "face"], "'mine' to return None, a face .* got str"),
        ([FACE, FACE, [[1.0, 2.0], [3.0]]], "got list"),
        ([FACE, FACE, FACE * np.nan], "finite points, got NaN or infinity; a face that is not found is None"),
        ([FACE, FACE, np.full_like(FACE, np.inf)], "finite points"),
        ([FACE, FACE, FACE[:5]], r"'mine' to keep to \(68, 2\) \(points, dims\), got \(5, 2\)"),
        ([FACE, FACE, np.ones((68, 3))], r"to keep to \(68, 2\)"),
    ],
)
def test_bad_answers_name_the_detector(answer: object, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        CheckedDetector(Fixed(answer), name="mine")(IMAGES)


def test_points_must_stay_the_same_from_call_to_call() -> None:
    fixed = Fixed()
    detector = CheckedDetector(fixed, name="mine")
    detector(IMAGES)
    fixed.answer = [None, None, FACE[:60]]
    with pytest.raises(ShapeError, match="to keep to"):
        detector(IMAGES)


@pytest.mark.parametrize(
    "images",
    [
        [np.zeros((8, 10, 3), np.float32)],
        [np.zeros((8, 10), np.uint8)],
        [np.zeros((8, 10, 4), np.uint8)],
        [np.zeros((8, 10, 3), np.uint8), np.zeros((9, 10, 3), np.uint8)],
        ["image.png"],
    ],
)
def test_bad_images(images: list[Image]) -> None:
    with pytest.raises(ShapeError, match="`images`"):
        CheckedDetector(Fixed([None] * len(images)), name="mine")(images)


def test_errors_of_the_detector_are_its_own() -> None:
    def broken(images: Sequence[Image]) -> list[None]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        as_detector(broken)(IMAGES)


def test_the_default_detector_is_the_first_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(Fixed):
        def __init__(self) -> None:
            raise MissingExtraError("not installed")

    class Broken(Fixed):
        def __init__(self) -> None:
            raise BrokenExtraError("does not import")

    here = ModuleType("here")
    vars(here).update(Fixed=Fixed, Missing=Missing, Broken=Broken)
    monkeypatch.setitem(sys.modules, "here", here)
    for name in ("mediapipe", "litert", "face-alignment"):
        monkeypatch.setitem(DETECTORS, name, ("here", "Fixed"))
    assert as_detector("auto").name == "mediapipe" and chosen_detector(Fixed) is Fixed
    monkeypatch.setitem(DETECTORS, "mediapipe", ("here", "Broken"))
    assert as_detector("auto").name == "litert"
    monkeypatch.setitem(DETECTORS, "litert", ("here", "Missing"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert as_detector("auto").name == "face-alignment"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="none that is installed"):
        as_detector("auto")


def test_as_detector_of_callables_classes_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(images: Sequence[Image]) -> list[Detections]:
        return [None] * len(images)

    assert as_detector(mine).batch_size == 16 and "mine" in as_detector(mine).name
    fixed = Fixed()
    detector = as_detector(fixed)
    assert detector.name == "Fixed" and detector.batch_size == 4 and as_detector(detector) is detector
    detector.reset()
    as_detector(mine).reset()
    assert fixed.resets == 1
    assert as_detector(Fixed)(IMAGES)[0].shape == (1, 68, 2)
    assert len(as_detector(Fixed, answer=[None, None, FACE])(IMAGES)[1]) == 0
    (tmp_path / "my_detectors.py").write_text(
        "def nobody(images):\n    return [None] * len(images)\n\nclass Nobody:\n    batch_size = 2\n    __call__ = lambda s, i: nobody(i)\n"
        "seven = 7\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert as_detector("my_detectors:nobody").name == "my_detectors:nobody"
    assert as_detector("my_detectors:Nobody").batch_size == 2
    with pytest.raises(ArgumentError, match="'my_detectors:seven', a int"):
        as_detector("my_detectors:seven")


@pytest.mark.parametrize(
    ("detector", "options", "message"),
    [
        (
            "dlib",
            {},
            "expected 'auto', 'face-alignment', 'litert', 'mediapipe', 'demo', a .task file, 'module:name' or a callable, got 'dlib'",
        ),
        (7, {}, "got int"),
        ("no_such_module:f", {}, "expected a callable to import, got 'no_such_module:f'"),
        ("json:no_such_name", {}, "no_such_name"),
        (":", {}, "expected a callable to import"),
        ("mediapipe", {"colour": "red"}, r"options that 'mediapipe' has, got \['colour'\]"),
        (Fixed(), {"colour": "red"}, "a name or a class where options are given"),
    ],
)
def test_what_is_no_detector(detector: object, options: dict[str, str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        as_detector(detector, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "many"])
def test_bad_batch_sizes(size: object) -> None:
    fixed = Fixed()
    fixed.batch_size = size  # type: ignore[assignment]
    with pytest.raises(ArgumentError, match="positive integer as batch_size"):
        as_detector(fixed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"landmarks": "4D"}, "`landmarks`: expected one of '2D', '2.5D', '3D', got '4D'"),
        ({"device": "abacus"}, "`device`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"max_faces": 0}, "`max_faces`"),
        ({"search_side": 10}, "`search_side`"),
        ({"min_confidence": 2.0}, "`min_confidence`"),
        ({"device": "meta"}, "expected one of those here"),
    ],
)
def test_options_of_face_alignment_are_checked_first(options: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        FaceAlignmentDetector(**options)  # type: ignore[arg-type]


@pytest.mark.skipif(importlib.util.find_spec("face_alignment") is not None, reason="face-alignment is installed")
def test_a_missing_face_alignment_names_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"avsync\[landmarks\]"):
        as_detector("face-alignment", device="cpu")


# --- mediapipe ------------------------------------------------------------------------------------------------------------------------


def test_mesh_table_is_one_of_the_mesh_and_symmetric() -> None:
    table = np.array(MESH_TO_68)
    assert table.shape == (68, 2) and table.min() >= 0 and table.max() < 468
    assert len(np.unique(table, axis=0)) == 68
    mesh = np.random.default_rng(0).normal(size=(2, 478, 3))
    np.testing.assert_allclose(mesh_to_68(mesh)[:, 27], (mesh[:, 168] + mesh[:, 6]) / 2)
    np.testing.assert_array_equal(mesh_to_68(mesh)[:, 48], mesh[:, 61])
    # The mesh numbers one half of the face up to 247 and the other from 248 on: a point and its mirror image are in different halves.
    for point, mirrored in enumerate(FLIP_INDEX):
        if point != mirrored:
            low, high = sorted([point, mirrored], key=lambda p: int(table[p].max()))
            assert table[low].max() < 248 <= table[high].min()


def blobs(image: Image) -> list[tuple[int, int, int, int]]:
    """left, top, right, bottom of each white rectangle."""
    white = image[..., 0] == 255
    found = []
    while white.any():
        y, x = np.argwhere(white)[0]
        right = x + int(np.argmin(np.append(white[y, x:], False)))
        bottom = y + int(np.argmin(np.append(white[y:, x], False)))
        white[y:bottom, x:right] = False
        found.append((int(x), int(y), right, int(bottom)))
    return found


class FakeFinder:
    """Finds white rectangles: the full-range model small ones too, the short-range one those from a third of the image on."""

    calls = 0

    def __init__(self, *, model_selection: int, min_detection_confidence: float) -> None:
        self.least = 0.0 if model_selection == 1 else 0.33

    def process(self, image: Image) -> SimpleNamespace:
        FakeFinder.calls += 1
        height, width = image.shape[:2]
        boxes = [
            SimpleNamespace(xmin=x0 / width, ymin=y0 / height, width=(x1 - x0) / width, height=(y1 - y0) / height)
            for x0, y0, x1, y1 in blobs(image)
            if (x1 - x0) >= self.least * width
        ]
        return SimpleNamespace(
            detections=[SimpleNamespace(location_data=SimpleNamespace(relative_bounding_box=box)) for box in boxes] or None
        )

    def close(self) -> None:
        pass


class FakeMesh:
    """A mesh over the largest white rectangle; it needs the face to be seen whole and a seventh of the image, as the model does."""

    made = 0

    def __init__(self, **options: object) -> None:
        FakeMesh.made += 1
        rng = np.random.default_rng(0)
        self.layout = rng.uniform(0, 1, (478, 2))
        # The bounding box of the 68 points is the rectangle.
        used = np.array(MESH_TO_68)[:, 0]
        self.layout[used[0]], self.layout[used[8]] = (0, 0), (1, 1)

    def process(self, image: Image) -> SimpleNamespace:
        height, width = image.shape[:2]
        faces = sorted(blobs(image), key=lambda box: box[0] - box[2])
        if not faces or (faces[0][2] - faces[0][0]) * 7 < width:
            return SimpleNamespace(multi_face_landmarks=None)
        x0, y0, x1, y1 = faces[0]
        points = np.array([x0, y0]) + self.layout * np.array([x1 - x0, y1 - y0])
        vertices = [SimpleNamespace(x=x / width, y=y / height, z=0.5) for x, y in points]
        return SimpleNamespace(multi_face_landmarks=[SimpleNamespace(landmark=vertices)])

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def mediapipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package in mediapipe's place, with stand-ins for its two models."""
    folder = tmp_path / "mediapipe"
    (folder / "modules" / "face_landmark").mkdir(parents=True)
    (folder / "modules" / "face_landmark" / "face_landmark.tflite").touch()
    package, python, solutions = (ModuleType(f"mediapipe{name}") for name in ("", ".python", ".python.solutions"))
    package.__path__ = [str(folder)]
    package.__version__ = "0.10.14"  # type: ignore[attr-defined]
    solutions.face_detection = SimpleNamespace(FaceDetection=FakeFinder)  # type: ignore[attr-defined]
    solutions.face_mesh = SimpleNamespace(FaceMesh=FakeMesh)  # type: ignore[attr-defined]
    for module in (package, python, solutions):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(FakeFinder, "calls", 0)
    monkeypatch.setattr(FakeMesh, "made", 0)
    return package


def white(*boxes: tuple[int, int, int], height: int = 360, width: int = 640) -> Image:
    image = np.zeros((height, width, 3), np.uint8)
    for x, y, side in boxes:
        image[y : y + side, x : x + side] = 255
    return image


def box_of(face: npt.NDArray[np.float32]) -> list[float]:
    low, high = face[[0, 8], :2]
    return [round(float(value), 3) for value in (*low, high[0] - low[0])]


@pytest.mark.usefixtures("mediapipe")
def test_a_face_is_followed_through_the_image_in_its_pixels() -> None:
    detector = MediapipeDetector()
    places = [(40 + 12 * k, 100 + 3 * k, 40 + k) for k in range(40)]
    found = detector([white(place) for place in places])
    assert [box_of(faces[0]) for faces in found] == [list(map(float, place)) for place in places]
    assert [len(faces) for faces in found] == [1] * 40 and found[0].shape == (1, 68, 2)
    # One mesh, and a search at the start and after every ten images: both finders once, then the first alone would do, and finds it taken.
    assert FakeMesh.made == 1 and FakeFinder.calls <= 5


@pytest.mark.usefixtures("mediapipe")
def test_small_faces_and_faces_at_the_edge() -> None:
    for place in [(300, 200, 12), (0, 0, 60), (600, 320, 40), (320, 0, 30), (0, 100, 260)]:
        (faces,) = MediapipeDetector()([white(place)])
        assert len(faces) == 1 and box_of(faces[0]) == list(map(float, place))


@pytest.mark.usefixtures("mediapipe")
def test_several_faces_come_and_go() -> None:
    detector = as_detector("mediapipe", max_faces=2, search_every=3)
    left, right, third = (40, 100, 60), (400, 100, 80), (250, 280, 60)
    counts = [len(faces) for faces in detector([white(left)] * 4 + [white(left, right)] * 6 + [white(right)] * 2)]
    # The second is found with the next search, one image in three; the first is gone at once.
    assert counts[:4] == [1] * 4 and counts[4:7].count(1) <= 2 and counts[7:] == [2, 2, 2, 1, 1]
    assert [len(faces) for faces in detector([white(left, right, third)] * 6)][-1] == 2
    detector.reset()
    assert [len(faces) for faces in detector([white()])] == [0]


@pytest.mark.usefixtures("mediapipe")
def test_a_lost_face_is_looked_for_at_once() -> None:
    detector = MediapipeDetector(search_every=1000)
    place, far = (40, 100, 60), (500, 60, 60)
    counts = [len(faces) for faces in detector([white(place), white(), white(), white(far), white(far)])]
    assert counts == [1, 0, 0, 1, 1]
    # A cut: the face is elsewhere in the very next image.
    first, second = detector([white(far), white(place)])
    assert box_of(first[0]) == [500, 60, 60] and box_of(second[0]) == [40, 100, 60]


@pytest.mark.usefixtures("mediapipe")
def test_depth_is_in_pixels_of_the_cut_out() -> None:
    (faces,) = MediapipeDetector(dims=3)([white((100, 100, 50))])
    # The cut-out is 2.5 sides of the face wide, and the stand-in's depth half of it.
    np.testing.assert_allclose(faces[0, :, 2], 0.5 * 2.5 * 50, rtol=0.02)
    assert box_of(faces[0]) == [100, 100, 50]


@pytest.mark.usefixtures("mediapipe")
def test_a_closed_detector_lets_go() -> None:
    detector = MediapipeDetector()
    detector([white((100, 100, 50))])
    detector.close()
    assert detector([white()])[0].shape == (0, 68, 2)


def test_releases_without_models_are_named(mediapipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    (model,) = Path(mediapipe.__path__[0]).glob("**/*.tflite")
    model.unlink()
    with pytest.raises(
        MissingExtraError, match=r"expected models in .*0\.10\.14; install it with: pip install mediapipe==0\.10\.14"
    ):
        MediapipeDetector()
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions", None)
    mediapipe.__version__ = "0.10.35"  # type: ignore[attr-defined]
    with pytest.raises(MissingExtraError, match=r"none from 0\.10\.31 on does\), got 0\.10\.35"):
        MediapipeDetector()
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(MissingExtraError, match=r"pip install mediapipe==0\.10\.14"):
        MediapipeDetector()


@pytest.mark.usefixtures("mediapipe")
def test_a_mediapipe_that_does_not_fit_its_protobuf_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AttributeError("'google._upb._message.FieldDescriptor' object has no attribute 'label'")

    monkeypatch.setattr(FakeFinder, "__init__", fail)
    with pytest.raises(
        BrokenExtraError, match=r"does not fit the installed protobuf.*: pip install 'avsync\[train\]' mediapipe=="
    ):
        MediapipeDetector()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_faces": 0}, "max_faces"),
        ({"dims": 4}, "dims"),
        ({"min_confidence": -1}, "min_confidence"),
        ({"search_every": 0}, "search_every"),
    ],
)
def test_options_of_mediapipe_are_checked_first(options: dict[str, int], name: str) -> None:
    with pytest.raises(ArgumentError, match=f"`{name}`"):
        MediapipeDetector(**options)  # type: ignore[arg-type]


# --- MediaPipe Tasks ------------------------------------------------------------------------------------------------------------------


class FakeLandmarker:
    """A landmarker with one face per white rectangle and two blendshapes; it demands rising times, as the library does."""

    made = 0

    def __init__(self, options: SimpleNamespace) -> None:
        FakeLandmarker.made += 1
        self.options, self.last = options, -1
        self.layout = np.random.default_rng(0).uniform(0, 1, (478, 2))

    def detect_for_video(self, image: SimpleNamespace, time: int) -> SimpleNamespace:
        assert time > self.last
        self.last = time
        height, width = image.data.shape[:2]
        boxes = blobs(image.data.copy())[: self.options.num_faces]
        faces = [
            [
                SimpleNamespace(x=x0 / width + u * (x1 - x0) / width, y=y0 / height + v * (y1 - y0) / height, z=0.25)
                for u, v in self.layout
            ]
            for x0, y0, x1, y1 in boxes
        ]
        shapes = [
            [SimpleNamespace(category_name=name, score=(x1 - x0) / width) for name in ("jawOpen", "mouthClose")]
            for x0, _, x1, _ in boxes
        ]
        return SimpleNamespace(face_landmarks=faces, face_blendshapes=shapes if self.options.output_face_blendshapes else None)

    def close(self) -> None:
        self.last = 10**9


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    vision = SimpleNamespace(
        FaceLandmarkerOptions=SimpleNamespace,
        RunningMode=SimpleNamespace(VIDEO="VIDEO"),
        FaceLandmarker=SimpleNamespace(create_from_options=FakeLandmarker),
    )
    package = ModuleType("mediapipe")
    package.Image = SimpleNamespace  # type: ignore[attr-defined]
    package.ImageFormat = SimpleNamespace(SRGB=1)  # type: ignore[attr-defined]
    python = ModuleType("mediapipe.tasks.python")
    python.vision, python.BaseOptions = vision, SimpleNamespace  # type: ignore[attr-defined]
    for module in (package, ModuleType("mediapipe.tasks"), python):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(FakeLandmarker, "made", 0)
    return vision


def test_the_landmarker_gives_points_and_blendshapes_in_pixels(tasks: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "face_landmarker.task").touch()
    small, large = (40, 100, 60), (400, 100, 120)
    detector = FaceLandmarkerDetector(model=tmp_path / "face_landmarker.task", points="478", dims=3)
    (faces,) = detector([white(small, large)])
    assert faces.shape == (2, 478, 3)
    assert np.ptp(faces[0, :, 0]) > np.ptp(faces[1, :, 0]) > 50 and faces[1, :, :2].min() >= 40
    np.testing.assert_allclose(faces[..., 2], 0.25 * 640)
    (found,) = detector.detect([white(small, large)])
    assert detector.blendshape_names == ("jawOpen", "mouthClose")
    np.testing.assert_allclose(found.blendshapes, [[120 / 640] * 2, [60 / 640] * 2], rtol=1e-6)
    assert [len(faces) for faces in detector([white(), white(small)])] == [0, 1]


def test_the_landmarker_by_the_name_of_its_file(tasks: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "face_landmarker.task"
    with pytest.raises(CheckpointError, match=r"`model`: expected the file face_landmarker\.task of MediaPipe, got .*no file"):
        as_detector(str(path))
    path.touch()
    detector = as_detector(str(path), max_faces=1)
    assert [faces.shape for faces in detector([white((40, 100, 60), (400, 100, 90))] * 3)] == [(1, 68, 2)] * 3
    # Asked for one face, the library would smooth the points over time.
    assert FakeLandmarker.made == 1
    detector.reset()
    assert detector([white((40, 100, 60))])[0].shape == (1, 68, 2) and FakeLandmarker.made == 2
    for options, name in (({"points": "5"}, "points"), ({"dims": 1}, "dims"), ({"max_faces": 0}, "max_faces")):
        with pytest.raises(ArgumentError, match=f"`{name}`"):
            as_detector(str(path), **options)


def test_a_model_file_without_blendshapes_will_do(
    tasks: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(options: SimpleNamespace) -> FakeLandmarker:
        if options.output_face_blendshapes:
            raise ValueError("face_blendshapes.tflite is not in the bundle")
        return FakeLandmarker(options)

    monkeypatch.setattr(tasks.FaceLandmarker, "create_from_options", create)
    (tmp_path / "a.task").touch()
    (found,) = FaceLandmarkerDetector(model=tmp_path / "a.task").detect([white((40, 100, 60))])
    assert found.points.shape == (1, 478, 3) and found.blendshapes.shape == (1, 0)
