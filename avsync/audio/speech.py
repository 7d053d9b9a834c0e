"""Speech features selected by name in model configs: waveform normalisation followed by log-mel or MFCC."""

from __future__ import annotations

from torch import Tensor, nn

from avsync._checks import check_choice, check_shape
from avsync.audio.features import MFCC, LogMel, normalise_waveform

KINDS = ("log-mel", "mfcc")
"""Names of the features; both have 26 coefficients and 100 frames per second."""


class SpeechFeatures(nn.Module):
    """Audio features of normalised waveforms.

    Each clip is normalised by itself (:func:`avsync.audio.features.normalise_waveform`), then
    :class:`~avsync.audio.features.LogMel` or :class:`~avsync.audio.features.MFCC` follows. Both are differentiable.

    Args:
        kind: "log-mel" or "mfcc".

    Attributes:
        features: The module without the normalisation, for banks, which normalise waveforms.

    Raises:
        ArgumentError: ``kind`` is an unknown word.

    Example:
        >>> import torch
        >>> SpeechFeatures(kind="mfcc")(torch.zeros(2, 640 * 5)).shape
        torch.Size([2, 20, 26])

    Source: ours; the paper uses 26 MFCCs (section 4.1).
    """

    def __init__(self, *, kind: str = "log-mel") -> None:
        super().__init__()
        check_choice("kind", kind, KINDS)
        self.kind = kind
        self.features: LogMel | MFCC = LogMel() if kind == "log-mel" else MFCC()

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the features of clips.

        Args:
            waveform: (batch, samples) at 16 kHz, of any loudness.

        Returns:
            (batch, samples // 160, 26).

        Raises:
            ShapeError: ``waveform`` is not (batch, samples), not floating point, or an empty batch.
        """
        check_shape("waveform", waveform, "batch samples")
        return self.features(normalise_waveform(waveform))
