"""Curves of a clip that need no model: lip speed and rate of change of the audio, at 25 values per second."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from avsync.audio.features import log_mel, normalise_waveform
from avsync.corpus.clip import Clip
from avsync.landmarks.layouts import MOUTH, NOSE, NUM_POINTS

Array = npt.NDArray[np.float64]

_RANGE_DB = 50.0  # levels are clamped to this range below the clip's maximum, because lower levels are recorder noise


class Tracks(NamedTuple):
    """Curves of a clip. The first four have one value per landmark frame."""

    speed: Array
    """Mean speed of the lips relative to the nose, in face heights per frame."""
    opening: Array
    """Distance of the inner lips in face heights; zeros if the layout does not have 68 points."""
    flux: Array
    """Mean rise of the audio bands, in decibels per frame."""
    energy: Array
    """Mean level of the bands, in decibels."""
    bands: Array
    """Log-mel features, (4 * frames, 26)."""
    height: float
    """Median height of the face, in the unit of the landmarks."""


def clip_tracks(clip: Clip) -> Tracks:
    """Compute the curves of a clip.

    Args:
        clip: A clip that conforms to the format (:func:`avsync.corpus.clip.check_clip`), at 25 frames per second.

    Returns:
        The tracks.

    Example:
        >>> still = Clip("a", "anna", "train", np.ones((50, 68, 2), np.float32), np.zeros(32000, np.float32))
        >>> clip_tracks(still).speed.shape, float(clip_tracks(still).flux.max())
        ((50,), 0.0)

    Source: ours.
    """
    faces = clip.landmarks.astype(np.float64)
    axis = min(1, faces.shape[2] - 1)  # y, or the only one
    height = float(np.median(np.ptp(faces[..., axis], axis=1))) or 1.0
    known = faces.shape[1] == NUM_POINTS
    lips = faces[:, MOUTH] - faces[:, NOSE].mean(axis=1, keepdims=True) if known else faces - faces.mean(axis=1, keepdims=True)
    speed = np.zeros(len(faces))
    if len(faces) > 2:
        speed[1:-1] = np.linalg.norm(lips[2:] - lips[:-2], axis=2).mean(axis=1) / (2 * height)
    opening = np.linalg.norm(faces[:, 62] - faces[:, 66], axis=1) / height if known else np.zeros(len(faces))

    waveform = normalise_waveform(torch.from_numpy(clip.waveform)[None])
    bands = log_mel(waveform)[0].double().numpy()
    bands = np.maximum(bands, bands.max() - _RANGE_DB)
    around = np.pad(bands, ((1, 1), (0, 0)), mode="edge")
    rise = np.maximum(around[2:] - around[:-2], 0.0).mean(axis=1)
    return Tracks(speed, opening, _to_frames(rise), _to_frames(bands.mean(axis=1)), bands, height)


def _to_frames(values: Array) -> Array:
    """Resample from 100 to 25 values per second, centred on the landmark frames: value 4 k belongs to frame k."""
    padded = np.pad(values, 2, mode="edge")
    weights = np.array([0.5, 1.0, 1.0, 1.0, 0.5]) / 4
    smooth: Array = np.convolve(padded, weights, mode="valid")
    return smooth[::4]
