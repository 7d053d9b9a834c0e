"""The two constant matrices behind the audio features: triangular filters on the mel scale, and the cosine transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from avsync._checks import check_positive
from avsync.errors import ArgumentError


def _hertz_to_mel(hertz: float) -> float:
    return 2595.0 * math.log10(1.0 + hertz / 700.0)


def mel_filterbank(
    *,
    n_mels: int = 26,
    n_fft: int = 400,
    sample_rate: int = 16000,
    f_min: float = 0.0,
    f_max: float | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """Triangular filters, evenly spaced on the HTK mel scale, each with a peak of 1 and no area normalisation.

    Args:
        n_mels: Number of filters.
        n_fft: Length of the Fourier transform, in samples.
        sample_rate: Samples a second.
        f_min: Lowest frequency, in hertz.
        f_max: Highest frequency, in hertz; half the sample rate by default.
        dtype, device: Of the result, which is always computed in float64 on the CPU.

    Returns:
        (n_fft // 2 + 1, n_mels): the weight of each frequency bin in each filter.

    Raises:
        ArgumentError: A size is not positive, or not 0 <= f_min < f_max <= sample_rate / 2.

    Example:
        >>> mel_filterbank(n_mels=26).shape
        torch.Size([201, 26])

    Source: the HTK book's scale, as torchaudio has it by default (``mel_scale="htk"``, ``norm=None``).
    """
    for name, value in (("n_mels", n_mels), ("n_fft", n_fft), ("sample_rate", sample_rate)):
        check_positive(name, value)
    top = sample_rate / 2 if f_max is None else float(f_max)
    if not 0 <= f_min < top <= sample_rate / 2:
        raise ArgumentError(f"`f_min`, `f_max`: expected 0 <= f_min < f_max <= {sample_rate / 2}, got {f_min!r} and {f_max!r}")
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64, device="cpu") * sample_rate / n_fft
    mels = torch.linspace(_hertz_to_mel(f_min), _hertz_to_mel(top), n_mels + 2, dtype=torch.float64, device="cpu")
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - low) / (centre - low)
    falling = (high - bins[:, None]) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0.0).to(dtype=dtype, device=device)


def dct_matrix(
    *, n_mfcc: int = 26, n_mels: int = 40, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """The first columns of the orthonormal DCT-II: ``mfcc = log_mel @ dct_matrix(...)``.

    Args:
        n_mfcc: Number of coefficients kept.
        n_mels: Number of mel bands.
        dtype, device: Of the result, which is always computed in float64 on the CPU.

    Returns:
        (n_mels, n_mfcc), columns orthonormal.

    Raises:
        ArgumentError: A size is not positive, or more coefficients than bands are asked for.

    Example:
        >>> basis = dct_matrix(n_mfcc=3, n_mels=8)
        >>> torch.allclose(basis.T @ basis, torch.eye(3), atol=1e-6)
        True

    Source: the textbook definition; torchaudio's ``norm="ortho"``.
    """
    check_positive("n_mfcc", n_mfcc)
    if n_mfcc > n_mels:
        raise ArgumentError(f"`n_mfcc`: expected at most n_mels = {n_mels}, got {n_mfcc}")
    band = torch.arange(n_mels, dtype=torch.float64, device="cpu")[:, None]
    order = torch.arange(n_mfcc, dtype=torch.float64, device="cpu")
    basis = torch.cos(math.pi / n_mels * (band + 0.5) * order) * math.sqrt(2.0 / n_mels)
    basis[:, 0] *= math.sqrt(0.5)
    return basis.to(dtype=dtype, device=device)
