"""A progress bar over files that many processes write."""

import os
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

_LEAST_INTERVAL_S = 1.0
_WORK_SHARE = 0.05  # of the time at most goes into listing folders


@contextmanager
def file_progress(
    folders: Collection[Path], wanted: Collection[str], stale: Collection[Path], text: str
) -> Iterator[None]:
    """Show how many files there are, whoever writes them, and how long the rest takes.

    The folders are listed every second or so by a thread. Files are replaced, never written to.

    Args:
        folders: where the files appear; a name in two of them counts once.
        wanted: names of the files that are to be there in the end.
        stale: files that do not count until they are replaced.
        text: in front of the bar.
    """
    wanted, old = set(wanted), {path: path.stat().st_ino for path in stale if path.exists()}

    def count() -> int:
        files = _list(folders)
        return len(wanted & {path.name for path, inode in files if old.get(path) != inode})

    with tqdm(desc=text, total=len(wanted), initial=count(), unit="tile", smoothing=0) as bar:
        done = threading.Event()

        def watch() -> None:
            interval_s = _LEAST_INTERVAL_S
            while not done.wait(interval_s):
                start = time.monotonic()
                bar.update(count() - bar.n)
                bar.refresh()  # also when nothing came: the time goes on
                interval_s = max(interval_s, (time.monotonic() - start) / _WORK_SHARE)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            bar.update(count() - bar.n)


def _list(folders: Collection[Path]) -> list[tuple[Path, int]]:
    """Every file with its inode."""
    found = []
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                found += [(folder / entry.name, entry.inode()) for entry in entries]
        except FileNotFoundError:
            continue  # not made yet
    return found
