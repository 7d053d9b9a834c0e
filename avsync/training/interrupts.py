"""Stopping a training run between two steps: Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class TrainingInterrupted(KeyboardInterrupt):
    """A training run was stopped by a signal, after its state was saved.

    Derives from :class:`KeyboardInterrupt`, because a loop that catches :class:`Exception` must not swallow Ctrl-C.

    Args:
        message: Step at which the run stopped and how to continue.
        number: Number of the signal.
    """

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.number = number

    @property
    def exit_status(self) -> int:
        """Exit status by which a shell reports the signal."""
        return 128 + self.number


class StopSignals:
    """Context in which SIGINT and SIGTERM are noted instead of interrupting a step that is half done.

    A second signal interrupts at once. Signal handlers exist only in the main thread; in other threads nothing is changed.

    Attributes:
        received: Number of the received signal; None before any.

    Example:
        >>> with StopSignals() as signals:
        ...     signal.raise_signal(signal.SIGINT)
        ...     signals.received == signal.SIGINT
        True
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        self._put_back()

    def _put_back(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def __enter__(self) -> Self:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        """Put the earlier handlers back."""
        self._put_back()
