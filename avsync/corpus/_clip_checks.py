"""Rates of the clip format and the checks of its parts; :mod:`avsync.corpus.clip` is the public face."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from avsync.errors import CorpusError
from avsync.pyramid import FPS, SAMPLE_RATE

Entry = Mapping[str, Any]

SAMPLES_PER_FRAME = 640
"""Audio samples a landmark frame, at 25 frames a second."""
INDEX_NAME = "index.json"
"""Name of the index inside a corpus folder."""

_ENTRY_TYPES: dict[str, type] = {"id": str, "frames": int, "speaker": str, "split": str}
_PLAIN_NAME = re.compile(r"\w[\w.+-]*")


def sample_of_frame(frame: int, fps: float = FPS) -> int:
    """The sample that is taken at the instant of a landmark frame.

    Args:
        frame: Number of the frame, from 0; the number of frames gives the number of samples of a clip.
        fps: Frames a second.

    Returns:
        ``round(16000 * frame / fps)``: never more than half a sample, 31 microseconds, from the instant.

    Example:
        >>> sample_of_frame(50), sample_of_frame(50, 30.0)
        (32000, 26667)

    Source: ours.
    """
    return round(frame * SAMPLE_RATE / fps)


def expect(fits: bool, clip: str, source: str, expected: str, got: object) -> None:
    if not fits:
        raise CorpusError(f"clip {clip!r}, {source}: expected {expected}, got {got}")


def check_clip_landmarks(clip: str, source: str, landmarks: Any) -> None:
    fits = isinstance(landmarks, np.ndarray) and landmarks.ndim == 3 and landmarks.dtype == np.float32
    shape = f"shape {landmarks.shape} of {landmarks.dtype}" if isinstance(landmarks, np.ndarray) else type(landmarks).__name__
    expect(fits, clip, source, "landmarks (frames, points, dims) of float32", shape)
    expect(0 not in landmarks.shape, clip, source, "at least one frame, point and dim", f"shape {landmarks.shape}")
    expect(landmarks.shape[2] <= 3, clip, source, "at most 3 dims", f"shape {landmarks.shape}")
    bad = ~np.isfinite(landmarks).all(axis=(1, 2))
    expect(not bad.any(), clip, source, "finite landmarks", f"NaN or infinity in {bad.sum()} frames, first {bad.argmax()}")


def check_waveform(clip: str, source: str, waveform: Any, frames: int, fps: float) -> None:
    fits = isinstance(waveform, np.ndarray) and waveform.ndim == 1 and waveform.dtype == np.float32
    shape = f"shape {waveform.shape} of {waveform.dtype}" if isinstance(waveform, np.ndarray) else type(waveform).__name__
    expect(fits, clip, source, "a waveform (samples,) of float32", shape)
    samples = sample_of_frame(frames, fps)
    expect(waveform.size == samples, clip, source, f"{samples} samples for {frames} frames", waveform.size)
    bad = ~np.isfinite(waveform)
    expect(not bad.any(), clip, source, "a finite waveform", f"NaN or infinity in {bad.sum()} samples")


def check_entry(entry: object) -> Entry:
    name = entry.get("id") if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping):
        raise CorpusError(f"clip None, {INDEX_NAME}: expected an object, got {type(entry).__name__}")
    for key, kind in _ENTRY_TYPES.items():
        got = entry.get(key)
        expected = f"a key {key!r} of type {kind.__name__}"
        expect(key in entry, str(name), INDEX_NAME, expected, f"keys {sorted(map(str, entry))}")
        fits = isinstance(got, kind) and not isinstance(got, bool)
        expect(fits, str(name), INDEX_NAME, expected, repr(got))
    # The name becomes a path, so it must not lead out of the folder.
    plain = _PLAIN_NAME.fullmatch(entry["id"]) is not None
    expect(plain, str(name), INDEX_NAME, "an id of letters, digits and _ . + -", repr(name))
    expect(entry["frames"] > 0, str(name), INDEX_NAME, "at least one frame", entry["frames"])
    return entry


def is_rate(fps: object) -> bool:
    return isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < math.inf
