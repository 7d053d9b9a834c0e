"""Records of the videos of an extraction, which allow an extraction to be interrupted, resumed and distributed over machines.

In addition to its clips, a corpus of ``avsync extract`` contains

* ``extraction.json``: the settings, common to all videos;
* ``extraction/<key>.json``: one record per video, written after the last clip of the video. A video without a record is not
  finished, even if some of its clips exist. :func:`merge_records` writes ``index.json`` from the records of finished videos.
  Clips that are not in the index are never read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avsync._files import make_folder, read_json, untrusted, write_json
from avsync.corpus.clip import INDEX_NAME, is_rate, write_index
from avsync.corpus.extraction.jobs import Job
from avsync.corpus.extraction.report import DONE, VideoReport, typed
from avsync.errors import ArgumentError, CorpusError

RECORDS = "extraction"
SETTINGS = "extraction.json"


def _record_path(out: Path, key: str) -> Path:
    return out / RECORDS / f"{key}.json"


def read_record(path: Path) -> tuple[Job, VideoReport, float]:
    """Read the job, report and time (seconds since 1970) of a record.

    Raises:
        CorpusError: The record is damaged.
    """
    message = f"{path}: expected the record of a video, got"
    values = read_json(path, error=CorpusError, message=message)
    with untrusted(CorpusError, message):
        report = VideoReport.from_json(values["report"])
        return typed(Job, values["job"]), report, float(values["time"])


def write_record(out: Path, job: Job, report: VideoReport, *, time: float, traceback: str = "") -> None:
    """Write the record of a video atomically, which marks the video as finished."""
    more = {"traceback": traceback} if traceback else {}
    write_json(_record_path(out, job.key), {"job": asdict(job), "time": time, "report": report.to_json(), **more})
    _marker(out, job.key).unlink(missing_ok=True)


def finished(out: Path, job: Job) -> VideoReport | None:
    """Return the report of a finished video whose clips all exist, otherwise None; the labels in the record are updated."""
    path = _record_path(out, job.key)
    if not path.is_file():
        return None
    try:
        before, report, time = read_record(path)
    except CorpusError:
        return None
    if report.status != DONE or not all(
        (out / f"{clip.id}{end}").is_file() for clip in report.clips for end in (".npz", ".flac")
    ):
        return None
    if before != job:
        report.source = job.path
        write_record(out, job, report, time=time)
    # A run that was killed right after its last write leaves a marker, although the video is finished.
    _marker(out, job.key).unlink(missing_ok=True)
    return report


def begin(out: Path, job: Job) -> None:
    """Mark a video as in progress, and delete the files of an interrupted run."""
    marker = _marker(out, job.key)
    if marker.exists() or _record_path(out, job.key).exists():
        remove_unfinished(out, job.key)
    make_folder(marker.parent)
    marker.touch()


def remove_unfinished(out: Path, key: str) -> None:
    """Delete all files of one video: first the record, then clips and temporary files (:func:`avsync._files.replacing`)."""
    _record_path(out, key).unlink(missing_ok=True)
    name = rf"{re.escape(key)}(_\d{{3,}})?"
    mine = re.compile(rf"({name}|\.{name}-[0-9a-f]{{8}}-\d+-\w+)\.(npz|flac|json)")
    for folder in (out, out / RECORDS):
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if mine.fullmatch(entry.name)]
        for name in names:
            Path(folder, name).unlink(missing_ok=True)
    _marker(out, key).unlink(missing_ok=True)


def _marker(out: Path, key: str) -> Path:
    return out / RECORDS / f"{key}.begun"


def claim_folder(out: Path, settings: Mapping[str, Any]) -> None:
    """Reserve a folder for an extraction with the given settings.

    Raises:
        ArgumentError: The folder contains another kind of corpus, or an extraction with other settings.
    """
    path = out / SETTINGS
    foreign = [name for name in (SETTINGS, INDEX_NAME) if os.path.lexists(out / name)]
    if foreign and not is_extraction(out):
        raise ArgumentError(
            f"`out`: expected a new folder or one of avsync extract, got {out} with {foreign[0]} of other making"
        )
    if not any((out / RECORDS).glob("*")):  # settings of a run without records may be replaced
        write_json(path, dict(settings))
        return
    before = read_settings(out)
    other = [
        f"{key} = {before.get(key)!r}, not {settings.get(key)!r}"
        for key in {**before, **settings}
        if before.get(key) != settings.get(key)
    ]
    if other:
        raise ArgumentError(f"`out`: {out} was begun with other settings: {'; '.join(other)}; choose another folder")


def is_extraction(out: Path) -> bool:
    """Return whether a folder holds the settings of an extraction."""
    try:
        return "detector" in read_settings(out)
    except (CorpusError, OSError):
        return False


def read_settings(out: Path) -> dict[str, Any]:
    """Return the settings of an extraction.

    Raises:
        CorpusError: The folder is not a corpus of ``avsync extract``.
    """
    path = out / SETTINGS
    if not path.exists():
        raise CorpusError(f"{path}: expected the settings of an extraction, found no file")
    settings = read_json(path, error=CorpusError, message=f"{path}: expected the settings of an extraction, got")
    if not isinstance(settings, dict) or not is_rate(settings.get("fps")):
        raise CorpusError(f"{path}: expected the settings of an extraction, got none")
    return settings


def merge_records(out: str | os.PathLike[str]) -> list[VideoReport]:
    """Write ``index.json`` from the records of all finished videos.

    A video whose file was replaced has two records, and the later record is used. Entries that later steps have added to the
    index of a clip (keys that an extraction does not write) are kept.

    Args:
        out: Folder of the corpus.

    Returns:
        Reports of all videos, including failed videos, sorted by name.

    Raises:
        CorpusError: The folder is not a corpus of ``avsync extract``, a record is damaged, or a speaker is in two splits.

    Source: ours.
    """
    folder = Path(out)
    settings = read_settings(folder)
    latest: dict[str, tuple[Job, VideoReport, float]] = {}
    for path in sorted((folder / RECORDS).glob("[!.]*.json")):
        record = read_record(path)
        source = str(Path(record[0].path).absolute())
        if source not in latest or latest[source][2] <= record[2]:
            latest[source] = record
    chosen = sorted(latest.values(), key=lambda record: record[0].key)
    noted = _index_entries(folder)
    entries = [
        {**{key: value for key, value in noted.get(clip["id"], {}).items() if key != "missing_audio"}, **clip}
        for job, report, _ in chosen
        if report.status == DONE
        for clip in index_entries(job, report)
    ]
    write_index(folder, entries, fps=settings["fps"], extraction=settings)
    return sorted((report for _, report, _ in chosen), key=lambda report: report.source)


def index_entries(job: Job, report: VideoReport) -> list[dict[str, Any]]:
    """Return the index entries of the clips of a video."""
    several = len({clip.person for clip in report.clips}) > 1
    return [
        {
            "id": clip.id,
            "seconds": clip.seconds,
            "frames": clip.frames,
            "speaker": f"{job.speaker}_p{clip.person}" if several else job.speaker,
            "split": job.split,
            "source": Path(job.path).name,
            "source_start_sec": clip.start,
            "native_fps": clip.native_fps,
            "native_resolution": [report.width, report.height],
            "face_height_px": clip.face_height,
            "crop_box": list(clip.crop_box),
            "rms_db": clip.rms_db,
            "started": clip.started,
            "ended": clip.ended,
            "audio_seconds": clip.audio_seconds,
            **({"missing_audio": [list(part) for part in clip.missing_audio]} if clip.missing_audio else {}),
        }
        for clip in report.clips
    ]


def _index_entries(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        index = read_json(folder / INDEX_NAME, error=CorpusError, most_bytes=1 << 28)
        with untrusted(CorpusError, INDEX_NAME):
            return {entry["id"]: dict(entry) for entry in index["clips"]}
    except CorpusError:  # no index, or an index that will be replaced
        return {}
