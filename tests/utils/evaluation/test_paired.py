"""Paired differences against numbers by hand and against their definition."""

import math

import numpy as np
import pytest
import torch

from utils.evaluation.bootstrap import NUM_DRAWS, SEED, bootstrap
from utils.evaluation.compare import Difference, paired_intervals
from utils.evaluation.metrics import scores


def two_predictions(seed, num_sources, num_classes=4):
    """Confusion matrices of two predictions with the same target pixels."""
    rng = np.random.default_rng(seed)
    totals = rng.integers(500, 2000, size=(num_sources, num_classes))
    share = np.full(num_classes, 0.1) + 0.6 * np.eye(num_classes)
    share /= share.sum(axis=1, keepdims=True)
    return tuple(rng.multinomial(totals, share).astype(np.int64) for _ in range(2))


def test_by_hand():
    """IoU of a: 6/10 and 4/8; of b: 8/10 and 6/8; mIoU 0.55 and 0.775, whatever is drawn."""
    a = np.array([[[6, 2], [2, 4]]] * 3)
    b = np.array([[[8, 0], [2, 4]]] * 3)
    found = paired_intervals(a, b)
    assert found.num_sources == 3
    for difference, expected in zip(
        (found.miou, *found.iou),
        ((8 / 10 + 4 / 6 - 6 / 10 - 4 / 8) / 2, 8 / 10 - 6 / 10, 4 / 6 - 4 / 8),
        strict=True,
    ):
        assert difference.value == pytest.approx(expected)
        assert difference.low == pytest.approx(expected)  # equal images: no width
        assert difference.high == pytest.approx(expected)
        assert difference.excludes_zero


@pytest.mark.parametrize("left_out", [(), (3,), (0, 2)])
def test_equals_its_definition(left_out):
    """Every draw made, added and scored by itself; some draws lack a class of one image."""
    a, b = two_predictions(1, 5)
    for given in (a, b):
        given[1:, 2] = 0
        given[1:, 0, 0] += given[1:, 0, 2]
        given[1:, 1, 1] += given[1:, 1, 2]
        given[1:, 3, 3] += given[1:, 3, 2]
        given[1:, :, 2] = 0
    drawn = np.random.default_rng(SEED).integers(5, size=(NUM_DRAWS, 5))
    results = [
        [scores(torch.from_numpy(given[row].sum(0)), left_out) for given in (a, b)] for row in drawn
    ]
    found = paired_intervals(a, b, left_out)
    whole = [scores(torch.from_numpy(given.sum(0)), left_out) for given in (a, b)]
    assert found.miou.value == pytest.approx(whole[1].miou - whole[0].miou, rel=1e-12)
    ends = np.quantile([second.miou - first.miou for first, second in results], [0.025, 0.975])
    np.testing.assert_allclose((found.miou.low, found.miou.high), ends, rtol=1e-9)
    for index, difference in enumerate(found.iou):
        assert difference.value == pytest.approx(whole[1].iou[index] - whole[0].iou[index])
        each = [second.iou[index] - first.iou[index] for first, second in results]
        assert np.isnan(each).any() == (index == 2)
        ends = np.nanquantile(each, [0.025, 0.975])
        np.testing.assert_allclose((difference.low, difference.high), ends, rtol=1e-9)


def test_identical_predictions_differ_by_exactly_zero():
    a, _ = two_predictions(2, 7)
    found = paired_intervals(a, a.copy())
    assert {found.miou, *found.iou} == {Difference(value=0.0, low=0.0, high=0.0)}
    assert not found.miou.excludes_zero


def test_exchanging_the_two_turns_the_sign():
    a, b = two_predictions(3, 7)
    there, back = paired_intervals(a, b), paired_intervals(b, a)
    assert there.miou.value == -back.miou.value
    assert there.miou.low == pytest.approx(-back.miou.high)


def test_what_is_hard_for_both_cancels():
    """Images of very different difficulty; on each of them, b is right in 1 % more of the class."""
    right = np.random.default_rng(4).integers(300, 900, size=30)

    def matrices(more):
        hits = right + more
        return np.stack([[hits, 1000 - hits], [1000 - hits, hits]]).transpose(2, 0, 1)

    a, b = matrices(0), matrices(10)
    paired, alone = paired_intervals(a, b).miou, bootstrap(a).miou
    assert paired.excludes_zero and 0 < paired.low < paired.value < paired.high
    assert paired.high - paired.low < (alone[1] - alone[0]) / 20


@pytest.mark.parametrize("num_sources", [0, 1])
def test_fewer_than_two_images_have_no_interval(num_sources):
    a, b = two_predictions(5, num_sources)
    found = paired_intervals(a, b)
    assert found.num_sources == num_sources
    assert math.isnan(found.miou.low) and math.isnan(found.iou[0].high)
    assert not found.miou.excludes_zero
    assert math.isnan(found.miou.value) == (num_sources == 0)


def test_images_without_a_counted_pixel_are_not_drawn():
    a, b = two_predictions(6, 4)
    empty = np.zeros((3, 4, 4), dtype=np.int64)
    longer = paired_intervals(np.concatenate([a, empty]), np.concatenate([b, empty]))
    assert longer == paired_intervals(a, b)


def test_a_class_that_only_one_of_them_predicts():
    """No target pixel has class 2: its difference is nan, the means are those of the reports."""
    a = np.array([[[8, 2, 0], [2, 8, 0], [0, 0, 0]]] * 2)
    b = np.array([[[8, 0, 2], [2, 8, 0], [0, 0, 0]]] * 2)
    found = paired_intervals(a, b)
    assert math.isnan(found.iou[2].value) and math.isnan(found.iou[2].low)
    assert found.miou.value == pytest.approx((8 / 12 + 8 / 10 + 0) / 3 - 8 / 12)


def test_other_images_are_refused():
    a, b = two_predictions(7, 4)
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) and \(3, 4, 4\)"):
        paired_intervals(a, b[:3])
    with pytest.raises(ValueError, match="count different target pixels"):
        paired_intervals(a, b[::-1])
