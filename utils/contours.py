"""Rings of the regions of a class map, traced in one pass from the top down.

A region is a set of pixels of one class that hang together by their sides. Its contour follows the
edges of its pixels with the region on its right, as seen on the screen: in (column, row) the
exterior has a positive area by the shoelace formula, and a hole a negative one.

A contour is kept as its horizontal segments alone; from the end of each a vertical one leads to the
next. Rows are taken in slabs, and in a slab whole arrays are worked on; a loop over segments only
puts them in order. Rings that are not closed go on in the next slab, at the vertical segments
that cross the border: one for every side of every run of the last row.

Where two pixels of a region touch in a corner and the other two are not of it, the contour turns
around each pixel. Whether both are of one region need not be known there; if they turn out to be,
the contour visits that corner twice, and ``utils.polygons`` cuts it in two.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from configs.schema import IGNORE_INDEX
from utils.contour_segments import END, Segments, by_column, find_segments, run_sides, walk
from utils.mosaic import connected_groups
from utils.rings import Rings, join_rings, take_rings

_SLAB_PX = 1 << 21  # about; what is worked on at once
_SLAB_ROWS = 1 << 12


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Regions in the order of their last pixels (in reading order), and their contours in none."""

    classes: np.ndarray  # (number of regions,) uint8
    rings: Rings


def trace_regions(strips: Iterable[np.ndarray]) -> Iterator[Regions]:
    """The regions of a map, as soon as they are complete; how it is cut in strips is no matter.

    Memory: about 40 bytes a pixel of a slab (of some two million pixels, or one row), and what is
    known of the regions that are not complete: 8 bytes a horizontal segment.

    Args:
        strips: ``(h, W)`` uint8 class indices from the top down, 255 = ignored.
    """
    tracer = None
    for strip in strips:
        if tracer is None:
            tracer = _Tracer(strip.shape[1])
        step = min(max(1, _SLAB_PX // max(1, strip.shape[1])), _SLAB_ROWS)
        for top in range(0, len(strip), step):
            yield tracer.add(strip[top : top + step])
    if tracer is not None:
        yield tracer.add(np.full((1, tracer.width), IGNORE_INDEX, dtype=np.uint8))


class _Tracer:
    """What is known of the regions that reach the last row so far."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._row = 0
        self._last = np.full(width + 2, IGNORE_INDEX, dtype=np.uint8)
        self._ids = np.full(1, -1)  # region of each run of the last row; -1: ignored
        self._kept: list[list[Rings]] = []  # closed contours, by region
        # Parts of contours, with the pieces that they are made of, by the column of their
        # beginnings; and which of them end in the columns that contours go down in.
        self._parts: list[list[Any]] = []
        self._tails = np.zeros(0, dtype=np.int64)

    def add(self, rows: np.ndarray) -> Regions:
        """Go on with ``(h, width)`` class indices; gives the regions that are complete by now."""
        grid = np.full((len(rows) + 1, self.width + 2), IGNORE_INDEX, dtype=np.uint8)
        grid[0], grid[1:, 1:-1] = self._last, rows
        begins = np.ones(grid.shape, dtype=bool)
        np.not_equal(grid[:, 1:], grid[:, :-1], out=begins[:, 1:])
        run = np.cumsum(begins.ravel(), dtype=np.int32).reshape(grid.shape) - 1
        root = self._join_runs(grid, begins, run)
        segments = find_segments(grid, run, self._row)
        contours = self._close_contours(segments, grid[-1], root)
        complete = self._finish(contours, grid[begins], root, run[-1, 0])
        self._row += len(rows)
        self._last = grid[-1].copy()
        return complete

    def _join_runs(self, grid: np.ndarray, begins: np.ndarray, run: np.ndarray) -> np.ndarray:
        """The first run of the region of each run, as far as is known by now."""
        same = (grid[1:] == grid[:-1]) & (grid[1:] != IGNORE_INDEX) & (begins[1:] | begins[:-1])
        place = np.flatnonzero(same)  # the first pixel of every overlap of two runs
        pairs = [np.stack([run[:-1].ravel()[place], run[1:].ravel()[place]], axis=1)]
        carried = np.argsort(self._ids, kind="stable")
        known = self._ids[carried]
        again = np.flatnonzero((known[1:] == known[:-1]) & (known[1:] >= 0))
        pairs.append(np.stack([carried[again], carried[again + 1]], axis=1))
        return connected_groups(int(run[-1, -1]) + 1, np.concatenate(pairs))

    def _close_contours(self, segments: Segments, last: np.ndarray, root: np.ndarray) -> Rings:
        """Link the segments and the parts; keep new parts, give closed contours.

        The owner of a contour is the first run of its region.
        """
        num_segments = len(segments.points)
        starts, ends, successor = self._link(segments, last)
        order, bounds, last_nodes = walk(starts, successor, num_segments)

        def pieces(chain: int) -> list[Any]:
            nodes = order[bounds[chain] : bounds[chain + 1]]
            return _pieces(nodes, segments.points, self._parts)

        size = np.diff(bounds)
        is_closed = np.arange(size.size) >= len(starts)
        owner = np.zeros(size.size, dtype=np.int64)
        owner[is_closed] = root[segments.run[order[bounds[:-1]][is_closed]]]
        has_part = np.zeros(size.size, dtype=bool)
        has_part[np.repeat(np.arange(size.size), size)[order >= num_segments]] = True
        is_new = is_closed & ~has_part
        new = segments.points[order[np.repeat(is_new, size)]]
        found = [Rings(owner=owner[is_new], size=size[is_new], points=new)]
        for chain in np.flatnonzero(is_closed & has_part).tolist():
            whole = np.concatenate(_flat(pieces(chain)))
            one = Rings(owner=owner[[chain]], size=np.array([len(whole)]), points=whole)
            found.append(one)
        parts = [pieces(chain) for chain in range(len(starts))]
        part_of = {node: part for part, node in enumerate(last_nodes)}
        self._tails = np.array([part_of[node] for node in ends.tolist()], dtype=np.int64)
        self._parts = parts
        return join_rings(found)

    def _link(
        self, segments: Segments, last: np.ndarray
    ) -> tuple[list[int], np.ndarray, list[int]]:
        """Join the ends of vertical segments: in a column, each upper end with the lower one below.

        Nodes are the segments, and after them the parts of contours from the slabs above.

        Returns:
            Nodes that new parts begin with, by column; nodes that they end with, by column; and
            the node after each node.
        """
        num_segments = len(segments.points)
        node, enter_x, exit_x = np.arange(num_segments), segments.points[:, 0], segments.exit_x
        successor = np.full(num_segments + len(self._parts), END)
        (down_before, up_before), (down_after, up_after) = run_sides(self._last), run_sides(last)

        out, into = segments.goes_down, ~segments.from_below
        upper = _in_columns(num_segments + self._tails, down_before, node[out], exit_x[out])
        beyond = np.full(down_after.size, END)
        lower = _in_columns(node[into], enter_x[into], beyond, down_after)
        successor[upper] = lower
        ends = upper[lower == END]

        out, into = ~segments.goes_down, segments.from_below
        parts = num_segments + np.arange(len(self._parts))
        upper = _in_columns(parts, up_before, node[into], enter_x[into])
        beyond = np.full(up_after.size, END)
        lower = _in_columns(node[out], exit_x[out], beyond, up_after)
        inside = lower != END
        successor[lower[inside]] = upper[inside]
        return upper[~inside].tolist(), ends, successor.tolist()

    def _finish(
        self, found: Rings, classes: np.ndarray, root: np.ndarray, first_of_last: int
    ) -> Regions:
        """Give the regions without a pixel in the last row; keep the contours of the others."""
        last_row = root[first_of_last:]
        is_class = classes != IGNORE_INDEX
        is_complete = (root == np.arange(root.size)) & is_class
        is_complete[last_row] = False
        last_run = np.zeros(root.size, dtype=np.int64)
        last_run[root] = np.arange(root.size)  # of several values the last one stays
        complete = np.flatnonzero(is_complete)
        complete = complete[np.argsort(last_run[complete])]
        going_on = np.unique(last_row[is_class[first_of_last:]])
        # Numbers of regions: from 0 the complete ones, from -1 downwards those that go on.
        number = np.zeros(root.size, dtype=np.int64)
        number[complete] = np.arange(complete.size)
        number[going_on] = -1 - np.arange(going_on.size)
        before = dict(zip(self._ids.tolist(), number[root[: self._ids.size]].tolist(), strict=True))
        found = replace(found, owner=number[found.owner])
        self._ids = np.where(is_class[first_of_last:], -1 - number[last_row], -1)
        rings = self._sort_out(found, before, going_on.size)
        return Regions(classes=classes[complete], rings=rings)

    def _sort_out(self, found: Rings, before: dict[int, int], num_going_on: int) -> Rings:
        """Keep the rings of regions that go on, by region; give those of the complete ones.

        Args:
            found: rings of this slab; their owners are numbers.
            before: number of each region whose rings were kept.
            num_going_on: number of regions that go on.
        """
        kept: list[list[Rings]] = [[] for _ in range(num_going_on)]
        given = [take_rings(found, np.flatnonzero(found.owner >= 0))]
        for region, several in enumerate(self._kept):
            owner = before[region]
            if owner < 0:
                kept[-1 - owner] += several
            else:
                given += [replace(one, owner=np.full(one.size.size, owner)) for one in several]
        of_kept = np.flatnonzero(found.owner < 0)
        of_kept = of_kept[np.argsort(found.owner[of_kept], kind="stable")]
        if of_kept.size:
            owners = found.owner[of_kept]
            for same in np.split(of_kept, np.flatnonzero(owners[1:] != owners[:-1]) + 1):
                kept[-1 - found.owner[same[0]]].append(take_rings(found, same))
        self._kept = kept
        return join_rings(given)


def _in_columns(
    nodes: np.ndarray, x: np.ndarray, below: np.ndarray, below_x: np.ndarray
) -> np.ndarray:
    """Nodes, and others that are below them, by column and in each from the top down."""
    return np.append(nodes, below)[by_column(np.append(x, below_x))]


def _pieces(nodes: np.ndarray, points: np.ndarray, parts: list[list[Any]]) -> list[Any]:
    """What a contour is made of: arrays of points, and earlier parts as they are."""
    if len(nodes) == 1 and nodes[0] >= len(points):
        return parts[nodes[0] - len(points)]
    breaks = np.flatnonzero(nodes >= len(points))
    pieces: list[Any] = []
    begin = 0
    for place in [*breaks.tolist(), len(nodes)]:
        if place > begin:
            pieces.append(points[nodes[begin:place]])
        if place < len(nodes):
            pieces.append(parts[nodes[place] - len(points)])
        begin = place + 1
    return pieces


def _flat(pieces: list[Any]) -> list[np.ndarray]:
    """Arrays of nested pieces, in order."""
    flat: list[np.ndarray] = []
    waiting = [pieces]
    while waiting:
        piece = waiting.pop()
        if isinstance(piece, list):
            waiting += piece[::-1]
        else:
            flat.append(piece)
    return flat
