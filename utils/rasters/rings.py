"""Rings of horizontal and vertical edges on a grid, many of them in flat arrays."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Rings:
    """Rings, one after the other, by every second corner.

    From point k of a ring a horizontal edge leads along the line ``y[k]`` to the x of the next
    point (from the last one to the first), and from there a vertical edge to that point.

    Attributes:
        x: ``(N,)`` int32, 0 = left side of the first column.
        y: ``(N,)`` int32, 0 = upper side of the first row.
        lengths: points of each ring, ``(R,)``, sum N.
    """

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Arrays x and y of each ring."""
        stops = np.cumsum(self.lengths).tolist()
        for start, stop in zip([0, *stops], stops, strict=False):
            yield self.x[start:stop], self.y[start:stop]

    def next_points(self) -> np.ndarray:
        """The point that follows each point in its ring, ``(N,)``."""
        stops = np.cumsum(self.lengths)
        following = np.arange(1, self.x.size + 1)
        following[stops - 1] = stops - self.lengths
        return following

    def areas(self) -> np.ndarray:
        """Pixels inside each ring, ``(R,)`` int64; negative if it goes round a hole."""
        edges = self.y.astype(np.int64) * (self.x - self.x[self.next_points()])
        starts = np.cumsum(self.lengths) - self.lengths
        return np.add.reduceat(edges, starts) if starts.size else edges

    def take(self, which: np.ndarray) -> "Rings":
        """Some of the rings, in another order."""
        lengths = self.lengths[which]
        points = _ranges((np.cumsum(self.lengths) - self.lengths)[which], lengths)
        return Rings(x=self.x[points], y=self.y[points], lengths=lengths)


def follow(following: np.ndarray, num_open: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put nodes in the order in which they follow each other: paths, then circles.

    Args:
        following: the next node of each node, negative where a path ends, ``(N,)``.
        num_open: so many nodes at the end are no nodes, but begins of paths.

    Returns:
        ``(N - num_open,)`` nodes, number of nodes of each path and circle, and -1 - the number in
        which each path ends.
    """
    after = following.tolist()
    num_nodes = len(after) - num_open
    seen = bytearray(num_nodes)
    order: list[int] = []
    stops, ends = [], []
    for begin in range(num_nodes, len(after)):
        node = after[begin]
        while node >= 0:
            seen[node] = 1
            order.append(node)
            node = after[node]
        stops.append(len(order))
        ends.append(-1 - node)
    node = seen.find(0)
    while node >= 0:
        begin = node
        while not seen[node]:
            seen[node] = 1
            order.append(node)
            node = after[node]
        stops.append(len(order))
        node = seen.find(0, begin)
    stop_array = np.array(stops, dtype=np.int64)
    return (
        np.array(order, dtype=np.int64),
        np.diff(stop_array, prepend=0),
        np.array(ends, dtype=np.int64),
    )


def cut_at_corners(rings: Rings, num_corners: int) -> tuple[Rings, np.ndarray]:
    """Cut rings that pass a corner twice; also from which ring each new one comes.

    A corner is passed twice at the begins of two segments or at the ends of two; the vertical edges
    are exchanged there.
    """
    num_rings = rings.lengths.size
    ring = np.repeat(np.arange(num_rings), rings.lengths)
    following = rings.next_points()
    line = ring * (int(rings.y.max(initial=0)) + 1) + rings.y
    begins = _twins(line * num_corners + rings.x)
    ends = _twins(line * num_corners + rings.x[following])
    if begins is None and ends is None:
        return rings, np.arange(num_rings)
    if ends is not None:
        following = following[ends]
    if begins is not None:
        following = begins[following]
    order, lengths, _ = follow(following, 0)
    first = np.cumsum(lengths) - lengths
    return Rings(x=rings.x[order], y=rings.y[order], lengths=lengths), ring[order[first]]


def _twins(keys: np.ndarray) -> np.ndarray | None:
    """For each index the other one of the same key, or itself; None, if no two keys are equal."""
    order = np.argsort(keys)
    equal = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    if not equal.size:
        return None
    other = np.arange(keys.size)
    other[order[equal]], other[order[equal + 1]] = order[equal + 1], order[equal]
    return other


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """``starts[0]``, ``starts[0] + 1``, ... of each length, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
