"""Contrastive losses over audio and motion embeddings: InfoNCE (equation 2), sampled or over all pairs.

This module is also the door to its relatives: similarity (equation 3), negatives, and the losses on single pairs (SyncNet's margin,
Wav2Lip's cross-entropy, sigmoid pairs) can all be imported from here. Every loss takes the embeddings of any model, as they are:
normalisation happens inside, in float32 at least.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync._checks import check_choice, check_floating, check_positive, describe_shape, reduce
from avsync.errors import ShapeError
from avsync.negatives import SOURCES, excluded_pairs, gather_negatives, sample_negatives
from avsync.pair_losses import CosineBCE, LogitScale, MarginLoss, SigmoidPairLoss, cosine_bce, margin_loss, sigmoid_pairs
from avsync.similarity import (
    check_mask,
    check_pair,
    check_windows,
    cosine_similarity,
    half_squared_distance,
    is_tensor,
    reduce_windows,
    sampled_similarity,
    unit_norm,
)

__all__ = [
    "AllPairsInfoNCE",
    "CosineBCE",
    "InfoNCE",
    "LogitScale",
    "MarginLoss",
    "SigmoidPairLoss",
    "chance_level",
    "cosine_bce",
    "cosine_similarity",
    "excluded_pairs",
    "gather_negatives",
    "half_squared_distance",
    "info_nce",
    "info_nce_all_pairs",
    "info_nce_sampled",
    "info_nce_within_clips",
    "margin_loss",
    "sample_negatives",
    "sampled_similarity",
    "sigmoid_pairs",
    "unit_norm",
]

# Up to this logit scale exp(score) neither overflows nor underflows float32, summed over 10^8 candidates: no maximum is needed.
_LARGEST_PLAIN_SCALE = 64.0


def chance_level(num_negatives: int) -> float:
    """The InfoNCE of a model that cannot tell the positive from ``num_negatives`` negatives: log(N + 1).

    Args:
        num_negatives: Negatives beside the one positive.

    Returns:
        The loss at chance, in nats.

    Raises:
        ArgumentError: ``num_negatives`` is not positive.

    Example:
        >>> round(chance_level(48), 3)
        3.892

    Source: equation (2) with equal scores.
    """
    check_positive("num_negatives", num_negatives)
    return math.log(num_negatives + 1)


def info_nce(
    audio: Tensor, motion: Tensor, negatives: Tensor, *, temperature: float | Tensor = 0.07, reduction: str = "mean"
) -> Tensor:
    """Equation (2): InfoNCE of one positive against given negative motion windows.

    -log( e^{s(a,x+)/tau} / ( e^{s(a,x+)/tau} + sum_n e^{s(a,x-_n)/tau} ) ), written as softplus(logsumexp_n(...) - s(a,x+)/tau), which
    is never negative and loses no digits near zero.

    Args:
        audio: (..., embed).
        motion: (..., embed), the positives.
        negatives: (..., num_negatives, embed).
        temperature: tau, above zero.
        reduction: "none", "mean" or "sum".

    Returns:
        A scalar, or (...) for "none".

    Raises:
        ShapeError: Shapes that do not fit each other, or no negatives.
        ArgumentError: An unknown reduction, or a temperature that is not positive.

    Example:
        >>> audio = torch.tensor([[1.0, 0.0]])
        >>> round(info_nce(audio, audio, torch.tensor([[[0.0, 1.0]]]), temperature=1.0).item(), 4)
        0.3133

    Source: paper section 3.1; its text does not state tau.
    """
    check_pair(audio, motion)
    fits = is_tensor(negatives) and negatives.ndim == audio.ndim + 1
    if not fits or negatives.shape[:-2] + negatives.shape[-1:] != audio.shape or negatives.shape[-2] == 0:
        raise ShapeError(
            f"`negatives`: expected (..., num_negatives, embed) beside {describe_shape(audio)}, at least one negative, "
            f"got {describe_shape(negatives)}"
        )
    check_floating("negatives", negatives)
    scale = _inverse(temperature)
    with torch.autocast(device_type=audio.device.type, enabled=False):
        a = unit_norm(audio)
        positive = (a * unit_norm(motion)).sum(dim=-1)
        scores = (unit_norm(negatives) @ a[..., None]).squeeze(-1)
        return reduce(_nce(positive, scores, scale), reduction)


def info_nce_sampled(
    audio: Tensor,
    motion: Tensor,
    indices: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Equation (2) with the negatives given by their indices, as :func:`sample_negatives` draws them.

    Equal to :func:`info_nce` on :func:`gather_negatives`, but mostly without copying the negatives.

    Args:
        audio: (clips, windows, embed).
        motion: (clips, windows, embed).
        indices: (clips, windows, num_negatives), int64, into the flattened (clips * windows) axis.
        temperature: tau, above zero.
        mask: (clips, windows), bool, False for windows that do not count.
        reduction: "none", "mean" (over the windows that count) or "sum".

    Returns:
        A scalar, or (clips, windows) for "none", zero where masked.

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: An unknown reduction, or a temperature that is not positive.

    Example:
        >>> embeddings = torch.eye(4)[None]
        >>> indices = torch.tensor([[[2], [3], [0], [1]]])
        >>> round(info_nce_sampled(embeddings, embeddings, indices, temperature=1.0).item(), 4)
        0.3133

    Source: paper section 3.1.
    """
    scale = _inverse(temperature)
    scores = sampled_similarity(audio, motion, indices)
    check_mask(mask, audio.shape[0], audio.shape[1])
    return reduce_windows(_nce(cosine_similarity(audio, motion), scores, scale), mask, reduction)


def info_nce_all_pairs(
    audio: Tensor,
    motion: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    exclusion: int = 0,
    mask: Tensor | None = None,
    symmetric: bool = True,
    min_temperature: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """InfoNCE of every window against all windows of all clips, from one matrix product.

    Args:
        audio: (clips, windows, embed).
        motion: (clips, windows, embed).
        temperature: tau, above zero.
        exclusion: Windows of the same clip at distances 1 to this (in windows) are taken out of the negatives.
        mask: (clips, windows), bool, False for padding: neither anchor nor negative.
        symmetric: Average the loss of finding the motion from the audio and that of finding the audio from the motion; otherwise
            only the first.
        min_temperature: If given, a temperature below it is raised to it. A learnable temperature held above 1/64 takes the same
            short cut as a constant one (about a third of the time saved).
        reduction: "none", "mean" (over the windows that count) or "sum".

    Returns:
        A scalar, or (clips, windows) for "none", zero where masked.

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: An unknown reduction, or a temperature that is not positive.

    Example:
        >>> audio = torch.eye(3)[None]
        >>> round(info_nce_all_pairs(audio, audio, temperature=1.0).item(), 4)
        0.5514

    Source: ours, after equation (2): the same loss with all N = clips x windows - 1 negatives that the batch holds.
    """
    check_windows(audio, motion)
    num_clips, num_windows, embed = audio.shape
    excluded = excluded_pairs(num_clips, num_windows, exclusion=exclusion, mask=mask, device=audio.device)
    scale = _inverse(temperature)
    largest = scale if isinstance(scale, float) else math.inf
    if min_temperature is not None:
        check_positive("min_temperature", min_temperature)
        largest = min(largest, 1.0 / min_temperature)
        scale = min(scale, largest) if isinstance(scale, float) else scale.clamp(max=largest)
    with torch.autocast(device_type=audio.device.type, enabled=False):
        a = unit_norm(audio).reshape(-1, embed) * scale
        m = unit_norm(motion).reshape(-1, embed)
        positive = (a * m).sum(dim=-1)
        logits = a @ m.transpose(0, 1)
        if excluded is not None:
            logits = logits.masked_fill(excluded, -torch.inf)
        if largest <= _LARGEST_PLAIN_SCALE:
            weights = logits.exp()  # shared by rows and columns, which two calls of logsumexp would each compute anew
            partition = weights.sum(dim=1).log()
            other = weights.sum(dim=0).log() if symmetric else partition
        else:
            partition = logits.logsumexp(dim=1)
            other = logits.logsumexp(dim=0) if symmetric else partition
        losses = (0.5 * (partition + other) - positive).reshape(num_clips, num_windows)
    return reduce_windows(losses, mask, reduction)


def info_nce_within_clips(
    audio: Tensor,
    motion: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    mask: Tensor | None = None,
    symmetric: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """InfoNCE of every window against the other windows of its own clip only.

    These negatives share speaker, microphone and pose with the positive, so nothing but time tells them apart: what an offset
    search asks. Beside :func:`info_nce_all_pairs` they cost next to nothing.

    Args:
        audio: (clips, windows, embed).
        motion: (clips, windows, embed).
        temperature: tau, above zero.
        mask: (clips, windows), bool, False for padding: neither anchor nor negative.
        symmetric: Average the loss of finding the motion from the audio and that of finding the audio from the motion; otherwise
            only the first.
        reduction: "none", "mean" (over the windows that count) or "sum".

    Returns:
        A scalar, or (clips, windows) for "none", zero where masked.

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: An unknown reduction, or a temperature that is not positive.

    Example:
        >>> audio = torch.eye(3).expand(2, 3, 3)
        >>> round(info_nce_within_clips(audio, audio, temperature=1.0).item(), 4)
        0.5514

    Source: ours, after equation (2) with misaligned windows of the same sequence as negatives (paper section 3.1).
    """
    check_windows(audio, motion)
    check_mask(mask, *audio.shape[:2])
    scale = _inverse(temperature)
    with torch.autocast(device_type=audio.device.type, enabled=False):
        logits = (unit_norm(audio) * scale) @ unit_norm(motion).transpose(1, 2)
        if mask is not None:
            # A finite floor: a row of a clip that is all padding would otherwise be NaN, and its gradient too.
            logits = logits.masked_fill(~(mask[:, :, None] & mask[:, None, :]), torch.finfo(logits.dtype).min / 2)
        partition = logits.logsumexp(dim=2)
        other = logits.logsumexp(dim=1) if symmetric else partition
        losses = 0.5 * (partition + other) - logits.diagonal(dim1=1, dim2=2)
    return reduce_windows(losses, mask, reduction)


class InfoNCE(nn.Module):
    """Equation (2) with negatives drawn anew in every call (:func:`sample_negatives`, :func:`info_nce_sampled`).

    Args:
        num_negatives: Negatives for each window.
        source: "both", "in_clip" or "cross_clip".
        exclusion: Windows of the same clip at this distance or nearer are never negatives.
        temperature: tau; the start value if it is learnable.
        learnable: Learn the temperature (a :class:`LogitScale`).
        reduction: "none", "mean" or "sum".

    Raises:
        ArgumentError: A value out of its range.

    Example:
        >>> audio, motion = torch.randn(2, 4, 10, 8, generator=torch.Generator().manual_seed(0))
        >>> InfoNCE(num_negatives=6)(audio, motion, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([])

    Source: paper section 3.1: 48 negatives. The exclusion zone and the temperature are ours.
    """

    def __init__(
        self,
        *,
        num_negatives: int = 48,
        source: str = "both",
        exclusion: int = 1,
        temperature: float = 0.07,
        learnable: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_choice("source", source, SOURCES)
        check_positive("num_negatives", num_negatives)
        check_positive("temperature", temperature)
        self.num_negatives, self.source, self.exclusion = num_negatives, source, exclusion
        self.temperature, self.reduction = temperature, reduction
        self.logit_scale = LogitScale(initial=1.0 / temperature) if learnable else None

    def forward(
        self,
        audio: Tensor,
        motion: Tensor,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
        indices: Tensor | None = None,
    ) -> Tensor:
        """(clips, windows, embed) twice to the loss; ``mask`` (clips, windows) is False for padding.

        ``indices`` are negatives drawn beforehand (:func:`sample_negatives`): torch.compile cannot trace a ``generator``.
        """
        check_windows(audio, motion)
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
        temperature = self.temperature if self.logit_scale is None else 1.0 / self.logit_scale()
        return info_nce_sampled(audio, motion, indices, temperature=temperature, mask=mask, reduction=self.reduction)


class AllPairsInfoNCE(nn.Module):
    """:func:`info_nce_all_pairs` with its settings and, if wanted, a learnable temperature.

    Args:
        temperature: tau; the start value if it is learnable.
        learnable: Learn the temperature (a :class:`LogitScale`).
        max_scale: Cap of the learnable logit scale 1 / tau; up to 64 the loss is about a third faster.
        exclusion: Windows of the same clip at distances 1 to this are taken out of the negatives.
        symmetric: Average both directions.
        reduction: "none", "mean" or "sum".

    Raises:
        ArgumentError: A value out of its range.

    Example:
        >>> audio = torch.eye(3)[None]
        >>> round(AllPairsInfoNCE(temperature=1.0)(audio, audio).item(), 4)
        0.5514

    Source: ours, after equation (2).
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        learnable: bool = False,
        max_scale: float = 100.0,
        exclusion: int = 0,
        symmetric: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_positive("max_scale", max_scale)
        self.temperature, self.max_scale = temperature, max_scale
        self.exclusion, self.symmetric, self.reduction = exclusion, symmetric, reduction
        self.logit_scale = LogitScale(initial=1.0 / temperature, maximum=max_scale) if learnable else None

    def forward(self, audio: Tensor, motion: Tensor, mask: Tensor | None = None) -> Tensor:
        """(clips, windows, embed) twice to the loss; ``mask`` (clips, windows) is False for padding."""
        return info_nce_all_pairs(
            audio,
            motion,
            temperature=self.temperature if self.logit_scale is None else 1.0 / self.logit_scale(),
            exclusion=self.exclusion,
            mask=mask,
            symmetric=self.symmetric,
            min_temperature=None if self.logit_scale is None else 1.0 / self.max_scale,
            reduction=self.reduction,
        )


def _inverse(temperature: float | Tensor) -> float | Tensor:
    """1 / temperature, checked where it is a number."""
    if isinstance(temperature, Tensor):
        return temperature.float().reciprocal() if temperature.dtype != torch.float64 else temperature.reciprocal()
    check_positive("temperature", temperature)
    return 1.0 / temperature


def _nce(positive: Tensor, negatives: Tensor, scale: float | Tensor) -> Tensor:
    """-log of the positive's share, from cosines (...) and (..., num_negatives)."""
    return F.softplus((negatives * scale).logsumexp(dim=-1) - positive * scale)
