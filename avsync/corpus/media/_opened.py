"""Base of the readers of media files: an open container, its decoder, and the warnings about its damage."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from avsync._checks import check_path
from avsync.corpus._process import ProcessBound
from avsync.corpus.media.info import failures, open_media, reason
from avsync.errors import ArgumentError, CorpusError


class OpenedMedia(ProcessBound):
    """Media file that one process has open and decodes.

    Args:
        path: Any file that FFmpeg reads.

    Raises:
        CorpusError: The file cannot be read.
    """

    _decoded: Iterator[Any]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(check_path("path", path))
        self._damage: Counter[str] = Counter()
        self._closed = False
        self._bind_process()
        self._container = open_media(path)

    @contextmanager
    def _opening(self, expected: str) -> Iterator[None]:
        """Close the file if the block fails, and name the file in errors of FFmpeg."""
        try:
            yield
        except failures() as error:
            self._container.close()
            raise CorpusError(f"{self.path}: expected {expected}, got: {reason(error)}") from error
        except BaseException:
            self._container.close()
            raise

    def _check_open(self, method: str) -> None:
        """Raise :class:`ArgumentError` in another process and after :meth:`close`."""
        self._check_process()
        if self._closed:
            raise ArgumentError(f"`{method}`: expected an open {type(self).__name__}, got a closed one ({self.path})")

    def close(self) -> None:
        """Close the file; in a forked process only the parent closes the file. Results returned earlier stay usable."""
        self._closed = True
        if self._is_inherited:
            return
        self._decoded.close()  # type: ignore[attr-defined]
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
