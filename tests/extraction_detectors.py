"""Detectors for the tests of batches, found by name from any process."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FACE = np.array([[20, 10], [36, 10], [28, 30]], np.float32)


def constant(images: Sequence[npt.NDArray[np.uint8]]) -> list[Any]:
    """The same face everywhere."""
    return [FACE] * len(images)


def deadly(images: Sequence[npt.NDArray[np.uint8]]) -> list[Any]:
    """Kill the process at a white picture, as a lack of memory would."""
    if images[0].mean() > 250:
        os.kill(os.getpid(), signal.SIGKILL)
    return [FACE] * len(images)


class Counting:
    """The same face everywhere; counts images, and calls ``at`` with the number of each batch."""

    batch_size = 8

    def __init__(self) -> None:
        self.images = self.batches = 0
        self.at: Any = None

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Any]:
        if self.at is not None:
            self.at(self.batches)
        self.images += len(images)
        self.batches += 1
        return [FACE] * len(images)


def visible(folder: Path) -> set[str]:
    """Names of the files in a corpus that are not hidden."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def deadly_once(images: Sequence[npt.NDArray[np.uint8]]) -> list[Any]:
    """Kill the process at the first white picture, but not again; the file in ``AVSYNC_TEST_MARK`` remembers it."""
    mark = Path(os.environ["AVSYNC_TEST_MARK"])
    if images[0].mean() > 250 and not mark.exists():
        mark.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
        os.kill(os.getpid(), signal.SIGKILL)
    return [FACE] * len(images)


def endless(images: Sequence[npt.NDArray[np.uint8]]) -> list[Any]:
    """Note the process in the folder ``AVSYNC_TEST_MARK``, and never return."""
    Path(os.environ["AVSYNC_TEST_MARK"], str(os.getpid())).touch()
    while True:
        signal.pause()
