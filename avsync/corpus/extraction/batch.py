"""Extraction of many videos into one corpus, with several processes or machines; a failed video does not stop the run.

The record of a video is written after all of its clips (see :mod:`avsync.corpus.extraction.records`). A run may therefore be
interrupted at any time, by Ctrl-C, ``kill -9`` or a full disk, and continued with ``resume``. Finished videos are kept, and
unfinished videos are extracted again.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from avsync._checks import check_choice, check_path, check_positive, check_type
from avsync._files import sweep_temporaries
from avsync.corpus.detectors import Detector, as_detector
from avsync.corpus.detectors.protocol import chosen_detector
from avsync.corpus.extraction import records
from avsync.corpus.extraction._ray import RayCluster
from avsync.corpus.extraction._workers import Engine, Processes, run_jobs
from avsync.corpus.extraction.from_video import check_options, iter_clips
from avsync.corpus.extraction.jobs import Job, find_videos, plan
from avsync.corpus.extraction.report import ExtractionReport, VideoReport
from avsync.corpus.extraction.run_job import Passed, extract_job
from avsync.errors import ArgumentError

OPTIONS = ("fps", "faces", "crop", "min_seconds", "max_seconds", "max_height", "scene_cuts", "audio_track")
"""Options of :func:`avsync.corpus.extraction.from_video.iter_clips` that are the same for all videos of a corpus."""
ENGINES = ("processes", "ray")


class Progress:
    """Interface for progress reports of a run; this class reports nothing. Sizes are in bytes of video files.

    Source: ours.
    """

    def begin(self, videos: int, size: int) -> None:
        """Start the report of a run with ``videos`` videos of ``size`` bytes in total."""

    def advance(self, size: int) -> None:
        """Add ``size`` processed bytes."""

    def finish_video(self, report: VideoReport) -> None:
        """Report a video that is done or has failed."""

    def end(self) -> None:
        """End the report."""


def extract_corpus(
    videos: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    detector: str | Detector = "auto",
    workers: int = 1,
    engine: str = "processes",
    gpus: float = 0.0,
    shard: tuple[int, int] = (1, 1),
    speaker_from: str = "file",
    split: str = "train",
    resume: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> ExtractionReport:
    """Extract videos into a corpus.

    Args:
        videos: Files and folders; see :func:`avsync.corpus.extraction.jobs.find_videos`.
        out: Folder of the corpus; a new folder, or a corpus of this function with the same options, to which videos are added.
        detector: As in :func:`avsync.corpus.extraction.from_video.iter_clips`; with several workers a name, "module:function"
            or an object that can be pickled, because each process creates its own detector.
        workers: Number of videos that are extracted at a time, each in a process of its own; with several processes of this
            machine, a script must guard its code with ``if __name__ == "__main__":``.
        engine: "processes" for processes of this machine, or "ray" for a Ray cluster whose machines have avsync, and the videos
            and ``out`` under the same paths. The cluster is the one that this process is connected to, otherwise the one of
            ``RAY_ADDRESS``, otherwise one that Ray starts on this machine. A video whose process or machine dies is tried
            again, twice at most.
        gpus: Share of a GPU that Ray reserves for each video, such as 0.25; by default none.
        shard: Pair (i, n) that selects the i-th of n shards, from 1; all shards need the same ``videos``. With several shards,
            call :func:`avsync.corpus.extraction.records.merge_records` after all shards are done to write the index.
        speaker_from: Source of the speaker labels: "file", "name" or "folder"; see
            :func:`avsync.corpus.extraction.jobs.speaker_of`.
        split: Label of the split.
        resume: True to keep finished videos; with False, finished videos raise an error.
        progress: Receiver of the progress of the run.
        **options: Options of :func:`avsync.corpus.extraction.from_video.iter_clips`: ``fps``, ``faces``, ``crop``,
            ``min_seconds``, ``max_seconds``, ``max_height``, ``scene_cuts``, ``audio_track``.

    Returns:
        Report on the videos of the shard if there are several shards, otherwise on all videos of the corpus.

    Raises:
        ArgumentError: A path does not exist, ``out`` is not a corpus of this function, or there are finished videos without
            ``resume``.
        MissingExtraError: Ray, or the library of the detector, is not installed.
        OSError: The corpus cannot be written, for example because the disk is full. Finished videos are kept.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from avsync.corpus.clip import Corpus
        >>> from avsync.corpus.media.files import write_video
        >>> face = np.array([[20, 20], [40, 20], [30, 44]], np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     images = (np.full((48, 64, 3), 90, np.uint8) for _ in range(75))
        ...     _ = write_video(Path(folder, "anna_1.mp4"), images, fps=25, waveform=np.zeros(48000, np.float32))
        ...     report = extract_corpus(
        ...         [folder], Path(folder, "corpus"), detector=lambda images: [face] * len(images), speaker_from="name"
        ...     )
        ...     Corpus(Path(folder, "corpus"))[0].speaker, report.failed
        ('anna', [])

    Source: ours.
    """
    check_path("out", out)
    check_type("workers", workers, int)
    check_positive("workers", workers)
    check_choice("engine", engine, ENGINES)
    check_positive("gpus", gpus, allow_zero=True)
    if gpus and engine != "ray":
        raise ArgumentError(f"`gpus`: expected 0 without the engine 'ray', got {gpus!r}")
    check_type("split", split, str)
    check_type("resume", resume, bool)
    check_type("progress", progress, Progress, optional=True)
    folder, quiet = Path(out), progress or Progress()
    found, ignored = find_videos(videos)
    jobs, duplicates = plan(found, speaker_from=speaker_from, split=split, shard=shard)
    check_options(**_complete(options))
    detector = chosen_detector(detector)
    settings = {"detector": _name(detector), **_complete(options)}
    records.claim_folder(folder, settings)
    sweep_temporaries(folder)  # those with long names, which are cut, do not tell their video
    done = {job.key: report for job in jobs if (report := records.finished(folder, job)) is not None}
    if done and not resume:
        raise ArgumentError(
            f"`out`: {len(done)} of the videos are already in {folder} ({next(iter(done.values())).source}, ...); "
            "resume keeps them and does the rest, another folder begins again"
        )
    todo = [job for job in jobs if job.key not in done]
    quiet.begin(len(todo), sum(job.size for job in todo))
    reports = dict(done)
    try:
        for job, report in _run(todo, folder, detector, options, workers, engine, gpus, quiet):
            reports[job.key] = report
            quiet.finish_video(report)
    finally:
        quiet.end()
    everything = records.merge_records(folder) if shard[1] == 1 else [reports[job.key] for job in jobs]
    return ExtractionReport(
        videos=everything,
        kept=[report.source for report in done.values()],
        duplicates=duplicates,
        ignored=[str(path) for path in ignored],
    )


def _complete(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options common to all videos of a corpus, including defaults."""
    defaults = {name: inspect.signature(iter_clips).parameters[name].default for name in OPTIONS}
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ArgumentError(f"`options`: expected some of {', '.join(OPTIONS)}, got {', '.join(unknown)}")
    return {**defaults, **options}


def _name(detector: str | Detector) -> str:
    if isinstance(detector, str):
        return detector
    kind = detector if hasattr(detector, "__qualname__") else type(detector)
    return f"{getattr(kind, '__module__', '')}:{getattr(kind, '__qualname__', '')}"


def _run(
    todo: list[Job],
    out: Path,
    detector: str | Detector,
    options: Mapping[str, Any],
    workers: int,
    engine: str,
    gpus: float,
    progress: Progress,
) -> Iterable[tuple[Job, VideoReport]]:
    if not todo:
        return
    workers = min(workers, len(todo))
    if engine == "ray" or workers > 1:
        chosen: Engine = (
            RayCluster(out, detector, options, gpus) if engine == "ray" else Processes(out, detector, options, workers)
        )
        yield from run_jobs(todo, out, chosen, workers, progress.advance)
        return
    finder = as_detector(detector)
    for job in todo:
        passed = Passed(job.size, progress.advance)
        yield job, extract_job(job, out, finder, options, passed)
        passed(1.0)
