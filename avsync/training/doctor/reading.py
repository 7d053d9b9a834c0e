"""Reads a corpus that may be broken, and complains about what is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from avsync._files import read_json
from avsync.corpus.clip import FPS, INDEX_NAME, SAMPLE_RATE, Clip, check_clip, is_rate, read_clip, resample_clip
from avsync.errors import CorpusError
from avsync.training.doctor.findings import Finding


def read_entries(folder: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], float, list[Finding]]:
    """The entries of a corpus' index, its frame rate, and complaints about the index.

    Args:
        folder: The corpus.

    Returns:
        Entries that name a clip, frames per second (25 if unknown), and findings. There are no entries if the index cannot be
        read or states an impossible rate.
    """
    path = Path(folder, INDEX_NAME)
    if not os.path.lexists(path):
        words = f"{path} does not exist: the folder is no corpus, or writing it was interrupted."
        return [], FPS, [Finding("error", "index", words)]
    try:
        index = read_json(path, error=CorpusError, message=f"{path} cannot be read")
        clips = index.get("clips") if isinstance(index, dict) else None
        if not isinstance(clips, list):
            raise CorpusError(f"{path} cannot be read: expected an object with a list of `clips`")
    except CorpusError as error:
        return [], FPS, [Finding("error", "index", f"{error}.")]
    findings = []
    fps, sample_rate = index.get("fps"), index.get("sample_rate")
    if not is_rate(fps):
        words = f"{path}: fps is {fps!r}, which is no number of frames per second. Nothing else was checked."
        findings.append(Finding("error", "rate", words))
    if sample_rate != SAMPLE_RATE:
        words = (
            f"{path}: sample_rate is {sample_rate!r}, but syncers need {SAMPLE_RATE} samples per second. Extract the videos "
            "at this rate; do not edit the index, because the clips would play at another speed. Nothing else was checked."
        )
        findings.append(Finding("error", "rate", words))
    if findings:
        return [], FPS, findings
    entries = [entry for entry in clips if isinstance(entry, dict) and {"id", "speaker", "split"} <= set(entry)]
    if len(entries) < len(clips):
        words = f"{len(clips) - len(entries)} entries of {path} lack an id, a speaker or a split."
        findings.append(Finding("error", "index", words))
    if not clips:
        findings.append(Finding("error", "index", f"{path} lists no clip."))
    return entries, float(fps), findings


def read_clips(
    folder: str | os.PathLike[str], entries: Iterable[dict[str, Any]], fps: float, bad: list[Finding]
) -> Iterator[Clip]:
    """Yield each clip that can be read, at 25 frames per second; a finding for every other clip is added to ``bad``.

    Args:
        folder: The corpus.
        entries: From :func:`read_entries`.
        fps: From :func:`read_entries`.
        bad: List to which findings are added.

    Yields:
        The clips.
    """
    for entry in entries:
        try:
            yield resample_clip(read_clip(folder, entry, fps=fps))
        except CorpusError as error:
            bad.append(Finding("error", "damaged", str(error), clips=(str(entry["id"]),)))


def valid_clips(clips: Iterable[Clip], bad: list[Finding]) -> Iterator[Clip]:
    """Yield the clips that conform to the format, at 25 frames per second; a finding for every other is added to ``bad``."""
    for clip in clips:
        try:
            check_clip(clip)
        except CorpusError as error:
            bad.append(Finding("error", "damaged", str(error), clips=(clip.id,)))
        else:
            yield resample_clip(clip)


def check_index(entries: Iterable[dict[str, Any]]) -> list[Finding]:
    """Report duplicate ids and speakers in more than one split.

    Args:
        entries: Index entries with ``id``, ``speaker`` and ``split``.

    Returns:
        Findings.
    """
    seen: set[str] = set()
    twice: list[str] = []
    splits: dict[str, set[str]] = {}
    for entry in entries:
        name = str(entry["id"])
        if name in seen:
            twice.append(name)
        seen.add(name)
        splits.setdefault(str(entry["speaker"]), set()).add(str(entry["split"]))
    findings = []
    if twice:
        findings.append(
            Finding("error", "id_twice", f"{len(twice)} ids occur more than once in the index.", clips=tuple(twice))
        )
    leaking = {speaker: sorted(found) for speaker, found in splits.items() if len(found) > 1}
    if leaking:
        one, where = next(iter(leaking.items()))
        words = (
            f"{len(leaking)} speakers are in more than one split ({one!r} in {' and '.join(where)}): a measurement on "
            "such a split "
            "rewards memorisation. Move each speaker into one split."
        )
        findings.append(Finding("error", "speaker_leakage", words, clips=tuple(leaking)))
    everything = set().union(*splits.values()) if splits else set()
    if len(everything) == 1:
        words = (
            f"there is one split, {next(iter(everything))!r}: without held-out speakers, learning cannot be "
            "distinguished from memorisation."
        )
        findings.append(Finding("note", "one_split", words))
    return findings
