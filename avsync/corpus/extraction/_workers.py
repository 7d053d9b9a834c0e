"""Parallel extraction: the loop that hands videos to an engine, and the engine with processes of this machine.

:class:`concurrent.futures.ProcessPoolExecutor` gives up all of its work if one of its processes dies, and does not tell whose
work killed the process. Each worker is therefore an executor of one process: if the process dies, only its video fails.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

import torch

from avsync.corpus.detectors import Detector, as_detector
from avsync.corpus.extraction import records
from avsync.corpus.extraction.jobs import Job
from avsync.corpus.extraction.report import FAILED, VideoReport
from avsync.corpus.extraction.run_job import Outcome, Passed, attempt_job
from avsync.errors import ArgumentError

_NOTIFY_SECONDS = 0.5
_SPAWN = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads in it may hang
_DIED = "the process that worked on it was killed or crashed; it may have run out of memory"


class Engine(Protocol):
    """Interface of an engine that extracts videos in other processes."""

    def submit(self, job: Job) -> Future[Outcome]:
        """Begin a video."""

    def share(self, future: Future[Outcome]) -> float:
        """Return the processed fraction of a video, from 0 to 1; 0 if unknown."""

    def outcome(self, future: Future[Outcome]) -> Outcome | None:
        """Return the outcome of a video that has ended; None if its process died."""

    def stop(self) -> None:
        """End all processes, and return when no process works any more."""


def run_jobs(
    todo: list[Job], out: Path, engine: Engine, count: int, advance: Callable[[int], None]
) -> Iterator[tuple[Job, VideoReport]]:
    """Extract videos, at most ``count`` at a time, and stop the engine at the end.

    Yields:
        Job and report of each video, in order of completion.

    Raises:
        OSError: The corpus cannot be written.
        AvsyncError: The detector cannot be created.
    """
    waiting = deque(todo)
    running: dict[Future[Outcome], tuple[Job, Passed]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < count:
                job = waiting.popleft()
                running[engine.submit(job)] = job, Passed(job.size, advance)
            ended, _ = wait(running, timeout=_NOTIFY_SECONDS, return_when=FIRST_COMPLETED)
            for future, (_, passed) in running.items():
                passed(engine.share(future))
            for future in ended:
                job, passed = running[future]
                outcome = engine.outcome(future)
                if isinstance(outcome, Exception):
                    raise outcome
                del running[future]
                passed(1.0)
                yield job, _lost(job, out) if outcome is None else VideoReport.from_json(outcome)
    finally:
        engine.stop()
        for job, _ in running.values():
            with contextlib.suppress(OSError):  # a failed clean-up must not hide the error that ended the run
                if records.finished(out, job) is None:
                    records.remove_unfinished(out, job.key)


def _lost(job: Job, out: Path) -> VideoReport:
    """Record a video whose process died."""
    records.remove_unfinished(out, job.key)
    report = VideoReport(source=job.path, status=FAILED, error=_DIED)
    records.write_record(out, job, report, time=time.time())
    return report


class Processes:
    """Engine with processes of this machine.

    A pipe connects each process with this one. The process sends its progress, and exits at once when the pipe closes, that is
    when this process stops the engine or dies.
    """

    def __init__(self, out: Path, detector: str | Detector, options: Mapping[str, Any], count: int) -> None:
        self._setup = (out, detector, dict(options), max(1, (os.cpu_count() or 1) // count))
        self._idle: list[_Worker] = []
        self._busy: dict[Future[Outcome], _Worker] = {}

    def submit(self, job: Job) -> Future[Outcome]:
        """Begin a video in an idle process or in a new one."""
        worker = self._idle.pop() if self._idle else _Worker(self._setup)
        future = worker.submit(job)
        self._busy[future] = worker
        return future

    def share(self, future: Future[Outcome]) -> float:
        """Return the last fraction that the process of a video has sent."""
        return self._busy[future].share()

    def outcome(self, future: Future[Outcome]) -> Outcome | None:
        """Return the outcome of a video; a process that died is replaced at the next video."""
        worker = self._busy.pop(future)
        self._idle.append(worker)
        try:
            return future.result()
        except BrokenProcessPool:
            self._idle.remove(worker)
            worker.stop()
            return None

    def stop(self) -> None:
        """End all processes."""
        for worker in [*self._busy.values(), *self._idle]:
            worker.stop()


class _Worker:
    """One process, and the end of its pipe on this side."""

    def __init__(self, setup: tuple[Any, ...]) -> None:
        self._pipe, self._there = _SPAWN.Pipe()
        self._executor = ProcessPoolExecutor(1, mp_context=_SPAWN, initializer=_begin, initargs=(self._there, *setup))
        self._share = 0.0

    def submit(self, job: Job) -> Future[Outcome]:
        self._share = 0.0
        try:
            future = self._executor.submit(_work, job)  # the first call starts the process
        except (AttributeError, TypeError, ValueError, pickle.PicklingError) as error:
            self.stop()
            raise ArgumentError(
                "`detector`: expected a name, 'module:function' or something that can be pickled with several workers, got: "
                f"{error}"
            ) from error
        self._there.close()  # the process has its own copy; with this one the pipe would never end
        return future

    def share(self) -> float:
        with contextlib.suppress(EOFError, OSError):  # of a process that died
            while self._pipe.poll():
                self._share = self._pipe.recv()
        return self._share

    def stop(self) -> None:
        self._pipe.close()
        self._executor.shutdown(wait=True, cancel_futures=True)


_worker: dict[str, Any] = {}
"""State of a process between two videos."""


def _begin(pipe: Any, out: Path, detector: str | Detector, options: dict[str, Any], threads: int) -> None:
    """Prepare a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of the group; the parent handles it
    torch.set_num_threads(threads)
    _worker.update(pipe=pipe, out=out, detector=detector, options=options)
    threading.Thread(target=_exit_with, args=(pipe,), daemon=True).start()


def _exit_with(pipe: Any) -> None:
    """End this process when the other end of the pipe closes."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)


def _work(job: Job) -> Outcome:
    if "finder" not in _worker:
        _worker["finder"] = as_detector(_worker["detector"])
    return attempt_job(job, _worker["out"], _worker["finder"], _worker["options"], _Notifier(_worker["pipe"]))


class _Notifier:
    """Callback that reports the progress of a video to the parent at intervals."""

    def __init__(self, pipe: Any) -> None:
        self._pipe, self._due = pipe, 0.0

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _NOTIFY_SECONDS
            self._pipe.send(float(share))
