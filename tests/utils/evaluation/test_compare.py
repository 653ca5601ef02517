"""Differences between settings against hand-made draws."""

import numpy as np
import pytest
import torch

from utils.evaluation.bootstrap import NUM_DRAWS, SEED, bootstrap
from utils.evaluation.compare import differences, paired_intervals, sample, spread_over_seeds
from utils.evaluation.metrics import scores


def predictions(rng, num_sources, right=0.8, num_classes=3):
    """Confusion matrices of images with the same targets whatever the share of right pixels."""
    targets = np.random.default_rng(99).integers(500, 900, size=(num_sources, num_classes))
    hits = np.rint(targets * np.clip(right + rng.normal(0, 0.03, targets.shape), 0, 1)).astype(int)
    confusions = np.zeros((num_sources, num_classes, num_classes), dtype=np.int64)
    for index in range(num_classes):
        confusions[:, index, index] = hits[:, index]
        confusions[:, index, (index + 1) % num_classes] = (targets - hits)[:, index]
    return confusions


def miou(confusions, left_out=()):
    return scores(torch.from_numpy(confusions.sum(0)), left_out).miou


def test_a_difference_by_hand():
    """Two images of two classes; the second network mends 10 pixels of class 1 in one of them."""
    first = np.array([[[[40, 10], [20, 30]], [[50, 0], [0, 50]]]])
    second = first.copy()
    second[0, 0] = [[40, 10], [10, 40]]
    found = differences(sample(first), sample(second, number=1))
    # Class 0: 90 / (100 + 110 - 90) and 90 / (100 + 100 - 90), class 1: 80 / 110 and 90 / 110.
    iou = [90 / 110 - 90 / 120, 90 / 110 - 80 / 110]
    assert [d.value for d in found] == pytest.approx([sum(iou) / 2, *iou])
    # Drawing the second image twice shows no difference, the first one twice all of it.
    once = [40 / 60 - 40 / 70, 40 / 60 - 30 / 60]
    assert [(d.low, d.high) for d in found] == [
        pytest.approx(ends) for ends in ((0, sum(once) / 2), (0, once[0]), (0, once[1]))
    ]


def test_one_seed_each_is_the_paired_bootstrap():
    rng = np.random.default_rng(0)
    first, second = predictions(rng, 7), predictions(rng, 7, 0.82)
    first[:, 1], second[:, 1] = 0, 0  # a class without target pixels, which is predicted
    expected = paired_intervals(first, second, [2])
    found = differences(sample(first[None], [2]), sample(second[None], [2], 1))
    for ours, theirs in zip(found, (expected.miou, *expected.iou), strict=True):
        assert ours.value == pytest.approx(theirs.value)
        assert (ours.low, ours.high) == (theirs.low, theirs.high)


def test_the_interval_of_one_seed_is_that_of_its_report():
    confusions = predictions(np.random.default_rng(1), 9)
    found, expected = sample(confusions[None], [0]), bootstrap(confusions, [0])
    assert found.intervals == [expected.miou, *expected.iou]
    assert found.mean[0] == pytest.approx(miou(confusions, [0]))


def test_equal_runs_differ_by_exactly_nothing():
    confusions = predictions(np.random.default_rng(2), 6)[None]
    for found in differences(sample(confusions), sample(confusions.copy(), number=5)):
        assert (found.value, found.low, found.high) == (0, 0, 0) and not found.excludes_zero


def test_several_seeds_equal_the_hierarchical_bootstrap_made_one_by_one():
    rng = np.random.default_rng(3)
    first = np.stack([predictions(rng, 5) for _ in range(3)])
    second = np.stack([predictions(rng, 5, 0.85) for _ in range(2)])
    images = np.random.default_rng(SEED).integers(5, size=(NUM_DRAWS, 5))
    seeds_of = [
        np.random.default_rng([SEED, number]).integers(count, size=(count, NUM_DRAWS, 1))[..., 0]
        for number, count in enumerate((3, 2))
    ]
    drawn = []
    for draw in range(NUM_DRAWS):
        means = [
            np.mean([miou(group[seed][images[draw]]) for seed in seeds[:, draw]])
            for group, seeds in zip((first, second), seeds_of, strict=True)
        ]
        drawn.append(means[1] - means[0])
    found = differences(sample(first), sample(second, number=1))[0]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    expected = np.mean([miou(run) for run in second]) - np.mean([miou(run) for run in first])
    assert found.value == pytest.approx(expected)


def test_seeds_widen_the_interval_as_far_as_they_differ():
    rng = np.random.default_rng(4)
    base = predictions(rng, 20, 0.8)
    same = np.stack([base] * 3)
    spread = np.stack([predictions(np.random.default_rng(4), 20, r) for r in (0.75, 0.8, 0.85)])
    reference = sample(predictions(rng, 20, 0.78)[None])

    def width(confusions):
        found = differences(reference, sample(confusions, number=1))[0]
        return found.high - found.low

    assert width(same) == pytest.approx(width(base[None]))
    assert width(spread) > 2 * width(base[None])


def test_a_planted_difference_is_found_and_none_where_there_is_none():
    """200 pairs: a gain of 2.5 points of right pixels, and noise alone."""
    found, wrong = 0, 0
    for number in range(200):
        rng = np.random.default_rng([5, number])
        first = sample(predictions(rng, 30, 0.8)[None])
        better = sample(predictions(rng, 30, 0.825)[None], number=1)
        equal = sample(predictions(rng, 30, 0.8)[None], number=1)
        gain = differences(first, better)[0]
        found += gain.excludes_zero and gain.value > 0
        wrong += differences(first, equal)[0].excludes_zero
    assert found > 190
    assert 2 <= wrong <= 22  # 5 % are expected, and the percentile interval is a little narrow


def test_what_no_draw_knows_is_nan():
    one_image = predictions(np.random.default_rng(6), 1)[None]
    found = sample(one_image)
    assert np.isnan(found.intervals).all() and not np.isnan(found.mean).any()
    found = differences(found, sample(one_image, number=1))
    assert found[0].value == 0 and np.isnan(found[0].low) and not found[0].excludes_zero
    lacking = predictions(np.random.default_rng(7), 4)
    lacking[:, 2], lacking[:, :, 2] = 0, 0
    found = sample(lacking[None])
    assert np.isnan(found.mean[3]) and np.isnan(found.intervals[3]).all()
    assert found.mean[0] == pytest.approx(miou(lacking))


def test_images_without_a_counted_pixel_change_nothing():
    confusions = predictions(np.random.default_rng(8), 5)[None]
    with_empty = np.concatenate([confusions, np.zeros((1, 2, 3, 3), dtype=np.int64)], axis=1)
    one, other = sample(confusions), sample(with_empty)
    assert np.array_equal(one.drawn, other.drawn) and np.array_equal(one.of_seeds, other.of_seeds)


def test_the_spread_over_seeds_is_a_standard_deviation():
    rng = np.random.default_rng(9)
    confusions = np.stack([predictions(rng, 5, right) for right in (0.7, 0.8, 0.9)])
    mious = [miou(run) for run in confusions]
    assert spread_over_seeds(sample(confusions)) == pytest.approx(np.std(mious, ddof=1))
    assert np.isnan(spread_over_seeds(sample(confusions[:1])))
