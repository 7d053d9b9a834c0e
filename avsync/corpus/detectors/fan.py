"""Detector of the face-alignment library: FAN, as in the paper, in 2D, 2.5D and 3D, on a CPU or a GPU.

face-alignment downloads its weights at the first use: a face finder and one or two networks, about 200 to 400 MB. The tests of
this module call the real library with artificial weights in the library's cache format. The accuracy of the published weights
is not measured here.
"""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avsync._checks import check_choice, check_positive, import_extra
from avsync.corpus.detectors.protocol import Faces
from avsync.corpus.media.info import Image
from avsync.errors import ArgumentError, CheckpointError
from avsync.landmarks.layouts import NUM_POINTS

LANDMARKS: dict[str, str] = {"2D": "TWO_D", "2.5D": "TWO_HALF_D", "3D": "THREE_D"}
"""Kinds of landmarks, with the library's name of each kind."""


class FaceAlignmentDetector:
    """FAN detector of 68 points for every face that the library's S3FD finds.

    "2D" points follow the visible contour of the face. "2.5D" points are the projection of the true contour. "3D" points also
    have a depth in pixels, with an arbitrary origin. Every image is processed independently.

    Args:
        landmarks: Kind of landmarks: "2D" (2 dims), "2.5D" (2 dims) or "3D" (3 dims).
        device: "auto" (a GPU if available), "cpu", "cuda", "cuda:1" or "mps".
        batch_size: Images per call; the face finder processes all of them at once.
        search_side: Longer side of the images for the face finder only, in pixels; None for no downscaling. With 640, a 720p
            image keeps a quarter of its pixels, and the finder's smallest anchor (16 pixels) is 1/40 of the longer side.
        max_faces: Largest number of faces per image; the largest faces are kept.
        min_confidence: Smallest score of a face, in [0, 1].

    Raises:
        ArgumentError: An argument is out of range.
        MissingExtraError: face-alignment is not installed.
        CheckpointError: The library could not download or load its weights; the message contains the expected folder.

    Source: paper section 4.1 uses face-alignment's landmarks (as does its preprocessing); ``search_side`` ours.
    """

    def __init__(
        self,
        *,
        landmarks: str = "2D",
        device: str = "auto",
        batch_size: int = 16,
        search_side: int | None = 640,
        max_faces: int = 4,
        min_confidence: float = 0.5,
    ) -> None:
        check_choice("landmarks", landmarks, tuple(LANDMARKS))
        check_positive("batch_size", batch_size)
        check_positive("max_faces", max_faces)
        if search_side is not None and search_side < 64:
            raise ArgumentError(f"`search_side`: expected at least 64 pixels or None, got {search_side!r}")
        if not 0 <= min_confidence <= 1:
            raise ArgumentError(f"`min_confidence`: expected a number in [0, 1], got {min_confidence!r}")
        self.batch_size, self.search_side, self.max_faces = batch_size, search_side, max_faces
        self.dims = 3 if landmarks == "3D" else 2
        self.device = _device(device)
        library = import_extra("face_alignment", "landmarks")
        options: dict[str, Any] = {
            "device": self.device,
            "face_detector": "sfd",
            "face_detector_kwargs": {"filter_threshold": min_confidence},
            # Releases from 1.5 on compile their networks by default, which takes minutes before the first image on a CPU.
            "compile": False,
            "max_batch_size": max_faces,
        }
        known = inspect.signature(library.FaceAlignment).parameters
        kind = library.LandmarksType[LANDMARKS[landmarks]]
        try:
            self._library = library.FaceAlignment(kind, **{key: value for key, value in options.items() if key in known})
        except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
            folder = Path(torch.hub.get_dir(), "checkpoints")
            raise CheckpointError(
                f"`face-alignment`: expected its weights in {folder}, or a network to download them from, "
                f"got {type(error).__name__}: {error}"
            ) from error

    def __call__(self, images: Sequence[Image], /) -> list[Faces]:
        """Return the faces of each image.

        Args:
            images: Images (height, width, 3) uint8, RGB, upright, all of one size.

        Returns:
            (faces, 68, dims) float32 per image, in pixels, the largest face first.
        """
        if not images:
            return []
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        boxes = self._find(batch)
        if not any(boxes):
            return [np.zeros((0, NUM_POINTS, self.dims), np.float32) for _ in images]
        with warnings.catch_warnings():
            # The library warns about every image without a face, which is a normal result here.
            warnings.filterwarnings("ignore", message="No faces were detected")
            found = self._library.get_landmarks_from_batch(batch, detected_faces=boxes)
        # The library returns the points of all faces of an image in one array, concatenated along the first axis.
        return [np.asarray(points, np.float32).reshape(-1, NUM_POINTS, self.dims) for points in found]

    def _find(self, batch: Tensor) -> list[list[npt.NDArray[np.float64]]]:
        """Return (left, top, right, bottom, score) of the faces of each image, in image pixels, the largest face first."""
        height, width = batch.shape[-2:]
        scale = 1.0 if self.search_side is None else min(1.0, self.search_side / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        search = batch.to(self.device, torch.float32)
        if size != (height, width):
            search = torch.nn.functional.interpolate(search, size, mode="bilinear", antialias=True)
        unit = np.array([width / size[1], height / size[0], width / size[1], height / size[0], 1.0])
        found = []
        for faces in self._library.face_detector.detect_from_batch(search):
            boxes = [np.asarray(face, np.float64)[:5] * unit for face in faces]
            # A box without area contains no face, and its crop would be empty.
            boxes = [box for box in boxes if box[2] - box[0] >= 1 and box[3] - box[1] >= 1]
            found.append(sorted(boxes, key=_area, reverse=True)[: self.max_faces])
        return found


def _area(box: npt.NDArray[np.float64]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ArgumentError(f"`device`: expected 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps', got {device!r}") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, False):
        there = [name for name, there in available.items() if there]
        raise ArgumentError(f"`device`: expected one of those here, {there}, got {device!r}")
    return device
