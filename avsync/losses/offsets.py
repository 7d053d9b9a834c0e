"""InfoNCE over the offsets of a segment of windows: what a search for the offset of a clip asks, as a loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from avsync._checks import REDUCTIONS, check_choice, check_count, check_shape
from avsync.errors import ClipTooShortError
from avsync.losses._windows import check_mask, check_windows, hide, reduce_windows
from avsync.losses.pairs import inverse_temperature
from avsync.models.syncer.similarity import unit_norm


def frame_shares(counts: Tensor, window: int) -> Tensor:
    """Count the frames that each window adds to those of its neighbours.

    Windows overlap: read from the beginning, the first brings all of its frames and every other one a single new frame; read from the
    end, the last brings them all. The share is the mean of both readings, so that the shares of a clip add up to its frames: a
    weighted mean over windows that is a mean over frames. Where windows are left out, those around the gap bring more.

    Args:
        counts: (batch, windows, offsets), 1 for what counts and 0 for the rest, as
            :func:`avsync.metrics.offset.window_distances` returns it.
        window: Frames that a window spans.

    Returns:
        As ``counts``, from 0 to ``window``.

    Example:
        >>> frame_shares(torch.ones(1, 6, 1), 5).flatten()
        tensor([3., 1., 1., 1., 1., 3.])

    Source: ours. Where windows ``n`` apart correlate as ``(1 - 2 / (window + 1))**n``, no weights have a mean of less variance.
    """
    check_shape("counts", counts, "batch windows offsets")
    check_count("window", window)
    return torch.where(counts > 0, 0.5 * (_new_frames(counts, window) + _new_frames(counts.flip(1), window).flip(1)), 0.0)


def _new_frames(counts: Tensor, window: int) -> Tensor:
    """Frames of each window that no earlier one has that counts."""
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
    """InfoNCE of whole segments of windows against themselves at other offsets.

    ``-log softmax_j(sqrt(span) / tau * mean_{i in stretch} cos(v[i], a[i + j]))`` at ``j = 0``, over ``j = -V..V``. Single windows
    (``span = 1``) are often ambiguous: a held vowel looks like its neighbours. Averaged over a stretch, what a window cannot tell
    counts for nothing and what it can adds up, so that training spends its effort on windows that say something. The evidence of
    independent windows grows with their number and its spread with the root, hence the root.

    Args:
        motion: (clips, windows, embed).
        audio: Embeddings, (clips, windows, embed).
        max_offset: V, the largest offset to tell from zero, in windows. Offsets that would leave the clip are left out.
        span: Windows of a stretch; the clip is cut into segments of so many, and the rest of it is not used.
        window: Frames that a window spans, for a mean over the frames of a stretch instead of its windows, as a search with the same
            ``window`` takes it (:func:`avsync.metrics.offset.offset_distances`); 1 for the mean over windows.
        temperature: tau, above zero.
        mask: (clips, windows), bool, False for padding; a stretch or an offset that needs such a window does not count.
        reduction: "none", "mean" (over the stretches that count) or "sum".

    Returns:
        A scalar, or (clips, windows // span) for "none", zero where masked.

    Raises:
        ShapeError: Shapes that do not fit each other.
        ArgumentError: ``max_offset``, ``span`` or ``window`` is below 1, or an unknown reduction.
        ClipTooShortError: A stretch is longer than the clip.

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
    if span >= windows:
        raise ClipTooShortError(
            f"`motion`: expected more windows than the {span} of a segment, so that it has another offset to compare with, got {windows}"
        )
    stretches = windows // span
    scale = inverse_temperature(temperature)
    with torch.autocast(device_type=audio.device.type, enabled=False):
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
        # A finite floor: a stretch that is all padding would otherwise be NaN, and its gradient too.
        logits = logits.masked_fill(~whole, torch.finfo(logits.dtype).min / 2)
        losses = -F.log_softmax(logits, dim=-1)[..., max_offset]
    return reduce_windows(losses, None if mask is None else counts, reduction)
