"""InfoNCE over the temporal offsets of a segment of windows: the task of an offset search, as a loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from avsync._checks import REDUCTIONS, check_choice, check_count, check_floating, check_shape, same_precision
from avsync.errors import ClipTooShortError
from avsync.losses._windows import reduce_windows
from avsync.losses.pairs import inverse_temperature
from avsync.models.syncer.interface import check_mask, check_windows, hide, unit_norm


def frame_shares(counts: Tensor, window: int) -> Tensor:
    """Count the frames that each window adds to the frames of its neighbours.

    Windows overlap. Counted from the beginning, the first window adds all of its frames and every other window adds one new
    frame. Counted from the end, the last window adds all of its frames. The share of a window is the mean of both counts, so
    that the shares of a clip sum to its number of frames. A mean over windows weighted by these shares is a mean over frames.
    If windows are left out, the windows next to the gap have larger shares.

    Args:
        counts: (batch, windows, offsets), 1 for windows that count and 0 for the others, as
            :func:`avsync.metrics.offset.window_distances` returns them.
        window: Length of a window in frames.

    Returns:
        Shares in frames, with the shape of ``counts``, from 0 to ``window``.

    Example:
        >>> frame_shares(torch.ones(1, 6, 1), 5).flatten()
        tensor([3., 1., 1., 1., 1., 3.])

    Source: ours. If the correlation of windows ``n`` apart is ``(1 - 2 / (window + 1))**n``, these weights minimise the
    variance of the weighted mean.
    """
    check_shape("counts", counts, "batch windows offsets")
    check_floating("counts", counts)
    check_count("window", window)
    return torch.where(counts > 0, 0.5 * (_new_frames(counts, window) + _new_frames(counts.flip(1), window).flip(1)), 0.0)


def _new_frames(counts: Tensor, window: int) -> Tensor:
    """Count the frames of each window that no earlier counting window contains."""
    position = torch.arange(counts.shape[1], dtype=counts.dtype, device=counts.device)[:, None]
    latest = torch.where(counts > 0, position, -float(window)).cummax(dim=1).values
    earlier = torch.nn.functional.pad(latest[:, :-1], (0, 0, 1, 0), value=-float(window))
    return (position - earlier).clamp(max=window)


def offset_info_nce(
    motion: Tensor,
    audio: Tensor,
    *,
    max_offset: int = 15,
    span: int = 1,
    window: int = 1,
    temperature: float | Tensor = 0.07,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute the InfoNCE of segments of windows against the same segments at other offsets.

    With the motion embeddings :math:`v_i`, the audio embeddings :math:`a_i`, the temperature :math:`\tau` and the largest
    offset :math:`V`, the loss of a segment :math:`S` of ``span`` windows is

    .. math:: L = -\log \frac{e^{z_0}}{\sum_{j=-V}^{V} e^{z_j}}, \quad
        z_j = \frac{\sqrt{\mathrm{span}}}{\tau} \operatorname{mean}_{i \in S} \cos(v_i, a_{i+j}) .

    Single windows (``span = 1``) are often ambiguous, because a held vowel looks like its neighbours. In the mean over a
    segment, ambiguous windows have little influence and informative windows add up, so that training concentrates on
    informative windows. The sum of the scores of independent windows grows with their number and its spread with the square
    root, hence the factor :math:`\sqrt{\mathrm{span}}`.

    Args:
        motion: (clips, windows, embed).
        audio: Embeddings, (clips, windows, embed).
        max_offset: V, the largest offset, in windows. Offsets that reach outside the clip are left out.
        span: Windows per segment; the clip is cut into segments of this length, and remaining windows at the end are not used.
        window: Length of a window in frames, for a mean over the frames of a segment, as an offset search with the same
            ``window`` computes it (:func:`avsync.metrics.offset.offset_distances`); 1 for the mean over windows.
        temperature: tau, above zero.
        mask: (clips, windows), bool, False for padding; segments and offsets that need a padded window do not count.
        reduction: "none", "mean" (over the segments that count) or "sum".

    Returns:
        A scalar, or (clips, windows // span) for "none", zero where masked.

    Raises:
        ShapeError: The shapes do not match.
        ArgumentError: ``max_offset``, ``span`` or ``window`` is below 1, or the reduction is unknown.
        ClipTooShortError: The clip does not have more windows than a segment.

    Example:
        >>> windows = torch.eye(5)[None]
        >>> bool(offset_info_nce(windows, windows, span=1, max_offset=2, temperature=1.0) > 0.5)
        True

    Source: ours.
    """
    check_windows(motion, audio)
    clips, windows, _ = motion.shape
    check_mask(mask, clips, windows, motion.device)
    check_choice("reduction", reduction, REDUCTIONS)
    for name, count in (("max_offset", max_offset), ("span", span), ("window", window)):
        check_count(name, count)
    max_offset = int(max_offset)  # NumPy's unsigned numbers have no negative ones
    if span >= windows:
        raise ClipTooShortError(
            f"`motion`: expected more windows than the {span} of a segment, so that it has another offset to compare "
            f"with, got {windows}"
        )
    stretches = windows // span
    scale = inverse_temperature(temperature)
    with torch.autocast(device_type=audio.device.type, enabled=False):
        motion, audio = same_precision(motion, audio)
        scores = unit_norm(hide(motion, mask)) @ (unit_norm(hide(audio, mask)) * scale).transpose(1, 2)
        position = torch.arange(windows, device=audio.device)
        other = position[:, None] + torch.arange(-max_offset, max_offset + 1, device=audio.device)  # (windows, offsets)
        inside = ((other >= 0) & (other < windows)).expand(clips, -1, -1)
        other = other.clamp(0, windows - 1)
        band = scores.gather(2, other.expand(clips, -1, -1))
        if mask is not None:
            inside = inside & mask[:, :, None] & mask[:, other]
        used = slice(0, stretches * span)
        whole = inside[:, used].unflatten(1, (stretches, span)).all(dim=2)
        shares = frame_shares(scores.new_ones(1, span, 1), window)
        logits = (band[:, used].unflatten(1, (stretches, span)) * (shares / shares.sum())).sum(dim=2) * span**0.5
        counts = whole[..., max_offset]
        # The floor is finite, because a segment of padding alone would otherwise give NaN in value and gradient.
        logits = logits.masked_fill(~whole, torch.finfo(logits.dtype).min / 2)
        losses = -F.log_softmax(logits, dim=-1)[..., max_offset]
    return reduce_windows(losses, None if mask is None else counts, reduction)
