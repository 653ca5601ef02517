"""Sums over regions in strips of rows, against regions that scipy labels in the whole map."""

import numpy as np
import pytest
from scipy import ndimage

from utils.rasters.region_sums import region_sums

IGNORED = 255
RNG = np.random.default_rng(3)


def expected(labels: np.ndarray, values: np.ndarray) -> dict[int, int]:
    """Sum of each region by the flat index of its first pixel."""
    found = {}
    for label in np.unique(labels[labels != IGNORED]):
        numbers, count = ndimage.label(labels == label)
        for number in range(1, count + 1):
            inside = numbers == number
            found[int(np.flatnonzero(inside)[0])] = int(values[inside].sum(dtype=np.int64))
    return dict(sorted(found.items()))


def by_strips(labels: np.ndarray, values: np.ndarray, heights: list[int]) -> dict[int, int]:
    cuts = np.cumsum(heights).clip(max=len(labels))
    parts = zip(np.split(labels, cuts), np.split(values, cuts), strict=True)
    found = region_sums((part for part in parts if len(part[0])), labels.shape[1], IGNORED)
    assert np.array_equal(found.of(found.first), found.total)
    return dict(zip(found.first.tolist(), found.total.tolist(), strict=True))


def comb(height: int, width: int) -> np.ndarray:
    """Teeth that meet in the last row only, on a ground that meets in the first one."""
    labels = np.zeros((height, width), np.uint8)
    labels[1:, 1::2] = 1
    labels[-1] = 1
    return labels


def spiral(side: int) -> np.ndarray:
    """A path of ones to the centre, and the path between its turns: two long regions."""
    labels = np.zeros((side, side), np.uint8)
    for turn in range(0, side // 2, 2):
        end = side - turn
        labels[turn, max(0, turn - 1) : end] = 1
        labels[turn:end, end - 1] = labels[end - 1, turn:end] = 1
        labels[turn + 2 : end, turn] = 1
    return labels


@pytest.mark.parametrize("heights", [[100], [1] * 40, [2, 7, 1, 11, 3]])
@pytest.mark.parametrize("labels", [comb(24, 31), comb(24, 31)[::-1], spiral(25), spiral(24).T])
def test_regions_that_meet_late_are_one(labels: np.ndarray, heights: list[int]):
    values = RNG.integers(0, 256, labels.shape).astype(np.uint8)
    sums = by_strips(labels, values, heights)
    assert len(sums) == sum(ndimage.label(labels == label)[1] for label in (0, 1))
    assert sums == expected(labels, values)


def test_random_maps_in_random_strips():
    for _ in range(60):
        height, width, classes = RNG.integers(1, [24, 24, 5])
        labels = RNG.integers(0, classes, (height, width)).astype(np.uint8)
        labels[RNG.random(labels.shape) < RNG.choice([0, 0.3, 0.7])] = IGNORED
        values = RNG.integers(0, 256, labels.shape).astype(np.uint8)
        heights = RNG.integers(1, 6, 24).tolist()
        assert by_strips(labels, values, heights) == expected(labels, values)


def test_nothing_but_ignored_pixels_has_no_region():
    assert by_strips(np.full((5, 4), IGNORED, np.uint8), np.ones((5, 4), np.uint8), [2]) == {}
