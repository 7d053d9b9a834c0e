"""Audio features: log-mel energies and MFCCs, on ``torch.stft``, differentiable and batched, and their choice by name.

The library relies on this alignment: audio frame ``s`` is centred on sample ``hop_length * s``. With the defaults (16 kHz, hop
160) there are 100 frames per second, motion frame ``k`` of a 25 fps clip is at sample ``640 k``, and audio frame ``4 k`` is
centred on the same sample. A clip of ``640 T`` samples has exactly ``4 T`` frames. A centred transform has one more frame,
centred on the sample after the last one; this frame is dropped. The ends are padded by reflection.

The numbers agree with ``torchaudio.transforms.MelSpectrogram`` followed by decibels, and with ``torchaudio.transforms.MFCC``,
for the same parameters (HTK mel scale, filters not normalised, power spectrum, periodic Hann window).
"""

from __future__ import annotations

import math
import warnings
from typing import cast

import torch
from torch import Tensor, nn

from avsync._checks import (
    at_least_float32,
    check_choice,
    check_count,
    check_floating,
    check_positive,
    check_same_device,
    check_shape,
    check_some_clips,
    checked,
    describe_shape,
    is_tensor,
)
from avsync.audio.prosody import NUM_PROSODY, Prosody
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError


def _hertz_to_mel(hertz: float) -> float:
    return 2595.0 * math.log10(1.0 + hertz / 700.0)


@checked
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
    """Return triangular filters, evenly spaced on the HTK mel scale, each with a peak of 1 and without area normalisation.

    Args:
        n_mels: Number of filters.
        n_fft: Length of the Fourier transform, in samples.
        sample_rate: Samples per second.
        f_min: Lowest frequency, in hertz.
        f_max: Highest frequency, in hertz; half the sample rate by default.
        dtype, device: Dtype and device of the result, which is computed in float64 on the CPU.

    Returns:
        (n_fft // 2 + 1, n_mels): the weight of each frequency bin in each filter.

    Raises:
        ArgumentError: A size is not positive, or not 0 <= f_min < f_max <= sample_rate / 2.

    Example:
        >>> mel_filterbank(n_mels=26).shape
        torch.Size([201, 26])

    Source: the scale of the HTK book, the default of torchaudio (``mel_scale="htk"``, ``norm=None``).
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


@checked
def dct_matrix(
    *, n_mfcc: int = 26, n_mels: int = 40, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """Return the first columns of the orthonormal DCT-II, a matrix that turns log-mel energies into MFCCs.

    Args:
        n_mfcc: Number of coefficients kept.
        n_mels: Number of mel bands.
        dtype, device: Dtype and device of the result, which is computed in float64 on the CPU.

    Returns:
        (n_mels, n_mfcc), columns orthonormal.

    Raises:
        ArgumentError: A size is not positive, or there are more coefficients than bands.

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


def _check_framing(n_fft: int, win_length: int, hop_length: int) -> None:
    check_count("hop_length", hop_length)
    check_count("win_length", win_length)
    if win_length > n_fft:
        raise ArgumentError(f"`win_length`: expected a number from 1 to n_fft = {n_fft}, got {win_length}")


def power_spectrum(spectrum: Tensor) -> Tensor:
    """Return the squared magnitude of a complex spectrum; a sum over its two parts as an axis takes five times as long."""
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return real.square() + imaginary.square()


@checked
def log_mel(
    waveform: Tensor,
    *,
    sample_rate: int = 16000,
    n_fft: int = 400,
    win_length: int = 400,
    hop_length: int = 160,
    n_mels: int = 26,
    f_min: float = 0.0,
    f_max: float | None = None,
    amin: float = 1e-10,
    top_db: float | None = None,
    window: Tensor | None = None,
    filterbank: Tensor | None = None,
) -> Tensor:
    r"""Compute mel energies in decibels, :math:`10 \log_{10} \max(P, a)`, one frame per ``hop_length`` samples.

    :math:`P` is the mel power and :math:`a` is ``amin``. The computation is in at least float32 for any input and under
    autocast, because some devices have no FFT in half precision.

    Args:
        waveform: (batch, samples), floating point, in [-1, 1].
        sample_rate: Samples per second. A wrong rate cannot be detected from the samples; it causes a wrong number of frames.
        n_fft: Length of the Fourier transform, in samples.
        win_length: Length of the periodic Hann window, in samples; at most ``n_fft``.
        hop_length: Samples from one frame to the next.
        n_mels: Number of mel bands.
        f_min: Lowest frequency, in hertz.
        f_max: Highest frequency, in hertz; half the sample rate by default.
        amin: Floor of the mel power before the logarithm.
        top_db: Values more than this many decibels below the maximum of **their own clip** are raised to that floor (torchaudio
            takes the maximum of the whole batch, so that the features of a clip depend on its neighbours). None, the default,
            has no floor, because a floor that depends on the rest of the clip makes the features of a window differ between a
            whole clip, a crop of it and a stream.
        window: (win_length,) instead of the Hann window; modules pass their buffer here.
        filterbank: (n_fft // 2 + 1, n_mels) instead of :func:`mel_filterbank`; modules pass their buffer here.

    Returns:
        (batch, samples // hop_length, n_mels), in decibels; frame ``s`` is centred on sample ``hop_length * s``.

    Raises:
        ShapeError: ``waveform`` is not (batch, samples), not floating point, or an empty batch.
        ClipTooShortError: There are too few samples to pad by reflection.
        ArgumentError: ``waveform`` is not on the device of the window or the filterbank.

    Example:
        >>> log_mel(torch.zeros(2, 640 * 5)).shape
        torch.Size([2, 20, 26])

    Source: paper section 4 (26 features); the decibel scale is that of torchaudio.
    """
    check_shape("waveform", waveform, "batch samples")
    check_floating("waveform", waveform)
    check_some_clips("waveform", waveform)
    _check_framing(n_fft, win_length, hop_length)
    if window is not None:
        check_shape("window", window, "samples", samples=win_length)
    if filterbank is not None:
        check_shape("filterbank", filterbank, "frequencies bands", frequencies=n_fft // 2 + 1)
    for buffer in (window, filterbank):
        if buffer is not None:
            check_same_device("waveform", waveform, buffer.device, "the features' window and filters")
    shortest = max(n_fft // 2 + 1, hop_length)
    if waveform.shape[1] < shortest:
        raise ClipTooShortError(
            f"`waveform`: expected at least {shortest} samples (n_fft = {n_fft}), got {tuple(waveform.shape)}"
        )
    with torch.autocast(device_type=waveform.device.type, enabled=False):
        x = at_least_float32(waveform)
        if window is None:
            window = torch.hann_window(win_length, dtype=x.dtype, device=x.device)
        if filterbank is None:
            bands = mel_filterbank(n_mels=n_mels, n_fft=n_fft, sample_rate=sample_rate, f_min=f_min, f_max=f_max, dtype=x.dtype)
            filterbank = bands.to(x.device)
        # The defaults are center=True and pad_mode="reflect".
        spectrum = torch.stft(x, n_fft, hop_length, win_length, window.to(x.dtype), return_complex=True)
        mel = power_spectrum(spectrum[..., : x.shape[1] // hop_length]).transpose(1, 2) @ filterbank.to(x.dtype)
        decibels = 10.0 * torch.log10(mel.clamp(min=amin))
        if top_db is not None:
            decibels = torch.maximum(decibels, decibels.amax(dim=(1, 2), keepdim=True) - top_db)
        return decibels


@checked
def mfcc(
    waveform: Tensor,
    *,
    sample_rate: int = 16000,
    n_fft: int = 400,
    win_length: int = 400,
    hop_length: int = 160,
    n_mels: int = 40,
    n_mfcc: int = 26,
    f_min: float = 0.0,
    f_max: float | None = None,
    amin: float = 1e-10,
    top_db: float | None = None,
    window: Tensor | None = None,
    filterbank: Tensor | None = None,
    dct: Tensor | None = None,
) -> Tensor:
    """Compute mel-frequency cepstral coefficients: the orthonormal DCT-II of :func:`log_mel`.

    Args:
        waveform: (batch, samples), floating point, in [-1, 1].
        n_mels: Number of mel bands under the cosine transform.
        n_mfcc: Number of coefficients kept.
        dct: (n_mels, n_mfcc) instead of :func:`dct_matrix`; modules pass their buffer here.
        sample_rate, n_fft, win_length, hop_length, f_min, f_max, amin, top_db, window, filterbank: As in :func:`log_mel`.

    Returns:
        (batch, samples // hop_length, n_mfcc); frame ``s`` is centred on sample ``hop_length * s``.

    Raises:
        ShapeError: ``waveform`` is not (batch, samples) or not floating point.
        ClipTooShortError: There are too few samples to pad by reflection.

    Example:
        >>> mfcc(torch.zeros(2, 640 * 5)).shape
        torch.Size([2, 20, 26])

    Source: paper section 4 (26 coefficients, window 400, hop 160, 16 kHz); the 40 bands are ours.
    """
    bands = log_mel(
        waveform,
        sample_rate=sample_rate,
        n_fft=n_fft,
        win_length=win_length,
        hop_length=hop_length,
        n_mels=n_mels,
        f_min=f_min,
        f_max=f_max,
        amin=amin,
        top_db=top_db,
        window=window,
        filterbank=filterbank,
    )
    if dct is not None:
        check_shape("dct", dct, "bands coeffs", bands=bands.shape[-1])
    if dct is None:
        dct = dct_matrix(n_mfcc=n_mfcc, n_mels=n_mels, dtype=bands.dtype, device=bands.device)
    return _cepstrum(bands, dct)


def _cepstrum(bands: Tensor, dct: Tensor) -> Tensor:
    """Transform log-mel energies (..., n_mels) to coefficients (..., n_mfcc), in full precision under autocast too."""
    with torch.autocast(device_type=bands.device.type, enabled=False):
        return bands @ dct.to(bands.dtype)


def normalise_waveform(waveform: Tensor) -> Tensor:
    """Remove each clip's mean and scale its peak to 1; a silent (or constant) clip becomes zeros.

    Args:
        waveform: (..., samples), floating point.

    Returns:
        The same shape, each clip in [-1, 1] with a largest magnitude of 1, in at least float32.

    Raises:
        ShapeError: Not floating point, or no samples.

    Example:
        >>> normalise_waveform(torch.tensor([[0.0, 0.5, 0.1, 0.2], [0.0, 0.0, 0.0, 0.0]])).abs().amax(dim=-1)
        tensor([1., 0.])

    Source: the preprocessing of the authors' code.
    """
    if not is_tensor(waveform):
        raise ShapeError(f"`waveform`: expected a tensor (..., samples), got {describe_shape(waveform)}")
    check_floating("waveform", waveform)
    if waveform.ndim == 0 or waveform.shape[-1] == 0:
        raise ClipTooShortError(f"`waveform`: expected (..., samples) with at least 1 sample, got {tuple(waveform.shape)}")
    waveform = at_least_float32(waveform)
    centred = waveform - waveform.mean(dim=-1, keepdim=True)
    peak = centred.abs().amax(dim=-1, keepdim=True)
    # The rest of a constant clip is rounding error, which must not be scaled to a peak of 1.
    floor = 16 * torch.finfo(waveform.dtype).eps * waveform.abs().amax(dim=-1, keepdim=True)
    audible = peak > floor
    return centred * (audible / torch.where(audible, peak, 1.0))


class LogMel(nn.Module):
    """Module form of :func:`log_mel`, with its window and filters as buffers.

    Args:
        sample_rate, n_fft, win_length, hop_length, n_mels, f_min, f_max, amin, top_db: As in :func:`log_mel`.

    Attributes:
        num_features: Number of features per frame.
        sample_rate: Samples per second.
        hop_length: Samples from one frame to the next.
        frame_rate: Frames per second.

    Raises:
        ArgumentError: A size is out of its range.

    Example:
        >>> features = LogMel()
        >>> features(torch.zeros(1, 6400)).shape, features.frame_rate
        (torch.Size([1, 40, 26]), 100.0)

    Source: as :func:`log_mel`.
    """

    window: Tensor
    filterbank: Tensor

    @checked
    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        n_fft: int = 400,
        win_length: int = 400,
        hop_length: int = 160,
        n_mels: int = 26,
        f_min: float = 0.0,
        f_max: float | None = None,
        amin: float = 1e-10,
        top_db: float | None = None,
    ) -> None:
        super().__init__()
        _check_framing(n_fft, win_length, hop_length)
        check_positive("amin", amin)
        if top_db is not None:
            check_positive("top_db", top_db)
        filterbank = mel_filterbank(n_mels=n_mels, n_fft=n_fft, sample_rate=sample_rate, f_min=f_min, f_max=f_max)
        empty = int((filterbank.amax(dim=0) == 0).sum())
        if empty:
            warnings.warn(
                f"{empty} of {n_mels} mel bands hold no frequency bin; use fewer bands or a larger n_fft", stacklevel=2
            )
        self.sample_rate, self.n_fft, self.win_length, self.hop_length = sample_rate, n_fft, win_length, hop_length
        self.n_mels, self.amin, self.top_db = n_mels, amin, top_db
        self.num_features = n_mels
        self.register_buffer("window", torch.hann_window(win_length), persistent=False)
        self.register_buffer("filterbank", filterbank, persistent=False)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    def filter_offset(self, db: Tensor) -> Tensor:
        """Convert gains of ``db`` decibels per mel band to an offset of the features: (..., n_mels) to (..., num_features).

        The offset allows augmentation of precomputed features. It is exact for filters that are flat within each band, wherever
        the power is above ``amin``.
        """
        return db

    @checked
    def gain_offset(self, db: Tensor) -> Tensor:
        """Convert a waveform gain of ``db`` decibels to an offset of the features: (...) to (..., num_features)."""
        return self.filter_offset(db[..., None].expand(*db.shape, self.n_mels))

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute features: (batch, samples) to (batch, samples // hop_length, num_features)."""
        return log_mel(
            waveform,
            n_fft=self.n_fft,
            win_length=self.win_length,
            hop_length=self.hop_length,
            amin=self.amin,
            top_db=self.top_db,
            window=self.window,
            filterbank=self.filterbank,
        )


class MFCC(LogMel):
    """Module form of :func:`mfcc`, with its window, filters and cosine transform as buffers.

    Args:
        n_mfcc: Number of coefficients kept.
        n_mels: Number of mel bands under the cosine transform.
        sample_rate, n_fft, win_length, hop_length, f_min, f_max, amin, top_db: As in :func:`log_mel`.

    Attributes:
        num_features: Number of features per frame, ``n_mfcc``.

    Raises:
        ArgumentError: A size is out of its range.

    Example:
        >>> MFCC()(torch.zeros(1, 6400)).shape
        torch.Size([1, 40, 26])

    Source: as :func:`mfcc`.
    """

    dct: Tensor

    @checked
    def __init__(
        self,
        *,
        n_mfcc: int = 26,
        n_mels: int = 40,
        sample_rate: int = 16000,
        n_fft: int = 400,
        win_length: int = 400,
        hop_length: int = 160,
        f_min: float = 0.0,
        f_max: float | None = None,
        amin: float = 1e-10,
        top_db: float | None = None,
    ) -> None:
        framing = {"sample_rate": sample_rate, "n_fft": n_fft, "win_length": win_length, "hop_length": hop_length}
        super().__init__(**framing, n_mels=n_mels, f_min=f_min, f_max=f_max, amin=amin, top_db=top_db)
        self.num_features = n_mfcc
        self.register_buffer("dct", dct_matrix(n_mfcc=n_mfcc, n_mels=n_mels), persistent=False)

    @checked
    def filter_offset(self, db: Tensor) -> Tensor:
        """Convert gains of the mel bands to an offset of the features: (..., n_mels) to (..., n_mfcc)."""
        if db.ndim == 0 or db.shape[-1] != self.dct.shape[0]:
            raise ShapeError(f"`db`: expected (..., n_mels={self.dct.shape[0]}), got {describe_shape(db)}")
        return db @ self.dct.to(db)

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute features: (batch, samples) to (batch, samples // hop_length, n_mfcc)."""
        return _cepstrum(super().forward(waveform), self.dct)


COEFFICIENTS = {"log-mel": 26, "mfcc": 26, "prosody": NUM_PROSODY, "log-mel-prosody": 26 + NUM_PROSODY}
"""Coefficients per audio frame of each kind of :class:`SpeechFeatures`."""
KINDS = tuple(COEFFICIENTS)
"""Names of the features; all have 100 frames per second."""
FEATURES_PER_SECOND = 100
"""Frames of these features per second."""
_PARTS = {"log-mel-prosody": ("log-mel", "prosody")}


def feature_columns(kind: str, within: str) -> slice:
    """Return the coefficients of ``kind`` among those of ``within``.

    Args:
        kind: Features that a model needs.
        within: Features that are given: the same, or a kind that holds them next to others.

    Returns:
        The columns of the last dimension.

    Raises:
        ArgumentError: ``within`` does not hold ``kind``.

    Example:
        >>> feature_columns("prosody", "log-mel-prosody")
        slice(26, 30, None)

    Source: ours.
    """
    start = 0
    for part in (within, *_PARTS.get(within, ())):
        size = COEFFICIENTS.get(part, 0)
        if part == kind:
            return slice(start, start + size)
        start += 0 if part == within else size
    raise ArgumentError(f"`kind`: expected {within!r} or a part of it, got {kind!r}")


class _Joined(nn.Module):
    """Several features next to each other, (batch, audio_frames, sum of coefficients)."""

    def __init__(self, *parts: LogMel | Prosody) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.num_features = sum(part.num_features for part in parts)
        self.n_mels = parts[0].n_mels

    def filter_offset(self, db: Tensor) -> Tensor:
        """Convert gains of ``db`` decibels per mel band to an offset of the features: (..., n_mels) to (..., num_features)."""
        return torch.cat([cast(LogMel, part).filter_offset(db) for part in self.parts], dim=-1)

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute features: (batch, samples) to (batch, samples // 160, num_features)."""
        return torch.cat([part(waveform) for part in self.parts], dim=-1)


def _features_of(kind: str) -> LogMel | Prosody | _Joined:
    if kind == "log-mel-prosody":
        return _Joined(LogMel(), Prosody())
    return {"log-mel": LogMel, "mfcc": MFCC, "prosody": Prosody}[kind]()


class SpeechFeatures(nn.Module):
    """Audio features of normalised waveforms.

    Each clip is normalised by itself (:func:`normalise_waveform`), then
    :class:`LogMel`, :class:`MFCC` or :class:`~avsync.audio.prosody.Prosody` follows; "log-mel-prosody" is the first and the
    last next to each other. All are differentiable, except for voicing and pitch.

    Args:
        kind: "log-mel", "mfcc", "prosody" or "log-mel-prosody".

    Attributes:
        features: The module without the normalisation, for banks, which normalise waveforms.

    Raises:
        ArgumentError: ``kind`` is an unknown word.

    Example:
        >>> SpeechFeatures(kind="mfcc")(torch.zeros(2, 640 * 5)).shape
        torch.Size([2, 20, 26])

    Source: ours; the paper uses 26 MFCCs (section 4.1).
    """

    def __init__(self, *, kind: str = "log-mel") -> None:
        super().__init__()
        check_choice("kind", kind, KINDS)
        self.kind = kind
        self.features = _features_of(kind)

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the features of clips.

        Args:
            waveform: (batch, samples) at 16 kHz, of any loudness.

        Returns:
            (batch, samples // 160, coefficients); see :data:`COEFFICIENTS`.

        Raises:
            ShapeError: ``waveform`` is not (batch, samples), not floating point, or an empty batch.
        """
        check_shape("waveform", waveform, "batch samples")
        features: Tensor = self.features(normalise_waveform(waveform))
        return features
