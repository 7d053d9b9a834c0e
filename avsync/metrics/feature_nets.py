"""The paper's Frechet distances on drawn landmarks: FID, FVD and t-FID, with networks from local files.

Nothing is downloaded. FID and t-FID need Inception-v3 (:func:`avsync.metrics.inception.load_inception`, torch-fidelity's
file), FVD needs I3D (:func:`load_i3d`, the TorchScript file). Other modules can be used instead, but they do not give the
published distance; :func:`avsync.metrics.frechet.frechet_motion_distance` needs no file at all.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsync._checks import check_count, check_positive, check_shape, checked, describe_shape
from avsync.errors import CheckpointError, ClipTooShortError, ShapeError
from avsync.landmarks.raster import chunk_of, rasterise, temporal_image
from avsync.metrics.frechet import frechet_extractor_distance


class _Drawn(nn.Module):
    """Rasteriser and network: landmarks (batch, frames, 68, dims) to features (vectors, features), in chunks of clips.

    Args:
        network: Network for images with values from 0 to 1; put in eval mode.
        size: Width and height of the images, in pixels.
        frame_size: Width and height of the source image in the unit of the landmarks; None for a square around each clip's
            first face.
        view: Side of the square, in heights of the face.
    """

    def __init__(
        self, network: nn.Module, *, size: int = 224, frame_size: tuple[float, float] | None = None, view: float = 2.5
    ) -> None:
        super().__init__()
        check_count("size", size)
        check_positive("view", view)
        self.network = network.eval()
        self.size, self.frame_size, self.view = size, frame_size, view
        if isinstance(getattr(network, "num_features", None), int):
            self.num_features = network.num_features

    def see(self, images: Tensor) -> Tensor:
        """Return features of drawn clips (batch, frames, 3, size, size)."""
        raise NotImplementedError

    def forward(self, landmarks: Tensor) -> Tensor:
        """Map landmarks (batch, frames, 68, dims) to features (vectors, features)."""
        check_shape("landmarks", landmarks, "batch frames points dims")
        at_once = chunk_of(landmarks.shape[0], landmarks.shape[1], size=self.size)
        parts = []
        for clips in landmarks.split(at_once):
            images = rasterise(clips, size=self.size, frame_size=self.frame_size, view=self.view)
            features = self.see(images)
            if features.ndim != 2:
                raise ShapeError(f"`network`: expected it to return (vectors, features), got {describe_shape(features)}")
            parts.append(features)
        return torch.cat(parts)


class FrameFeatures(_Drawn):
    """Features of every frame, for FID: the network receives (images, 3, size, size).

    Args:
        network: Images to features (images, features), such as :class:`avsync.metrics.inception.InceptionV3`.
        size, frame_size, view: Drawing options; see :func:`avsync.landmarks.raster.rasterise`.

    Example:
        >>> FrameFeatures(nn.Flatten(), size=8)(torch.rand(2, 5, 68, 2)).shape
        torch.Size([10, 192])

    Source: paper section 4.2.
    """

    def see(self, images: Tensor) -> Tensor:
        """Return one vector per frame."""
        return self.network(images.flatten(0, 1))


class SequenceFeatures(_Drawn):
    """Features of whole sequences, for FVD: the network receives (batch, frames, 3, size, size).

    Args:
        network: Sequences to features (batch, features), such as :class:`I3D`.
        size, frame_size, view: Drawing options; see :func:`avsync.landmarks.raster.rasterise`.

    Example:
        >>> SequenceFeatures(nn.Flatten(), size=8)(torch.rand(2, 5, 68, 2)).shape
        torch.Size([2, 960])

    Source: paper section 4.2.
    """

    def see(self, images: Tensor) -> Tensor:
        """Return one vector per clip."""
        return self.network(images)


class TrailFeatures(_Drawn):
    """Features of each clip's weighted mean image, for t-FID: the network receives (batch, 3, size, size).

    Args:
        network: Images to features (batch, features), such as :class:`avsync.metrics.inception.InceptionV3`.
        size, frame_size, view: Drawing options; see :func:`avsync.landmarks.raster.rasterise`.

    Example:
        >>> TrailFeatures(nn.Flatten(), size=8)(torch.rand(2, 5, 68, 2)).shape
        torch.Size([2, 192])

    Source: the authors' code, as :func:`avsync.landmarks.raster.temporal_image`.
    """

    def see(self, images: Tensor) -> Tensor:
        """Return one vector per clip."""
        return self.network(temporal_image(images))


@checked
def frechet_inception_distance(preds: Tensor, target: Tensor, network: nn.Module, *, chunk: int = 64, **drawing: Any) -> Tensor:
    """Compute the FID of drawn landmarks, the realism of single faces.

    Args:
        preds: Landmarks, (batch, frames, 68, dims).
        target: Landmarks of real clips; the numbers of clips and frames may differ.
        network: Inception-v3, or any module from images to features.
        chunk: Clips per forward pass.
        **drawing: ``size``, ``frame_size``, ``view`` of :class:`FrameFeatures`.

    Returns:
        A scalar float64; lower is better. Inception's 2048 features require more than 2048 frames per set.

    Raises:
        ShapeError: Not 68 points, or a network that returns anything but (images, features).
        ArgumentError: Fewer than two frames in a set.

    Warns:
        UserWarning: A set has no more frames than features.

    Example:
        >>> faces = torch.rand(4, 80, 68, 2, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_inception_distance(faces.flip(1), faces, nn.Flatten(), size=6, view=1.5).item(), 6) >= 0
        True

    Source: paper section 4.2.
    """
    for name, clips in (("preds", preds), ("target", target)):
        check_shape(name, clips, "batch frames points dims")
        if 0 in clips.shape:
            raise ShapeError(f"`{name}`: expected at least 1 clip of 1 frame, got {describe_shape(clips)}")
    return frechet_extractor_distance(FrameFeatures(network, **drawing), preds, target, chunk=chunk)


@checked
def frechet_video_distance(preds: Tensor, target: Tensor, network: nn.Module, *, chunk: int = 64, **drawing: Any) -> Tensor:
    """Compute the FVD of drawn landmarks, the realism of motion.

    The paper's FVD-40 and FVD-80 are this distance for clips of 40 and of 80 frames.

    Args:
        preds: Landmarks, (batch, frames, 68, dims). The paper uses the last 40 frames of longer clips.
        target: Landmarks of real clips with the same number of frames.
        network: I3D (:func:`load_i3d`), or any module from sequences (batch, frames, 3, size, size) to features.
        chunk: Clips per forward pass.
        **drawing: ``size``, ``frame_size``, ``view`` of :class:`SequenceFeatures`.

    Returns:
        A scalar float64; lower is better. I3D's 400 features require more than 400 clips per set.

    Raises:
        ShapeError: Not 68 points, different lengths, or a network that returns anything but (batch, features).
        ArgumentError: Fewer than two clips in a set.

    Warns:
        UserWarning: A set has no more clips than features.

    Example:
        >>> faces = torch.rand(300, 4, 68, 2, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_video_distance(faces.flip(0), faces, nn.Flatten(), size=4).item(), 6)
        0.0

    Source: paper section 4.2; Unterthiner et al. 2018, "Towards accurate generative models of video".
    """
    _check_lengths(preds, target)
    return frechet_extractor_distance(SequenceFeatures(network, **drawing), preds, target, chunk=chunk)


@checked
def temporal_frechet_inception_distance(
    preds: Tensor, target: Tensor, network: nn.Module, *, chunk: int = 64, **drawing: Any
) -> Tensor:
    """Compute the t-FID of drawn landmarks, the FID of each clip's weighted mean image, which shows trails of motion.

    Args:
        preds: Landmarks, (batch, frames, 68, dims).
        target: Landmarks of real clips with the same number of frames.
        network: Inception-v3, or any module from images to features.
        chunk: Clips per forward pass.
        **drawing: ``size``, ``frame_size``, ``view`` of :class:`TrailFeatures`.

    Returns:
        A scalar float64; lower is better.

    Raises:
        ShapeError: Not 68 points, different lengths, or a network that returns anything but (batch, features).
        ArgumentError: Fewer than two clips in a set.

    Warns:
        UserWarning: A set has no more clips than features.

    Example:
        >>> faces = torch.rand(60, 4, 68, 2, generator=torch.Generator().manual_seed(0))
        >>> round(temporal_frechet_inception_distance(faces.flip(0), faces, nn.Flatten(), size=4).item(), 6)
        0.0

    Source: paper section 4.2; weights from the authors' code.
    """
    _check_lengths(preds, target)
    return frechet_extractor_distance(TrailFeatures(network, **drawing), preds, target, chunk=chunk)


def _check_lengths(preds: Tensor, target: Tensor) -> None:
    check_shape("target", target, "batch frames points dims")
    check_shape("preds", preds, "batch frames points dims", frames=target.shape[1])
    if 0 in (*preds.shape, *target.shape):
        raise ShapeError(
            f"`preds`, `target`: expected at least 1 clip of 1 frame, got {describe_shape(preds)} and {describe_shape(target)}"
        )


class I3D(nn.Module):
    """I3D as published by the authors of StyleGAN-V: a TorchScript program that resizes and rescales its input.

    Args:
        program: ``program(video, rescale: bool, resize: bool, return_features: bool)`` with video (batch, 3, frames, height,
            width), 0 to 255, to logits (batch, 400).

    Attributes:
        num_features: 400.
        min_frames: 10, the minimum for its strides and last pooling.

    Source: Carreira and Zisserman 2017, "Quo vadis, action recognition?"; the program's arguments as its users call it.
    """

    num_features = 400
    min_frames = 10

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.program = program

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits of sequences.

        Args:
            images: (batch, frames, 3, height, width), 0 to 1.

        Returns:
            (batch, 400).

        Raises:
            ShapeError: Not three channels, or a program that returns anything else.
            ClipTooShortError: Fewer than 10 frames.
        """
        check_shape("images", images, "batch frames channels height width", channels=3)
        video = 255.0 * images.transpose(1, 2)
        if images.shape[1] < self.min_frames:
            raise ClipTooShortError(f"`images`: expected at least {self.min_frames} frames, got {describe_shape(images)}")
        logits: Tensor = self.program(video, rescale=True, resize=True, return_features=True)
        if logits.shape != (images.shape[0], self.num_features):
            raise ShapeError(
                f"`network`: expected the program to return ({images.shape[0]}, {self.num_features}), got "
                f"{describe_shape(logits)}"
            )
        return logits


def load_i3d(path: str | os.PathLike[str]) -> I3D:
    """Load I3D from a local TorchScript file ``i3d_torchscript.pt``.

    The file holds a program as well as weights. TorchScript is limited to tensor operations, but use only files from trusted
    sources.

    Args:
        path: The file.

    Returns:
        The network in eval mode, on the CPU.

    Raises:
        CheckpointError: The file is missing or is no TorchScript.

    Source: ours.
    """
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"`path`: expected a TorchScript file, got none at {source}")
    try:
        with warnings.catch_warnings():
            # torch deprecates this format, but the published file uses it.
            warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
            program = torch.jit.load(str(source), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"`path`: {source} cannot be read as TorchScript: {str(error).strip().splitlines()[0]}"
        ) from error
    return I3D(program.eval())
