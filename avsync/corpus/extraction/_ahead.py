"""Iterator that prefetches items in a thread, so that decoding continues while a detector runs."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

from avsync.errors import ArgumentError

Item = TypeVar("Item")

_PATIENCE = 0.05  # seconds after which a waiting thread checks whether its items are still needed


def ahead(items: Iterable[Item], depth: int = 1) -> Generator[Item, None, None]:
    """Yield the same items in the same order, prefetched by a thread.

    An exception of ``items`` is raised at the position of the failed item. Closing the generator ends the thread before
    ``close`` returns, so that the source of the items can then be closed.

    Args:
        items: Items to prefetch; afterwards only the thread may use this iterable.
        depth: Largest number of finished items that wait; one further item may be in progress.

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
                    "`iter_clips`: expected to continue in the process that began it, got a fork, which has no decoding "
                    "thread; begin it in each process"
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
