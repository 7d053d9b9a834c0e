"""What share of a clip's frames each of its overlapping windows stands for: a mean over windows that is a mean over frames.

A plain mean over all windows of five frames hears the frames in the middle of a clip five times, and the four at each end less, the
outermost once. Of a clip of 15 frames these are 8: more than half of the clip, with a third of the say.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frame_shares(counts: Tensor, window: int) -> Tensor:
    """How many frames each window adds to those of its neighbours.

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
    return torch.where(counts > 0, 0.5 * (_new_frames(counts, window) + _new_frames(counts.flip(1), window).flip(1)), 0.0)


def _new_frames(counts: Tensor, window: int) -> Tensor:
    """Frames of each window that no earlier one has that counts."""
    position = torch.arange(counts.shape[1], dtype=counts.dtype, device=counts.device)[:, None]
    latest = torch.where(counts > 0, position, -float(window)).cummax(dim=1).values
    earlier = torch.nn.functional.pad(latest[:, :-1], (0, 0, 1, 0), value=-float(window))
    return (position - earlier).clamp(max=window)
