"""Conversion of several channels of any sample format to one channel of float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from avsync.corpus.media.info import FloatArray

# Channel weights: the sum of both sides of an ITU-R BS.775 stereo mix (centre and surround 3 dB down), with front left as 1.
_SHARES = {"FL": 1.0, "FR": 1.0, "DL": 1.0, "DR": 1.0, "FC": math.sqrt(2.0), "LFE": 0.0, "LFE2": 0.0}
_SURROUND = math.sqrt(0.5)
# A mix with less than this fraction of the power of independent channels counts as cancelled.
_CANCELLED = 0.01


def mix_weights(names: Sequence[str]) -> FloatArray:
    r"""Return the weight of each channel in the mono mix, from FFmpeg's channel names.

    The weights sum to one, so the mix does not clip. Mono is unchanged, and stereo becomes the mean of both channels. In 5.1
    audio, the centre channel, which carries speech, has :math:`\sqrt{2}` times the weight of a front channel. A surround
    channel has :math:`1 / \sqrt{2}` times this weight. The low-frequency channel is ignored.

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
    """Mono downmix of decoded frames, with detection of channels that cancel each other (opposite phase).

    Example:
        >>> Downmix().warning is None
        True
    """

    def __init__(self) -> None:
        self._power = 0.0
        self._expected = 0.0

    def __call__(self, frame: Any) -> FloatArray:
        """Return the samples (samples,) of a decoded frame in [-1, 1].

        Integers are divided by their range. NaN and infinity become silence.
        """
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
        """Warning that the channels cancel each other; None if they do not.

        The powers of independent channels add up. Channels count as cancelled if the mix has less than 1 % (-20 dB) of this
        sum.
        """
        if self._power >= _CANCELLED * self._expected:
            return None
        loss = 10.0 * math.log10(max(self._power, 1e-20) / self._expected)
        return (
            f"the channels cancel each other in the mono mix ({max(loss, -99.0):.0f} dB of their power is left): "
            "opposite phase?"
        )
