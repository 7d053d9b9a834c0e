"""Detection of duplicate footage, by fingerprints of audio and motion that are robust to cutting, scaling and volume."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from avsync.corpus.clip import Clip
from avsync.training.doctor.tracks import Tracks

Words = npt.NDArray[np.uint64]

_KEPT = 4  # one word in four is kept, chosen by its value, so that two copies keep the same words
_COMMON = 12  # a word in more places than this carries no information
_LEAST = 8  # equal words at one lag that make a duplicate
_LEAST_SECONDS = 0.6  # over which they must be spread: less is a click or a coincidence
_QUIET_DB = 35.0
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Fingerprint(NamedTuple):
    """Words of a clip and their times."""

    words: Words
    ticks: npt.NDArray[np.int64]
    """In units of ``1 / rate`` seconds."""
    rate: int


class Duplicate(NamedTuple):
    """Pair of clips with the same content."""

    first: int
    second: int
    """Numbers of the clips, in the order they were added."""
    seconds: float
    """From the first to the last instant found equal."""


def audio_fingerprint(tracks: Tracks) -> Fingerprint:
    """Compute signs of the relative change of neighbouring bands, now and 40 ms later; 100 per second before thinning."""
    bands = tracks.bands
    if len(bands) < 8:
        return Fingerprint(np.zeros(0, np.uint64), np.zeros(0, np.int64), 100)
    slope = bands[:, :-1] - bands[:, 1:]
    bits = (slope[2:] - slope[:-2]) > 0
    loud = (bands.max(axis=1) > bands.max() - _QUIET_DB)[1:-1]
    return _thinned(_paired(bits, 4), loud[:-4], 100)


def motion_fingerprint(clip: Clip, tracks: Tracks) -> Fingerprint:
    """Signs of the face's motion along 32 fixed directions, at a frame and three later; 25 per second before thinning."""
    faces = clip.landmarks.reshape(clip.frames, -1).astype(np.float64)
    if clip.frames < 8:
        return Fingerprint(np.zeros(0, np.uint64), np.zeros(0, np.int64), 25)
    motion = (faces[2:] - faces[:-2]) / tracks.height
    directions = np.random.default_rng(0).standard_normal((faces.shape[1], 32))
    moving = np.abs(motion).mean(axis=1) > 1e-3
    return _thinned(_paired((motion @ directions) > 0, 3), moving[:-3], 25)


def _paired(bits: npt.NDArray[np.bool_], lag: int) -> Words:
    """One word for the bits of a row and of the row ``lag`` later."""
    weights = np.uint64(1) << np.arange(bits.shape[1], dtype=np.uint64)
    values = (bits * weights).sum(axis=1, dtype=np.uint64)
    words: Words = values[:-lag] ^ (values[lag:] << np.uint64(32))
    return words


def _thinned(words: Words, worth: npt.NDArray[np.bool_], rate: int) -> Fingerprint:
    mixed = (words * _MIX) >> np.uint64(40)
    chosen = worth & (mixed % np.uint64(_KEPT) == 0)
    return Fingerprint(words[chosen], np.flatnonzero(chosen), rate)


def find_duplicates(fingerprints: list[Fingerprint]) -> list[Duplicate]:
    """Return the pairs of clips that share a segment of audio or of motion.

    Args:
        fingerprints: One fingerprint per clip, all of audio or all of motion.

    Returns:
        The pairs, each once, with ``first < second``.

    Example:
        >>> words = np.arange(1000, 1100, dtype=np.uint64)
        >>> whole = Fingerprint(words, np.arange(100), 25)
        >>> part = Fingerprint(words[40:80], np.arange(40), 25)
        >>> find_duplicates([whole, part])
        [Duplicate(first=0, second=1, seconds=1.6)]

    Source: ours.
    """
    if not fingerprints:
        return []
    rate = fingerprints[0].rate
    words = np.concatenate([one.words for one in fingerprints])
    owners = np.repeat(np.arange(len(fingerprints)), [len(one.words) for one in fingerprints])
    ticks = np.concatenate([one.ticks for one in fingerprints])
    order = np.argsort(words, kind="stable")
    words, owners, ticks = words[order], owners[order], ticks[order]
    pairs = []
    # A word that comes n times in a row of equal ones meets the ones 1, 2, ..., n - 1 places behind it.
    _, inverse, counts = np.unique(words, return_inverse=True, return_counts=True)
    rare = (counts <= _COMMON)[inverse]
    for gap in range(1, _COMMON):
        same = (
            (words[:-gap] == words[gap:]) & rare[:-gap] & (owners[:-gap] != owners[gap:])
            if len(words) > gap
            else np.zeros(0, bool)
        )
        here = np.flatnonzero(same)
        pairs.append(np.stack([owners[here], owners[here + gap], ticks[here], ticks[here + gap]], axis=1))
    found = np.concatenate(pairs)
    swapped = found[:, 0] > found[:, 1]
    found[swapped] = found[swapped][:, [1, 0, 3, 2]]
    return _vote(found, rate)


def _vote(found: npt.NDArray[np.int64], rate: int) -> list[Duplicate]:
    """Pairs whose equal words agree about the time between them, give or take a tick."""
    if not len(found):
        return []
    lag = found[:, 3] - found[:, 2]
    order = np.lexsort((lag, found[:, 1], found[:, 0]))
    found, lag = found[order], lag[order]
    new = np.ones(len(found), dtype=bool)
    new[1:] = (found[1:, :2] != found[:-1, :2]).any(axis=1) | (lag[1:] - lag[:-1] > 1)
    starts = np.flatnonzero(new)
    best: dict[tuple[int, int], float] = {}
    for start, end in zip(starts, [*starts[1:], len(found)], strict=True):
        times = found[start:end, 2]
        seconds = float(times.max() - times.min() + 1) / rate
        if len(np.unique(times)) >= _LEAST and seconds >= _LEAST_SECONDS:
            pair = (int(found[start, 0]), int(found[start, 1]))
            best[pair] = max(best.get(pair, 0.0), seconds)
    return [Duplicate(first, second, seconds) for (first, second), seconds in sorted(best.items())]
