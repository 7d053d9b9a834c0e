"""Audio pyramid of the generator: audio feature maps at 25, 12.5, 6.25 and 3.125 Hz, one per branch.

The audio pyramid is the bottom-up path of a feature pyramid network (paper, section 3.2). Frame j of map i is at the time of
motion frame 2^i j. Linear interpolation brings the coarse maps back to the motion rate; a causal pyramid repeats their frames
instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync._checks import (
    at_least_float32,
    check_floating,
    check_positive,
    check_same_device,
    check_shape,
    checked,
    describe_shape,
)
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.pyramid import AUDIO_FRAMES_PER_FRAME, level_length


@checked
def mirror_audio(audio: Tensor, warm_up: int) -> Tensor:
    """Prepend the mirrored beginning of the audio, as the audio of ``warm_up`` repetitions of one face.

    Audio frame -k is a copy of frame k. A clip shorter than the warm-up repeats its last frame before the mirrored part.

    Args:
        audio: (batch, 4 * frames, coeffs).
        warm_up: Number of motion frames to prepend.

    Returns:
        (batch, 4 * (warm_up + frames), coeffs).

    Raises:
        ShapeError: The rank is wrong.
        ClipTooShortError: There is no audio frame.

    Example:
        >>> mirror_audio(torch.arange(8.0).reshape(1, 8, 1), 1).flatten().tolist()
        [4.0, 3.0, 2.0, 1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]

    Source: the paper's code.
    """
    check_shape("audio", audio, "batch audio_frames coeffs")
    if audio.shape[1] == 0:
        raise ClipTooShortError(
            f"`audio`: expected at least {AUDIO_FRAMES_PER_FRAME} audio frames, got {describe_shape(audio)}"
        )
    index = torch.arange(-AUDIO_FRAMES_PER_FRAME * warm_up, audio.shape[1], device=audio.device)
    return audio.index_select(1, index.abs().clamp_max(audio.shape[1] - 1))


class StridedConvNeXtBlock(nn.Module):
    """ConvNeXt-1D block that halves the rate: depthwise convolution, LayerNorm, pointwise x4, GELU, pointwise, plus a shortcut.

    :meth:`valid` pads nothing; the padding is an attribute, so that whole clips and streams use the same code. Output j of a
    padded clip is centred on input 2j. Output j of a causal block depends on input 2j and earlier inputs; in the stem it also
    depends on input 2j + 1, which is the second half of the same motion frame.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps of the depthwise convolution, odd.
        expansion: Hidden channels, as a multiple of ``in_channels``.
        causal: Use no input after the frame itself.
        both_halves: Let a causal block depend on both inputs 2j and 2j + 1; the input must then have an even length.

    Raises:
        ArgumentError: The kernel size is even, or a size is not positive.

    Example:
        >>> block = StridedConvNeXtBlock(in_channels=3, out_channels=8, kernel_size=7)
        >>> block(torch.zeros(2, 9, 3)).shape
        torch.Size([2, 5, 8])

    Source: paper, section 3.2; the block from the paper's code.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 7,
        expansion: int = 4,
        causal: bool = False,
        both_halves: bool = False,
    ) -> None:
        super().__init__()
        for name, size in (("in_channels", in_channels), ("out_channels", out_channels), ("expansion", expansion)):
            check_positive(name, size)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ArgumentError(f"`kernel_size`: expected an odd number above 0, got {kernel_size}")
        self.kernel_size = kernel_size
        # The shortcut uses input 2j, so the padded window must contain this input: a kernel of 1 sees only input 2j.
        reach = kernel_size // 2
        ahead = min(1, reach) if both_halves else 0
        self.padding = (kernel_size - 1 - ahead, 0) if causal else (reach, reach)
        self.depthwise = nn.Conv1d(in_channels, in_channels, kernel_size, stride=2, groups=in_channels)
        self.norm = nn.LayerNorm(in_channels)
        self.expand = nn.Linear(in_channels, expansion * in_channels)
        self.project = nn.Linear(expansion * in_channels, out_channels)
        self.shortcut = nn.Linear(in_channels, out_channels, bias=False)

    def valid(self, x: Tensor) -> Tensor:
        """Apply the block to an input that already contains the padding.

        Args:
            x: (batch, frames, in_channels), at least ``kernel_size`` frames.

        Returns:
            (batch, (frames - kernel_size) // 2 + 1, out_channels).
        """
        convolved = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        left = self.padding[0]
        kept = x[:, left : left + 2 * convolved.shape[1] - 1 : 2]
        return self.shortcut(kept) + self.project(F.gelu(self.expand(self.norm(convolved))))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block with its padding: (batch, frames, in_channels) -> (batch, ceil(frames / 2), out_channels)."""
        return self.valid(F.pad(x, (0, 0, *self.padding)))


def upsample_maps(maps: Sequence[Tensor], *, hold: bool = False) -> Tensor:
    """Upsample maps at halved rates to the length of the first map: frame j of map i is at frame 2^i j.

    Args:
        maps: One (batch, ceil(frames / 2^i), channels) for each i = 0, 1, ...
        hold: Repeat each frame until the next one instead of interpolating linearly. After a map's last frame, that frame is
            repeated in both cases.

    Returns:
        (levels, batch, frames, channels).

    Raises:
        ShapeError: The length of a map does not match its level.

    Example:
        >>> fine, coarse = torch.zeros(1, 4, 1), torch.tensor([0.0, 2.0]).reshape(1, 2, 1)
        >>> upsample_maps([fine, coarse])[1].flatten().tolist()
        [0.0, 1.0, 2.0, 2.0]

    Source: paper, section 3.2 (maps 2-4 are interpolated back to the length of the finest map).
    """
    frames = maps[0].shape[1]
    time = torch.arange(frames, device=maps[0].device)
    result = [maps[0]]
    for level, coarse in enumerate(maps[1:], start=1):
        length = level_length(frames, level)
        if coarse.shape[1] != length:
            raise ShapeError(f"`maps[{level}]`: expected {length} frames for {frames} at level 0, got {describe_shape(coarse)}")
        # Expanded instead of indexed, because the gradient of indexing is an atomic sum, which differs between runs.
        left = _repeat(coarse, 2**level)[:, :frames]
        if hold:
            result.append(left)
            continue
        right = _repeat(torch.cat([coarse[:, 1:], coarse[:, -1:]], dim=1), 2**level)[:, :frames]
        fraction = (time % 2**level).to(coarse.dtype) / 2**level
        result.append(torch.lerp(left, right, fraction[:, None].expand(frames, 1)))
    return torch.stack(result)


def _repeat(x: Tensor, times: int) -> Tensor:
    """Repeat every frame of (batch, frames, channels) ``times`` times."""
    return x[:, :, None].expand(-1, -1, times, -1).flatten(1, 2)


class AudioPyramid(nn.Module):
    """Audio encoder with one feature map per branch, all at the motion rate.

    A pointwise layer widens the standardised features, two blocks of stride 2 lead from 100 Hz to the motion rate (map 0), and
    each further block halves the rate once more (maps 1, 2, ...). Vector t of every map belongs to motion frame t.

    Args:
        audio_features: Coefficients per audio frame.
        channels: Channels of every map; the stem begins with a quarter of them.
        levels: Number of maps.
        stem_kernel: Taps of the two blocks of the stem, odd.
        kernel_size: Taps of the further blocks, odd.
        causal: Pad only on the left and repeat the frames of the coarse maps, so that vector t uses no audio frame after 4t +
            3.

    Raises:
        ArgumentError: The kernel size is even, or a size is not positive.

    Example:
        >>> pyramid = AudioPyramid(audio_features=26, channels=8, levels=4)
        >>> pyramid(torch.zeros(2, 4 * 10, 26)).shape, pyramid.look_ahead
        (torch.Size([4, 2, 10, 8]), 29)

    Source: paper, section 3.2; kernels and rates from the paper's code; widths and the causal form are ours.
    """

    audio_mean: Tensor
    audio_std: Tensor

    @checked
    def __init__(
        self,
        *,
        audio_features: int = 26,
        channels: int = 256,
        levels: int = 4,
        stem_kernel: int = 5,
        kernel_size: int = 7,
        causal: bool = False,
    ) -> None:
        super().__init__()
        check_positive("audio_features", audio_features)
        check_positive("channels", channels)
        check_positive("levels", levels)
        self.causal = causal
        self.register_buffer("audio_mean", torch.zeros(audio_features))
        self.register_buffer("audio_std", torch.ones(audio_features))
        # At least a few channels, because a LayerNorm over one channel returns zeros.
        widths = (max(channels // 4, min(channels, 8)), max(channels // 2, min(channels, 8)), channels)
        self.embed = nn.Linear(audio_features, widths[0])
        self.stem = nn.ModuleList(
            StridedConvNeXtBlock(
                in_channels=narrow, out_channels=wide, kernel_size=stem_kernel, causal=causal, both_halves=True
            )
            for narrow, wide in pairwise(widths)
        )
        self.coarser = nn.ModuleList(
            StridedConvNeXtBlock(in_channels=channels, out_channels=channels, kernel_size=kernel_size, causal=causal)
            for _ in range(levels - 1)
        )

    @property
    def levels(self) -> int:
        """Number of maps."""
        return len(self.coarser) + 1

    @property
    def blocks(self) -> list[StridedConvNeXtBlock]:
        """Blocks in the order of the audio path: two of the stem, then one per coarser map."""
        return [*self.stem, *self.coarser]

    @property
    def look_ahead(self) -> int:
        """Number of motion frames of audio after frame t on which the vector of frame t depends.

        Block n (from 0) has inputs 2^n audio frames apart and sees r inputs ahead of its centre. The vector of frame t of map i
        interpolates between the map's frames around t, the later of which is up to 2^i - 1 motion frames ahead. The coarsest
        map looks farthest ahead: 29 frames, 1.16 s, with the paper's kernels and four maps.
        """
        if self.causal:
            return 0
        reach = sum(2**n * (block.kernel_size // 2) for n, block in enumerate(self.blocks))
        reach += AUDIO_FRAMES_PER_FRAME * (2 ** (self.levels - 1) - 1)
        return reach // AUDIO_FRAMES_PER_FRAME

    @checked
    def set_audio_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set mean and standard deviation of the coefficients, which standardise the input and are saved with the weights.

        Args:
            mean: (coeffs,).
            std: (coeffs,), above 0.

        Raises:
            ShapeError: There is not one number per coefficient.
            ArgumentError: A mean is not finite, or a deviation is not positive and finite.
        """
        coeffs = self.audio_mean.shape[0]
        check_shape("mean", mean, "coeffs", coeffs=coeffs)
        check_shape("std", std, "coeffs", coeffs=coeffs)
        if not bool(torch.all((std > 0) & torch.isfinite(std))) or not bool(torch.all(torch.isfinite(mean))):
            raise ArgumentError("`mean`, `std`: expected finite numbers, and deviations above 0")
        self.audio_mean.copy_(mean)
        self.audio_std.copy_(std)

    def embed_audio(self, audio: Tensor) -> Tensor:
        """Standardise and widen audio frames: (batch, audio_frames, coeffs) -> (batch, audio_frames, channels / 4)."""
        check_shape("audio", audio, "batch audio_frames coeffs", coeffs=self.audio_mean.shape[0])
        check_floating("audio", audio)
        check_same_device("audio", audio, self.audio_mean.device, "the model")
        audio = (at_least_float32(audio) - self.audio_mean) / self.audio_std
        return self.embed(audio.to(self.embed.weight.dtype))

    def maps(self, audio: Tensor) -> list[Tensor]:
        """Compute the maps at their own rates.

        Args:
            audio: (batch, 4 * frames, coeffs), 100 Hz.

        Returns:
            For each level i a tensor (batch, ceil(frames / 2^i), channels).

        Raises:
            ShapeError: The rank or the number of coefficients is wrong, or the number of audio frames is 0 or not a multiple of
                4.
        """
        x = self.embed_audio(audio)
        if audio.shape[1] == 0 or audio.shape[1] % AUDIO_FRAMES_PER_FRAME:
            raise ShapeError(
                f"`audio`: expected (batch, 4 * frames, coeffs) with at least one frame, got {describe_shape(audio)}"
            )
        for block in self.stem:
            x = block(x)
        maps = [x]
        for block in self.coarser:
            maps.append(block(maps[-1]))
        return maps

    def forward(self, audio: Tensor) -> Tensor:
        """Compute all maps at the motion rate.

        Args:
            audio: (batch, 4 * frames, coeffs), 100 Hz; audio frame 4t is at the time of motion frame t.

        Returns:
            (levels, batch, frames, channels).

        Raises:
            ShapeError: See :meth:`maps`.
        """
        return upsample_maps(self.maps(audio), hold=self.causal)
