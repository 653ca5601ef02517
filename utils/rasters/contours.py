"""Contours of the regions of a label map that comes by rows, along the edges of its pixels.

A region is a group of pixels of one value that hang together by their sides. The map is looked at
in blocks of rows. Horizontal edges of a region that follow each other are one *segment*. Segments
have a direction: a region goes round with x to the right and y downwards as a clock does, its holes
the other way. Vertical edges lead from the end of a segment to the begin of another; so they form
rings, or *chains* that are open at the lower end of a block. To the next block, such a chain is one
more segment. A region is complete when the last row seen holds none of its pixels.

Where two pixels of a region touch at a corner only, its ring turns there and comes back later. Such
a ring is cut in two at that corner as soon as it is closed. So no ring passes a point twice, and
rings of a region share single points at most, as OGC's Simple Features (06-103r4) ask.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from configs.schema import IGNORE_INDEX
from utils.rasters.rings import Rings, cut_at_corners, follow
from utils.regions import connected_groups, touching_runs

_BLOCK_PX, _BLOCK_ROWS = 1 << 18, 64  # the larger of the two


@dataclass(frozen=True, kw_only=True)
class Region:
    """A complete region.

    Attributes:
        value: of its pixels.
        area_px: number of its pixels.
        rings: in parts; the very first ring goes round it, all others round its holes.
    """

    value: int
    area_px: int
    rings: list[Rings]


@dataclass(kw_only=True)
class _Holes:
    """What is known of a region that is not complete: rings round holes, and their (-) area."""

    area_px: int
    rings: list[Rings]


@dataclass(frozen=True, kw_only=True)
class _Segments:
    """Segments of a block.

    Attributes:
        x: where they begin, ``(N,)``.
        x_end: where they end, ``(N,)``.
        line: 0 = upper side of the first row of the block, ``(N,)``.
        comes_down: whether the vertical edge before goes down, ``(N,)`` bool; else it goes up.
        goes_down: the same of the vertical edge after.
        pixel: a pixel of the region, flat index into the padded block, ``(N,)``.
    """

    x: np.ndarray
    x_end: np.ndarray
    line: np.ndarray
    comes_down: np.ndarray
    goes_down: np.ndarray
    pixel: np.ndarray


def trace_regions(strips: Iterable[np.ndarray]) -> Iterator[Region]:
    """Regions of a label map as they are complete; pixels of value 255 belong to none.

    Memory does not grow with the area, but with the width, and with the chains and the holes of
    regions that are not complete: 8 bytes for two corners, 8 for a hole.

    Args:
        strips: consecutive ``(h, W)`` uint8 rows, from the top down. What comes out, and in which
            order, does not depend on their heights.
    """
    tracer = None
    for block in _blocks(strips):
        tracer = tracer or _Tracer(block.shape[1])
        yield from tracer.add(block)
    if tracer is not None:
        yield from tracer.add(np.full((1, tracer.width), IGNORE_INDEX, dtype=np.uint8))


def _blocks(strips: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same rows in blocks whose height depends on the width alone."""
    parts: list[np.ndarray] = []
    missing = 0
    for strip in strips:
        while len(strip):
            if not parts:
                missing = max(_BLOCK_PX // max(strip.shape[1], 1), _BLOCK_ROWS)
            parts.append(strip[:missing].copy())  # whoever gives strips may use their memory again
            strip = strip[missing:]
            missing -= len(parts[-1])
            if not missing:
                yield np.concatenate(parts)
                parts = []
    if parts:
        yield np.concatenate(parts)


class _Tracer:
    """What is open below the rows seen so far."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._top = 0
        self._last_row = np.full(width + 2, IGNORE_INDEX, dtype=np.uint8)
        self._region_of_run = np.zeros(1, dtype=np.int64)  # of the last row
        self._holes: dict[int, _Holes] = {}  # by region
        empty = np.zeros(0, dtype=np.int64)
        # In the order of the columns where they begin, with edges that go up from below.
        self._chains = Rings(x=empty.astype(np.int32), y=empty.astype(np.int32), lengths=empty)
        self._chain_of_end = empty  # in the order of the columns where they end, going down

    def add(self, rows: np.ndarray) -> Iterator[Region]:
        """Take ``(h, W)`` uint8; give the regions that do not reach its last row."""
        labels = np.full((len(rows) + 1, self.width + 2), IGNORE_INDEX, dtype=np.uint8)
        labels[0], labels[1:, 1:-1] = self._last_row, rows
        rings, pixel = self._close(labels)
        region, is_open = self._regions(labels, pixel)
        self._last_row = labels[-1]
        self._top += len(rows)
        rings, origin = cut_at_corners(rings, self.width + 1)
        value = labels.ravel()[pixel]
        yield from self._collect(rings, region[origin], value[origin], is_open)

    def _close(self, labels: np.ndarray) -> tuple[Rings, np.ndarray]:
        """Rings that close in this block, and a pixel of the region of each."""
        segments = _find_segments(labels)
        following = self._link(labels, segments)
        num_segments, num_open = segments.x.size, following.size
        num_open -= num_segments + self._chains.lengths.size
        order, num_nodes, ends = follow(following, num_open)
        # Segments are chains of a single point.
        lengths = np.concatenate([np.ones(num_segments, dtype=np.int64), self._chains.lengths])
        chains = Rings(
            x=np.concatenate([segments.x.astype(np.int32), self._chains.x]),
            y=np.concatenate([(segments.line + self._top).astype(np.int32), self._chains.y]),
            lengths=lengths,
        ).take(order)
        first = np.cumsum(num_nodes) - num_nodes
        total = np.append(0, np.cumsum(chains.lengths))
        sizes = total[first + num_nodes] - total[first]
        num_points = sizes[:num_open].sum()
        self._chain_of_end = np.argsort(ends)
        self._chains = Rings(
            x=chains.x[:num_points].copy(), y=chains.y[:num_points].copy(), lengths=sizes[:num_open]
        )
        rings = Rings(x=chains.x[num_points:], y=chains.y[num_points:], lengths=sizes[num_open:])
        return rings, segments.pixel[order[first[num_open:]]]

    def _link(self, labels: np.ndarray, segments: _Segments) -> np.ndarray:
        """Which node follows each node: segments, then chains, then edges up from the next block.

        What ends with an edge down into the next block is followed by -1 - its rank by columns.
        """
        num_lines, num_segments = len(labels) + 1, segments.x.size
        down_above, up_above = _crossing(labels[0])
        down_below, up_below = _crossing(labels[-1])
        nodes, chains = np.arange(num_segments), num_segments + np.arange(up_above.size)
        below = num_segments + chains.size + np.arange(up_below.size)
        begin = segments.x * num_lines + segments.line + 1
        end = segments.x_end * num_lines + segments.line + 1
        bottom = num_lines - 1
        comes, goes = segments.comes_down, segments.goes_down
        following = np.empty(num_segments + chains.size + below.size, dtype=np.int64)
        for sources, ends, sinks, begins in (
            (  # edges that go down
                [chains[self._chain_of_end], nodes[goes]],
                [down_above * num_lines, end[goes]],
                [nodes[comes], -1 - np.arange(down_below.size)],
                [begin[comes], down_below * num_lines + bottom],
            ),
            (  # edges that go up
                [nodes[~goes], below],
                [end[~goes], up_below * num_lines + bottom],
                [chains, nodes[~comes]],
                [up_above * num_lines, begin[~comes]],
            ),
        ):
            # In a column, upper and lower ends of vertical edges of one direction alternate.
            by_column = np.argsort(np.concatenate(ends))
            match = np.argsort(np.concatenate(begins))
            following[np.concatenate(sources)[by_column]] = np.concatenate(sinks)[match]
        return following

    def _regions(self, labels: np.ndarray, pixel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Region of each pixel, and which regions reach the last row.

        Afterwards ``_holes`` has the regions of this block, ``_region_of_run`` those of the next.
        """
        starts, pairs = touching_runs(labels)
        num_above = self._region_of_run.size
        known = starts.size + self._region_of_run
        pairs = np.concatenate([pairs, np.stack([np.arange(num_above), known], axis=1)])
        root = connected_groups(starts.size + int(self._region_of_run.max()) + 1, pairs)
        holes: dict[int, _Holes] = {}
        for old, found in self._holes.items():
            _merge(holes, int(root[starts.size + old]), found)
        self._holes = holes
        in_last = root[np.searchsorted(starts, labels.size - labels.shape[1]) : starts.size]
        is_open, self._region_of_run = np.unique(in_last, return_inverse=True)
        return root[np.searchsorted(starts, pixel, side="right") - 1], is_open

    def _collect(
        self, rings: Rings, region: np.ndarray, value: np.ndarray, is_open: np.ndarray
    ) -> Iterator[Region]:
        """Complete regions, given the region and value of each ring; keep the other rings."""
        area = rings.areas()
        order = np.lexsort((area < 0, region))  # the ring that goes round a region comes first
        rings, region, value, area = rings.take(order), region[order], value[order], area[order]
        begins = np.flatnonzero(np.diff(region, prepend=-1))
        stops = np.append(begins, region.size)[1:]
        points = np.append(0, np.cumsum(rings.lengths))
        totals = np.add.reduceat(area, begins) if begins.size else area
        is_open_here = np.isin(region[begins], is_open)
        for begin, stop, total, stays in zip(
            begins.tolist(), stops.tolist(), totals.tolist(), is_open_here.tolist(), strict=True
        ):
            part = slice(points[begin], points[stop])
            found = Rings(x=rings.x[part], y=rings.y[part], lengths=rings.lengths[begin:stop])
            key = int(region[begin])
            if stays:
                copied = found.take(np.arange(stop - begin))  # a view would keep the whole block
                _merge(self._holes, key, _Holes(area_px=total, rings=[copied]))
                continue
            holes = self._holes.pop(key, _Holes(area_px=0, rings=[]))
            yield Region(
                value=int(value[begin]),
                area_px=total + holes.area_px,
                rings=[found, *holes.rings],
            )
        new = {int(old): number for number, old in enumerate(is_open)}
        self._holes = {new[old]: holes for old, holes in self._holes.items()}


def _merge(holes: dict[int, _Holes], region: int, found: _Holes) -> None:
    known = holes.setdefault(region, _Holes(area_px=0, rings=[]))
    known.area_px += found.area_px
    known.rings += found.rings


def _find_segments(labels: np.ndarray) -> _Segments:
    """Segments on the upper side of each row but the first of ``(h + 1, W + 2)``."""
    num_corners = labels.shape[1] - 1
    differs = labels[1:] != labels[:-1]
    found = []
    for is_below, row in ((True, labels[1:]), (False, labels[:-1])):
        has_edge = differs & (row != IGNORE_INDEX)
        turns = row[:, 1:] != row[:, :-1]
        goes_on = has_edge[:, 1:] & has_edge[:, :-1] & ~turns
        left = np.flatnonzero(has_edge[:, 1:] & ~goes_on)
        right = np.flatnonzero(has_edge[:, :-1] & ~goes_on)
        line, x_left = np.divmod(left, num_corners)
        x_right = right - line * num_corners
        pixel = (line + is_below) * labels.shape[1] + x_left + 1
        at_left, at_right = turns.ravel()[left], turns.ravel()[right]
        # Above its region a segment goes to the right and then, at an outer corner, down.
        if is_below:
            found.append((x_left, x_right, line, ~at_left, at_right, pixel))
        else:
            found.append((x_right, x_left, line, at_right, ~at_left, pixel))
    x, x_end, line, comes_down, goes_down, pixel = map(np.concatenate, zip(*found, strict=True))
    return _Segments(
        x=x, x_end=x_end, line=line, comes_down=comes_down, goes_down=goes_down, pixel=pixel
    )


def _crossing(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns in which vertical edges go down, and up, beside the pixels of a padded row."""
    differs = row[1:] != row[:-1]
    down = np.flatnonzero(differs & (row[:-1] != IGNORE_INDEX))
    return down, np.flatnonzero(differs & (row[1:] != IGNORE_INDEX))
