"""Work of three steps on many items, of which the first and the last run beside the middle one.

Reading and writing pictures is done outside Python's interpreter lock for most of its time, and the network's threads
wait now and then: what can overlap does. Order, errors and memory are as if everything was done one by one, but for
the few items that are under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Done = TypeVar("Done")

AHEAD = 3  # items that are read, and items that are written, beside the one in the middle


class Ended(NamedTuple, Generic[Item, Done]):
    """What became of an item: its ``value``, or the ``error`` that one of its steps raised."""

    item: Item
    value: Done | None
    error: Exception | None


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    make: Callable[[Item, Read], Made],
    write: Callable[[Item, Made], Done],
    *,
    ahead: int = AHEAD,
) -> Iterator[Ended[Item, Done]]:
    """``write(item, make(item, read(item)))`` of each item, in order.

    ``make`` runs in the calling thread, one item after another; ``read`` and ``write`` in one thread each, at most
    ``ahead`` items before and behind it. An error of a step ends its item alone. Where the caller stops, what is being
    written is finished and nothing else begun.
    """
    source = iter(items)
    reading: deque[tuple[Item, Future[Read]]] = deque()
    writing: deque[tuple[Item, Future[Done]]] = deque()
    with _pool("read") as readers, _pool("write") as writers:
        while True:
            for item in source:
                reading.append((item, readers.submit(read, item)))
                if len(reading) >= ahead:
                    break
            if not reading:
                break
            item, future = reading.popleft()
            writing.append((item, _made(item, future, make, write, writers)))
            while len(writing) > ahead or (writing and writing[0][1].done()):
                yield _ended(*writing.popleft())
        while writing:
            yield _ended(*writing.popleft())


def _made(
    item: Item,
    reading: Future[Read],
    make: Callable[[Item, Read], Made],
    write: Callable[[Item, Made], Done],
    writers: ThreadPoolExecutor,
) -> Future[Done]:
    """The writing of what ``make`` makes of what was read; it has failed already where one of these has."""
    try:
        made = make(item, reading.result())
    except Exception as error:
        failed: Future[Done] = Future()
        failed.set_exception(error)
        return failed
    return writers.submit(write, item, made)


def _ended(item: Item, writing: Future[Done]) -> Ended[Item, Done]:
    error = writing.exception()
    if error is None:
        return Ended(item, writing.result(), None)
    if not isinstance(error, Exception):
        raise error
    return Ended(item, None, error)


@contextmanager
def _pool(name: str) -> Iterator[ThreadPoolExecutor]:
    """A thread that is over when the block ends, however it ends, without beginning what waits."""
    pool = ThreadPoolExecutor(1, thread_name_prefix=f"scenewise-{name}")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
