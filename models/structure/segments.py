"""Segment maps as arrays: connected regions, small pieces, canonical ids.

A segment map is ``(H, W)`` integers; 0 marks a pixel without a segment, every other number is a
segment and carries no meaning of its own. The functions here return maps that depend on the shape
of the segments alone, never on the numbers or the order in which the segments arrived.
"""

import numpy as np

from utils.errors import DataError
from utils.mosaic import connected_groups

MAX_SEGMENTS = np.iinfo(np.uint16).max  # maps are stored in 16 bit, and 0 is taken


def connected_components(ids: np.ndarray) -> np.ndarray:
    """Give every 4-connected region of equal id its own number.

    Args:
        ids: ``(H, W)`` integers. Pixels of id 0 have no segment: they form no region.

    Returns:
        ``(H, W)`` int32; 0 where ``ids`` is 0, else 1..K in raster order of the regions' first
        pixels.
    """
    starts, run_of_pixel = _runs(ids)
    # Two runs on top of each other begin to overlap where one of them begins, so these pixels
    # alone name every pair of neighbouring runs once.
    touches = (ids[1:] == ids[:-1]) & (starts[1:] | starts[:-1])
    inside = ids[starts] != 0
    pairs = np.stack([run_of_pixel[:-1][touches], run_of_pixel[1:][touches]], axis=1)
    root = connected_groups(inside.size, pairs)
    is_first = inside & (root == np.arange(inside.size))
    number = np.cumsum(is_first, dtype=np.int32)
    return np.where(inside, number[root], np.int32(0))[run_of_pixel]


def merge_small(ids: np.ndarray, min_area_px: int) -> np.ndarray:
    """Split a map into 4-connected regions and join the small ones to a neighbour.

    A region below ``min_area_px`` joins the neighbour with which it shares the longest border (in
    pixel edges); of equal borders the neighbour with the larger area, then the one whose first
    pixel comes first in raster order. All small regions choose at once and whatever chose each
    other becomes one region; this is repeated until no small region has a neighbour.

    Args:
        ids: ``(H, W)`` integers; 0 = pixel without a segment, which is nobody's neighbour.
        min_area_px: smallest area that may stay, in pixels.

    Returns:
        ``(H, W)`` int32, every region 4-connected and numbered 1..K in raster order; 0 stays 0.
    """
    regions = connected_components(ids)
    area = np.bincount(regions.ravel())
    group = np.arange(area.size)  # group[region]: the first region of what it has become
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
    # Groups are named after their first region, so their order is the raster order; "no segment"
    # is group 0, alone, whether or not the map has such pixels.
    _, number = np.unique(group, return_inverse=True)
    return number.astype(np.int32)[regions]


def canonical(ids: np.ndarray) -> np.ndarray:
    """Number the segments in raster order of their first pixels, as they are stored.

    Args:
        ids: ``(H, W)`` integers; 0 = pixel without a segment. A segment may have several parts.

    Returns:
        ``(H, W)`` uint16: 0 stays 0, segments are 1..K.

    Raises:
        DataError: more segments than a 16-bit map can hold.
    """
    starts, run_of_pixel = _runs(ids)
    values, first_run, index = np.unique(ids[starts], return_index=True, return_inverse=True)
    segments = np.flatnonzero(values)
    if segments.size > MAX_SEGMENTS:
        raise DataError(
            f"the segment map has {segments.size} segments and a 16-bit map holds {MAX_SEGMENTS}; "
            "make the segments larger or the image tiles smaller"
        )
    number = np.zeros(values.size, dtype=np.uint16)
    number[segments[np.argsort(first_run[segments])]] = np.arange(1, segments.size + 1)
    return number[index][run_of_pixel]


def _runs(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a horizontal run of equal ids starts (bool), and each pixel's run number (int32)."""
    starts = np.ones(ids.shape, dtype=bool)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=starts[:, 1:])
    return starts, (np.cumsum(starts, dtype=np.int32) - 1).reshape(ids.shape)


def _neighbours(regions: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Regions on the two sides of every pixel edge that a small region has, ``(2, N)`` int64."""
    pairs = []
    for one, other in ((regions[:, :-1], regions[:, 1:]), (regions[:-1], regions[1:])):
        counts = (one != other) & (small[one] | small[other]) & (one != 0) & (other != 0)
        pairs.append(np.stack([one[counts], other[counts]]))
    return np.concatenate(pairs, axis=1).astype(np.int64)


def _sum_equal_pairs(
    pairs: np.ndarray, border: np.ndarray, num_regions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of regions once, with the sum of its borders."""
    codes = pairs.min(axis=0) * num_regions + pairs.max(axis=0)
    codes, index = np.unique(codes, return_inverse=True)
    total = np.zeros(codes.size, dtype=np.int64)
    np.add.at(total, index, border)
    return np.stack(np.divmod(codes, num_regions)), total


def _choices(
    pairs: np.ndarray, border: np.ndarray, area: np.ndarray, small: np.ndarray
) -> np.ndarray:
    """The small regions that have a neighbour, each with the neighbour it joins, ``(N, 2)``."""
    source, target = np.concatenate([pairs, pairs[::-1]], axis=1)
    chooses = small[source]
    source, target, border = source[chooses], target[chooses], np.tile(border, 2)[chooses]
    order = np.lexsort((target, -area[target], -border, source))
    source, target = source[order], target[order]
    best = np.ones(source.size, dtype=bool)
    best[1:] = source[1:] != source[:-1]
    return np.stack([source[best], target[best]], axis=1)
