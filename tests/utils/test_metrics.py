import math
import warnings

import pytest
import torch

from utils.metrics import confusion_matrix, scores


def test_confusion_by_hand():
    target = torch.tensor([[0, 0, 1], [2, 255, 1]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 1, 1], [0, 2, 1]], dtype=torch.uint8)
    assert confusion_matrix(target, prediction, 3).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_what_is_predicted_on_ignored_pixels_does_not_matter():
    target = torch.tensor([0, 255])
    for wild in (1, 77, 255):
        counts = confusion_matrix(target, torch.tensor([1, wild]), 2)
        assert counts.tolist() == [[0, 1], [0, 0]]


def test_indices_out_of_range_and_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"target holds class index 3, allowed are 0\.\.1"):
        confusion_matrix(torch.tensor([3]), torch.tensor([0]), 2)
    with pytest.raises(ValueError, match="prediction holds class index -1"):
        confusion_matrix(torch.tensor([0]), torch.tensor([-1]), 2)
    with pytest.raises(ValueError, match=r"target is \(2,\) and prediction \(1,\)"):
        confusion_matrix(torch.zeros(2), torch.zeros(1), 2)


def test_scores_by_hand():
    """Class 0: 3 hits, 1 missed, 2 false. Class 1: 4 hits, 2 missed, 1 false."""
    result = scores(torch.tensor([[3, 1], [2, 4]]))
    assert result.iou == pytest.approx((3 / 6, 4 / 7))
    assert result.f1 == pytest.approx((6 / 9, 8 / 11))
    assert result.precision == pytest.approx((3 / 5, 4 / 5))
    assert result.recall == pytest.approx((3 / 4, 4 / 6))
    assert result.support == (4, 6)
    assert result.miou == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert result.mf1 == pytest.approx((6 / 9 + 8 / 11) / 2)
    assert result.oa == pytest.approx(7 / 10)


def test_a_class_that_does_not_occur_is_nan_and_left_out_of_the_mean():
    result = scores(torch.tensor([[3, 0, 0], [0, 0, 0], [1, 0, 4]]))
    assert math.isnan(result.iou[1])
    assert result.miou == pytest.approx((3 / 4 + 4 / 5) / 2)


def test_a_class_that_is_only_predicted_or_only_missed_counts_zero():
    result = scores(torch.tensor([[3, 1], [0, 0]]))
    assert result.iou == pytest.approx((3 / 4, 0)) and result.miou == pytest.approx(3 / 8)
    assert (result.precision[1], result.recall[1]) == (0, 0)


def test_everything_ignored_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = scores(torch.zeros(2, 2, dtype=torch.int64))
    assert all(map(math.isnan, (result.miou, result.mf1, result.oa, *result.iou)))


def test_a_single_pixel():
    result = scores(confusion_matrix(torch.tensor(1), torch.tensor(1), 2))
    assert (result.miou, result.oa, result.support) == (1.0, 1.0, (0, 1))


def test_large_counts_stay_exact():
    big = 3_000_000_000_000_001
    assert scores(torch.tensor([[big, 0], [1, 1]])).support == (big, 2)
