"""Images and videos of faces."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from avsync._checks import as_numbers, check_positive, checked, import_extra
from avsync.corpus.media.files import write_video
from avsync.corpus.media.info import Image
from avsync.corpus.synthetic._face import NEUTRAL
from avsync.errors import ArgumentError, ShapeError
from avsync.figures._style import PALETTE, new_figure
from avsync.landmarks.layouts import NUM_POINTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Faces = Tensor | npt.NDArray[Any]

FACE_LINES: tuple[tuple[int, ...], ...] = (
    tuple(range(17)),
    tuple(range(17, 22)),
    tuple(range(22, 27)),
    tuple(range(27, 31)),
    tuple(range(31, 36)),
    (*range(36, 42), 36),
    (*range(42, 48), 42),
    (*range(48, 60), 48),
    (*range(60, 68), 60),
)
"""Chains of iBUG points that are joined by lines: jaw, brows, nose, eyes, lips."""
_SEGMENTS = np.array([pair for line in FACE_LINES for pair in itertools.pairwise(line)])


def _array(name: str, landmarks: _Faces, axes: str) -> npt.NDArray[np.float64]:
    values = landmarks.detach().cpu() if isinstance(landmarks, Tensor) else landmarks
    array = as_numbers(name, values)
    if array.ndim != len(axes.split()) or 0 in array.shape or array.shape[-1] < 2:
        raise ShapeError(f"`{name}`: expected ({', '.join(axes.split())}>=2), got {array.shape}")
    return array[..., :2]


def _sequences(sequences: Mapping[str, _Faces]) -> dict[str, npt.NDArray[np.float64]]:
    if not sequences:
        raise ArgumentError("`sequences`: expected at least one, got none")
    arrays = {name: _array(f"sequences[{name!r}]", faces, "frames points dims") for name, faces in sequences.items()}
    lengths = {name: len(faces) for name, faces in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ShapeError(f"`sequences`: expected one number of frames for all, got {lengths}")
    return arrays


def _view(face: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """Return centre and height of a face (points, 2)."""
    low, high = face.min(axis=0), face.max(axis=0)
    return (low + high) / 2, float(high[1] - low[1]) or 1.0


@checked
def draw_face(
    landmarks: _Faces,
    size: int = 256,
    *,
    reference: _Faces | None = None,
    color: tuple[int, int, int] = (20, 20, 20),
    background: tuple[int, int, int] = (255, 255, 255),
    line_width: float | None = None,
) -> Image:
    """Draw one face with smooth lines, in NumPy alone.

    Args:
        landmarks: (points, dims); only the first two dims are drawn.
        size: Width and height of the image in pixels.
        reference: Face (points, dims) that defines the view: the reference is centred and fills 60 % of the image height. To
            show head motion, draw a sequence with its first frame as the reference. Default: the face itself.
        color: RGB colour of the lines.
        background: RGB colour of the background.
        line_width: Line width in pixels; ``size / 170`` by default.

    Returns:
        (size, size, 3) uint8.

    Raises:
        ShapeError: Not (points, dims) with at least two dims.
        ArgumentError: A size or width that is not positive.

    Example:
        >>> from avsync.corpus.synthetic.talker import synthetic_clip
        >>> draw_face(synthetic_clip(seconds=1.0).landmarks[0], 64).shape
        (64, 64, 3)

    Source: ours.
    """
    check_positive("size", size)
    face = _array("landmarks", landmarks, "points dims")
    middle, height = _view(face if reference is None else _array("reference", reference, "points dims"))
    width = max(1.0, size / 170) if line_width is None else line_width
    check_positive("line_width", width)
    points = np.nan_to_num((face - middle) / height * (0.6 * size) + size / 2, nan=-1e6)
    points = np.clip(points, -10 * size, 11 * size)
    ink = np.zeros((size, size), np.float32)
    if len(points) == NUM_POINTS:
        for start, end in points[_SEGMENTS]:
            _draw_line(ink, start, end, width)
    else:
        for point in points:
            _draw_line(ink, point, point, 3 * width)
    shades = np.array(background) + ink[..., None] * (np.array(color) - np.array(background))
    return np.round(shades).astype(np.uint8)


def _draw_line(
    ink: npt.NDArray[np.float32], start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], width: float
) -> None:
    """Darken the pixels within half a width of a segment; coverage falls off over one pixel at the edge."""
    reach = width / 2 + 1
    left, top = np.clip(np.floor(np.minimum(start, end) - reach), 0, len(ink)).astype(int)
    right, bottom = np.clip(np.ceil(np.maximum(start, end) + reach), 0, len(ink)).astype(int)
    if left >= right or top >= bottom:
        return
    x = np.arange(left, right)[None, :] + 0.5 - start[0]
    y = np.arange(top, bottom)[:, None] + 0.5 - start[1]
    along = end - start
    share = np.clip((x * along[0] + y * along[1]) / max(float(along @ along), 1e-9), 0, 1)
    distance = np.hypot(x - share * along[0], y - share * along[1])
    box = ink[top:bottom, left:right]
    np.maximum(box, np.clip(width / 2 + 0.5 - distance, 0, 1), out=box)


@checked
def landmark_video(
    path: str | os.PathLike[str],
    sequences: Mapping[str, _Faces],
    *,
    waveform: Tensor | npt.NDArray[Any] | None = None,
    fps: float = 25.0,
    sample_rate: int = 16000,
    size: int = 320,
) -> int:
    """Write a video of faces side by side, each under its name, with audio.

    The first frame of each sequence defines the centre and the scale of its panel.

    Args:
        path: The file to write, ``.mp4``; written atomically.
        sequences: (frames, points, dims) by name, all of the same length.
        waveform: (samples,) in [-1, 1]; starts with the first frame. Audio after the last frame is cut off.
        fps: Frames per second.
        sample_rate: Sample rate of ``waveform`` in hertz.
        size: Width of one panel in pixels.

    Returns:
        The number of frames written.

    Raises:
        ShapeError: Sequences of different lengths, or not (frames, points, dims).
        MissingExtraError: Matplotlib (extra ``plot``) or PyAV (extra ``media``) is not installed.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     landmark_video(Path(folder, "a.mp4"), {"truth": torch.rand(5, 68, 2)}, waveform=torch.zeros(3200), size=64)
        5

    Source: ours.
    """
    images = face_images(sequences, size=size)
    frames = len(next(iter(sequences.values())))
    audio = None
    if waveform is not None:
        samples = waveform.detach().cpu().numpy() if isinstance(waveform, Tensor) else np.asarray(waveform)
        if samples.ndim != 1:
            raise ShapeError(f"`waveform`: expected (samples,), got {samples.shape}")
        audio = samples[: round(frames / fps * sample_rate)].astype(np.float32, copy=False)
    return write_video(path, images, fps=fps, waveform=audio, sample_rate=sample_rate)


@checked
def face_images(sequences: Mapping[str, _Faces], *, size: int = 320) -> Iterator[Image]:
    """Draw the images of :func:`landmark_video`, one per frame: faces side by side, each under its name.

    Args:
        sequences: (frames, points, dims) by name, all of the same length.
        size: Width of one panel in pixels.

    Returns:
        An iterator of images (height, width, 3) uint8, all of one size.

    Raises:
        ShapeError: Sequences of different lengths, or not (frames, points, dims).
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> import torch
        >>> [image.shape for image in face_images({"truth": torch.rand(2, 68, 2)}, size=64)]
        [(96, 64, 3), (96, 64, 3)]

    Source: ours.
    """
    arrays = _sequences(sequences)
    header = _text_strip(tuple(arrays), size)
    colors = [tuple(int(PALETTE[index % len(PALETTE)][at : at + 2], 16) for at in (1, 3, 5)) for index in range(len(arrays))]

    def images() -> Iterator[Image]:
        for frame in range(len(next(iter(arrays.values())))):
            faces = [
                draw_face(faces[frame], size, reference=faces[0], color=(color[0], color[1], color[2]))
                for faces, color in zip(arrays.values(), colors, strict=True)
            ]
            yield np.concatenate([header, np.concatenate(faces, axis=1)], axis=0)

    return images()


def _text_strip(labels: Sequence[str], size: int) -> Image:
    """Draw centred panel names, in a smaller font if needed: (height, size * labels, 3)."""
    agg = import_extra("matplotlib.backends.backend_agg", "plot")
    figure = new_figure(size * len(labels) / 100, 0.32, dpi=100, layout="none")
    canvas = agg.FigureCanvasAgg(figure)
    for index, label in enumerate(labels):
        points = min(13.0, 110 * size / 100 / max(len(label), 1))
        figure.text((index + 0.5) / len(labels), 0.4, label, ha="center", va="center", fontsize=points)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _plot_face(axes: Axes, face: npt.NDArray[np.float64], color: str, width: float) -> None:
    if len(face) == NUM_POINTS:
        for line in FACE_LINES:
            axes.plot(*face[list(line)].T, color=color, linewidth=width, solid_capstyle="round")
    else:
        axes.plot(*face.T, ".", color=color, markersize=3)


@checked
def face_strip(sequences: Mapping[str, _Faces], *, columns: int = 10, fps: float = 25.0) -> Figure:
    """Draw faces over time, one row per method (the paper's figure 4).

    Args:
        sequences: (frames, points, dims) by name, all of the same length.
        columns: Number of instants, evenly spaced from the first frame to the last.
        fps: Frames per second.

    Returns:
        The figure. Position and scale of each row are those of its first frame, which is drawn in grey behind each face.

    Raises:
        ShapeError: Sequences of different lengths, or not (frames, points, dims).
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> import torch
        >>> len(face_strip({"truth": torch.rand(40, 68, 2), "ours": torch.rand(40, 68, 2)}, columns=5).axes)
        10

    Source: ours.
    """
    arrays = _sequences(sequences)
    check_positive("columns", columns)
    frames = len(next(iter(arrays.values())))
    shown = np.unique(np.round(np.linspace(0, frames - 1, columns)).astype(int))
    figure = new_figure(1.1 * len(shown) + 0.4, 1.3 * len(arrays) + 0.3)
    grid = figure.subplots(len(arrays), len(shown), squeeze=False)
    for row, (name, faces) in enumerate(arrays.items()):
        middle, height = _view(faces[0])
        for axes, frame in zip(grid[row], shown, strict=True):
            _plot_face(axes, faces[0], "#dddddd", 0.8)
            _plot_face(axes, faces[frame], PALETTE[row % len(PALETTE)], 1.0)
            axes.set(xlim=middle[0] + 0.62 * height * np.array([-1, 1]), ylim=middle[1] + 0.72 * height * np.array([1, -1]))
            axes.set(aspect="equal", xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(f"{frame / fps:.2f} s", fontsize=8)
        grid[row][0].set_ylabel(name, fontsize=9)
    return figure


@checked
def mask_figure(masks: Tensor | npt.NDArray[Any], *, landmarks: _Faces | None = None, fps: float = 25.0) -> Figure:
    r"""Draw the mask of equation (8) on faces: the part of the face that each branch of the generator moves.

    Args:
        masks: (branches, points): weights that sum to one over the branches; average over clips and frames first.
        landmarks: Positions of the points, (points, dims); a neutral face of 68 points by default.
        fps: Rate of the finest branch; branch b receives audio at fps / 2^b.

    Returns:
        The figure, with one face per branch and a shared colour scale.

    Raises:
        ShapeError: Not (branches, points), or the number of points differs from ``landmarks``.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> import torch
        >>> figure = mask_figure(torch.full((4, 68), 0.25))
        >>> figure.axes[1].get_title()
        'branch 1\n12.5 Hz, mean 0.25'

    Source: ours.
    """
    weights = np.asarray(masks.detach().cpu() if isinstance(masks, Tensor) else masks, dtype=np.float64)
    face = _array("landmarks", NEUTRAL if landmarks is None else landmarks, "points dims")
    if weights.ndim != 2 or weights.shape[1] != len(face) or 0 in weights.shape:
        raise ShapeError(f"`masks`: expected (branches, points={len(face)}), got {weights.shape}")
    figure = new_figure(2.3 * len(weights) + 0.8, 3.1)
    panels = figure.subplots(1, len(weights), squeeze=False)[0]
    top = float(weights.max())
    for branch, (axes, row) in enumerate(zip(panels, weights, strict=True)):
        _plot_face(axes, face, "#cccccc", 0.8)
        axes.scatter(*face.T, c=row, cmap="viridis", vmin=0, vmax=top, s=22, zorder=3)
        axes.set_title(f"branch {branch}\n{fps / 2**branch:g} Hz, mean {row.mean():.2f}", fontsize=9)
        axes.set(aspect="equal", xticks=[], yticks=[])
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
    figure.colorbar(panels[-1].collections[-1], ax=panels, label="branch weight", shrink=0.8)
    return figure
