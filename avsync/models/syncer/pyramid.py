"""Syncers: one pair of encoders per level, and the pyramid of syncers (Figure 1 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from avsync._checks import (
    at_least_float32,
    check_floating,
    check_positive,
    check_same_device,
    check_shape,
    check_some_clips,
    checked_config,
)
from avsync.audio.speech import KINDS
from avsync.errors import ClipTooShortError, ConfigError, ShapeError
from avsync.landmarks.layouts import NUM_POINTS, REGIONS
from avsync.landmarks.lip_leak import LEAK_SHAPE, remove_lip_leak
from avsync.landmarks.motion_features import check_motion, head_frame_weights, motion_channels, motion_features
from avsync.models.syncer.encoders import AudioEncoder, MotionEncoder, SyncerConfig
from avsync.models.syncer.interface import Embeddings, MultiScaleSyncer, SyncerInterface, check_same_duration
from avsync.pretrained import added_later
from avsync.pyramid import (
    check_lengths,
    hold_last_frame,
    level_length,
    level_lengths,
    mean_over_frames,
    shortest_clip,
    temporal_pyramid,
)


class Syncer(nn.Module):
    r"""Pair of encoders of one level; the cosine of their embeddings is :math:`s(a, x) = \cos(e_a(a), e_x(x))` of equation (3).

    Args:
        config: Sizes; see :class:`SyncerConfig`.

    Example:
        >>> syncer = Syncer(config=SyncerConfig(width=8, embed=4))
        >>> motion, audio, _ = syncer(torch.zeros(2, 80, 68, 2), torch.zeros(2, 320, 26))
        >>> motion.shape == audio.shape == (2, 76, 4)
        True

    Source: paper section 3.1.
    """

    def __init__(self, config: SyncerConfig | None = None) -> None:
        super().__init__()
        self.config = checked_config(config, SyncerConfig)
        self.audio_encoder = AudioEncoder(config=self.config)
        self.motion_encoder = MotionEncoder(config=self.config)

    def forward(self, motion: Tensor, audio: Tensor) -> Embeddings:
        """Embed all windows of both modalities.

        Args:
            motion: (batch, frames, points, channels) at the level's rate.
            audio: (batch, audio_stride * frames, audio_features) at the level's rate.

        Returns:
            :class:`Embeddings` of ``frames - window + 1`` windows.

        Raises:
            ShapeError: The shapes are wrong, or motion and audio differ in duration.
            ArgumentError: Motion, audio and the model are not on one device.
        """
        check_shape("motion", motion, "batch frames points channels")
        check_shape("audio", audio, "batch audio_frames audio_features")
        check_same_duration(motion, audio, self.config.audio_stride)
        return Embeddings(self.motion_encoder(motion), self.audio_encoder(audio))


_OF_A_LEVEL = ("audio_context", "width")
"""Fields of :class:`SyncerPyramidConfig` that replace the fields of ``syncer`` level by level."""


@dataclass(frozen=True)
class SyncerPyramidConfig:
    """Sizes of a :class:`SyncerPyramid`: levels that differ only in their audio context and their width.

    Attributes:
        syncer: Sizes of the syncer of every level; ``points`` is the number of points of the region, and ``motion_channels`` the number
            of motion features per point (:func:`avsync.landmarks.motion_features.motion_channels`).
        num_levels: Levels of the pyramid (the paper: 4).
        landmark_dims: Coordinates per landmark, 2 or 3.
        motion: Motion features, a selection of "displacement", "shape", "velocity" and "speed"; see
            :func:`avsync.landmarks.motion_features.motion_features`.
        audio: Audio features: "log-mel" or "mfcc" (:class:`avsync.audio.speech.SpeechFeatures`), with which losses and commands
            accept waveforms, or "custom".
        region: Points that the motion encoder sees: "face", "mouth" or "head"; the last two need the 68-point layout.
        reference: Face from which motion is measured: "first" frame or "mean" face of the clip.
        audio_context: Audio before and after a window that the audio encoders see, per level, (levels,), in motion frames of
            the level (:class:`avsync.models.syncer.encoders.SyncerConfig`); empty for the value of ``syncer`` at every level.
        width: Channels inside the encoders, per level, (levels,); empty for the value of ``syncer`` at every level.
        mean_normalisation: Subtract the mean of the features over the given audio (cepstral mean normalisation). The effects of
            microphone, room and loudness are removed. Short clips should therefore be passed with the audio around them.
        remove_lips: Subtract the part of the head points that the lips predict
            (:func:`avsync.landmarks.lip_leak.remove_lip_leak`), so that a model of the region "head" depends on head motion only.
        motion_scale: Factor on the displacement in face heights, so that its magnitude is about 1.

    Raises:
        ConfigError: A name is unknown, or the sizes do not match the motion features or the region.
    """

    syncer: SyncerConfig = SyncerConfig()
    num_levels: int = 4
    landmark_dims: int = added_later(2)
    audio: str = "custom"
    motion: tuple[str, ...] = ("displacement",)
    region: str = "face"
    reference: str = "first"
    audio_context: tuple[int, ...] = added_later(())
    width: tuple[int, ...] = added_later(())
    mean_normalisation: bool = added_later(False)
    remove_lips: bool = added_later(False)
    motion_scale: float = 8.0

    def __post_init__(self) -> None:
        if not isinstance(self.syncer, SyncerConfig):
            raise ConfigError(f"`syncer`: expected SyncerConfig, got {type(self.syncer).__name__}")
        if self.num_levels < 1:
            raise ConfigError(f"`num_levels`: expected at least 1, got {self.num_levels}")
        if self.reference not in ("first", "mean"):
            raise ConfigError(f"`reference`: expected 'first' or 'mean', got {self.reference!r}")
        for name, choices in (("audio", (*KINDS, "custom")), ("region", tuple(REGIONS))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"`{name}`: expected one of {choices}, got {getattr(self, name)!r}")
        check_motion(self.motion)
        points = len(REGIONS[self.region])
        if (self.region != "face" or "shape" in self.motion) and self.syncer.points != points:
            raise ConfigError(
                f"`syncer.points`: expected {points} with motion {self.motion!r} of the region {self.region!r}, got"
                f" {self.syncer.points}"
            )
        if self.remove_lips and (self.region != "head" or self.landmark_dims != 2):
            raise ConfigError(
                f"`remove_lips`: expected False for the region {self.region!r} and landmarks of {self.landmark_dims} dims, got True;"
                " it needs the region 'head' and 2 dims"
            )
        if self.landmark_dims < 1:
            raise ConfigError(f"`landmark_dims`: expected at least 1, got {self.landmark_dims}")
        wanted = motion_channels(self.motion, self.landmark_dims)
        if self.syncer.motion_channels != wanted:
            raise ConfigError(
                f"`syncer.motion_channels`: expected {wanted} with motion {self.motion} of landmarks of {self.landmark_dims}"
                f" dims, got {self.syncer.motion_channels}"
            )
        for name in _OF_A_LEVEL:
            if len(getattr(self, name)) not in (0, self.num_levels):
                raise ConfigError(f"`{name}`: expected {self.num_levels} numbers or none, got {getattr(self, name)!r}")
        for level in range(self.num_levels):
            self.level_syncer(level)  # raises for impossible sizes
        if not 0 < self.motion_scale < math.inf:
            raise ConfigError(f"`motion_scale`: expected a finite number above 0, got {self.motion_scale}")

    def level_syncer(self, level: int) -> SyncerConfig:
        """Return the sizes of one level's syncer."""
        return replace(self.syncer, **{name: getattr(self, name)[level] for name in _OF_A_LEVEL if getattr(self, name)})

    def finest(self, levels: int) -> SyncerPyramidConfig:
        """Return this config with only its finest levels.

        Args:
            levels: Levels to keep, 1 to ``num_levels``.

        Raises:
            ConfigError: ``levels`` is not between 1 and ``num_levels``.

        Source: ours.
        """
        if not 1 <= levels <= self.num_levels:
            raise ConfigError(f"`levels`: expected 1 to {self.num_levels}, got {levels}")
        return replace(self, num_levels=levels, **{name: getattr(self, name)[:levels] for name in _OF_A_LEVEL})

    @property
    def interface(self) -> SyncerInterface:
        """Inputs and windows of the pyramid."""
        return SyncerInterface(
            num_levels=self.num_levels,
            window=self.syncer.window,
            audio=self.audio,
            audio_features=self.syncer.audio_features,
            audio_stride=self.syncer.audio_stride,
            landmark_points=self.landmark_points,
            landmark_dims=self.landmark_dims,
        )

    @property
    def landmark_points(self) -> int:
        """Points of the landmarks, from which the pyramid selects the points of its region."""
        return self.syncer.points if self.region == "face" else NUM_POINTS


class SyncerPyramid(MultiScaleSyncer):
    """Stack of syncers, one per level, on pyramids of motion and audio (Figure 1 of the paper).

    Args:
        config: Sizes; see :class:`SyncerPyramidConfig`.

    Example:
        >>> pyramid = SyncerPyramid(config=SyncerPyramidConfig(syncer=SyncerConfig(width=8, embed=4)))
        >>> [level.motion.shape[1] for level in pyramid(torch.rand(2, 80, 68, 2), torch.zeros(2, 320, 26))]
        [76, 36, 16, 6]

    Source: paper section 3.1; the motion features are ours.
    """

    config_class = SyncerPyramidConfig
    average_shape: Tensor | None
    lip_leak: Tensor | None
    head_weights: Tensor | None

    def __init__(self, config: SyncerPyramidConfig | None = None) -> None:
        config = checked_config(config, SyncerPyramidConfig)
        super().__init__(interface=config.interface)
        self.config = config
        self.syncers = nn.ModuleList(Syncer(config=self.config.level_syncer(level)) for level in range(self.config.num_levels))
        # Only pyramids that need these buffers have them, so that the files of other pyramids do not contain them.
        shape = torch.zeros(NUM_POINTS, config.landmark_dims) if "shape" in config.motion else None
        self.register_buffer("average_shape", shape)
        leak = torch.zeros(LEAK_SHAPE) if config.remove_lips else None
        self.register_buffer("lip_leak", leak)
        weights = None if shape is None else head_frame_weights(shape.device, shape.dtype)
        self.register_buffer("head_weights", weights, persistent=False)

    def set_audio_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the statistics that standardise the features of every level, both (audio_features,), in the unit of the features.

        With ``mean_normalisation`` the clips have a mean of 0 already, and ``mean`` is ignored.

        Raises:
            ShapeError: There is not one number per feature.
            ArgumentError: A standard deviation is not above 0.
        """
        check_shape("std", std, "audio_features", audio_features=self.config.syncer.audio_features)
        check_positive("std", float(std.min()))
        if self.config.mean_normalisation:
            mean = torch.zeros_like(mean)
        for level in range(self.num_levels):
            self._syncer(level).audio_encoder.set_statistics(mean, std)

    def set_average_shape(self, shape: Tensor) -> None:
        """Set the shape that is subtracted from all shapes, (points=68, dims).

        The shape should be the mean of :func:`avsync.landmarks.motion_features.local_shape` over speakers. A pyramid without the motion
        feature "shape" ignores it.
        """
        if self.average_shape is not None:
            points, dims = self.average_shape.shape
            check_shape("shape", shape, "points dims", points=points, dims=dims)
            self.average_shape.copy_(shape)

    def set_lip_leak(self, weights: Tensor) -> None:
        """Set the weights of :func:`avsync.landmarks.lip_leak.remove_lip_leak`, (5, 40, 68, 2), which are initially zero.

        A pyramid without ``remove_lips`` ignores them.
        """
        if self.lip_leak is not None:
            lags, lips, points, dims = LEAK_SHAPE
            check_shape("weights", weights, "lags lips points dims", lags=lags, lips=lips, points=points, dims=dims)
            self.lip_leak.copy_(weights)

    def embed_motion(
        self,
        landmarks: Tensor,
        *,
        reference: str | Tensor | None = None,
        lengths: Tensor | None = None,
        levels: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Embed all windows of motion; the arguments are those of ``forward``.

        Returns:
            Unnormalised embeddings of each of ``levels``, (batch, ceil(frames / 2**level) - window + 1, embed).
        """
        chosen = self._chosen(levels)
        points, dims = self.landmark_points, self.landmark_dims
        check_shape("landmarks", landmarks, "batch frames points dims", points=points, dims=dims)
        check_some_clips("landmarks", landmarks)
        check_same_device("landmarks", landmarks, self._device, "the model")
        self._check_frames("landmarks", landmarks.shape[1], 1, chosen)
        reference = self.config.reference if reference is None else reference
        if lengths is not None:  # padding may hold NaN, which must not reach any window, not even masked windows
            landmarks = hold_last_frame(landmarks, landmarks.shape[1], lengths)
        if self.lip_leak is not None:
            landmarks = remove_lip_leak(landmarks, self.lip_leak, lengths=lengths)
        motion = motion_features(
            landmarks,
            motion=self.config.motion,
            region=self.config.region,
            average_shape=self.average_shape,
            reference=reference,
            scale=self.config.motion_scale,
            lengths=lengths,
            weights=self.head_weights,
        )
        motions = temporal_pyramid(motion, max(chosen) + 1, lengths=lengths)
        return [self._syncer(level).motion_encoder(motions[level]) for level in chosen]

    def embed_audio(self, audio: Tensor, *, lengths: Tensor | None = None, levels: Sequence[int] | None = None) -> list[Tensor]:
        """Embed all windows of audio; the arguments are those of ``forward``.

        Returns:
            Unnormalised embeddings of each of ``levels``, (batch, ceil(frames / 2**level) - window + 1, embed).
        """
        chosen, stride = self._chosen(levels), self.config.syncer.audio_stride
        check_shape("audio", audio, "batch audio_frames audio_features", audio_features=self.config.syncer.audio_features)
        check_floating("audio", audio)
        check_some_clips("audio", audio)
        check_same_device("audio", audio, self._device, "the model")
        self._check_frames("audio", audio.shape[1], stride, chosen)
        frames = audio.shape[1] // stride
        if audio.shape[1] % stride:
            raise ShapeError(f"`audio`: expected a multiple of {stride} audio frames, got {audio.shape[1]}")
        audio = at_least_float32(audio)
        if self.config.mean_normalisation:
            true = None if lengths is None else check_lengths(stride * lengths, audio)
            audio = audio - mean_over_frames(audio, -2, lengths=true)[:, None]
        audios = temporal_pyramid(audio, max(chosen) + 1, lengths=None if lengths is None else stride * lengths)
        embedded = []
        for level in chosen:
            true = None if lengths is None else level_lengths(stride * lengths, level)
            filled = fill_motion_frames(audios[level], stride * level_length(frames, level), lengths=true)
            embedded.append(self._syncer(level).audio_encoder(filled))
        return embedded

    @property
    def _device(self) -> torch.device:
        return self._syncer(0).audio_encoder.mean.device

    def _syncer(self, level: int) -> Syncer:
        return cast(Syncer, self.syncers[level])

    def _check_frames(self, name: str, frames: int, stride: int, chosen: Sequence[int]) -> None:
        shortest = stride * shortest_clip(self.config.syncer.window, max(chosen))
        if frames < shortest:
            raise ClipTooShortError(f"`{name}`: expected at least {shortest} frames for level {max(chosen)}, got {frames}")


def fill_motion_frames(audio: Tensor, frames: int, *, lengths: Tensor | None = None) -> Tensor:
    """Repeat the last audio frame until there are ``frames`` audio frames.

    Halving rounds up, so that a level with an odd number of motion frames may lack up to ``stride - 1`` audio frames. For example, 81
    motion frames become 41, and their 324 audio frames become 162 instead of 164.

    Args:
        audio: (batch, audio_frames, coeffs).
        frames: Audio frames of the result, at least as many as in ``audio``.
        lengths: True audio frames of each clip, (batch,); the padding after these frames is overwritten, too.

    Returns:
        (batch, frames, coeffs).
    """
    if lengths is not None:
        return hold_last_frame(audio, frames, lengths)
    missing = frames - audio.shape[1]
    return torch.cat([audio, audio[:, -1:].expand(-1, missing, -1)], dim=1) if missing else audio
