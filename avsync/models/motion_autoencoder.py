"""Autoencoder of facial motion; its codes are the features of the Frechet motion distance.

Frechet distances need features of motion. Inception-v3 and I3D, which the paper applies to images of landmarks, are large
downloads. This network receives landmarks and has a size of a few hundred kilobytes. It was pretrained on the training speakers
of our corpus. The decoder reconstructs the displacement of a window and predicts the velocity and acceleration of each part of
the face. Without the second task, the code represents only slow head motion, and ignores trembling points and still lips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
)
from avsync.errors import ClipTooShortError, ConfigError
from avsync.landmarks.geometry import displacement
from avsync.landmarks.layouts import BROWS, EYES, JAW, MOUTH, NOSE, NUM_POINTS
from avsync.pretrained import PretrainedModel

FACE_PARTS: tuple[slice, ...] = (JAW, BROWS, NOSE, EYES, MOUTH)
"""Parts of the face whose quickness the decoder predicts."""

_STRIDES = 3  # number of times that the frame rate is halved before the code
# About the noise of a good detector, in scaled face heights per frame; keeps the logarithm finite for still faces.
_QUICKNESS_FLOOR = 0.003


@dataclass(frozen=True)
class MotionAutoencoderConfig:
    """Sizes of the autoencoder (ours).

    Attributes:
        points: Number of points of a face; the regions need the 68-point layout.
        dims: Coordinates per point.
        window: Frames per window, a multiple of 8.
        hop: Frames from one window to the next.
        width: Channels inside the network.
        features: Size of a window's code.
    """

    points: int = NUM_POINTS
    dims: int = 2
    window: int = 40
    hop: int = 20
    width: int = 96
    features: int = 64

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("dims", "window", "hop", "width", "features"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}`: expected at least 1, got {getattr(self, name)}")
        if self.points != NUM_POINTS:
            raise ConfigError(f"`points`: expected {NUM_POINTS}, got {self.points}")
        if self.window % 2**_STRIDES:
            raise ConfigError(f"`window`: expected a multiple of {2**_STRIDES} frames, got {self.window}")


class Reconstruction(NamedTuple):
    """Decoded motion and quickness of a window."""

    motion: Tensor
    """(batch, window, points, dims), displacement as :func:`avsync.landmarks.geometry.displacement` returns it."""
    quickness: Tensor
    """(batch, 2 * regions), as :func:`quickness` returns it."""


def quickness(motion: Tensor) -> Tensor:
    """Compute the logarithm of the root mean square velocity and acceleration of each part of the face.

    Args:
        motion: Displacement, (batch, frames, 68, dims), at least 3 frames.

    Returns:
        (batch, 10): velocity of jaw, brows, nose, eyes and mouth, then their accelerations; natural logarithms, with a lower
        limit at about the noise of detectors.

    Raises:
        ShapeError: ``motion`` is not (batch, frames, 68, dims).
        ClipTooShortError: ``motion`` has fewer than 3 frames.

    Example:
        >>> still = quickness(torch.zeros(1, 5, 68, 2))
        >>> moving = quickness(torch.linspace(0, 1, 5)[None, :, None, None].expand(1, 5, 68, 2))
        >>> (moving > still).tolist()[0][:5], torch.allclose(moving[:, 5:], still[:, 5:], atol=1e-3)
        ([True, True, True, True, True], True)

    Source: ours.
    """
    check_shape("motion", motion, "batch frames points dims", points=NUM_POINTS)
    if motion.shape[1] < 3:
        raise ClipTooShortError(f"`motion`: expected at least 3 frames, got {motion.shape[1]}")
    check_floating("motion", motion)
    motion = at_least_float32(motion)
    velocity = motion[:, 1:] - motion[:, :-1]
    parts = []
    for signal in (velocity, velocity[:, 1:] - velocity[:, :-1]):
        power = signal.square().sum(-1).mean(1)  # (batch, points)
        parts += [power[:, region].mean(-1) for region in FACE_PARTS]
    return 0.5 * torch.log(torch.stack(parts, dim=1) + _QUICKNESS_FLOOR**2)


class _Shift(nn.Module):
    """LayerNorm, GELU and a temporal convolution that halves (stride 2) or keeps the frame rate."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels_in)
        self.conv = nn.Conv1d(channels_in, channels_out, 5, stride=stride, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.gelu(self.norm(x)).transpose(1, 2)).transpose(1, 2)


class MotionAutoencoder(PretrainedModel):
    """Autoencoder of windows of motion.

    The module accepts landmarks and returns features, so that it can be used as a feature extractor.

    Args:
        config: Sizes; see :class:`MotionAutoencoderConfig`.

    Attributes:
        num_features: Size of a window's code.

    Example:
        >>> MotionAutoencoder()(torch.rand(3, 80, 68, 2)).shape
        torch.Size([9, 64])

    Source: ours; the distance between codes of a motion autoencoder is from Yoon et al. 2020, "Speech gesture generation from
    the trimodal context of text, audio, and speaker identity".
    """

    config_class = MotionAutoencoderConfig

    def __init__(self, config: MotionAutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = checked_config(config, MotionAutoencoderConfig)
        self.num_features = config.features
        width, coarse = config.width, config.window // 2**_STRIDES
        coordinates = config.points * config.dims
        self.stem = nn.Linear(2 * coordinates, width)
        self.down = nn.Sequential(*(_Shift(width, width, stride=2) for _ in range(_STRIDES)))
        # Every feature has unit variance over the training windows. Otherwise the few features that follow the head position
        # would be much larger than the others and would dominate a Frechet distance.
        self.to_code = nn.Sequential(nn.Linear(coarse * width, config.features), nn.BatchNorm1d(config.features, affine=False))
        self.from_code = nn.Linear(config.features, coarse * width)
        self.up = nn.ModuleList(_Shift(width, width, stride=1) for _ in range(_STRIDES))
        self.head = nn.Linear(width, coordinates)
        self.quickness_head = nn.Linear(config.features, 2 * len(FACE_PARTS))
        nn.init.constant_(self.quickness_head.bias, -2.5)  # about the mean of real faces

    @checked
    def windows(self, landmarks: Tensor, *, reference: str | Tensor = "first", hop: int | None = None) -> Tensor:
        """Cut clips into windows of displacement from the clip's reference face.

        Args:
            landmarks: (batch, frames, points, dims), 25 frames per second, any unit.
            reference: "first", "mean", or a face (batch, points, dims); see :func:`avsync.landmarks.geometry.reference_face`.
            hop: Frames from one window to the next, as configured by default. Frames after the last complete window are
                ignored.

        Returns:
            (batch * windows, window, points, dims), clip by clip.

        Raises:
            ShapeError: The points or dims differ from the configuration, or the batch is empty.
            ClipTooShortError: There are fewer frames than in a window.
        """
        config = self.config
        check_shape("landmarks", landmarks, "batch frames points dims", points=config.points, dims=config.dims)
        check_floating("landmarks", landmarks)
        check_some_clips("landmarks", landmarks)
        check_same_device("landmarks", landmarks, self.stem.weight.device, "the model")
        hop = config.hop if hop is None else hop
        check_positive("hop", hop)
        if landmarks.shape[1] < config.window:
            raise ClipTooShortError(f"`landmarks`: expected at least {config.window} frames, got {landmarks.shape[1]}")
        motion = displacement(landmarks, reference=reference)
        return rearrange(
            motion.unfold(1, config.window, hop), "batch windows points dims time -> (batch windows) time points dims"
        )

    @checked
    def encode(self, motion: Tensor) -> Tensor:
        """Encode windows.

        Args:
            motion: Displacement, (batch, window, points, dims), as :meth:`windows` returns it.

        Returns:
            (batch, features).

        Raises:
            ShapeError: The sizes differ from the configuration.
        """
        config = self.config
        check_shape("motion", motion, "batch window points dims", window=config.window, points=config.points, dims=config.dims)
        check_floating("motion", motion)
        flat = at_least_float32(motion).flatten(2)
        velocity = nn.functional.pad(flat[:, 1:] - flat[:, :-1], (0, 0, 1, 0))
        # Velocities are an order of magnitude smaller than displacements, and are scaled to the same size.
        hidden = self.down(self.stem(torch.cat([flat, 10 * velocity], dim=2).to(self.stem.weight.dtype)))
        return self.to_code(hidden.flatten(1))

    @checked
    def decode(self, code: Tensor) -> Reconstruction:
        """Decode codes (batch, features) to motion and quickness."""
        check_shape("code", code, "batch features", features=self.config.features)
        hidden = self.from_code(code.to(self.from_code.weight.dtype)).unflatten(1, (-1, self.config.width))
        for block in self.up:
            hidden = hidden.repeat_interleave(2, dim=1)
            hidden = hidden + block(hidden)
        motion = self.head(hidden).unflatten(2, (self.config.points, self.config.dims))
        return Reconstruction(motion, self.quickness_head(code.to(self.from_code.weight.dtype)))

    def forward(self, landmarks: Tensor) -> Tensor:
        """Compute the features of all windows of clips: (batch, frames, points, dims) to (batch * windows, features)."""
        return self.encode(self.windows(landmarks))
