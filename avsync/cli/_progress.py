"""The progress of an extraction on standard error."""

from __future__ import annotations

import sys

from avsync._checks import import_extra
from avsync.corpus.extraction.batch import Progress
from avsync.corpus.extraction.report import VideoReport
from avsync.errors import MissingExtraError


def extraction_progress(*, quiet: bool) -> Progress | None:
    """Return the progress display of an extraction: a bar on a terminal, else one line per video; None if quiet."""
    if quiet:
        return None
    if not sys.stderr.isatty():
        return _Lines()
    try:
        return _Bar()
    except MissingExtraError:
        return _Lines()


class _Lines(Progress):
    """Progress as one line per video, for logs and without tqdm."""

    def begin(self, videos: int, size: int) -> None:
        self._total, self._done = videos, 0
        print(f"{videos} videos to extract, {size / 1e6:.0f} MB", file=sys.stderr)

    def finish_video(self, report: VideoReport) -> None:
        self._done += 1
        print(f"[{self._done}/{self._total}] {report.line()}", file=sys.stderr, flush=True)


class _Bar(Progress):
    """Progress bar over the bytes of the videos, with the remaining time; failures are printed above the bar."""

    def __init__(self) -> None:
        self._tqdm = import_extra("tqdm.auto", "train").tqdm

    def begin(self, videos: int, size: int) -> None:
        self._videos, self._done, self._failed = videos, 0, 0
        self._bar = self._tqdm(total=max(1, size), unit="B", unit_scale=True, file=sys.stderr, desc=f"0/{videos} videos")

    def advance(self, size: int) -> None:
        self._bar.update(size)

    def finish_video(self, report: VideoReport) -> None:
        self._done += 1
        if report.status != "done":
            self._failed += 1
            self._tqdm.write(report.line(), file=sys.stderr)
        failed = f", {self._failed} failed" if self._failed else ""
        self._bar.set_description(f"{self._done}/{self._videos} videos{failed}")

    def end(self) -> None:
        self._bar.close()
