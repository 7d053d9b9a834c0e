"""The encoders of equation (3): e_a of sound and e_x of motion, all windows of a clip in one pass.

An encoder works on single frames first, then joins the frames of a window with one valid convolution whose taps are exactly the
window, then works on whole windows. Each output therefore sees one window and nothing else, so a pass over a clip equals encoding
every window by itself, at a fraction of the cost: the work on frames, which windows share, is done once.

The audio encoder may see some sound around its window, too (``audio_context``): lips prepare for a sound before it is heard, and a
search for offsets has the sound around every window anyway. Motion never gets more than its window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from avsync._checks import check_floating, check_shape, checked_config
from avsync.errors import ClipTooShortError, ConfigError, ShapeError
from avsync.models.convnext import ConvNeXtBlock1d
from avsync.pretrained import added_later, renamed


@dataclass(frozen=True)
class SyncerConfig:
    """Sizes of one syncer (all "ours" except where the paper fixes them: 26 audio features, windows of 5 and 20 frames).

    Attributes:
        audio_features: Coefficients of an audio frame.
        points: Points of a face.
        motion_channels: Numbers per point that the motion encoder sees: the coordinates of a landmark if it sees displacements
            only, more if it sees several motion features (:func:`avsync.landmarks.motion_features.motion_channels`).
        window: Motion frames of a window.
        audio_context: Motion frames before and behind a window whose sound the audio encoder sees beside the window's own; 0 is the
            paper's. At the ends of a clip its first and last audio frame are held.
        audio_stride: Audio frames for each motion frame.
        width: Channels inside the encoders.
        embed: Size of the embeddings.
        frame_blocks: ConvNeXt blocks that see one frame (40 ms of sound) at a time.
        window_blocks: ConvNeXt blocks that see whole windows.
        dropout: Dropout of the blocks while training.
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
    """The trunk both modalities share: frames (batch, frames, features) -> embeddings (batch, frames - seen + 1, embed).

    ``seen`` is how many frames are joined, the window or more.
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
        hidden = self.frame_blocks(self.stem(frames))
        hidden = nn.functional.gelu(self.join(hidden.transpose(1, 2)).transpose(1, 2))
        return self.head(self.norm(self.window_blocks(hidden)))


class MotionEncoder(nn.Module):
    """Embeds every window of a motion signal: e_x of equation (3).

    Args:
        config: Sizes; see :class:`SyncerConfig`.

    Example:
        >>> MotionEncoder(config=SyncerConfig(width=8, embed=4))(torch.zeros(2, 80, 68, 2)).shape
        torch.Size([2, 76, 4])

    Source: ours; the paper names the blocks (section 4.1) and the window (section 3.1).
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
            Unnormalised embeddings (batch, frames - window + 1, embed); output ``t`` sees frames ``t..t + window - 1``.

        Raises:
            ShapeError: Another number of points or channels than configured.
            ClipTooShortError: Fewer frames than a window.
        """
        config = self.config
        check_shape("motion", motion, "batch frames points channels", points=config.points, channels=config.motion_channels)
        check_floating("motion", motion)
        if motion.shape[1] < config.window:
            raise ClipTooShortError(f"`motion`: expected at least {config.window} frames of the level, got {motion.shape[1]}")
        return self.encoder(rearrange(motion, "batch frames points channels -> batch frames (points channels)"))


class AudioEncoder(nn.Module):
    """Embeds every window of audio features: e_a of equation (3).

    Features are standardised with the buffers ``mean`` and ``std`` (0 and 1 until :meth:`set_statistics`), which are saved with the
    weights.

    Args:
        config: Sizes; see :class:`SyncerConfig`.

    Example:
        >>> AudioEncoder(config=SyncerConfig(width=8, embed=4))(torch.zeros(2, 320, 26)).shape
        torch.Size([2, 76, 4])

    Source: ours; the paper names the blocks (section 4.1) and the window (section 3.1).
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
        """Set what features are standardised with, in the features' own unit: both (audio_features,)."""
        check_shape("mean", mean, "audio_features", audio_features=self.config.audio_features)
        check_shape("std", std, "audio_features", audio_features=self.config.audio_features)
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, audio: Tensor) -> Tensor:
        """Embed all windows.

        Args:
            audio: Features at the level's rate, (batch, audio_stride * frames, audio_features).

        Returns:
            Unnormalised embeddings (batch, frames - window + 1, embed), one for each motion window; output ``t`` sees the sound of
            frames ``t..t + window - 1``, and of ``audio_context`` frames more on both sides.

        Raises:
            ShapeError: Another number of features than configured, or frames that do not fill whole motion frames.
            ClipTooShortError: Fewer frames than a window.
        """
        check_shape("audio", audio, "batch audio_frames audio_features", audio_features=self.config.audio_features)
        check_floating("audio", audio)
        frames = audio.shape[1] // self.config.audio_stride  # not divmod, which does not compile for dynamic shapes
        if audio.shape[1] % self.config.audio_stride:
            raise ShapeError(
                f"`audio`: expected a multiple of {self.config.audio_stride} audio frames ({self.config.audio_stride} a motion"
                f" frame), got {audio.shape[1]}"
            )
        if frames < self.config.window:
            shortest = self.config.window * self.config.audio_stride
            raise ClipTooShortError(f"`audio`: expected at least {shortest} audio frames of the level, got {audio.shape[1]}")
        standardised = _hold_ends((audio - self.mean) / self.std, self.config.audio_stride * self.config.audio_context)
        return self.encoder(
            rearrange(
                standardised, "batch (frames stride) coeffs -> batch frames (stride coeffs)", stride=self.config.audio_stride
            )
        )


def _hold_ends(x: Tensor, count: int) -> Tensor:
    """``x`` (batch, frames, channels) with its first and its last frame ``count`` times more."""
    if count == 0:
        return x
    return torch.cat([x[:, :1].expand(-1, count, -1), x, x[:, -1:].expand(-1, count, -1)], dim=1)
