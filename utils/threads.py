"""Threads that overlap computation with reading and writing of files.

Both directions hold a fixed number of items, so that memory does not grow if one side is faster.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(
    read: Callable[[T], R], items: Iterable[T], *, num_threads: int, ahead: int
) -> Generator[R, None, None]:
    """Yield ``read(item)`` of all items, in order, while threads read the next ones.

    An error of ``read`` is raised in place of its result. Close the iterator
    (``contextlib.closing``) to stop early; reads that have not started are then cancelled.

    Args:
        read: called in a thread.
        items: arguments of ``read``.
        num_threads: items read concurrently.
        ahead: most items that are read or in progress, including the one yielded next.
    """
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(num_threads)
    try:
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) == ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def write_behind(*, num_threads: int, behind: int) -> Iterator[Callable[..., None]]:
    """Yield ``call(function, *arguments)``, which threads execute while the caller continues.

    The block ends when all calls have returned. The first error, in order of the calls, is raised
    by a later call or at the end of the block, and calls that have not started are cancelled. If
    the block itself raises, its error is raised once the calls in progress have returned.

    Args:
        num_threads: calls executed concurrently.
        behind: most calls waiting or in progress; a further one waits.
    """
    pending: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(num_threads)

    def call(function: Callable[..., Any], *arguments: Any) -> None:
        while pending and (len(pending) >= behind or pending[0].done()):
            pending.popleft().result()
        pending.append(pool.submit(function, *arguments))

    try:
        yield call
        while pending:
            pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Stopwatch:
    """Wall time by name, accumulated across threads; concurrent intervals all count."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the duration of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] += time.perf_counter() - start
