"""Estimation and correction of the offsets of a whole corpus.

Offsets are estimated, corrected if they are probable enough, and estimated again. A correction
moves a clip's audio by whole samples (a sixteenth of a millisecond) and trims the clip, so that its first frame again
starts at its first sample. Frames without audio, and audio without frames, are dropped. A correction is kept
only if the corrected clips are in sync when they are measured again. Short clips are measured together with other clips of
the same offset. A positive offset means that the audio is early, as everywhere. Clips of another rate than the syncers' are
resampled to be measured; the corrected copy keeps their rate.
"""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from avsync._checks import check_choice, check_positive, checked
from avsync._files import check_outputs, claims, read_json, replacing
from avsync.corpus.clip import (
    FPS,
    INDEX_NAME,
    SAMPLE_RATE,
    Clip,
    Corpus,
    Entry,
    missing_ranges,
    read_clip,
    resample_clip,
    sample_of_frame,
    write_clip,
    write_index,
)
from avsync.errors import ArgumentError, CorpusError
from avsync.evaluation.answer import OffsetAnswer, confirms, find_offset
from avsync.evaluation.drift import Drift, find_drift
from avsync.evaluation.recording import Recording, recording_report
from avsync.metrics.calibration import Calibration
from avsync.metrics.report import LevelSync
from avsync.models.syncer.interface import MultiScaleSyncer

POOLS = ("auto", "clip", "source", "speaker")
ALONE_SECONDS = 8.0
"""Length in seconds from which "auto" measures a clip separately; shorter clips are pooled."""
SMALLEST_SHIFT = 0.02
"""Smallest offset that is corrected, in seconds: half a frame, about the error of the estimate."""
OUTCOMES = ("corrected", "in sync", "drifts", "cannot tell", "not confirmed", "too short")
"""Outcomes for a clip: the audio is moved; the offset is too small to correct; the audio runs at another speed, so that no
offset is right; no offset is probable enough; the corrected clip is not in sync; or the corrected clip would be empty."""


@dataclass(frozen=True)
class ClipOffset:
    """Offset of one clip and its outcome.

    Attributes:
        id: Name of the clip.
        pool: Name of the pool of clips measured together; the clip's own name if measured separately.
        outcome: One of ``OUTCOMES``.
        offset_seconds: Offset in seconds, positive if the audio is early; None if the offset cannot be determined.
        level: Level that gave the offset.
        probability: Probability that the offset is correct within one frame of the level; None without a calibration.
        shift_samples: Delay of the audio in samples; 0 if the audio was not moved.
        dropped_frames: Number of frames trimmed from the clip.
        after_seconds: Offset of the corrected clips in seconds; None if not measured, or if it cannot be determined.
        drift: Growth of the offset in seconds per second; None if the audio does not drift.
    """

    id: str
    pool: str
    outcome: str
    offset_seconds: float | None
    level: int | None = None
    probability: float | None = None
    shift_samples: int = 0
    dropped_frames: int = 0
    after_seconds: float | None = None
    drift: float | None = None

    @property
    def remaining_seconds(self) -> float | None:
        """Offset of the clip in the corrected corpus, in seconds; None if unknown."""
        return self.after_seconds if self.outcome == "corrected" else self.offset_seconds


@dataclass(frozen=True)
class CleanReport:
    """Offsets of the clips of a corpus.

    Attributes:
        clips: One entry per clip, in the order of the index.
        bad: (id, reason) of clips that cannot be read; the corrected corpus does not contain them.
        out: The corrected corpus; None if none was written.
        fps: Frames per second of the corpus.
    """

    clips: tuple[ClipOffset, ...]
    bad: tuple[tuple[str, str], ...] = ()
    out: Path | None = None
    fps: float = FPS

    def counts(self) -> dict[str, int]:
        """Count the clips with each of ``OUTCOMES``."""
        found = Counter(clip.outcome for clip in self.clips)
        return {outcome: found[outcome] for outcome in OUTCOMES}

    @checked
    def histogram(self, *, after: bool = False) -> dict[int, int]:
        """Count the clips with each offset, in whole frames of the corpus; clips without an offset are left out.

        Args:
            after: Count in the corrected corpus instead of the given corpus.
        """
        seconds = [clip.remaining_seconds if after else clip.offset_seconds for clip in self.clips]
        found = Counter(round(value * self.fps) for value in seconds if value is not None)
        return {frames: found[frames] for frames in range(min(found), max(found) + 1)} if found else {}

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; frames are frames of the corpus."""
        clips = [
            {**vars(clip), "offset_frames": None if clip.offset_seconds is None else clip.offset_seconds * self.fps}
            for clip in self.clips
        ]
        return {
            "out": None if self.out is None else str(self.out),
            "fps": self.fps,
            "outcomes": self.counts(),
            "histogram_frames_before": {str(frames): count for frames, count in self.histogram().items()},
            "histogram_frames_after": {str(frames): count for frames, count in self.histogram(after=True).items()},
            "clips": clips,
            "bad": [list(pair) for pair in self.bad],
        }


@checked
def shift_clip(clip: Clip, samples: int) -> Clip | None:
    """Delay a clip's audio by whole samples, and trim the clip to the frames that have audio.

    Args:
        clip: Clip at any constant rate.
        samples: Delay in samples; negative moves the audio forward. A positive delay corrects a positive offset.

    Returns:
        The clip without the frames that lost audio: the first frames if the audio is delayed, else the last frames. None if no
        frame is left. If a frame is no whole number of samples, the audio is right to a sample.

    Example:
        >>> import numpy as np
        >>> clip = Clip("a", "anna", "val", np.ones((3, 68, 2), np.float32), np.arange(1920, dtype=np.float32) / 2000)
        >>> shifted = shift_clip(clip, 100)
        >>> shifted.frames, float(shifted.waveform[0] * 2000)  # frame 1 of the old clip, at sample 640, now has sample 540
        (2, 540.0)

    Source: ours.
    """
    lost = math.ceil(abs(samples) * clip.fps / SAMPLE_RATE)
    kept = clip.frames - lost
    if kept < 1:
        return None
    first = lost if samples > 0 else 0
    length = sample_of_frame(kept, clip.fps)
    # Rounded times of frames may lack one sample at an end.
    start = min(max(sample_of_frame(first, clip.fps) - samples, 0), clip.waveform.size - length)
    waveform = clip.waveform[start : start + length]
    present = np.ones(clip.waveform.size, dtype=bool)
    for begin, stop in clip.missing_audio:
        present[sample_of_frame(begin, clip.fps) : sample_of_frame(stop, clip.fps)] = False
    missing = missing_ranges(present[start : start + length], kept, clip.fps)
    return replace(clip, landmarks=clip.landmarks[first : first + kept], waveform=waveform, missing_audio=missing)


def pools_of(entries: Sequence[Entry], *, pool: str = "auto", fps: float = FPS) -> dict[str, list[Entry]]:
    """Group the clips that are measured together.

    Args:
        entries: Entries of the index.
        pool: "clip" measures each clip separately, "source" all clips of a video together (by ``source`` or
            ``source_path``), and "speaker" all clips of a speaker together. "auto" measures clips of at least
            ``ALONE_SECONDS`` separately, and pools shorter clips by source, or by speaker if the entries have no source.
        fps: Frames per second of the entries.

    Returns:
        Entries by the name of their pool; pooled clips are assumed to have the same offset.

    Example:
        >>> entries = [{"id": f"a{k}", "frames": 50 + 300 * k, "speaker": "anna"} for k in (0, 0, 1)]
        >>> {name: len(members) for name, members in pools_of(entries).items()}
        {'speaker anna': 2, 'a1': 1}

    Source: ours.
    """
    check_choice("pool", pool, POOLS)
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        source = entry.get("source", entry.get("source_path"))
        alone = pool == "clip" or (pool == "auto" and entry["frames"] >= ALONE_SECONDS * fps)
        if alone:
            name = str(entry["id"])
        elif pool == "speaker" or (pool == "auto" and source is None):
            name = f"speaker {entry['speaker']}"
        else:
            name = str(entry["id"]) if source is None else f"source {source}"
        found.setdefault(name, []).append(entry)
    return found


@checked
def clean_corpus(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    pyramid: MultiScaleSyncer,
    audio_transform: nn.Module,
    calibration: Calibration | None = None,
    uncalibrated: bool = False,
    pool: str = "auto",
    threshold: float = 0.9,
    smallest: float = SMALLEST_SHIFT,
    overwrite: bool = False,
    progress: Callable[[float], None] | None = None,
) -> CleanReport:
    """Estimate the offsets of a corpus, and write a corrected copy.

    Clips whose audio drifts (:func:`avsync.evaluation.drift.find_drift`) have no offset and are copied as they are.

    Args:
        folder: The corpus, at any constant frame rate.
        out: The copy, a folder without files of the same names; None writes nothing. Clips that are not corrected are copied as
            they are. Entries of the index keep their keys; ``sync_shift_ms`` is the delay of the audio.
        pyramid: Trained syncers.
        audio_transform: Their audio features.
        calibration: Of these syncers.
        uncalibrated: Proceed without a calibration; every clip with motion and speech is then corrected by its best offset.
        pool: See :func:`pools_of`.
        threshold: Probability from which an offset counts.
        smallest: Smallest offset that is corrected, in seconds.
        overwrite: Replace files of ``out`` that exist.
        progress: Callback that receives the fraction done, 0 to 1.

    Returns:
        :class:`CleanReport`.

    Raises:
        ArgumentError: No calibration, an impossible option, or a file of the copy exists already or is one of ``folder``.
        CorpusError: The index cannot be read.
        ShapeError: The landmarks do not fit the syncers.

    Source: ours.
    """
    check_positive("smallest", smallest, allow_zero=True)
    if not 0 <= threshold <= 1:
        raise ArgumentError(f"`threshold`: expected a probability from 0 to 1, got {threshold!r}")
    if calibration is None and not uncalibrated:
        raise ArgumentError("`calibration`: expected one, because offsets have no probability without it, got None")

    def measure(recording: Recording) -> list[LevelSync]:
        return recording_report(
            recording, pyramid, audio_transform=audio_transform, calibration=calibration, threshold=threshold
        )

    def drift(recording: Recording) -> Drift | None:
        return find_drift(recording, pyramid, audio_transform=audio_transform)

    source, target = Path(folder), None if out is None else Path(out)
    with claims():
        return _clean_all(source, target, measure, drift, pool=pool, smallest=smallest, overwrite=overwrite, progress=progress)


def _clean_all(
    source: Path,
    target: Path | None,
    measure: Callable[[Recording], list[LevelSync]],
    drift: Callable[[Recording], Drift | None],
    *,
    pool: str,
    smallest: float,
    overwrite: bool,
    progress: Callable[[float], None] | None,
) -> CleanReport:
    corpus = Corpus(source, fps=None)
    if target is not None:
        copies = copy_files(source, target)
        check_outputs([("out", file) for file in copies], inputs=copy_files(source, source), overwrite=overwrite)
        (target / INDEX_NAME).unlink(missing_ok=True)  # the index lists clips that are about to change
    pools = pools_of(corpus.entries, pool=pool, fps=corpus.fps)
    found: dict[str, ClipOffset] = {}
    entries: dict[str, Entry] = {}
    bad: list[tuple[str, str]] = []
    for number, (name, members) in enumerate(pools.items()):
        clips, starts = list[Clip](), list[float]()
        for entry in members:
            try:
                clips.append(read_clip(source, entry, fps=corpus.fps))
            except CorpusError as error:
                bad.append((entry["id"], str(error)))
            else:
                starts += [entry["source_start_sec"]] if isinstance(entry.get("source_start_sec"), int | float) else []
        if clips:
            # The clips of a video share the line of a drift if their times in the video are known.
            together = name.startswith("source ") and len(starts) == len(clips)
            drifting = _drifting(name, clips, starts if together else [], drift)
            offsets, mended = _clean_pool(name, [clip for clip in clips if clip.id not in drifting], measure, smallest)
            offsets |= drifting
            found |= offsets
            if target is not None:
                for entry in members:
                    if entry["id"] in offsets:
                        entries[entry["id"]] = _write(entry, offsets[entry["id"]], mended, source, target)
        if progress is not None:
            progress((number + 1) / len(pools))
    order = [entry["id"] for entry in corpus.entries if entry["id"] in found]
    if target is not None:
        index = read_json(source / INDEX_NAME, error=CorpusError)
        extra = {key: value for key, value in index.items() if key not in ("fps", "sample_rate", "clips")}
        write_index(target, [entries[name] for name in order], fps=corpus.fps, **extra)
    return CleanReport(tuple(found[name] for name in order), tuple(bad), target, corpus.fps)


def copy_files(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> list[Path]:
    """Return the files that a copy of a corpus consists of: its index and two files per clip.

    Args:
        folder: The corpus.
        out: The copy.

    Raises:
        CorpusError: The index cannot be read.

    Source: ours.
    """
    names = [f"{entry['id']}{suffix}" for entry in Corpus(folder, fps=None).entries for suffix in (".npz", ".flac")]
    return [Path(out, name) for name in (INDEX_NAME, *names)]


def _drifting(
    name: str, clips: Sequence[Clip], starts: Sequence[float], drift: Callable[[Recording], Drift | None]
) -> dict[str, ClipOffset]:
    """Return the clips of a pool whose audio drifts: all or none with ``starts`` in one video, else each clip by itself."""
    if starts:
        recordings = [replace(_recording(name, clips), starts=tuple(starts))]
    else:
        recordings = [_recording(name, [clip]) for clip in clips]
    return {
        clip.id: ClipOffset(clip.id, name, "drifts", None, drift=found.rate)
        for recording in recordings
        if (found := drift(recording)) is not None
        for clip in recording.clips
    }


def _clean_pool(
    name: str, clips: Sequence[Clip], measure: Callable[[Recording], list[LevelSync]], smallest: float
) -> tuple[dict[str, ClipOffset], dict[str, Clip]]:
    """Return the offsets of the clips of a pool, and the corrected clips."""
    if not clips:
        return {}, {}
    answer, _ = find_offset(_recording(name, clips), measure)
    offsets = {
        clip.id: ClipOffset(clip.id, name, "in sync", answer.seconds, answer.level, answer.probability) for clip in clips
    }
    if answer.seconds is None or abs(answer.seconds) < smallest:
        outcome = "cannot tell" if answer.seconds is None else "in sync"
        return {key: replace(offset, outcome=outcome) for key, offset in offsets.items()}, {}
    samples = round(answer.seconds * SAMPLE_RATE)
    mended = {clip.id: shifted for clip in clips if (shifted := shift_clip(clip, samples)) is not None}
    after = find_offset(_recording(name, mended.values()), measure)[0] if mended else OffsetAnswer(None)
    confirmed = confirms(answer, after)
    for clip in clips:
        offset = replace(offsets[clip.id], after_seconds=after.seconds)
        if clip.id not in mended:
            offset = replace(offset, outcome="too short", after_seconds=None)
        elif not confirmed:
            offset = replace(offset, outcome="not confirmed")
        else:
            lost = clip.frames - mended[clip.id].frames
            offset = replace(offset, outcome="corrected", shift_samples=samples, dropped_frames=lost)
        offsets[clip.id] = offset
    return offsets, mended


def _recording(name: str, clips: Iterable[Clip]) -> Recording:
    """Return clips of any rate as a recording, whose clips have 25 frames per second."""
    return Recording(name, tuple(resample_clip(clip) for clip in clips))


def _write(entry: Entry, offset: ClipOffset, mended: Mapping[str, Clip], source: Path, target: Path) -> dict[str, Any]:
    """Write a clip of the copy, and return its entry."""
    if offset.outcome != "corrected":
        for suffix in (".npz", ".flac"):
            with replacing(target / f"{offset.id}{suffix}") as part:
                shutil.copyfile(source / f"{offset.id}{suffix}", part)
        return {**entry, "sync_shift_ms": entry.get("sync_shift_ms", 0.0)}
    moved = {key: value for key, value in entry.items() if key != "missing_audio"} | write_clip(mended[offset.id], target)
    # The shifts of repeated cleaning add up.
    moved["sync_shift_ms"] = float(entry.get("sync_shift_ms", 0.0)) + 1000 * offset.shift_samples / SAMPLE_RATE
    if offset.shift_samples > 0 and isinstance(entry.get("source_start_sec"), int | float):
        moved["source_start_sec"] = entry["source_start_sec"] + offset.dropped_frames / mended[offset.id].fps
    return moved
