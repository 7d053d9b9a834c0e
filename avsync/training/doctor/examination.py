"""Examination of a corpus, which is read once and whose faults are reported in words."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsync._checks import checked, device_of_module
from avsync.corpus.banks.bank import ClipBank
from avsync.corpus.clip import Clip, is_rate
from avsync.errors import ArgumentError, ClipTooShortError
from avsync.metrics.multi_scale import MAX_OFFSETS
from avsync.metrics.offset import sync_offset
from avsync.metrics.report import LEAST_SPEECH
from avsync.models.syncer.interface import MultiScaleSyncer, unit_norm
from avsync.pyramid import FPS
from avsync.training.doctor.alignment import LagScan, check_alignment, check_distances
from avsync.training.doctor.clip_checks import check_facts
from avsync.training.doctor.clip_facts import ClipFacts, clip_facts
from avsync.training.doctor.duplicates import Duplicate, Fingerprint, audio_fingerprint, find_duplicates, motion_fingerprint
from avsync.training.doctor.findings import Finding, by_severity
from avsync.training.doctor.overfit import Overfit, check_overfit, overfit_batch
from avsync.training.doctor.reading import check_index, read_clips, read_entries, valid_clips
from avsync.training.doctor.tracks import clip_tracks

_CROP, _STRIDE, _MARGIN = 80, 80, 16  # frames, of the crops for trained syncers
_OVERFIT_CLIPS = 24  # clips kept for the batch of the overfitting test


@dataclass(frozen=True)
class Examination:
    """Result of an examination.

    Attributes:
        findings: Errors first, then warnings, then notes.
        clips: Clips that could be read.
        speakers: Their speakers.
        minutes: Total length of the clips, in minutes.
        splits: Clips of each split.
        seconds: Duration of each part of the examination, in seconds.
        scan: Lag scan without a trained model, for figures.
        overfit: Result of memorising one batch, if requested and possible.
    """

    findings: tuple[Finding, ...]
    clips: int = 0
    speakers: int = 0
    minutes: float = 0.0
    splits: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    scan: LagScan | None = None
    overfit: Overfit | None = None

    @property
    def healthy(self) -> bool:
        """Return whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the examination as plain JSON types."""
        findings = [
            {
                "severity": one.severity,
                "code": one.code,
                "message": one.message,
                "clips": list(one.clips),
                "numbers": one.numbers,
            }
            for one in self.findings
        ]
        lags = None
        if self.scan is not None and self.scan.seconds:
            lags = {"frames": self.scan.lags.tolist(), "correlation": self.scan.curve().tolist()}
        return {
            "healthy": self.healthy,
            "clips": self.clips,
            "speakers": self.speakers,
            "minutes": round(self.minutes, 2),
            "splits": self.splits,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "findings": findings,
            "lag_scan": lags,
            "overfit": None if self.overfit is None else self.overfit._asdict(),
        }


class _Clock:
    """Total time of each part of a loop."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Note the time of a block."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begin

    def through(self, name: str, items: Iterable[Clip]) -> Iterator[Clip]:
        """The items; the time that getting them takes is noted."""
        iterator = iter(items)
        while True:
            with self.timing(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item


@checked
def examine(
    corpus: str | os.PathLike[str] | Iterable[Clip],
    *,
    syncers: MultiScaleSyncer | None = None,
    features: nn.Module | None = None,
    overfit_seconds: float = 0.0,
    split: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Examination:
    """Check a corpus before training. The corpus is read once, clip by clip, and need not fit in memory.

    Clips of another rate are resampled to 25 frames per second to be measured. Offsets are reported in frames of the corpus.

    Args:
        corpus: A corpus folder, or clips of one rate.
        syncers: Trained syncers, whose finest level also measures the alignment of speakers; they need ``features``.
        features: Features of the syncers and of the overfitting, such as :class:`avsync.audio.features.LogMel`.
        overfit_seconds: Longest time for memorising one batch, in seconds; 0 skips the test.
        split: Clips of this split only; leaks and duplicates across splits are not found then.
        progress: Called after each clip with the number of clips done and in total (0 if unknown).

    Returns:
        The findings and the measurements they are based on.

    Example:
        >>> from avsync.corpus.synthetic.talker import SyntheticCorpus
        >>> examination = examine(SyntheticCorpus(speakers=1, clips_per_speaker=1, seconds=4.0))
        >>> examination.healthy, examination.clips, [finding.code for finding in examination.findings]
        (True, 2, ['too_short_to_align'])

    Source: ours.
    """
    clock = _Clock()
    clips, total, fps, findings = _opened(corpus, split)
    facts, scan = list[ClipFacts](), LagScan(fps)
    audios, motions = list[Fingerprint](), list[Fingerprint]()
    judged: list[tuple[str, Tensor]] = []
    kept: list[Clip] = []
    for clip in clock.through("reading", clips):
        with clock.timing("measuring"):
            tracks = clip_tracks(clip)
            facts.append(clip_facts(clip, tracks))
        with clock.timing("lag scan"):
            scan.add(tracks, speaker=clip.speaker)
        with clock.timing("fingerprints"):
            audios.append(audio_fingerprint(tracks))
            motions.append(motion_fingerprint(clip, tracks))
        if syncers is not None and features is not None:
            with clock.timing("syncers"):
                judged += _judge(clip, syncers, features)
        if overfit_seconds and clip.frames >= 9 and _worth_keeping(kept, clip):
            kept = [*kept[-_OVERFIT_CLIPS + 1 :], clip]
        if progress is not None:
            progress(len(facts), total)
    if not isinstance(corpus, str | os.PathLike):
        findings += _index_findings([{"id": one.id, "speaker": one.speaker, "split": one.split} for one in facts], split)
    if not facts and not any(finding.severity == "error" for finding in findings):
        findings.append(Finding("error", "empty", "there is no clip."))
    findings += check_facts(facts)
    with clock.timing("fingerprints"):
        findings += check_duplicates(facts, find_duplicates(motions), find_duplicates(audios))
    if facts:
        findings += check_alignment(scan)
    if judged:
        findings += check_distances(
            [speaker for speaker, _ in judged], torch.stack([row for _, row in judged]).double().numpy(), fps=fps
        )
    elif syncers is not None and facts:
        words = f"no clip has {_CROP + 2 * _MARGIN} frames of the points that the syncers need, with speech in them."
        findings.append(Finding("note", "syncers_unused", words))
    overfitted = None
    if overfit_seconds and kept and features is not None:
        with clock.timing("overfitting"):
            overfitted, found = _overfit(kept, features, overfit_seconds)
        findings += found
    return Examination(
        findings=by_severity(findings),
        clips=len(facts),
        speakers=len({one.speaker for one in facts}),
        minutes=sum(one.frames for one in facts) / FPS / 60,
        splits={name: sum(one.split == name for one in facts) for name in sorted({one.split for one in facts})},
        seconds=clock.seconds,
        scan=scan if facts else None,
        overfit=overfitted,
    )


def _opened(
    corpus: str | os.PathLike[str] | Iterable[Clip], split: str | None
) -> tuple[Iterator[Clip], int, float, list[Finding]]:
    """Return the clips, their number (0 if unknown), their rate, and the findings, which grow while the clips are read."""
    if isinstance(corpus, str | os.PathLike):
        entries, fps, findings = read_entries(Path(corpus))
        chosen = [entry for entry in entries if split is None or entry["split"] == split]
        if entries and not chosen:
            splits = sorted({str(entry["split"]) for entry in entries})
            findings.append(Finding("error", "no_split", f"no clip is in split {split!r}; there are {splits}."))
        findings += _index_findings(chosen, split)
        return read_clips(corpus, chosen, fps, findings), len(chosen), fps, findings
    if hasattr(corpus, "shape"):
        raise ArgumentError(f"`corpus`: expected a folder or clips, got {type(corpus).__name__}")
    given, findings = (clip for clip in corpus if split is None or clip.split == split), list[Finding]()
    first = next(given, None)
    fps = first.fps if isinstance(first, Clip) and is_rate(first.fps) else FPS
    return valid_clips(itertools.chain([] if first is None else [first], given), findings), 0, fps, findings


def _index_findings(entries: list[dict[str, Any]], split: str | None) -> list[Finding]:
    """Return findings about ids, speakers and splits; a single split is no finding if ``split`` selects one."""
    return [finding for finding in check_index(entries) if split is None or finding.code != "one_split"]


def _worth_keeping(kept: list[Clip], clip: Clip) -> bool:
    """Long clips of different speakers make the fairest batch; a few of them are enough."""
    if len(kept) < _OVERFIT_CLIPS:
        return True
    return clip.frames >= 80 and clip.speaker not in {other.speaker for other in kept} and kept[0].frames < 80


@torch.no_grad()
def _judge(clip: Clip, syncers: MultiScaleSyncer, features: nn.Module) -> list[tuple[str, Tensor]]:
    """Distances of a clip's crops at every offset of level 0."""
    faces = (syncers.landmark_points, syncers.landmark_dims)
    if clip.frames < _CROP + 2 * _MARGIN or clip.landmarks.shape[1:] != faces:
        return []
    crops = ClipBank([clip], features=features).windows(_CROP, stride=_STRIDE, margin=_MARGIN)
    crops = crops.select(crops.speech_fraction >= LEAST_SPEECH).to(device_of_module(syncers))
    if not len(crops):
        return []
    motion, audio = (
        unit_norm(embedded[0])
        for embedded in (syncers.embed_motion(crops.landmarks, levels=[0]), syncers.embed_audio(crops.audio, levels=[0]))
    )
    found = sync_offset(motion, audio, max_offset=MAX_OFFSETS[0], lead=_MARGIN)
    return [(clip.speaker, row) for row in found.distances.cpu()]


def _overfit(clips: list[Clip], features: nn.Module, seconds: float) -> tuple[Overfit | None, list[Finding]]:
    shape = clips[0].landmarks.shape[1:]
    bank = ClipBank([clip for clip in clips if clip.landmarks.shape[1:] == shape], features=features)
    try:
        result = overfit_batch(bank, seconds=seconds)
    except ClipTooShortError as error:
        return None, [Finding("warning", "overfit_short", f"no batch could be overfitted: {error}")]
    return result, check_overfit(result)


def check_duplicates(facts: list[ClipFacts], by_motion: list[Duplicate], by_audio: list[Duplicate]) -> list[Finding]:
    """Report duplicate footage.

    Args:
        facts: Facts of every clip, in the order of the fingerprints.
        by_motion: Pairs with the same motion.
        by_audio: Pairs with the same audio.

    Returns:
        Findings: pairs across splits are errors, others warnings.
    """
    findings = []
    audio = {(pair.first, pair.second): pair.seconds for pair in by_audio}
    motion = {(pair.first, pair.second): pair.seconds for pair in by_motion}
    both, only_audio, only_motion = audio.keys() & motion.keys(), audio.keys() - motion.keys(), motion.keys() - audio.keys()
    kinds = (
        (both, "audio and face"),
        (only_audio, "audio, but not the same face (dubbed, or landmarks of another detection)"),
        (only_motion, "face, but not the same audio (audio of another clip, or another language)"),
    )
    for pairs, what in kinds:
        for across, severity, code in ((True, "error", "duplicates_across_splits"), (False, "warning", "duplicates")):
            chosen = [pair for pair in sorted(pairs) if (facts[pair[0]].split != facts[pair[1]].split) == across]
            if not chosen:
                continue
            longest = max(chosen, key=lambda pair: max(audio.get(pair, 0.0), motion.get(pair, 0.0)))
            length = max(audio.get(longest, 0.0), motion.get(longest, 0.0))
            one, other = (facts[number].id for number in longest)
            where = "in different splits, so that validation measures memorisation; " if across else ""
            labels = sum(facts[a].speaker != facts[b].speaker for a, b in chosen)
            whose = f"{labels} of the pairs have different speakers; " if labels else ""
            words = (
                f"{len(chosen)} pairs of clips have the same {what}: {where}{whose}the longest is {length:.1f} s of "
                f"{one} and {other}."
            )
            names = tuple(dict.fromkeys(facts[number].id for pair in chosen for number in pair))
            findings.append(
                Finding(severity, code, words, clips=names, numbers={"pairs": [[facts[a].id, facts[b].id] for a, b in chosen]})
            )
    return findings
