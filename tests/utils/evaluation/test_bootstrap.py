"""Bootstrap intervals and paired differences against their definition, one draw at a time."""

import warnings

import numpy as np
import pytest
import torch

from utils.evaluation.bootstrap import NUM_DRAWS, SEED, Difference, bootstrap, differences, sample
from utils.evaluation.metrics import scores


def predictions(rng, num_sources, right=0.8, num_classes=3):
    """Confusion matrices with the same targets, whatever the fraction of right pixels."""
    targets = np.random.default_rng(99).integers(500, 900, size=(num_sources, num_classes))
    hits = np.rint(targets * np.clip(right + rng.normal(0, 0.03, targets.shape), 0, 1)).astype(int)
    confusions = np.zeros((num_sources, num_classes, num_classes), dtype=np.int64)
    for index in range(num_classes):
        confusions[:, index, index] = hits[:, index]
        confusions[:, index, (index + 1) % num_classes] = (targets - hits)[:, index]
    return confusions


def test_a_class_that_only_one_of_them_predicts():
    """No target pixel has class 2: its difference is nan, the means are those of the reports."""
    a = np.array([[[[8, 2, 0], [2, 8, 0], [0, 0, 0]]] * 2])
    b = np.array([[[[8, 0, 2], [2, 8, 0], [0, 0, 0]]] * 2])
    miou, *_, last = differences(sample(a), sample(b))
    assert np.isnan([last.value, last.low]).all()
    assert miou.value == pytest.approx((8 / 12 + 8 / 10 + 0) / 3 - 8 / 12)


def all_scores(confusions, left_out):
    """mIoU and the IoU of each class of summed confusion matrices."""
    found = scores(torch.from_numpy(confusions.sum(0)), left_out)
    return [found.miou, *found.iou]


@pytest.mark.parametrize(("num_seeds", "left_out"), [((1, 1), [2]), ((3, 2), [])])
def test_differences_equal_the_hierarchical_bootstrap_made_one_by_one(num_seeds, left_out):
    """Some draws lack a class."""
    rng = np.random.default_rng(3)
    groups = [
        np.stack([predictions(rng, 5, right) for _ in range(number)])
        for number, right in zip(num_seeds, (0.8, 0.85), strict=True)
    ]
    for group in groups:
        group[:, 1:, 1], group[:, 1:, 0] = 0, [600, 0, 100]
    images = np.random.default_rng(SEED).integers(5, size=(NUM_DRAWS, 5))
    means = []
    for number, group in enumerate(groups):
        size = (len(group), NUM_DRAWS, 1)
        seeds = np.random.default_rng([SEED, number]).integers(len(group), size=size)
        of_seeds = np.array([[all_scores(run[d], left_out) for d in images] for run in group])
        means.append(np.take_along_axis(of_seeds, seeds, axis=0).mean(0))
    assert np.isnan(means[0]).any()
    first, second = (sample(group, left_out, number) for number, group in enumerate(groups))
    found = differences(first, second)
    for drawn, ends in (
        (means[1] - means[0], [(d.low, d.high) for d in found]),
        (means[0], first.intervals),
    ):
        expected = np.nanquantile(drawn, [0.025, 0.975], axis=0).T
        np.testing.assert_allclose(ends, expected, rtol=1e-9, atol=1e-12)
    runs = [np.array([all_scores(run, left_out) for run in group]) for group in groups]
    expected = runs[1].mean(0) - runs[0].mean(0)
    assert [d.value for d in found] == pytest.approx(expected)
    expected = runs[0][:, 0].std(ddof=1) if num_seeds[0] > 1 else np.nan
    assert first.spread == pytest.approx(expected, nan_ok=True)


def test_a_single_setting_has_intervals_over_its_images_with_a_counted_pixel():
    """One image has no interval."""
    confusions = predictions(np.random.default_rng(1), 9)
    with_empty = np.concatenate([confusions, np.zeros((2, 3, 3), dtype=np.int64)])
    found = bootstrap(with_empty, [0])
    assert found.num_sources == 9
    assert [found.miou, *found.iou] == sample(confusions[None], [0]).intervals
    assert bootstrap(with_empty[8:]) is None and bootstrap(with_empty[:0]) is None


def test_an_interval_on_one_side_of_zero_excludes_it():
    for low, high, excludes in ((1, 2, True), (-2, -1, True), (-1, 1, False), (0, 0, False)):
        assert Difference(value=0.0, low=low, high=high).excludes_zero == excludes


def test_unknown_scores_are_nan_without_a_warning():
    """One image has no interval; a class that does not occur has no score."""
    one_image = sample(predictions(np.random.default_rng(6), 1)[None])
    assert np.isnan(one_image.intervals).all() and not np.isnan(one_image.mean).any()
    found = differences(one_image, one_image)[0]
    assert found.value == 0 and np.isnan(found.low) and not found.excludes_zero
    lacking = predictions(np.random.default_rng(7), 4)
    lacking[:, 2], lacking[:, :, 2] = 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampled = sample(lacking[None])
        nothing = sample(np.zeros((1, 2, 3, 3), dtype=np.int64))
        assert np.isnan(sampled.mean[3]) and np.isnan(sampled.intervals[3]).all()
        assert np.isfinite(sampled.intervals[:3]).all() and np.isnan(nothing.mean).all()
    assert sampled.mean[0] == pytest.approx(all_scores(lacking, [])[0])
