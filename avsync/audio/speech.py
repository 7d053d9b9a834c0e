"""From a waveform to the features that a model was trained on, by the name its config keeps."""

from __future__ import annotations

from torch import Tensor, nn

from avsync._checks import check_choice
from avsync.audio.features import MFCC, LogMel, normalise_waveform

KINDS = ("log-mel", "mfcc")
"""Features that can be asked for by name, both of 26 coefficients 100 times per second."""


class SpeechFeatures(nn.Module):
    """:func:`avsync.audio.features.normalise_waveform`, then :class:`~avsync.audio.features.LogMel` or :class:`~avsync.audio.features.MFCC`.

    Both are differentiable; batches of clips are normalised clip by clip.

    Args:
        kind: "log-mel" or "mfcc".

    Attributes:
        features: The module behind the normalisation; banks normalise by themselves and take this one.

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
        """Features of clips.

        Args:
            waveform: (batch, samples) at 16 kHz, at any level.

        Returns:
            (batch, samples // 160, 26).
        """
        return self.features(normalise_waveform(waveform))
