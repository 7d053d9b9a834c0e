"""Candidates for negative windows, and random sampling from them.

There are two sources of negatives. Misaligned windows of the same clip teach the timing, and windows of other clips teach the
content. Windows inside an exclusion zone around the positive are not used as negatives, because they overlap the positive and
share its content.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import check_choice, check_count, check_floating, check_shape, checked
from avsync.errors import ClipTooShortError, ShapeError
from avsync.losses._windows import check_indices
from avsync.models.syncer.interface import check_mask

SOURCES = ("both", "in_clip", "cross_clip")

# Two half-open intervals of candidates for each anchor: (start, end, start, end), each of shape (anchors, 1).
_Intervals = tuple[Tensor, Tensor, Tensor, Tensor]


@checked
def sample_negatives(
    num_clips: int,
    num_windows: int,
    num_negatives: int = 48,
    *,
    source: str = "both",
    exclusion: int = 1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw negative windows for every window of a batch, without loops and without a matrix of all pairs.

    All candidates of a source are equally likely. For one anchor, no candidate is drawn twice before every candidate was drawn
    once.

    Args:
        num_clips: Number of clips in the batch.
        num_windows: Number of windows per clip.
        num_negatives: Number of negatives per window.
        source: "in_clip" draws from the same clip, and "cross_clip" from the other clips. "both" draws half of the negatives
            from each source, and an odd one from the other clips. If one source has no candidate, "both" draws all negatives
            from the other.
        exclusion: Largest distance, in windows of the same clip, at which windows are never drawn; 0 excludes only the
            positive.
        mask: (clips, windows), bool, False for padding, which is not drawn. An anchor gets padding only if all of its
            candidates are padding, because shapes do not reveal this case. It cannot occur if each clip has enough valid
            windows.
        generator: Random generator; torch's global one by default.
        device: Device of the result; by default the device of ``mask``, otherwise that of ``generator``.

    Returns:
        (clips, windows, num_negatives), int64: indices into the flattened (clips * windows) axis.

    Raises:
        ArgumentError: The source is unknown, or a size is not positive.
        ShapeError: There is only one clip and the source is "cross_clip", or ``mask`` has the wrong shape.
        ClipTooShortError: The clips are so short that a window has no candidate.

    Example:
        >>> indices = sample_negatives(4, 10, 6, generator=torch.Generator().manual_seed(0))
        >>> indices.shape, int((indices[2] // 10 == 2).sum(dim=-1).max())
        (torch.Size([4, 10, 6]), 3)

    Source: paper section 3.1 (48 negatives, from the same clip or from others); the proportions and the exclusion zone are
    ours.
    """
    check_choice("source", source, SOURCES)
    for name, count in (("num_clips", num_clips), ("num_windows", num_windows), ("num_negatives", num_negatives)):
        check_count(name, count)
    check_count("exclusion", exclusion, 0)
    check_mask(mask, num_clips, num_windows)
    can_in_clip, can_cross_clip = num_windows >= 2 * exclusion + 2, num_clips >= 2
    if not can_in_clip and (source == "in_clip" or not can_cross_clip):
        raise ClipTooShortError(
            f"`num_windows`: expected at least {2 * exclusion + 2} windows per clip for in-clip negatives with exclusion "
            f"{exclusion}, "
            f"or several clips and cross-clip negatives; got {num_clips} clips of {num_windows} windows with source {source!r}"
        )
    if source == "cross_clip" and not can_cross_clip:
        raise ShapeError("`num_clips`: expected at least 2 clips for cross-clip negatives, got 1")
    if device is None:
        device = mask.device if mask is not None else generator.device if generator is not None else torch.device("cpu")

    num_in_clip = {"in_clip": num_negatives, "cross_clip": 0, "both": num_negatives // 2}[source]
    if source == "both" and not (can_in_clip and can_cross_clip):
        num_in_clip = num_negatives if can_in_clip else 0

    count = num_clips * num_windows
    plain = torch.arange(count + 1, device=device)
    drawn_on = device if generator is None else generator.device
    parts = []
    for num, inside in ((num_in_clip, True), (num_negatives - num_in_clip, False)):
        if num == 0:
            continue
        uniform = torch.rand(count, num + 1, generator=generator, device=drawn_on).to(device, non_blocking=True)
        indices, _ = _draw(_candidates(plain, num_clips, num_windows, exclusion, inside), uniform)
        if mask is not None:
            # Only valid windows are counted as candidates; `order` converts a rank among the valid windows to an index.
            valid = mask.reshape(-1)
            before = torch.nn.functional.pad(valid.cumsum(0), (1, 0))
            order = torch.argsort((~valid).to(torch.uint8), stable=True)
            intervals = _candidates(before, num_clips, num_windows, exclusion, inside)
            if source == "both" and can_in_clip and can_cross_clip:
                others = _candidates(before, num_clips, num_windows, exclusion, not inside)
                none_left = _total(intervals) == 0
                a, b, c, d = (torch.where(none_left, other, own) for own, other in zip(intervals, others, strict=True))
                intervals = (a, b, c, d)
            ranks, total = _draw(intervals, uniform)
            indices = torch.where(total > 0, order[ranks], indices)
        parts.append(indices)
    return torch.cat(parts, dim=1).reshape(num_clips, num_windows, num_negatives)


def _candidates(before: Tensor, num_clips: int, num_windows: int, exclusion: int, inside: bool) -> _Intervals:
    """Return the two candidate intervals of each anchor, in ranks; ``before[p]`` counts the candidates before window p."""
    index = torch.arange(num_clips * num_windows, device=before.device)[:, None]
    clip_start = index - index % num_windows
    clip_end = clip_start + num_windows
    if not inside:
        return torch.zeros_like(index), before[clip_start], before[clip_end], before[-1].expand(index.shape)
    zone_start = torch.maximum(index - exclusion, clip_start)
    zone_end = torch.minimum(index + exclusion + 1, clip_end)
    return before[clip_start], before[zone_start], before[zone_end], before[clip_end]


def _total(intervals: _Intervals) -> Tensor:
    start, end, start_2, end_2 = intervals
    return (end - start) + (end_2 - start_2)


def _draw(intervals: _Intervals, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one candidate from each of several equal shares, rotated by a random amount so that all are equally likely."""
    start, end, start_2, _ = intervals
    total = _total(intervals)
    size = total.clamp(min=1)
    num = uniform.shape[1] - 1
    edges = torch.arange(num + 1, device=uniform.device) * size // num
    share = (edges[:, 1:] - edges[:, :-1]).clamp(min=1)
    within = torch.minimum((uniform[:, :num] * share).long(), share - 1)
    turn = torch.minimum((uniform[:, num:] * size).long(), size - 1)
    rank = (edges[:, :-1] + within + turn) % size
    rank = torch.where(rank < end - start, start + rank, start_2 + rank - (end - start))
    return torch.where(total > 0, rank, 0), total


def gather_negatives(embeddings: Tensor, indices: Tensor) -> Tensor:
    """Gather the embeddings at ``indices``.

    Args:
        embeddings: (clips, windows, embed).
        indices: (clips, windows, num_negatives), int64, into the flattened (clips * windows) axis.

    Returns:
        (clips, windows, num_negatives, embed).

    Raises:
        ShapeError: The shapes do not match.

    Example:
        >>> embeddings = torch.arange(6.0).reshape(2, 3, 1)
        >>> gather_negatives(embeddings, torch.full((2, 3, 1), 4))[0, 0]
        tensor([[4.]])

    Source: ours.
    """
    check_shape("embeddings", embeddings, "clips windows embed")
    check_floating("embeddings", embeddings)
    check_indices(indices, embeddings.shape[0], embeddings.shape[1], embeddings.device)
    return embeddings.flatten(0, 1)[indices]


@checked
def excluded_pairs(
    num_clips: int,
    num_windows: int,
    *,
    exclusion: int = 0,
    mask: Tensor | None = None,
    rows: tuple[int, int] | None = None,
    device: torch.device | None = None,
) -> Tensor | None:
    """Return the mask of window pairs that are neither positive nor negative, or None if there are no such pairs.

    Args:
        num_clips: Number of clips in the batch.
        num_windows: Number of windows per clip.
        exclusion: Largest distance, in windows, at which two different windows of the same clip are excluded.
        mask: (clips, windows), bool, False for padding. All pairs with padding are excluded, except a padded window with
            itself, so that no row or column is empty.
        rows: First clip and end (exclusive) of the range of clips whose rows are returned; all clips by default. With the clips
            of several processes, each process requests the rows of its own clips.
        device: Device of the result; ``mask`` must be on the same device.

    Returns:
        (clips * windows, clips * windows), bool, never True on the diagonal, or only the requested rows; or None.

    Raises:
        ArgumentError: ``exclusion`` is negative.
        ShapeError: ``mask`` has the wrong shape.

    Example:
        >>> excluded_pairs(1, 3, exclusion=1).int().tolist()
        [[0, 1, 0], [1, 0, 1], [0, 1, 0]]

    Source: ours.
    """
    check_count("num_clips", num_clips)
    check_count("num_windows", num_windows)
    check_count("exclusion", exclusion, 0)
    if device is None and mask is not None and isinstance(mask, Tensor):
        device = mask.device
    check_mask(mask, num_clips, num_windows, device)
    if exclusion == 0 and mask is None:
        return None
    first, end = rows or (0, num_clips)
    window = torch.arange(num_windows, device=device)
    distance = (window[:, None] - window).abs()
    clip = torch.arange(num_clips, device=device)
    same_clip = (clip[first:end, None] == clip)[:, None, :, None]
    excluded = same_clip & ((distance > 0) & (distance <= exclusion))[None, :, None, :]
    if mask is not None:
        padded = ~mask
        self_pair = same_clip & (distance == 0)[None, :, None, :]
        excluded = excluded | ((padded[first:end, :, None, None] | padded) & ~self_pair)
    return excluded.reshape((end - first) * num_windows, num_clips * num_windows)
