r"""Prosody: loudness, voicing, pitch and its slope, at the rate of the other audio features.

Pitch comes from the autocorrelation of windows of 50 ms, after P. Boersma (Proceedings of the Institute of Phonetic Sciences
17, 1993), without the search for the best path over frames.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync._checks import at_least_float32, check_count, check_floating, check_shape, check_some_clips, checked
from avsync.errors import ClipTooShortError

NUM_PROSODY = 4
"""Features of :func:`prosody`."""
_WINDOW, _FFT = 800, 2048  # samples
_LOWEST_HZ, _HIGHEST_HZ = 64.0, 400.0
_BAND_HZ = (50.0, 1000.0)
_OCTAVE_COST = 0.05
_VOICED = 0.5  # normalised autocorrelation
_LOUD_DB = 30.0  # below the loud frames of the clip
_FLOOR_DB = -70.0
_REFERENCE_HZ = 100.0
_SMOOTHED = 5  # frames
_STEEPEST = 4.0  # semitones within 40 ms


@checked
def prosody(waveform: Tensor, *, sample_rate: int = 16000, hop_length: int = 160) -> Tensor:
    r"""Compute loudness, voicing, pitch and the slope of the pitch, one frame per ``hop_length`` samples.

    The features are scaled to the magnitude of log-mel energies, about 10:

    - loudness: power of a window of 50 ms in decibels, at least -70;
    - voicing: 20 in voiced frames, else 0. A frame is voiced if its normalised autocorrelation exceeds 0.5 within 64 to 400
      Hz, its loudness is at most 30 dB below the loudest twentieth of the clip, and its pitch is within an octave of the
      clip's median;
    - pitch: semitones above the median of the clip, times 3, held through unvoiced frames and smoothed over 50 ms;
    - slope: change of the pitch within 40 ms in semitones, at most 4, times 6.

    Pauses are frames without loudness and voicing. No gradient flows through voicing, pitch and slope.

    Args:
        waveform: (batch, samples), floating point, in [-1, 1].
        sample_rate: Samples per second.
        hop_length: Samples from one frame to the next.

    Returns:
        (batch, samples // hop_length, 4); frame ``s`` is centred on sample ``hop_length * s``.

    Raises:
        ShapeError: ``waveform`` is not (batch, samples), not floating point, or an empty batch.
        ClipTooShortError: There are too few samples to pad by reflection.

    Example:
        >>> hertz = 100.0 + 100.0 * torch.linspace(0, 1, 16000)
        >>> rising = prosody(torch.sin(2 * torch.pi * hertz.cumsum(0) / 16000)[None])[0]
        >>> rising.shape, bool(rising[80, 2] > rising[20, 2] + 20)
        (torch.Size([100, 4]), True)

    Source: ours, after Boersma (1993).
    """
    check_shape("waveform", waveform, "batch samples")
    check_floating("waveform", waveform)
    check_some_clips("waveform", waveform)
    shortest = max(_WINDOW // 2 + 1, 5 * hop_length)
    if waveform.shape[1] < shortest:
        raise ClipTooShortError(f"`waveform`: expected at least {shortest} samples, got {tuple(waveform.shape)}")
    check_count("sample_rate", sample_rate, 1000)
    check_count("hop_length", hop_length)
    with torch.autocast(device_type=waveform.device.type, enabled=False):
        windows = _windows(at_least_float32(waveform), hop_length)
        level = (10.0 * torch.log10(windows.square().mean(dim=-1) + 1e-9)).clamp_min(_FLOOR_DB)
        with torch.no_grad():
            pitch, slope, voiced = _pitch(windows, level, sample_rate)
    return torch.stack([level, 20.0 * voiced, 3.0 * pitch, 6.0 * slope], dim=-1)


def _windows(waveform: Tensor, hop_length: int) -> Tensor:
    """Return Hann windows of the waveform, (batch, frames, samples of a window)."""
    reach = _WINDOW // 2
    padded = F.pad(waveform[:, None], (reach, reach), mode="reflect")[:, 0]
    frames = padded.unfold(1, _WINDOW, hop_length)[:, : waveform.shape[1] // hop_length]
    return frames * torch.hann_window(_WINDOW, dtype=waveform.dtype, device=waveform.device)


def _pitch(windows: Tensor, level: Tensor, sample_rate: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pitch in semitones from the clip's median, its slope, and voicing (0 or 1), each (batch, frames)."""
    device, dtype = windows.device, windows.dtype
    shortest, longest = int(sample_rate / _HIGHEST_HZ), int(sample_rate / _LOWEST_HZ)
    hertz = torch.fft.rfftfreq(_FFT, 1 / sample_rate, device=device)
    spectrum = torch.fft.rfft(windows, _FFT) * ((hertz > _BAND_HZ[0]) & (hertz < _BAND_HZ[1]))
    correlation = torch.fft.irfft(spectrum.abs().square(), _FFT)[..., : longest + 1]
    taper = torch.fft.rfft(torch.hann_window(_WINDOW, dtype=dtype, device=device), _FFT).abs().square()
    shape = torch.fft.irfft(taper, _FFT)[: longest + 1]
    correlation = correlation / correlation[..., :1].clamp_min(1e-9) / (shape / shape[0])
    lags = torch.arange(shortest, longest, device=device, dtype=dtype)
    strength = correlation[..., shortest:longest]
    best = (strength - _OCTAVE_COST * torch.log2(lags / shortest)).argmax(dim=-1, keepdim=True)
    voicing = strength.gather(-1, best)[..., 0]
    semitones = 12.0 * torch.log2(sample_rate / (best[..., 0] + shortest).to(dtype) / _REFERENCE_HZ)
    loud = level > level.quantile(0.95, dim=1, keepdim=True) - _LOUD_DB
    voiced = (voicing > _VOICED) & loud
    median = torch.where(voiced, semitones, math.nan).nanmedian(dim=1, keepdim=True).values
    semitones = semitones - median.nan_to_num()
    voiced = voiced & (semitones.abs() < 12.0)
    # Unvoiced frames hold the pitch of the last voiced frame, or of the first one if none came before.
    frame = torch.arange(level.shape[1], device=device).expand_as(level)
    last = torch.where(voiced, frame, -1).cummax(dim=1).values
    first = voiced.long().argmax(dim=1, keepdim=True)
    held = torch.where(voiced.any(dim=1, keepdim=True), semitones.gather(1, torch.where(last < 0, first, last)), 0.0)
    reach = _SMOOTHED // 2
    held = F.avg_pool1d(F.pad(held[:, None], (reach, reach), mode="replicate"), _SMOOTHED, 1)[:, 0]
    slope = F.pad(held[:, 2 * reach :] - held[:, : -2 * reach], (reach, reach))
    return held, slope.clamp(-_STEEPEST, _STEEPEST), voiced.to(dtype)


class Prosody(nn.Module):
    """Module form of :func:`prosody`.

    Args:
        sample_rate: Samples per second.
        hop_length: Samples from one frame to the next.

    Attributes:
        num_features: Number of features per frame, 4.
        n_mels: Number of bands whose gains :meth:`filter_offset` takes.

    Example:
        >>> Prosody()(torch.zeros(1, 6400)).shape
        torch.Size([1, 40, 4])

    Source: as :func:`prosody`.
    """

    num_features = NUM_PROSODY
    n_mels = 26

    def __init__(self, *, sample_rate: int = 16000, hop_length: int = 160) -> None:
        super().__init__()
        self.sample_rate, self.hop_length = sample_rate, hop_length

    @checked
    def filter_offset(self, db: Tensor) -> Tensor:
        """Convert gains of ``db`` decibels per mel band to an offset of the features: (..., n_mels) to (..., 4).

        The mean gain changes the loudness; a filter does not change the pitch.
        """
        check_floating("db", db)
        return F.pad(db.mean(dim=-1, keepdim=True), (0, NUM_PROSODY - 1))

    @checked
    def forward(self, waveform: Tensor) -> Tensor:
        """Compute features: (batch, samples) to (batch, samples // hop_length, 4)."""
        return prosody(waveform, sample_rate=self.sample_rate, hop_length=self.hop_length)
