"""Resources that belong to the process that opened them: decoders, their threads, mediapipe's graphs.

A forked process inherits such an object in the state of that moment, without its threads and with a file position that it shares with its
parent: it reads wrong data or waits forever. The object remembers its process instead, and raises in any other.
"""

from __future__ import annotations

import gc
import os
import weakref
from typing import Any, NoReturn

from avsync.errors import ArgumentError

_bound: weakref.WeakSet[ProcessBound] = weakref.WeakSet()
# Decoders that a fork has inherited: freeing one would wait for threads that only the parent has.
_inherited: list[Any] = []


class ProcessBound:
    """Base class of objects that work only in the process that made them, and cannot be pickled."""

    _process: int
    _used = False
    #: What to do instead, for the messages.
    _remedy = "open it in each process, for example at the first use inside a DataLoader worker"

    def _bind_process(self) -> None:
        """Remember this process as the owner."""
        self._process = os.getpid()
        ProcessBound._used = True
        _bound.add(self)

    @property
    def _is_inherited(self) -> bool:
        """Return whether this object came here by a fork."""
        return os.getpid() != self._process

    def _check_process(self) -> None:
        """Raise :class:`ArgumentError` in any process but the owner."""
        if self._is_inherited:
            raise ArgumentError(
                f"`{type(self).__name__}`: expected to be used in the process that made it ({self._process}), got a fork of it "
                f"({os.getpid()}), in which its decoder or threads do not work; {self._remedy}"
            )

    def __reduce_ex__(self, protocol: Any, /) -> NoReturn:
        """Refuse to be pickled, which DataLoader workers that are spawned would do."""
        raise ArgumentError(
            f"`{type(self).__name__}`: expected to stay in one process, got a request to pickle or copy it; {self._remedy}"
        )


def _keep_inherited() -> None:
    """Never free an inherited decoder, neither a live one nor one that waits as garbage for its collection."""
    if ProcessBound._used:
        _inherited.extend(vars(thing).copy() for thing in _bound)
        gc.freeze()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited)
