"""MediaPipe Tasks' Face Landmarker: 478 points and 52 blendshapes per face, with the user's model file.

The library (``mediapipe``, Apache 2.0) carries no model. The model, ``face_landmarker.task``, is a download of Google's
(MediaPipe, "Face landmark detection", Models). Neither this package nor its tests contain the model: the tests run the real
library on a model file that they put together, so the call path is tested and the accuracy is not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from avsync._checks import check_choice, check_path, check_positive, import_extra
from avsync.corpus._process import ProcessBound
from avsync.corpus.detectors.mesh import mesh_to_68
from avsync.corpus.detectors.protocol import Faces
from avsync.corpus.media.info import Image
from avsync.errors import ArgumentError, CheckpointError
from avsync.landmarks.layouts import NUM_POINTS

VERTICES = 478
"""Vertices of the face mesh with both irises."""
_STEP_MS = 40
"""Time between two images, in milliseconds: it defines their order. The library needs true times for smoothing only."""


class LandmarkerFaces(NamedTuple):
    """Faces of one image, as MediaPipe Tasks returns them."""

    points: npt.NDArray[np.float32]
    """Vertices (faces, 478, 3) in pixels; the depth is relative, in about the unit of x."""
    blendshapes: npt.NDArray[np.float32]
    """Scores (faces, blendshapes) in [0, 1], in the order of ``blendshape_names``; no columns without blendshapes."""


class FaceLandmarkerDetector(ProcessBound):
    """Detector with MediaPipe Tasks' Face Landmarker and the user's ``face_landmarker.task``.

    The library finds and follows faces by itself, in its video mode. Faces are followed from image to image, so call
    :meth:`reset` before another video.

    Args:
        model: Path of ``face_landmarker.task``.
        points: "68" for the iBUG points, or "478" for all vertices.
        dims: 2, or 3 to include the relative depth.
        max_faces: Largest number of faces per image; the largest faces are kept.
        min_confidence: Smallest confidence of a face, in [0, 1], for detection and for following.
        batch_size: Images per call; processed one by one.

    Attributes:
        blendshape_names: Names of the blendshapes, in the order of their scores; empty before the first face.

    Raises:
        ArgumentError: An argument is out of range.
        MissingExtraError: mediapipe is not installed.
        BrokenExtraError: mediapipe is installed but cannot be imported.
        CheckpointError: There is no such model file, or the library cannot read it.

    Source: ours.
    """

    def __init__(
        self,
        *,
        model: str | os.PathLike[str],
        points: str = "68",
        dims: int = 2,
        max_faces: int = 4,
        min_confidence: float = 0.5,
        batch_size: int = 16,
    ) -> None:
        check_choice("points", points, ("68", "478"))
        check_positive("max_faces", max_faces)
        check_positive("batch_size", batch_size)
        if dims not in (2, 3):
            raise ArgumentError(f"`dims`: expected 2 or 3, got {dims!r}")
        if not 0 <= min_confidence <= 1:
            raise ArgumentError(f"`min_confidence`: expected a number in [0, 1], got {min_confidence!r}")
        self.model = Path(check_path("model", model))
        if not self.model.is_file():
            raise CheckpointError(
                f"`model`: expected the file face_landmarker.task of MediaPipe, got {self.model}, which is no file"
            )
        self.points, self.dims, self.max_faces, self.batch_size = points, dims, max_faces, batch_size
        self.min_confidence = min_confidence
        self.blendshape_names: tuple[str, ...] = ()
        self._bind_process()
        self._library = import_extra("mediapipe", "landmarker")
        self._tasks = import_extra("mediapipe.tasks.python", "landmarker")
        self._landmarker: Any = self._open()
        self._time = 0

    def _open(self) -> Any:
        vision = self._tasks.vision
        options = vision.FaceLandmarkerOptions(
            # The bytes, because the library resolves relative paths against its own folder.
            base_options=self._tasks.BaseOptions(model_asset_buffer=self.model.read_bytes()),
            running_mode=vision.RunningMode.VIDEO,
            # With one face the library smooths the points over time, which delays them.
            num_faces=max(2, self.max_faces),
            min_face_detection_confidence=self.min_confidence,
            min_face_presence_confidence=self.min_confidence,
            min_tracking_confidence=self.min_confidence,
            output_face_blendshapes=True,
        )
        try:
            return vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError, OSError) as error:
            if "blendshape" in str(error).lower():  # a model file without blendshapes
                options.output_face_blendshapes = False
                return vision.FaceLandmarker.create_from_options(options)
            raise CheckpointError(f"`model`: expected a face landmarker of MediaPipe in {self.model}, got {error}") from error

    def reset(self) -> None:
        """Forget the faces that are followed; the next image starts another video."""
        if self._time:
            self.close()

    def close(self) -> None:
        """Release the memory of the model; the next image opens it again."""
        if self._landmarker is not None and not self._is_inherited:
            self._landmarker.close()
            self._landmarker, self._time = None, 0

    def detect(self, images: Sequence[Image]) -> list[LandmarkerFaces]:
        """Return all vertices and the blendshapes of the faces of each image.

        Args:
            images: Images (height, width, 3) uint8, RGB, upright, in the order of the video.

        Returns:
            :class:`LandmarkerFaces` per image, the largest face first.
        """
        self._check_process()
        if self._landmarker is None:
            self._landmarker = self._open()
        return [self._detect(np.ascontiguousarray(image)) for image in images]

    def _detect(self, image: Image) -> LandmarkerFaces:
        wrapped = self._library.Image(image_format=self._library.ImageFormat.SRGB, data=image)
        result = self._landmarker.detect_for_video(wrapped, self._time)
        self._time += _STEP_MS
        height, width = image.shape[:2]
        scale = np.array([width, height, width], np.float32)
        points = np.array([[(p.x, p.y, p.z) for p in face] for face in result.face_landmarks], np.float32)
        points = points.reshape(-1, VERTICES, 3) * scale
        if result.face_blendshapes and not self.blendshape_names:
            self.blendshape_names = tuple(str(shape.category_name) for shape in result.face_blendshapes[0])
        scores = np.array([[shape.score for shape in face] for face in result.face_blendshapes or ()], np.float32)
        scores = scores.reshape(len(points), len(self.blendshape_names) if result.face_blendshapes else 0)
        keep = np.argsort(-np.ptp(points[..., 1], axis=1), kind="stable")[: self.max_faces] if len(points) else slice(0)
        return LandmarkerFaces(points[keep], scores[keep])

    def __call__(self, images: Sequence[Image], /) -> list[Faces]:
        """Return the faces of each image.

        Args:
            images: Images (height, width, 3) uint8, RGB, upright, in the order of the video.

        Returns:
            (faces, 68 or 478, dims) float32 per image, in pixels, the largest face first.
        """
        found = []
        for faces in self.detect(images):
            points = faces.points if self.points == "478" else mesh_to_68(faces.points).astype(np.float32)
            count = VERTICES if self.points == "478" else NUM_POINTS
            found.append(points.reshape(-1, count, 3)[..., : self.dims])
        return found
