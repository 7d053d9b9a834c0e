"""Scene cut detection on thumbnails, image by image, cheap enough for every frame of a video."""

from __future__ import annotations

import numpy as np

from avsync._checks import check_positive, check_type
from avsync.corpus.media.info import FloatArray, Image
from avsync.errors import ArgumentError, ShapeError

# Approximate rows and columns of cells per thumbnail, and sampled pixels per side of a cell.
_CELLS = (18, 32)
_SAMPLES = 3
# Levels per colour channel in the histogram.
_BINS = 8
# An image is blank (black, white, a flash) if the standard deviation of its values, in [0, 255], is smaller.
_BLANK = 4.0
# Decay per image of the running mean of the change.
_MEMORY = 0.8


class SceneCuts:
    """Detector of the first image of every scene.

    A cut requires a simultaneous change of composition and colours. The change of composition is one minus the correlation of
    thumbnails of consecutive images, after removal of mean and contrast. The change of colours is half the absolute difference
    of the colour histograms, 0 to 1. A change of light alone does not change the composition, and motion does not change the
    colours, so neither counts as a cut. The change of composition must also be ``ratio`` times its running mean, which avoids
    false cuts with shaking cameras. Blank images (black, white, a flash) are skipped: the next image is compared with the last
    non-blank image.

    Cross-fades are not detected, nor cuts between images with the same colours (for example a closer view of the same scene).
    In the latter case the :class:`~avsync.corpus.extraction.tracks.FaceTracker` detects a jump of the face.

    Args:
        structure: Smallest change of composition, in [0, 2].
        colours: Smallest change of colours, in [0, 1].
        ratio: Smallest change of composition relative to its running mean.

    Raises:
        ArgumentError: An argument is negative.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> first, second = (rng.integers(0, top, (9, 16, 3)).astype(np.uint8).repeat(20, axis=0) for top in (256, 128))
        >>> cuts = SceneCuts()
        >>> [cuts.push(image) for image in (first, first, first // 2, second, second)]
        [False, False, False, True, False]

    Source: ours.
    """

    def __init__(self, *, structure: float = 0.35, colours: float = 0.1, ratio: float = 3.0) -> None:
        for name, value in (("structure", structure), ("colours", colours), ("ratio", ratio)):
            check_type(name, value, int, float)
            check_positive(name, value, allow_zero=True)
        if structure > 2 or colours > 1:
            raise ArgumentError(f"`structure`, `colours`: expected at most 2 and 1, got {structure!r} and {colours!r}")
        self.structure, self.colours, self.ratio = structure, colours, ratio
        self.reset()

    def reset(self) -> None:
        """Reset the detector before another video."""
        self._cells: FloatArray | None = None
        self._histogram: FloatArray | None = None
        self._shape: tuple[int, ...] | None = None
        self._usual = 0.0

    def push(self, image: Image) -> bool:
        """Process the next image.

        Args:
            image: Image (height, width, 3) uint8, of any size.

        Returns:
            True if the image is the first of a new scene. The result is False for the first image of the video, and True if the
            size of the image changes.

        Raises:
            ShapeError: The image has a wrong rank or type.
        """
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            got = f"{image.shape} of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ShapeError(f"`image`: expected (height, width, 3) of uint8, got {got}")
        resized = self._shape is not None and image.shape != self._shape
        self._shape = image.shape
        if resized:
            self._cells = None
        cells, histogram = _signature(image)
        if cells is None:
            return resized
        before, colours = self._cells, self._histogram
        self._cells, self._histogram = cells, histogram
        if before is None or colours is None:
            return resized
        change = 1.0 - float(np.vdot(before, cells))
        recolouring = 0.5 * float(np.abs(histogram - colours).sum())
        cut = change > max(self.structure, self.ratio * self._usual) and recolouring > self.colours
        # The change at a cut is unrelated to the motion in the new scene.
        self._usual = 0.0 if cut else _MEMORY * self._usual + (1 - _MEMORY) * change
        return cut


def _signature(image: Image) -> tuple[FloatArray | None, FloatArray]:
    """Return thumbnail cells with mean 0 and norm 1 (None for a blank image), and the colour histogram with sum 1."""
    height, width = image.shape[:2]
    # Cells are means of a few samples, because reading every pixel takes ten times as long without a better result.
    step_y, step_x = (max(1, size // (cells * _SAMPLES)) for size, cells in zip((height, width), _CELLS, strict=True))
    samples = image[::step_y, ::step_x]
    codes = samples // (256 // _BINS)
    codes_flat = (codes[..., 0].astype(np.int64) * _BINS + codes[..., 1]) * _BINS + codes[..., 2]
    histogram = np.bincount(codes_flat.ravel(), minlength=_BINS**3).astype(np.float32) / np.float32(codes_flat.size)
    rows, columns = max(1, samples.shape[0] // _SAMPLES), max(1, samples.shape[1] // _SAMPLES)
    side_y, side_x = samples.shape[0] // rows, samples.shape[1] // columns
    whole = samples[: rows * side_y, : columns * side_x].reshape(rows, side_y, columns, side_x, 3)
    # Sum nine strided arrays, because NumPy's mean over two inner axes takes ten times as long.
    cells: FloatArray = np.zeros((rows, columns, 3), np.float32)
    for row in range(side_y):
        for column in range(side_x):
            cells += whole[:, row, :, column]
    cells /= np.float32(side_y * side_x)
    # One mean for all three colours: a red scene after a grey scene has another composition, a dimmed scene has not.
    cells -= cells.mean()
    norm = float(np.sqrt(np.vdot(cells, cells)))
    if norm < _BLANK * np.sqrt(cells.size):
        return None, histogram
    return cells.ravel() / np.float32(norm), histogram
