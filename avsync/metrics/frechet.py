"""The Frechet distance of two sets of features, streaming and in float64, and the Frechet motion distance without a download.

``|mu1 - mu2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2))`` with unbiased covariances: the squared distance of two Gaussians. Its unit
is the squared unit of the features. Lower is better, and the distance is 0 for equal means and covariances.

**How many clips.** Covariances of ``n`` feature vectors have rank ``n - 1`` at most. With fewer vectors than features the
value is exact for the given vectors, but it overestimates the distance of the underlying distributions. The bias increases as
the number of vectors decreases. A warning reports such sets. Compare their values only between sets of the same size, and
report the distance between two sets of real clips as the baseline.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avsync._checks import check_count, check_floating, check_same_device, check_shape, checked, describe_shape
from avsync.errors import ArgumentError, ShapeError
from avsync.models.motion_autoencoder import MotionAutoencoder

_PRETRAINED = "motion-autoencoder"


class GaussianStatistics(NamedTuple):
    """Count, mean and scatter of a set of features; sufficient for a Frechet distance, in constant memory."""

    vectors: Tensor
    """Number of feature vectors, a scalar float64."""
    mean: Tensor
    """(features,), float64."""
    scatter: Tensor
    """(features, features), float64: sum of the outer products of the deviations from the mean."""

    @property
    def covariance(self) -> Tensor:
        """Return the unbiased covariance, (features, features); NaN for fewer than two vectors."""
        return self.scatter / torch.where(self.vectors > 1, self.vectors - 1, torch.nan)


def _double(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()  # MPS has no float64


def gaussian_statistics(features: Tensor) -> GaussianStatistics:
    """Compute count, mean and scatter of a batch of features.

    Args:
        features: (vectors, features), floating point.

    Returns:
        The statistics, float64, on the device of ``features``.

    Raises:
        ShapeError: Wrong rank, no vector, or not floating point.
        ArgumentError: NaN or infinity among the features.

    Example:
        >>> gaussian_statistics(torch.tensor([[1.0], [3.0]])).covariance
        tensor([[2.]], dtype=torch.float64)

    Source: ours.
    """
    check_shape("features", features, "vectors features")
    check_floating("features", features)
    if 0 in features.shape:
        raise ShapeError(f"`features`: expected at least 1 vector of at least 1 feature, got {describe_shape(features)}")
    x = _double(features.detach())
    bad = int((~x.isfinite()).any(dim=1).sum())
    if bad:
        raise ArgumentError(f"`features`: expected finite numbers, got NaN or infinity in {bad} of {x.shape[0]} vectors")
    mean = x.mean(dim=0)
    deviation = x - mean
    return GaussianStatistics(torch.tensor(float(x.shape[0]), dtype=x.dtype, device=x.device), mean, deviation.mT @ deviation)


def merge_statistics(parts: Iterable[GaussianStatistics]) -> GaussianStatistics:
    """Merge the statistics of several sets into the statistics of their union.

    Args:
        parts: Statistics of batches or processes, at least one. Empty sets (no vector) are allowed.

    Returns:
        The statistics of the union.

    Raises:
        ArgumentError: No part.
        ShapeError: Parts of different numbers of features.

    Example:
        >>> x = torch.rand(10, 3)
        >>> both = merge_statistics([gaussian_statistics(x[:4]), gaussian_statistics(x[4:])])
        >>> torch.allclose(both.scatter, gaussian_statistics(x).scatter)
        True

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """
    merged: GaussianStatistics | None = None
    for part in parts:
        if merged is None:
            merged = part
            continue
        if part.mean.shape != merged.mean.shape:
            raise ShapeError(f"`parts`: expected {merged.mean.shape[0]} features in all, got {part.mean.shape[0]}")
        count = merged.vectors + part.vectors
        share = part.vectors / count.clamp_min(1)
        step = part.mean - merged.mean
        scatter = merged.scatter + part.scatter + torch.outer(step, step) * (merged.vectors * share)
        merged = GaussianStatistics(count, merged.mean + share * step, scatter)
    if merged is None:
        raise ArgumentError("`parts`: expected at least one, got none")
    return merged


def _square_root(covariance: Tensor) -> Tensor:
    """Compute the symmetric square root of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    # Smaller eigenvalues are rounding errors; their roots (about 1e-8 of the largest) would add up over hundreds of features.
    floor = values.abs().amax() * values.shape[0] * torch.finfo(values.dtype).eps
    return vectors * torch.where(values > floor, values, 0.0).sqrt() @ vectors.mT


def gaussian_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """Compute the squared Frechet (2-Wasserstein) distance of two Gaussians.

    ``Tr (S1 S2)^(1/2)`` is the sum of the square roots of the eigenvalues of the symmetric ``S1^(1/2) S2 S1^(1/2)``, which are
    the singular values of ``S1^(1/2) S2^(1/2)``. The singular values are used because no root amplifies rounding errors, and
    singular covariances need no constant on their diagonal.

    Args:
        mean1: (features,).
        covariance1: (features, features), symmetric and positive semidefinite, of any rank.
        mean2: (features,).
        covariance2: (features, features).

    Returns:
        A scalar float64, at least 0.

    Raises:
        ShapeError: Shapes do not fit together.

    Example:
        >>> gaussian_distance(torch.zeros(1), torch.eye(1), torch.ones(1), 4 * torch.eye(1)).item()  # 1 + (2 - 1)^2
        2.0

    Source: paper section 4.2; Heusel et al. 2017, "GANs trained by a two time-scale update rule".
    """
    check_shape("mean1", mean1, "features")
    features = mean1.shape[0]
    check_shape("mean2", mean2, "features", features=features)
    check_shape("covariance1", covariance1, "rows columns", rows=features, columns=features)
    check_shape("covariance2", covariance2, "rows columns", rows=features, columns=features)
    first, second = _double(covariance1), _double(covariance2)
    overlap = torch.linalg.svdvals(_square_root(first) @ _square_root(second)).sum()
    squared = (_double(mean1) - _double(mean2)).square().sum()
    return (squared + first.trace() + second.trace() - 2 * overlap).clamp_min(0)


@checked
def frechet_distance(preds: Tensor | GaussianStatistics, target: Tensor | GaussianStatistics) -> Tensor:
    """Compute the Frechet distance of two sets of features, which may differ in size.

    Args:
        preds: Features (vectors, features), or their statistics.
        target: Features of the real data, or their statistics.

    Returns:
        A scalar float64, at least 0; lower is better. Symmetric in its arguments.

    Raises:
        ArgumentError: Fewer than two vectors in a set, or NaN or infinity among them.
        ShapeError: Wrong rank, or different numbers of features.

    Warns:
        UserWarning: A set has no more vectors than features; see the module docstring.

    Example:
        >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x + 1, x).item(), 4)
        8.0

    Source: paper section 4.2.
    """
    given = {"preds": preds, "target": target}
    statistics = {name: x if isinstance(x, GaussianStatistics) else gaussian_statistics(x) for name, x in given.items()}
    features = statistics["target"].mean.shape[0]
    counts = {name: int(one.vectors) for name, one in statistics.items()}
    for name, one in statistics.items():
        if one.mean.shape[0] != features:
            raise ShapeError(f"`{name}`: expected {features} features, those of `target`, got {one.mean.shape[0]}")
        if counts[name] < 2:
            raise ArgumentError(f"`{name}`: expected at least 2 feature vectors, got {counts[name]}")
    if min(counts.values()) <= features:
        warnings.warn(
            f"`preds`, `target`: {counts['preds']} and {counts['target']} vectors of {features} features; with no more vectors "
            "than features the Frechet distance is biased upwards",
            stacklevel=2,
        )
    one, other = statistics["preds"], statistics["target"]
    return gaussian_distance(one.mean, one.covariance, other.mean, other.covariance)


@torch.no_grad()
def extract_statistics(extractor: nn.Module, clips: Tensor, *, chunk: int = 64) -> GaussianStatistics:
    """Compute the statistics of the features of many clips, in chunks.

    Args:
        extractor: Any module from (batch, ...) to features (vectors, features); one clip may have several vectors. Put the
            module in eval mode first; the function does not change the mode.
        clips: (batch, ...), such as landmarks (batch, frames, points, dims).
        chunk: Clips per forward pass; features are not stored.

    Returns:
        The statistics.

    Raises:
        ShapeError: The extractor returns anything but (vectors, features).
        ArgumentError: No clip, a ``chunk`` below 1, or features that are NaN.

    Example:
        >>> int(extract_statistics(nn.Flatten(), torch.rand(10, 2, 3), chunk=4).vectors)
        10

    Source: ours.
    """
    check_count("chunk", chunk)
    check_floating("clips", clips)
    if clips.ndim == 0 or clips.shape[0] == 0:
        raise ArgumentError(f"`clips`: expected (batch, ...) with at least one clip, got {describe_shape(clips)}")
    return merge_statistics(gaussian_statistics(extractor(part)) for part in clips.split(chunk))


@checked
def frechet_extractor_distance(extractor: nn.Module, preds: Tensor, target: Tensor, *, chunk: int = 64) -> Tensor:
    """Compute the Frechet distance of two sets of clips over the features of any network.

    Args:
        extractor: Any module from (batch, ...) to features (vectors, features), in eval mode. The networks of the paper are in
            :mod:`avsync.metrics.feature_nets`.
        preds: Clips (batch, ...) in the input format of the extractor, such as landmarks (batch, frames, points, dims).
        target: Clips of the real data; the number may differ.
        chunk: Clips per forward pass.

    Returns:
        A scalar float64; lower is better.

    Raises:
        ArgumentError: Fewer than two feature vectors in a set, or NaN among them.
        ShapeError: The extractor returns anything but (vectors, features).

    Warns:
        UserWarning: A set has no more vectors than features.

    Example:
        >>> clips = torch.rand(50, 2, 3, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_extractor_distance(nn.Flatten(), clips + 1, clips).item(), 4)
        6.0

    Source: paper section 4.2.
    """
    return frechet_distance(
        extract_statistics(extractor, preds, chunk=chunk), extract_statistics(extractor, target, chunk=chunk)
    )


@checked
def load_motion_autoencoder(folder: str | Path | None = None) -> MotionAutoencoder:
    """Load the network of the Frechet motion distance.

    Args:
        folder: Folder written by :func:`avsync.pretrained.save_pretrained`; the pretrained autoencoder by default.

    Returns:
        The network in eval mode: landmarks (batch, frames, 68, 2), at least 40 frames, to features (vectors, 64).

    Raises:
        CheckpointError: The folder is damaged or holds something else.

    Example:
        >>> load_motion_autoencoder()(torch.rand(2, 80, 68, 2)).shape
        torch.Size([6, 64])

    Source: ours.
    """
    return MotionAutoencoder.from_pretrained(_PRETRAINED if folder is None else folder)


@checked
def frechet_motion_distance(preds: Tensor, target: Tensor, *, extractor: nn.Module | None = None, chunk: int = 64) -> Tensor:
    """Compute the Frechet distance of facial motion over the features of a pretrained autoencoder, without a download.

    The features describe windows of 40 frames with a hop of 20 frames. The input is the displacement from the first face of a
    clip, so the speaker and the position of the face do not matter. A clip of 40 frames gives one vector, and a clip of 80
    frames gives three. Sets of at least 65 vectors avoid a warning.

    Args:
        preds: Landmarks at 25 frames per second in any unit, (batch, frames, 68, 2), at least 40 frames.
        target: Landmarks of real clips of the same length, any number of clips.
        extractor: Network to use instead of the pretrained one.
        chunk: Clips per forward pass.

    Returns:
        A scalar float64; lower is better. Each feature has unit variance over the clips that the network was trained on.

    Raises:
        ShapeError: Not 68 points of 2 dims, or clips of different lengths.
        ClipTooShortError: Clips of fewer than 40 frames.
        ArgumentError: Fewer than two windows in a set, or NaN among the landmarks.

    Warns:
        UserWarning: A set has no more windows than features.

    Example:
        >>> target = torch.rand(40, 80, 68, 2, generator=torch.Generator().manual_seed(0))
        >>> smaller = target[:, :1] + 0.5 * (target - target[:, :1])
        >>> bool(frechet_motion_distance(target.flip(0), target) < 1e-6 < frechet_motion_distance(smaller, target))
        True

    Source: ours, after the Frechet gesture distance of Yoon et al. 2020.
    """
    check_shape("target", target, "batch frames points dims")
    # Later windows are farther from the first face even in real clips, so clips of other lengths have another distribution.
    check_shape("preds", preds, "batch frames points dims", frames=target.shape[1])
    check_same_device("preds", preds, target.device, "`target`")
    network = load_motion_autoencoder().to(target.device) if extractor is None else extractor
    return frechet_extractor_distance(network, preds, target, chunk=chunk)
