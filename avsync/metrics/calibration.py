"""Calibration of distances: parameters per level that convert distances to probabilities.

The parameters are fitted on labelled clips and stored as JSON.

Two parameters define the posterior over offsets, and four define the odds that the audio of a clip belongs to its motion.
:mod:`avsync.metrics.posterior` uses the parameters and :func:`avsync.metrics.calibration_fit.fit_calibration` fits them.
A calibration is valid only for the pyramid that it was fitted to.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avsync._checks import check_fields, check_shape, checked
from avsync._files import read_json, untrusted, write_json
from avsync.errors import ArgumentError, CheckpointError, ConfigError
from avsync.metrics._median import nan_median
from avsync.metrics.offset import offset_from_distances
from avsync.pretrained import PretrainedModel, config_from_dict, config_to_dict, stored_checksum

FORMAT = 2
"""Version of the file's layout; since 2 with checksums. A reader refuses newer versions."""


@dataclass(frozen=True, kw_only=True)
class LevelCalibration:
    """Calibration of one level.

    Attributes:
        scale: Scale of the posterior (:func:`offset_probabilities`); above 0.
        power: Exponent of the number of windows: 1 for independent windows, less for overlapping windows.
        match_bias: Log odds, at a prior of one half, that audio and motion belong together, if all features are 0.
        match_weights: Weights of the three features of :func:`match_features` in these log odds.
    """

    scale: float
    power: float
    match_bias: float
    match_weights: tuple[float, float, float]

    def __post_init__(self) -> None:
        check_fields(self)
        for name, values in (("scale", (self.scale,)), ("power", (self.power,)), ("match_bias", (self.match_bias,))):
            if not all(math.isfinite(value) for value in values):
                raise ConfigError(f"`{name}`: expected a finite number, got {values[0]!r}")
        if len(self.match_weights) != 3 or not all(math.isfinite(value) for value in self.match_weights):
            raise ConfigError(f"`match_weights`: expected 3 finite numbers, got {self.match_weights!r}")
        if self.scale <= 0:
            raise ConfigError(f"`scale`: expected a number above 0, got {self.scale!r}")


@dataclass(frozen=True)
class Calibration:
    """Calibration of all levels of a pyramid.

    Attributes:
        levels: One :class:`LevelCalibration` per level, the finest first.

    Example:
        >>> level = LevelCalibration(scale=20.0, power=0.5, match_bias=-1.0, match_weights=(0.5, -2.0, 1.0))
        >>> len(Calibration(levels=(level,)).levels)
        1

    Source: ours.
    """

    levels: tuple[LevelCalibration, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.levels:
            raise ConfigError("`levels`: expected at least one level, got none")


@checked
def save_calibration(calibration: Calibration, path: str | os.PathLike[str], *, syncers: PretrainedModel | None = None) -> None:
    """Write a calibration as JSON, atomically, with the checksum of the weights that the calibration was fitted to.

    Args:
        calibration: From :func:`avsync.metrics.calibration_fit.fit_calibration`.
        path: The file to write.
        syncers: Pretrained syncers that the calibration was fitted to; default: the model in the folder of ``path``, if there
            is one.

    Example:
        >>> import tempfile
        >>> level = LevelCalibration(scale=20.0, power=0.5, match_bias=-1.0, match_weights=(0.5, -2.0, 1.0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_calibration(Calibration((level,)), Path(folder, "calibration.json"))
        ...     load_calibration(Path(folder, "calibration.json")) == Calibration((level,))
        True

    Source: ours.
    """
    content = {"format": FORMAT, "weights": _weights_of(syncers, path), "calibration": config_to_dict(calibration)}
    write_json(path, content | {"sha256": _checksum(content)})


@checked
def load_calibration(path: str | os.PathLike[str], *, syncers: PretrainedModel | None = None) -> Calibration:
    """Read a calibration written by :func:`save_calibration`, with strict checks.

    Args:
        path: The file.
        syncers: Pretrained syncers that the calibration must have been fitted to; default: the model in the folder of
            ``path``, if there is one.

    Returns:
        The calibration.

    Raises:
        CheckpointError: The file is missing, damaged, newer than this reader, was fitted to other weights, or has unknown,
            missing or impossible fields.

    Source: ours.
    """
    weights = _weights_of(syncers, path)
    found = read_json(path, error=CheckpointError, message=f"`path`: {path} cannot be read")
    keys = {1: {"format", "calibration"}, FORMAT: {"format", "weights", "calibration", "sha256"}}
    version = found.get("format") if isinstance(found, dict) else None
    if not isinstance(version, int) or set(found) != keys.get(version):
        got = (
            type(found).__name__
            if not isinstance(found, dict)
            else f"format {version!r:.40} with the keys {sorted(found)!r:.200}"
        )
        raise CheckpointError(f"`path`: expected a calibration of format {FORMAT} in {path}, got {got}")
    if version == FORMAT and found.pop("sha256") != _checksum(found):
        raise CheckpointError(f"`path`: {path} is damaged: its content does not have the checksum that it states")
    # Files of format 1 name no weights; they are valid only next to weights of that version, which have no checksum.
    if weights is not None and found.get("weights", None if version == FORMAT else "") not in (weights, None):
        raise CheckpointError(f"`path`: {path} was fitted to other weights than those it is read for; fit it again")
    with untrusted(CheckpointError, f"`path`: {path} holds no calibration"):
        return config_from_dict(Calibration, found["calibration"])


def check_calibrated(calibration: Calibration | None, levels: int) -> None:
    """Raise :class:`avsync.errors.ArgumentError` if a calibration has fewer than ``levels`` levels."""
    if calibration is not None and len(calibration.levels) < levels:
        raise ArgumentError(f"`calibration`: expected {levels} levels, got {len(calibration.levels)}")


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _weights_of(syncers: PretrainedModel | None, path: str | os.PathLike[str]) -> str | None:
    return stored_checksum(Path(path).parent) if syncers is None else syncers.weights_checksum


def offset_probabilities(distances: Tensor, windows: Tensor | float, *, scale: Tensor | float, power: Tensor | float) -> Tensor:
    r"""Compute the posterior over offsets, given that the true offset lies within the search.

    :math:`p_j \propto \exp(-s\, W_j^{q}\, (m_j - \tilde m))` with the mean distance :math:`m_j` of :math:`W_j` windows at
    offset :math:`j`, the median :math:`\tilde m` of the distances, scale :math:`s` and power :math:`q`. Without audio around a
    clip the offsets near the ends of the search have fewer windows, so that their distances count less.

    Args:
        distances: Mean distance at each offset, (batch, offsets); NaN for missing distances, which get probability 0.
        windows: Number of windows in each mean, a number, (batch,), or (batch, offsets); one row stands for all clips.
        scale: Evidence per unit of distance.
        power: Exponent of the number of windows.

    Returns:
        (batch, offsets), each row summing to 1; NaN for a clip without any distance.

    Raises:
        ShapeError: ``distances`` is not (batch, offsets).

    Example:
        >>> offset_probabilities(torch.tensor([[1.0, 0.9, 1.0]]), 4, scale=10.0, power=0.5)
        tensor([[0.1065, 0.7870, 0.1065]])

    Source: ours.
    """
    return offset_evidence(distances, windows, scale=scale, power=power).softmax(1)


def offset_evidence(distances: Tensor, windows: Tensor | float, *, scale: Tensor | float, power: Tensor | float) -> Tensor:
    """Compute the logarithm of :func:`offset_probabilities` up to a constant per clip.

    Args:
        distances, windows, scale, power: As in :func:`offset_probabilities`.

    Returns:
        (batch, offsets); minus infinity at missing distances, NaN for a clip without any distance.

    Example:
        >>> offset_evidence(torch.tensor([[1.0, 0.9, 1.0]]), 4, scale=10.0, power=0.5).softmax(1)
        tensor([[0.1065, 0.7870, 0.1065]])

    Source: ours.
    """
    check_shape("distances", distances, "batch offsets")
    known = ~distances.isnan()
    evidence = (
        -scale * window_counts(windows, distances) ** power * (distances - nan_median(distances)[:, None]).nan_to_num(0.0)
    )
    evidence = evidence.masked_fill(~known, -torch.inf)
    return evidence.masked_fill(~known.any(1, keepdim=True), torch.nan)


def window_counts(windows: Tensor | float, distances: Tensor) -> Tensor:
    """Return the numbers of windows in a shape that broadcasts to the distances, at least 1.

    Args:
        windows: As in :func:`offset_probabilities`.
        distances: (batch, offsets).

    Returns:
        (1 or batch, 1 or offsets).

    Example:
        >>> window_counts(torch.tensor([4, 9]), torch.zeros(2, 3)).shape
        torch.Size([2, 1])

    Source: ours.
    """
    count = torch.as_tensor(windows, dtype=distances.dtype, device=distances.device)
    return (count if count.ndim == 2 else count.reshape(-1, 1)).clamp_min(1)


def probability_near(probabilities: Tensor, best: Tensor) -> Tensor:
    """Compute the total probability of an offset and its two neighbours.

    Args:
        probabilities: (batch, offsets).
        best: Index of the offset, (batch,).

    Returns:
        (batch,).

    Example:
        >>> probability_near(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([0]))
        tensor([0.7500])

    Source: ours.
    """
    around = torch.nn.functional.pad(probabilities, (1, 1)).unfold(1, 3, 1).sum(2)
    return around.gather(1, best[:, None]).squeeze(1).clamp(max=1.0)


def match_features(distances: Tensor, windows: Tensor | float, *, scale: Tensor | float, power: Tensor | float) -> Tensor:
    """Compute three features per clip that separate matching audio from unrelated audio.

    The features are the log odds of the posterior's peak (within one frame), the smallest distance, and the confidence times
    the square root of the number of windows at the best offset. The confidence of unrelated audio decreases with this root.

    Args:
        distances, windows, scale, power: As in :func:`offset_probabilities`.

    Returns:
        (batch, 3).

    Example:
        >>> match_features(torch.tensor([[1.0, 1.0, 0.5, 1.0, 1.0]]), 4, scale=10.0, power=0.5)[0, 1:]
        tensor([0.5000, 1.0000])

    Source: ours.
    """
    found = offset_from_distances(distances)
    best = distances.masked_fill(distances.isnan(), torch.inf).argmin(1)
    near = probability_near(offset_probabilities(distances, windows, scale=scale, power=power), best)
    count = window_counts(windows, distances).expand_as(distances).gather(1, best[:, None]).squeeze(1)
    return torch.stack([near.clamp(1e-4, 1 - 1e-4).logit(), found.distance, found.confidence * count.sqrt()], dim=1)
