"""Frames of a clip that contain speech, by their energy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from avsync._checks import check_type
from avsync.corpus.clip import SAMPLES_PER_FRAME, Clip
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.pyramid import SAMPLE_RATE


def speech_mask(
    waveform: npt.NDArray[np.float32] | Tensor,
    *,
    threshold_db: float = -20.0,
    percentile: float = 95.0,
    floor_db: float = -70.0,
    present: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.bool_]:
    """Find the frames of a clip that contain speech, by their energy.

    A frame counts as speech if the level of its 640 samples is above ``floor_db`` and less than ``-threshold_db`` below the
    loud frames of the clip, which are given by ``percentile``. The mask depends on loudness only: music and noise as loud as
    the voice count as speech, and in a clip without speech the loudest noise does.

    Real recordings have no clear gap between the levels of speech and of pauses, so no threshold fits all clips. At the default
    of -20 dB the median share of speech per clip is 0.73, and nearly all crops of 80 frames have a share of at least 0.2. Use
    0.2 as the threshold for a crop with speech.

    Args:
        waveform: (samples,), at least one frame of 640 samples; the mean is removed first.
        threshold_db: Level below the loud frames, in decibels.
        percentile: Percentile of the levels that defines the loud frames.
        floor_db: Level below which frames never count, in decibels of full scale.
        present: (frames,), False for frames without audio, which never count and are excluded from the percentile; None for all
            True.

    Returns:
        (samples // 640,), True for frames with speech.

    Raises:
        ShapeError: ``waveform`` does not have one channel.
        ClipTooShortError: ``waveform`` is shorter than one frame.

    Example:
        >>> sound = np.random.default_rng(0).normal(0, 0.1, 640 * 4).astype(np.float32)
        >>> sound[640:1280] *= 0.01
        >>> speech_mask(sound).tolist()
        [True, False, True, True]

    Source: ours.
    """
    check_type("waveform", waveform, np.ndarray, Tensor)
    for name, value in {"threshold_db": threshold_db, "percentile": percentile, "floor_db": floor_db}.items():
        check_type(name, value, int, float)
    if not 0 <= percentile <= 100:
        raise ArgumentError(f"`percentile`: expected a number from 0 to 100, got {percentile!r}")
    for name, array in {"waveform": waveform, "present": present}.items():
        if isinstance(array, Tensor) and array.device.type != "cpu":
            raise ArgumentError(f"`{name}`: expected an array on the CPU, got {array.device}")
    samples = np.asarray(waveform)
    if samples.ndim != 1 or samples.dtype.kind not in "fiu":
        raise ShapeError(f"`waveform`: expected (samples,) of numbers, got {samples.shape} of {samples.dtype}")
    samples = samples.astype(np.float64)
    frames = samples.size // SAMPLES_PER_FRAME
    if frames == 0:
        raise ClipTooShortError(f"`waveform`: expected at least {SAMPLES_PER_FRAME} samples, got {samples.size}")
    there = np.ones(frames, dtype=bool) if present is None else np.asarray(present)
    if there.shape != (frames,) or there.dtype != np.bool_:
        raise ShapeError(f"`present`: expected (frames={frames}) of bool, got {there.shape} of {there.dtype}")
    if not there.any():
        return there
    blocks = samples[: frames * SAMPLES_PER_FRAME].reshape(frames, SAMPLES_PER_FRAME)
    blocks = blocks - (samples.mean() if there.all() else blocks[there].mean())
    level = 10.0 * np.log10(np.square(blocks).mean(axis=1) + 1e-20)
    mask: npt.NDArray[np.bool_] = (level > np.percentile(level[there], percentile) + threshold_db) & (level > floor_db) & there
    return mask


def clip_speech(clip: Clip) -> npt.NDArray[np.bool_]:
    """Return the frames of a clip that contain speech, by :func:`speech_mask`; frames without audio in the source do not.

    Args:
        clip: A clip of at least one frame.

    Returns:
        (frames,), True for frames with speech.

    Example:
        >>> noise = np.random.default_rng(0).normal(0, 0.1, 640 * 4).astype(np.float32)
        >>> clip_speech(Clip("a", "anna", "train", np.ones((4, 68, 2), np.float32), noise, missing_audio=((2, 4),))).tolist()
        [True, True, False, False]

    Source: ours.
    """
    check_type("clip", clip, Clip)
    blocks = np.arange(clip.waveform.size // SAMPLES_PER_FRAME)  # frames of 25 per second, whatever the clip's own rate
    frame = (blocks * SAMPLES_PER_FRAME * clip.fps / SAMPLE_RATE).astype(np.int64).clip(max=clip.frames - 1)
    return speech_mask(clip.waveform, present=clip.has_audio[frame])
