"""Bootstrap intervals against their definition, and how often they hold the truth."""

import warnings

import numpy as np
import pytest
import torch

from utils.evaluation.bootstrap import NUM_DRAWS, SEED, bootstrap
from utils.evaluation.metrics import scores


def confusions(rng, num_sources, num_classes=4):
    counts = rng.integers(0, 100, size=(num_sources, num_classes, num_classes))
    counts += (
        500 * np.eye(num_classes, dtype=np.int64) * rng.integers(1, 4, size=(num_sources, 1, 1))
    )
    return counts


@pytest.mark.parametrize("left_out", [(), (3,), (0, 2)])
def test_equals_its_definition(left_out):
    """Every draw made, added and scored by itself; some draws lack a class of one image."""
    given = confusions(np.random.default_rng(1), 5)
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
    for index in range(4):
        expected = np.nanquantile(iou[:, index], [0.025, 0.975])
        np.testing.assert_allclose(found.iou[index], expected, rtol=1e-12)


def test_is_repeatable_and_holds_the_score():
    given = confusions(np.random.default_rng(2), 12)
    one, other = bootstrap(given), bootstrap(given.copy())
    assert one == other
    assert one.miou[0] < scores(torch.from_numpy(given.sum(0))).miou < one.miou[1]


@pytest.mark.parametrize("num_sources", [0, 1])
def test_fewer_than_two_images_have_no_interval(num_sources):
    assert bootstrap(confusions(np.random.default_rng(3), num_sources)) is None


def test_images_without_a_counted_pixel_are_not_drawn():
    given = confusions(np.random.default_rng(4), 4)
    with_empty = np.concatenate([given, np.zeros((3, 4, 4), dtype=np.int64)])
    assert bootstrap(with_empty) == bootstrap(given)
    assert bootstrap(np.concatenate([given[:1], with_empty[4:]])) is None


def test_equal_images_have_an_interval_of_no_width():
    found = bootstrap(np.repeat(confusions(np.random.default_rng(5), 1), 6, axis=0))
    assert found.miou[0] == pytest.approx(found.miou[1], abs=1e-12)


def test_class_that_never_occurs_is_nan_without_a_warning():
    given = confusions(np.random.default_rng(6), 3)
    given[:, 1] = 0
    given[:, :, 1] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap(given)
    assert np.isnan(found.iou[1]).all() and np.isfinite(found.miou).all()


def test_holds_the_truth_about_as_often_as_it_says():
    """100 samples of 40 images; the percentile interval is known to be a little too narrow."""
    rng = np.random.default_rng(7)

    def draw(number):
        """Images that are well or badly predicted: 60 to 95 % right, two classes alike."""
        right = rng.uniform(600, 950, size=number).round().astype(np.int64)
        return np.stack([[right, 1000 - right], [1000 - right, right]]).transpose(2, 0, 1)

    truth = scores(torch.from_numpy(draw(200_000).sum(0))).miou
    held = 0
    for _ in range(100):
        low, high = bootstrap(draw(40)).miou
        held += low <= truth <= high
    assert 86 <= held <= 100
