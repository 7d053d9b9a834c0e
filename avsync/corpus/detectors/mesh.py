"""MediaPipe's face mesh, reduced to 68 points: fast on a CPU, with models included in the wheel.

Written for and tested with mediapipe 0.10.14. Wheels from 0.10.31 on have neither the ``solutions`` interface nor the models.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync._checks import broken_extra, import_extra
from avsync.corpus.detectors.following import Followed, FollowingDetector, Place, centre_and_side
from avsync.corpus.detectors.protocol import Faces
from avsync.corpus.media.info import Image
from avsync.errors import BrokenExtraError, MissingExtraError
from avsync.landmarks.layouts import MESH_TO_68

Box = tuple[int, int, int, int]

MESH_VERSION = "0.10.14"
"""Release of mediapipe that this module was written for and tested with."""

_HOW_TO_INSTALL = f"pip install mediapipe=={MESH_VERSION}"


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
        BrokenExtraError: mediapipe is installed but cannot be imported.
    """
    mediapipe = import_extra("mediapipe", "", install=_HOW_TO_INSTALL)
    version = getattr(mediapipe, "__version__", None) or "unknown"
    try:
        solutions = import_extra("mediapipe.python.solutions", "", install=_HOW_TO_INSTALL)
    except BrokenExtraError as error:
        # Newer releases have no such module, and the import fails if the code of a model is missing.
        if not isinstance(error.__cause__, ModuleNotFoundError) or "mediapipe" not in str(error.__cause__.name):
            raise
        raise MissingExtraError(
            f"`mediapipe`: expected a release whose wheel carries the face mesh (none from 0.10.31 on does), got {version}; "
            f"install it with: {_HOW_TO_INSTALL}"
        ) from error
    models = Path(next(iter(mediapipe.__path__)), "modules", "face_landmark")
    if not any(models.glob("*.tflite")):
        raise MissingExtraError(
            f"`mediapipe`: expected models in {models}, got none in release {version}; install it with: {_HOW_TO_INSTALL}"
        )
    return solutions


@dataclass(eq=False)
class _Crop:
    """Mesh of one face, which processes only the surroundings of the face."""

    mesh: Any
    box: Box


class MediapipeDetector(FollowingDetector):
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
        BrokenExtraError: mediapipe does not fit the installed protobuf or NumPy.

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
        super().__init__(
            max_faces=max_faces, dims=dims, min_confidence=min_confidence, search_every=search_every, batch_size=batch_size
        )
        self._solutions = load_solutions()
        try:
            self._finders = [
                self._solutions.face_detection.FaceDetection(model_selection=model, min_detection_confidence=min_confidence)
                for model in (1, 0)  # full range, short range
            ]
        except (AttributeError, TypeError) as error:  # with a newer protobuf the import succeeds and the first graph fails
            raise broken_extra("mediapipe", error, _HOW_TO_INSTALL) from error
        self._idle: list[Any] = []

    def close(self) -> None:
        """Release the memory of the models; the detector cannot be used afterwards."""
        if self._is_inherited:
            return
        self.reset()
        for part in (*self._idle, *self._finders):
            part.close()
        self._idle, self._finders = [], []

    def __call__(self, images: Sequence[Image], /) -> list[Faces]:
        """Return the faces of each image; see :meth:`avsync.corpus.detectors.following.FollowingDetector.__call__`."""
        with warnings.catch_warnings():
            # mediapipe calls a deprecated function of protobuf.
            warnings.filterwarnings("ignore", message="SymbolDatabase.GetPrototype", category=UserWarning)
            return super().__call__(images)

    def _find(self, image: Image) -> Iterator[list[Place]]:
        height, width = image.shape[:2]
        for finder in self._finders:
            boxes = [found.location_data.relative_bounding_box for found in finder.process(image).detections or ()]
            yield [
                (
                    np.array([(box.xmin + box.width / 2) * width, (box.ymin + box.height / 2) * height]),
                    max(box.width * width, box.height * height),
                )
                for box in boxes
            ]

    def _start(self, image: Image, place: Place) -> Followed | None:
        mesh = self._idle.pop() if self._idle else self._new_mesh()
        mesh.reset()
        box = _surroundings(*place, image.shape)
        face = self._landmarks(mesh, image, box)
        if face is None:
            self._idle.append(mesh)
            return None
        return Followed(face, _Crop(mesh, box))

    def _continue(self, followed: Followed, image: Image) -> Faces | None:
        crop = followed.state
        if not _well_inside(followed.face, crop.box, image.shape):
            # The mesh remembers the position of the face in its crop, so it must be reset for another crop.
            crop.box = _surroundings(*centre_and_side(followed.face), image.shape)
            crop.mesh.reset()
        return self._landmarks(crop.mesh, image, crop.box)

    def _release(self, followed: Followed) -> None:
        self._idle.append(followed.state.mesh)

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
    centre, side = centre_and_side(face)
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
