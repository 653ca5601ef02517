"""Eroded labels against the distance between every two pixels."""

import numpy as np
import pytest

from utils.evaluation import morphology as erosion
from utils.evaluation.morphology import erode

IGNORED = 255


def by_distance(target, radius):
    """The distance of every pixel to the nearest one of another class, squared."""
    rows, columns = (axis.ravel() for axis in np.indices(target.shape))
    apart = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    flat = target.ravel()
    other = (flat[:, None] != flat) & (flat != IGNORED)
    nearest = np.where(other, apart, 10**9).min(1)
    return np.where(nearest <= radius**2, IGNORED, flat).astype(np.uint8).reshape(target.shape)


@pytest.mark.parametrize("radius", [1, 3, 5])
@pytest.mark.parametrize("strip_rows", [1, 7, 128])
@pytest.mark.parametrize(
    ("shape", "num_classes", "side"), [((41, 37), 6, 11), ((1, 50), 2, 9), ((50, 1), 3, 9)]
)
def test_equals_all_distances(monkeypatch, radius, strip_rows, shape, num_classes, side):
    monkeypatch.setattr(erosion, "_STRIP_ROWS", strip_rows)
    rng = np.random.default_rng(radius * sum(shape))
    small = rng.integers(num_classes, size=[-(-length // side) for length in shape])
    target = np.kron(small, np.ones((side, side), int))[: shape[0], : shape[1]].astype(np.uint8)
    target[rng.random(shape) < 0.03] = IGNORED
    before = target.copy()
    eroded = erode(target, radius)
    assert eroded.dtype == np.uint8 and np.array_equal(target, before)
    np.testing.assert_array_equal(eroded, by_distance(target, radius))


def test_a_single_pixel_ignores_a_disc_of_three_pixels():
    target = np.zeros((9, 9), np.uint8)
    target[4, 4] = 1
    widths = (erode(target) == IGNORED).sum(1)
    assert widths.tolist() == [0, 1, 5, 5, 7, 5, 5, 1, 0]


def test_ignored_pixels_and_the_edge_of_the_image_are_no_border():
    target = np.full((12, 12), 2, np.uint8)
    target[:, 5] = IGNORED
    target[3] = IGNORED
    np.testing.assert_array_equal(erode(target), target)


def test_a_border_is_seen_through_ignored_pixels():
    """They hide nothing: the other class is as near as before."""
    target = np.array([[0, 0, 0, 0, 0, IGNORED, IGNORED, 1, 1, 1, 1, 1]], np.uint8)
    expected = [0, 0, 0, 0] + [IGNORED] * 4 + [1] * 4  # from 4 to 7 it is 3, from 3 it is 4
    assert erode(target)[0].tolist() == expected


def test_all_256_values_but_the_last_are_classes():
    target = np.arange(255, dtype=np.uint8).reshape(1, 255).repeat(8, 1)
    kept = erode(target)[0].reshape(255, 8)
    assert (kept[1:-1] == IGNORED).sum() == 253 * 6 and (kept[0] == 0).sum() == 5
