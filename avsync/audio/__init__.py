"""Audio features: waveforms to log-mel energies, MFCCs or prosody, in plain PyTorch."""

from __future__ import annotations

from avsync.audio.features import MFCC, LogMel, SpeechFeatures, dct_matrix, log_mel, mel_filterbank, mfcc, normalise_waveform
from avsync.audio.prosody import Prosody, prosody
from avsync.audio.speech_models import SpeechModelFeatures, conv_clock, wav2vec2_features, whisper_features

__all__ = [
    "MFCC",
    "LogMel",
    "Prosody",
    "SpeechFeatures",
    "SpeechModelFeatures",
    "conv_clock",
    "dct_matrix",
    "log_mel",
    "mel_filterbank",
    "mfcc",
    "normalise_waveform",
    "prosody",
    "wav2vec2_features",
    "whisper_features",
]
