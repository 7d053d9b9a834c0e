"""Right calls of the audio features."""

from __future__ import annotations

import torch

from avsync import audio as room
from tests.right_calls import Call

WAVEFORM = 0.1 * torch.randn(2, 6400, generator=torch.Generator().manual_seed(0))
DB = torch.randn(2, 10, 26)


def encode(waveform: torch.Tensor) -> torch.Tensor:
    """Features at 50 frames per second."""
    return waveform.unfold(1, 320, 320)[..., :4]


CALLS = {
    "Prosody": Call(room.Prosody, {}),
    "Prosody.filter_offset": Call(room.Prosody().filter_offset, {"db": DB}),
    "Prosody.forward": Call(room.Prosody().forward, {"waveform": WAVEFORM}),
    "prosody": Call(room.prosody, {"waveform": WAVEFORM}),
    "conv_clock": Call(room.conv_clock, {"kernels": [10, 3], "strides": [5, 2]}),
    "SpeechModelFeatures": Call(room.SpeechModelFeatures, {"encode": encode, "model_rate": 50.0}),
    "SpeechModelFeatures.forward": Call(room.SpeechModelFeatures(encode, model_rate=50.0).forward, {"waveform": WAVEFORM}),
    "SpeechModelFeatures.train": Call(room.SpeechModelFeatures(encode, model_rate=50.0).train, {}),
    "MFCC": Call(room.MFCC, {}),
    "MFCC.filter_offset": Call(room.MFCC().filter_offset, {"db": torch.randn(2, 10, 40)}),
    "MFCC.forward": Call(room.MFCC().forward, {"waveform": WAVEFORM}),
    "LogMel": Call(room.LogMel, {}),
    "LogMel.filter_offset": Call(room.LogMel().filter_offset, {"db": DB}),
    "LogMel.gain_offset": Call(room.LogMel().gain_offset, {"db": DB[..., 0]}),
    "LogMel.forward": Call(room.LogMel().forward, {"waveform": WAVEFORM}),
    "SpeechFeatures": Call(room.SpeechFeatures, {}),
    "SpeechFeatures.forward": Call(room.SpeechFeatures().forward, {"waveform": WAVEFORM}),
    "dct_matrix": Call(room.dct_matrix, {}),
    "log_mel": Call(room.log_mel, {"waveform": WAVEFORM}),
    "mel_filterbank": Call(room.mel_filterbank, {}),
    "mfcc": Call(room.mfcc, {"waveform": WAVEFORM}),
    "normalise_waveform": Call(room.normalise_waveform, {"waveform": WAVEFORM}),
}
