"""Statistics of a corpus, for a check before training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from avsync._checks import device_of_module
from avsync.audio.features import normalise_waveform
from avsync.corpus.clip import (
    FPS,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    Clip,
    Corpus,
    Entry,
    read_clip,
    resample_clip,
    rms_db,
    sample_of_frame,
)
from avsync.corpus.speech import clip_speech
from avsync.errors import ArgumentError, ClipTooShortError, CorpusError
from avsync.metrics.multi_scale import MAX_OFFSETS, multi_scale_offset
from avsync.metrics.offset import offset_within
from avsync.models.syncer.interface import MultiScaleSyncer
from avsync.pyramid import level_fps

_Numbers = npt.NDArray[np.float64]

MAX_OFFSET_FRAMES = 750
"""Offsets of longer clips are computed from their first 30 seconds."""


@dataclass(frozen=True, kw_only=True)
class CorpusStatistics:
    """Counts and distributions of a corpus; arrays have one entry per good clip, in the order of the index.

    Attributes:
        folder: The corpus folder.
        fps: Landmark frames per second.
        points: Number of clips for each (points, dims).
        splits: Clips, minutes and speakers of each split.
        native_rates: Number of clips for each frame rate of the source videos, as far as the index holds these rates.
        seconds: Length of each clip, in seconds.
        face_heights: Median face height of each clip, in pixels of the source if the index holds it, else in the landmarks'
            unit.
        audio_seconds: Time with audio of each clip, in seconds; the other frames count in no measure of the audio.
        speech: Share of speech in the frames with audio of each clip, by :func:`avsync.corpus.speech.clip_speech`.
        rms_db: Audio level of each clip, in decibels of full scale.
        bad: (id, reason) of each clip that cannot be read.
        offsets: For each level, the offset of each clip that is long enough, in frames of the level of the syncers; positive if
            the audio is early. None without syncers.
        confidences: Confidence of each offset.
        search: Largest offset that was searched at each level, in frames of the level.
        syncer_fps: Frames per second of the finest level of the syncers.
        too_short: Number of clips that are too short for the syncers, or whose audio is.

    Source: ours.
    """

    folder: str
    fps: float
    points: dict[tuple[int, int], int]
    splits: dict[str, dict[str, float]]
    native_rates: dict[float, int]
    seconds: _Numbers
    audio_seconds: _Numbers
    face_heights: _Numbers
    speech: _Numbers
    rms_db: _Numbers
    bad: tuple[tuple[str, str], ...] = ()
    offsets: tuple[_Numbers, ...] | None = None
    confidences: tuple[_Numbers, ...] | None = None
    search: tuple[int, ...] = ()
    too_short: int = 0
    syncer_fps: float = FPS

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values: distributions become smallest, quartiles and largest, offsets become counts."""
        values: dict[str, Any] = {
            "folder": self.folder,
            "fps": self.fps,
            "clips": len(self.seconds),
            "bad": [list(pair) for pair in self.bad],
            "minutes": float(self.seconds.sum() / 60),
            "speakers": int(sum(split["speakers"] for split in self.splits.values())),
            "splits": self.splits,
            "points": {f"{points} x {dims}": count for (points, dims), count in self.points.items()},
            "native_rates": {f"{rate:g}": count for rate, count in self.native_rates.items()},
            "seconds": _quartiles(self.seconds),
            "seconds_without_audio": round(float((self.seconds - self.audio_seconds).sum()), 3),
            "face_height": _quartiles(self.face_heights),
            "speech_share": _quartiles(self.speech),
            "rms_db": _quartiles(self.rms_db),
        }
        if self.offsets is not None and self.confidences is not None:
            values["clips_too_short_for_offsets"] = self.too_short
            values["offsets"] = [
                {
                    "level": level,
                    "frame_ms": 1000 / level_fps(self.syncer_fps, level),
                    "searched": self.search[level],
                    "counts": {str(int(offset)): count for offset, count in sorted(Counter(found.tolist()).items())},
                    "within_one_frame": _within_one(found, confidence) if found.size else None,
                    "median_ms": self._median_offset(level),
                    "median_frames": None
                    if (median := self._median_offset(level)) is None
                    else round(median * self.fps / 1000, 3),
                    "confidence": _quartiles(confidence),
                }
                for level, (found, confidence) in enumerate(zip(self.offsets, self.confidences, strict=True))
            ]
        return values

    def _median_offset(self, level: int) -> float | None:
        """Return the median of the offsets of a level, in milliseconds."""
        found = () if self.offsets is None else self.offsets[level]
        return float(np.median(found)) * 1000 / level_fps(self.syncer_fps, level) if len(found) else None

    def summary(self) -> str:
        """Return the statistics as text."""
        values = self.to_json()
        layout = ", ".join(
            f"{form} ({count} clips)" if len(self.points) > 1 else form for form, count in values["points"].items()
        )
        totals = f"{values['clips']} clips, {values['minutes']:.1f} minutes, {values['speakers']} speakers"
        lines = [f"{self.folder}: {totals}, {self.fps:g} frames per second, points x dims {layout or 'none'}"]
        for name, split in self.splits.items():
            lines.append(
                f"  {name}: {split['clips']:.0f} clips, {split['minutes']:.1f} minutes, {split['speakers']:.0f} speakers"
            )
        if self.native_rates:
            rates = ", ".join(f"{rate} ({count})" for rate, count in values["native_rates"].items())
            lines.append(f"images per second of the videos (clips): {rates}")
        if values["seconds_without_audio"]:
            clips = int((self.seconds - self.audio_seconds > 1e-6).sum())
            lines.append(f"no audio for {values['seconds_without_audio']:.2f} s of {clips} clips; measured in the rest")
        for title, key, form in (
            ("seconds per clip", "seconds", ".1f"),
            ("height of the face", "face_height", ".0f"),
            ("share of frames with speech", "speech_share", ".2f"),
            ("level of the audio, dB", "rms_db", ".0f"),
        ):
            if values[key]:
                low, lower, middle, upper, high = (format(number, form) for number in values[key].values())
                lines.append(f"{title}: median {middle}, half of the clips from {lower} to {upper}, all from {low} to {high}")
        lines += [
            f"offset at level {level['level']} (frames of {level['frame_ms']:g} ms, searched to {level['searched']}): "
            f"{100 * level['within_one_frame']:.1f} % within one frame, median {level['median_ms']:+.0f} ms "
            f"({level['median_frames']:+.1f} frames of the corpus), median confidence {level['confidence']['median']:.2f}"
            for level in values.get("offsets", [])
            if level["within_one_frame"] is not None
        ]
        if self.too_short:
            lines.append(f"too short for offsets: {self.too_short} clips")
        lines += [f"bad: {reason}" for _, reason in self.bad]
        return "\n".join(lines)


def inspect_corpus(
    folder: str | os.PathLike[str],
    *,
    syncers: MultiScaleSyncer | None = None,
    features: nn.Module | None = None,
    max_offsets: Sequence[int] = MAX_OFFSETS,
    progress: Callable[[int, int], None] | None = None,
) -> CorpusStatistics:
    """Read all clips of a corpus and compute statistics.

    Args:
        folder: The corpus folder, of any frame rate.
        syncers: Trained syncers, which find the offset of each clip at each level; clips of another rate are resampled to
            theirs.
        features: Audio features of the syncers: waveform (batch, samples) to (batch, 4 * frames, coeffs). Needed with
            ``syncers``.
        max_offsets: Largest offset of the search at each level, in frames of the level.
        progress: Function that is called with (clips read, total clips) after each clip.

    Returns:
        The statistics. Clips that cannot be read are listed in ``bad`` and excluded from all other numbers.

    Raises:
        CorpusError: The index cannot be read.
        ArgumentError: ``features`` is missing, or the syncers need other points than those of the corpus.

    Example:
        >>> import tempfile
        >>> from avsync.corpus.clip import write_clip, write_index
        >>> from avsync.corpus.synthetic.talker import synthetic_clip
        >>> with tempfile.TemporaryDirectory() as corpus:
        ...     write_index(corpus, [write_clip(synthetic_clip(speaker=number, seconds=2.0), corpus) for number in (0, 1)])
        ...     statistics = inspect_corpus(corpus)
        >>> statistics.splits, statistics.seconds.tolist()
        ({'train': {'clips': 2.0, 'minutes': 0.067, 'speakers': 2.0}}, [2.0, 2.0])

    Source: ours.
    """
    corpus = Corpus(folder, fps=None, skip_bad=False)
    if syncers is not None and features is None:
        raise ArgumentError("`features`: expected the features that the syncers take, got None")
    bad: list[tuple[str, str]] = []
    good: list[Entry] = []
    forms: Counter[tuple[int, int]] = Counter()
    rows: list[tuple[float, ...]] = []
    offsets: list[list[tuple[float, float]]] | None = None if syncers is None else [[] for _ in range(syncers.num_levels)]
    too_short = 0
    for number, entry in enumerate(corpus.entries):
        try:
            clip = read_clip(folder, entry, fps=corpus.fps)
        except CorpusError as error:
            bad.append((entry["id"], str(error)))
        else:
            good.append(entry)
            forms[(clip.landmarks.shape[1], clip.landmarks.shape[2])] += 1
            rows.append(_measure(clip, entry))
            if syncers is not None and features is not None and offsets is not None:
                pairs = _offsets(clip, syncers, features, max_offsets)
                too_short += not pairs
                for level, pair in zip(offsets, pairs, strict=False):
                    level.append(pair)
        if progress is not None:
            progress(number + 1, len(corpus.entries))
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    found = None if offsets is None else [np.array(level, dtype=np.float64).reshape(-1, 2) for level in offsets]
    rates = Counter(round(float(entry["native_fps"]), 2) for entry in good if isinstance(entry.get("native_fps"), int | float))
    return CorpusStatistics(
        folder=str(Path(folder)),
        fps=corpus.fps,
        points=dict(forms.most_common()),
        splits=_splits(good, table[:, 0]),
        native_rates=dict(sorted(rates.items())),
        seconds=table[:, 0],
        audio_seconds=table[:, 1],
        face_heights=table[:, 2],
        speech=table[:, 3],
        rms_db=table[:, 4],
        bad=tuple(bad),
        offsets=None if found is None else tuple(level[:, 0] for level in found),
        confidences=None if found is None else tuple(level[:, 1] for level in found),
        search=() if found is None else tuple(max_offsets[: len(found)]),
        too_short=too_short,
        syncer_fps=FPS if syncers is None else syncers.fps,
    )


def _measure(clip: Clip, entry: Entry) -> tuple[float, ...]:
    """Return the seconds, the seconds with audio, face height, share of speech, and audio level in decibels."""
    height = entry.get("face_height_px")
    if not isinstance(height, int | float):
        height = float(np.median(np.ptp(clip.landmarks[..., min(1, clip.landmarks.shape[2] - 1)], axis=1)))
    heard = float(clip.has_audio.sum()) / clip.fps
    spoken = (
        float(clip_speech(clip).sum()) * SAMPLES_PER_FRAME / SAMPLE_RATE if clip.waveform.size >= SAMPLES_PER_FRAME else 0.0
    )
    return clip.seconds, heard, float(height), min(1.0, spoken / heard) if heard else 0.0, rms_db(clip)


def _offsets(clip: Clip, syncers: MultiScaleSyncer, features: nn.Module, search: Sequence[int]) -> list[tuple[float, float]]:
    """Return the offset and confidence at each level; nothing for a clip without a window with audio at a level."""
    wanted = syncers.landmark_points
    if clip.landmarks.shape[1] != wanted:
        raise ArgumentError(f"`syncers`: expected syncers for {clip.landmarks.shape[1]} points, got syncers for {wanted}")
    clip = resample_clip(clip, fps=syncers.fps)
    frames = min(clip.frames, MAX_OFFSET_FRAMES)
    device = device_of_module(syncers)
    landmarks = torch.from_numpy(clip.landmarks[:frames, :, : syncers.landmark_dims]).to(device)
    waveform = torch.from_numpy(clip.waveform[: sample_of_frame(frames, clip.fps)]).to(device)
    present = torch.from_numpy(clip.has_audio[:frames])[None].to(device)
    try:
        with torch.no_grad():
            audio = features.to(device)(normalise_waveform(waveform[None]))
            levels = multi_scale_offset(syncers, landmarks[None], audio, max_offsets=search, has_audio=present)
    except ClipTooShortError:
        return []
    if any(level.distance.isnan() for level in levels):
        return []
    return [(float(level.offset_frames), float(level.confidence)) for level in levels]


def _within_one(offsets: _Numbers, confidences: _Numbers) -> float:
    return float(offset_within(torch.from_numpy(offsets), torch.from_numpy(confidences)).double().mean())


def _splits(entries: Sequence[Entry], seconds: _Numbers) -> dict[str, dict[str, float]]:
    splits: dict[str, dict[str, float]] = {}
    for name in sorted({str(entry["split"]) for entry in entries}):
        mine = [number for number, entry in enumerate(entries) if entry["split"] == name]
        splits[name] = {
            "clips": float(len(mine)),
            "minutes": round(float(seconds[mine].sum() / 60), 3),
            "speakers": float(len({entries[number]["speaker"] for number in mine})),
        }
    return splits


def _quartiles(values: _Numbers) -> dict[str, float]:
    if not values.size:
        return {}
    names = ("smallest", "lower_quartile", "median", "upper_quartile", "largest")
    return dict(zip(names, np.percentile(values, [0, 25, 50, 75, 100]).tolist(), strict=True))
