"""Placement of decoded audio on the clock: small timestamp errors are ignored, real gaps and overlaps are kept.

A decoder returns blocks of samples with timestamps. Timestamps are rounded (to a millisecond in Matroska), jitter (live
recordings), drift (a sound card with an inexact rate), and jump (lost packets). Consecutive blocks stay contiguous if their
timestamps agree to within ``TIMESTAMP_TOLERANCE`` or to within the usual jitter of the file. A block is moved if the following
blocks confirm a jump, or if the deviation is steady.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from statistics import median
from typing import NamedTuple

from avsync.corpus.media.info import FloatArray

#: Largest timestamp error, in seconds, that is ignored; half of the error that is allowed for an extracted clip.
TIMESTAMP_TOLERANCE = 0.005
# Number of blocks read ahead, to estimate the start time and the jitter.
_AHEAD = 16
# Number of blocks after a jump that must confirm the jump.
_WITNESSES = 4
# Number of blocks over which a steady deviation and the jitter are measured.
_STEADY = 48


class Block(NamedTuple):
    """Mono samples and their start time according to the file, in seconds; None if the file has no time for them."""

    time: float | None
    samples: FloatArray


class Placed(NamedTuple):
    """Mono samples and the index of the first sample, at the native sample rate, counted from the start of the audio."""

    begin: int
    samples: FloatArray


class AudioClock:
    """Placement of blocks of samples on the clock.

    Attributes:
        start: Time of sample 0, in seconds.
        gaps: Number of forward jumps so far, and their total duration in seconds; gaps are read as silence.
        overlaps: Number of backward jumps so far, and the total duration in seconds of the overlapping audio that was cut.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.start = 0.0
        self.gaps: tuple[int, float] = (0, 0.0)
        self.overlaps: tuple[int, float] = (0, 0.0)
        self._next = 0
        self._errors: deque[float] = deque(maxlen=_STEADY)
        self._steps: deque[float] = deque(maxlen=_STEADY)
        self._expected: float | None = None

    def place(self, blocks: Iterable[Block]) -> Iterator[Placed]:
        """Yield the blocks with their positions, which never overlap."""
        source = iter(blocks)
        waiting = deque(islice(source, _AHEAD))
        self._begin(waiting)
        while waiting:
            block = waiting.popleft()
            waiting.extend(islice(source, 1))
            placed = self._place(block, waiting)
            if placed.samples.size:
                yield placed

    def _begin(self, blocks: Iterable[Block]) -> None:
        """Estimate the start time as the median over the first blocks, without the blocks after a jump."""
        starts: list[float] = []
        before = 0.0
        for block in blocks:
            if block.time is not None:
                starts.append(block.time - before)
            before += block.samples.size / self.sample_rate
        # The jitter at the start of the file is estimated before the first block is placed.
        self._steps.extend(abs(later - earlier) for earlier, later in pairwise(starts))
        near = [start for start in starts if abs(start - starts[0]) <= max(2 * TIMESTAMP_TOLERANCE, 4.0 * self._noise())]
        self.start = median(near) if near else 0.0

    def _noise(self) -> float:
        """Return the standard deviation of the jitter, in seconds.

        The estimate is 2.2 times the first quartile of the steps between errors. The exact factor is 2.22 for normal jitter and
        2.15 for uniform jitter. The first quartile does not change even if every second step is a lost packet.
        """
        return 2.2 * sorted(self._steps)[len(self._steps) // 4] if self._steps else 0.0

    def _place(self, block: Block, following: Iterable[Block]) -> Placed:
        move = 0.0
        if block.time is not None:
            error = block.time - self.start - self._next / self.sample_rate
            if self._expected is not None:
                self._steps.append(abs(block.time - self._expected))
            self._errors.append(error)
            move = self._correction(error, block.time, block.samples.size, following)
        samples = block.samples
        shift = round(move * self.sample_rate)
        if shift:
            self._errors.clear()
        if shift > 0:
            self.gaps = (self.gaps[0] + 1, self.gaps[1] + shift / self.sample_rate)
            self._next += shift
        elif shift < 0:
            cut = min(-shift, samples.size)
            self.overlaps = (self.overlaps[0] + 1, self.overlaps[1] + cut / self.sample_rate)
            samples = samples[cut:]
        self._expected = None if block.time is None else block.time + block.samples.size / self.sample_rate
        begin = self._next
        self._next += samples.size
        return Placed(begin, samples)

    def _correction(self, error: float, time: float, length: int, following: Iterable[Block]) -> float:
        """Return the seconds by which the audio from this block on must be moved; 0 if the position is accurate enough."""
        noise = self._noise()
        if abs(error) > max(TIMESTAMP_TOLERANCE, 4.0 * noise) and self._confirmed(error, time, length, following):
            return error
        if len(self._errors) == _STEADY:
            steady = median(self._errors)
            if abs(steady) > max(TIMESTAMP_TOLERANCE, 6.0 * noise / math.sqrt(_STEADY)):
                return steady
        return 0.0

    def _confirmed(self, error: float, time: float, length: int, following: Iterable[Block]) -> bool:
        """Return whether at least half of the next blocks continue from the time of this block, or jump further."""
        agree = asked = 0
        expected = time + length / self.sample_rate
        tolerance = max(TIMESTAMP_TOLERANCE, 2.0 * self._noise())
        for later in islice(following, _WITNESSES):
            if later.time is not None:
                asked += 1
                agree += math.copysign(1.0, error) * (later.time - expected) >= -tolerance
            expected += later.samples.size / self.sample_rate
        return 2 * agree >= asked
