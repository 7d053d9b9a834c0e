"""Audio features: waveforms to log-mel energies or MFCCs, in plain PyTorch."""

from __future__ import annotations

from avsync.audio.features import MFCC, LogMel, SpeechFeatures, dct_matrix, log_mel, mel_filterbank, mfcc, normalise_waveform

__all__ = [
    "MFCC",
    "LogMel",
    "SpeechFeatures",
    "dct_matrix",
    "log_mel",
    "mel_filterbank",
    "mfcc",
    "normalise_waveform",
]
