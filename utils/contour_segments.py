"""Horizontal segments of the contours in a slab of a class map, and the walk along them."""

from dataclasses import dataclass

import numpy as np

from configs.schema import IGNORE_INDEX

END = -1  # no next segment in this slab
_DONE = -2  # already walked along


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Horizontal segments of a slab, from the top down."""

    points: np.ndarray  # (S, 2) int32: where the contour enters them
    exit_x: np.ndarray  # (S,): where it leaves them
    run: np.ndarray  # (S,): a run of their region
    from_below: np.ndarray  # (S,) bool: the vertical segment before goes up; else down
    goes_down: np.ndarray  # (S,) bool: the one after goes down; else up


def find_segments(grid: np.ndarray, run: np.ndarray, row: int) -> Segments:
    """The horizontal segments between the rows of a slab.

    Args:
        grid: ``(h + 1, W + 2)`` classes; ignored ones on the left and on the right.
        run: run of every pixel.
        row: the line between the first two rows.
    """
    width = grid.shape[1]
    differs = grid[1:] != grid[:-1]
    sides = []
    for below, own in ((False, grid[:-1]), (True, grid[1:])):  # where the region is
        edge = differs & (own != IGNORE_INDEX)
        goes_on = edge[:, 1:] & edge[:, :-1] & (own[:, 1:] == own[:, :-1])
        is_end = edge.copy()
        is_end[:, 1:] &= ~goes_on
        left = np.flatnonzero(is_end)
        is_end = edge
        is_end[:, :-1] &= ~goes_on
        right = np.flatnonzero(is_end)
        own = own.ravel()
        # At a convex corner the region ends with the segment.
        convex = (own[left - 1] != own[left], own[right + 1] != own[right])
        line = left // width
        x = (left - line * width - 1, right - line * width)
        runs = run.ravel()[left + width * below]
        enter, leave = (0, 1) if below else (1, 0)  # below: from left to right
        sides.append(
            (line, x[enter], x[leave], runs, convex[enter] == below, convex[leave] == below)
        )
    line, enter_x, exit_x, runs, from_below, goes_down = map(
        np.concatenate, zip(*sides, strict=True)
    )
    order = np.argsort(line.astype(np.uint16), kind="stable")
    points = np.stack([enter_x, line + row], axis=1).astype(np.int32)
    return Segments(
        points=points[order],
        exit_x=exit_x[order],
        run=runs[order],
        from_below=from_below[order],
        goes_down=goes_down[order],
    )


def run_sides(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the vertical segments that cross a row: those that go down, those that go up.

    On the right side of a run the contour goes down, on its left side up.
    """
    differs = row[1:] != row[:-1]
    down = np.flatnonzero(differs & (row[:-1] != IGNORE_INDEX))
    return down, np.flatnonzero(differs & (row[1:] != IGNORE_INDEX))


def by_column(x: np.ndarray) -> np.ndarray:
    """Order by column; what is in one column stays in its order."""
    small = x.astype(np.uint16) if x.max(initial=0) < 1 << 16 else x  # which numpy sorts faster
    return np.argsort(small, kind="stable")


def walk(
    starts: list[int], successor: list[int], num_segments: int
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Nodes in the order of the contours: first those with the given starts, then closed ones.

    Returns:
        Nodes; where each contour begins among them, and their number; the last node of each
        contour with a given start.
    """
    order: list[int] = []
    bounds = [0]
    last_nodes = []
    for node in starts:
        while node != END:
            order.append(node)
            after = successor[node]
            successor[node] = _DONE
            node = after
        last_nodes.append(order[-1])
        bounds.append(len(order))
    for start in range(num_segments):
        node = start
        while (after := successor[node]) != _DONE:
            order.append(node)
            successor[node] = _DONE
            node = after
        if len(order) > bounds[-1]:
            bounds.append(len(order))
    return np.array(order, dtype=np.int64), np.array(bounds), last_nodes
