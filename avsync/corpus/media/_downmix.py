"""Several channels of any sample format to one channel of float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from avsync.corpus.media.info import FloatArray

# Shares of a stereo mix by ITU-R BS.775 (centre and surround 3 dB down on each side), its two sides added; the left front counts one.
_SHARES = {"FL": 1.0, "FR": 1.0, "DL": 1.0, "DR": 1.0, "FC": math.sqrt(2.0), "LFE": 0.0, "LFE2": 0.0}
_SURROUND = math.sqrt(0.5)
# Share of the power of independent channels under which a mix counts as cancelled.
_CANCELLED = 0.01


def mix_weights(names: Sequence[str]) -> FloatArray:
    """Return the weight of each channel in the mono mix, by FFmpeg's channel names; they sum to one, so that nothing clips.

    Mono is itself and stereo the mean. Speech sits in the centre of 5.1 audio, which counts sqrt(2) times a front channel there, a
    surround channel 1 / sqrt(2) times; the low-frequency channel is left out.

    Example:
        >>> mix_weights(["FL", "FR"]).tolist()
        [0.5, 0.5]
        >>> [round(float(weight), 3) for weight in mix_weights(["FL", "FR", "FC", "LFE", "BL", "BR"])]
        [0.207, 0.207, 0.293, 0.0, 0.146, 0.146]
    """
    shares = np.array([_SHARES.get(name, _SURROUND) for name in names])
    if not shares.sum():
        shares = np.ones(len(names))
    return (shares / shares.sum()).astype(np.float32)


class Downmix:
    """Mixes decoded frames to mono, and notices channels that cancel each other, as the two of opposite phase do.

    Example:
        >>> Downmix().warning is None
        True
    """

    def __init__(self) -> None:
        self._power = 0.0
        self._expected = 0.0

    def __call__(self, frame: Any) -> FloatArray:
        """Return the samples (samples,) of a decoded frame in [-1, 1]: integers by their range, values that are no numbers as silence."""
        names = [channel.name for channel in frame.layout.channels]
        planes = frame.to_ndarray()
        if not frame.format.is_planar:
            planes = planes.reshape(-1, len(names)).T
        if planes.dtype == np.uint8:
            planes = (planes.astype(np.float32) - 128.0) / 128.0
        elif np.issubdtype(planes.dtype, np.integer):
            planes = planes.astype(np.float32) / float(-int(np.iinfo(planes.dtype).min))
        planes = np.nan_to_num(planes.astype(np.float32, copy=False), nan=0.0, posinf=0.0, neginf=0.0)
        if len(names) == 1:
            return np.clip(planes[0], -1.0, 1.0)
        weights = mix_weights(names)
        mono = np.clip(weights @ planes, -1.0, 1.0)
        self._power += float(np.vdot(mono, mono))
        self._expected += float(np.square(weights[:, None] * np.clip(planes, -1.0, 1.0)).sum(dtype=np.float64))
        return mono

    @property
    def warning(self) -> str | None:
        """The warning that the channels cancel; None if they do not.

        Independent channels add their powers. A mix with less than a hundredth of that sum, -20 dB, has lost what the channels hold.
        """
        if self._power >= _CANCELLED * self._expected:
            return None
        loss = 10.0 * math.log10(max(self._power, 1e-20) / self._expected)
        return f"the channels cancel each other in the mono mix ({max(loss, -99.0):.0f} dB of their power is left): opposite phase?"
