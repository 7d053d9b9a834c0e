"""Interface of syncers: embeddings of windows, their score (equation 3), and the base class of pyramids and ensembles.

The score accepts embeddings of any model, without normalisation. It is computed in at least float32, also under autocast,
because half precision cannot resolve cosines near 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from avsync._checks import check_floating, check_same_device, check_shape, checked, describe_shape, device_of_module, is_tensor
from avsync.audio.features import SpeechFeatures
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.landmarks.layouts import LANDMARKS68, Layout, find_layout
from avsync.landmarks.mapping import check_layout, map_weights, to_landmarks68
from avsync.pretrained import PretrainedModel
from avsync.pyramid import FPS, check_lengths, level_lengths, shortest_clip


class Embeddings(NamedTuple):
    """Unnormalised embeddings of the windows of one level, and the mask of the windows inside their clips."""

    motion: Tensor
    """(batch, windows, embed)."""
    audio: Tensor
    """(batch, windows, embed)."""
    mask: Tensor | None = None
    """(batch, windows), True for windows that lie inside their clip; None if no lengths were given."""


class SyncerInterface(NamedTuple):
    """Inputs and windows of syncers; syncers with the same interface can replace each other."""

    num_levels: int
    """Levels of the pyramid."""
    window: int
    """Frames of the level per window."""
    audio: str
    """Audio features: a kind of :class:`avsync.audio.features.SpeechFeatures`, or "custom"."""
    audio_features: int
    """Coefficients per audio frame."""
    audio_stride: int
    """Audio frames per motion frame."""
    landmark_points: int
    """Points of the landmarks."""
    landmark_dims: int
    """Coordinates per landmark."""
    layout: Layout | None = None
    """Layout of the landmarks; None for points without a known layout."""
    fps: float = FPS
    """Motion frames per second."""


class MultiScaleSyncer(PretrainedModel):
    """Base class of modules that embed the windows of motion and audio at several levels.

    The cosine of the two embeddings of a window is s(a, x) of equation (3). The losses, the metrics and the commands accept any
    subclass: :class:`avsync.models.syncer.pyramid.SyncerPyramid`, :class:`avsync.models.syncer.ensemble.SyncerEnsemble` and
    :class:`avsync.models.syncer.regions.SyncerRegions`. This class does not embed anything; a subclass implements
    :meth:`embed_motion` and :meth:`embed_audio`.

    Args:
        interface: Inputs and windows.

    Source: ours, after Figure 1 of the paper.
    """

    def __init__(self, *, interface: SyncerInterface) -> None:
        super().__init__()
        self.interface = interface

    @property
    def num_levels(self) -> int:
        """Levels of the pyramid."""
        return self.interface.num_levels

    @property
    def window(self) -> int:
        """Frames of the level per window."""
        return self.interface.window

    @property
    def audio_stride(self) -> int:
        """Audio frames per motion frame."""
        return self.interface.audio_stride

    @property
    def landmark_points(self) -> int:
        """Points of the landmarks."""
        return self.interface.landmark_points

    @property
    def landmark_dims(self) -> int:
        """Coordinates per landmark."""
        return self.interface.landmark_dims

    @property
    def layout(self) -> Layout | None:
        """Layout of the landmarks; None for points without a known layout."""
        return self.interface.layout

    @property
    def fps(self) -> float:
        """Motion frames per second."""
        return self.interface.fps

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions whose agreement can be reported separately; a single "all" except for syncers of regions."""
        return ("all",)

    @property
    def region_weights(self) -> tuple[float, ...]:
        """Weight of each region among the regions of a level."""
        return (1.0,)

    def columns(self, level: int) -> tuple[slice | None, ...]:
        """Return the columns of each region in the embeddings of a level; None for regions without that level."""
        self._chosen([level])
        return (slice(None),)

    def for_layout(self, layout: str | Layout) -> MultiScaleSyncer:
        """Return these syncers for landmarks of another layout, which are mapped to the layout of the syncers.

        Args:
            layout: A layout that maps to 68 points, or its name; or the layout of the syncers. The dims of the landmarks may
                exceed those of the syncers: the last dims (depth) are then ignored.

        Returns:
            Syncers with the same weights, for losses, metrics and further training. They cannot be saved: save the original.

        Raises:
            ArgumentError: The layout does not map to that of the syncers.

        Example:
            >>> from avsync.models import SyncerPyramid
            >>> syncers = SyncerPyramid.from_pretrained("landmarks68-25fps").for_layout("mediapipe478")
            >>> len(syncers(torch.rand(1, 80, 478, 3), torch.zeros(1, 320, 26)))
            4

        Source: ours.
        """
        return _LayoutAdapter(self, find_layout(layout))

    def speech_features(self) -> SpeechFeatures | None:
        """Return a module from waveforms (batch, samples) to the features used in training; None for custom features."""
        return None if self.interface.audio == "custom" else SpeechFeatures(kind=self.interface.audio)

    def embed_motion(
        self,
        landmarks: Tensor,
        *,
        reference: str | Tensor | None = None,
        lengths: Tensor | None = None,
        levels: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Embed all windows of motion, with the arguments of :meth:`forward`.

        Returns:
            Unnormalised embeddings of each of ``levels``, (batch, ceil(frames / 2**level) - window + 1, embed).
        """
        raise NotImplementedError

    def embed_audio(self, audio: Tensor, *, lengths: Tensor | None = None, levels: Sequence[int] | None = None) -> list[Tensor]:
        """Embed all windows of audio, with the arguments of :meth:`forward`.

        Returns:
            Unnormalised embeddings of each of ``levels``, (batch, ceil(frames / 2**level) - window + 1, embed).
        """
        raise NotImplementedError

    @checked
    def shortest_clip(self, levels: Sequence[int] | None = None) -> int:
        """Return the fewest frames at level 0 that fill one window at each of ``levels`` (default: all)."""
        return shortest_clip(self.window, max(self._chosen(levels), default=0))

    @checked
    def forward(
        self,
        landmarks: Tensor,
        audio: Tensor,
        *,
        reference: str | Tensor | None = None,
        lengths: Tensor | None = None,
        levels: Sequence[int] | None = None,
    ) -> list[Embeddings]:
        """Embed all windows of all levels.

        Args:
            landmarks: (batch, frames, points, dims) at the full rate, in any unit.
            audio: Features (batch, audio_stride * frames, audio_features) at the full rate.
            reference: "first", "mean", or the reference face itself, (batch, points, dims); as configured by default.
            lengths: True motion frames of each clip in a padded batch, (batch,). The padding does not affect the result.
            levels: Levels to embed (default: all).

        Returns:
            :class:`Embeddings` of each of ``levels``.

        Raises:
            ShapeError: The shapes are wrong, there is no clip, or audio and landmarks differ in duration.
            ArgumentError: Landmarks, audio and the model are not on one device, or a level does not exist.
            ClipTooShortError: A level has no complete window; the message names the shortest possible clip.
        """
        check_shape("landmarks", landmarks, "batch frames points dims")
        check_shape("audio", audio, "batch audio_frames audio_features")
        check_same_device("audio", audio, landmarks.device, "`landmarks`")
        check_same_duration(landmarks, audio, self.audio_stride)
        motions, audios = self._embed(landmarks, audio, reference, lengths, levels)
        lengths = None if lengths is None else check_lengths(lengths, landmarks)
        return [
            Embeddings(motion, audio_windows, window_mask(lengths, level, motion.shape[1], self.window))
            for level, motion, audio_windows in zip(self._chosen(levels), motions, audios, strict=True)
        ]

    def _embed(
        self,
        landmarks: Tensor,
        audio: Tensor,
        reference: str | Tensor | None,
        lengths: Tensor | None,
        levels: Sequence[int] | None,
    ) -> list[list[Tensor]]:
        """Return the embeddings of motion and of audio, one (batch, windows, embed) of each level."""
        motions = self.embed_motion(landmarks, reference=reference, lengths=lengths, levels=levels)
        return [motions, self.embed_audio(audio, lengths=lengths, levels=levels)]

    def _chosen(self, levels: Sequence[int] | None) -> list[int]:
        chosen = list(range(self.num_levels)) if levels is None else list(levels)
        if not chosen or not all(0 <= level < self.num_levels for level in chosen):
            raise ArgumentError(f"`levels`: expected levels from 0 to {self.num_levels - 1}, got {levels}")
        return chosen


class _LayoutAdapter(MultiScaleSyncer):
    """Syncers whose landmarks are mapped from another layout first."""

    map_to_68: Tensor | None

    def __init__(self, syncers: MultiScaleSyncer, layout: Layout) -> None:
        own = syncers.layout
        if own is None or (layout != own and (own != LANDMARKS68 or not layout.to_68)):
            target = "points without a layout" if own is None else f"the layout {own.name!r}"
            raise ArgumentError(
                f"`layout`: expected a layout that maps to that of the syncers, {target}, got {layout.name!r};"
                " train syncers of your own for it: SyncerPyramidConfig(layout=...)"
            )
        dims = next((dims for dims in layout.dims if dims >= syncers.landmark_dims), None)
        if dims is None:
            raise ArgumentError(
                f"`layout`: expected a layout of at least {syncers.landmark_dims} dims for these syncers, got {layout.name!r} "
                f"with {layout.dims}"
            )
        super().__init__(interface=syncers.interface._replace(layout=layout, landmark_points=layout.points, landmark_dims=dims))
        self.syncers = syncers
        self.weights_checksum = syncers.weights_checksum  # calibrations are valid for the mapped landmarks, too
        weights = None if layout == own else map_weights(layout).to(device_of_module(syncers))
        self.register_buffer("map_to_68", weights, persistent=False)

    @property
    def regions(self) -> tuple[str, ...]:
        return self.syncers.regions

    @property
    def region_weights(self) -> tuple[float, ...]:
        return self.syncers.region_weights

    def columns(self, level: int) -> tuple[slice | None, ...]:
        return self.syncers.columns(level)

    def _mapped(self, landmarks: Tensor) -> Tensor:
        layout, dims = cast(Layout, self.layout), self.syncers.landmark_dims
        check_layout(landmarks, layout)
        if landmarks.shape[-1] < dims:
            raise ShapeError(f"`landmarks`: expected at least {dims} dims for these syncers, got {tuple(landmarks.shape)}")
        if self.map_to_68 is None:
            return landmarks[..., :dims]
        check_same_device("landmarks", landmarks, self.map_to_68.device, "the model")
        return to_landmarks68(landmarks, layout, dims=dims, weights=self.map_to_68)

    def embed_motion(
        self,
        landmarks: Tensor,
        *,
        reference: str | Tensor | None = None,
        lengths: Tensor | None = None,
        levels: Sequence[int] | None = None,
    ) -> list[Tensor]:
        check_shape("landmarks", landmarks, "batch frames points dims")
        if isinstance(reference, Tensor):
            reference = self._mapped(reference[..., None, :, :])[..., 0, :, :]
        return self.syncers.embed_motion(self._mapped(landmarks), reference=reference, lengths=lengths, levels=levels)

    def embed_audio(self, audio: Tensor, *, lengths: Tensor | None = None, levels: Sequence[int] | None = None) -> list[Tensor]:
        return self.syncers.embed_audio(audio, lengths=lengths, levels=levels)

    def _embed(
        self,
        landmarks: Tensor,
        audio: Tensor,
        reference: str | Tensor | None,
        lengths: Tensor | None,
        levels: Sequence[int] | None,
    ) -> list[list[Tensor]]:
        if isinstance(reference, Tensor):
            reference = self._mapped(reference[..., None, :, :])[..., 0, :, :]
        return self.syncers._embed(self._mapped(landmarks), audio, reference, lengths, levels)


def check_form(landmarks: Tensor, *, points: int, dims: int) -> None:
    """Raise :class:`ShapeError` unless ``landmarks`` are (batch, frames, points, dims); hint at too many dims."""
    if isinstance(landmarks, Tensor) and landmarks.ndim == 4 and landmarks.shape[2] == points and landmarks.shape[3] > dims:
        raise ShapeError(
            f"`landmarks`: expected {dims} dims, got {tuple(landmarks.shape)}; drop the depth: `landmarks[..., :{dims}]`"
        )
    check_shape("landmarks", landmarks, "batch frames points dims", points=points, dims=dims)


def check_same_duration(landmarks: Tensor, audio: Tensor, audio_stride: int = 4) -> None:
    """Raise :class:`ShapeError` unless ``audio`` has ``audio_stride`` frames for each frame of ``landmarks``."""
    if audio.shape[:2] != (landmarks.shape[0], audio_stride * landmarks.shape[1]):
        raise ShapeError(
            f"`audio`: expected (batch={landmarks.shape[0]}, audio_frames={audio_stride * landmarks.shape[1]}, features)"
            f" for {landmarks.shape[1]} motion frames ({audio_stride} audio frames per motion frame), got {tuple(audio.shape)}"
        )


def window_mask(lengths: Tensor | None, level: int, windows: int, window: int = 5) -> Tensor | None:
    """Return the mask of the windows inside their clip: (batch, windows) bool, or None without ``lengths`` (batch,)."""
    if lengths is None:
        return None
    full = level_lengths(lengths, level) - window + 1
    return torch.arange(windows, device=lengths.device)[None] < full[:, None]


_SMALLEST_SQUARED_NORM = 1e-24


def unit_norm(embeddings: Tensor) -> Tensor:
    """Scale each embedding to length 1, in at least float32.

    Args:
        embeddings: (..., embed), floating point.

    Returns:
        The same shape, float32 or float64. An embedding of zeros stays zeros and receives no gradient instead of a very large
        one.

    Raises:
        ShapeError: The embeddings are not floating point.

    Example:
        >>> unit_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])

    Source: the normalisation inside equation (3).
    """
    check_floating("embeddings", embeddings)
    x = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    squared = x.square().sum(dim=-1, keepdim=True)
    scale = torch.where(squared > _SMALLEST_SQUARED_NORM, squared.clamp(min=_SMALLEST_SQUARED_NORM).rsqrt(), 0.0)
    return x * scale


def cosine_similarity(motion: Tensor, audio: Tensor) -> Tensor:
    """Compute the score of equation (3): the cosine of the embeddings of a motion window and an audio window.

    Args:
        motion: (..., embed).
        audio: (..., embed), the same shape.

    Returns:
        (...), in [-1, 1].

    Raises:
        ShapeError: The shapes differ, or an embedding is not floating point.

    Example:
        >>> cosine_similarity(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
        tensor([1.])

    Source: paper section 3.1.
    """
    check_pair(motion, audio)
    return (unit_norm(motion) * unit_norm(audio)).sum(dim=-1)


def half_squared_distance(motion: Tensor, audio: Tensor) -> Tensor:
    """Compute one minus the cosine as half the squared distance of unit vectors, which is exact for cosines close to 1.

    Args:
        motion: (..., embed).
        audio: (..., embed), the same shape.

    Returns:
        (...), in [0, 2].

    Raises:
        ShapeError: The shapes differ, or an embedding is not floating point.

    Example:
        >>> half_squared_distance(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([1.])

    Source: ours.
    """
    check_pair(motion, audio)
    return 0.5 * (unit_norm(motion) - unit_norm(audio)).square().sum(dim=-1)


def check_pair(motion: Tensor, audio: Tensor) -> None:
    """Raise :class:`ShapeError` unless both are floating point and of one shape (..., embed)."""
    if not is_tensor(motion) or not is_tensor(audio) or motion.ndim == 0 or motion.shape != audio.shape:
        shapes = f"{describe_shape(motion)} and {describe_shape(audio)}"
        raise ShapeError(f"`motion`, `audio`: expected the same shape (..., embed), got {shapes}")
    check_floating("motion", motion)
    check_floating("audio", audio)
    check_same_device("audio", audio, motion.device, "`motion`")


def check_windows(motion: Tensor, audio: Tensor) -> None:
    """Raise :class:`ShapeError` unless both are floating point, on one device and of one non-empty shape."""
    check_pair(motion, audio)
    if motion.ndim != 3:
        raise ShapeError(f"`motion`, `audio`: expected (clips, windows, embed), got {describe_shape(motion)}")
    if motion.shape[1] == 0:
        raise ClipTooShortError(f"`motion`, `audio`: expected at least 1 window, got {describe_shape(motion)}")
    if 0 in motion.shape:
        raise ShapeError(
            f"`motion`, `audio`: expected at least 1 clip and 1 number per embedding, got {describe_shape(motion)}"
        )


def check_mask(mask: Tensor | None, num_clips: int, num_windows: int, device: torch.device | None = None) -> None:
    """Raise :class:`ShapeError` unless ``mask`` is None or bool (clips, windows), on ``device`` if one is given."""
    if mask is None:
        return
    if not is_tensor(mask) or mask.shape != (num_clips, num_windows) or mask.dtype != torch.bool:
        dtype = getattr(mask, "dtype", "")
        raise ShapeError(
            f"`mask`: expected bool (clips={num_clips}, windows={num_windows}), got {dtype} {describe_shape(mask)}"
        )
    if device is not None:
        check_same_device("mask", mask, device, "the embeddings")


def hide(x: Tensor, mask: Tensor | None) -> Tensor:
    """Replace masked embeddings (clips, windows, embed) by zeros, so that NaN reaches neither value nor gradient.

    A product with 0 would not be enough, because 0 times NaN is NaN.
    """
    return x if mask is None else torch.where(mask[..., None], x, 0.0)
