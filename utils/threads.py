"""Reading ahead and writing behind: threads that keep a slow computation from waiting for files.

Both hold a fixed number of items, so that memory does not grow when one side is faster.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(
    read: Callable[[T], R], items: Iterable[T], *, num_threads: int, ahead: int
) -> Generator[R, None, None]:
    """Give ``read(item)`` of all items, in order, while threads read the next ones.

    An error of ``read`` is raised where its result would be given. Close the iterator
    (``contextlib.closing``) when it is left early: what has not begun is then never read.

    Args:
        read: called in a thread.
        items: what to read.
        num_threads: how many items are read at a time.
        ahead: how many items at most are read or being read, the one given next included.
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


class WriteBehind:
    """Calls that threads carry out while the caller goes on. Use as a context manager.

    The block ends when all is written. The first error, in order of the calls, is raised by a later
    call or at the end of the block; what has not begun by then is not written. If the block itself
    raises, writes in progress end, and its error is the one that counts.

    Args:
        num_threads: how many calls are carried out at a time.
        behind: how many calls at most wait or are carried out; a further one waits.
    """

    def __init__(self, *, num_threads: int, behind: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads)
        self._pending: deque[Future[Any]] = deque()
        self._behind = behind

    def __enter__(self) -> "WriteBehind":
        return self

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have ``function(*arguments)`` carried out."""
        while self._pending and (len(self._pending) >= self._behind or self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(function, *arguments))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            while error is None and self._pending:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)


class Stopwatch:
    """Sums up seconds by name; parts that threads carry out at the same time all count."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the time that the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] += time.perf_counter() - start
