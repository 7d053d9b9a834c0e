"""InfoNCE (equation 2): one positive against given or sampled negatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from avsync._checks import (
    REDUCTIONS,
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
)
from avsync.errors import ShapeError
from avsync.losses._windows import Level, as_levels, check_indices, sampled_similarity
from avsync.losses.distributed import check_alike, gather, gather_mask, rank_and_size, reduce_windows_across
from avsync.losses.negatives import SOURCES, sample_negatives
from avsync.losses.pairs import LogitScale, inverse_temperature
from avsync.models.syncer.interface import check_mask, check_pair, check_windows, cosine_similarity, hide, unit_norm


def chance_level(num_negatives: int) -> float:
    """Return the InfoNCE at chance level, log(N + 1) for ``num_negatives`` = N.

    A model at chance level gives the positive and the negatives equal scores.

    Args:
        num_negatives: Number of negatives per positive.

    Returns:
        The loss at chance level, in nats.

    Raises:
        ArgumentError: ``num_negatives`` is not positive.

    Example:
        >>> round(chance_level(48), 3)
        3.892

    Source: equation (2) with equal scores.
    """
    check_count("num_negatives", num_negatives)
    return math.log(num_negatives + 1)


def info_nce(
    motion: Tensor, audio: Tensor, negatives: Tensor, *, temperature: float | Tensor = 0.07, reduction: str = "mean"
) -> Tensor:
    r"""Compute equation (2): InfoNCE of one positive against given negative motion windows.

    .. math:: L = -\log \frac{e^{s(a, x^+) / \tau}}{e^{s(a, x^+) / \tau} + \sum_n e^{s(a, x^-_n) / \tau}}

    with the score :math:`s` of equation (3), the audio window :math:`a`, the positive :math:`x^+`, the negatives :math:`x^-_n`
    and the temperature :math:`\tau`. The loss is computed as the softplus of a difference, which is never negative and precise
    near zero.

    Args:
        motion: (..., embed), the positives.
        audio: (..., embed), the anchors.
        negatives: (..., num_negatives, embed).
        temperature: tau, above zero.
        reduction: "none", "mean" or "sum".

    Returns:
        A scalar, or (...) for "none".

    Raises:
        ShapeError: The shapes do not match, or there are no negatives.
        ArgumentError: The reduction is unknown, or the temperature is not positive.

    Example:
        >>> audio = torch.tensor([[1.0, 0.0]])
        >>> round(info_nce(audio, audio, torch.tensor([[[0.0, 1.0]]]), temperature=1.0).item(), 4)
        0.3133

    Source: paper section 3.1; its text does not state tau.
    """
    check_pair(motion, audio)
    fits = is_tensor(negatives) and negatives.ndim == audio.ndim + 1
    if not fits or negatives.shape[:-2] + negatives.shape[-1:] != audio.shape or negatives.shape[-2] == 0:
        raise ShapeError(
            f"`negatives`: expected (..., num_negatives, embed) for embeddings {describe_shape(audio)}, at least one negative, "
            f"got {describe_shape(negatives)}"
        )
    check_floating("negatives", negatives)
    check_same_device("negatives", negatives, motion.device, "the embeddings")
    if motion.numel() == 0:
        raise ShapeError(
            f"`motion`, `audio`: expected at least 1 window and 1 number per embedding, got {describe_shape(motion)}"
        )
    check_choice("reduction", reduction, REDUCTIONS)
    scale = inverse_temperature(temperature)
    with torch.autocast(device_type=audio.device.type, enabled=False):
        motion, audio, negatives = same_precision(motion, audio, negatives)
        a = unit_norm(audio)
        positive = (a * unit_norm(motion)).sum(dim=-1)
        scores = (unit_norm(negatives) @ a[..., None]).squeeze(-1)
        return reduce(_nce(positive, scores, scale), reduction)


@overload
def sampled_info_nce(
    motion: Tensor,
    audio: Tensor,
    indices: Tensor,
    *,
    temperature: float | Tensor = ...,
    mask: Tensor | None = ...,
    reduction: str = ...,
    group: dist.ProcessGroup | None = ...,
) -> Tensor: ...


@overload
def sampled_info_nce(
    motion: Sequence[Tensor],
    audio: Sequence[Tensor],
    indices: Sequence[Tensor],
    *,
    temperature: float | Tensor | Sequence[float | Tensor] = ...,
    mask: Sequence[Tensor | None] | None = ...,
    reduction: str = ...,
    group: dist.ProcessGroup | None = ...,
) -> list[Tensor]: ...


@checked
def sampled_info_nce(
    motion: Tensor | Sequence[Tensor],
    audio: Tensor | Sequence[Tensor],
    indices: Tensor | Sequence[Tensor],
    *,
    temperature: float | Tensor | Sequence[float | Tensor] = 0.07,
    mask: Tensor | Sequence[Tensor | None] | None = None,
    reduction: str = "mean",
    group: dist.ProcessGroup | None = None,
) -> Tensor | list[Tensor]:
    """Compute equation (2) with negatives given by their indices, as :func:`sample_negatives` returns them.

    The result equals that of :func:`info_nce` with :func:`gather_negatives`, but in most cases the negatives are not copied.
    Several levels can be passed together, as lists with one entry per level. Each level has its own loss, and processes wait
    for each other once instead of once per level.

    Args:
        motion: (clips, windows, embed), the positives and the negatives, or one such tensor per level.
        audio: (clips, windows, embed), the anchors, or one such tensor per level.
        indices: (clips, windows, num_negatives), int64, into the flattened (clips * windows) axis, or one such tensor per
            level. With a ``group``, into the windows of all processes, one process after the other.
        temperature: tau, above zero; one for all levels, or one per level.
        mask: (clips, windows), bool, False for windows that do not count; with several levels, one mask or None per level.
        reduction: "none", "mean" (over the windows that count) or "sum".
        group: Processes whose windows may also be negatives, each with as many clips and windows as this process
            (:mod:`avsync.losses.distributed`).

    Returns:
        A scalar, the same on every process, or (clips, windows) of this process for "none", zero for masked windows. With
        several levels, a list with one entry per level.

    Raises:
        ShapeError: The shapes do not match.
        ArgumentError: The reduction is unknown, a temperature is not positive, or the lists differ in length.

    Example:
        >>> embeddings = torch.eye(4)[None]
        >>> indices = torch.tensor([[[2], [3], [0], [1]]])
        >>> round(sampled_info_nce(embeddings, embeddings, indices, temperature=1.0).item(), 4)
        0.3133

    Source: paper section 3.1.
    """
    levels, single = as_levels(motion, audio, temperature=temperature, mask=mask, indices=indices)
    check_choice("reduction", reduction, REDUCTIONS)
    scales = [inverse_temperature(level.temperature) for level in levels]
    for level in levels:
        check_windows(level.motion, level.audio)
        clips, windows, _ = level.motion.shape
        check_mask(level.mask, clips, windows, level.motion.device)
        check_indices(level.indices, clips, windows, level.motion.device)
    check_alike(group, motion=[level.motion for level in levels], mask=[level.mask for level in levels])
    # Written out, because torch 2.6 compiles neither `_replace` nor slices of a NamedTuple.
    levels = [Level(hide(x.motion, x.mask), hide(x.audio, x.mask), x.temperature, x.mask, x.indices) for x in levels]
    if group is None:
        scores = [sampled_similarity(level.motion, level.audio, level.indices) for level in levels]
    else:
        scores = _sampled_across(levels, group)
    values = [
        _nce(cosine_similarity(level.motion, level.audio), score, scale)
        for level, score, scale in zip(levels, scores, scales, strict=True)
    ]
    losses = reduce_windows_across(values, [level.mask for level in levels], reduction, group)
    return losses[0] if single else losses


def _sampled_across(levels: Sequence[Level], group: dist.ProcessGroup) -> list[Tensor]:
    """Compute :func:`sampled_similarity` of each level, with indices into the motion windows of all processes."""
    with torch.autocast(device_type=levels[0].audio.device.type, enabled=False):
        candidates = gather([unit_norm(level.motion) for level in levels], group, checked=True)
        return [
            (unit_norm(level.audio).flatten(0, 1) @ others.flatten(0, 1).transpose(0, 1))
            .gather(1, level.indices.flatten(0, 1))
            .reshape(level.indices.shape)
            for level, others in zip(levels, candidates, strict=True)
        ]


class InfoNCE(nn.Module):
    """InfoNCE loss with sampled negatives, equation (2); see :func:`sampled_info_nce`.

    The negatives are drawn again in every call by :func:`sample_negatives`.

    Args:
        num_negatives: Number of negatives per window.
        source: "both", "in_clip" or "cross_clip".
        exclusion: Largest distance, in windows of the same clip, at which windows are never negatives.
        temperature: tau; the initial value if ``learnable`` is True.
        learnable: Learn the temperature with a :class:`LogitScale`.
        reduction: "none", "mean" or "sum".

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> motion, audio = torch.randn(2, 4, 10, 8, generator=torch.Generator().manual_seed(0))
        >>> InfoNCE(num_negatives=6)(motion, audio, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([])

    Source: paper section 3.1: 48 negatives. The exclusion zone and the temperature are ours.
    """

    @checked
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
        check_choice("reduction", reduction, REDUCTIONS)
        check_count("num_negatives", num_negatives)
        check_count("exclusion", exclusion, 0)
        check_positive("temperature", temperature)
        self.num_negatives, self.source, self.exclusion = num_negatives, source, exclusion
        self.temperature, self.reduction = temperature, reduction
        self.logit_scale = LogitScale(initial=1.0 / temperature) if learnable else None

    @checked
    def forward(
        self,
        motion: Tensor,
        audio: Tensor,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
        indices: Tensor | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> Tensor:
        """Compute the loss of (clips, windows, embed) motion and audio; ``mask`` (clips, windows) is False for padding.

        ``indices`` are negatives drawn in advance (:func:`sample_negatives`), because torch.compile cannot trace a
        ``generator``. With a ``group``, negatives are drawn from the windows of all processes. If the generators of all
        processes have the same state, the negatives equal those of one process with all clips.
        """
        check_windows(motion, audio)
        check_mask(mask, motion.shape[0], motion.shape[1], motion.device)
        if indices is None:
            check_alike(group, motion=motion, mask=mask)
            indices = self.draw(audio.shape[0], audio.shape[1], generator, mask, group, audio.device)
        return sampled_info_nce(
            motion, audio, indices, temperature=self.current_temperature(), mask=mask, reduction=self.reduction, group=group
        )

    def current_temperature(self) -> float | Tensor:
        """Return the temperature: the constant, or a scalar tensor with gradient if it is learnable."""
        return self.temperature if self.logit_scale is None else 1.0 / self.logit_scale()

    @checked
    def draw(
        self,
        clips: int,
        windows: int,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
        group: dist.ProcessGroup | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Draw the negatives of ``clips`` clips of ``windows`` windows, (clips, windows, num_negatives), for one call.

        With a ``group``, all processes must pass the same sizes, and a mask must be passed by all processes or by none
        (:func:`avsync.losses.distributed.check_alike`).
        """
        rank, size = rank_and_size(group)
        drawn = sample_negatives(
            size * clips,
            windows,
            self.num_negatives,
            source=self.source,
            exclusion=self.exclusion,
            mask=gather_mask(mask, group),
            generator=generator,
            device=device,
        )
        return drawn[rank * clips : (rank + 1) * clips]


def _nce(positive: Tensor, negatives: Tensor, scale: float | Tensor) -> Tensor:
    """Return -log of the softmax probability of the positive, from cosines (...) and (..., num_negatives)."""
    return F.softplus((negatives * scale).logsumexp(dim=-1) - positive * scale)
