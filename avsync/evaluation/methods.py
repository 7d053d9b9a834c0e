"""Evaluation of the landmarks of any method: the measures of the paper's Tables 2 to 5, and baselines without a network.

References are real clips, predictions the methods' motion for the audio of the same clips. All are cut into segments (80 frames
in the paper), every row is evaluated on the same segments, and means come with 95 % intervals over speakers. The results
list everything that is left out, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from avsync._checks import check_choice, check_positive, checked
from avsync.corpus.clip import FPS
from avsync.errors import ArgumentError
from avsync.evaluation.measures import (
    PARTS,
    SEED_SPREAD,
    SET_SECTION,
    AudioEmbeddings,
    Scores,
    landmark_scores,
    part_scores,
    set_distance,
    spread_scores,
    sync_curves,
    sync_scores,
)
from avsync.evaluation.rows import (
    BOUNDS,
    Segment,
    bound_motions,
    cut_segments,
    segment_has_audio,
    segment_landmarks,
    segment_waveforms,
)
from avsync.evaluation.sources import LeftOut, Track, match_tracks
from avsync.evaluation.tables import Cell, Measure, Table, cell
from avsync.landmarks.layouts import NUM_POINTS
from avsync.metrics.feature_nets import FrameFeatures, SequenceFeatures, TrailFeatures
from avsync.metrics.frechet import load_motion_autoencoder
from avsync.metrics.multi_scale import MAX_OFFSETS
from avsync.models.motion_autoencoder import MotionAutoencoder
from avsync.models.syncer.interface import MultiScaleSyncer

AUDIO_FROM = ("own", "refs")
DEFAULT_FRAMES = 80
"""Frames per segment, as in the paper."""
SET_FRAMES = 40
"""Last frames on which FID and t-FID are computed, as in the paper."""
FVD_FRAMES = (40, 80, 200)
"""Last frames on which FVD is computed, as in Table 2 of the paper; longer numbers than a segment are left out."""


@dataclass(frozen=True, eq=False)
class Networks:
    """Evaluation models; None leaves out the measures of that model.

    Attributes:
        syncers: Pyramid of the sync metrics; it should differ from the pyramid that the methods were trained with.
        transform: From waveforms to the audio features of the syncers; by default as in their config.
        mouth: Syncers that see the mouth alone, for its confidence; their config names the audio features.
        head: Syncers that see the head without the lips, for its confidence; their config names the audio features.
        motion: Network of the Frechet motion distance; by default the pretrained autoencoder.
        inception: From images (images, 3, size, size) to features, for FID and t-FID.
        i3d: From sequences (batch, frames, 3, size, size) to features, for FVD.
    """

    syncers: MultiScaleSyncer | None = None
    transform: nn.Module | None = None
    mouth: MultiScaleSyncer | None = None
    head: MultiScaleSyncer | None = None
    motion: nn.Module | None = None
    inception: nn.Module | None = None
    i3d: nn.Module | None = None

    def parts(self) -> dict[str, MultiScaleSyncer]:
        """Return the syncers of single parts of the face, by the names of ``PARTS``."""
        found = {part: getattr(self, part) for part in PARTS}
        return {part: syncers for part, syncers in found.items() if syncers is not None}

    def audio_transform(self) -> nn.Module:
        """Return the audio features of the syncers.

        Raises:
            ArgumentError: Neither the config of the syncers nor ``transform`` names the features.
        """
        found = self.transform
        if found is None and self.syncers is not None:
            found = self.syncers.speech_features()
        if found is None:
            raise ArgumentError("`transform`: expected a module, because the syncers' config names no features, got None")
        return found


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results.

    Attributes:
        table: Means with intervals.
        segments: The evaluated segments.
        scores: For every row, the value of each measure of each segment.
        motions: For every row, landmarks (segments, frames, points, dims).
        left_out: Clips and segments that were not evaluated, with reasons.
        notes: Remarks on the numbers.
        settings: Options of the evaluation.
        bounds: Rows of baselines.
    """

    table: Table
    segments: tuple[Segment, ...]
    scores: Mapping[str, Scores]
    motions: Mapping[str, Tensor]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    bounds: tuple[str, ...] = BOUNDS

    @checked
    def values(self, row: str, key: str, level: int | None = None) -> Tensor:
        """Return one value per segment of a measure, (segments,) float64; NaN for a segment without a value.

        Raises:
            ArgumentError: There is no such row or measure.
        """
        if row not in self.scores:
            raise ArgumentError(f"`row`: expected one of {list(self.scores)}, got {row!r}")
        for number, measure in enumerate(self.scores[row].measures):
            if (measure.key, measure.level) == (key, level):
                return self.scores[row].values[number]
        raise ArgumentError(f"`key`: expected a measure of segments, got {key!r} at level {level}")

    def clip_rows(self) -> list[dict[str, Any]]:
        """Return one dictionary per row, segment and measure (row, id, start, speaker, measure, level, value or None)."""
        rows = []
        for row, scores in self.scores.items():
            for number, segment in enumerate(self.segments):
                for measure, value in zip(scores.measures, scores.values[:, number].tolist(), strict=True):
                    rows.append(
                        {
                            "row": row,
                            "id": segment.id,
                            "start": segment.start,
                            "speaker": segment.group,
                            "measure": measure.key,
                            "level": measure.level,
                            "value": None if math.isnan(value) else value,
                        }
                    )
        return rows

    @checked
    def to_json(self, *, clips: bool = False) -> dict[str, Any]:
        """Return plain values for JSON; ``clips`` adds the values of every segment."""
        found: dict[str, Any] = {
            "settings": dict(self.settings),
            "segments": len(self.segments),
            "clips": len({segment.id for segment in self.segments}),
            "speakers": len({segment.group for segment in self.segments}),
            "rows": self.table.rows(),
            "left_out": [entry._asdict() for entry in self.left_out],
            "notes": list(self.notes),
        }
        if clips:
            found["values"] = self.clip_rows()
        return found


@checked
def evaluate(
    refs: Mapping[str, Track],
    methods: Mapping[str, Mapping[str, Track]] | None = None,
    *,
    networks: Networks,
    samples: Mapping[str, Sequence[Mapping[str, Track]]] | None = None,
    frames: int = DEFAULT_FRAMES,
    stride: int | None = None,
    min_speech: float = 0.2,
    shift: int = 8,
    cut: bool = False,
    audio_from: str = "own",
    max_offsets: Sequence[int] = MAX_OFFSETS,
    resamples: int = 2000,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Evaluate methods and baselines on the same segments of real clips.

    Args:
        refs: Real clips with audio, by id.
        methods: Predictions by name of the method and id of the clip; None evaluates the baselines alone.
        networks: The evaluation models.
        samples: Further samples of methods, for example of other seeds, by name of the method; they count for the spread of
            samples only.
        frames: Frames of a segment.
        stride: Distance between the starts of segments in frames, a multiple of 8 for four levels; by default
            ``frames``, rounded up to such a multiple.
        min_speech: Smallest fraction of speech frames in a segment.
        shift: Frames by which the row "shifted" is late.
        cut: Also compare predictions whose length differs from the reference, up to the shorter length.
        audio_from: "own" uses the audio of a prediction if it has audio, "refs" always uses the audio of the reference.
        max_offsets: Largest offset searched at each level, in frames of the level.
        resamples: Number of bootstrap resamples.
        progress: Called with the name of each row before it is evaluated.

    Returns:
        :class:`Evaluation`.

    Raises:
        ArgumentError: No segment is left, a method has the name of a bound, or an option is impossible.
        ShapeError: The landmarks do not fit the syncers.

    Source: paper sections 4.2 to 4.5; baselines and intervals ours.
    """
    check_choice("audio_from", audio_from, AUDIO_FROM)
    check_positive("frames", frames)
    check_positive("shift", shift)
    if not 0 <= min_speech <= 1:
        raise ArgumentError(f"`min_speech`: expected a share from 0 to 1, got {min_speech!r}")
    methods = {} if methods is None else methods
    samples = {} if samples is None else samples
    _check_names(methods, samples)
    stride = _stride(networks, frames, stride)

    refs, left_out = _one_layout(refs)
    segments, unused = cut_segments(refs, frames=frames, stride=stride, min_speech=min_speech)
    rows = {name: [preds, *samples.get(name, ())] for name, preds in methods.items()}
    matched, unmatched = _matched(refs, rows, cut=cut)
    tracks, further = {name: found[0] for name, found in matched.items()}, {name: found[1:] for name, found in matched.items()}
    every = {_row(name, number): found for name, each in matched.items() for number, found in enumerate(each, start=1)}
    segments, uncommon = _common(segments, every, frames)
    left_out += [*unused, *unmatched, *uncommon]
    if not segments:
        reasons = "; ".join(f"{entry.row}, {entry.id}: {entry.reason}" for entry in left_out[:3])
        raise ArgumentError(f"`refs`: expected at least one segment of {frames} frames, got none ({reasons})")

    motions, notes = bound_motions(refs, segments, frames=frames, shift=shift)
    truth, waveforms = motions["ground truth"], segment_waveforms(refs, segments, frames=frames)
    order = {"ground truth": truth}
    order |= {name: segment_landmarks(found, segments, frames=frames) for name, found in tracks.items()}
    order |= {name: motion for name, motion in motions.items() if name not in order}
    audio_embeddings = None
    if networks.syncers is not None:
        networks.syncers.eval()
        audio_embeddings = AudioEmbeddings(networks.syncers, networks.audio_transform().eval(), max_offsets=max_offsets)
    part_embeddings = _part_embeddings(networks, frames, truth.shape[2], max_offsets, notes)
    groups = [segment.group for segment in segments]
    if len(set(groups)) < 2:
        notes.append("all segments are of one speaker: no intervals")
    scores: dict[str, Scores] = {}
    cells: dict[str, tuple[Cell, ...]] = {}
    extractors = _extractors(networks, frames, truth.shape[2])
    for row, motion in order.items():
        if progress is not None:
            progress(row)
        own = tracks.get(row, {}) if audio_from == "own" else {}
        heard = {name: own[name] if name in own and own[name].waveform is not None else refs[name] for name in refs}
        parts = []
        if audio_embeddings is not None:
            window = audio_embeddings.pyramid.window
            parts.append(sync_scores(sync_curves(motion, audio_embeddings, heard, segments), window=window))
        for part, embeddings in part_embeddings.items():
            parts.append(part_scores(part, sync_curves(motion, embeddings, heard, segments)))
        voices = waveforms if not own else segment_waveforms(heard, segments, frames=frames)
        present = segment_has_audio(heard, segments, frames=frames)
        parts.append(landmark_scores(motion, truth, voices, has_audio=present))
        if not present.all():
            lacking = f"{float((~present).sum()) / FPS:.1f} s of {int((~present).any(1).sum())} segments"
            told = f"{row if own else 'refs'}: no audio in {lacking}; synchrony, pauses and beats are measured in the rest"
            notes += [told] if told not in notes else []
        if samples:
            more = [segment_landmarks(sample, segments, frames=frames) for sample in further.get(row, [])]
            parts.append(spread_scores([motion, *more]))
        scores[row] = Scores(sum((part.measures for part in parts), ()), torch.cat([part.values for part in parts]))
        means = [cell(values.tolist(), groups, resamples=resamples) for values in scores[row].values]
        sets = []
        for measure, extractor, last in extractors:
            distance, note = set_distance(extractor, motion[:, -last:], truth[:, -last:], groups)
            sets.append(distance)
            if note is not None and f"{measure.title}: {note}" not in notes:
                notes.append(f"{measure.title}: {note}")
        cells[row] = (*means, *sets)
    measures = (*scores["ground truth"].measures, *(measure for measure, _, _ in extractors))
    notes += _missing(measures, cells, len(segments))
    settings = {
        "frames": frames,
        "stride": stride,
        "fps": FPS,
        "min_speech": min_speech,
        "shift_frames": shift,
        "audio_from": audio_from,
        "samples": {name: 1 + len(each) for name, each in further.items()},
        "max_offsets": list(max_offsets)[: 0 if networks.syncers is None else networks.syncers.num_levels],
        "resamples": resamples,
        "interval": "95 %, bootstrap over speakers (over clips where speakers are not known)",
    }
    return Evaluation(Table(measures, cells), tuple(segments), scores, order, tuple(left_out), tuple(notes), settings)


def _check_names(methods: Mapping[str, Any], samples: Mapping[str, Any]) -> None:
    taken = sorted(set(methods) & set(BOUNDS))
    if taken:
        raise ArgumentError(f"`methods`: expected names other than those of the bounds, got {taken}")
    unknown = sorted(set(samples) - set(methods))
    if unknown:
        raise ArgumentError(f"`samples`: expected names of methods, {sorted(methods)}, got {unknown}")


def _stride(networks: Networks, frames: int, stride: int | None) -> int:
    """Return the distance between segments: a multiple of the frames of the coarsest level."""
    pyramids = [syncers for syncers in (networks.syncers, *networks.parts().values()) if syncers is not None]
    levels = max((syncers.num_levels for syncers in pyramids), default=1)
    step = 2 ** (levels - 1)
    stride = -(-frames // step) * step if stride is None else stride
    check_positive("stride", stride)
    if stride % step:
        raise ArgumentError(f"`stride`: expected a multiple of {step} for {levels} levels, got {stride}")
    if networks.syncers is not None and frames < networks.syncers.shortest_clip():
        shortest = networks.syncers.shortest_clip()
        raise ArgumentError(f"`frames`: expected at least {shortest}, a window of the coarsest level, got {frames}")
    return stride


def _row(method: str, number: int) -> str:
    """Return the name of a sample of a method; the first sample has the name of the method."""
    return method if number == 1 else f"{method}, sample {number}"


def _matched(
    refs: Mapping[str, Track], rows: Mapping[str, Sequence[Mapping[str, Track]]], *, cut: bool
) -> tuple[dict[str, list[dict[str, Track]]], list[LeftOut]]:
    """Match all samples of all methods with the references."""
    matched: dict[str, list[dict[str, Track]]] = {}
    left_out: list[LeftOut] = []
    for method, samples in rows.items():
        matched[method] = []
        for number, preds in enumerate(samples, start=1):
            found, unmatched = match_tracks(dict(refs), dict(preds), row=_row(method, number), cut=cut)
            matched[method].append(found)
            left_out += unmatched
    return matched, left_out


def _one_layout(refs: Mapping[str, Track]) -> tuple[dict[str, Track], list[LeftOut]]:
    """Return the references that have the most frequent numbers of points and dims."""
    shapes = [track.landmarks.shape[1:] for track in refs.values()]
    if not shapes:
        raise ArgumentError("`refs`: expected at least one clip, got none")
    common = max(set(shapes), key=shapes.count)
    left_out = [
        LeftOut("refs", name, f"expected (points, dims) = {common} as most references have, got {track.landmarks.shape[1:]}")
        for name, track in refs.items()
        if track.landmarks.shape[1:] != common
    ]
    return {name: track for name, track in refs.items() if track.landmarks.shape[1:] == common}, left_out


def _common(
    segments: Sequence[Segment], tracks: Mapping[str, Mapping[str, Track]], frames: int
) -> tuple[list[Segment], list[LeftOut]]:
    """Return the segments that every method has, and the segments that only some methods have."""
    kept, left_out = [], []
    for segment in segments:
        lacking = [
            name
            for name, found in tracks.items()
            if segment.id not in found or found[segment.id].frames < segment.start + frames
        ]
        if not lacking:
            kept.append(segment)
            continue
        having = [name for name in tracks if name not in lacking]
        because = [name for name in lacking if segment.id in tracks[name]]  # methods without the clip are already listed
        left_out += [
            LeftOut(name, segment.id, f"ends before frame {segment.start + frames}: that segment is left out")
            for name in because
        ]
        left_out += [
            LeftOut(name, segment.id, f"frames from {segment.start}: {lacking} have no such segment") for name in having
        ]
    return kept, left_out


def _extractors(networks: Networks, frames: int, points: int) -> list[tuple[Measure, nn.Module, int]]:
    """Return the Frechet distances that are possible: measure, network, and number of last frames used."""
    found: list[tuple[Measure, nn.Module, int]] = []
    if points != NUM_POINTS:
        return found
    motion = load_motion_autoencoder() if networks.motion is None else networks.motion
    last = min(SET_FRAMES, frames)
    if not isinstance(motion, MotionAutoencoder) or frames >= motion.config.window:
        found.append((Measure("frechet_motion", "motion", "lower", "", SET_SECTION), _TwoDims(motion.eval()), frames))
        if last < frames and (not isinstance(motion, MotionAutoencoder) or last >= motion.config.window):
            measure = Measure("frechet_motion_last", f"motion, last {last} frames", "lower", "", SET_SECTION)
            found.append((measure, _TwoDims(motion.eval()), last))
    if networks.inception is not None:
        found.append((Measure("fid", "FID", "lower", "", SET_SECTION, decimals=2), FrameFeatures(networks.inception), last))
        measure = Measure("t_fid", "t-FID", "lower", "", SET_SECTION, decimals=2)
        found.append((measure, TrailFeatures(networks.inception), last))
    if networks.i3d is not None:
        for last in [number for number in FVD_FRAMES if number <= frames] or [frames]:
            measure = Measure(f"fvd_{last}", f"FVD-{last}", "lower", "", SET_SECTION, decimals=1)
            found.append((measure, SequenceFeatures(networks.i3d), last))
    return found


def _part_embeddings(
    networks: Networks, frames: int, points: int, max_offsets: Sequence[int], notes: list[str]
) -> dict[str, AudioEmbeddings]:
    """Return what embeds the audio for the syncers of each part, or note why a part is left out."""
    found = {}
    for part, syncers in networks.parts().items():
        transform = syncers.speech_features()
        if transform is None:
            raise ArgumentError(f"`{part}`: expected syncers whose config names the audio features, got none")
        if points != NUM_POINTS or frames < syncers.shortest_clip():
            notes.append(
                f"no confidence of the {part}: its syncers take {NUM_POINTS} points and {syncers.shortest_clip()} frames"
            )
            continue
        found[part] = AudioEmbeddings(syncers.eval(), transform.eval(), max_offsets=max_offsets)
    return found


class _TwoDims(nn.Module):
    """The motion features of landmarks that may have a third dim."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, landmarks: Tensor) -> Tensor:
        return self.network(landmarks[..., :2])


def _missing(measures: Sequence[Measure], cells: Mapping[str, tuple[Cell, ...]], segments: int) -> list[str]:
    """Return notes on measures that are averaged over fewer segments than the others."""
    notes = []
    for number, measure in enumerate(measures):
        if measure == SEED_SPREAD:
            continue
        short = {row: found[number].clips for row, found in cells.items() if found[number].clips < segments}
        if short:
            counts = ", ".join(f"{row}: {count} of {segments}" for row, count in short.items())
            level = "" if measure.level is None else f", level {measure.level}"
            notes.append(f"{measure.title}{level} exists for fewer segments ({counts})")
    return notes
