"""Bootstrap intervals; ``test_compare.py`` holds them to their definition."""

import warnings

import numpy as np

from utils.evaluation.bootstrap import bootstrap


def confusions(num_sources, num_classes=4):
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 100, size=(num_sources, num_classes, num_classes))
    sizes = rng.integers(1, 4, size=(num_sources, 1, 1))
    return counts + 500 * np.eye(num_classes, dtype=np.int64) * sizes


def test_images_without_a_counted_pixel_are_not_drawn_and_one_has_no_interval():
    given, empty = confusions(4), np.zeros((3, 4, 4), dtype=np.int64)
    assert bootstrap(np.concatenate([given, empty])) == bootstrap(given)
    assert bootstrap(given).num_sources == 4
    assert bootstrap(np.concatenate([given[:1], empty])) is None
    assert bootstrap(given[:0]) is None


def test_class_that_never_occurs_is_nan_without_a_warning():
    given = confusions(3)
    given[:, 1] = 0
    given[:, :, 1] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap(given)
    assert np.isnan(found.iou[1]).all() and np.isfinite(found.miou).all()
