"""Faults of face trackers and of video: trembling points, repeated frames, smoothed tracks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avsync._checks import check_count, check_positive, check_shape, checked, describe_shape
from avsync.errors import ArgumentError, ShapeError
from avsync.landmarks.geometry import check_landmarks


def repeat_frames(landmarks: Tensor, newest: Tensor) -> Tensor:
    """Replace each frame by an earlier frame of its clip, as video of a lower rate does.

    Args:
        landmarks: (batch, frames, points, dims).
        newest: (batch, frames), int64, number of the frame that is shown at each time.

    Returns:
        (batch, frames, points, dims).

    Raises:
        ShapeError: ``newest`` does not have one number per frame.

    Example:
        >>> clip = torch.arange(6.0).reshape(1, 6, 1, 1)
        >>> repeat_frames(clip, held_frames(6, torch.tensor([3]), torch.tensor([0]))).flatten().tolist()
        [0.0, 0.0, 0.0, 3.0, 3.0, 3.0]

    Source: ours.
    """
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_landmarks(landmarks)
    batch, frames, points, dims = landmarks.shape
    check_shape("newest", newest, "batch frames", batch=batch, frames=frames)
    if newest.dtype != torch.int64:
        raise ShapeError(f"`newest`: expected int64, got {newest.dtype}")
    return landmarks.gather(1, newest[:, :, None, None].expand(-1, -1, points, dims))


@checked
def held_frames(frames: int, every: Tensor, phase: Tensor) -> Tensor:
    """Compute which frame is shown if only every n-th frame is new.

    Args:
        frames: Number of frames.
        every: (batch,), int64, n for each clip; 1 leaves the clip unchanged.
        phase: (batch,), int64, from 0 to ``every - 1``; the first new frame is ``every - phase``, or 0 for phase 0.

    Returns:
        (batch, frames), int64, never later than the time itself, as in a video whose last decoded image stays visible.

    Example:
        >>> held_frames(6, torch.tensor([3]), torch.tensor([1]))
        tensor([[0, 0, 2, 2, 2, 5]])

    Source: ours.
    """
    check_count("frames", frames)
    check_shape("every", every, "batch")
    check_shape("phase", phase, "batch", batch=every.shape[0])
    time = torch.arange(frames, device=every.device)[None]
    return (
        torch.div(time + phase[:, None], every[:, None], rounding_mode="floor") * every[:, None] - phase[:, None]
    ).clamp_min(0)


@checked
def dropped_frames(kept: Tensor) -> Tensor:
    """Compute which frame is shown if some frames are lost and the last image before them stays visible.

    Args:
        kept: (batch, frames), bool; the first frame counts as kept.

    Returns:
        (batch, frames), int64.

    Example:
        >>> dropped_frames(torch.tensor([[True, False, False, True]]))
        tensor([[0, 0, 0, 3]])

    Source: ours.
    """
    check_shape("kept", kept, "batch frames")
    if kept.dtype != torch.bool:
        raise ShapeError(f"`kept`: expected bool, got {kept.dtype}")
    time = torch.arange(kept.shape[1], device=kept.device).expand(kept.shape)
    return torch.where(kept, time, 0).cummax(dim=1).values


@checked
def smooth_frames(landmarks: Tensor, kernel: Tensor | Sequence[float]) -> Tensor:
    """Smooth the track of each point with a symmetric filter, as face trackers do.

    The first and the last frame are held at the ends of a clip.

    Args:
        landmarks: (batch, frames, points, dims).
        kernel: Weights of an odd number of frames, (taps,), or one filter per clip, (batch, taps).

    Returns:
        (batch, frames, points, dims).

    Raises:
        ArgumentError: The number of taps is even.

    Example:
        >>> clip = torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0]).reshape(1, 5, 1, 1)
        >>> smooth_frames(clip, [1 / 3, 1 / 3, 1 / 3]).flatten().tolist()
        [0.0, 1.0, 1.0, 1.0, 0.0]

    Source: ours.
    """
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_landmarks(landmarks)
    shape = tuple(kernel.shape) if isinstance(kernel, Tensor) else (len(kernel),)
    if len(shape) == 0 or 0 in shape or shape[:-1] not in ((), (landmarks.shape[0],)):
        raise ShapeError(f"`kernel`: expected (taps) or (batch={landmarks.shape[0]}, taps), got {describe_shape(kernel)}")
    weights = torch.as_tensor(kernel, dtype=landmarks.dtype, device=landmarks.device)
    weights = weights.expand(landmarks.shape[0], -1)
    taps, frames = weights.shape[1], landmarks.shape[1]
    if taps % 2 == 0:
        raise ArgumentError(f"`kernel`: expected an odd number of taps, got {taps}")
    reach = taps // 2
    held = torch.cat(
        [landmarks[:, :1].expand(-1, reach, -1, -1), landmarks, landmarks[:, -1:].expand(-1, reach, -1, -1)], dim=1
    )
    parts = [weights[:, i, None, None, None] * held[:, i : i + frames] for i in range(taps)]
    return torch.stack(parts).sum(dim=0)


_KERNELS = ((0, 1, 1, 1, 0), (1, 1, 1, 1, 1), (1, 4, 6, 4, 1), (0, 1, 2, 1, 0), (1, 2, 3, 2, 1))
"""Filters that :func:`track_roughly` draws from: averages over 3 and 5 frames, and bell-shaped ones."""
_LONGEST_HOLD = 3  # 8.3 new frames per second at 25 fps
_LOST = 0.25  # share of lost frames in clips that lose single frames
_REGULAR = 0.6  # share of the clips with repeated frames that have a lower rate; the others lose single frames


@checked
def track_roughly(
    landmarks: Tensor,
    *,
    jitter: float = 0.006,
    jitter_share: float = 0.2,
    repeat_share: float = 0.2,
    smooth_share: float = 0.35,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw faults for each clip: trembling points, then repeated frames, then smoothing.

    Args:
        landmarks: (batch, frames, points, dims).
        jitter: Largest standard deviation of an offset of every point in every frame, in face heights (y extent of the points).
        jitter_share: Share of the clips with this offset; its size is drawn uniformly for each.
        repeat_share: Share of the clips in which every second or third frame is new, or a quarter of the frames is lost.
        smooth_share: Share of the clips whose tracks are smoothed over 3 to 5 frames.
        generator: Random generator, on any device; torch's own if None.

    Returns:
        (batch, frames, points, dims).

    Raises:
        ArgumentError: ``jitter`` is negative.

    Example:
        >>> clips = torch.rand(2, 20, 68, 2)
        >>> torch.equal(track_roughly(clips, jitter_share=0.0, repeat_share=0.0, smooth_share=0.0), clips)
        True

    Source: ours.
    """
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_landmarks(landmarks, min_dims=2)
    check_positive("jitter", jitter, allow_zero=True)
    batch, frames = landmarks.shape[:2]
    device = landmarks.device if generator is None else generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device).to(landmarks)

    def integer(most: Tensor) -> Tensor:
        """Draw one number per clip, from 0 to ``most - 1``."""
        return torch.minimum((uniform(batch) * most).long(), most.long() - 1)

    if jitter and jitter_share:
        y = landmarks[..., 1]
        height = (y.amax(dim=-1) - y.amin(dim=-1)).mean(dim=1)
        sigma = jitter * uniform(batch) * height * (uniform(batch) < jitter_share)
        noise = torch.randn(landmarks.shape, generator=generator, device=device).to(landmarks)
        landmarks = landmarks + sigma[:, None, None, None] * noise
    if repeat_share:
        every = 2 + integer(torch.full((batch,), _LONGEST_HOLD - 1, device=landmarks.device))
        regular = held_frames(frames, every, integer(every))
        lost = dropped_frames(uniform(batch, frames) >= _LOST)
        time = torch.arange(frames, device=landmarks.device).expand(batch, frames)
        shown = torch.where(uniform(batch, 1) < _REGULAR, regular, lost)
        landmarks = repeat_frames(landmarks, torch.where(uniform(batch, 1) < repeat_share, shown, time))
    if smooth_share:
        kernels = torch.tensor(_KERNELS, dtype=landmarks.dtype, device=landmarks.device)
        kernels = kernels / kernels.sum(dim=1, keepdim=True)
        kernel = kernels[integer(torch.full((batch,), len(kernels), device=landmarks.device))]
        identity = torch.zeros_like(kernel)
        identity[:, kernel.shape[1] // 2] = 1.0
        landmarks = smooth_frames(landmarks, torch.where(uniform(batch, 1) < smooth_share, kernel, identity))
    return landmarks
