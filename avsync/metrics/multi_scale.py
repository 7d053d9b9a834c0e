"""SyncNet's protocol at every level of a pyramid: the paper's sync metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from avsync._checks import (
    check_choice,
    check_count,
    check_frame_mask,
    check_positive,
    check_same_device,
    check_shape,
    checked,
)
from avsync.errors import ArgumentError, ShapeError
from avsync.metrics.offset import SyncOffset, sync_offset
from avsync.models.syncer.interface import MultiScaleSyncer, unit_norm, window_mask
from avsync.pyramid import check_lengths
from avsync.resampling import check_fps, fit_frames, resample_frames, resampled_length, resampled_lengths

MAX_OFFSETS = (15, 15, 8, 5, 3, 2)
"""Largest offset at levels 0 to 5, in frames of the level (15 at the finest level is SyncNet's; the others are ours)."""

AVERAGES = ("windows", "frames")
"""Units that the mean of a clip counts once."""


class LevelEmbeddings(NamedTuple):
    """Unit embeddings of clips at one level; its fields are the arguments of :func:`avsync.metrics.offset.sync_offset`."""

    motion: Tensor
    """(batch, windows, embed)."""
    audio: Tensor
    """(batch, windows + 2 * lead, embed)."""
    lead: int
    """Audio windows before the first motion window."""
    mask: Tensor | None
    """True for the motion windows that count, (batch, windows); None if all do."""
    audio_mask: Tensor | None
    """True for the audio windows that exist, (batch, windows + 2 * lead); None if all do."""


@torch.no_grad()
@checked
def multi_scale_embeddings(
    pyramid: MultiScaleSyncer,
    landmarks: Tensor,
    audio: Tensor,
    *,
    margin: int = 0,
    reference: str | Tensor | None = None,
    lengths: Tensor | None = None,
    frame_mask: Tensor | None = None,
    has_audio: Tensor | None = None,
    levels: int | None = None,
    fps: float | None = None,
) -> list[LevelEmbeddings]:
    """Compute unit embeddings of all windows of clips at every level, for any metric on windows.

    Args:
        pyramid, landmarks, audio, margin, reference, lengths, frame_mask, has_audio, fps: As in :func:`multi_scale_offset`.
        levels: Number of levels from the finest level, such as those that fit a short clip; None for all.

    Returns:
        One :class:`LevelEmbeddings` per level.

    Raises:
        ArgumentError, ShapeError, ClipTooShortError: As :func:`multi_scale_offset`.

    Source: paper section 4.3; audio around the clip ours.
    """
    levels = pyramid.num_levels if levels is None else levels
    if not 1 <= levels <= pyramid.num_levels:
        raise ArgumentError(f"`levels`: expected 1 to {pyramid.num_levels}, got {levels}")
    stride, window = pyramid.audio_stride, pyramid.window
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_shape("audio", audio, "batch audio_frames coeffs", batch=landmarks.shape[0])
    check_positive("margin", margin, allow_zero=True)
    if margin % 2 ** (levels - 1):
        raise ArgumentError(f"`margin`: expected a multiple of {2 ** (levels - 1)} frames, got {margin}")
    fps = pyramid.fps if fps is None else check_fps("fps", fps)
    for name, mask, size in (
        ("frame_mask", frame_mask, landmarks.shape[1]),
        ("has_audio", has_audio, landmarks.shape[1] + 2 * round(margin * fps / pyramid.fps)),
    ):
        if mask is not None:
            check_frame_mask(name, mask, batch=landmarks.shape[0], frames=size)
    if fps != pyramid.fps:
        frames = resampled_length(landmarks.shape[1], fps, pyramid.fps)
        if lengths is not None:
            lengths = check_lengths(lengths, landmarks)
        landmarks = resample_frames(landmarks, fps=fps, to_fps=pyramid.fps, lengths=lengths)
        if lengths is not None:
            lengths = resampled_lengths(lengths, fps, pyramid.fps).clamp(max=frames)
        frame_mask = _nearest_frames(frame_mask, frames, fps / pyramid.fps)
        has_audio = _nearest_frames(has_audio, frames + 2 * margin, fps / pyramid.fps)
        if abs(audio.shape[1] - stride * (frames + 2 * margin)) <= stride * max(1.0, pyramid.fps / fps):
            audio = fit_frames(audio, stride * (frames + 2 * margin))  # whole frames of both rates may differ by half a frame
    frames = landmarks.shape[1]
    if audio.shape[1] != stride * (frames + 2 * margin):
        raise ShapeError(
            f"`audio`: expected {stride * (frames + 2 * margin)} audio frames for {frames} motion frames"
            f" and margins of {margin}, got {audio.shape[1]}"
        )
    audio_lengths = None
    if lengths is not None:
        lengths = check_lengths(lengths, landmarks)
        audio_lengths = lengths + 2 * margin
    if has_audio is not None:
        inside = has_audio
        if audio_lengths is not None:
            inside = has_audio & (torch.arange(frames + 2 * margin, device=has_audio.device) < audio_lengths[:, None])
        audio = fill_missing_audio(audio, inside)
    motions = pyramid.embed_motion(landmarks, reference=reference, lengths=lengths, levels=range(levels))
    embedded_audio = pyramid.embed_audio(audio, lengths=audio_lengths, levels=range(levels))
    found = []
    for level, (motion, heard) in enumerate(zip(motions, embedded_audio, strict=True)):
        mask = window_mask(lengths, level, motion.shape[1], window)
        audio_mask = window_mask(audio_lengths, level, heard.shape[1], window)
        if frame_mask is not None:
            mask = _both(mask, frames_to_windows(frame_mask, level=level, window=window, share=0.5))
        if has_audio is not None:
            own = has_audio[:, margin : margin + frames]
            mask = _both(mask, frames_to_windows(own, level=level, window=window))
            audio_mask = _both(audio_mask, frames_to_windows(has_audio, level=level, window=window))
        found.append(LevelEmbeddings(unit_norm(motion), unit_norm(heard), margin // 2**level, mask, audio_mask))
    return found


def fill_missing_audio(audio: Tensor, has_audio: Tensor) -> Tensor:
    """Replace the features of frames without audio by the mean of the other frames of the clip.

    Syncers that subtract the mean of a clip would otherwise hear all of its audio as loud, next to the silence that fills gaps.

    Args:
        audio: Audio features, (batch, audio_frames, coeffs), of a whole number of audio frames per motion frame.
        has_audio: True for the motion frames whose audio exists, (batch, frames) bool.

    Returns:
        The same shape; a clip without audio is unchanged.

    Raises:
        ShapeError: ``audio`` is not (batch, audio_frames, coeffs), ``has_audio`` not (batch, frames) of bool, or its frames do
            not divide the audio frames.
        ArgumentError: The two are on different devices.

    Example:
        >>> fill_missing_audio(torch.tensor([[[1.0], [3.0], [-9.0]]]), torch.tensor([[True, True, False]]))[0, :, 0]
        tensor([1., 3., 2.])

    Source: ours.
    """
    check_shape("audio", audio, "batch audio_frames coeffs")
    check_frame_mask("has_audio", has_audio, batch=audio.shape[0])
    check_same_device("has_audio", has_audio, audio.device, "`audio`")
    there = has_audio.repeat_interleave(audio.shape[1] // max(has_audio.shape[1], 1), dim=1)
    if there.shape[1] != audio.shape[1]:
        raise ShapeError(f"`has_audio`: expected frames that divide {audio.shape[1]} audio frames, got {has_audio.shape[1]}")
    count = there.sum(1)[:, None, None]
    mean = torch.where(there[..., None], audio, 0.0).sum(1, keepdim=True) / count.clamp(min=1)
    return torch.where(there[..., None] | (count == 0), audio, mean)


def _nearest_frames(mask: Tensor | None, frames: int, step: float) -> Tensor | None:
    """Return ``frames`` frames of a mask (batch, frames) at another rate, each the nearest of its time."""
    if mask is None:
        return None
    nearest = (torch.arange(frames, device=mask.device) * step + 0.5).long()
    return mask.index_select(1, nearest.clamp(max=mask.shape[1] - 1))


def _both(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else first & second


@checked
def frames_to_windows(frame_mask: Tensor, *, level: int = 0, window: int = 5, share: float = 1.0) -> Tensor:
    """Return which windows of a level are valid, from a mask of frames.

    With the frames that have audio (``Clip.has_audio``), the result is the ``mask`` and the ``audio_mask`` of
    :func:`avsync.metrics.offset.sync_offset`, of LSE and of all other metrics on windows.

    Args:
        frame_mask: True for valid frames of level 0, (batch, frames) bool.
        level: Pyramid level, 0 the finest.
        window: Frames of the level per window.
        share: Smallest share of valid frames in a valid window; 1 for all frames.

    Returns:
        (batch, windows) bool, with ``ceil(frames / 2**level) - window + 1`` windows; no window for shorter clips.

    Raises:
        ShapeError: ``frame_mask`` is not (batch, frames) of bool.
        ArgumentError: ``level`` is negative, ``window`` below 1, or ``share`` not from 0 to 1.

    Example:
        >>> frames_to_windows(torch.tensor([[True, True, True, True, False]]), window=2)
        tensor([[ True,  True,  True, False]])

    Source: ours.
    """
    check_frame_mask("frame_mask", frame_mask)
    check_count("level", level, 0)
    check_count("window", window)
    if not 0 <= share <= 1:
        raise ArgumentError(f"`share`: expected 0 to 1, got {share!r}")
    span = (window - 1) * 2**level + 1
    if frame_mask.shape[1] < span:
        return frame_mask[:, :0]
    return frame_mask.float().unfold(1, span, 2**level).mean(2) >= share


@checked
def multi_scale_offset(
    pyramid: MultiScaleSyncer,
    landmarks: Tensor,
    audio: Tensor,
    *,
    margin: int = 0,
    max_offsets: Sequence[int] = MAX_OFFSETS,
    reference: str | Tensor | None = None,
    edges: str = "masked",
    lengths: Tensor | None = None,
    frame_mask: Tensor | None = None,
    has_audio: Tensor | None = None,
    average: str = "windows",
    fps: float | None = None,
) -> list[SyncOffset]:
    """Compute offset and confidence of clips at every level.

    Args:
        pyramid: Trained syncers.
        landmarks: Landmarks (batch, frames, points, dims) at ``fps`` frames per second.
        audio: Audio features of the clip and of ``margin`` motion frames on both sides,
            (batch, stride * (frames + 2 * margin), coeffs). With this audio every window can be compared at every offset.
        margin: Motion frames of audio before and after the clip; a multiple of ``2**(levels - 1)``, so that the margin is a
            whole number of frames at every level.
        max_offsets: Largest offset searched at each level, in frames of the level.
        reference: Face from which motion is measured; by default as the pyramid is configured.
        edges: "masked" or "legacy" for offsets that reach beyond the audio; see :func:`avsync.metrics.offset.offset_distances`.
        lengths: True motion frames of each clip in a padded batch, (batch,) whole numbers; the audio of a clip then
            has ``lengths + 2 * margin`` motion frames from the beginning of ``audio``. None if all are as long as
            ``landmarks``.
        frame_mask: True for the valid motion frames, (batch, frames) bool, such as frames with speech. A window is valid if at
            least half of its frames are valid. None if all are valid.
        has_audio: True for the motion frames whose audio exists, such as ``Clip.has_audio``, (batch, frames + 2 * margin)
            bool; frames without audio count neither as motion nor as audio, as if the clip ended there. A window is valid if
            the audio of all of its frames exists. None if all audio exists.
        average: Unit that the mean of a clip counts once: "windows", as in the published protocol, or "frames", which is more
            accurate for short clips; see :func:`avsync.metrics.offset.offset_distances`.
        fps: Frames per second of ``landmarks``, ``lengths`` and the masks, which are resampled to the rate of the syncers
            (:func:`avsync.resampling.resample_frames`). None for the rate of the syncers, 25 for the pretrained ones.
            ``margin``, ``max_offsets`` and the result always count frames of the syncers, so that windows keep their duration.

    Returns:
        One :class:`avsync.metrics.offset.SyncOffset` per level, offsets in frames of the level (positive: the audio is early);
        :func:`avsync.metrics.offset.offset_milliseconds` converts them, and ``offset_milliseconds(...) * fps / 1000`` is the
        offset in frames of ``landmarks``.

    Raises:
        ArgumentError: ``margin`` is negative or not a multiple of ``2**(levels - 1)``, ``max_offsets`` has fewer values than
            levels, or ``average`` is unknown.
        ShapeError: The length of the audio does not match the clip and its margins, or a mask or lengths do not fit.
        ClipTooShortError: A level has no window.

    Source: paper section 4.3; audio around the clip and the mean over frames ours.
    """
    check_choice("average", average, AVERAGES)
    window = pyramid.window if average == "frames" else 1
    check_max_offsets(max_offsets, pyramid.num_levels)
    embedded = multi_scale_embeddings(
        pyramid,
        landmarks,
        audio,
        margin=margin,
        reference=reference,
        lengths=lengths,
        frame_mask=frame_mask,
        has_audio=has_audio,
        fps=fps,
    )
    return [
        sync_offset(**level._asdict(), max_offset=most, edges=edges, window=window)
        for level, most in zip(embedded, max_offsets, strict=False)
    ]


def check_max_offsets(max_offsets: Sequence[int], levels: int) -> None:
    """Raise :class:`avsync.errors.ArgumentError` unless there is a largest offset for each of ``levels``."""
    if len(max_offsets) < levels:
        raise ArgumentError(f"`max_offsets`: expected {levels} values, one per level, got {len(max_offsets)}")
