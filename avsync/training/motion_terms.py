"""Terms of the generator's loss that compare its motion with real motion over a batch, without the audio."""

from __future__ import annotations

import torch
from torch import Tensor

from avsync._checks import at_least_float32, check_floating, check_same_device, check_shape, checked
from avsync.errors import ShapeError
from avsync.landmarks.geometry import mouth_opening, normalise

STILL = 1e-4
"""Amplitude, in face heights or face heights per frame, below which motion counts as none: the logarithm of
stillness has no limit."""


@checked
def variety_loss(landmarks: Tensor, real: Tensor, *, variety: float) -> Tensor:
    r"""Compute a hinge that is zero if two samples of the same clip differ enough.

    .. math:: L = \max(0, r - \operatorname{mean} \|x - x'\| / \operatorname{mean} \|y - y_0\|)^2

    with two samples :math:`x, x'` of one clip, the real motion :math:`y` from its first face :math:`y_0`, and the wanted share
    :math:`r`.

    Args:
        landmarks: Generated frames, (2 * clips, frames, points, dims); rows 2k and 2k + 1 are samples of one clip.
        real: The real clips, (2 * clips, n + frames, points, dims).
        variety: r.

    Returns:
        A scalar.

    Raises:
        ShapeError: The ranks or sizes are wrong, or the number of rows is odd.
        ArgumentError: The clips are not on one device.

    Example:
        >>> variety_loss(torch.zeros(2, 4, 68, 2), torch.rand(2, 5, 68, 2), variety=0.5)
        tensor(0.2500)

    Source: ours; a hinge on the mode-seeking loss of Mao et al. 2019.
    """
    check_shape("landmarks", landmarks, "rows frames points dims")
    rows, _, points, dims = landmarks.shape
    check_shape("real", real, "rows frames points dims", rows=rows, points=points, dims=dims)
    check_floating("landmarks", landmarks)
    check_floating("real", real)
    check_same_device("landmarks", landmarks, real.device, "`real`")
    if rows < 2 or rows % 2:
        raise ShapeError(f"`landmarks`: expected pairs of rows, two samples of each clip, got {rows} rows")
    apart = (landmarks[::2] - landmarks[1::2]).norm(dim=-1).mean()
    moved = (real[:, 1:] - real[:, :1]).norm(dim=-1).mean()
    return (variety - apart / moved.clamp_min(torch.finfo(moved.dtype).tiny)).clamp_min(0).square()


def _parts(clips: Tensor) -> Tensor:
    """Return the face's centre, and every point relative to it, (clips, frames, 1 + points, dims)."""
    centre = clips.mean(dim=2, keepdim=True)
    return torch.cat([centre, clips - centre], dim=2)


def _amplitudes(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Compute speed and extent of every part, (clips, parts) each."""
    speed = parts.diff(dim=1).norm(dim=-1).mean(dim=1).clamp_min(STILL)
    extent = (parts - parts.mean(dim=1, keepdim=True)).square().sum(dim=-1).mean(dim=1).clamp_min(STILL**2).sqrt()
    return speed, extent


def _apart(found: Tensor, wanted: Tensor) -> Tensor:
    """Compute the Wasserstein-1 distance over the clips, for every part and dimension by itself."""
    return (found.sort(dim=0).values - wanted.sort(dim=0).values).abs().mean(dim=0)


def _check_clips(landmarks: Tensor, real: Tensor) -> None:
    """Raise an error unless there are clips of at least 2 frames, and at least as many real frames."""
    check_shape("landmarks", landmarks, "clips frames points dims")
    clips, frames, points, dims = landmarks.shape
    check_shape("real", real, "clips frames points dims", clips=clips, points=points, dims=dims)
    check_floating("landmarks", landmarks)
    check_floating("real", real)
    check_same_device("landmarks", landmarks, real.device, "`real`")
    if not clips or frames < 2 or real.shape[1] < frames:
        raise ShapeError(
            f"`landmarks`, `real`: expected at least 1 clip of 2 frames and as many real frames, got {clips} of {frames} and "
            f"{real.shape[1]}"
        )


@checked
def liveliness_loss(landmarks: Tensor, real: Tensor) -> Tensor:
    r"""Compute how generated and real faces differ in where, how far and how fast they move, as distributions over a batch.

    .. math:: L = \operatorname{mean}_p \big(W(\log v_p, \log \hat v_p) + W(\log e_p, \log \hat e_p)\big) / 2
              + \operatorname{mean}_{p, d} W(m_{pd}, \hat m_{pd}) / \bar e_p

    where W is the Wasserstein-1 distance in one dimension between the generated and the real clips of a batch: the mean
    distance of the k-th smallest values. The parts p are the centre of the face and each point relative to the centre. For each
    clip, :math:`v_p` is the mean speed, :math:`e_p` the standard deviation over the frames ("extent"), and :math:`m_{pd}` the
    mean displacement from the first face along axis d; :math:`\bar e_p` is the mean extent in the real clips. Clips are not
    compared one by one, because speech does not tell how lively a person is.

    Args:
        landmarks: Generated frames, (clips, frames, points, dims), at least 2.
        real: The real clips, (clips, n + frames, points, dims), in the same unit, from the first observed face on.

    Returns:
        A scalar; 0.1 for amplitudes that differ by a tenth.

    Raises:
        ShapeError: The ranks or sizes are wrong, or there are fewer than 2 frames.
        ArgumentError: The clips are not on one device.

    Example:
        >>> real = torch.rand(2, 1, 68, 2) * torch.tensor([1.0, 1.1, 0.9, 1.1, 0.9])[:, None, None]
        >>> round(liveliness_loss(0.5 * (real[:, 1:] + real[:, :1]), real).item(), 3)  # half as far and half as fast: log 2
        0.693

    Source: ours.
    """
    _check_clips(landmarks, real)
    first, unit = real[:, :1], normalise(real[:, :1]).height.reshape(-1, 1, 1, 1)
    found, wanted = (_parts((at_least_float32(x) - first) / unit) for x in (landmarks, real[:, -landmarks.shape[1] :]))
    (speed, extent), (real_speed, real_extent) = _amplitudes(found), _amplitudes(wanted)
    amplitudes = _apart(speed.log(), real_speed.log()) + _apart(extent.log(), real_extent.log())
    places = _apart(found.mean(dim=1), wanted.mean(dim=1)) / real_extent.mean(dim=0)[:, None]
    return amplitudes.mean() / 2 + places.mean()


@checked
def opening_loss(landmarks: Tensor, real: Tensor) -> Tensor:
    r"""Compute how differently far generated and real mouths open, clip by clip, whenever they do.

    .. math:: L = \operatorname{mean}_{c,k} |o_{c,(k)} - \hat o_{c,(k)}| / \operatorname{mean}_c \sigma_c

    with the k-th smallest opening :math:`o_{c,(k)}` of the inner lips among the generated frames of clip c, :math:`\hat o` of
    the real ones, and the standard deviation :math:`\sigma_c` of the latter over the frames. How far a person's lips are apart
    when they are closed, and when they are wide open, is seen in the first face for the most part, so that clips are compared
    one by one; the instants of the openings are left to the sync loss.

    Args:
        landmarks: Generated frames, (clips, frames, 68, dims).
        real: The real clips, (clips, n + frames, 68, dims), in the same unit, from the first observed face on.

    Returns:
        A scalar; 1 for mouths that are too open by as much as people's vary over time.

    Raises:
        ShapeError: The ranks or sizes are wrong, or there are fewer than 2 frames.
        ArgumentError: The clips are not on one device.

    Example:
        >>> real = torch.zeros(1, 3, 68, 2)
        >>> real[:, :, 8, 1], real[0, :, 66, 1] = 10.0, torch.tensor([0.0, 2.0, 4.0])
        >>> opening_loss(real[:, [2, 1]], real).item()  # the same openings in another order
        0.0

    Source: ours.
    """
    _check_clips(landmarks, real)
    first = real[:, 0]
    made, wanted = (mouth_opening(x, reference=first) for x in (landmarks, real[:, -landmarks.shape[1] :]))
    apart = (made.sort(dim=1).values - wanted.sort(dim=1).values).abs().mean()
    return apart / wanted.std(dim=1, correction=0).mean().clamp_min(STILL)
