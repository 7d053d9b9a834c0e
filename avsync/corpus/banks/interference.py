"""Background noise and other voices, added to log-mel features instead of to waveforms."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from avsync._checks import check_shape
from avsync.errors import ArgumentError

_TILT_DB, _CURVE_DB, _CURVE_POINTS = 12.0, 3.0, 6
"""Spectrum of steady noise: standard deviation of the slope over all bands and of a smooth curve; points of the curve."""
_BANDWIDTH_DB = 8.0  # the highest mel band is about 6 times as wide as the lowest, so white noise has more power there
_VOICES = 4  # largest number of other crops of the batch in a mixture
_VOICE_SHARE = 0.6  # share of the crops with each voice after the first; all crops have the first
_FLOOR = 0.05  # share of the summed powers that remains at least when two waves cancel


def add_interference(
    audio: Tensor, *, share: float, snr_db: tuple[float, float] = (0.0, 20.0), generator: torch.Generator | None = None
) -> Tensor:
    r"""Add steady noise or the voices of other crops of the batch to a random share of the crops.

    In each band, the powers :math:`S` of the speech and :math:`N` of the interference are added, together with the product of
    their amplitudes at a random phase :math:`\varphi`: :math:`10 \log_{10}(S + N + 2 \sqrt{S N / k} \cos \varphi)`, where
    :math:`k` is the number of independent components of the band.

    Args:
        audio: Log-mel energies in decibels, (batch, audio_frames, n_mels).
        share: Share of the crops that are changed; half of them get steady noise of a random color, half 1 to 4 voices.
        snr_db: Smallest and largest signal-to-noise ratio of a crop, in decibels; drawn uniformly.
        generator: Random generator, on any device; torch's own if None.

    Returns:
        (batch, audio_frames, n_mels).

    Raises:
        ArgumentError: ``snr_db`` is not (smallest, largest).

    Example:
        >>> quiet = torch.full((2, 40, 26), -30.0)
        >>> louder = add_interference(quiet, share=1.0, snr_db=(0.0, 0.0), generator=torch.Generator().manual_seed(0))
        >>> bool((louder.mean() > quiet.mean()).item())
        True

    Source: ours.
    """
    check_shape("audio", audio, "batch audio_frames n_mels")
    if snr_db[1] < snr_db[0]:
        raise ArgumentError(f"`snr_db`: expected (smallest, largest), got {snr_db!r}")
    batch, frames, bands = audio.shape
    device = audio.device if generator is None else generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device).to(audio)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(audio)

    def exponential() -> Tensor:
        return -(1.0 - uniform(batch, frames, bands)).log()

    power = 10.0 ** (audio / 10.0)
    position = torch.linspace(0.0, 1.0, bands, device=audio.device)
    curve = F.interpolate(normal(batch, 1, _CURVE_POINTS), size=bands, mode="linear", align_corners=True)
    color = _TILT_DB * normal(batch, 1, 1) * (position - 0.5) + _CURVE_DB * curve + _BANDWIDTH_DB * position
    # The power of noise fluctuates less in wider bands: it is a mean of two independent components in the lowest band and of
    # about seven in the highest.
    components = 1.0 + 6.0 * position.square()
    fluctuation = 1.0 + (exponential() - 1.0) / components.sqrt()
    steady = 10.0 ** (color / 10.0) * fluctuation.clamp_min(0.0)

    def level(x: Tensor) -> Tensor:
        return x.sum(dim=-1, keepdim=True).mean(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)

    voices = torch.zeros_like(power)
    for number in range(1, _VOICES + 1):
        # Also shifted in time, so that overlapping crops of one recording are not added in phase.
        shift = int(torch.randint(frames, (), generator=generator, device=device))
        other = power.roll((number, shift), dims=(0, 1))
        present = uniform(batch, 1, 1) < (1.0 if number == 1 else _VOICE_SHARE)
        voices = voices + present * other / level(other)
    noise = torch.where(uniform(batch, 1, 1) < 0.5, voices, steady)
    ratio = snr_db[0] + (snr_db[1] - snr_db[0]) * uniform(batch, 1, 1)
    noise = noise * level(power) / level(noise) * 10.0 ** (-ratio / 10.0)
    together = power + noise
    product = 2.0 * (power * noise / components).sqrt() * torch.cos(2.0 * math.pi * uniform(batch, frames, bands))
    mixed = 10.0 * torch.log10(torch.maximum(together + product, _FLOOR * together).clamp_min(1e-10))
    return torch.where(uniform(batch, 1, 1) < share, mixed, audio)
