"""Closed contours of pixel regions, many in one array: areas, order, and cuts where they touch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Rings:
    """Closed contours one after the other, as horizontal segments.

    A segment begins at the pixel corner ``(x, y)`` and ends in the column in which the next one of
    its ring begins; the last one is followed by the first.
    """

    owner: np.ndarray  # (R,) int64: region of each ring
    size: np.ndarray  # (R,) int64: segments of each ring, 2 or more
    points: np.ndarray  # (sum of size, 2) int32: x, y


def take_rings(rings: Rings, index: np.ndarray, shift: np.ndarray | int = 0) -> Rings:
    """Some of the rings, in the order of their indices, each from its segment ``shift`` on."""
    size = rings.size[index]
    begin = np.cumsum(size) - size
    along = np.arange(int(size.sum())) - np.repeat(begin - shift, size)
    length = np.repeat(size, size)
    along -= np.where(along >= length, length, 0)
    place = along + np.repeat(_begin(rings)[index], size)
    return Rings(owner=rings.owner[index], size=size, points=rings.points[place])


def join_rings(several: Sequence[Rings]) -> Rings:
    """All rings of several arrays."""
    return Rings(
        owner=np.concatenate([rings.owner for rings in several]),
        size=np.concatenate([rings.size for rings in several]),
        points=np.concatenate([rings.points for rings in several]),
    )


def ring_areas(rings: Rings) -> np.ndarray:
    """Pixels within each ring, ``(R,)`` int64: above 0 for exteriors, below 0 for holes."""
    x, y = rings.points.T.astype(np.int64)
    return np.add.reduceat(y * (x - end_columns(rings)), _begin(rings)) if x.size else rings.size


def end_columns(rings: Rings) -> np.ndarray:
    """The column in which each segment ends."""
    begin = _begin(rings)
    x = rings.points[:, 0]
    ends = np.empty_like(x)
    ends[:-1] = x[1:]
    ends[begin + rings.size - 1] = x[begin]
    return ends


def sort_rings(rings: Rings) -> Rings:
    """By owner, exteriors before holes, then by first corner, from which each ring goes on.

    The order of corners is the reading order.
    """
    if not rings.size.size:
        return rings
    begin = _begin(rings)
    keys = _keys(rings.points[:, 0], rings.points[:, 1])
    first = np.minimum.reduceat(keys, begin)
    ring = np.repeat(np.arange(rings.size.size), rings.size)
    shift = np.flatnonzero(keys == first[ring]) - begin
    order = np.lexsort((first, ring_areas(rings) < 0, rings.owner))
    return take_rings(rings, order, shift[order])


def cut_rings(rings: Rings) -> Rings:
    """The rings, those that visit a corner twice cut there into rings that do not.

    Both visits begin a segment or both end one, because of the two pixels that touch there one is
    above the line and the other below.
    """
    ring = np.repeat(np.arange(rings.size.size), rings.size)
    ends = end_columns(rings)
    touching: set[int] = set()
    for x in (rings.points[:, 0], ends):
        keys = _keys(x, rings.points[:, 1])
        order = np.argsort(keys)
        keys, visitor = keys[order], ring[order]
        twice = (keys[1:] == keys[:-1]) & (visitor[1:] == visitor[:-1])
        touching.update(visitor[1:][twice].tolist())
    if not touching:
        return rings
    index = np.array(sorted(touching), dtype=np.int64)
    whole = np.ones(rings.size.size, dtype=bool)
    whole[index] = False
    several = [take_rings(rings, np.flatnonzero(whole))]
    begin = _begin(rings)
    for number in index.tolist():
        place = slice(begin[number], begin[number] + rings.size[number])
        points = rings.points[place]
        loops = _loops(points, ends[place])
        several.append(
            Rings(
                owner=np.full(len(loops), rings.owner[number]),
                size=np.array([len(loop) for loop in loops]),
                points=points[np.concatenate(loops)],
            )
        )
    return join_rings(several)


def _loops(points: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    """Segments of each ring that a ring becomes, in order.

    A walk along the corners; whenever one comes again, what lies between is a ring of its own.
    """
    keys = np.stack([_keys(points[:, 0], points[:, 1]), _keys(ends, points[:, 1])], axis=1)
    path: list[int] = []
    path_keys: list[int] = []
    position: dict[int, int] = {}  # of a corner's key in the path
    loops = []
    for corner, key in enumerate(keys.ravel().tolist()):
        if key in position:
            begin = position[key]
            loops.append(path[begin:])
            for passed in path_keys[begin + 1 :]:
                del position[passed]
            del path[begin + 1 :], path_keys[begin + 1 :]
        else:
            position[key] = len(path)
            path.append(corner)
            path_keys.append(key)
    loops.append(path)
    # Even corners begin a segment, odd ones end it.
    return [np.array([corner // 2 for corner in loop if corner % 2 == 0]) for loop in loops]


def _begin(rings: Rings) -> np.ndarray:
    """Where each ring begins in ``points``."""
    return np.cumsum(rings.size) - rings.size


def _keys(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Numbers in reading order."""
    return y.astype(np.int64) << 32 | x.astype(np.int64)
