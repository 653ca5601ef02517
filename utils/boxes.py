"""Rectangles of an image, grids of cells, window positions and blending weights."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Box:
    """A non-empty rectangle of an image, in pixels."""

    top_px: int
    left_px: int
    height_px: int
    width_px: int

    @property
    def bottom_px(self) -> int:
        """First row below the rectangle."""
        return self.top_px + self.height_px

    @property
    def right_px(self) -> int:
        """First column to the right of the rectangle."""
        return self.left_px + self.width_px

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index arrays of shape ``(H, W)``."""
        return slice(self.top_px, self.bottom_px), slice(self.left_px, self.right_px)


def cell_grid(size: tuple[int, ...], cell_px: int) -> tuple[int, int]:
    """Return the rows and columns of cells that cover an image of this height and width.

    Cells are equal parts of it, at most ``cell_px`` high and wide.
    """
    height, width = size
    return -(-height // cell_px), -(-width // cell_px)


def valid_cells(valid: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the cells at least half of whose pixels hold data, ``(gh, gw)`` bool.

    A pixel belongs to the cell in which its centre lies.

    Args:
        valid: ``(H, W)`` bool.
        grid: rows and columns of cells, at most H and W.
    """
    counts = valid.astype(np.int64)
    area = np.ones(grid, np.int64)
    for axis, (length, count) in enumerate(zip(valid.shape, grid, strict=True)):
        first = -((count - 2 * length * np.arange(count)) // (2 * count))  # pixel of each cell
        counts = np.add.reduceat(counts, first, axis)
        sides = np.diff(first, append=length)
        area *= sides[:, np.newaxis] if axis == 0 else sides
    return 2 * counts >= area


def window_starts(length_px: int, window_px: int, overlap_px: int) -> list[int]:
    """Return starts of windows that cover ``0..length_px``, evenly spaced, the last one flush.

    Neighbours share at least ``overlap_px``. A length up to the window size gives one window.
    """
    if length_px <= window_px:
        return [0]
    num_steps = -(-(length_px - window_px) // (window_px - overlap_px))
    return [round(i * (length_px - window_px) / num_steps) for i in range(num_steps + 1)]


def ramp(length_px: int, before_px: int, after_px: int) -> np.ndarray:
    """Return blending weights along one axis, ``(length_px,)`` float32 in (0, 1].

    The weight is 1 in the interior and falls linearly towards an end over the pixels shared with
    the neighbour there, so that the weights of two neighbours sum to one where they overlap. An end
    that shares nothing (0 px) does not fall.
    """
    position = np.arange(1, length_px + 1, dtype=np.float32)
    rising, falling = position / (before_px + 1), position[::-1] / (after_px + 1)
    return np.minimum(1, np.minimum(rising, falling))


def nearest_pixels(length: int, new_length: int) -> np.ndarray:
    """Return the source pixel nearest to each centre of a resized axis, ``(new_length,)``."""
    return (2 * np.arange(new_length) + 1) * length // (2 * new_length)
