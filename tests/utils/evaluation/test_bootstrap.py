"""Bootstrap intervals against their definition."""

import warnings

import numpy as np
import pytest
import torch

from utils.evaluation.bootstrap import NUM_DRAWS, SEED, bootstrap
from utils.evaluation.metrics import scores


def confusions(num_sources, num_classes=4):
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 100, size=(num_sources, num_classes, num_classes))
    sizes = rng.integers(1, 4, size=(num_sources, 1, 1))
    return counts + 500 * np.eye(num_classes, dtype=np.int64) * sizes


@pytest.mark.parametrize("left_out", [(), (0, 2)])
def test_equals_its_definition(left_out):
    """Every draw made, added and scored by itself; some draws lack a class of one image."""
    given = confusions(5)
    given[1:, 2] = 0
    given[1:, :, 2] = 0
    drawn = np.random.default_rng(SEED).integers(5, size=(NUM_DRAWS, 5))
    results = [scores(torch.from_numpy(given[row].sum(0)), left_out) for row in drawn]
    expected = np.quantile([result.miou for result in results], [0.025, 0.975])
    found = bootstrap(given, left_out)
    assert found.num_sources == 5
    np.testing.assert_allclose(found.miou, expected, rtol=1e-12)
    iou = np.array([result.iou for result in results])
    assert np.isnan(iou[:, 2]).any() and not np.isnan(iou[:, 2]).all()
    expected = np.nanquantile(iou, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(np.transpose(found.iou), expected, rtol=1e-12)


def test_images_without_a_counted_pixel_are_not_drawn_and_one_has_no_interval():
    given, empty = confusions(4), np.zeros((3, 4, 4), dtype=np.int64)
    assert bootstrap(np.concatenate([given, empty])) == bootstrap(given)
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
