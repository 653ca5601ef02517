import itertools

import numpy as np
import pytest
import scipy.ndimage

from models.structure.segments import canonical, connected_components, merge_small
from utils.errors import DataError


def labelled(ids):
    """4-connected regions of equal id, one id at a time, numbered in raster order; 0 left out."""
    regions = np.zeros(ids.shape, int)
    for each in np.unique(ids[ids != 0]):
        found, _ = scipy.ndimage.label(ids == each)
        regions[found > 0] = found[found > 0] + regions.max()
    _, first, index = np.unique(regions[regions > 0], return_index=True, return_inverse=True)
    regions[regions > 0] = 1 + first.argsort().argsort()[index]
    return regions


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 12), (60, 70)])
@pytest.mark.parametrize("num_ids", [1, 2, 4])
def test_components_are_those_of_scipy(size, num_ids):
    for seed in range(2):
        ids = np.random.default_rng(seed).integers(0, num_ids, size)
        for scaled in (ids, np.kron(ids, np.ones((1, 9), int))):
            assert np.array_equal(connected_components(scaled), labelled(scaled))


def test_canonical_by_hand():
    out = canonical(np.array([[9, 9, 4], [0, 4, 70000]]))
    assert out.tolist() == [[1, 1, 2], [0, 2, 3]] and out.dtype == np.uint16


def test_more_segments_than_16_bits_hold_are_refused():
    assert canonical(np.arange(65536).reshape(256, 256)).max() == 65535
    with pytest.raises(DataError, match="65536 segments and a 16-bit map holds 65535; make"):
        canonical(1 + np.arange(65536).reshape(256, 256))


def neighbours(y, x, shape):
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        if 0 <= y + dy < shape[0] and 0 <= x + dx < shape[1]:
            yield y + dy, x + dx


def slow_merge(ids, min_area_px):
    """The documented rule, literally, one round at a time."""
    regions = connected_components(ids)
    while True:
        names = [int(n) for n in np.unique(regions) if n]
        area = {n: int((regions == n).sum()) for n in names}
        border = {n: dict.fromkeys(names, 0) for n in names}
        for pixel in np.ndindex(regions.shape):
            for other in neighbours(*pixel, regions.shape):
                mine, theirs = int(regions[pixel]), int(regions[other])
                if mine and theirs and mine != theirs:
                    border[mine][theirs] += 1
        joined = {n: {n} for n in names}
        for n in names:
            choices = [(-b, -area[m], m) for m, b in border[n].items() if b]
            if area[n] < min_area_px and choices:
                union = joined[n] | joined[min(choices)[2]]
                for m in union:
                    joined[m] = union
        if all(len(group) == 1 for group in joined.values()):
            return connected_components(regions)
        for n in names:
            regions[regions == n] = min(joined[n])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 8), (13, 13)])
@pytest.mark.parametrize("min_area_px", [0, 2, 5, 20])
def test_merge_small_equals_the_literal_rule(shape, min_area_px):
    for num_ids, seed in itertools.product((2, 4, 7), range(3)):
        ids = np.random.default_rng(seed).integers(0, num_ids, shape)
        np.testing.assert_array_equal(merge_small(ids, min_area_px), slow_merge(ids, min_area_px))
