"""Extraction of one video of a corpus: first the clips, then the record."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from avsync.corpus.clip import write_clip
from avsync.corpus.detectors import Detector
from avsync.corpus.extraction import records
from avsync.corpus.extraction.from_video import iter_clips
from avsync.corpus.extraction.jobs import Job
from avsync.corpus.extraction.report import FAILED, VideoReport
from avsync.errors import AvsyncError, ExtraError

Notify = Callable[[float], None]
Outcome = dict[str, Any] | Exception
"""Report of a video in JSON, or the error that ends the run; both can be pickled."""


class Passed:
    """Converter from the processed fraction of a video to increments in bytes, which sum to the size of the video."""

    def __init__(self, size: int, advance: Callable[[int], None]) -> None:
        self._size, self._advance, self._told = size, advance, 0

    def __call__(self, share: float) -> None:
        """Report the processed fraction of the video, from 0 to 1."""
        reached = round(share * self._size)
        if reached > self._told:
            self._advance(reached - self._told)
            self._told = reached


class _Failure(NamedTuple):
    text: str
    trace: str


def extract_job(job: Job, out: Path, detector: Detector, options: Mapping[str, Any], notify: Notify) -> VideoReport:
    """Extract one video into a corpus: first the clips, then the record. Errors of the video are written to the record.

    Raises:
        OSError: The corpus cannot be written; all files of the video are deleted.
        ExtraError: A required package is not installed or cannot be imported.
    """
    records.begin(out, job)
    report = VideoReport(source=job.path)
    clips = iter_clips(
        job.path,
        detector=detector,
        name=job.key,
        speaker=job.speaker,
        split=job.split,
        report=report,
        progress=notify,
        **options,
    )
    failure: _Failure | None = None
    try:
        while failure is None:
            try:
                clip = next(clips, None)
            except ExtraError:
                raise
            except (AvsyncError, OSError) as error:
                failure = _Failure(str(error), "")
                break
            except Exception as error:  # noqa: BLE001 - one failed video must not stop the others; the traceback is recorded
                failure = _Failure(f"{job.path}: unexpected {type(error).__name__}: {error}", traceback.format_exc())
                break
            if clip is None:
                break
            try:
                write_clip(clip, out)
            except ExtraError:
                raise
            except AvsyncError as error:
                failure = _Failure(str(error), "")
        if failure is not None:
            records.remove_unfinished(out, job.key)
            failed = VideoReport(source=job.path, status=FAILED, error=failure.text.removeprefix(f"{job.path}: "))
            failed.warnings = report.warnings
            report = failed
        records.write_record(out, job, report, time=time.time(), traceback=failure.trace if failure else "")
    except BaseException:
        with contextlib.suppress(OSError):  # only the first error is reported
            records.remove_unfinished(out, job.key)
        raise
    finally:
        clips.close()  # type: ignore[attr-defined]
    return report


def attempt_job(job: Job, out: Path, detector: Detector, options: Mapping[str, Any], notify: Notify) -> Outcome:
    """Call :func:`extract_job` in another process: return its report or error in a form that can be sent to the caller."""
    try:
        return extract_job(job, out, detector, options, notify).to_json()
    except AvsyncError as error:
        return error
    except OSError as error:  # FFmpeg's subclass of OSError cannot be pickled
        return OSError(error.errno, str(error.strerror), error.filename)
