"""SyncNet's audio features: 13 cepstral coefficients every 10 ms, as in the package python_speech_features.

SyncNet was trained on that package's ``mfcc(samples, 16000)`` of 16-bit samples, so other features (from
:mod:`avsync.audio.features`, torchaudio or librosa) give meaningless embeddings. The recipe: pre-emphasis, frames of 25 ms
every 10 ms that are **not** centred and not tapered, a power spectrum over 512 points divided by 512, 26 triangular filters
whose corners are rounded down to bins, natural logarithm, orthonormal DCT-II, the first 13 coefficients, a sinusoidal lifter,
and the logarithm of the frame's energy in the place of the first coefficient.

Frame ``s`` covers the samples from ``160 s`` to ``160 s + 399``: 5 video frames of 40 ms and 20 frames of audio start together,
and the audio reaches 7.5 ms further.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from avsync._checks import check_floating, check_shape, check_some_clips, checked
from avsync.audio.features import dct_matrix, power_spectrum
from avsync.errors import ClipTooShortError
from avsync.pyramid import SAMPLE_RATE

FRAME_LENGTH = 400
"""Samples per frame of features."""
HOP_LENGTH = 160
"""Samples from one frame to the next."""
NUM_COEFFICIENTS = 13
"""Coefficients per frame."""
_N_FFT = 512
_BANDS = 26
_PREEMPHASIS = 0.97
_LIFTER = 22
_FULL_SCALE = 32768.0
_TINY = 2.0**-52  # replaces a power of zero before the logarithm: float64's epsilon for every dtype


def _rounded_filterbank() -> Tensor:
    """(257, 26): triangles between neighbouring corners, each rounded down to a bin of a transform of 513 points."""
    top = 2595.0 * math.log10(1.0 + SAMPLE_RATE / 2 / 700.0)
    mels = torch.linspace(0.0, top, _BANDS + 2, dtype=torch.float64, device="cpu")
    corners = torch.floor((_N_FFT + 1) * 700.0 * (10.0 ** (mels / 2595.0) - 1.0) / SAMPLE_RATE)
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    bins = torch.arange(_N_FFT // 2 + 1, dtype=torch.float64, device="cpu")[:, None]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    # The last corner, 8 kHz, is bin 256 and has weight 0; a bin that is a corner belongs to the falling side.
    return torch.where(bins < centre, rising, falling).clamp_min(0.0)


@checked
def num_mfcc_frames(samples: int) -> int:
    """Return the number of frames of features that lie wholly inside ``samples`` samples.

    Args:
        samples: Number of samples at 16 kHz.

    Returns:
        The number of frames, 0 for less than one.

    Example:
        >>> num_mfcc_frames(640 * 25)
        98
    """
    return max(0, 1 + (samples - FRAME_LENGTH) // HOP_LENGTH)


@checked
def syncnet_mfcc(waveform: Tensor, *, quantise: bool = True) -> Tensor:
    """Compute SyncNet's audio features of whole clips.

    Only frames that lie wholly inside the audio are returned; python_speech_features adds a last frame padded with zeros, which
    no window of SyncNet's script ever reaches.

    Args:
        waveform: (batch, samples) in [-1, 1], 16 kHz.
        quantise: Round to 16 bits first, as the audio files of the published scripts are. Rounding makes digital silence
            exactly silent; disable it for gradients, because rounding has no gradient.

    Returns:
        (batch, frames, 13), float32 (float64 for float64), with :func:`num_mfcc_frames` frames.

    Raises:
        ShapeError: ``waveform`` is not (batch, samples) or not floating point.
        ClipTooShortError: Fewer than 400 samples.

    Example:
        >>> syncnet_mfcc(torch.zeros(2, 16000)).shape
        torch.Size([2, 98, 13])

    Source: the published script (Chung and Zisserman, "Out of time: automated lip sync in the wild", 2016), with the defaults
    of python_speech_features 0.6.
    """
    check_shape("waveform", waveform, "batch samples")
    check_floating("waveform", waveform)
    check_some_clips("waveform", waveform)
    if waveform.shape[1] < FRAME_LENGTH:
        raise ClipTooShortError(f"`waveform`: expected at least {FRAME_LENGTH} samples, got {waveform.shape[1]}")
    precise = torch.float32 if waveform.device.type == "mps" else torch.float64
    with torch.autocast(device_type=waveform.device.type, enabled=False):
        samples = waveform.to(precise) * _FULL_SCALE
        if quantise:
            samples = samples.round().clamp(-_FULL_SCALE, _FULL_SCALE - 1)
        emphasised = torch.cat([samples[:, :1], samples[:, 1:] - _PREEMPHASIS * samples[:, :-1]], dim=1)
        frames = emphasised.unfold(1, FRAME_LENGTH, HOP_LENGTH)
        power = power_spectrum(torch.fft.rfft(frames, _N_FFT)) / _N_FFT
        energy = _log(power.sum(dim=-1, keepdim=True))
        bands = _log(power @ _rounded_filterbank().to(power))
        cepstrum = bands @ dct_matrix(n_mfcc=NUM_COEFFICIENTS, n_mels=_BANDS, dtype=torch.float64).to(power)
        order = torch.arange(NUM_COEFFICIENTS, dtype=precise, device=waveform.device)
        lifted = cepstrum * (1.0 + _LIFTER / 2 * torch.sin(math.pi / _LIFTER * order))
        features = torch.cat([energy, lifted[..., 1:]], dim=-1)
    return features.to(torch.promote_types(waveform.dtype, torch.float32))


def _log(power: Tensor) -> Tensor:
    return torch.where(power == 0, _TINY, power).log()
