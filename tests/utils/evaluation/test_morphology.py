"""Eroded labels against scipy, and against the distance between every two pixels."""

import numpy as np
import pytest
from scipy import ndimage

from utils.evaluation import morphology as erosion
from utils.evaluation.morphology import RADIUS_PX, erode

IGNORED = 255


def disc(radius):
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return rows**2 + columns**2 <= radius**2


def by_dilation(target, radius):
    """Ignored where the disc of a pixel meets another class, one class after the other."""
    expected = target.copy()
    for index in set(np.unique(target)) - {IGNORED}:
        near = ndimage.binary_dilation(target == index, disc(radius))
        expected[near & (target != index)] = IGNORED
    return expected


def by_distance(target, radius):
    """The distance of every pixel to the nearest one of another class, squared."""
    rows, columns = (axis.ravel() for axis in np.indices(target.shape))
    apart = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    flat = target.ravel()
    other = (flat[:, None] != flat) & (flat != IGNORED)
    nearest = np.where(other, apart, 10**9).min(1)
    return np.where(nearest <= radius**2, IGNORED, flat).astype(np.uint8).reshape(target.shape)


def blocks(rng, shape, num_classes, side):
    small = rng.integers(num_classes, size=[-(-length // side) for length in shape])
    target = np.kron(small, np.ones((side, side), int))[: shape[0], : shape[1]].astype(np.uint8)
    target[rng.random(shape) < 0.03] = IGNORED
    return target


@pytest.mark.parametrize("radius", [1, 2, 3, 5])
@pytest.mark.parametrize("strip_rows", [1, 7, 128])
@pytest.mark.parametrize(
    ("shape", "num_classes", "side"),
    [((41, 37), 3, 11), ((60, 23), 6, 17), ((1, 50), 2, 9), ((50, 1), 3, 9), ((1, 1), 2, 1)],
)
def test_equals_scipy_and_all_distances(monkeypatch, radius, strip_rows, shape, num_classes, side):
    monkeypatch.setattr(erosion, "_STRIP_ROWS", strip_rows)
    target = blocks(np.random.default_rng(radius * sum(shape)), shape, num_classes, side)
    before = target.copy()
    eroded = erode(target, radius)
    assert eroded.dtype == np.uint8 and np.array_equal(target, before)
    np.testing.assert_array_equal(eroded, by_dilation(target, radius))
    np.testing.assert_array_equal(eroded, by_distance(target, radius))


def test_a_straight_border_costs_the_radius_on_both_sides():
    target = np.zeros((20, 20), np.uint8)
    target[:, 10:] = 5
    expected = target.copy()
    expected[:, 10 - RADIUS_PX : 10 + RADIUS_PX] = IGNORED
    np.testing.assert_array_equal(erode(target), expected)


def test_a_single_pixel_ignores_a_disc():
    target = np.zeros((9, 9), np.uint8)
    target[4, 4] = 1
    ignored = erode(target) == IGNORED
    np.testing.assert_array_equal(ignored[1:8, 1:8], disc(3))
    assert ignored.sum() == disc(3).sum() == 29


def test_ignored_pixels_and_the_edge_of_the_image_are_no_border():
    target = np.full((12, 12), 2, np.uint8)
    target[:, 5] = IGNORED
    target[3] = IGNORED
    np.testing.assert_array_equal(erode(target), target)
    nothing = np.full((5, 5), IGNORED, np.uint8)
    np.testing.assert_array_equal(erode(nothing), nothing)


def test_a_border_is_seen_through_ignored_pixels():
    """They hide nothing: the other class is as near as before."""
    target = np.zeros((1, 12), np.uint8)
    target[0, 6:], target[0, 5:7] = 1, IGNORED
    expected = [0, 0, 0, 0] + [IGNORED] * 4 + [1] * 4  # from 4 to 7 it is 3, from 3 it is 4
    expected[4], expected[7] = IGNORED, IGNORED
    assert erode(target)[0].tolist() == expected


def test_all_256_values_but_the_last_are_classes():
    target = np.arange(255, dtype=np.uint8).reshape(1, 255).repeat(8, 1)
    kept = erode(target)[0].reshape(255, 8)
    assert (kept[1:-1] == IGNORED).sum() == 253 * 6 and (kept[0] == 0).sum() == 5
