"""Temporary files for the class indices and confidence of one image, filled row by row."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

_KINDS = ("index", "confidence")


class RowFile:
    """``(H, W)`` uint8 in a file without a header. Use as a context manager, in one thread.

    Several processes may have it open and write other rows. Unlike a memory map, reading and
    writing leave nothing in the memory of the process.

    Args:
        path: created if it does not exist.
        width: of a row, in pixels.
    """

    def __init__(self, path: Path, width: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.path = path
        self._width = width
        self._file = path.open("r+b")

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, top: int, rows: np.ndarray) -> None:
        """Write ``(rows, W)`` uint8 from row ``top`` on."""
        self._file.seek(top * self._width)
        self._file.write(rows.tobytes())
        self._file.flush()  # others read it

    def read(self, rows: slice) -> np.ndarray:
        """Read ``(rows, W)`` uint8; rows below the last written one are missing."""
        self._file.seek(rows.start * self._width)
        content = self._file.read((rows.stop - rows.start) * self._width)
        return np.frombuffer(content, np.uint8).reshape(-1, self._width)


@dataclass(frozen=True, kw_only=True)
class ScratchMaps:
    """Predictions of one image."""

    index: RowFile  # class indices
    confidence: RowFile | None  # in steps of 1/255; None: not wanted


@contextmanager
def open_scratch(
    output: Path, result: Path, width: int, kinds: Sequence[str]
) -> Iterator[ScratchMaps]:
    """Open the temporary files of an image, which are the same on every rank.

    Args:
        output: folder of all results.
        result: name of the image's results.
        width: of the image, in pixels.
        kinds: wanted results; confidence is kept for ``confidence`` only.
    """
    paths = scratch_paths(output, result)
    with ExitStack() as stack:
        files = {
            kind: stack.enter_context(RowFile(path, width))
            for kind, path in paths.items()
            if kind == "index" or kind in kinds
        }
        yield ScratchMaps(index=files["index"], confidence=files.get("confidence"))


def remove_scratch(output: Path, result: Path) -> None:
    """Remove the temporary files of an image. Nobody may be using them."""
    for path in scratch_paths(output, result).values():
        if path.is_file():
            path.unlink(missing_ok=True)


def scratch_paths(output: Path, result: Path) -> dict[str, Path]:
    """Return the temporary files of an image by kind; ``.partial`` marks them as unfinished."""
    name = hashlib.sha256(str(result).encode()).hexdigest()[:24]
    return {kind: output / f".{name}.{kind}.partial" for kind in _KINDS}
