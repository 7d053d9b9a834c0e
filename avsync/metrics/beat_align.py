"""Beat Align: agreement of the beats of motion and audio, in both of the published directions.

* **motion to audio** (Li et al. 2021, "AI choreographer: music conditioned 3D dance generation with AIST++"): the mean over
  the motion's beats of ``exp(-d^2 / (2 sigma^2))``, ``d`` the time to the nearest beat of the audio. A few well-placed
  movements score high.
* **audio to motion** (Siyao et al. 2022, "Bailando: 3D dance generation by actor-critic GPT with choreographic memory"; for
  gestures Liu et al. 2022, "BEAT: a large-scale semantic and emotional multi-modal dataset"): the mean over the audio's beats,
  ``d`` the time to the nearest beat of the motion. Missed audio beats lower the score, but a trembling motion has a beat near
  every audio beat and scores high.

Publications also differ in ``sigma``: 3 frames at 60 fps (0.05 s) in the first two, 0.3 s in BEAT, 0.1 s in HA2G (Liu et al.
2022, "Learning hierarchical cross-modal association for co-speech gesture generation"). Here ``sigma`` is in seconds, 0.1 by
default. Values are in [0, 1], and higher is better. Values are **not** comparable between different ``sigma`` and are above 0
by chance: report the values of real and of shuffled audio as well.

Beats of motion are the local minima of its speed (both publications: where a movement ends or turns); beats of speech are its
onsets, detected by spectral flux.

**Beat Align has little power for talking faces.** On 197 real clips of 80 frames (validation speakers, 15 onsets and 9 motion
beats per clip) the published ``minima`` score 0.742 and 0.591 with the matching audio, and 0.750 and 0.598 with the audio of
other clips. The ``maxima`` of speed score 0.769 and 0.614 against 0.753 and 0.598. Beat Align is included for comparison with
publications; use the sync metrics of :mod:`avsync.metrics.offset` to evaluate synchrony.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from avsync._checks import check_choice, check_frame_mask, check_positive, check_shape, checked
from avsync.audio.features import log_mel, normalise_waveform
from avsync.errors import ClipTooShortError, ShapeError
from avsync.landmarks.geometry import velocity

EXTREMA = ("minima", "maxima", "both")
AUDIO_RATE = 100.0
"""Frames of the onset strength per second."""
_FLUX_REACH = 4  # audio frames before its own that a value of the onset strength hears


class BeatAlign(NamedTuple):
    """Both directions of Beat Align, each (batch,), float32 in [0, 1]; higher is better."""

    motion_to_audio: Tensor
    """Mean over the motion's beats (AIST++). NaN for a clip without motion beats; 0 if only the audio has no beats."""
    audio_to_motion: Tensor
    """Mean over the audio's beats (Bailando). NaN for a clip without audio beats; 0 if only the motion has no beats."""


def _smoothed(x: Tensor, sigma: float) -> Tensor:
    """Smooth (batch, time) with a Gaussian of ``sigma`` samples and repeated edges; ``sigma`` 0 leaves it unchanged."""
    if sigma == 0:
        return x
    radius = max(1, round(4 * sigma))
    taps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    padded = F.pad(x[:, None], (radius, radius), mode="replicate")
    return F.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0]


def _peaks(x: Tensor, order: int) -> Tensor:
    """Return the peaks of (batch, time): maxima over ``order`` values on both sides, the first of equals, no edges."""

    def around(edge: float) -> Tensor:
        return F.pad(x[:, None], (order, order), value=edge)[:, 0].unfold(1, 2 * order + 1, 1)

    before, after = around(-torch.inf)[..., :order].amax(-1), around(-torch.inf)[..., order + 1 :].amax(-1)
    peak = (x > before) & (x >= after) & (x > around(torch.inf)[..., order + 1 :].amin(-1))
    peak[:, 0] = peak[:, -1] = False
    return peak


def motion_beats(
    landmarks: Tensor, *, fps: float = 25.0, extrema: str = "minima", smoothing: float = 0.04, spacing: float = 0.1
) -> Tensor:
    """Find the beats of a motion: the local extrema of its speed.

    The speed between two frames is the mean norm of the point velocities. The speed is smoothed and belongs to the midpoint of
    the two frames.

    Args:
        landmarks: (batch, frames, points, dims); pass a subset of points, such as the mouth, for its beats alone.
        fps: Frames per second.
        extrema: "minima" of speed, where movements end or turn, as published; "maxima", where they are fastest; or "both".
        smoothing: Standard deviation of a Gaussian over the speed, in seconds; 0 for none. (Bailando: 5 frames at 60 fps,
            83 ms; AIST++: none.)
        spacing: Seconds on both sides over which a value must be extreme (AIST++: 10 frames at 60 fps, 167 ms).

    Returns:
        (batch, frames - 1), bool: True at ``t`` for a beat at ``(t + 0.5) / fps`` seconds. A still face has no beats.

    Raises:
        ShapeError: Wrong rank.
        ClipTooShortError: Fewer than 4 frames.
        ArgumentError: A time or rate out of range, or unknown extrema.

    Example:
        >>> swing = torch.sin(torch.arange(50) / 25 * 2 * torch.pi)  # turns at 0.25, 0.75, ... s
        >>> swing = swing[None, :, None, None].expand(1, 50, 68, 2)
        >>> ((motion_beats(swing)[0].nonzero()[:, 0] + 0.5) / 25).tolist()
        [0.2..., 0.7..., 1.2..., 1.7...]

    Source: AIST++ and Bailando, as above.
    """
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_choice("extrema", extrema, EXTREMA)
    check_positive("fps", fps)
    check_positive("smoothing", smoothing, allow_zero=True)
    check_positive("spacing", spacing, allow_zero=True)
    if landmarks.shape[1] < 4:
        raise ClipTooShortError(f"`landmarks`: expected at least 4 frames, got {landmarks.shape[1]}")
    raw = torch.linalg.vector_norm(velocity(landmarks.detach().float()), dim=-1).mean(dim=2)
    speed = _smoothed(raw, smoothing * fps)
    order = max(1, round(spacing * fps))
    found = torch.zeros_like(speed, dtype=torch.bool)
    if extrema != "maxima":
        found |= _peaks(-speed, order)
    if extrema != "minima":
        found |= _peaks(speed, order)
    # Smoothing a constant speed leaves rounding errors, which are no beats.
    moving = (speed.amax(1) - speed.amin(1)) > 1e-5 * landmarks.detach().float().abs().amax(dim=(1, 2, 3))
    return found & moving[:, None]


@checked
def onset_strength(waveform: Tensor, *, sample_rate: int = 16000) -> Tensor:
    r"""Compute the spectral flux, the rise of the mel bands, 100 times per second.

    :math:`\frac{1}{B} \sum_b \max(0, L_{s,b} - L_{s-2,b})` with :math:`L` the :math:`B = 24` mel bands in decibels, floored 80
    dB below the loudest value of the clip.

    Args:
        waveform: (batch, samples), any level.
        sample_rate: Samples per second, a multiple of 100.

    Returns:
        (batch, audio_frames), in decibels per 20 ms; frame ``s`` belongs to the time ``(s - 1) / 100`` seconds, the midpoint
        of the two compared frames.

    Raises:
        ShapeError: Not (batch, samples), or a rate that 100 does not divide.
        ClipTooShortError: Less than about 13 ms of audio.

    Example:
        >>> click = torch.zeros(1, 16000)
        >>> click[0, 8000] = 1.0
        >>> (onset_strength(click)[0].argmax() - 1) / 100
        tensor(0.4900)

    Source: ours; spectral flux is as old as Masri 1996.
    """
    check_shape("waveform", waveform, "batch samples")
    if sample_rate % AUDIO_RATE:
        raise ShapeError(f"`sample_rate`: expected a multiple of {AUDIO_RATE:g}, got {sample_rate}")
    window = round(0.025 * sample_rate)
    bands = log_mel(
        normalise_waveform(waveform.detach()),
        sample_rate=sample_rate,
        n_fft=window,
        win_length=window,
        hop_length=round(sample_rate / AUDIO_RATE),
        n_mels=24,
        top_db=80.0,
    )
    rise = (bands[:, 2:] - bands[:, :-2]).clamp_min(0).mean(dim=2)
    return F.pad(rise, (2, 0))


@checked
def audio_onsets(
    waveform: Tensor,
    *,
    sample_rate: int = 16000,
    threshold: float = 1.5,
    spacing: float = 0.06,
    context: float = 0.25,
    has_audio: Tensor | None = None,
) -> Tensor:
    """Find the onsets of audio: peaks of :func:`onset_strength` that stand out from their surroundings.

    Args:
        waveform: (batch, samples), any level.
        sample_rate: Samples per second.
        threshold: Decibels by which a peak must exceed the mean strength around it.
        spacing: Seconds on both sides over which a peak must be the highest value.
        context: Seconds on both sides for the local mean.
        has_audio: True for audio frames whose audio exists, (batch, audio_frames) bool; where the audio begins or ends is no
            onset, and missing audio is not part of the mean. None for all True.

    Returns:
        (batch, audio_frames), bool: True at ``s`` for an onset at ``(s - 1) / 100`` seconds. Silence and a steady tone have no
        onsets.

    Raises:
        ShapeError: Not (batch, samples), or ``has_audio`` does not fit.
        ClipTooShortError: Less than about 13 ms of audio.
        ArgumentError: An option is negative.

    Example:
        >>> clicks = torch.zeros(1, 16000)
        >>> clicks[0, [3200, 8000, 12800]] = 1.0
        >>> ((audio_onsets(clicks)[0].nonzero()[:, 0] - 1) / 100).tolist()
        [0.1..., 0.4..., 0.7...]

    Source: ours; peak picking against a local mean after Bello et al. 2005, "A tutorial on onset detection in music signals".
    """
    check_positive("threshold", threshold, allow_zero=True)
    check_positive("spacing", spacing, allow_zero=True)
    check_positive("context", context)
    strength = onset_strength(waveform, sample_rate=sample_rate)
    reach = round(context * AUDIO_RATE)
    kernel = torch.ones(1, 1, 2 * reach + 1, device=strength.device, dtype=strength.dtype)
    heard = torch.ones_like(strength)
    if has_audio is not None:
        check_frame_mask("has_audio", has_audio, batch=strength.shape[0], frames=strength.shape[1])
        # The strength compares two windows of 25 ms, of which the earlier begins 32.5 ms before its frame.
        around = F.pad(has_audio.to(strength)[:, None], (_FLUX_REACH, 1), mode="replicate")[:, 0]
        heard = around.unfold(1, _FLUX_REACH + 2, 1).amin(-1)
        strength = strength * heard
    counts = F.conv1d(F.pad(heard[:, None], (reach, reach)), kernel)[:, 0].clamp_min(1)
    mean = F.conv1d(F.pad(strength[:, None], (reach, reach)), kernel)[:, 0] / counts
    return _peaks(strength, max(1, round(spacing * AUDIO_RATE))) & (strength > mean + threshold) & (heard > 0)


def _towards(beats: Tensor, times: Tensor, other: Tensor, other_times: Tensor, sigma: float) -> Tensor:
    """Average the kernel of the distance from ``beats`` (batch, n) to the nearest ``other`` beat (batch, m): (batch,)."""
    gap = (times[:, None] - other_times[None, :]).abs()
    nearest = torch.where(other[:, None, :], gap, torch.inf).amin(dim=2)
    credit = torch.exp(-0.5 * (nearest / sigma) ** 2)
    return torch.where(beats, credit, 0.0).sum(dim=1) / beats.sum(dim=1)


@checked
def beat_align(
    landmarks: Tensor,
    waveform: Tensor,
    *,
    sigma: float = 0.1,
    fps: float = 25.0,
    sample_rate: int = 16000,
    extrema: str = "minima",
    smoothing: float = 0.04,
    spacing: float = 0.1,
    threshold: float = 1.5,
    has_audio: Tensor | None = None,
) -> BeatAlign:
    """Compute Beat Align of clips, in both directions.

    Args:
        landmarks: (batch, frames, points, dims).
        waveform: Audio of the same duration, (batch, samples).
        sigma: Width of the kernel in **seconds**; AIST++ and Bailando have 0.05 (3 frames of 60 per second).
        fps: Frames per second.
        sample_rate: Samples per second.
        extrema, smoothing, spacing: Definition of a motion beat; see :func:`motion_beats`.
        threshold: Definition of an onset; see :func:`audio_onsets`.
        has_audio: True for the frames whose audio exists, (batch, frames) bool; beats of motion count in these frames only.
            None for all True.

    Returns:
        :class:`BeatAlign`. NaN in a clip makes both of its values NaN.

    Raises:
        ShapeError: Wrong ranks, different batch sizes, durations that differ by a frame or more, or ``has_audio`` does not fit.
        ClipTooShortError: Fewer than 4 frames.
        ArgumentError: An option is out of its range.

    Example:
        >>> times = torch.arange(50) / 25
        >>> swing = torch.sin(times * 2 * torch.pi)[None, :, None, None].expand(1, 50, 68, 2)  # turns at 0.25, 0.75, ... s
        >>> clicks = torch.zeros(1, 32000)
        >>> clicks[0, [4000, 12000, 20000, 28000]] = 1.0
        >>> [round(score.item(), 1) for score in beat_align(swing, clicks)]
        [1.0, 1.0]

    Source: AIST++ and Bailando, as above; onsets of speech in place of music beats ours.
    """
    for name, value in (("sigma", sigma), ("fps", fps), ("sample_rate", sample_rate)):
        check_positive(name, value)
    check_shape("landmarks", landmarks, "batch frames points dims")
    check_shape("waveform", waveform, "batch samples", batch=landmarks.shape[0])
    seconds, sounding = landmarks.shape[1] / fps, waveform.shape[1] / sample_rate
    if abs(seconds - sounding) >= 1 / fps:
        raise ShapeError(
            f"`waveform`: expected {seconds:.3f} s of audio for {landmarks.shape[1]} frames at {fps:g} per second, got "
            f"{sounding:.3f} s"
        )
    motion = motion_beats(landmarks, fps=fps, extrema=extrema, smoothing=smoothing, spacing=spacing)
    heard = None
    if has_audio is not None:
        check_frame_mask("has_audio", has_audio, batch=landmarks.shape[0], frames=landmarks.shape[1])
        motion = motion & has_audio[:, 1:] & has_audio[:, :-1]
        count = waveform.shape[1] * int(AUDIO_RATE) // sample_rate
        frame = (torch.arange(count, device=has_audio.device) * (fps / AUDIO_RATE)).long()
        heard = has_audio[:, frame.clamp(max=landmarks.shape[1] - 1)]
    audio = audio_onsets(waveform, sample_rate=sample_rate, threshold=threshold, has_audio=heard)
    motion_times = (torch.arange(motion.shape[1], device=motion.device) + 0.5) / fps
    audio_times = (torch.arange(audio.shape[1], device=audio.device) - 1) / AUDIO_RATE
    whole = landmarks.isfinite().all(dim=(1, 2, 3)) & waveform.isfinite().all(dim=1)
    scores = (
        _towards(motion, motion_times, audio, audio_times, sigma),
        _towards(audio, audio_times, motion, motion_times, sigma),
    )
    return BeatAlign(*(torch.where(whole, score, torch.nan) for score in scores))
