"""MediaPipe's face mesh, reduced to 68 points: fast on a CPU, with models included in the wheel.

Written for and tested with mediapipe 0.10.14. Wheels from 0.10.31 on have neither the ``solutions`` interface nor the models.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync._checks import check_positive
from avsync.corpus._process import ProcessBound
from avsync.corpus.detectors.protocol import Faces
from avsync.corpus.media.info import Image
from avsync.errors import ArgumentError, MissingExtraError
from avsync.landmarks.layouts import MESH_TO_68, NUM_POINTS

Box = tuple[int, int, int, int]

MESH_VERSION = "0.10.14"
"""Release of mediapipe that this module was written for and tested with."""

_HOW_TO_INSTALL = f"install it with: pip install mediapipe=={MESH_VERSION}"


def mesh_to_68(mesh: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Return the 68 points of the iBUG layout from the vertices of MediaPipe's face mesh.

    Args:
        mesh: Vertices (..., vertices, dims), with 468 vertices, or 478 with the irises.

    Returns:
        (..., 68, dims), in the unit of ``mesh``.

    Example:
        >>> mesh_to_68(np.arange(468.0)[:, None])[[0, 27, 66], 0].tolist()
        [127.0, 87.0, 14.0]

    Source: ours; layout of the corpus on which this library was measured.
    """
    first, second = np.array(MESH_TO_68).T
    return (mesh[..., first, :] + mesh[..., second, :]) / 2


def load_solutions() -> ModuleType:
    """Import ``mediapipe.solutions`` with its models.

    Raises:
        MissingExtraError: mediapipe is not installed, or the release has no solutions or no models.
    """
    try:
        mediapipe = importlib.import_module("mediapipe")
    except ImportError as error:
        raise MissingExtraError(f"`mediapipe` is needed here and could not be imported ({error}); {_HOW_TO_INSTALL}") from error
    version = getattr(mediapipe, "__version__", "unknown")
    try:
        # Newer releases lack the attribute of the package, and the import fails if the code of a model is missing.
        solutions = importlib.import_module("mediapipe.python.solutions")
    except ImportError as error:
        raise MissingExtraError(
            f"`mediapipe`: expected a release whose wheel carries the face mesh (none from 0.10.31 on does), got {version}; "
            f"{_HOW_TO_INSTALL}"
        ) from error
    models = Path(next(iter(mediapipe.__path__)), "modules", "face_landmark")
    if not any(models.glob("*.tflite")):
        raise MissingExtraError(f"`mediapipe`: expected models in {models}, got none in release {version}; {_HOW_TO_INSTALL}")
    return solutions


@dataclass(eq=False)
class _Followed:
    """Face that is followed from image to image, by a separate mesh that processes only the surroundings of the face."""

    mesh: Any
    box: Box
    face: Faces


class MediapipeDetector(ProcessBound):
    """Detector with MediaPipe's refined face mesh, as 68 points.

    New faces are detected with MediaPipe's full-range face detector, then with the short-range detector. Each face is then
    followed by a separate mesh on a crop around the face, so that small faces in large images are found too. While faces are
    followed, the face detector runs only every ``search_every`` images, to find new faces. If the confidence of a mesh is too
    low, the face is lost; if no face is left, the face detector runs again on the same image.

    Faces are followed from image to image, so call :meth:`reset` before another video.

    Args:
        max_faces: Largest number of faces that are followed at the same time.
        dims: 2, or 3 to include the mesh's relative depth (away from the camera, in about the unit of x).
        min_confidence: Smallest confidence of a face, in [0, 1], for detection and for following.
        search_every: Images between two searches for new faces while fewer than ``max_faces`` faces are followed.
        batch_size: Images per call; processed one by one.

    Raises:
        ArgumentError: An argument is out of range.
        MissingExtraError: mediapipe is not installed, or the release has no models; release 0.10.14 has models.

    Source: ours. Tested with mediapipe 0.10.14 on real video: ``python -m nox -s mediapipe``.
    """

    def __init__(
        self,
        *,
        max_faces: int = 4,
        dims: int = 2,
        min_confidence: float = 0.5,
        search_every: int = 10,
        batch_size: int = 16,
    ) -> None:
        check_positive("max_faces", max_faces)
        check_positive("search_every", search_every)
        check_positive("batch_size", batch_size)
        if dims not in (2, 3):
            raise ArgumentError(f"`dims`: expected 2 or 3, got {dims!r}")
        if not 0 <= min_confidence <= 1:
            raise ArgumentError(f"`min_confidence`: expected a number in [0, 1], got {min_confidence!r}")
        self.max_faces, self.dims, self.search_every, self.batch_size = max_faces, dims, search_every, batch_size
        self.min_confidence = min_confidence
        self._bind_process()
        self._solutions = load_solutions()
        self._finders = [
            self._solutions.face_detection.FaceDetection(model_selection=model, min_detection_confidence=min_confidence)
            for model in (1, 0)  # full range, short range
        ]
        self._idle: list[Any] = []
        self._followed: list[_Followed] = []
        self._since_search = 0

    def reset(self) -> None:
        """Forget the faces that are followed; the next image starts another video."""
        self._idle += [followed.mesh for followed in self._followed]
        self._followed = []
        self._since_search = 0

    def close(self) -> None:
        """Release the memory of the models; the detector cannot be used afterwards."""
        if self._is_inherited:
            return
        self.reset()
        for part in (*self._idle, *self._finders):
            part.close()
        self._idle, self._finders = [], []

    def __call__(self, images: Sequence[Image], /) -> list[Faces]:
        """Return the faces of each image.

        Args:
            images: Images (height, width, 3) uint8, RGB, upright, in the order of the video.

        Returns:
            (faces, 68, dims) float32 per image, in pixels.
        """
        self._check_process()
        with warnings.catch_warnings():
            # mediapipe calls a deprecated function of protobuf.
            warnings.filterwarnings("ignore", message="SymbolDatabase.GetPrototype", category=UserWarning)
            return [self._detect(np.ascontiguousarray(image)) for image in images]

    def _detect(self, image: Image) -> Faces:
        for followed in list(self._followed):
            if not self._follow(followed, image):
                self._drop(followed)
        self._since_search += 1
        if not self._followed or (len(self._followed) < self.max_faces and self._since_search >= self.search_every):
            self._search(image)
        if not self._followed:
            return np.zeros((0, NUM_POINTS, self.dims), np.float32)
        return np.stack([followed.face for followed in self._followed])

    def _drop(self, followed: _Followed) -> None:
        self._followed.remove(followed)
        self._idle.append(followed.mesh)

    def _follow(self, followed: _Followed, image: Image) -> bool:
        box = followed.box
        if not _well_inside(followed.face, box, image.shape):
            # The mesh remembers the position of the face in its crop, so it must be reset for another crop.
            followed.box = _surroundings(*_centre_and_side(followed.face), image.shape)
            followed.mesh.reset()
        face = self._landmarks(followed.mesh, image, followed.box)
        if face is None or any(_same(face, other.face) for other in self._followed if other is not followed):
            return False
        followed.face = face
        return True

    def _search(self, image: Image) -> None:
        self._since_search = 0
        height, width = image.shape[:2]
        for finder in self._finders:
            for detection in finder.process(image).detections or ():
                found = detection.location_data.relative_bounding_box
                centre = np.array([(found.xmin + found.width / 2) * width, (found.ymin + found.height / 2) * height])
                side = max(found.width * width, found.height * height)
                taken = any(_holds(other.face, centre) for other in self._followed)
                if taken or side < 1 or len(self._followed) == self.max_faces:
                    continue
                self._begin(image, centre, side)
            if self._followed:
                return

    def _begin(self, image: Image, centre: npt.NDArray[np.float64], side: float) -> None:
        mesh = self._idle.pop() if self._idle else self._new_mesh()
        mesh.reset()
        box = _surroundings(centre, side, image.shape)
        face = self._landmarks(mesh, image, box)
        # In a crowd the mesh may find a neighbour of the intended face.
        if face is None or not _holds(face, centre) or any(_same(face, other.face) for other in self._followed):
            self._idle.append(mesh)
        else:
            self._followed.append(_Followed(mesh, box, face))

    def _new_mesh(self) -> Any:
        return self._solutions.face_mesh.FaceMesh(
            static_image_mode=False,
            max_num_faces=1,
            refine_landmarks=True,
            min_detection_confidence=self.min_confidence,
            min_tracking_confidence=self.min_confidence,
        )

    def _landmarks(self, mesh: Any, image: Image, box: Box) -> Faces | None:
        left, top, right, bottom = box
        found = mesh.process(np.ascontiguousarray(image[top:bottom, left:right])).multi_face_landmarks
        if not found:
            return None
        vertices = np.array([(vertex.x, vertex.y, vertex.z) for vertex in found[0].landmark])
        # Depth is relative to the width of the crop, like x.
        vertices *= np.array([right - left, bottom - top, right - left])
        points: Faces = mesh_to_68(vertices + np.array([left, top, 0.0])).astype(np.float32)
        return points[:, : self.dims] if np.isfinite(points).all() else None


def _centre_and_side(face: Faces) -> tuple[npt.NDArray[np.float64], float]:
    low, high = face[:, :2].min(axis=0).astype(np.float64), face[:, :2].max(axis=0).astype(np.float64)
    return (low + high) / 2, max(1.0, float((high - low).max()))


def _holds(face: Faces, point: npt.NDArray[np.float64]) -> bool:
    centre, side = _centre_and_side(face)
    return bool(np.abs(point - centre).max() <= 0.6 * side)


def _same(face: Faces, other: Faces) -> bool:
    return bool(np.linalg.norm(face[:, :2].mean(axis=0) - other[:, :2].mean(axis=0)) < 0.3 * _centre_and_side(other)[1])


def _surroundings(centre: npt.NDArray[np.float64], side: float, shape: tuple[int, ...]) -> Box:
    """Return a square around the face, 2.5 times the side of the face, clipped to the image."""
    reach = 1.25 * side
    left, top = (max(0, math.floor(value - reach)) for value in centre)
    right, bottom = (min(size, math.ceil(value + reach)) for value, size in zip(centre, (shape[1], shape[0]), strict=True))
    # The centre of a face may be outside of the image; the box must keep at least one pixel.
    left, top = min(left, shape[1] - 1), min(top, shape[0] - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _well_inside(face: Faces, box: Box, shape: tuple[int, ...]) -> bool:
    """Return whether a crop still fits a face: enough room around the face, but not too much."""
    centre, side = _centre_and_side(face)
    left, top, right, bottom = box
    # At an edge of the image the room cannot be larger, so the edge is not checked.
    room = [
        math.inf if edge in (0, size) else sign * (edge - value)
        for value, edge, size, sign in (
            (centre[0], left, shape[1], -1),
            (centre[1], top, shape[0], -1),
            (centre[0], right, shape[1], 1),
            (centre[1], bottom, shape[0], 1),
        )
    ]
    return min(room) > 0.75 * side and max(right - left, bottom - top) < 5 * side
