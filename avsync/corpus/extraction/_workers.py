"""Processes that extract videos in parallel. If a process dies, only its current video fails."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avsync.corpus.detectors import Detector, as_detector
from avsync.corpus.extraction import records
from avsync.corpus.extraction.jobs import Job
from avsync.corpus.extraction.report import FAILED, VideoReport
from avsync.corpus.extraction.run_job import Passed, extract_job
from avsync.errors import ArgumentError, AvsyncError

_NOTIFY_SECONDS = 0.5
_SPAWN = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads in it may hang


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: Any
    task: tuple[Job, Passed] | None = None


def run_workers(
    todo: list[Job],
    out: Path,
    detector: str | Detector,
    options: Mapping[str, Any],
    count: int,
    advance: Callable[[int], None],
) -> Iterator[tuple[Job, VideoReport]]:
    """Extract videos in ``count`` processes.

    Yields:
        Job and report of each video, in order of completion.

    Raises:
        OSError: The corpus cannot be written.
        AvsyncError: The detector cannot be created.
    """
    waiting = deque(todo)
    workers: list[_Worker] = []
    try:
        workers += [_start(out, detector, options, count) for _ in range(count)]
        for worker in workers:
            _give(worker, waiting, advance)
        while busy := {worker.pipe: worker for worker in workers if worker.task is not None}:
            for pipe in multiprocessing.connection.wait(list(busy)):
                worker = busy[pipe]
                ended = _hear(worker, out)
                if ended is None:
                    continue
                worker.task = None
                if waiting and not worker.process.is_alive():
                    place = workers.index(worker)
                    worker = workers[place] = _start(out, detector, options, count)
                _give(worker, waiting, advance)
                yield ended
    finally:
        _stop(workers, out)


def _start(out: Path, detector: str | Detector, options: Mapping[str, Any], count: int) -> _Worker:
    here, there = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_work, args=(there, os.getpid(), out, detector, dict(options), count), daemon=True)
    try:
        process.start()
    except (AttributeError, TypeError, ValueError) as error:  # errors of pickling
        raise ArgumentError(
            "`detector`: expected a name, 'module:function' or something that can be pickled with several workers, got: "
            f"{error}"
        ) from error
    finally:
        there.close()
    return _Worker(process, here)


def _give(worker: _Worker, waiting: deque[Job], advance: Callable[[int], None]) -> None:
    if not waiting:
        return
    job = waiting.popleft()
    worker.task = (job, Passed(job.size, advance))
    with contextlib.suppress(OSError):  # a dead worker is detected at the end of its pipe
        worker.pipe.send(job)


def _hear(worker: _Worker, out: Path) -> tuple[Job, VideoReport] | None:
    """Receive one message of a worker that has a task; return job and report if the message ends the video."""
    if worker.task is None:
        return None
    job, passed = worker.task
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(10)
        code = worker.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"status {code}"
        records.remove_unfinished(out, job.key)
        error = f"the process that worked on it ended with {how}; it may have run out of memory"
        report = VideoReport(source=job.path, status=FAILED, error=error)
        records.write_record(out, job, report, time=time.time())
        passed(1.0)
        return job, report
    if isinstance(message, float):
        passed(message)
        return None
    if isinstance(message, BaseException):
        raise message
    passed(1.0)
    return job, VideoReport.from_json(message)


def _stop(workers: list[_Worker], out: Path) -> None:
    for worker in workers:
        worker.pipe.close()  # ends an idle worker
        if worker.task is not None:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        if worker.task is not None:
            with contextlib.suppress(OSError):  # a failed clean-up must not hide the error that ended the run
                records.remove_unfinished(out, worker.task[0].key)


def _work(pipe: Any, parent: int, out: Path, detector: str | Detector, options: dict[str, Any], count: int) -> None:
    """Run a worker until its pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of the group; the parent handles it
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    try:
        finder = as_detector(detector)
        while True:
            job = pipe.recv()
            pipe.send(extract_job(job, out, finder, options, _Notifier(pipe, parent)).to_json())
    except (EOFError, BrokenPipeError):  # the parent has no more jobs or has ended
        pass
    except AvsyncError as error:
        _tell(pipe, error)
    except OSError as error:  # FFmpeg's subclass of OSError cannot be pickled
        _tell(pipe, OSError(error.errno, str(error.strerror), error.filename))


def _tell(pipe: Any, error: BaseException) -> None:
    with contextlib.suppress(OSError):
        pipe.send(error)


class _Notifier:
    """Callback that reports the progress of a video to the parent at intervals, and exits if the parent has ended."""

    def __init__(self, pipe: Any, parent: int) -> None:
        self._pipe, self._parent, self._due = pipe, parent, 0.0

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _NOTIFY_SECONDS
        try:
            self._pipe.send(float(share))
        except OSError as error:
            raise SystemExit(1) from error
        if os.getppid() != self._parent:
            raise SystemExit(1)
