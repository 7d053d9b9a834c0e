"""Losses on single audio-motion pairs: SyncNet's margin, Wav2Lip's cross-entropy on the cosine, sigmoid pairs.

The functions compute the loss of pairs with a given target. The modules take a batch of aligned windows and draw the mismatched
pairs themselves. Aligned and mismatched pairs have equal total weight.
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
    checked,
    describe_shape,
    is_tensor,
    reduce,
    same_precision,
    values_known,
)
from avsync.errors import ArgumentError, ShapeError
from avsync.losses._windows import check_negatives, reduce_windows, sampled_similarity
from avsync.losses.negatives import SOURCES, excluded_pairs, sample_negatives
from avsync.models.syncer.interface import check_mask, check_pair, check_windows, half_squared_distance, hide, unit_norm

MAPPINGS = ("cosine", "affine")


@checked
def contrastive_loss(motion: Tensor, audio: Tensor, target: Tensor, *, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    r"""Compute SyncNet's contrastive loss of pairs.

    .. math:: L = \tfrac{1}{2} \left( y d^2 + (1 - y) \max(m - d, 0)^2 \right)

    with the target :math:`y`, the distance :math:`d` of the unit embeddings and the margin :math:`m`.

    Args:
        motion: (..., embed).
        audio: (..., embed).
        target: (...), 1 (or True) for aligned pairs, 0 for mismatched pairs.
        margin: Distance beyond which mismatched pairs have no loss; the distance of unit vectors is at most 2.
        reduction: "none", "mean" or "sum".

    Returns:
        A scalar, or (...) for "none". The gradient is finite everywhere, including d = 0.

    Raises:
        ShapeError: The shapes do not match.
        ArgumentError: The reduction is unknown, or the margin is not positive.

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
    r"""Compute Wav2Lip's loss: binary cross-entropy, with a probability of alignment derived from the cosine.

    The logits are computed from :math:`1 - \cos = \tfrac{1}{2} \lVert a - m \rVert^2` with unit embeddings :math:`a` (audio)
    and :math:`m` (motion), so that the result is precise for cosines near both ends of the range.

    Args:
        motion: (..., embed).
        audio: (..., embed).
        target: (...), 1 (or True) for aligned pairs, 0 for mismatched pairs.
        mapping: "cosine" uses p = cos, as published, for embeddings after a ReLU, whose cosines are never negative. If the
            cosine is zero or negative, p is a constant epsilon and an aligned pair receives no gradient. "affine" uses p = (1 +
            cos) / 2, for any embeddings.
        reduction: "none", "mean" or "sum".

    Returns:
        A scalar, or (...) for "none".

    Raises:
        ShapeError: The shapes do not match.
        ArgumentError: The mapping or the reduction is unknown.

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
    r"""Compute the binary classification loss of every audio window paired with every motion window of the batch.

    The loss of audio window :math:`i` is the sum over all motion windows :math:`j`

    .. math:: L_i = -\sum_j \log \mathrm{sigmoid}(z_{ij} (\mathrm{scale} \cdot s_{ij} + \mathrm{bias}))

    with the cosine :math:`s_{ij}`, and :math:`z_{ij} = 1` if :math:`i = j`, otherwise -1.

    Args:
        motion: (clips, windows, embed).
        audio: (clips, windows, embed).
        scale: Factor of the cosine.
        bias: Constant added to the logits; negative, because nearly all pairs are mismatched.
        exclusion: Pairs of the same clip at distances 1 to ``exclusion`` (in windows) are left out.
        mask: (clips, windows), bool, False for padding.
        reduction: "none", "mean" (over the audio windows that count) or "sum".

    Returns:
        A scalar, or (clips, windows) for "none": the sum over all pairs of each audio window.

    Raises:
        ShapeError: The shapes do not match.
        ArgumentError: The reduction is unknown.

    Example:
        >>> audio = torch.eye(2)[None]
        >>> round(sigmoid_pair_loss(audio, audio, scale=2.0, bias=0.0).item(), 4)  # log(1 + e^-2) + log 2
        0.8201

    Source: SigLIP (Zhai et al. 2023), with its initial values as defaults.
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
        motion, audio = same_precision(motion, audio)
        a = unit_norm(audio).reshape(-1, embed) * scale
        m = unit_norm(motion).reshape(-1, embed)
        logits = a @ m.transpose(0, 1) + bias
        positive = (a * m).sum(dim=-1) + bias
        if excluded is not None:
            logits = logits.masked_fill(excluded, torch.finfo(logits.dtype).min)
        # softplus(x) for a mismatched pair, softplus(-x) = softplus(x) - x for the aligned pair.
        losses = (F.softplus(logits).sum(dim=1) - positive).reshape(num_clips, num_windows)
    return reduce_windows(losses, mask, reduction)


def inverse_temperature(temperature: float | Tensor) -> float | Tensor:
    """Return 1 / temperature, in float32 at least.

    Raises:
        ArgumentError: The temperature is not a finite number above zero; the value of a tensor is checked only on the CPU,
            and not if it is learnable.
        ShapeError: The temperature is a tensor but not a floating-point scalar.
    """
    if isinstance(temperature, Tensor):
        if temperature.ndim != 0:
            raise ShapeError(f"`temperature`: expected a number or a scalar tensor, got {describe_shape(temperature)}")
        check_floating("temperature", temperature)
        # A learnable temperature is the model's own: if it diverges, the training run reports that.
        if values_known(temperature) and not temperature.requires_grad and not 0 < temperature.item() < math.inf:
            raise ArgumentError(f"`temperature`: expected a finite number above 0, got {temperature.item()!r}")
        return at_least_float32(temperature).reciprocal()
    check_positive("temperature", temperature)
    return 1.0 / temperature


class LogitScale(nn.Module):
    """Learnable positive logit scale (1 / temperature), stored as its logarithm, with an upper limit.

    The gradient passes at the upper limit, so that the scale can decrease again.

    Args:
        initial: Initial value.
        maximum: Upper limit.

    Raises:
        ArgumentError: A value is not positive, or the initial value is above the upper limit.

    Example:
        >>> round(LogitScale(initial=10.0)().item(), 4)
        10.0

    Source: ours; an initial value of 1 / 0.07 and a limit of 100 are usual in contrastive training.
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
        """Return the scale, a scalar in float32."""
        log_scale = self.log_scale.float()
        above = (log_scale - math.log(self.maximum)).clamp(min=0.0).detach()
        return (log_scale - above).exp()


class _SampledPairLoss(nn.Module):
    """Draws mismatched pairs for a batch of aligned windows; subclasses define the cost of a pair."""

    def __init__(self, *, num_negatives: int, source: str, exclusion: int, reduction: str) -> None:
        super().__init__()
        check_count("num_negatives", num_negatives)
        check_count("exclusion", exclusion, 0)
        check_choice("source", source, SOURCES)
        check_choice("reduction", reduction, REDUCTIONS)
        self.num_negatives, self.source, self.exclusion, self.reduction = num_negatives, source, exclusion, reduction

    def aligned_cost(self, half: Tensor) -> Tensor:
        """Return the loss of an aligned pair, from 1 - cos."""
        raise NotImplementedError

    def mismatched_cost(self, half: Tensor) -> Tensor:
        """Return the loss of a mismatched pair, from 1 - cos."""
        raise NotImplementedError

    def forward(
        self,
        motion: Tensor,
        audio: Tensor,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
        indices: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of (clips, windows, embed) motion and audio; ``mask`` (clips, windows) is False for padding.

        ``indices`` are negatives drawn in advance (:func:`sample_negatives`), because torch.compile cannot trace a
        ``generator``.
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
    """Contrastive loss of aligned pairs and of randomly drawn mismatched pairs; see :func:`contrastive_loss`.

    Mismatched pairs are drawn again in every call. Aligned and mismatched pairs have half of the weight each.

    Args:
        margin: Distance beyond which mismatched pairs have no loss.
        num_negatives: Number of mismatched pairs per aligned pair.
        source: "both", "in_clip" or "cross_clip".
        exclusion: Largest distance, in windows of the same clip, at which windows are never negatives.
        reduction: "none", "mean" or "sum".

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> audio = torch.eye(8)[None]
        >>> ContrastiveLoss()(audio, audio, generator=torch.Generator().manual_seed(0))  # orthogonal: beyond the margin
        tensor(0.)

    Source: SyncNet (Chung and Zisserman 2016), one mismatched pair per aligned pair.
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
        """Return half the squared distance."""
        return half

    @checked
    def mismatched_cost(self, half: Tensor) -> Tensor:
        """Return half the squared shortfall from the margin."""
        check_floating("half", half)
        return _repulsion(half, self.margin)


class CosineBCE(_SampledPairLoss):
    """Cosine cross-entropy of aligned pairs and of randomly drawn mismatched pairs; see :func:`cosine_bce`.

    Mismatched pairs are drawn again in every call. Aligned and mismatched pairs have half of the weight each.

    Args:
        mapping: "cosine" (as published, for embeddings without negative values) or "affine".
        num_negatives: Number of mismatched pairs per aligned pair.
        source: "both", "in_clip" or "cross_clip".
        exclusion: Largest distance, in windows of the same clip, at which windows are never negatives.
        reduction: "none", "mean" or "sum".

    Raises:
        ArgumentError: A value is out of range.

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

    @checked
    def aligned_cost(self, half: Tensor) -> Tensor:
        """Return -log p."""
        check_floating("half", half)
        return F.softplus(-_alignment_logits(half, self.mapping))

    @checked
    def mismatched_cost(self, half: Tensor) -> Tensor:
        """Return -log(1 - p)."""
        check_floating("half", half)
        return F.softplus(_alignment_logits(half, self.mapping))


class SigmoidPairLoss(nn.Module):
    """Sigmoid loss of all pairs with a learnable scale and a learnable bias; see :func:`sigmoid_pair_loss`.

    Args:
        scale: Initial value of the factor of the cosine.
        bias: Initial value of the bias.
        max_scale: Upper limit of the scale.
        exclusion: Pairs of the same clip at distances 1 to ``exclusion`` (in windows) are left out.
        reduction: "none", "mean" or "sum".

    Raises:
        ArgumentError: A value is out of range.

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
        """Compute the loss of (clips, windows, embed) motion and audio; ``mask`` (clips, windows) is False for padding."""
        return sigmoid_pair_loss(
            motion,
            audio,
            scale=self.logit_scale(),
            bias=self.bias.float(),
            exclusion=self.exclusion,
            mask=mask,
            reduction=self.reduction,
        )


def _scalar(name: str, value: Any) -> float | Tensor:
    """Return ``value`` as a finite number, or as a floating-point scalar tensor in at least float32."""
    if isinstance(value, Tensor):
        if value.ndim != 0:
            raise ShapeError(f"`{name}`: expected a number or a scalar tensor, got {describe_shape(value)}")
        check_floating(name, value)
        return at_least_float32(value)
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ArgumentError(f"`{name}`: expected a finite number, got {value!r}")
    return float(value)


def _check_target(audio: Tensor, target: Tensor) -> Tensor:
    """Return the target as numbers, after checking that its shape is that of the pairs."""
    if not is_tensor(target) or target.shape != audio.shape[:-1]:
        raise ShapeError(f"`target`: expected {tuple(audio.shape[:-1])}, one value a pair, got {describe_shape(target)}")
    if target.is_complex():
        raise ShapeError(f"`target`: expected numbers or bool, got {target.dtype}")
    check_same_device("target", target, audio.device, "the embeddings")
    return at_least_float32(target)


def _repulsion(half: Tensor, margin: float) -> Tensor:
    """Return max(margin - d, 0)^2 / 2 with d = sqrt(2 half); at d = 0 the direction is undefined and the gradient is zero."""
    apart = half > 10 * torch.finfo(half.dtype).eps ** 2
    distance = torch.where(apart, torch.where(apart, 2.0 * half, 1.0).sqrt(), 0.0)
    return 0.5 * (margin - distance).clamp(min=0.0).square()


def _alignment_logits(half: Tensor, mapping: str) -> Tensor:
    """Return log p - log(1 - p), where 1 - p is ``half`` = 1 - cos ("cosine") or ``half / 2`` ("affine")."""
    eps = torch.finfo(half.dtype).eps
    rest = half if mapping == "cosine" else 0.5 * half
    return (1.0 - rest).clamp(min=eps).log() - rest.clamp(min=eps).log()
