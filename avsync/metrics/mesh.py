"""Published metrics of 3D talking heads: lip vertex error, dynamics of the upper face, temporal misalignment, lip intensity.

Meshes are (batch, frames, vertices, 3) in any unit. Regions are lists of vertices, such as ``layout.region("mouth")`` of a
:class:`avsync.landmarks.Layout`. Prediction and target have the same shape, and ``lengths`` gives the number of valid frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avsync._checks import check_floating, check_positive, check_shape, checked, constant, describe_shape, import_extra, reduce
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.pyramid import check_lengths, mean_over_frames


def _check_meshes(preds: Tensor, target: Tensor, *, min_frames: int = 1) -> None:
    check_shape("target", target, "batch frames vertices dims")
    check_floating("target", target)
    check_floating("preds", preds)
    if preds.shape != target.shape:
        raise ShapeError(f"`preds`: expected the shape of `target`, {tuple(target.shape)}, got {describe_shape(preds)}")
    if target.shape[1] < min_frames:
        raise ClipTooShortError(f"`target`: expected at least {min_frames} frames, got {target.shape[1]}")


def _index(name: str, vertices: Sequence[int], mesh: Tensor) -> Tensor:
    chosen = [int(vertex) for vertex in vertices]
    if not chosen or not all(0 <= vertex < mesh.shape[2] for vertex in chosen):
        raise ArgumentError(
            f"`{name}`: expected vertices from 0 to {mesh.shape[2] - 1}, at least one, got {str(vertices)[:60]}"
        )
    return constant(chosen, mesh.device)


@checked
def lip_vertex_error(
    preds: Tensor,
    target: Tensor,
    *,
    lips: Sequence[int],
    squared: bool = True,
    lengths: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute LVE, the largest error of the lip vertices in each frame, averaged over frames.

    .. math:: \frac{1}{T} \sum_t \max_{v \in \text{lips}} \lVert \hat x_{t,v} - x_{t,v} \rVert^2

    Args:
        preds: (batch, frames, vertices, dims).
        target: The same shape, in the same unit.
        lips: Vertices of the lips.
        squared: True for the squared distance, as the published scripts compute LVE; False for the distance, as its definition
            in words.
        lengths: (batch,), number of valid frames of each clip; all by default.
        reduction: "none" for (batch,), "mean" or "sum" over clips.

    Returns:
        In the squared unit of the meshes (or their unit); lower is better.

    Raises:
        ShapeError: Shapes differ.
        ArgumentError: ``lips`` is empty or names other vertices.

    Example:
        >>> target = torch.zeros(1, 4, 10, 3)
        >>> lip_vertex_error(target + 0.1, target, lips=[2, 3]).round(decimals=4)
        tensor(0.0300)

    Source: Richard et al. 2021, "MeshTalk"; squared in the scripts of FaceFormer and CodeTalker, and in torchmetrics.
    """
    _check_meshes(preds, target)
    index = _index("lips", lips, target)
    difference = preds.index_select(2, index) - target.index_select(2, index)
    largest = difference.square().sum(dim=-1).amax(dim=2)
    return reduce(mean_over_frames(largest if squared else largest.sqrt(), -1, lengths=lengths), reduction)


@checked
def mean_vertex_error(preds: Tensor, target: Tensor, *, lengths: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Compute MVE, the mean distance between predicted and true vertices over vertices and frames.

    Args:
        preds: (batch, frames, vertices, dims).
        target: The same shape, in the same unit.
        lengths: (batch,), number of valid frames of each clip; all by default.
        reduction: "none" for (batch,), "mean" or "sum" over clips.

    Returns:
        In the unit of the meshes; lower is better.

    Raises:
        ShapeError: Shapes differ.

    Example:
        >>> target = torch.zeros(1, 4, 10, 3)
        >>> mean_vertex_error(target + 1.0, target).round(decimals=4)
        tensor(1.7321)

    Source: Thambiraja et al. 2023, "Imitator" (full-face error).
    """
    _check_meshes(preds, target)
    return reduce(
        mean_over_frames(torch.linalg.vector_norm(preds - target, dim=-1).mean(dim=2), -1, lengths=lengths), reduction
    )


@checked
def upper_face_dynamics_deviation(
    preds: Tensor,
    target: Tensor,
    *,
    upper: Sequence[int],
    template: Tensor,
    lengths: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute FDD, the difference between the variation of the true and the predicted upper face.

    .. math:: \frac{1}{|S|} \sum_{v \in S} \left(\operatorname{dyn}(x_v) - \operatorname{dyn}(\hat x_v)\right)

    with the upper face :math:`S` and the standard deviation over time :math:`\operatorname{dyn}` of the distance of a vertex
    from its place in the template.

    Args:
        preds: (batch, frames, vertices, dims).
        target: The same shape, in the same unit.
        upper: Vertices of the upper face.
        template: Neutral faces, (batch, vertices, dims) or (vertices, dims).
        lengths: (batch,), number of valid frames of each clip; all by default.
        reduction: "none" for (batch,), "mean" or "sum" over clips.

    Returns:
        In the unit of the meshes; positive if the prediction moves too little. 0 is the best.

    Raises:
        ShapeError: Shapes differ.
        ArgumentError: ``upper`` is empty or names other vertices.

    Example:
        >>> target = torch.rand(1, 20, 10, 3)
        >>> upper_face_dynamics_deviation(target, target, upper=[1, 2], template=target[0, 0])
        tensor(0.)

    Source: Xing et al. 2023, "CodeTalker", section 4.2.
    """
    _check_meshes(preds, target, min_frames=2)
    if template.shape not in (target.shape[2:], (target.shape[0], *target.shape[2:])):
        raise ShapeError(
            f"`template`: expected {tuple(target.shape[2:])}, for each clip or for all, got {describe_shape(template)}"
        )
    index = _index("upper", upper, target)
    place = template if template.ndim == 3 else template[None]
    place = place.index_select(1, index)[:, None]
    dynamics = []
    for mesh in (target, preds):
        moved = torch.linalg.vector_norm(mesh.index_select(2, index) - place, dim=-1)
        mean = mean_over_frames(moved, -2, lengths=lengths)[:, None]
        dynamics.append(mean_over_frames((moved - mean).square(), -2, lengths=lengths).sqrt())
    return reduce((dynamics[0] - dynamics[1]).mean(dim=1), reduction)


@checked
def lip_intensity(vertices: Tensor, *, lips: Sequence[int], lengths: Tensor | None = None) -> Tensor:
    r"""Compute the intensity of lip motion, the root mean square over time of the mean step of the lip vertices.

    .. math:: \sqrt{\frac{1}{T-1} \sum_t \left(\frac{1}{|L|} \sum_{v \in L} \lVert x_{t+1,v} - x_{t,v} \rVert\right)^2}

    Args:
        vertices: (batch, frames, vertices, dims), at least 2 frames.
        lips: Vertices of the lips.
        lengths: (batch,), number of valid frames of each clip; all by default.

    Returns:
        (batch,), in the unit of the meshes per frame.

    Raises:
        ClipTooShortError: Fewer than 2 frames.
        ArgumentError: ``lips`` is empty or names other vertices.

    Example:
        >>> steps = torch.arange(5.0)[None, :, None, None].expand(1, 5, 3, 3)
        >>> lip_intensity(steps, lips=[0, 2]).round(decimals=4)
        tensor([1.7321])

    Source: Chae-Yeon et al. 2025, "Perceptually Accurate 3D Talking Head Generation" (its evaluation script).
    """
    _check_meshes(vertices, vertices, min_frames=2)
    steps = vertices.index_select(2, _index("lips", lips, vertices)).diff(dim=1)
    mean_step = torch.linalg.vector_norm(steps, dim=-1).mean(dim=2)
    return mean_over_frames(mean_step.square(), -1, lengths=None if lengths is None else lengths - 1).sqrt()


@checked
def speech_lip_intensity_correlation(lips: Tensor, speech: Tensor, speakers: Sequence[str]) -> Tensor:
    """Compute SLCC, Pearson's correlation between the intensities of lip motion and of speech over clips.

    Both intensities are standardised per speaker first, so that the correlation does not measure differences between speakers.

    Args:
        lips: Intensity of lip motion of each clip, (clips,); see :func:`lip_intensity`.
        speech: Intensity of speech of each clip, (clips,): the root mean square of its waveform.
        speakers: Speaker of each clip. Speakers with one clip or without variation are left out.

    Returns:
        A scalar in [-1, 1], NaN if fewer than 2 clips remain. Compare it with the value of true motion rather than with 1.

    Raises:
        ShapeError: There is not one value of each kind per clip.

    Example:
        >>> values = torch.tensor([1.0, 2.0, 3.0, 10.0, 11.0, 12.0])
        >>> speech_lip_intensity_correlation(values, 2 * values, ["anna"] * 3 + ["ben"] * 3).round(decimals=4)
        tensor(1.)

    Source: Chae-Yeon et al. 2025, "Perceptually Accurate 3D Talking Head Generation", section 4.
    """
    check_shape("lips", lips, "clips")
    check_shape("speech", speech, "clips", clips=lips.shape[0])
    check_floating("lips", lips)
    check_floating("speech", speech)
    if len(speakers) != lips.shape[0]:
        raise ShapeError(f"`speakers`: expected {lips.shape[0]}, one per clip, got {len(speakers)}")
    standardised = []
    for speaker in dict.fromkeys(speakers):
        mine = torch.tensor([other == speaker for other in speakers], device=lips.device)
        pair = torch.stack([lips[mine], speech[mine]]).double()
        deviation = pair.std(dim=1, keepdim=True) if pair.shape[1] > 1 else torch.zeros(2, 1)
        if bool((deviation > 0).all()):
            standardised.append((pair - pair.mean(dim=1, keepdim=True)) / deviation)
    if not standardised:
        return lips.new_tensor(torch.nan)
    return torch.corrcoef(torch.cat(standardised, dim=1))[0, 1].to(lips.dtype)


def _derivative_path(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the path of dynamic time warping of the derivatives of two curves, as pairs of frames."""
    slopes = [np.diff(curve, prepend=curve[0]) for curve in (first, second)]
    costs = np.abs(slopes[0][:, None] - slopes[1][None])
    total = np.full((costs.shape[0] + 1, costs.shape[1] + 1), np.inf)
    total[0, 0] = 0.0
    for i in range(1, total.shape[0]):
        for j in range(1, total.shape[1]):
            total[i, j] = costs[i - 1, j - 1] + min(total[i - 1, j], total[i, j - 1], total[i - 1, j - 1])
    path = []
    i, j = costs.shape
    while i > 0 and j > 0:
        path.append((i - 1, j - 1))
        step = int(np.argmin([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]]))
        i, j = i - (step != 2), j - (step != 1)
    return path[::-1]


def _misalignment(preds: npt.NDArray[np.float64], target: npt.NDArray[np.float64], smoothing: float) -> float:
    """Return the mean distance in frames between extrema that belong together; NaN if there are none."""
    signal: Any = import_extra("scipy.signal", "metrics")
    images: Any = import_extra("scipy.ndimage", "metrics")
    curves = [images.gaussian_filter1d(curve, sigma=smoothing) if smoothing else curve for curve in (target, preds)]
    extrema = [{int(frame): kind for kind in (1, -1) for frame in signal.find_peaks(kind * curve)[0]} for curve in curves]
    in_order = sorted(extrema[0])
    found = []
    for true, predicted in _derivative_path(curves[0], curves[1]):
        if extrema[0].get(true, 0) * extrema[1].get(predicted, 0) != 1:
            continue
        place = in_order.index(true)
        first = in_order[place - 1] if place > 0 else 0
        last = in_order[place + 1] if place < len(in_order) - 1 else len(curves[0]) - 1
        if first <= predicted <= last:
            found.append(abs(true - predicted))
    return float(np.mean(found)) if found else float("nan")


@checked
def mean_temporal_misalignment(
    preds: Tensor,
    target: Tensor,
    *,
    upper_lip: int,
    lower_lip: int,
    fps: float,
    smoothing: float = 2.0,
    lengths: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Compute MTM, the mean time between corresponding openings and closings of the predicted and the true lips.

    The distance between an upper and a lower lip vertex over time is smoothed, and the two curves are aligned by dynamic time
    warping of their derivatives. Where the path joins an extremum of the true curve with one of the same kind (both a maximum
    or both a minimum) that lies between the neighbouring extrema, the distance in time counts.

    Args:
        preds: (batch, frames, vertices, dims).
        target: The same shape and rate.
        upper_lip: Vertex in the middle of the upper lip; 3531 of FLAME in the published script.
        lower_lip: Vertex in the middle of the lower lip; 3504 of FLAME in the published script.
        fps: Frames per second.
        smoothing: Standard deviation of the Gaussian filter, in frames; 0 for none.
        lengths: (batch,), number of valid frames of each clip; all by default.
        reduction: "none" for (batch,), "mean" or "sum" over the clips with corresponding extrema.

    Returns:
        In milliseconds, without a gradient; lower is better. NaN for a clip without corresponding extrema.

    Raises:
        ShapeError: Shapes differ.
        ArgumentError: A vertex does not exist, or ``fps`` is not above 0.
        MissingExtraError: scipy is not installed.

    Example:
        >>> time = torch.arange(100) / 25
        >>> mesh = torch.zeros(1, 100, 2, 3)
        >>> mesh[0, :, 1, 1] = 2 + torch.sin(6 * time)
        >>> mean_temporal_misalignment(mesh.roll(2, dims=1), mesh, upper_lip=0, lower_lip=1, fps=25).round()
        tensor(80.)

    Source: Chae-Yeon et al. 2025, "Perceptually Accurate 3D Talking Head Generation", section 4, and its evaluation script.
    """
    _check_meshes(preds, target, min_frames=2)
    check_positive("fps", fps)
    check_positive("smoothing", smoothing, allow_zero=True)
    upper, lower = (
        int(_index(name, [value], target)[0]) for name, value in (("upper_lip", upper_lip), ("lower_lip", lower_lip))
    )
    if lengths is not None:
        lengths = check_lengths(lengths, target)
    frames = [target.shape[1]] * target.shape[0] if lengths is None else lengths.tolist()
    openings = [
        torch.linalg.vector_norm((mesh[:, :, upper] - mesh[:, :, lower]).double(), dim=-1).detach().cpu().numpy()
        for mesh in (preds, target)
    ]
    each = [_misalignment(openings[0][n, :count], openings[1][n, :count], smoothing) for n, count in enumerate(frames)]
    milliseconds = torch.tensor(each, device=target.device, dtype=target.dtype) * (1000 / fps)
    if reduction == "none":
        return milliseconds
    known = milliseconds[~milliseconds.isnan()]
    return reduce(known, reduction)
