"""A map on disk that processes fill row by row, in any order, and read back the same way."""

import os
from pathlib import Path
from types import TracebackType

import numpy as np


class RowFile:
    """``(H, W)`` uint8 in a file of its own, without a header. Use as a context manager.

    Reads and writes leave nothing in the memory of the process, which a memory map would.

    Args:
        path: made if it is missing; several processes may have it open.
        width: of a row, in pixels.
    """

    def __init__(self, path: Path, width: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._width = width
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def write(self, top: int, rows: np.ndarray) -> None:
        """Write ``(rows, W)`` uint8 from row ``top`` on."""
        data = memoryview(rows.tobytes())
        offset = top * self._width
        while data:
            written = os.pwrite(self._file, data, offset)
            data, offset = data[written:], offset + written

    def read(self, rows: slice) -> np.ndarray:
        """Read ``(rows, W)`` uint8; rows that nobody wrote are zero or missing."""
        count = (rows.stop - rows.start) * self._width
        parts, offset = [], rows.start * self._width
        while count:
            part = os.pread(self._file, count, offset)
            if not part:
                break
            parts.append(part)
            count, offset = count - len(part), offset + len(part)
        return np.frombuffer(b"".join(parts), np.uint8).reshape(-1, self._width)
