import math
import warnings

import pytest
import torch

from utils.evaluation import metrics
from utils.evaluation.metrics import confusion_matrix, scores

MATRIX = torch.tensor([[6, 2, 0], [1, 3, 0], [1, 0, 7]])


def indices(*values):
    return torch.tensor(values, dtype=torch.uint8)


@pytest.mark.parametrize("part_px", [1, 7, 1 << 18])
def test_confusion_matrix_agrees_with_counting_one_by_one(monkeypatch, part_px):
    """Arrays that are not contiguous, with every class index that a byte can hold."""
    monkeypatch.setattr(metrics, "_PART_PX", part_px)
    generator = torch.Generator().manual_seed(0)
    target, prediction = torch.randint(0, 255, (2, 20, 8), generator=generator).byte().mT
    target[:3], prediction[2:5] = 255, 254
    expected = torch.zeros(255, 255, dtype=torch.int64)
    for row, column in zip(target.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if row != 255:
            expected[row, column] += 1
    assert torch.equal(confusion_matrix(target, prediction, 255), expected)


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ([2], [0], "target holds class index 2, allowed are 0..1"),
        ([0], [255], "prediction holds class index 255, allowed are 0..1"),
        ([0, 0], [0], "target is (2,) and prediction (1,); they must have one shape"),
    ],
)
def test_confusion_matrix_refuses_what_it_cannot_count(target, prediction, message):
    with pytest.raises(ValueError) as caught:
        confusion_matrix(indices(*target), indices(*prediction), 2)
    assert str(caught.value) == message


def test_scores_of_a_matrix_worked_out_by_hand():
    result = scores(MATRIX)
    assert result.iou == pytest.approx((6 / 10, 3 / 6, 7 / 8))
    assert result.f1 == pytest.approx((12 / 16, 6 / 9, 14 / 15))
    assert result.precision == pytest.approx((6 / 8, 3 / 5, 1.0))
    assert result.recall == pytest.approx((6 / 8, 3 / 4, 7 / 8))
    assert result.support == (8, 4, 8)
    assert result.oa == pytest.approx(16 / 20)
    assert result.miou == pytest.approx((0.6 + 0.5 + 0.875) / 3)
    assert result.mf1 == pytest.approx((0.75 + 2 / 3 + 14 / 15) / 3)
    assert result.mprecision == pytest.approx((0.75 + 0.6 + 1) / 3)
    assert result.mrecall == pytest.approx((0.75 + 0.75 + 0.875) / 3)
    # By chance, (8 * 8 + 4 * 5 + 8 * 7) / 400 would agree.
    assert result.kappa == pytest.approx((0.8 - 0.35) / (1 - 0.35))


def test_left_out_classes_are_in_no_mean_and_in_everything_else():
    whole, result = scores(MATRIX), scores(MATRIX, [1])
    assert (result.iou, result.support, result.oa) == (whole.iou, whole.support, whole.oa)
    assert result.kappa == whole.kappa
    assert result.miou == pytest.approx((6 / 10 + 7 / 8) / 2)
    assert result.mf1 == pytest.approx((12 / 16 + 14 / 15) / 2)
    assert result.mprecision == pytest.approx((6 / 8 + 1) / 2)
    assert result.mrecall == pytest.approx((6 / 8 + 7 / 8) / 2)
    assert math.isnan(scores(MATRIX, [0, 1, 2]).miou)


def test_a_class_that_does_not_occur_is_nan_and_one_on_one_side_only_is_zero():
    result = scores(torch.tensor([[3, 0, 1], [0, 0, 0], [0, 0, 4]]))
    for values in (result.iou, result.f1, result.precision, result.recall):
        assert [math.isnan(value) for value in values] == [False, True, False]
    assert result.miou == pytest.approx((3 / 4 + 4 / 5) / 2)
    result = scores(torch.tensor([[0, 0, 2], [0, 5, 0], [0, 0, 0]]))  # 0: target, 2: prediction
    for values in (result.iou, result.f1, result.precision, result.recall):
        assert values == (0.0, 1.0, 0.0)
    assert result.miou == pytest.approx(1 / 3)
    assert result.oa == pytest.approx(5 / 7)


def test_everything_ignored_gives_nan_without_a_warning():
    target = torch.full((4, 4), 255, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = scores(confusion_matrix(target, torch.zeros_like(target), 2))
    assert result.support == (0, 0)
    means = (result.miou, result.mf1, result.mprecision, result.mrecall, result.oa, result.kappa)
    assert all(math.isnan(value) for value in (*result.iou, *result.f1, *means))


def test_limits():
    count = 2**40 + 1  # float32 would round it
    assert scores(torch.tensor([[count, 0], [1, 0]])).support == (count, 1)
    assert math.isnan(scores(torch.tensor([[5, 0], [0, 0]])).kappa)
