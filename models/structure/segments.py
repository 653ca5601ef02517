"""Segment maps: connected components, merging of small regions, canonical ids.

A segment map is ``(H, W)`` integers: 0 = pixel without a segment; all other ids are arbitrary.
The results here depend on the shapes of the segments alone, not on their ids or their order.
"""

import numpy as np

from utils.errors import DataError
from utils.regions import connected_groups, fill_runs, run_starts, touching_runs

MAX_SEGMENTS = np.iinfo(np.uint16).max  # maps are stored in 16 bit, and 0 is taken


def connected_components(ids: np.ndarray) -> np.ndarray:
    """Number the 4-connected regions of equal id.

    Args:
        ids: ``(H, W)`` integers. Pixels of id 0 have no segment: they form no region.

    Returns:
        ``(H, W)`` int32; 0 where ``ids`` is 0, else 1..K in raster order of the regions' first
        pixels.
    """
    starts, pairs = touching_runs(ids)
    inside = ids.ravel()[starts] != 0
    root = connected_groups(starts.size, pairs)
    # Count the regions at their first runs, then give every run the number of its root.
    is_first = inside & (root == np.arange(root.size))
    number = np.cumsum(is_first, dtype=np.int32)
    return fill_runs(starts, np.where(inside, number[root], np.int32(0)), ids.shape)


def merge_small(ids: np.ndarray, min_area_px: int) -> np.ndarray:
    """Split a map into 4-connected regions and merge the small ones into a neighbour.

    A region below ``min_area_px`` joins the neighbour with the longest shared border (in pixel
    edges); of equal borders the neighbour with the larger area, then the one with the first pixel
    in raster order. All small regions choose at once and regions that chose each other become one;
    this is repeated until no small region has a neighbour.

    Args:
        ids: ``(H, W)`` integers; pixels of id 0 have no segment and join no region.
        min_area_px: smallest area that may remain, in pixels.

    Returns:
        ``(H, W)`` int32, every region 4-connected and numbered 1..K in raster order; 0 stays 0.
    """
    regions = connected_components(ids)
    area = np.bincount(regions.ravel())
    group = np.arange(area.size)  # region -> first of the regions that it is merged with
    pairs = _neighbours(regions, area < min_area_px)
    border = np.ones(pairs.shape[1], dtype=np.int64)
    while pairs.size:
        pairs, border = _sum_equal_pairs(pairs, border, area.size)
        small = area < min_area_px
        joined = connected_groups(area.size, _choices(pairs, border, area, small))
        group = joined[group]
        total = np.zeros_like(area)
        np.add.at(total, joined, area)
        area, pairs = total, joined[pairs]
        # Areas only grow: a pair without a small region will never be needed again.
        small = area < min_area_px
        alive = (pairs[0] != pairs[1]) & (small[pairs[0]] | small[pairs[1]])
        pairs, border = pairs[:, alive], border[alive]
    # A group has the number of its first region, so groups are in raster order; group 0 is "no
    # segment", whether or not the map has such pixels.
    _, number = np.unique(group, return_inverse=True)
    return number.astype(np.int32)[regions]


def canonical(ids: np.ndarray) -> np.ndarray:
    """Renumber the segments in raster order of their first pixels, the order on disk.

    Args:
        ids: ``(H, W)`` integers; 0 = pixel without a segment. A segment may have several parts.

    Returns:
        ``(H, W)`` uint16: 0 stays 0, segments are 1..K.

    Raises:
        DataError: more segments than a 16-bit map can hold.
    """
    starts = run_starts(ids)
    values, first_run, index = np.unique(
        ids.ravel()[starts], return_index=True, return_inverse=True
    )
    segments = np.flatnonzero(values)
    if segments.size > MAX_SEGMENTS:
        raise DataError(
            f"the segment map has {segments.size} segments and a 16-bit map holds {MAX_SEGMENTS}; "
            "make the segments larger or the image tiles smaller"
        )
    number = np.zeros(values.size, dtype=np.uint16)
    number[segments[np.argsort(first_run[segments])]] = np.arange(1, segments.size + 1)
    return fill_runs(starts, number[index], ids.shape)


def _neighbours(regions: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Return the regions on the two sides of each edge of a small region, ``(2, N)`` int64."""
    pairs = []
    for one, other in ((regions[:, :-1], regions[:, 1:]), (regions[:-1], regions[1:])):
        counts = (one != other) & (small[one] | small[other]) & (one != 0) & (other != 0)
        pairs.append(np.stack([one[counts], other[counts]]))
    return np.concatenate(pairs, axis=1).astype(np.int64)


def _sum_equal_pairs(
    pairs: np.ndarray, border: np.ndarray, num_regions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each pair of regions once, with the sum of its borders."""
    codes = pairs.min(axis=0) * num_regions + pairs.max(axis=0)
    codes, index = np.unique(codes, return_inverse=True)
    total = np.zeros(codes.size, dtype=np.int64)
    np.add.at(total, index, border)
    return np.stack(np.divmod(codes, num_regions)), total


def _choices(
    pairs: np.ndarray, border: np.ndarray, area: np.ndarray, small: np.ndarray
) -> np.ndarray:
    """Return the small regions that have a neighbour and the neighbour each joins, ``(N, 2)``."""
    source, target = np.concatenate([pairs, pairs[::-1]], axis=1)
    chooses = small[source]
    source, target, border = source[chooses], target[chooses], np.tile(border, 2)[chooses]
    # Sort the neighbours of each small region by preference, and take the first ones.
    order = np.lexsort((target, -area[target], -border, source))
    source, target = source[order], target[order]
    best = np.ones(source.size, dtype=bool)
    best[1:] = source[1:] != source[:-1]
    return np.stack([source[best], target[best]], axis=1)
