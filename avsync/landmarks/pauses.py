"""Motion of the mouth in pauses of speech."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from avsync._checks import check_frame_mask, check_positive, check_same_device, check_shape, checked
from avsync.errors import ShapeError
from avsync.landmarks.geometry import check_landmarks, mouth_opening
from avsync.landmarks.layouts import NUM_POINTS
from avsync.pyramid import FPS

PAUSE_MARGIN = 4
"""Frames next to speech that do not count as pause (160 ms): lips open before the voice begins, and close after it ends."""


@checked
def pause_steps(speech: Tensor, *, margin: int = PAUSE_MARGIN, has_audio: Tensor | None = None) -> Tensor:
    """Return the steps from one frame to the next that lie inside pauses, away from speech.

    Args:
        speech: True for frames with speech, (batch, frames) bool.
        margin: Frames next to speech that do not count.
        has_audio: True for frames whose audio exists, (batch, frames) bool; the others are no pause. None for all True.

    Returns:
        (batch, frames - 1), bool.

    Raises:
        ShapeError: ``speech`` or ``has_audio`` is not (batch, frames) of bool.
        ArgumentError: ``margin`` is negative.

    Example:
        >>> pause_steps(torch.tensor([[True, False, False, False, False, True]]), margin=1).int().tolist()
        [[0, 0, 1, 0, 0]]

    Source: ours.
    """
    check_frame_mask("speech", speech)
    check_positive("margin", margin, allow_zero=True)
    if 0 in speech.shape:
        raise ShapeError(f"`speech`: expected at least 1 clip of 1 frame, got {tuple(speech.shape)}")
    near = F.max_pool1d(speech[:, None].float(), 2 * margin + 1, 1, padding=margin)[:, 0] > 0
    if has_audio is not None:
        check_frame_mask("has_audio", has_audio, batch=speech.shape[0], frames=speech.shape[1])
        check_same_device("has_audio", has_audio, speech.device, "`speech`")
        near = near | ~has_audio
    return ~(near[:, 1:] | near[:, :-1])


@checked
def pause_speed(
    landmarks: Tensor,
    speech: Tensor,
    *,
    reference: str | Tensor = "mean",
    fps: float = FPS,
    margin: int = PAUSE_MARGIN,
    has_audio: Tensor | None = None,
) -> Tensor:
    r"""Compute the mean speed of the mouth's opening in pauses.

    With :math:`o_t` the :func:`avsync.landmarks.geometry.mouth_opening` in heights of the reference face and :math:`P` the
    :func:`pause_steps`, the result is :math:`\frac{f}{|P|} \sum_{t \in P} |o_{t+1} - o_t|`, with :math:`f` frames per second.

    Args:
        landmarks: (batch, frames, points=68, dims), any unit.
        speech: True for frames with speech, (batch, frames) bool, such as ``Batch.speech`` or
            :func:`avsync.corpus.speech.speech_mask`.
        reference: The face whose height is the unit: "first", "mean", or a face (batch, points, dims).
        fps: Frames per second.
        margin, has_audio: As in :func:`pause_steps`.

    Returns:
        (batch,), in face heights per second; NaN for clips without a pause.

    Raises:
        ShapeError: Not 68 points, or ``speech`` does not fit.

    Example:
        >>> pause_speed(torch.rand(1, 1, 68, 2).expand(1, 30, 68, 2), torch.zeros(1, 30, dtype=torch.bool))
        tensor([0.])

    Source: ours.
    """
    check_landmarks(landmarks, points=NUM_POINTS)
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_shape("speech", speech, "batch frames", batch=landmarks.shape[0], frames=landmarks.shape[1])
    check_same_device("speech", speech, landmarks.device, "`landmarks`")
    steps = pause_steps(speech, margin=margin, has_audio=has_audio)
    moved = mouth_opening(landmarks, reference=reference).diff(dim=1).abs()
    count = steps.sum(dim=1)
    speed = fps * torch.where(steps, moved, 0.0).sum(dim=1) / count.clamp_min(1)
    return torch.where(count > 0, speed, torch.nan)
