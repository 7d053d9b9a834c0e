"""Resources that work only in the process that opened them: decoders, their threads, and graphs of mediapipe.

A forked process inherits such an object without its threads, and shares the file position with the parent process. The object
would read wrong data or wait forever. It therefore stores the id of its process, and raises an error in any other process.
"""

from __future__ import annotations

import gc
import os
import weakref
from typing import Any, NoReturn

from avsync.errors import ArgumentError

_bound: weakref.WeakSet[ProcessBound] = weakref.WeakSet()
# Decoders that a fork has inherited: freeing one would wait for threads that exist only in the parent.
_inherited: list[Any] = []


class ProcessBound:
    """Base class of objects that work only in the process that made them, and cannot be pickled."""

    _process: int
    _used = False
    #: Advice at the end of error messages.
    _remedy = "open it in each process, for example at the first use inside a DataLoader worker"

    def _bind_process(self) -> None:
        """Store the id of this process as the owner."""
        self._process = os.getpid()
        ProcessBound._used = True
        _bound.add(self)

    @property
    def _is_inherited(self) -> bool:
        """Return whether this object was inherited by a fork."""
        return os.getpid() != self._process

    def _check_process(self) -> None:
        """Raise :class:`ArgumentError` in any process except the owner."""
        if self._is_inherited:
            raise ArgumentError(
                f"`{type(self).__name__}`: expected to be used in the process that made it ({self._process}), got a fork of it "
                f"({os.getpid()}), in which its decoder or threads do not work; {self._remedy}"
            )

    def __reduce_ex__(self, protocol: Any, /) -> NoReturn:
        """Raise an error, because the object cannot be pickled; spawned DataLoader workers would try this."""
        raise ArgumentError(
            f"`{type(self).__name__}`: expected to stay in one process, got a request to pickle or copy it; {self._remedy}"
        )


def _keep_inherited() -> None:
    """Keep all inherited decoders, live ones and garbage, so that none is ever freed."""
    if ProcessBound._used:
        _inherited.extend(vars(thing).copy() for thing in _bound)
        gc.freeze()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited)
