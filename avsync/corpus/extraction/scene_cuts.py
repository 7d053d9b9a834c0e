"""Scene cuts, image by image, on thumbnails: cheap enough to run on every frame of a video."""

from __future__ import annotations

import numpy as np

from avsync._checks import check_positive, check_type
from avsync.corpus.media.info import FloatArray, Image
from avsync.errors import ArgumentError, ShapeError

# A thumbnail has about this many rows and columns of cells, and a cell about _SAMPLES pixels a side that are looked at.
_CELLS = (18, 32)
_SAMPLES = 3
# Levels of each colour in the histogram.
_BINS = 8
# Standard deviation of the grey values, of 255, under which an image shows nothing that a cut could be told by: black, white, a flash.
_BLANK = 4.0
# How much of its memory of the usual change the detector keeps from one image to the next.
_MEMORY = 0.8


class SceneCuts:
    """Tell the first image of every scene.

    Two things must change at once: the composition (one minus the correlation of small images with the last ones, after mean and contrast
    are taken out) and the colours (half the absolute difference of their histograms, 0 to 1). A change of light alone leaves the first, and
    motion the second, so neither is taken for a cut. The composition must also change ``ratio`` times as much as it lately did, which
    spares shaking cameras. Blank images (black, white, a flash) are passed over: the next one is compared with the last that showed
    something.

    Cross-fades are not found, nor cuts between images of the same colours (a closer view of the same scene, at times); the
    :class:`~avsync.corpus.extraction.tracks.FaceTracker` sees the face jump in those.

    Args:
        structure: Least change of composition, in [0, 2].
        colours: Least change of colours, in [0, 1].
        ratio: Least change of composition relative to the running mean of what went before.

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
        """Begin another video."""
        self._cells: FloatArray | None = None
        self._histogram: FloatArray | None = None
        self._shape: tuple[int, ...] | None = None
        self._usual = 0.0

    def push(self, image: Image) -> bool:
        """Take the next image.

        Args:
            image: (height, width, 3) uint8; any size.

        Returns:
            Whether it is the first of a scene. The first image of all is not, and one of another size than the last always is.

        Raises:
            ShapeError: The image has another rank or type.
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
        # The change at a cut says nothing of the motion in the scene that it begins.
        self._usual = 0.0 if cut else _MEMORY * self._usual + (1 - _MEMORY) * change
        return cut


def _signature(image: Image) -> tuple[FloatArray | None, FloatArray]:
    """Cells of a thumbnail, of mean 0 and norm 1 (None for a blank image), and the histogram of the colours, of sum 1."""
    height, width = image.shape[:2]
    # Looking at every pixel would cost ten times as much and tell no more: cells are means of a few samples.
    step_y, step_x = (max(1, size // (cells * _SAMPLES)) for size, cells in zip((height, width), _CELLS, strict=True))
    samples = image[::step_y, ::step_x]
    codes = samples // (256 // _BINS)
    codes_flat = (codes[..., 0].astype(np.int64) * _BINS + codes[..., 1]) * _BINS + codes[..., 2]
    histogram = np.bincount(codes_flat.ravel(), minlength=_BINS**3).astype(np.float32) / np.float32(codes_flat.size)
    rows, columns = max(1, samples.shape[0] // _SAMPLES), max(1, samples.shape[1] // _SAMPLES)
    side_y, side_x = samples.shape[0] // rows, samples.shape[1] // columns
    whole = samples[: rows * side_y, : columns * side_x].reshape(rows, side_y, columns, side_x, 3)
    # Nine sums of whole rows: NumPy's mean over two inner axes takes ten times as long.
    cells: FloatArray = np.zeros((rows, columns, 3), np.float32)
    for row in range(side_y):
        for column in range(side_x):
            cells += whole[:, row, :, column]
    cells /= np.float32(side_y * side_x)
    # One mean for all three colours: a red scene after a grey one is another composition, a dimmed one is not.
    cells -= cells.mean()
    norm = float(np.sqrt(np.vdot(cells, cells)))
    if norm < _BLANK * np.sqrt(cells.size):
        return None, histogram
    return cells.ravel() / np.float32(norm), histogram
