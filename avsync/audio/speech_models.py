"""Features of pretrained speech models (HuBERT, wav2vec2, WavLM, Whisper, or any callable) on the clock of the motion frames.

The networks differ in frame rate and in the time of the first frame. HuBERT, for example, returns 159 frames for 3.2
s, the first of them centred on 12.5 ms. The modules here resample the frames on the clock
(:func:`avsync.resampling.resample_frames`), so that frame ``k`` of the result is at ``k / frame_rate`` seconds and a pyramid
accepts them. No library is imported: the caller passes the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from avsync._checks import (
    check_count,
    check_floating,
    check_positive,
    check_shape,
    check_some_clips,
    checked,
    describe_shape,
    is_tensor,
)
from avsync.audio.features import FEATURES_PER_SECOND, log_mel
from avsync.errors import ArgumentError, ClipTooShortError, ShapeError
from avsync.pyramid import SAMPLE_RATE
from avsync.resampling import resample_frames

_WHISPER_SECONDS = 30
_WHISPER_MELS_PER_SECOND = 100
_NORMALISATION_FLOOR = 1e-7  # of the variance, as in the preprocessing of wav2vec2


@checked
def conv_clock(kernels: Sequence[int], strides: Sequence[int], *, sample_rate: int = SAMPLE_RATE) -> tuple[float, float]:
    """Return the frame rate of a stack of unpadded convolutions, and the instant of its first frame.

    Args:
        kernels: Kernel size of each layer, in frames of the layer before.
        strides: Stride of each layer.
        sample_rate: Samples per second.

    Returns:
        Frames per second, and the centre of the receptive field of the first frame, in seconds.

    Raises:
        ArgumentError: The lists differ in length or are empty.

    Example:
        >>> conv_clock([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])  # HuBERT and wav2vec2
        (50.0, 0.01246875)

    Source: ours.
    """
    if not kernels or len(kernels) != len(strides):
        raise ArgumentError(f"`kernels`, `strides`: expected one of each per layer, got {list(kernels)} and {list(strides)}")
    for name, value in (("sample_rate", sample_rate), *(("kernels", k) for k in kernels), *(("strides", s) for s in strides)):
        check_positive(name, value)
    stride, field = 1, 1
    for kernel, step in zip(kernels, strides, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return sample_rate / stride, (field - 1) / 2 / sample_rate


class SpeechModelFeatures(nn.Module):
    """Features of a speech model, resampled to a constant number of frames per motion frame.

    The model is frozen: its parameters require no gradient, and it stays in eval mode. Gradients pass through it to the
    waveform.

    Args:
        encode: Callable or module from waveforms (batch, samples) to features (batch, model_frames, coeffs).
        model_rate: Frames of the model per second.
        first_frame: Instant of the model's first frame, in seconds; :func:`conv_clock` computes both for convolutions.
        frame_rate: Frames of the result per second: ``audio_stride`` of the syncers times 25. The default, 100, fits the
            default ``audio_stride`` of 4 and the clip banks; 50 fits ``audio_stride=2``.
        sample_rate: Samples per second of the waveforms.
        normalise: Subtract each clip's mean and divide by its standard deviation first, as the preprocessing of these models
            does.

    Attributes:
        frame_rate: Frames per second.
        sample_rate: Samples per second.

    Raises:
        ArgumentError: A rate is not above 0, or ``encode`` is not callable.

    Example:
        >>> model = lambda x: x.unfold(1, 400, 320).abs().mean(2, keepdim=True)
        >>> blocks = SpeechModelFeatures(model, model_rate=50, first_frame=0.0125)
        >>> blocks(torch.rand(2, 640 * 80)).shape
        torch.Size([2, 320, 1])

    Source: ours.
    """

    @checked
    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        *,
        model_rate: float,
        first_frame: float = 0.0,
        frame_rate: int = FEATURES_PER_SECOND,
        sample_rate: int = SAMPLE_RATE,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        if not callable(encode):
            raise ArgumentError(f"`encode`: expected a callable from waveforms to features, got {type(encode).__name__}")
        check_positive("model_rate", model_rate)
        check_count("frame_rate", frame_rate)
        check_count("sample_rate", sample_rate)
        if not math.isfinite(first_frame):
            raise ArgumentError(f"`first_frame`: expected a finite time in seconds, got {first_frame!r}")
        self.encode = encode  # a submodule if it is a module
        self.model_rate, self.first_frame = float(model_rate), float(first_frame)
        self.frame_rate, self.sample_rate, self.normalise = frame_rate, sample_rate, normalise
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> SpeechModelFeatures:  # noqa: ARG002 - the signature of nn.Module
        """Stay in eval mode."""
        return super().train(False)

    @checked
    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the features of clips.

        Args:
            waveform: (batch, samples), floating point.

        Returns:
            (batch, round(frame_rate * samples / sample_rate), coeffs); frame ``k`` is at ``k / frame_rate`` seconds.

        Raises:
            ShapeError: ``waveform`` is not (batch, samples), or the model returns something else than (batch, frames, coeffs).
            ClipTooShortError: The clip is shorter than one frame of the model.
        """
        check_shape("waveform", waveform, "batch samples")
        check_floating("waveform", waveform)
        check_some_clips("waveform", waveform)
        if waveform.shape[1] == 0:
            raise ClipTooShortError("`waveform`: expected at least 1 sample, got 0")
        x = waveform
        if self.normalise:
            centred = x - x.mean(dim=1, keepdim=True)
            x = centred / (centred.square().mean(dim=1, keepdim=True) + _NORMALISATION_FLOOR).sqrt()
        features = self.encode(x)
        if not is_tensor(features) or features.ndim != 3 or features.shape[0] != waveform.shape[0]:
            raise ShapeError(
                f"`encode`: expected features (batch={waveform.shape[0]}, frames, coeffs), got {describe_shape(features)}"
            )
        frames = math.floor(waveform.shape[1] * self.frame_rate / self.sample_rate + 0.5)
        if features.shape[1] == 0 or frames == 0:
            raise ClipTooShortError(f"`waveform`: expected at least one frame of the model, got {tuple(waveform.shape)}")
        seconds, found = waveform.shape[1] / self.sample_rate, features.shape[1] / self.model_rate
        if abs(seconds - found) > 0.1 + 2 / self.model_rate:
            raise ShapeError(
                f"`encode`: expected about {seconds * self.model_rate:.0f} frames for {seconds:.2f} s ({self.model_rate:g} per "
                f"second), got {features.shape[1]}"
            )
        return resample_frames(features, fps=self.model_rate, to_fps=self.frame_rate, frames=frames, start=self.first_frame)


class _Wav2Vec2(nn.Module):
    """Hidden states of one layer of HuBERT, wav2vec2 or WavLM, of torchaudio or transformers."""

    def __init__(self, model: nn.Module, layer: int | None) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.of_transformers = hasattr(model, "config")

    def forward(self, waveform: Tensor) -> Tensor:
        model = cast(Any, self.model)
        if self.of_transformers:
            if self.layer is None:
                return cast(Tensor, model(waveform).last_hidden_state)
            return cast(Tensor, model(waveform, output_hidden_states=True).hidden_states[self.layer])
        number = None if self.layer is None or self.layer < 0 else self.layer
        layers, _ = model.extract_features(waveform, num_layers=number)
        # Of torchaudio, the list begins with the first transformer layer, of transformers with its input.
        return cast(Tensor, layers[-1 if number is not None or self.layer is None else self.layer])


def wav2vec2_features(
    model: nn.Module,
    *,
    layer: int | None = None,
    frame_rate: int = FEATURES_PER_SECOND,
    normalise: bool = True,
) -> SpeechModelFeatures:
    """Return the features of HuBERT, wav2vec2, WavLM or another network with the same convolutional front end.

    Args:
        model: ``HubertModel``, ``Wav2Vec2Model`` or ``WavLMModel`` of transformers, or a ``Wav2Vec2Model`` of torchaudio, which
            is also the class of torchaudio's HuBERT and WavLM.
        layer: Transformer layer, from 1; -1 is the last one. None for the output of the model.
        frame_rate, normalise: As in :class:`SpeechModelFeatures`.

    Returns:
        The features: waveforms (batch, samples) at 16 kHz to (batch, 100 frames per second, coeffs).

    Raises:
        ArgumentError: ``model`` has no convolutional front end of this kind, or ``layer`` is 0.

    Source: ours; the networks are those of Baevski et al. (2020), Hsu et al. (2021) and Chen et al. (2022).
    """
    if layer == 0:
        raise ArgumentError("`layer`: expected a transformer layer from 1, a negative number or None, got 0")
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "conv_kernel"):
        kernels, strides = list(config.conv_kernel), list(config.conv_stride)
    else:
        layers = getattr(getattr(model, "feature_extractor", None), "conv_layers", None)
        if layers is None or not hasattr(model, "extract_features"):
            raise ArgumentError(
                f"`model`: expected a wav2vec2-like model of transformers or torchaudio, got {type(model).__name__};"
                " pass others as the callable of SpeechModelFeatures"
            )
        kernels = [_one(block.conv.kernel_size) for block in layers]
        strides = [_one(block.conv.stride) for block in layers]
    rate, first = conv_clock(kernels, strides)
    return SpeechModelFeatures(
        _Wav2Vec2(model, layer), model_rate=rate, first_frame=first, frame_rate=frame_rate, normalise=normalise
    )


def _one(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else int(size[0])


class _Whisper(nn.Module):
    """Output of Whisper's encoder, for clips of any length, in segments of 30 s."""

    mel_filters: Tensor

    def __init__(self, encoder: nn.Module, mel_filters: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mel_filters", mel_filters, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        samples = waveform.shape[1]
        whole = _WHISPER_SECONDS * SAMPLE_RATE
        padded = nn.functional.pad(waveform, (0, -samples % whole))
        parts = [self._segment(part) for part in padded.split(whole, dim=1)]
        encoded = torch.cat(parts, dim=1)
        rate = parts[0].shape[1] / _WHISPER_SECONDS
        return encoded[:, : math.ceil(samples * rate / SAMPLE_RATE)]

    def _segment(self, waveform: Tensor) -> Tensor:
        decibels = log_mel(waveform, n_mels=self.mel_filters.shape[1], filterbank=self.mel_filters)
        logarithms = decibels / 10
        floor = logarithms.amax(dim=(1, 2), keepdim=True) - 8.0
        scaled = (torch.maximum(logarithms, floor) + 4.0) / 4.0
        dtype = next(self.encoder.parameters()).dtype
        output: Any = self.encoder(scaled.transpose(1, 2).to(dtype))
        return cast(Tensor, getattr(output, "last_hidden_state", output)).float()


def whisper_features(model: nn.Module, mel_filters: Any, *, frame_rate: int = FEATURES_PER_SECOND) -> SpeechModelFeatures:
    """Return the features of Whisper's encoder.

    The encoder takes 30 s at a time. A clip is padded with silence, and only the frames of the clip are kept. Longer clips are
    encoded in segments of 30 s.

    Args:
        model: Whisper of transformers (``WhisperModel`` or its encoder) or of openai-whisper.
        mel_filters: Mel filters of the model, (201, mels), such as ``WhisperFeatureExtractor(feature_size=80).mel_filters`` of
            transformers, or (mels, 201), as ``whisper.audio.mel_filters("cpu", 80)`` of openai-whisper.
        frame_rate: As in :class:`SpeechModelFeatures`.

    Returns:
        The features: waveforms (batch, samples) at 16 kHz to (batch, 100 frames per second, coeffs).

    Raises:
        ArgumentError: ``model`` has no encoder.
        ShapeError: ``mel_filters`` are not (201, mels).

    Source: ours; the network is that of Radford et al. (2022).
    """
    get_encoder = getattr(model, "get_encoder", None)
    encoder = get_encoder() if callable(get_encoder) else getattr(model, "encoder", model)
    if not isinstance(encoder, nn.Module) or not hasattr(encoder, "conv1"):
        raise ArgumentError(f"`model`: expected Whisper or its encoder, got {type(model).__name__}")
    filters = torch.as_tensor(mel_filters, dtype=torch.float32)
    bins = 201
    if filters.ndim == 2 and filters.shape[0] != bins:
        filters = filters.T
    if filters.ndim != 2 or filters.shape[0] != bins:
        raise ShapeError(f"`mel_filters`: expected ({bins}, mels), got {tuple(filters.shape)}")
    rate = (
        _WHISPER_MELS_PER_SECOND / 2
    )  # the second convolution has stride 2; both are padded, so that frame k is on mel frame 2 k
    return SpeechModelFeatures(_Whisper(encoder, filters.contiguous()), model_rate=rate, frame_rate=frame_rate, normalise=False)
