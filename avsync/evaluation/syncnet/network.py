"""SyncNet, the network of LSE-D, LSE-C and most published lip-sync offsets; avsync does not include its weights.

Both streams have the names and shapes of the published weights, so that the file ``syncnet_v2.model`` can be
loaded. Its authors publish it together with their paper; see the page "Published systems" of the documentation. Published
scores are comparable only with scores computed with the published weights.

Signs and units are those of :mod:`avsync.metrics`: a positive offset means that the audio is early, a frame is 40 ms.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from avsync._checks import check_floating, check_positive, check_shape, checked
from avsync.errors import CheckpointError, ClipTooShortError
from avsync.evaluation.syncnet.audio import NUM_COEFFICIENTS
from avsync.pretrained import PretrainedModel

WINDOW = 5
"""Video frames per window."""
AUDIO_STRIDE = 4
"""Frames of audio features per video frame."""
AUDIO_WINDOW = 20
"""Frames of audio features per window."""
IMAGE_SIZE = 224
"""Height and width of the face crops, in pixels."""
CHANNELS = 512
"""Width between the convolutions and the last layers."""


@dataclass(frozen=True)
class SyncNetConfig:
    """Sizes of the network.

    Attributes:
        embed: Width of the embeddings; 1024 in the published weights.

    Raises:
        ArgumentError: ``embed`` is not positive.

    Example:
        >>> SyncNetConfig().embed
        1024
    """

    embed: int = 1024

    def __post_init__(self) -> None:
        check_positive("embed", self.embed)


def _audio_convolutions() -> nn.Sequential:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

    # The first pooling does nothing; it is there because the published weights number the layers with it.
    return nn.Sequential(
        *block(1, 64),
        nn.MaxPool2d(1),
        *block(64, 192),
        nn.MaxPool2d(3, stride=(1, 2)),
        *block(192, 384),
        *block(384, 256),
        *block(256, 256),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(256, CHANNELS, (5, 4)),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
    )


def _lip_convolutions() -> nn.Sequential:
    def block(inputs: int, outputs: int, kernel: int, **options: Any) -> list[nn.Module]:
        return [nn.Conv3d(inputs, outputs, (1, kernel, kernel), **options), nn.BatchNorm3d(outputs), nn.ReLU()]

    return nn.Sequential(
        nn.Conv3d(3, 96, (WINDOW, 7, 7), stride=(1, 2, 2)),
        nn.BatchNorm3d(96),
        nn.ReLU(),
        nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
        *block(96, 256, 5, stride=(1, 2, 2), padding=(0, 1, 1)),
        nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        *block(256, 256, 3, padding=(0, 1, 1)),
        *block(256, 256, 3, padding=(0, 1, 1)),
        *block(256, 256, 3, padding=(0, 1, 1)),
        nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
        *block(256, CHANNELS, 6),
    )


def _last_layers(embed: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(CHANNELS, CHANNELS), nn.BatchNorm1d(CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, embed))


class SyncNet(PretrainedModel):
    """Both streams of SyncNet.

    The lip stream convolves over time in its first layer only and pads nothing there, so one pass over a track yields the
    embeddings of all its windows, equal to those of each window by itself. The audio stream pads and strides over time, so that
    a window's embedding depends on where the window was cut: its windows are cut out and embedded as a batch.

    Args:
        config: Sizes; see :class:`SyncNetConfig`.

    Example:
        >>> syncnet = SyncNet().eval()
        >>> syncnet.embed_audio(torch.zeros(1, 28, 13)).shape
        torch.Size([1, 3, 1024])

    Source: Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016), as in the published weights of version 2.
    """

    config_class = SyncNetConfig

    @checked
    def __init__(self, config: SyncNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or SyncNetConfig()
        self.netcnnaud = _audio_convolutions()
        self.netfcaud = _last_layers(self.config.embed)
        self.netcnnlip = _lip_convolutions()
        self.netfclip = _last_layers(self.config.embed)

    @checked
    def embed_video(self, video: Tensor) -> Tensor:
        """Embed all windows of 5 frames.

        Args:
            video: Face crops (batch, 3, frames, 224, 224), **blue, green, red** from 0 to 255, 25 frames per second.

        Returns:
            (batch, frames - 4, embed), not normalised, as in the published distances.

        Raises:
            ShapeError: The shape is wrong, or the dtype is an integer.
            ClipTooShortError: Fewer than 5 frames.
        """
        check_shape("video", video, "batch channels frames height width", channels=3, height=IMAGE_SIZE, width=IMAGE_SIZE)
        check_floating("video", video)
        if video.shape[2] < WINDOW:
            raise ClipTooShortError(f"`video`: expected at least {WINDOW} frames, got {video.shape[2]}")
        features = self.netcnnlip(video.to(next(self.netcnnlip.parameters()).dtype)).flatten(2).transpose(1, 2)
        return self.netfclip(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    @checked
    def embed_audio(self, features: Tensor) -> Tensor:
        """Embed all windows of 20 frames of audio, one every 4 frames.

        Args:
            features: (batch, audio_frames, 13), from :func:`avsync.evaluation.syncnet.audio.syncnet_mfcc`.

        Returns:
            (batch, (audio_frames - 20) // 4 + 1, embed), not normalised; window ``i`` starts with video frame ``i``.

        Raises:
            ShapeError: The shape is wrong.
            ClipTooShortError: Fewer than 20 frames.
        """
        check_shape("features", features, "batch audio_frames coeffs", coeffs=NUM_COEFFICIENTS)
        check_floating("features", features)
        if features.shape[1] < AUDIO_WINDOW:
            raise ClipTooShortError(f"`features`: expected at least {AUDIO_WINDOW} audio frames, got {features.shape[1]}")
        windows = features.to(next(self.netcnnaud.parameters()).dtype).unfold(
            1, AUDIO_WINDOW, AUDIO_STRIDE
        )  # (batch, windows, 13, 20)
        hidden = self.netcnnaud(windows.flatten(0, 1)[:, None]).flatten(1)
        return self.netfcaud(hidden).unflatten(0, windows.shape[:2])

    @checked
    def forward(self, video: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Embed video and audio: :meth:`embed_video` and :meth:`embed_audio`."""
        return self.embed_video(video), self.embed_audio(features)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> SyncNet:
        """Read weights in the layout of ``syncnet_v2.model``.

        Args:
            path: A state dictionary that ``torch.save`` wrote, or the same as safetensors. Files with other Python objects
                are rejected, because loading such objects could run code.

        Returns:
            The network in eval mode, on the CPU.

        Raises:
            CheckpointError: The file is missing, damaged, cannot be read safely, holds other weights, or NaN.

        Source: ours.
        """
        model = cls()
        weights = _read_state_dict(Path(path))
        expected = model.state_dict()
        # Weights saved before torch counted batches lack these; in eval mode nothing reads them.
        weights = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")} | weights
        missing, unknown = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
        if missing or unknown:
            raise CheckpointError(
                f"`path`: expected the weights of SyncNet, got {path} with {_some(missing)} missing and {_some(unknown)} "
                "unknown"
            )
        for name, value in weights.items():
            if value.shape != expected[name].shape:
                raise CheckpointError(
                    f"`path`: expected {name} of {tuple(expected[name].shape)}, got {tuple(value.shape)} in {path}"
                )
            if not torch.isfinite(value).all():
                raise CheckpointError(f"`path`: expected finite weights, got NaN or infinity in {name} of {path}")
        model.load_state_dict(weights)
        return model.eval()


def _some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})" if names else "none"


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"`path`: expected a file with SyncNet's weights, found none at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"`path`: expected a state dictionary of tensors, got {path}, which is damaged, or holds other Python objects and "
            "cannot be read safely; where you trust it, load the model it holds and save its `state_dict()`"
        ) from error
    except Exception as error:  # a damaged file can cause almost any exception
        raise CheckpointError(
            f"`path`: expected readable weights, got {path}: {type(error).__name__} {str(error).partition(chr(10))[0]}".rstrip()
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"`path`: expected a state dictionary of tensors, got {type(loaded).__name__} in {path}")
    return {str(name): value for name, value in loaded.items()}
