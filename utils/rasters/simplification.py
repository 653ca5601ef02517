"""Simplification of polygons that share borders, so that they still share them afterwards."""

import importlib.util

import numpy as np

from utils.errors import ConfigError


def require_shapely() -> None:
    """Raise ``ConfigError`` where shapely, an optional package, cannot simplify polygons."""
    if importlib.util.find_spec("shapely") is not None:
        import shapely

        if hasattr(shapely, "coverage_simplify"):
            return
    raise ConfigError(
        "simplified polygons need shapely 2.1 or later: pip install 'shapely>=2.1', or leave "
        "--simplify out"
    )


def simplify_borders(
    points: np.ndarray, lengths: np.ndarray, is_hole: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simplify polygons that together cover a rectangle; the border of the rectangle stays.

    A border between two polygons loses the corners that make less difference than ``tolerance``
    squared, by the area of the triangle with the corners beside it (Visvalingam and Whyatt, 1993).
    No polygon vanishes, and none overlaps another one. Everything is held in memory.

    Args:
        points: ``(P, 2)`` int64 corners of all rings, which run along rows and columns; the first
            corner of a ring is repeated at its end.
        lengths: ``(R,)`` number of points of each ring.
        is_hole: ``(R,)`` bool; the ring of each polygon that is no hole comes first.
        tolerance: in the unit of the points.

    Returns:
        ``points``, ``lengths`` and ``is_hole`` of the simplified polygons, in the same order.
    """
    import shapely

    points, lengths = _with_junctions(points, lengths)
    numbers = np.repeat(np.arange(len(lengths)), lengths)
    rings = shapely.linearrings(points.astype(float), indices=numbers)
    polygons = shapely.polygons(rings, indices=np.cumsum(~is_hole) - 1)
    del points, numbers, rings
    simple = shapely.coverage_simplify(polygons, tolerance, simplify_boundary=False)
    rings, owners = shapely.get_rings(simple, return_index=True)
    corners = np.rint(shapely.get_coordinates(rings)).astype(np.int64)
    is_hole = np.diff(owners, prepend=-1) == 0
    return corners, shapely.get_num_coordinates(rings).astype(np.int64), is_hole


def _with_junctions(points: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add the corners of other rings that lie on the edges of a ring.

    Where two polygons meet on the straight edge of a third one, this one has no corner, and its
    border would be simplified unlike theirs.

    Returns:
        Points and lengths, see ``simplify_borders``.
    """
    steps = np.diff(points, axis=0)
    steps[np.cumsum(lengths)[:-1] - 1] = 0  # from the end of a ring to the start of the next one
    # Corners on the edge that a point begins: so many, from this one of the sorted corners, up or
    # down. They are sorted once for edges along rows, and once for those along columns.
    count, first, direction = (np.zeros(len(points), np.int64) for _ in range(3))
    num_sorted, corners = 0, [points[:0]]
    for along, across in ((0, 1), (1, 0)):
        edges = np.flatnonzero(steps[:, along])
        keys = np.unique(points[:, across] << 32 | points[:, along])
        start = points[edges, across] << 32 | points[edges, along]
        end = start + steps[edges, along]
        low = np.searchsorted(keys, np.minimum(start, end), side="right")
        high = np.searchsorted(keys, np.maximum(start, end), side="left")
        count[edges], direction[edges] = high - low, np.sign(end - start)
        first[edges] = num_sorted + np.where(end > start, low, high - 1)
        corner = np.empty((len(keys), 2), np.int64)
        corner[:, across], corner[:, along] = keys >> 32, keys & 0xFFFFFFFF
        corners.append(corner)
        num_sorted += len(keys)
    totals = np.append(0, np.cumsum(1 + count))
    owners = np.repeat(np.arange(len(points)), 1 + count)
    number = np.arange(len(owners)) - totals[owners]  # 0: the point itself
    added = (first[owners] + direction[owners] * (number - 1)).clip(min=0)
    found = np.where((number > 0)[:, np.newaxis], np.concatenate(corners)[added], points[owners])
    return found, np.diff(totals[np.append(0, np.cumsum(lengths))])
