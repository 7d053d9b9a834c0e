"""Augmentation of training crops, on batches of landmarks and of precomputed audio features.

Augmentation is cheap because the features are in decibels: a gain or an equaliser is an offset, and a change of tempo moves
frames in time without a change of pitch. Tempo, equaliser and noise keep coarse levels from memorising a small training set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync._checks import check_fields
from avsync.audio.features import MFCC, LogMel
from avsync.corpus.banks.interference import add_interference
from avsync.errors import ArgumentError, ConfigError
from avsync.landmarks.augmentation import augment as augment_landmarks
from avsync.landmarks.geometry import face_height
from avsync.landmarks.tracking_faults import track_roughly
from avsync.pyramid import FPS

_EQUALISER_POINTS = 6  # about 1.5 octaves per point: the curve models rooms and microphones, not single formants


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Settings of the augmentation of training crops; see :func:`avsync.landmarks.augmentation.augment`.

    The displacement that a syncer receives is independent of position and size, so only the flip and the rotation change its
    input. Scale and translation matter to models that receive positions, such as the generator.

    Attributes:
        scale: Smallest and largest factor on the size of the face.
        translation: Largest shift in x and in y, in face heights.
        rotation: Largest angle in either direction, in radians.
        flip_probability: Share of mirrored crops; needs the 68-point layout when above 0.
        shear: Standard deviation of each entry of a random matrix that is added to the identity matrix, one per crop. It
            changes the proportions of the face and the head pose.
        sway: Like ``shear``, but the matrix oscillates at 0.2 to 0.8 Hz, as head turns do. A model can then not memorise the
            speech of a crop by the appearance of the face in one frame.
        identity: Standard deviation of an offset of each point, constant over the crop, in face heights.
        jitter: Standard deviation of an offset of each point in each frame, similar to detector noise, in face heights.
        gain_db: Smallest and largest gain of the audio, in decibels.
        tempo: Smallest and largest playback speed of face and audio together; drawn log-uniformly.
        equaliser_db: Standard deviation of a smooth random curve over the mel bands, one per crop, in decibels.
        noise_db: Standard deviation of the noise on each feature, in decibels.
        interference_share: Share of the crops with background noise or other voices in the audio; needs log-mel features. See
            :func:`avsync.corpus.banks.interference.add_interference`.
        snr_db: Smallest and largest signal-to-noise ratio of these crops, in decibels.
        smooth_share: Share of the crops whose tracks are smoothed over 3 to 5 frames. See
            :func:`avsync.landmarks.tracking_faults.track_roughly`, also for ``repeat_share`` and ``tremble_share``.
        repeat_share: Share of the crops with repeated frames.
        tremble_share: Share of the crops with a jitter of up to 0.006 face heights on top of ``jitter``.
        enabled: False returns crops unchanged.

    Raises:
        ConfigError: A range is empty or out of bounds.

    Example:
        >>> AugmentConfig(flip_probability=0.0).gain_db
        (-6.0, 6.0)

    Source: scale, translation, flip and gain are from the paper's code; the rest is ours, and so are all ranges except that of
    the scale.
    """

    scale: tuple[float, float] = (0.9, 1.1)
    translation: float = 0.05
    rotation: float = math.radians(5.0)
    flip_probability: float = 0.5
    shear: float = 0.0
    sway: float = 0.0
    identity: float = 0.0
    jitter: float = 0.0
    gain_db: tuple[float, float] = (-6.0, 6.0)
    tempo: tuple[float, float] = (1.0, 1.0)
    equaliser_db: float = 0.0
    noise_db: float = 0.0
    interference_share: float = 0.0
    snr_db: tuple[float, float] = (0.0, 20.0)
    smooth_share: float = 0.0
    repeat_share: float = 0.0
    tremble_share: float = 0.0
    enabled: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_fields(self)
        ranges = (
            ("scale", self.scale, 0.0),
            ("tempo", self.tempo, 0.0),
            ("gain_db", self.gain_db, -math.inf),
            ("snr_db", self.snr_db, -math.inf),
        )
        for name, (low, high), bound in ranges:
            if not bound < low <= high < math.inf:
                raise ConfigError(f"`{name}`: expected (smallest, largest), got {(low, high)!r}")
        for name, value, limit in (
            ("translation", self.translation, math.inf),
            ("rotation", self.rotation, math.inf),
            ("shear", self.shear, math.inf),
            ("sway", self.sway, math.inf),
            ("identity", self.identity, math.inf),
            ("jitter", self.jitter, math.inf),
            ("equaliser_db", self.equaliser_db, math.inf),
            ("noise_db", self.noise_db, math.inf),
            ("flip_probability", self.flip_probability, 1.0),
            ("interference_share", self.interference_share, 1.0),
            ("smooth_share", self.smooth_share, 1.0),
            ("repeat_share", self.repeat_share, 1.0),
            ("tremble_share", self.tremble_share, 1.0),
        ):
            if not 0 <= value <= limit:
                raise ConfigError(f"`{name}`: expected a number from 0 to {limit:g}, got {value!r}")


@runtime_checkable
class DecibelFeatures(Protocol):
    """Features in decibels, where a filter on the audio is an offset, such as :class:`avsync.audio.features.LogMel`."""

    n_mels: int

    def filter_offset(self, db: Tensor) -> Tensor:
        """Convert filter gains of ``db`` decibels per mel band to an offset of the features: (..., n_mels) to (..., coeffs)."""
        ...


def random_tempo(batch_size: int, config: AugmentConfig, generator: torch.Generator | None = None) -> Tensor:
    """Draw a log-uniform speed from ``config.tempo`` for each crop, (batch,)."""
    low, high = math.log(config.tempo[0]), math.log(config.tempo[1])
    device = torch.device("cpu") if generator is None else generator.device
    return (low + (high - low) * torch.rand(batch_size, generator=generator, device=device)).exp().cpu()


def interpolate_rows(rows: Tensor, begin: Tensor, tempo: Tensor, count: int, end: Tensor) -> Tensor:
    """Read rows at another speed, with linear interpolation between neighbouring rows.

    Args:
        rows: (all rows, ...).
        begin: First row of each crop, (batch,).
        tempo: Rows per step, (batch,).
        count: Number of rows of a crop.
        end: Last row that each crop may read, (batch,).

    Returns:
        (batch, count, ...).

    Example:
        >>> interpolate_rows(torch.arange(9.0), torch.tensor([2]), torch.tensor([1.5]), 4, torch.tensor([8]))
        tensor([[2.0000, 3.5000, 5.0000, 6.5000]])
    """
    # Offsets from `begin` stay small, so float32 keeps their fraction even if a corpus has millions of rows.
    offset = torch.minimum(tempo[:, None] * torch.arange(count), (end - begin)[:, None].to(tempo.dtype))
    whole = offset.floor()
    lower = begin[:, None] + whole.long()
    upper = torch.minimum(lower + 1, end[:, None])
    share = (offset - whole).to(rows).reshape(*offset.shape, *[1] * (rows.ndim - 1))
    return torch.lerp(rows[lower.to(rows.device)], rows[upper.to(rows.device)], share)


def vary_landmarks(landmarks: Tensor, config: AugmentConfig, generator: torch.Generator | None = None) -> Tensor:
    """Apply a random similarity, a flip, a deformation and tracking faults to each crop (batch, frames, points, dims)."""
    views = landmarks
    # Motion without a plane, such as blendshapes, has none of these.
    if config.scale != (1.0, 1.0) or config.translation or config.rotation or config.flip_probability:
        views = augment_landmarks(
            landmarks,
            scale=config.scale,
            translation=config.translation,
            rotation=config.rotation,
            flip_probability=config.flip_probability,
            generator=generator,
        )
    faces = deform(views, config, generator)
    if not (config.tremble_share or config.repeat_share or config.smooth_share):
        return faces
    return track_roughly(
        faces,
        jitter_share=config.tremble_share,
        repeat_share=config.repeat_share,
        smooth_share=config.smooth_share,
        generator=generator,
    )


def deform(landmarks: Tensor, config: AugmentConfig, generator: torch.Generator | None = None) -> Tensor:
    """Change face shapes and head poses by ``shear``, ``sway``, ``identity`` and ``jitter`` of :class:`AugmentConfig`.

    Args:
        landmarks: (batch, frames, points, dims), at least 2 dims, 25 frames per second; only the first two dims change.
        config: Strength of each change.
        generator: Random generator, on any device; the default generator of torch if None.

    Returns:
        (batch, frames, points, dims).

    Example:
        >>> faces = torch.rand(2, 5, 68, 2)
        >>> torch.equal(deform(faces, AugmentConfig()), faces)
        True

    Source: ours.
    """
    if not (config.shear or config.sway or config.identity or config.jitter):
        return landmarks
    device = landmarks.device if generator is None else generator.device
    batch, frames, points, dims = landmarks.shape
    plane = landmarks[..., :2]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(landmarks)

    if config.shear or config.sway:
        hertz, phase = torch.rand((2, batch, 1, 2, 2), generator=generator, device=device).to(landmarks)
        seconds = torch.arange(frames, device=landmarks.device)[:, None, None] / FPS
        wave = torch.sin(2 * math.pi * ((0.2 + 0.6 * hertz) * seconds + phase))
        matrix = config.shear * normal(batch, 1, 2, 2) + config.sway * math.sqrt(2.0) * wave
        centre = plane.mean(dim=(1, 2), keepdim=True)
        plane = plane + (plane - centre) @ matrix.transpose(2, 3)
    if config.identity or config.jitter:
        height = face_height(landmarks, "mean")[:, None, None, None]
        offset = config.identity * normal(batch, 1, points, 2)
        if config.jitter:
            offset = offset + config.jitter * normal(batch, frames, points, 2)
        plane = plane + height * offset
    return plane if dims == 2 else torch.cat([plane, landmarks[..., 2:]], dim=-1)


def vary_audio(audio: Tensor, features: nn.Module, config: AugmentConfig, generator: torch.Generator | None = None) -> Tensor:
    """Apply gain, equaliser and noise to features in decibels, then interference to log-mel energies.

    Args:
        audio: (batch, audio_frames, coeffs).
        features: The module that computed ``audio``; its ``filter_offset`` converts filter gains to an offset of the features,
            as :meth:`avsync.audio.features.LogMel.filter_offset` does.
        config: Strength of each change.
        generator: Random generator; the default generator of torch if None.

    Returns:
        (batch, audio_frames, coeffs).

    Raises:
        ArgumentError: ``config`` has a gain or an equaliser and ``features`` has no ``filter_offset``, or ``config`` has
            interference and ``features`` does not return log-mel energies.
    """
    device = audio.device if generator is None else generator.device
    low, high = config.gain_db
    if (low, high) != (0, 0) or config.equaliser_db:
        if not isinstance(features, DecibelFeatures):
            raise ArgumentError(
                "`augment`: expected gain_db = (0, 0) and equaliser_db = 0, as the features have no filter_offset, got"
                f" {(low, high)!r} and {config.equaliser_db!r}"
            )
        batch = audio.shape[0]
        gain = low + (high - low) * torch.rand(batch, 1, generator=generator, device=device)
        knots = config.equaliser_db * torch.randn(batch, 1, _EQUALISER_POINTS, generator=generator, device=device)
        curve = F.interpolate(knots, size=features.n_mels, mode="linear", align_corners=True)[:, 0]
        audio = audio + features.filter_offset((gain + curve).to(audio))[:, None]
    if config.noise_db:
        audio = audio + config.noise_db * torch.randn(audio.shape, generator=generator, device=device).to(audio)
    if config.interference_share:
        if not isinstance(features, LogMel) or isinstance(features, MFCC):
            raise ArgumentError(
                "`augment`: expected interference_share = 0, as only the powers of log-mel features can be added, got"
                f" {config.interference_share!r} with {type(features).__name__}"
            )
        audio = add_interference(audio, share=config.interference_share, snr_db=config.snr_db, generator=generator)
    return audio
