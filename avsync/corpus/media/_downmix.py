"""Several channels of any sample format to one channel of float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

# Shares of a stereo mix by ITU-R BS.775 (centre and surround 3 dB down on each side), its two sides added; the left front counts one.
_SHARES = {"FL": 1.0, "FR": 1.0, "DL": 1.0, "DR": 1.0, "FC": math.sqrt(2.0), "LFE": 0.0, "LFE2": 0.0}
_SURROUND = math.sqrt(0.5)


def mix_weights(names: Sequence[str]) -> FloatArray:
    """The weight of each channel in the mono mix, by FFmpeg's channel names; they sum to one, so that nothing clips.

    Mono is itself and stereo the mean. Speech sits in the centre of 5.1 sound, which counts sqrt(2) times a front channel there, a
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


def to_mono(frame: Any) -> FloatArray:
    """The samples (samples,) of a decoded frame in [-1, 1]: integers by their range, values that are no numbers as silence."""
    names = [channel.name for channel in frame.layout.channels]
    planes = frame.to_ndarray()
    if not frame.format.is_planar:
        planes = planes.reshape(-1, len(names)).T
    if planes.dtype == np.uint8:
        planes = (planes.astype(np.float32) - 128.0) / 128.0
    elif np.issubdtype(planes.dtype, np.integer):
        planes = planes.astype(np.float32) / float(-int(np.iinfo(planes.dtype).min))
    mono = planes[0].astype(np.float32) if len(names) == 1 else mix_weights(names) @ planes.astype(np.float32)
    return np.clip(np.nan_to_num(mono, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)
