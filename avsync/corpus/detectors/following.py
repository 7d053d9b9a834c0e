"""Faces that are followed from image to image: the part that MediaPipe's models need around them, whatever runs the models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync._checks import check_positive
from avsync.corpus._process import ProcessBound
from avsync.corpus.detectors.protocol import Faces
from avsync.corpus.media.info import Image
from avsync.errors import ArgumentError
from avsync.landmarks.layouts import NUM_POINTS

Place = tuple[npt.NDArray[np.float64], float]
"""Centre (x, y) and side of a face that a finder found, in pixels."""


@dataclass(eq=False)
class Followed:
    """Face that is followed from image to image.

    Attributes:
        face: (68, dims), in pixels of the last image.
        state: State of the model that follows the face.
    """

    face: Faces
    state: Any


class FollowingDetector(ProcessBound):
    """Base class of detectors that find a face once and then follow it.

    A finder runs on the first image, and again every ``search_every`` images while fewer than ``max_faces`` faces are followed.
    If a face is lost and no other face is left, the finder runs again on the same image. A subclass implements :meth:`_find`,
    :meth:`_start` and :meth:`_continue`.

    Args:
        max_faces: Largest number of faces that are followed at the same time.
        dims: 2 or 3.
        min_confidence: Smallest confidence of a face, in [0, 1].
        search_every: Images between two searches for new faces.
        batch_size: Images per call; processed one by one.

    Raises:
        ArgumentError: An argument is out of range.

    Source: ours.
    """

    def __init__(self, *, max_faces: int, dims: int, min_confidence: float, search_every: int, batch_size: int) -> None:
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
        self._followed: list[Followed] = []
        self._since_search = 0

    def _find(self, image: Image) -> Iterable[Iterable[Place]]:
        """Return the places of the faces by each finder in turn; a later finder runs only if earlier ones found no face."""
        raise NotImplementedError

    def _start(self, image: Image, place: Place) -> Followed | None:
        """Return the face at a place, or None if the model sees no face there."""
        raise NotImplementedError

    def _continue(self, followed: Followed, image: Image) -> Faces | None:
        """Return the face in the next image, or None if it is lost."""
        raise NotImplementedError

    def _release(self, followed: Followed) -> None:
        """Take back the state of a face that is not followed any more."""

    def reset(self) -> None:
        """Forget the faces that are followed; the next image starts another video."""
        for followed in self._followed:
            self._release(followed)
        self._followed = []
        self._since_search = 0

    def __call__(self, images: Sequence[Image], /) -> list[Faces]:
        """Return the faces of each image.

        Args:
            images: Images (height, width, 3) uint8, RGB, upright, in the order of the video.

        Returns:
            (faces, 68, dims) float32 per image, in pixels.
        """
        self._check_process()
        return [self._detect(np.ascontiguousarray(image)) for image in images]

    def _detect(self, image: Image) -> Faces:
        for followed in list(self._followed):
            face = self._continue(followed, image)
            if face is None or any(_same(face, other.face) for other in self._followed if other is not followed):
                self._followed.remove(followed)
                self._release(followed)
            else:
                followed.face = face
        self._since_search += 1
        if not self._followed or (len(self._followed) < self.max_faces and self._since_search >= self.search_every):
            self._search(image)
        if not self._followed:
            return np.zeros((0, NUM_POINTS, self.dims), np.float32)
        return np.stack([followed.face for followed in self._followed])

    def _search(self, image: Image) -> None:
        self._since_search = 0
        for centre, side in self._untaken(image):
            found = self._start(image, (centre, side))
            if found is None:
                continue
            # In a crowd the model may find a neighbour of the intended face.
            if not holds(found.face, centre) or any(_same(found.face, other.face) for other in self._followed):
                self._release(found)
            else:
                self._followed.append(found)

    def _untaken(self, image: Image) -> Iterator[Place]:
        for places in self._find(image):
            for centre, side in places:
                taken = any(holds(other.face, centre) for other in self._followed)
                if not taken and side >= 1 and len(self._followed) < self.max_faces:
                    yield centre, side
            if self._followed:
                return


def centre_and_side(face: Faces) -> Place:
    """Return the centre and the longer side of the box around a face."""
    low, high = face[:, :2].min(axis=0).astype(np.float64), face[:, :2].max(axis=0).astype(np.float64)
    return (low + high) / 2, max(1.0, float((high - low).max()))


def holds(face: Faces, point: npt.NDArray[np.float64]) -> bool:
    """Return whether a point lies within a face or close to it."""
    centre, side = centre_and_side(face)
    return bool(np.abs(point - centre).max() <= 0.6 * side)


def _same(face: Faces, other: Faces) -> bool:
    return bool(np.linalg.norm(face[:, :2].mean(axis=0) - other[:, :2].mean(axis=0)) < 0.3 * centre_and_side(other)[1])
