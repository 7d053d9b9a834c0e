"""Syncers: the encoders of equation (3), one pair per level, and the pyramid of syncers (Figure 1 of the paper).

The encoders e_x of motion and e_a of audio embed all windows of a clip in one pass. An encoder first processes single frames,
then joins the frames of a window with one valid convolution as long as the window, and then processes whole windows. Each
output therefore depends on one window only, and one pass over a clip gives the same result as encoding every window separately.
One pass is much cheaper, because the computations on frames, which windows share, are done once.

The audio encoder may also see audio around its window (``audio_context``), because lips move before speech is heard, and
because an offset search has the audio around every window in any case. The motion encoder never sees more than its window.

Landmarks and features of any floating-point dtype are accepted; they are cast to the dtype of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from avsync._checks import (
    at_least_float32,
    check_fields,
    check_floating,
    check_positive,
    check_same_device,
    check_shape,
    check_some_clips,
    checked,
    checked_config,
    is_exporting,
    is_launch_bound,
)
from avsync.audio.features import COEFFICIENTS, FEATURES_PER_SECOND, KINDS
from avsync.errors import ArgumentError, ClipTooShortError, ConfigError, ShapeError
from avsync.landmarks.head_frame import head_frame_weights
from avsync.landmarks.layouts import LANDMARKS68, NUM_POINTS, Layout, find_layout
from avsync.landmarks.lip_leak import LEAK_SHAPE, remove_lip_leak
from avsync.landmarks.motion_features import MOTION_REGIONS, POSE, check_motion, motion_channels, motion_features, region_points
from avsync.models.syncer import together
from avsync.models.syncer.interface import Embeddings, MultiScaleSyncer, SyncerInterface, check_form, check_same_duration
from avsync.pretrained import added_later, renamed
from avsync.pyramid import (
    FPS,
    MOST_LEVELS,
    check_lengths,
    hold_last_frame,
    level_length,
    level_lengths,
    mean_over_frames,
    shortest_clip,
    temporal_pyramid,
)


class PointwiseBlock(nn.Module):
    """ConvNeXt block with kernel 1, for single frames: LayerNorm, pointwise x4, GELU, pointwise, residual.

    With kernel 1 the depthwise convolution of the block is one scale and shift per channel. It is left out, as in the dense
    layers of the paper.

    Args:
        channels: Number of input and output channels.
        expansion: Hidden channels of the two pointwise layers, as a multiple of ``channels``.
        dropout: Dropout probability of the block's branch in training mode.

    Raises:
        ArgumentError: A size is not positive, or ``dropout`` is not a probability below 1.

    Example:
        >>> PointwiseBlock(channels=8)(torch.zeros(2, 7, 8)).shape
        torch.Size([2, 7, 8])

    Source: paper section 4.1.
    """

    def __init__(self, *, channels: int, expansion: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        check_positive("channels", channels)
        check_positive("expansion", expansion)
        if not 0 <= dropout < 1:
            raise ArgumentError(f"`dropout`: expected a probability below 1, got {dropout}")
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, expansion * channels)
        self.contract = nn.Linear(expansion * channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to every frame: (..., channels) -> (..., channels)."""
        return x + self.dropout(self.contract(nn.functional.gelu(self.expand(self.norm(x)))))


@dataclass(frozen=True)
class SyncerConfig:
    """Sizes of one syncer (all "ours" except where the paper fixes them: 26 audio features, windows of 5 and 20 frames).

    Attributes:
        audio_features: Coefficients per audio frame.
        points: Number of points of a face.
        motion_channels: Motion features per point, such as the coordinates of a displacement; see
            :func:`avsync.landmarks.motion_features.motion_channels`.
        window: Motion frames per window.
        audio_context: Motion frames before and after a window whose audio the audio encoder sees in addition to the window's
            own; the paper has 0. At the ends of a clip the first and the last audio frame are repeated.
        audio_stride: Audio frames per motion frame.
        width: Channels inside the encoders.
        embed: Size of the embeddings.
        frame_blocks: ConvNeXt blocks that see one frame (40 ms of audio) at a time.
        window_blocks: ConvNeXt blocks that see whole windows.
        dropout: Dropout of the blocks in training mode.

    Raises:
        ConfigError: A size is out of range.
    """

    audio_features: int = 26
    points: int = 68
    motion_channels: int = renamed(2, formerly="dims")
    window: int = 5
    audio_context: int = added_later(0)
    audio_stride: int = 4
    width: int = 128
    embed: int = 128
    frame_blocks: int = 3
    window_blocks: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("audio_features", "points", "motion_channels", "window", "audio_stride", "width", "embed"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")
        for name in ("audio_context", "frame_blocks", "window_blocks"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}`: expected at least 0, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"`dropout`: expected a probability below 1, got {self.dropout}")


class _WindowEncoder(nn.Module):
    """Trunk of both encoders: frames (batch, frames, features) -> embeddings (batch, frames - seen + 1, embed).

    ``seen`` is the number of frames that the convolution joins: the window and, for audio, its context.
    """

    def __init__(self, *, features: int, seen: int, config: SyncerConfig) -> None:
        super().__init__()
        width = config.width
        self.stem = nn.Linear(features, width)
        self.frame_blocks = nn.Sequential(
            *(PointwiseBlock(channels=width, dropout=config.dropout) for _ in range(config.frame_blocks))
        )
        self.join = nn.Conv1d(width, width, seen)
        self.window_blocks = nn.Sequential(
            *(PointwiseBlock(channels=width, dropout=config.dropout) for _ in range(config.window_blocks))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.embed)

    def forward(self, frames: Tensor) -> Tensor:
        hidden = self.frame_blocks(self.stem(frames.to(self.stem.weight.dtype)))
        hidden = nn.functional.gelu(self.join(hidden.transpose(1, 2)).transpose(1, 2))
        return self.head(self.norm(self.window_blocks(hidden)))


class MotionEncoder(nn.Module):
    """Encoder of all windows of a motion signal: e_x of equation (3).

    Args:
        config: Sizes; see :class:`SyncerConfig`.

    Example:
        >>> MotionEncoder(config=SyncerConfig(width=8, embed=4))(torch.zeros(2, 80, 68, 2)).shape
        torch.Size([2, 76, 4])

    Source: ours, with the blocks of the paper's section 4.1 and the window of its section 3.1.
    """

    def __init__(self, config: SyncerConfig | None = None) -> None:
        super().__init__()
        self.config = config = checked_config(config, SyncerConfig)
        self.encoder = _WindowEncoder(features=config.points * config.motion_channels, seen=config.window, config=config)

    def forward(self, motion: Tensor) -> Tensor:
        """Embed all windows.

        Args:
            motion: (batch, frames, points, channels) at the level's rate, as
                :func:`avsync.landmarks.motion_features.motion_features` returns it.

        Returns:
            Unnormalised embeddings (batch, frames - window + 1, embed); output ``t`` depends on frames ``t..t + window - 1``.

        Raises:
            ShapeError: The points or channels differ from the configuration.
            ClipTooShortError: There are fewer frames than in a window.
        """
        return self.encoder(self.frames_of(motion))

    def _with_context(self, motion: Tensor) -> Tensor:
        """Return motion as it is, because the encoder sees no motion around its windows."""
        return motion

    def frames_of(self, motion: Tensor) -> Tensor:
        """Check motion, and return the input of the encoder's first layer, (batch, frames, features)."""
        config = self.config
        check_shape("motion", motion, "batch frames points channels", points=config.points, channels=config.motion_channels)
        check_floating("motion", motion)
        check_same_device("motion", motion, self.encoder.stem.weight.device, "the encoder")
        if motion.shape[1] < config.window:
            raise ClipTooShortError(f"`motion`: expected at least {config.window} frames of the level, got {motion.shape[1]}")
        return rearrange(motion, "batch frames points channels -> batch frames (points channels)")


class AudioEncoder(nn.Module):
    """Encoder of all windows of audio features: e_a of equation (3).

    The encoder standardises features with the buffers ``mean`` and ``std`` (0 and 1 until :meth:`set_statistics`), which are
    saved with the weights.

    Args:
        config: Sizes; see :class:`SyncerConfig`.

    Example:
        >>> AudioEncoder(config=SyncerConfig(width=8, embed=4))(torch.zeros(2, 320, 26)).shape
        torch.Size([2, 76, 4])

    Source: ours, with the blocks of the paper's section 4.1 and the window of its section 3.1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: SyncerConfig | None = None) -> None:
        super().__init__()
        self.config = config = checked_config(config, SyncerConfig)
        seen = config.window + 2 * config.audio_context
        self.encoder = _WindowEncoder(features=config.audio_features * config.audio_stride, seen=seen, config=config)
        self.register_buffer("mean", torch.zeros(config.audio_features))
        self.register_buffer("std", torch.ones(config.audio_features))

    @checked
    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and the standard deviation of the features, both (audio_features,), in the unit of the features."""
        check_shape("mean", mean, "audio_features", audio_features=self.config.audio_features)
        check_shape("std", std, "audio_features", audio_features=self.config.audio_features)
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, audio: Tensor) -> Tensor:
        """Embed all windows.

        Args:
            audio: Features at the level's rate, (batch, audio_stride * frames, audio_features).

        Returns:
            Unnormalised embeddings (batch, frames - window + 1, embed), one per motion window; output ``t`` depends on the
            audio of frames ``t..t + window - 1`` and of ``audio_context`` more frames on both sides.

        Raises:
            ShapeError: The features differ from the configuration, or the audio frames do not fill whole motion frames.
            ClipTooShortError: There are fewer frames than in a window.
        """
        return self.encoder(self.frames_of(audio))

    def _with_context(self, audio: Tensor) -> Tensor:
        """Repeat the first and the last audio frame as the audio around the clip, (batch, audio_frames, features)."""
        count = self.config.audio_stride * self.config.audio_context
        if count == 0:
            return audio
        return torch.cat([audio[:, :1].expand(-1, count, -1), audio, audio[:, -1:].expand(-1, count, -1)], dim=1)

    def frames_of(self, audio: Tensor) -> Tensor:
        """Check and standardise audio, and return the input of the encoder's first layer, (batch, frames, features)."""
        check_shape("audio", audio, "batch audio_frames audio_features", audio_features=self.config.audio_features)
        check_floating("audio", audio)
        check_same_device("audio", audio, self.encoder.stem.weight.device, "the encoder")
        frames = audio.shape[1] // self.config.audio_stride  # not divmod, which does not compile for dynamic shapes
        if audio.shape[1] % self.config.audio_stride:
            raise ShapeError(
                f"`audio`: expected a multiple of {self.config.audio_stride} audio frames ({self.config.audio_stride} per"
                f" motion frame), got {audio.shape[1]}"
            )
        if frames < self.config.window:
            shortest = self.config.window * self.config.audio_stride
            raise ClipTooShortError(f"`audio`: expected at least {shortest} audio frames of the level, got {audio.shape[1]}")
        standardised = self._with_context((at_least_float32(audio) - self.mean) / self.std)
        return rearrange(
            standardised, "batch (frames stride) coeffs -> batch frames (stride coeffs)", stride=self.config.audio_stride
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
        syncer: Sizes of the syncer of every level; ``points`` is the number of points of the region, and ``motion_channels``
            the number of motion features per point (:func:`avsync.landmarks.motion_features.motion_channels`).
        num_levels: Levels of the pyramid (the paper: 4).
        landmark_dims: Coordinates per landmark, 2 or 3. With a ``layout`` that admits a single number, that number is used.
        layout: Layout of the landmarks (:class:`avsync.landmarks.Layout` or a name of
            :data:`avsync.landmarks.LAYOUTS`), which defines regions and size; ``points`` and ``motion_channels`` of ``syncer``
            then follow from the layout, the region and ``motion``. None for any points, with the regions and the shape of the
            68 points.
        fps: Motion frames per second of the landmarks; the audio features have ``fps * audio_stride`` frames per second.
        motion: Motion features, a selection of "displacement", "shape", "velocity" and "speed"; see
            :func:`avsync.landmarks.motion_features.motion_features`.
        audio: Audio features: a kind of :class:`avsync.audio.features.SpeechFeatures`, with which losses and commands accept
            waveforms, or "custom" for features of your own, which must then be passed instead of waveforms.
        region: Points that the motion encoder sees: "face", "mouth", "head", or "expression" (all points but the lips); all but
            the first need the 68-point layout, or a ``layout`` that has such points. Or "pose", the parameters of
            :func:`avsync.landmarks.head_pose.head_pose`, for the 68-point layout.
        reference: Face from which motion is measured: "first" frame or "mean" face of the clip.
        audio_context: Audio before and after a window that the audio encoders see, per level, (levels,), in motion frames of
            the level (:class:`SyncerConfig`); empty for the value of ``syncer`` at every level.
        width: Channels inside the encoders, per level, (levels,); empty for the value of ``syncer`` at every level.
        mean_normalisation: Subtract the mean of the features over the given audio (cepstral mean normalisation). The effects of
            microphone, room and loudness are removed. Short clips should therefore be passed with the audio around them.
        remove_lips: Subtract the part of the points that the lips predict (:func:`avsync.landmarks.lip_leak.remove_lip_leak`),
            so that a model of the region "head" or "pose" depends on head motion only, and a model of "expression" only on
            motion that the lips do not explain.
        motion_scale: Factor on the displacement in face heights, so that its magnitude is about 1.

    Raises:
        ConfigError: A name is unknown, or the sizes do not match the motion features or the region.
    """

    syncer: SyncerConfig = SyncerConfig()
    num_levels: int = 4
    landmark_dims: int = added_later(2)
    layout: Layout | None = added_later(None)  # noqa: RUF009 - the default is None, which is immutable
    fps: float = added_later(FPS)
    audio: str = "log-mel"
    motion: tuple[str, ...] = ("displacement",)
    region: str = "face"
    reference: str = "first"
    audio_context: tuple[int, ...] = added_later(())
    width: tuple[int, ...] = added_later(())
    mean_normalisation: bool = added_later(False)
    remove_lips: bool = added_later(False)
    motion_scale: float = 8.0

    def __post_init__(self) -> None:
        if self.layout is not None:
            self._find_layout()  # before the check of types, because a name stands for its layout
        check_fields(self)
        check_motion(self.motion)
        self._check_numbers()
        self._check_audio()
        if self.layout is not None:
            self._take_sizes_of_layout(self.layout)
        self._check_points()
        for level in range(self.num_levels):
            self.level_syncer(level)  # raises for impossible sizes

    def _check_numbers(self) -> None:
        """Raise for names that are unknown and for numbers out of their ranges."""
        for name, choices in (("audio", (*KINDS, "custom")), ("region", MOTION_REGIONS), ("reference", ("first", "mean"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"`{name}`: expected one of {choices}, got {getattr(self, name)!r}")
        if not 1 <= self.num_levels <= MOST_LEVELS:
            raise ConfigError(f"`num_levels`: expected 1 to {MOST_LEVELS}, got {self.num_levels}")
        for name in ("fps", "motion_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"`{name}`: expected a finite number above 0, got {getattr(self, name)!r}")
        for name in _OF_A_LEVEL:
            if len(getattr(self, name)) not in (0, self.num_levels):
                raise ConfigError(f"`{name}`: expected {self.num_levels} numbers or none, got {getattr(self, name)!r}")

    def _check_audio(self) -> None:
        """Raise unless coefficients and rate are those of the audio features, whose rate is the same for all kinds."""
        if self.audio == "custom":
            return
        if self.syncer.audio_features != COEFFICIENTS[self.audio]:
            raise ConfigError(
                f"`audio`: expected 'custom' for {self.syncer.audio_features} features per audio frame, got {self.audio!r}, "
                f"which has {COEFFICIENTS[self.audio]}"
            )
        if self.fps * self.syncer.audio_stride != FEATURES_PER_SECOND:
            raise ConfigError(
                f"`fps`: expected {FEATURES_PER_SECOND / self.syncer.audio_stride:g} with {self.audio} features and "
                f"{self.syncer.audio_stride} audio frames per motion frame, got {self.fps:g}"
            )

    def _check_points(self) -> None:
        """Raise unless points, dims and channels are those of the region and of the motion features."""
        if self.landmark_dims < 1:
            raise ConfigError(f"`landmark_dims`: expected at least 1, got {self.landmark_dims}")
        points = region_points(self.region, self.layout or LANDMARKS68)
        if (self.region != "face" or "shape" in self.motion) and self.syncer.points != points:
            raise ConfigError(
                f"`syncer.points`: expected {points} with motion {self.motion!r} of the region {self.region!r}, got "
                f"{self.syncer.points}"
            )
        on_68 = self.layout in (None, LANDMARKS68)
        if self.region == POSE and ("shape" in self.motion or self.landmark_dims < 2 or not on_68):
            raise ConfigError(
                f"`region`: expected motion without shape, and 68 points of 2 dims or more, with {POSE!r}, got "
                f"{self.motion!r} of {self.landmark_points} points with {self.landmark_dims} dims"
            )
        if self.remove_lips and (self.region in ("face", "mouth") or self.landmark_dims != 2 or not on_68):
            raise ConfigError(
                f"`remove_lips`: expected False for the region {self.region!r} and landmarks of {self.landmark_dims} dims, got "
                "True; it needs the region 'head', 'expression' or 'pose' and 2 dims"
            )
        wanted = motion_channels(self.motion, 1 if self.region == POSE else self.landmark_dims)
        if self.syncer.motion_channels != wanted:
            raise ConfigError(
                f"`syncer.motion_channels`: expected {wanted} with motion {self.motion} of landmarks of {self.landmark_dims} "
                f"dims, got {self.syncer.motion_channels}"
            )

    def _find_layout(self) -> None:
        """Set the layout to the one that its name stands for."""
        try:
            layout = find_layout(cast("str | Layout", self.layout))
        except ArgumentError as error:
            raise ConfigError(str(error)) from error
        object.__setattr__(self, "layout", layout)  # the dataclass is frozen

    def _take_sizes_of_layout(self, layout: Layout) -> None:
        """Set the dims, and the points and channels of the syncer, to those of the layout."""
        try:
            points = region_points(self.region, layout)
        except ArgumentError as error:
            raise ConfigError(str(error)) from error
        dims = layout.dims[0] if len(layout.dims) == 1 else self.landmark_dims
        if dims not in layout.dims:
            raise ConfigError(f"`landmark_dims`: expected one of {layout.dims} for the layout {layout.name!r}, got {dims}")
        channels = motion_channels(self.motion, 1 if self.region == POSE else dims)
        syncer = replace(self.syncer, points=points, motion_channels=channels)
        for name, value in (("landmark_dims", dims), ("syncer", syncer)):
            object.__setattr__(self, name, value)  # the dataclass is frozen

    def level_syncer(self, level: int) -> SyncerConfig:
        """Return the sizes of one level's syncer."""
        return replace(self.syncer, **{name: getattr(self, name)[level] for name in _OF_A_LEVEL if getattr(self, name)})

    @checked
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
            layout=self.layout or (LANDMARKS68 if self.landmark_points == NUM_POINTS else None),
            fps=float(self.fps),
        )

    @property
    def landmark_points(self) -> int:
        """Points of the landmarks, from which the pyramid selects the points of its region."""
        if self.layout is not None:
            return self.layout.points
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
        shape = torch.zeros(config.landmark_points, config.landmark_dims) if "shape" in config.motion else None
        self.register_buffer("average_shape", shape)
        leak = torch.zeros(LEAK_SHAPE) if config.remove_lips else None
        self.register_buffer("lip_leak", leak)
        layout = config.layout or LANDMARKS68
        weights = head_frame_weights(shape.device, shape.dtype, layout=layout) if shape is not None and layout.to_68 else None
        self.register_buffer("head_weights", weights, persistent=False)

    @checked
    def set_audio_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the statistics that standardise the features of every level, both (audio_features,), in the unit of the features.

        With ``mean_normalisation`` the clips have a mean of 0 already, and ``mean`` is ignored.

        Raises:
            ShapeError: There is not one number per feature.
            ArgumentError: A standard deviation is not above 0.
        """
        check_shape("std", std, "audio_features", audio_features=self.config.syncer.audio_features)
        check_floating("std", std)
        check_positive("std", float(std.min()))
        if self.config.mean_normalisation:
            mean = torch.zeros_like(mean)
        for level in range(self.num_levels):
            self._syncer(level).audio_encoder.set_statistics(mean, std)

    def set_average_shape(self, shape: Tensor) -> None:
        """Set the shape that is subtracted from all shapes, (points, dims).

        The shape should be the mean of :func:`avsync.landmarks.head_frame.local_shape` over speakers. A pyramid without the
        motion feature "shape" ignores it.
        """
        if self.average_shape is not None:
            points, dims = self.average_shape.shape
            check_shape("shape", shape, "points dims", points=points, dims=dims)
            self.average_shape.copy_(shape)

    @checked
    def set_lip_leak(self, weights: Tensor) -> None:
        """Set the weights of :func:`avsync.landmarks.lip_leak.remove_lip_leak`, (5, 40, 68, 2), which are initially zero.

        A pyramid without ``remove_lips`` ignores them.
        """
        if self.lip_leak is not None:
            lags, lips, points, dims = LEAK_SHAPE
            check_shape("weights", weights, "lags lips points dims", lags=lags, lips=lips, points=points, dims=dims)
            self.lip_leak.copy_(weights)

    @checked
    def embed_motion(
        self,
        landmarks: Tensor,
        *,
        reference: str | Tensor | None = None,
        lengths: Tensor | None = None,
        levels: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Embed all windows of motion, with the arguments of ``forward``.

        Returns:
            Unnormalised embeddings of each of ``levels``, (batch, ceil(frames / 2**level) - window + 1, embed).
        """
        return _embedded([self._motion(landmarks, reference, lengths, self._chosen(levels))])[0]

    def _motion(
        self, landmarks: Tensor, reference: str | Tensor | None, lengths: Tensor | None, chosen: list[int]
    ) -> together.Signal:
        """Return the motion features, with the encoders of the chosen levels."""
        points, dims = self.landmark_points, self.landmark_dims
        check_form(landmarks, points=points, dims=dims)
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
            layout=self.config.layout,
        )
        return together.Signal(
            encoders=[self._syncer(level).motion_encoder for level in chosen],
            values=motion,
            levels_of=partial(_motion_levels, chosen=chosen, lengths=lengths),
            stride=1,
            linear=lengths is None,
        )

    @checked
    def embed_audio(self, audio: Tensor, *, lengths: Tensor | None = None, levels: Sequence[int] | None = None) -> list[Tensor]:
        """Embed all windows of audio, with the arguments of ``forward``.

        Returns:
            Unnormalised embeddings of each of ``levels``, (batch, ceil(frames / 2**level) - window + 1, embed).
        """
        return _embedded([self._audio(audio, lengths, self._chosen(levels))])[0]

    def _audio(self, audio: Tensor, lengths: Tensor | None, chosen: list[int]) -> together.Signal:
        """Return the audio features, with the encoders of the chosen levels."""
        stride = self.config.syncer.audio_stride
        check_shape("audio", audio, "batch audio_frames audio_features", audio_features=self.config.syncer.audio_features)
        check_floating("audio", audio)
        check_some_clips("audio", audio)
        check_same_device("audio", audio, self._device, "the model")
        self._check_frames("audio", audio.shape[1], stride, chosen)
        if audio.shape[1] % stride:
            raise ShapeError(f"`audio`: expected a multiple of {stride} audio frames, got {audio.shape[1]}")
        audio = at_least_float32(audio)
        if self.config.mean_normalisation:
            true = None if lengths is None else check_lengths(stride * lengths, audio)
            audio = audio - mean_over_frames(audio, -2, lengths=true)[:, None]
        return together.Signal(
            encoders=[self._syncer(level).audio_encoder for level in chosen],
            values=audio,
            levels_of=partial(_audio_levels, chosen=chosen, stride=stride, lengths=lengths),
            stride=stride,
            linear=lengths is None,
        )

    def _embed(
        self,
        landmarks: Tensor,
        audio: Tensor,
        reference: str | Tensor | None,
        lengths: Tensor | None,
        levels: Sequence[int] | None,
    ) -> list[list[Tensor]]:
        chosen = self._chosen(levels)
        return _embedded([self._motion(landmarks, reference, lengths, chosen), self._audio(audio, lengths, chosen)])

    @property
    def _device(self) -> torch.device:
        return self._syncer(0).audio_encoder.mean.device

    def _syncer(self, level: int) -> Syncer:
        return cast(Syncer, self.syncers[level])

    def _check_frames(self, name: str, frames: int, stride: int, chosen: Sequence[int]) -> None:
        shortest = stride * shortest_clip(self.config.syncer.window, max(chosen))
        if frames < shortest:
            raise ClipTooShortError(f"`{name}`: expected at least {shortest} frames for level {max(chosen)}, got {frames}")


def _embedded(signals: Sequence[together.Signal]) -> list[list[Tensor]]:
    """Return (batch, windows, embed) of each encoder of each signal."""
    joined = together.embed_joined(signals) if is_launch_bound(signals[0].values) else None
    if joined is not None:
        return joined
    return [[encoder(x) for encoder, x in zip(one.encoders, one.levels_of(one.values), strict=True)] for one in signals]


def _motion_levels(motion: Tensor, *, chosen: Sequence[int], lengths: Tensor | None) -> list[Tensor]:
    """Return the chosen levels of motion features (batch, frames, ...)."""
    motions = temporal_pyramid(motion, max(chosen) + 1, lengths=lengths)
    return [motions[level] for level in chosen]


def _audio_levels(audio: Tensor, *, chosen: Sequence[int], stride: int, lengths: Tensor | None) -> list[Tensor]:
    """Return the chosen levels of audio features (batch, stride * frames, ...), with whole motion frames."""
    frames = audio.shape[1] // stride
    audio_lengths = None if lengths is None else stride * lengths
    audios = temporal_pyramid(audio, max(chosen) + 1, lengths=audio_lengths)
    filled = []
    for level in chosen:
        true = None if audio_lengths is None else level_lengths(audio_lengths, level)
        filled.append(fill_motion_frames(audios[level], stride * level_length(frames, level), lengths=true))
    return filled


def fill_motion_frames(audio: Tensor, frames: int, *, lengths: Tensor | None = None) -> Tensor:
    """Repeat the last audio frame until there are ``frames`` audio frames.

    Halving rounds up, so that a level with an odd number of motion frames may lack up to ``stride - 1`` audio frames. For
    example, 81 motion frames become 41, and their 324 audio frames become 162 instead of 164.

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
    if not is_exporting() and missing == 0:  # an exported program has no branch, because its length is not known
        return audio
    return torch.cat([audio, audio[:, -1:].expand(-1, missing, -1)], dim=1)
