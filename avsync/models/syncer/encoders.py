"""Encoders of equation (3), e_x of motion and e_a of audio, which embed all windows of a clip in one pass.

An encoder first processes single frames, then joins the frames of a window with one valid convolution as long as the window, and then
processes whole windows. Each output therefore depends on one window only, and one pass over a clip gives the same result as encoding
every window separately. One pass is much cheaper, because the computations on frames, which windows share, are done once.

The audio encoder may also see audio around its window (``audio_context``), because lips move before speech is heard, and because an
offset search has the audio around every window in any case. The motion encoder never sees more than its window.

Landmarks and features of any floating-point dtype are accepted; they are cast to the dtype of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from avsync._checks import at_least_float32, check_floating, check_same_device, check_shape, checked_config
from avsync.errors import ClipTooShortError, ConfigError, ShapeError
from avsync.models.convnext import ConvNeXtBlock1d
from avsync.pretrained import added_later, renamed


@dataclass(frozen=True)
class SyncerConfig:
    """Sizes of one syncer (all "ours" except where the paper fixes them: 26 audio features, windows of 5 and 20 frames).

    Attributes:
        audio_features: Coefficients per audio frame.
        points: Number of points of a face.
        motion_channels: Motion features per point, such as the coordinates of a displacement; see
            :func:`avsync.landmarks.motion_features.motion_channels`.
        window: Motion frames per window.
        audio_context: Motion frames before and after a window whose audio the audio encoder sees in addition to the window's own;
            the paper has 0. At the ends of a clip the first and the last audio frame are repeated.
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
            *(ConvNeXtBlock1d(channels=width, dropout=config.dropout) for _ in range(config.frame_blocks))
        )
        self.join = nn.Conv1d(width, width, seen)
        self.window_blocks = nn.Sequential(
            *(ConvNeXtBlock1d(channels=width, dropout=config.dropout) for _ in range(config.window_blocks))
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
            motion: (batch, frames, points, channels) at the level's rate, as :func:`avsync.landmarks.motion_features.motion_features`
                returns it.

        Returns:
            Unnormalised embeddings (batch, frames - window + 1, embed); output ``t`` depends on frames ``t..t + window - 1``.

        Raises:
            ShapeError: The points or channels differ from the configuration.
            ClipTooShortError: There are fewer frames than in a window.
        """
        config = self.config
        check_shape("motion", motion, "batch frames points channels", points=config.points, channels=config.motion_channels)
        check_floating("motion", motion)
        check_same_device("motion", motion, self.encoder.stem.weight.device, "the encoder")
        if motion.shape[1] < config.window:
            raise ClipTooShortError(f"`motion`: expected at least {config.window} frames of the level, got {motion.shape[1]}")
        return self.encoder(rearrange(motion, "batch frames points channels -> batch frames (points channels)"))


class AudioEncoder(nn.Module):
    """Encoder of all windows of audio features: e_a of equation (3).

    The encoder standardises features with the buffers ``mean`` and ``std`` (0 and 1 until :meth:`set_statistics`), which are saved
    with the weights.

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
            Unnormalised embeddings (batch, frames - window + 1, embed), one per motion window; output ``t`` depends on the audio of
            frames ``t..t + window - 1`` and of ``audio_context`` more frames on both sides.

        Raises:
            ShapeError: The features differ from the configuration, or the audio frames do not fill whole motion frames.
            ClipTooShortError: There are fewer frames than in a window.
        """
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
        standardised = _hold_ends(
            (at_least_float32(audio) - self.mean) / self.std, self.config.audio_stride * self.config.audio_context
        )
        return self.encoder(
            rearrange(
                standardised, "batch (frames stride) coeffs -> batch frames (stride coeffs)", stride=self.config.audio_stride
            )
        )


def _hold_ends(x: Tensor, count: int) -> Tensor:
    """Repeat the first and the last frame of ``x`` (batch, frames, channels) ``count`` more times."""
    if count == 0:
        return x
    return torch.cat([x[:, :1].expand(-1, count, -1), x, x[:, -1:].expand(-1, count, -1)], dim=1)
