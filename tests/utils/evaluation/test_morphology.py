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
    ("shape", "num_classes", "side"), [((41, 37), 255, 11), ((1, 50), 2, 9), ((50, 1), 3, 9)]
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
