"""Where decoded sound belongs on the clock: small errors of its timestamps are ignored, real gaps and overlaps are not.

A decoder hands out blocks of samples with timestamps. Timestamps are rounded (Matroska: to a millisecond), they wobble (live
recordings), they drift (a sound card that is not quite at its rate), and they jump (lost packets). Samples that follow one another
stay so as long as their timestamps agree to within ``TOLERANCE``; a jump that the blocks behind it confirm moves them, and so does a
steady deviation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from statistics import median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

#: Seconds by which a timestamp may be off without consequence; half of the error that an extracted clip may have.
TOLERANCE = 0.005
# Blocks behind a jump that are asked whether they jumped too.
_WITNESSES = 4
# Blocks over which a steady deviation is measured.
_STEADY = 24


class Block(NamedTuple):
    """Mono samples and when the file says they start, in seconds; None if it does not say."""

    time: float | None
    samples: FloatArray


class Placed(NamedTuple):
    """Mono samples and their place: the index of the first one at the sound's own rate, counted from the sound's start."""

    index: int
    samples: FloatArray


class SoundClock:
    """Lays blocks of samples on the clock.

    Attributes:
        start: Time of index 0, in seconds; that of the first block.
        gaps: Jumps forward so far, and their seconds: silence that the file leaves.
        overlaps: Jumps backward so far, and the seconds of sound that were cut because their place was taken.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.start = 0.0
        self.gaps: tuple[int, float] = (0, 0.0)
        self.overlaps: tuple[int, float] = (0, 0.0)
        self._next = 0
        self._errors: deque[float] = deque(maxlen=_STEADY)

    def place(self, blocks: Iterable[Block]) -> Iterator[Placed]:
        """Yield the blocks with their places, which never overlap."""
        waiting: deque[Block] = deque()
        source = iter(blocks)
        first = True
        while True:
            while len(waiting) <= _WITNESSES and (block := next(source, None)) is not None:
                waiting.append(block)
            if not waiting:
                return
            block = waiting.popleft()
            if first:
                self.start, first = block.time or 0.0, False
            placed = self._place(block, waiting)
            if placed.samples.size:
                yield placed

    def _place(self, block: Block, following: Iterable[Block]) -> Placed:
        error = None if block.time is None else block.time - self.start - self._next / self.sample_rate
        move = 0.0
        if error is not None:
            self._errors.append(error)
            if abs(error) > TOLERANCE and self._confirmed(block, following):
                move = error
            elif len(self._errors) == _STEADY and abs(median(self._errors)) > TOLERANCE:
                move = median(self._errors)
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
        index = self._next
        self._next += samples.size
        return Placed(index, samples)

    def _confirmed(self, block: Block, following: Iterable[Block]) -> bool:
        """Whether at least half of the next blocks go on from where ``block`` says it is."""
        agree = asked = 0
        expected = (block.time or 0.0) + block.samples.size / self.sample_rate
        for later in following:
            if later.time is not None:
                asked += 1
                agree += abs(later.time - expected) <= TOLERANCE
            expected += later.samples.size / self.sample_rate
        return 2 * agree >= asked
