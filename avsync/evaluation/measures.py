"""Measures of segments of clips: synchrony at every level, distances from the truth, and Frechet distances of sets."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from avsync._checks import device_of_module
from avsync.corpus.clip import FPS
from avsync.corpus.speech import speech_mask
from avsync.errors import ArgumentError
from avsync.evaluation.rows import Segment
from avsync.evaluation.sources import Track
from avsync.evaluation.tables import Cell, Measure
from avsync.landmarks.geometry import mouth_opening
from avsync.landmarks.layouts import NUM_POINTS
from avsync.landmarks.pauses import pause_speed
from avsync.metrics.beat_align import beat_align
from avsync.metrics.distance import landmark_distance, landmark_error, mouth_opening_correlation, velocity_error
from avsync.metrics.dynamics import height_drift, mouth_opening_quantile, seed_spread
from avsync.metrics.frechet import extract_statistics, frechet_distance, gaussian_distance
from avsync.metrics.multi_scale import MAX_OFFSETS, check_max_offsets, fill_missing_audio, frames_to_windows
from avsync.metrics.offset import SyncOffset, known_offset, offset_milliseconds, sync_offset
from avsync.metrics.report import face_speed
from avsync.models.syncer.interface import MultiScaleSyncer, unit_norm
from avsync.pyramid import level_fps

FRECHET_RESAMPLES = 100
"""Number of bootstrap resamples of a Frechet distance; small because each resample computes eigenvalues."""


class Scores(NamedTuple):
    """Measures and their values, one per segment; NaN for a segment that has none."""

    measures: tuple[Measure, ...]
    values: Tensor
    """(measures, segments) float64."""


# --- synchrony
# ----------------------------------------------------------------------------------------------------------------------


def sync_measures(levels: int, *, window: int = 5, fps: float = FPS) -> tuple[Measure, ...]:
    """Return the measures of :func:`sync_scores` for every level.

    Example:
        >>> [measure.key for measure in sync_measures(1)]
        ['confidence', 'abs_offset', 'abs_offset_ms', 'offset', 'within_one', 'lse_d', 'distance_at_zero']

    Source: paper section 4.3 (AV-Conf and absolute offset); LSE of Wav2Lip's evaluation; the rest ours.
    """
    found = []
    for level in range(levels):
        frame = 1000 / level_fps(fps, level)
        section = f"Synchrony, level {level}: windows of {window * frame:g} ms, frames of {frame:g} ms"
        found += [
            Measure("confidence", "confidence (LSE-C)", "higher", "", section, level),
            Measure("abs_offset", "|offset|", "lower", "frames", section, level, 2),
            Measure("abs_offset_ms", "|offset|", "lower", "ms", section, level, 0),
            Measure("offset", "offset", "zero", "frames", section, level, 2),
            Measure("within_one", "within 1 frame", "higher", "%", section, level, 1),
            Measure("lse_d", "LSE-D", "lower", "", section, level),
            Measure("distance_at_zero", "distance at 0", "lower", "", section, level),
        ]
    return tuple(found)


class AudioEmbeddings:
    """Embeddings of the whole audio of clips, computed once for all rows.

    The encoders are dense, so the windows of a segment are a slice of the windows of its clip, with the clip's audio around
    them. The search covers the existing audio of the clip; offsets beyond the ends of the audio are masked.

    Args:
        pyramid: Trained syncers.
        transform: From waveforms (batch, samples) to the audio features of the syncers.
        max_offsets: Largest offset at each level, in frames of the level.
    """

    def __init__(self, pyramid: MultiScaleSyncer, transform: nn.Module, *, max_offsets: Sequence[int] = MAX_OFFSETS) -> None:
        check_max_offsets(max_offsets, pyramid.num_levels)
        self.pyramid, self.transform, self.max_offsets = pyramid, transform, tuple(max_offsets)
        self.device = device_of_module(pyramid)
        self._held: dict[int, tuple[Track, list[Tensor]]] = {}

    @torch.no_grad()
    def of(self, track: Track) -> list[Tensor]:
        """Return the unit embeddings (windows, embed) of a track's audio at every level."""
        held = self._held.get(id(track))
        if held is None:
            if track.waveform is None:
                raise ArgumentError(f"`track`: expected audio in {track.id!r}, got none")
            features = self.transform.to(self.device)(torch.from_numpy(track.waveform)[None].to(self.device))
            features = fill_missing_audio(features, torch.from_numpy(track.present)[None].to(self.device))
            embedded = [unit_norm(level)[0] for level in self.pyramid.embed_audio(features)]
            held = self._held[id(track)] = (track, embedded)  # keeping the track alive keeps its id unique
        return held[1]

    def around(
        self, tracks: Mapping[str, Track], segments: Sequence[Segment], level: int, windows: int
    ) -> tuple[Tensor, Tensor]:
        """Return the windows in reach of segments, (segments, windows + 2 V, embed), and a mask of windows with audio."""
        reach = self.max_offsets[level]
        parts, masks = [], []
        for segment in segments:
            track = tracks[segment.id]
            embedded = self.of(track)[level]
            present = torch.from_numpy(track.present)[None]
            there = frames_to_windows(present, level=level, window=self.pyramid.window)[0].to(self.device)
            which = torch.arange(-reach, windows + reach, device=self.device) + segment.start // 2**level
            inside = (which >= 0) & (which < len(embedded))
            which = which.clamp(0, len(embedded) - 1)
            parts.append(embedded[which])
            masks.append(inside & there[which])
        return torch.stack(parts), torch.stack(masks)


@torch.no_grad()
def sync_curves(
    motion: Tensor, audio: AudioEmbeddings, tracks: Mapping[str, Track], segments: Sequence[Segment]
) -> list[SyncOffset]:
    """Apply SyncNet's protocol to segments at every level.

    Windows of frames without audio count neither as motion nor as audio.

    Args:
        motion: Landmarks (segments, frames, points, dims).
        audio: Embeddings of the audio.
        tracks: Tracks that hold the audio, by id.
        segments: Position of each segment in its clip; starts are multiples of ``2**(levels - 1)``.

    Returns:
        One :class:`avsync.metrics.offset.SyncOffset` per level.

    Source: paper section 4.3.
    """
    pyramid = audio.pyramid
    parts: list[list[SyncOffset]] = [[] for _ in range(pyramid.num_levels)]
    for start in range(0, len(segments), 64):
        chunk = segments[start : start + 64]
        landmarks = motion[start : start + 64, ..., : pyramid.landmark_dims].to(audio.device)
        for level, embedded in enumerate(pyramid.embed_motion(landmarks)):
            heard, exists = audio.around(tracks, chunk, level, embedded.shape[1])
            reach = audio.max_offsets[level]
            own = exists[:, reach : reach + embedded.shape[1]]
            found = sync_offset(unit_norm(embedded), heard, max_offset=reach, lead=reach, mask=own, audio_mask=exists)
            parts[level].append(SyncOffset(*(x.cpu() for x in found)))
    return [SyncOffset(*(torch.cat(columns) for columns in zip(*level, strict=True))) for level in parts]


def sync_scores(curves: Sequence[SyncOffset], *, fps: float = FPS, window: int = 5) -> Scores:
    """Compute the measures of every segment at every level.

    Args:
        curves: From :func:`sync_curves`.
        fps: Frames per second at level 0.
        window: Motion frames per window.

    Returns:
        :class:`Scores` of :func:`sync_measures`. Where all offsets look alike, the offset cannot be
        determined: it is NaN and not within one frame.
    """
    rows = []
    for level, sync in enumerate(curves):
        offset = known_offset(sync.offset_frames, sync.confidence.double())
        within = sync.within(1).double().masked_fill(sync.distance.isnan(), torch.nan)
        rows += [
            sync.confidence,
            offset.abs(),
            offset_milliseconds(offset.abs(), level=level, fps=fps),
            offset,
            100 * within,
            sync.distance,
            sync.distance_at_zero,
        ]
    return Scores(sync_measures(len(curves), fps=fps, window=window), torch.stack([row.double() for row in rows]))


PARTS = {"mouth": "mouth alone", "head": "head alone, without what the lips move"}
"""Parts of the face whose confidence is reported apart, and their description (ours)."""


def part_scores(part: str, curves: Sequence[SyncOffset]) -> Scores:
    """Compute the confidence at every level by syncers that see one part of the face.

    Args:
        part: A key of ``PARTS``.
        curves: From :func:`sync_curves`.

    Returns:
        :class:`Scores` of measures "confidence_mouth" or "confidence_head".

    Source: paper section 4.3 (AV-Conf); parts of the face ours.
    """
    section = f"Confidence, {PARTS[part]}"
    measures = tuple(
        Measure(f"confidence_{part}", f"{part}, level {level}", "higher", "", section, level) for level in range(len(curves))
    )
    return Scores(measures, torch.stack([sync.confidence.double() for sync in curves]))


# --- landmarks
# ----------------------------------------------------------------------------------------------------------------------

_LANDMARKS, _DYNAMICS = "Distances from the truth, in heights of its face", "Dynamics"
LANDMARK_MEASURES = (
    Measure("lmd", "LMD", "lower", "", _LANDMARKS, decimals=4),
    Measure("lmd_f", "LMD-f", "lower", "", _LANDMARKS, decimals=4),
    Measure("error", "all points", "lower", "", _LANDMARKS, decimals=4),
    Measure("velocity_error", "velocity", "lower", "per second", _LANDMARKS),
    Measure("mouth_correlation", "mouth opening, correlation", "higher", "", _LANDMARKS),
    Measure("speed", "speed", "truth", "face heights per second", _DYNAMICS),
    Measure("pause_speed", "mouth opening speed in pauses", "truth", "face heights per second", _DYNAMICS),
    Measure("height_drift", "height at the end", "truth", "heights of the first face", _DYNAMICS),
    Measure("mouth_opening", "mouth opening", "truth", "face heights", _DYNAMICS, decimals=4),
    Measure("mouth_opening_95", "mouth opening, 95th percentile", "truth", "face heights", _DYNAMICS, decimals=4),
    Measure("beat_motion_to_audio", "Beat Align, motion to audio", "higher", "", _DYNAMICS),
    Measure("beat_audio_to_motion", "Beat Align, audio to motion", "higher", "", _DYNAMICS),
)
"""The measures of :func:`landmark_scores`."""
SEED_SPREAD = Measure("seed_spread", "spread of samples", "higher", "of the displacement", _DYNAMICS)
"""The measure of :func:`spread_scores`."""


@torch.no_grad()
def landmark_scores(
    motion: Tensor, truth: Tensor, waveforms: Tensor, *, fps: float = FPS, has_audio: Tensor | None = None
) -> Scores:
    """Compute distances, correlation, speeds, drift, opening of the mouth and Beat Align of every segment.

    Args:
        motion: (segments, frames, points, dims).
        truth: The same shape.
        waveforms: Audio of the segments, (segments, 640 * frames).
        fps: Frames per second.
        has_audio: True for frames with audio, (segments, frames) bool; the other frames are no pause and have no beats. None
            for all True.

    Returns:
        :class:`Scores` of ``LANDMARK_MEASURES``; NaN for measures of the mouth if there are not 68 points, for the correlation
        of a mouth that does not move, and for the speed in pauses of segments without a pause.

    Source: paper section 4.4 (LMD, LMD-f); the rest as in the functions.
    """
    options: dict[str, Any] = {"unit": "face", "reduction": "none"}
    nothing = torch.full((motion.shape[0],), torch.nan)
    whole = motion.shape[2] == NUM_POINTS
    beats = beat_align(motion, waveforms, fps=fps, has_audio=has_audio)
    there = [None] * len(waveforms) if has_audio is None else list(has_audio.numpy())
    spoken = torch.from_numpy(
        np.stack([speech_mask(waveform, present=present) for waveform, present in zip(waveforms, there, strict=True)])
    )[:, : motion.shape[1]]
    rows = [
        landmark_distance(motion, truth, **options) if whole else nothing,
        landmark_distance(motion, truth, frontal=True, **options) if whole else nothing,
        landmark_error(motion, truth, **options),
        velocity_error(motion, truth, **options) * fps,
        mouth_opening_correlation(motion, truth, reduction="none") if whole else nothing,
        face_speed(motion, fps=fps),
        pause_speed(motion, spoken, fps=fps, has_audio=has_audio) if whole else nothing,
        height_drift(motion),
        mouth_opening(motion).mean(dim=1) if whole else nothing,
        mouth_opening_quantile(motion) if whole else nothing,
        beats.motion_to_audio,
        beats.audio_to_motion,
    ]
    return Scores(LANDMARK_MEASURES, torch.stack([row.double() for row in rows]))


def spread_scores(samples: Sequence[Tensor]) -> Scores:
    """Compute how far samples of a method are from each other.

    Args:
        samples: (segments, frames, points, dims) each; a single sample has no spread.

    Returns:
        :class:`Scores` of ``SEED_SPREAD``, NaN for a single sample.

    Source: ours; see :func:`avsync.metrics.dynamics.seed_spread`.
    """
    spread = seed_spread(samples) if len(samples) > 1 else torch.full((samples[0].shape[0],), torch.nan)
    return Scores((SEED_SPREAD,), spread.double()[None])


# --- sets ----------------------------------------------------------------------------------------------------

SET_SECTION = "Frechet distances from the real clips"


def set_distance(
    extractor: nn.Module, motion: Tensor, truth: Tensor, groups: Sequence[str], *, resamples: int = FRECHET_RESAMPLES
) -> tuple[Cell, str | None]:
    """Compute the Frechet distance of a set of segments from the real ones.

    The interval is the estimate -+ 1.96 standard deviations of the distance over resamples of whole groups, the same groups in
    both sets. Percentiles are not used because the repeated clips of a resample increase the distance. For networks with more
    than 256 features no interval is computed because the computation would take minutes.

    Args:
        extractor: From landmarks (batch, frames, points, dims) to features (vectors, features), in eval mode.
        motion: (segments, frames, points, dims).
        truth: The same shape.
        groups: Speaker of each segment.
        resamples: Number of bootstrap resamples.

    Returns:
        The cell, and a note if the set is too small for the number of features; the cell is empty if no distance exists.

    Source: paper section 4.2; the interval ours.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        try:
            features = getattr(extractor, "num_features", None)
            if features is not None and features > 256:
                first, second = (extract_statistics(extractor, clips) for clips in (motion, truth))
                return Cell(float(frechet_distance(first, second)), None, None, len(motion)), _note(told)
            with torch.no_grad():
                sets = [torch.cat([extractor(part) for part in clips.split(64)]).double() for clips in (motion, truth)]
            estimate = float(frechet_distance(*sets))
        except ArgumentError as error:
            return Cell(None, None, None, 0), str(error)
    names = sorted(set(groups))
    if len(names) < 2 or sets[0].shape[1] > 256:
        return Cell(estimate, None, None, len(motion)), _note(told)
    spread = _resampled(sets, [names.index(group) for group in groups], resamples).std()
    half = 1.96 * float(spread)
    return Cell(estimate, max(0.0, estimate - half), estimate + half, len(motion)), _note(told)


def _note(told: Sequence[warnings.WarningMessage]) -> str | None:
    return str(told[0].message) if told else None


def _resampled(sets: Sequence[Tensor], member: Sequence[int], resamples: int) -> Tensor:
    """Compute distances (resamples,) of sets of features (vectors, features); both sets use the same resampled groups."""
    number = max(member) + 1
    drawn = torch.randint(number, (resamples, number), generator=torch.Generator().manual_seed(0))
    times = torch.zeros(resamples, number).scatter_add_(1, drawn, torch.ones(resamples, number)).double()
    centre = sets[-1].mean(0)
    sums = []
    for features in sets:
        each = (features - centre).unflatten(0, (len(member), -1))  # (segments, vectors of a segment, features)
        groups = torch.zeros(number, len(member), dtype=torch.float64)
        groups[torch.tensor(member), torch.arange(len(member))] = 1.0
        outer = torch.einsum("pvf,pvg->pfg", each, each)
        counts = groups.sum(1) * each.shape[1]
        sums.append((counts, groups @ each.sum(1), torch.einsum("gp,pfh->gfh", groups, outer)))
    distances = []
    for weights in times:
        gaussians = []
        for counts, first, second in sums:
            count = weights @ counts
            mean = (weights @ first) / count
            scatter = torch.einsum("g,gfh->fh", weights, second) - count * torch.outer(mean, mean)
            gaussians += [mean, scatter / (count - 1)]
        distances.append(gaussian_distance(*gaussians))
    return torch.stack(distances)
