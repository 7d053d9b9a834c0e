"""Losses on single audio-motion pairs: SyncNet's margin, Wav2Lip's cross-entropy on the cosine, sigmoid pairs.

The functions score pairs with a given target; the modules take a batch of aligned windows, draw the mismatched pairs themselves
and weigh the aligned and the mismatched half of the task equally.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync._checks import (
    REDUCTIONS,
    at_least_float32,
    check_choice,
    check_count,
    check_floating,
    check_positive,
    check_same_device,
    describe_shape,
    is_tensor,
    reduce,
    values_known,
)
from avsync.errors import ArgumentError, ShapeError
from avsync.losses._windows import check_mask, check_negatives, check_windows, hide, reduce_windows, sampled_similarity
from avsync.losses.negatives import SOURCES, excluded_pairs, sample_negatives
from avsync.models.syncer.similarity import check_pair, half_squared_distance, unit_norm

MAPPINGS = ("cosine", "affine")


def contrastive_loss(motion: Tensor, audio: Tensor, target: Tensor, *, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """SyncNet's contrastive loss: (y d^2 + (1 - y) max(margin - d, 0)^2) / 2, d the distance of the unit embeddings.

    Args:
        motion: (..., embed).
        audio: (..., embed).
        target: (...), 1 (or True) where the pair is aligned, 0 where it is not.
        margin: Distance from which mismatched pairs are left alone; unit vectors are at most 2 apart.
        reduction: "none", "mean" or "sum".

    Returns:
        A scalar, or (...) for "none". The gradient is finite everywhere, also at d = 0.

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: An unknown reduction, or a margin that is not positive.

    Example:
        >>> motion, audio = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> round(contrastive_loss(motion, audio, torch.tensor([1.0])).item(), 4)
        1.0

    Source: SyncNet (Chung and Zisserman 2016), after Chopra, Hadsell and LeCun 2005.
    """
    check_pair(motion, audio)
    y = _check_target(audio, target)
    check_positive("margin", margin)
    with torch.autocast(device_type=audio.device.type, enabled=False):
        half = half_squared_distance(motion, audio)
        return reduce(y * half + (1.0 - y) * _repulsion(half, margin), reduction)


def cosine_bce(motion: Tensor, audio: Tensor, target: Tensor, *, mapping: str = "cosine", reduction: str = "mean") -> Tensor:
    """Wav2Lip's loss: binary cross-entropy of a probability of being aligned that is read off the cosine.

    Computed in logits from 1 - cos = ||a - m||^2 / 2, so that neither end loses its digits.

    Args:
        motion: (..., embed).
        audio: (..., embed).
        target: (...), 1 (or True) where the pair is aligned, 0 where it is not.
        mapping: "cosine": p = cos, as published, made for embeddings that come out of a ReLU and have no negative cosine (where
            the cosine is zero or below, p is a constant epsilon and an aligned pair gets no gradient). "affine":
            p = (1 + cos) / 2, for any embeddings.
        reduction: "none", "mean" or "sum".

    Returns:
        A scalar, or (...) for "none".

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: An unknown mapping or reduction.

    Example:
        >>> motion, audio = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
        >>> round(cosine_bce(motion, audio, torch.tensor([1.0])).item(), 4)  # -log(0.6)
        0.5108

    Source: Wav2Lip (Prajwal et al. 2020), section 3; the affine mapping is ours.
    """
    check_pair(motion, audio)
    y = _check_target(audio, target)
    check_choice("mapping", mapping, MAPPINGS)
    with torch.autocast(device_type=audio.device.type, enabled=False):
        logits = _alignment_logits(half_squared_distance(motion, audio), mapping)
        return reduce(F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none"), reduction)


def sigmoid_pair_loss(
    motion: Tensor,
    audio: Tensor,
    *,
    scale: float | Tensor = 10.0,
    bias: float | Tensor = -10.0,
    exclusion: int = 0,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Every audio window with every motion window of the batch, each pair an aligned-or-not question of its own.

    For audio window i: sum over j of -log sigmoid(z_ij (scale s_ij + bias)), z_ij = 1 if i = j, else -1.

    Args:
        motion: (clips, windows, embed).
        audio: (clips, windows, embed).
        scale: Factor of the cosine.
        bias: Added to the logits; negative, since nearly all pairs are mismatched.
        exclusion: Pairs of the same clip at distances 1 to this (in windows) are left out.
        mask: (clips, windows), bool, False for padding.
        reduction: "none", "mean" (over the audio windows that count) or "sum".

    Returns:
        A scalar, or (clips, windows) for "none": each row's sum over all pairs of that audio window.

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: An unknown reduction.

    Example:
        >>> audio = torch.eye(2)[None]
        >>> round(sigmoid_pair_loss(audio, audio, scale=2.0, bias=0.0).item(), 4)  # log(1 + e^-2) + log 2
        0.8201

    Source: SigLIP (Zhai et al. 2023), with its start values as defaults.
    """
    check_windows(motion, audio)
    num_clips, num_windows, embed = audio.shape
    check_mask(mask, num_clips, num_windows, motion.device)
    check_choice("reduction", reduction, REDUCTIONS)
    scale, bias = _scalar("scale", scale), _scalar("bias", bias)
    check_count("exclusion", exclusion, 0)
    check_negatives(num_clips, num_windows, exclusion)
    motion, audio = hide(motion, mask), hide(audio, mask)
    excluded = excluded_pairs(num_clips, num_windows, exclusion=exclusion, mask=mask, device=audio.device)
    with torch.autocast(device_type=audio.device.type, enabled=False):
        a = unit_norm(audio).reshape(-1, embed) * scale
        m = unit_norm(motion).reshape(-1, embed)
        logits = a @ m.transpose(0, 1) + bias
        positive = (a * m).sum(dim=-1) + bias
        if excluded is not None:
            logits = logits.masked_fill(excluded, torch.finfo(logits.dtype).min)
        # softplus(x) of a mismatched pair, softplus(-x) = softplus(x) - x of the aligned one.
        losses = (F.softplus(logits).sum(dim=1) - positive).reshape(num_clips, num_windows)
    return reduce_windows(losses, mask, reduction)


def inverse_temperature(temperature: float | Tensor) -> float | Tensor:
    """Return 1 / temperature, in float32 at least.

    Raises:
        ArgumentError: Not a finite number above zero; the value of a tensor is checked if it is on the CPU.
        ShapeError: A tensor that is not a floating-point scalar.
    """
    if isinstance(temperature, Tensor):
        if temperature.ndim != 0:
            raise ShapeError(f"`temperature`: expected a number or a scalar tensor, got {describe_shape(temperature)}")
        check_floating("temperature", temperature)
        if values_known(temperature) and not 0 < temperature.item() < math.inf:
            raise ArgumentError(f"`temperature`: expected a finite number above 0, got {temperature.item()!r}")
        return at_least_float32(temperature).reciprocal()
    check_positive("temperature", temperature)
    return 1.0 / temperature


class LogitScale(nn.Module):
    """A learnable, positive logit scale (1 / temperature), kept as its logarithm and capped.

    At the cap the gradient still passes, so that the scale can come down again.

    Args:
        initial: Start value.
        maximum: Cap.

    Raises:
        ArgumentError: A value is not positive, or the start lies above the cap.

    Example:
        >>> round(LogitScale(initial=10.0)().item(), 4)
        10.0

    Source: ours; start 1 / 0.07 and cap 100 are the custom of contrastive training.
    """

    def __init__(self, *, initial: float = 1.0 / 0.07, maximum: float = 100.0) -> None:
        super().__init__()
        check_positive("initial", initial)
        check_positive("maximum", maximum)
        if initial > maximum:
            raise ArgumentError(f"`initial`: expected at most `maximum` = {maximum!r}, got {initial!r}")
        self.maximum = maximum
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial), dtype=torch.float32))

    def forward(self) -> Tensor:
        """The scale, a scalar in float32."""
        log_scale = self.log_scale.float()
        above = (log_scale - math.log(self.maximum)).clamp(min=0.0).detach()
        return (log_scale - above).exp()


class _SampledPairLoss(nn.Module):
    """Draws mismatched pairs for a batch of aligned windows; subclasses say what a pair costs."""

    def __init__(self, *, num_negatives: int, source: str, exclusion: int, reduction: str) -> None:
        super().__init__()
        check_count("num_negatives", num_negatives)
        check_count("exclusion", exclusion, 0)
        check_choice("source", source, SOURCES)
        check_choice("reduction", reduction, REDUCTIONS)
        self.num_negatives, self.source, self.exclusion, self.reduction = num_negatives, source, exclusion, reduction

    def aligned_cost(self, half: Tensor) -> Tensor:
        """The cost of an aligned pair, from 1 - cos."""
        raise NotImplementedError

    def mismatched_cost(self, half: Tensor) -> Tensor:
        """The cost of a mismatched pair, from 1 - cos."""
        raise NotImplementedError

    def forward(
        self,
        motion: Tensor,
        audio: Tensor,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
        indices: Tensor | None = None,
    ) -> Tensor:
        """(clips, windows, embed) twice to the loss; ``mask`` (clips, windows) is False for padding.

        ``indices`` are negatives drawn beforehand (:func:`sample_negatives`): torch.compile cannot trace a ``generator``.
        """
        check_windows(motion, audio)
        check_mask(mask, motion.shape[0], motion.shape[1], motion.device)
        motion, audio = hide(motion, mask), hide(audio, mask)
        if indices is None:
            indices = sample_negatives(
                audio.shape[0],
                audio.shape[1],
                self.num_negatives,
                source=self.source,
                exclusion=self.exclusion,
                mask=mask,
                generator=generator,
                device=audio.device,
            )
        with torch.autocast(device_type=audio.device.type, enabled=False):
            aligned = self.aligned_cost(half_squared_distance(motion, audio))
            mismatched = self.mismatched_cost((1.0 - sampled_similarity(motion, audio, indices)).clamp(min=0.0))
            return reduce_windows(0.5 * (aligned + mismatched.mean(dim=-1)), mask, self.reduction)


class ContrastiveLoss(_SampledPairLoss):
    """:func:`contrastive_loss` of each aligned pair and of mismatched pairs drawn again in every call, half the weight each.

    Args:
        margin: Distance from which mismatched pairs are left alone.
        num_negatives: Mismatched pairs for each aligned one.
        source: "both", "in_clip" or "cross_clip".
        exclusion: Windows of the same clip at this distance or nearer are never negatives.
        reduction: "none", "mean" or "sum".

    Raises:
        ArgumentError: A value out of its range.

    Example:
        >>> audio = torch.eye(8)[None]
        >>> ContrastiveLoss()(audio, audio, generator=torch.Generator().manual_seed(0))  # orthogonal: farther apart than the margin
        tensor(0.)

    Source: SyncNet (Chung and Zisserman 2016), one mismatched pair for each aligned one.
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        num_negatives: int = 1,
        source: str = "both",
        exclusion: int = 1,
        reduction: str = "mean",
    ) -> None:
        super().__init__(num_negatives=num_negatives, source=source, exclusion=exclusion, reduction=reduction)
        check_positive("margin", margin)
        self.margin = margin

    def aligned_cost(self, half: Tensor) -> Tensor:
        """Half the squared distance."""
        return half

    def mismatched_cost(self, half: Tensor) -> Tensor:
        """Half the squared shortfall from the margin."""
        return _repulsion(half, self.margin)


class CosineBCE(_SampledPairLoss):
    """:func:`cosine_bce` of each aligned pair and of mismatched pairs drawn again in every call, half the weight each.

    Args:
        mapping: "cosine" (as published, for embeddings without negative values) or "affine".
        num_negatives: Mismatched pairs for each aligned one.
        source: "both", "in_clip" or "cross_clip".
        exclusion: Windows of the same clip at this distance or nearer are never negatives.
        reduction: "none", "mean" or "sum".

    Raises:
        ArgumentError: A value out of its range.

    Example:
        >>> audio = torch.eye(8)[None]
        >>> round(CosineBCE(mapping="affine")(audio, audio).item(), 4)  # log(2) / 2: half the mismatched pairs' p = 1/2
        0.3466

    Source: Wav2Lip (Prajwal et al. 2020), whose mismatched pairs come from the same clip (``source="in_clip"``).
    """

    def __init__(
        self,
        *,
        mapping: str = "cosine",
        num_negatives: int = 1,
        source: str = "both",
        exclusion: int = 1,
        reduction: str = "mean",
    ) -> None:
        super().__init__(num_negatives=num_negatives, source=source, exclusion=exclusion, reduction=reduction)
        check_choice("mapping", mapping, MAPPINGS)
        self.mapping = mapping

    def aligned_cost(self, half: Tensor) -> Tensor:
        """-log p."""
        return F.softplus(-_alignment_logits(half, self.mapping))

    def mismatched_cost(self, half: Tensor) -> Tensor:
        """-log(1 - p)."""
        return F.softplus(_alignment_logits(half, self.mapping))


class SigmoidPairLoss(nn.Module):
    """:func:`sigmoid_pair_loss` with learnable scale and bias.

    Args:
        scale: Start value of the factor of the cosine.
        bias: Start value of the bias.
        max_scale: Cap of the scale.
        exclusion: Pairs of the same clip at distances 1 to this (in windows) are left out.
        reduction: "none", "mean" or "sum".

    Raises:
        ArgumentError: A value out of its range.

    Example:
        >>> audio = torch.eye(2)[None]
        >>> round(SigmoidPairLoss(scale=2.0, bias=0.0)(audio, audio).item(), 4)
        0.8201

    Source: SigLIP (Zhai et al. 2023).
    """

    def __init__(
        self,
        *,
        scale: float = 10.0,
        bias: float = -10.0,
        max_scale: float = 100.0,
        exclusion: int = 0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        check_count("exclusion", exclusion, 0)
        _scalar("bias", bias)
        self.exclusion, self.reduction = exclusion, reduction
        self.logit_scale = LogitScale(initial=scale, maximum=max_scale)
        self.bias = nn.Parameter(torch.tensor(float(bias), dtype=torch.float32))

    def forward(self, motion: Tensor, audio: Tensor, mask: Tensor | None = None) -> Tensor:
        """(clips, windows, embed) twice to the loss; ``mask`` (clips, windows) is False for padding."""
        return sigmoid_pair_loss(
            audio,
            motion,
            scale=self.logit_scale(),
            bias=self.bias.float(),
            exclusion=self.exclusion,
            mask=mask,
            reduction=self.reduction,
        )


def _scalar(name: str, value: Any) -> float | Tensor:
    """A finite number, or a floating-point scalar tensor in float32 at least."""
    if isinstance(value, Tensor):
        if value.ndim != 0:
            raise ShapeError(f"`{name}`: expected a number or a scalar tensor, got {describe_shape(value)}")
        check_floating(name, value)
        return at_least_float32(value)
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ArgumentError(f"`{name}`: expected a finite number, got {value!r}")
    return float(value)


def _check_target(audio: Tensor, target: Tensor) -> Tensor:
    """The target as numbers, of the shape of the pairs."""
    if not is_tensor(target) or target.shape != audio.shape[:-1]:
        raise ShapeError(f"`target`: expected {tuple(audio.shape[:-1])}, one value a pair, got {describe_shape(target)}")
    if target.is_complex():
        raise ShapeError(f"`target`: expected numbers or bool, got {target.dtype}")
    check_same_device("target", target, audio.device, "the embeddings")
    return at_least_float32(target)


def _repulsion(half: Tensor, margin: float) -> Tensor:
    """max(margin - d, 0)^2 / 2 with d = sqrt(2 half); at d = 0, where the direction is undefined, the gradient is zero."""
    apart = half > 10 * torch.finfo(half.dtype).eps ** 2
    distance = torch.where(apart, torch.where(apart, 2.0 * half, 1.0).sqrt(), 0.0)
    return 0.5 * (margin - distance).clamp(min=0.0).square()


def _alignment_logits(half: Tensor, mapping: str) -> Tensor:
    """Return log p - log(1 - p), where 1 - p is ``half`` = 1 - cos ("cosine") or half of it ("affine")."""
    eps = torch.finfo(half.dtype).eps
    rest = half if mapping == "cosine" else 0.5 * half
    return (1.0 - rest).clamp(min=eps).log() - rest.clamp(min=eps).log()
