"""Lag and frame rate between lip motion and audio, estimated with and without a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from avsync.errors import ArgumentError
from avsync.metrics.offset import offset_from_distances
from avsync.pyramid import FPS
from avsync.training.doctor.findings import Finding
from avsync.training.doctor.tracks import Array, Tracks

REACH = 25
"""Largest lag searched in both directions, in frames: one second."""
_FAR = 40  # frames; correlations at lags from REACH to here estimate the chance level
RATES = (10.0, 12.0, 12.5, 15.0, 20.0, 23.0, 24.0, 25.0, 30.0, 50.0, 60.0)
"""Frame rates tried for the motion, in addition to the stated one."""
AUDIO_FACTORS = (27.2 / 25, 31.25 / 25)
"""Factors tried for the stated rate. A wrong audio rate has this effect: 44.1 kHz read as 48 kHz gives the first factor."""
_PAIRS = (("speed", "flux"), ("opening", "energy"), ("speed", "energy"))
_SURE = 7.0  # standard deviations above the chance level
_ENOUGH_SECONDS = 60.0
_PLENTY_SECONDS = 180.0


class LagPeak(NamedTuple):
    """Peak of a lag scan."""

    offset_frames: float
    """Lag of the motion after the audio, in frames of the corpus and to a fraction; positive: the audio is early."""
    height: float
    """Correlation at the peak."""
    sureness: float
    """Height of the peak above the mean at distant lags, in standard deviations of the values at distant lags."""


class LagScan:
    """Correlation of lip speed with changes of the audio at each lag, pooled over clips and per speaker.

    Args:
        fps: Frames per second of the corpus, in whose frames lags are reported; the tracks have 25 values per second.

    Example:
        >>> from avsync.corpus.synthetic.talker import synthetic_clip
        >>> from avsync.training.doctor.tracks import clip_tracks
        >>> scan = LagScan()
        >>> scan.add(clip_tracks(synthetic_clip(seconds=20.0)), speaker="anna")
        >>> round(scan.peak().offset_frames)
        0

    Source: ours.
    """

    def __init__(self, fps: float = FPS) -> None:
        lags = 2 * _FAR + 1
        self.fps = fps
        self.seconds: dict[str, float] = {}
        self._speakers: dict[str, tuple[Array, Array]] = {}
        tried = sorted({*RATES, fps, *(factor * fps for factor in AUDIO_FACTORS)})
        self._rates = {rate: (np.zeros(lags), np.zeros(lags)) for rate in tried}

    @property
    def lags(self) -> Array:
        """The lags of :meth:`curve`, in frames of the corpus."""
        return np.arange(-_FAR, _FAR + 1, dtype=np.float64) * (self.fps / FPS)

    def add(self, tracks: Tracks, *, speaker: str) -> None:
        """Add a clip to the scan; clips shorter than one second are ignored."""
        frames = len(tracks.speed)
        if frames < FPS:
            return
        self.seconds[speaker] = self.seconds.get(speaker, 0.0) + frames / FPS
        total, count = self._speakers.setdefault(speaker, (np.zeros(2 * _FAR + 1), np.zeros(2 * _FAR + 1)))
        for motion, audio in _PAIRS:
            products, pairs = _correlate(getattr(tracks, motion), getattr(tracks, audio))
            total += products
            count += pairs
        for rate, (rate_total, rate_count) in self._rates.items():
            step = rate / self.fps
            steady = np.interp(np.arange(int((frames - 1) / step) + 1) * step, np.arange(frames), tracks.speed)
            products, pairs = _correlate(steady, tracks.flux)
            np.add(rate_total, products, out=rate_total)
            np.add(rate_count, pairs, out=rate_count)

    def curve(self, speaker: str | None = None) -> Array:
        """Return the correlation at each lag, for one speaker or for all."""
        chosen = self._speakers.values() if speaker is None else [self._speakers[speaker]]
        zeros = np.zeros(2 * _FAR + 1)
        total, count = sum((t for t, _ in chosen), zeros), sum((c for _, c in chosen), zeros)
        return _ratio(total, count)

    def peak(self, speaker: str | None = None) -> LagPeak:
        """Return the peak of the curve for one speaker or for all."""
        return _peak(self.curve(speaker), self.fps / FPS)

    def rate_peaks(self) -> dict[float, LagPeak]:
        """Return the peak of the curve for the motion resampled from each of the rates that are tried."""
        return {rate: _peak(_ratio(total, count), self.fps / FPS) for rate, (total, count) in self._rates.items()}


def _standard(values: Array) -> Array:
    centred = values - values.mean()
    deviation = centred.std()
    return centred / deviation if deviation > 1e-9 else np.zeros_like(centred)


def _correlate(motion: Array, audio: Array) -> tuple[Array, Array]:
    """Return the sum of the products and their number at each lag of the motion."""
    length = min(len(motion), len(audio))
    padded = np.pad(_standard(motion[:length]), _FAR)
    shifted = np.lib.stride_tricks.sliding_window_view(padded, length)
    return shifted @ _standard(audio[:length]), np.maximum(length - np.abs(np.arange(-_FAR, _FAR + 1)), 0).astype(np.float64)


def _ratio(total: Array, count: Array) -> Array:
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


def _peak(curve: Array, frames: float) -> LagPeak:
    """Return the peak of a curve; ``frames`` are the frames of the corpus per lag."""
    near = curve[_FAR - REACH : _FAR + REACH + 1]
    far = np.concatenate([curve[: _FAR - REACH], curve[_FAR + REACH + 1 :]])
    best = int(near.argmax())
    fraction = 0.0
    if 0 < best < len(near) - 1:
        before, at, after = near[best - 1 : best + 2]
        bend = before - 2 * at + after
        fraction = float(0.5 * (before - after) / bend) if bend < 0 else 0.0
    chance = max(float(far.std()), 1e-9)
    return LagPeak((best - REACH + fraction) * frames, float(near[best]), float((near[best] - far.mean()) / chance))


def _in_words(offset: float, fps: float) -> str:
    way = "early" if offset > 0 else "late"
    return f"the audio is {way} by {abs(offset):.1f} frames ({abs(offset) * 1000 / fps:.0f} ms)"


def check_alignment(scan: LagScan) -> list[Finding]:
    """Report problems of alignment and frame rate from a scan without a trained model.

    Args:
        scan: Scan with all clips added.

    Returns:
        At most one finding about the corpus and one about speakers.
    """
    seconds = sum(scan.seconds.values())
    peak, rates = scan.peak(), scan.rate_peaks()
    best = max(rates, key=lambda rate: rates[rate].height)
    offset = peak.offset_frames / scan.fps  # seconds
    numbers = {**peak._asdict(), "offset_ms": 1000 * offset, "seconds": seconds}
    if seconds < _ENOUGH_SECONDS:
        words = f"{seconds:.0f} s are too short to check the alignment of audio and motion; {_ENOUGH_SECONDS:.0f} s are enough."
        return [Finding("note", "too_short_to_align", words, numbers=numbers)]
    stated = rates[scan.fps].height
    if best != scan.fps and rates[best].sureness > _SURE and rates[best].height > 1.3 * stated:
        words = (
            f"the motion fits the audio better at about {best:g} frames per second than at {scan.fps:g} (correlation "
            f"{rates[best].height:.2f} against {stated:.2f}): the videos were not resampled to {scan.fps:g}, or the stated "
            "sample rate of the audio is wrong. Extract the corpus again from the videos, by their timestamps."
        )
        return [Finding("error", "rate", words, numbers={**numbers, "fps": best})]
    if peak.sureness < _SURE or peak.height < 0.02:
        words = (
            f"the lips do not follow the audio at any lag up to one second (best correlation {peak.height:.3f}, "
            f"{peak.sureness:.1f} standard "
            "deviations above chance level). Audio and landmarks may belong to different clips, be dubbed, or drift apart."
        )
        return [Finding("error" if seconds >= _PLENTY_SECONDS else "warning", "unrelated", words, numbers=numbers)]
    findings = []
    if abs(offset) > 1.5 / FPS:
        words = (
            f"{_in_words(peak.offset_frames, scan.fps)} over the whole corpus (correlation {peak.height:.2f} there). Shift the "
            "audio before training, "
            "because a syncer would learn the shift and report synchronous audio as out of sync."
        )
        findings.append(Finding("error", "misaligned", words, numbers=numbers))
    elif abs(offset) > 0.75 / FPS:
        words = f"{_in_words(peak.offset_frames, scan.fps)} over the whole corpus, according to a scan without a trained model."
        findings.append(Finding("warning", "misaligned", words, numbers=numbers))
    else:
        words = f"lips and audio are aligned: their correlation peaks at {peak.offset_frames:+.1f} frames ({peak.height:.2f})."
        findings.append(Finding("note", "aligned", words, numbers=numbers))
    astray = {
        speaker: peak_of_speaker.offset_frames
        for speaker, length in sorted(scan.seconds.items())
        if length >= _ENOUGH_SECONDS
        for peak_of_speaker in [scan.peak(speaker)]
        if peak_of_speaker.sureness > _SURE and abs(peak_of_speaker.offset_frames - peak.offset_frames) > 2.5 / FPS * scan.fps
    }
    if astray:
        words = "some speakers have another offset than the rest: " + _list_offsets(astray)
        findings.append(Finding("warning", "misaligned_speakers", words, clips=tuple(astray), numbers=dict(astray)))
    return findings


def _list_offsets(offsets: dict[str, float]) -> str:
    first = list(offsets.items())[:5]
    more = f", and {len(offsets) - 5} more" if len(offsets) > 5 else ""
    return ", ".join(f"{name} {offset:+.1f} frames" for name, offset in first) + more + " (positive: the audio is early)."


def check_distances(speakers: Sequence[str], distances: Array, *, least_crops: int = 2, fps: float = FPS) -> list[Finding]:
    """Report problems of alignment from the distances of a trained syncer.

    Args:
        speakers: Speaker of each crop.
        distances: Mean distances of each crop at the offsets from ``+V`` down to ``-V`` frames of 40 ms, (crops, 2 V + 1), as
            in :class:`avsync.metrics.offset.SyncOffset`.
        least_crops: Fewest crops of a speaker that is evaluated.
        fps: Frames per second of the corpus, in whose frames offsets are reported.

    Returns:
        A finding about the corpus, and one about speakers if any speaker is out of sync.

    Raises:
        ArgumentError: The numbers of speakers and crops differ, or both are 0.
    """
    if len(speakers) != len(distances) or not len(speakers):
        raise ArgumentError(f"`speakers`: expected one per crop, of {len(distances)}, got {len(speakers)}")

    def estimate(rows: Array) -> tuple[int, float]:
        found = offset_from_distances(torch.from_numpy(np.nanmean(rows, axis=0, keepdims=True)))
        return int(found.offset_frames), float(found.confidence)

    offset, confidence = estimate(distances)
    scale = fps / FPS
    numbers: dict[str, float] = {
        "offset_frames": offset * scale,
        "offset_ms": offset * 1000 / FPS,
        "confidence": confidence,
        "crops": len(distances),
    }
    if confidence < 0.05:
        words = (
            f"the syncers find no offset (confidence {confidence:.2f}): they were not trained for such data, or audio "
            "and motion are unrelated."
        )
        return [Finding("warning", "syncers_unsure", words, numbers=numbers)]
    if abs(offset) >= 2:
        words = f"according to the syncers, {_in_words(offset * scale, fps)} over the whole corpus."
        findings = [Finding("error", "misaligned", words, numbers=numbers)]
    else:
        frames = f"{offset * scale:+.3g} frames"
        words = f"according to the syncers, the corpus is aligned: offset {frames}, confidence {confidence:.2f}."
        findings = [Finding("note", "aligned", words, numbers=numbers)]
    names = np.array(speakers)
    astray: dict[str, float] = {}
    for speaker in sorted(set(speakers)):
        rows = distances[names == speaker]
        if len(rows) >= least_crops:
            found, sure = estimate(rows)
            if abs(found - offset) >= 2 and sure > 0.5 * confidence:
                astray[speaker] = found * scale
    if astray:
        words = "according to the syncers, some speakers are out of sync: " + _list_offsets(astray)
        findings.append(Finding("warning", "misaligned_speakers", words, clips=tuple(astray), numbers=dict(astray)))
    return findings
