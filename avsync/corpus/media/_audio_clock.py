"""Place of decoded audio on the clock: small errors of its timestamps are ignored, real gaps and overlaps are not.

A decoder hands out blocks of samples with timestamps. Timestamps are rounded (Matroska: to a millisecond), they wobble (live
recordings), they drift (sound card that is not quite at its rate), and they jump (lost packets). Samples that follow one another
stay so as long as their timestamps agree to within ``TIMESTAMP_TOLERANCE``, or to within the wobble that is usual in the file. A jump that the
blocks behind it confirm moves them, and so does a steady deviation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from statistics import median
from typing import NamedTuple

from avsync.corpus.media.info import FloatArray

#: Seconds by which a timestamp may be off without consequence; half of the error that an extracted clip may have.
TIMESTAMP_TOLERANCE = 0.005
# Blocks that are looked at ahead: for the time of the first one, and for the wobble.
_AHEAD = 16
# Blocks behind a jump that are asked whether they jumped too.
_WITNESSES = 4
# Blocks over which a steady deviation and the wobble are measured.
_STEADY = 48


class Block(NamedTuple):
    """Mono samples and when the file says that they start, in seconds; None if it does not say."""

    time: float | None
    samples: FloatArray


class Placed(NamedTuple):
    """Mono samples and their place: where the first one stands at the audio's own rate, counted from the audio's start."""

    begin: int
    samples: FloatArray


class AudioClock:
    """Lays blocks of samples on the clock.

    Attributes:
        start: Time of place 0, in seconds.
        gaps: Jumps forward so far, and their seconds: silence that the file leaves.
        overlaps: Jumps backward so far, and the seconds of audio that were cut because their place was taken.
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
        """Yield the blocks with their places, which never overlap."""
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
        """Find the start: the median of what the first blocks say of it, those behind a jump left out."""
        starts: list[float] = []
        before = 0.0
        for block in blocks:
            if block.time is not None:
                starts.append(block.time - before)
            before += block.samples.size / self.sample_rate
        # The wobble of the beginning is known before its first block is placed.
        self._steps.extend(abs(later - earlier) for earlier, later in pairwise(starts))
        near = [start for start in starts if abs(start - starts[0]) <= max(2 * TIMESTAMP_TOLERANCE, 4.0 * self._noise())]
        self.start = median(near) if near else 0.0

    def _noise(self) -> float:
        """Standard deviation of the wobble, in seconds.

        It is 2.2 first quartiles of the steps between errors (2.22 for a normal wobble, 2.15 for an even one), so that it stays what
        it is when every second step is a lost packet.
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
        """Seconds by which the audio has to move from here on; 0 if its place is good enough."""
        noise = self._noise()
        if abs(error) > max(TIMESTAMP_TOLERANCE, 4.0 * noise) and self._confirmed(error, time, length, following):
            return error
        if len(self._errors) == _STEADY:
            steady = median(self._errors)
            if abs(steady) > max(TIMESTAMP_TOLERANCE, 6.0 * noise / math.sqrt(_STEADY)):
                return steady
        return 0.0

    def _confirmed(self, error: float, time: float, length: int, following: Iterable[Block]) -> bool:
        """Return whether at least half of the next blocks go on from where this one says that it is, or have jumped farther still."""
        agree = asked = 0
        expected = time + length / self.sample_rate
        tolerance = max(TIMESTAMP_TOLERANCE, 2.0 * self._noise())
        for later in islice(following, _WITNESSES):
            if later.time is not None:
                asked += 1
                agree += math.copysign(1.0, error) * (later.time - expected) >= -tolerance
            expected += later.samples.size / self.sample_rate
        return 2 * agree >= asked
