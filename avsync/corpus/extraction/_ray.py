"""Engine that extracts videos on a Ray cluster, one task per video.

Ray begins a task again, on any machine of the cluster, if the process or the machine of the task dies. The task then deletes
what its predecessor left (see :func:`avsync.corpus.extraction.records.begin`), so that the corpus has the same bytes.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from avsync._checks import import_extra
from avsync.corpus.detectors import Detector, as_detector
from avsync.corpus.extraction.jobs import Job
from avsync.corpus.extraction.run_job import Outcome, attempt_job

RETRIES = 2
"""Number of times that a video is begun again after its process died."""
_STOP_SECONDS = 10.0


class RayCluster:
    """Engine on the Ray cluster that this process is connected to, that ``RAY_ADDRESS`` names, or that Ray starts here.

    Args:
        out, detector, options: As in :func:`avsync.corpus.extraction.batch.extract_corpus`.
        gpus: Share of a GPU that Ray reserves for each video.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, out: Path, detector: str | Detector, options: Mapping[str, Any], gpus: float) -> None:
        self._ray = import_extra("ray", "ray")
        self._started = not self._ray.is_initialized()
        if self._started:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            self._ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        errors = self._ray.exceptions
        self._deaths = (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError, errors.ObjectLostError)
        self._work = self._ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_work)
        self._setup = self._ray.put((Path.cwd(), out, detector, dict(options)))
        self._tasks: dict[Future[Outcome], Any] = {}

    def submit(self, job: Job) -> Future[Outcome]:
        """Begin a video when a processor of the cluster is free."""
        task = self._work.remote(self._setup, job)
        future: Future[Outcome] = task.future()
        self._tasks[future] = task
        return future

    def share(self, future: Future[Outcome]) -> float:
        """Return 0, because tasks do not report their progress."""
        del future
        return 0.0

    def outcome(self, future: Future[Outcome]) -> Outcome | None:
        """Return the outcome of a video; None if its process died every time."""
        del self._tasks[future]
        try:
            return future.result()
        except self._deaths:
            return None

    def stop(self) -> None:
        """Cancel what still runs, and disconnect from a cluster to which this engine has connected."""
        for task in self._tasks.values():
            self._ray.cancel(task, force=True)
        wait(self._tasks, timeout=_STOP_SECONDS)
        if self._started:
            self._ray.shutdown()


def _work(setup: tuple[Path, Path, str | Detector, dict[str, Any]], job: Job) -> Outcome:
    """Extract one video in a process of Ray; relative paths count from the folder of the caller."""
    folder, out, detector, options = setup
    with contextlib.chdir(folder):
        finder = _named(detector) if isinstance(detector, str) else as_detector(detector)
        return attempt_job(job, out, finder, options, lambda _: None)


@functools.lru_cache(maxsize=1)
def _named(detector: str) -> Detector:
    """Create a detector once per process."""
    return as_detector(detector)
