"""An iterator that runs a little ahead of its consumer, in a thread: decoding goes on while a detector works."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

from avsync.errors import ArgumentError

Item = TypeVar("Item")

_PATIENCE = 0.05  # seconds after which a thread that waits looks whether anybody still wants what it has


def ahead(items: Iterable[Item], depth: int = 1) -> Generator[Item, None, None]:
    """Return the same items in the same order, made by a thread that is up to ``depth`` finished items ahead.

    An exception of ``items`` is raised where the item would have come. Closing the generator ends the thread before it returns, so what
    the thread reads from may then be closed.

    Args:
        items: Used by the thread alone from now on.
        depth: Items that may wait; one more is in the making.

    Yields:
        The items.

    Example:
        >>> list(ahead(iter("abc")))
        ['a', 'b', 'c']

    Source: ours.
    """
    process = os.getpid()
    ready: queue.Queue[tuple[Any, BaseException | None, bool]] = queue.Queue(maxsize=depth)
    unwanted = threading.Event()

    def offer(item: Any, error: BaseException | None = None, more: bool = True) -> bool:
        while not unwanted.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((item, error, more), timeout=_PATIENCE)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not offer(item):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again by the consumer
            offer(None, error)
        else:
            offer(None, more=False)

    thread = threading.Thread(target=work, name="avsync-ahead", daemon=True)
    thread.start()
    try:
        while True:
            if os.getpid() != process:
                raise ArgumentError(
                    "`iter_clips`: expected to go on in the process that began it, got a fork, in which its decoding thread is "
                    "missing; begin it in each process"
                )
            item, error, more = ready.get()
            if error is not None:
                raise error
            if not more:
                return
            yield item
    finally:
        unwanted.set()
        thread.join()
