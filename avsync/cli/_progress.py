"""Progress on standard error. It is shown where messages of level INFO are, so that `--quiet` and a logging level hide it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from avsync._checks import import_extra
from avsync.corpus.extraction.batch import Progress
from avsync.corpus.extraction.report import VideoReport
from avsync.errors import MissingExtraError

_messages = logging.getLogger("avsync.cli")
_LONGEST_NAME = 60


def shows_progress() -> bool:
    """Return True if messages of level INFO are shown."""
    return _messages.isEnabledFor(logging.INFO)


def progress_line(name: str) -> Callable[..., None] | None:
    """Return a function that shows the share ``done / total`` in a line of a terminal; None without a terminal or if quiet."""
    if not (shows_progress() and sys.stderr.isatty()):
        return None
    name, last = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}...", [-1]

    def show(done: float, total: float = 1.0) -> None:
        percent = int(100 * done / total)
        if percent != last[0]:
            last[0] = percent
            sys.stderr.write(f"\r{name}: {percent} %" + ("\r\033[K" if percent >= 100 else ""))
            sys.stderr.flush()

    return show


def extraction_progress() -> Progress:
    """Return the progress display of an extraction: a bar on a terminal, else one message per video."""
    if not (shows_progress() and sys.stderr.isatty()):
        return _Lines()
    try:
        return _Bar()
    except MissingExtraError:
        return _Lines()


class _Lines(Progress):
    """Progress as one message per video, for logs and without tqdm."""

    def begin(self, videos: int, size: int) -> None:
        self._total, self._done = videos, 0
        _messages.info("%d videos to extract, %.0f MB", videos, size / 1e6)

    def finish_video(self, report: VideoReport) -> None:
        self._done += 1
        level = logging.INFO if report.status == "done" else logging.WARNING
        _messages.log(level, "[%d/%d] %s", self._done, self._total, report.line())


class _Bar(Progress):
    """Progress bar over the bytes of the videos, with the remaining time; failures are reported above the bar."""

    def __init__(self) -> None:
        self._tqdm = import_extra("tqdm.auto", "train").tqdm

    def begin(self, videos: int, size: int) -> None:
        self._videos, self._done, self._failed = videos, 0, 0
        self._bar = self._tqdm(
            total=max(1, size), unit="B", unit_scale=True, file=sys.stderr, desc=f"0/{videos} videos", dynamic_ncols=True
        )

    def advance(self, size: int) -> None:
        self._bar.update(size)

    def finish_video(self, report: VideoReport) -> None:
        self._done += 1
        if report.status != "done":
            self._failed += 1
            with self._tqdm.external_write_mode(file=sys.stderr):
                _messages.warning("%s", report.line())
        failed = f", {self._failed} failed" if self._failed else ""
        self._bar.set_description(f"{self._done}/{self._videos} videos{failed}")

    def end(self) -> None:
        self._bar.close()
