"""Windows of an image that hold data, known before anything is predicted."""

from collections.abc import Callable

import numpy as np

from utils.boxes import Box

# Rows and columns of an image -> which of their pixels hold data, (h, w) bool.
ReadMask = Callable[[slice, slice], np.ndarray]

CELL_PX = 32
_STRIP_PX = 1 << 22  # pixels of a mask that are read at a time


class ValidCells:
    """A coarse mask: cells of 32 x 32 px, each True if any of its pixels holds data.

    Args:
        read_mask: returns which pixels hold data.
        size: height and width of the image.
        rows: range of rows to look at; the cells outside are False.
    """

    def __init__(self, read_mask: ReadMask, size: tuple[int, int], rows: slice) -> None:
        height, width = size
        num_down, num_across = (-(-length // CELL_PX) for length in size)
        self._cells = np.zeros((num_down, num_across), bool)
        lefts = np.arange(0, width, CELL_PX)
        first = rows.start // CELL_PX * CELL_PX
        step = CELL_PX * max(1, _STRIP_PX // (width * CELL_PX))
        for top in range(first, rows.stop, step):
            mask = read_mask(slice(top, min(top + step, height)), slice(0, width))
            tops = np.arange(0, len(mask), CELL_PX)
            cells = np.logical_or.reduceat(np.logical_or.reduceat(mask, lefts, 1), tops, 0)
            self._cells[top // CELL_PX :][: len(cells)] = cells

    def any_in(self, box: Box) -> bool:
        """Return False only if no pixel of a rectangle holds data."""
        rows, columns = (
            slice(part.start // CELL_PX, -(-part.stop // CELL_PX)) for part in box.slices
        )
        return bool(self._cells[rows, columns].any())
