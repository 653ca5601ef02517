import math
import warnings

import pytest
import torch

from utils.evaluation import metrics
from utils.evaluation.metrics import confusion_matrix, scores


def test_confusion_matrix_counts_pairs_and_skips_ignored_pixels():
    target = torch.tensor([[0, 0, 1], [2, 255, 1]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 1, 1], [0, 2, 1]])
    confusion = confusion_matrix(target, prediction, 3)
    assert confusion.dtype == torch.int64
    assert confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 1, 3, 4), (0,)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_confusion_matrix_takes_any_shape_and_dtype(shape, dtype):
    target = torch.ones(shape, dtype=dtype)
    confusion = confusion_matrix(target, torch.zeros(shape, dtype=dtype), 2)
    assert confusion.tolist() == [[0, 0], [math.prod(shape), 0]]


def test_confusion_matrix_agrees_with_counting_one_by_one():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 7, (3, 20, 30), generator=generator)
    prediction = torch.randint(0, 7, (3, 20, 30), generator=generator)
    target[0, :5] = 255
    expected = torch.zeros(7, 7, dtype=torch.int64)
    for row, column in zip(target.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if row != 255:
            expected[row, column] += 1
    assert torch.equal(confusion_matrix(target, prediction, 7), expected)


@pytest.mark.parametrize("part_px", [1, 7, 1 << 18])
def test_bytes_are_counted_as_all_other_numbers_are(monkeypatch, part_px):
    monkeypatch.setattr(metrics, "_PART_PX", part_px)
    generator = torch.Generator().manual_seed(0)
    target, prediction = torch.randint(0, 254, (2, 8, 40), generator=generator)
    target[:3], prediction[2:5] = 255, 253
    expected = confusion_matrix(target, prediction, 254)
    turned = [x.to(torch.uint8).t().contiguous().t() for x in (target, prediction)]
    assert torch.equal(confusion_matrix(*turned, 254), expected) and expected.sum() == 5 * 40


def test_confusion_matrix_leaves_its_arguments_alone():
    target, prediction = torch.tensor([1, 2, 0]), torch.tensor([2, 2, 1])
    confusion_matrix(target, prediction, 3)
    assert target.tolist() == [1, 2, 0]
    assert prediction.tolist() == [2, 2, 1]


def test_confusion_matrix_does_not_read_the_prediction_under_ignored_pixels():
    confusion = confusion_matrix(torch.tensor([255, 0]), torch.tensor([99, 0]), 2)
    assert confusion.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ([2], [0], "target holds class index 2, allowed are 0..1"),
        ([0], [255], "prediction holds class index 255, allowed are 0..1"),
        ([0, 0], [0], "target is (2,) and prediction (1,); they must have one shape"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_confusion_matrix_refuses_what_it_cannot_count(target, prediction, message, dtype):
    with pytest.raises(ValueError) as caught:
        confusion_matrix(torch.tensor(target).to(dtype), torch.tensor(prediction).to(dtype), 2)
    assert str(caught.value) == message


def test_confusion_matrix_refuses_a_negative_index():
    with pytest.raises(ValueError, match=r"prediction holds class index -1, allowed are 0\.\.1"):
        confusion_matrix(torch.tensor([0]), torch.tensor([-1]), 2)


def test_scores_of_a_matrix_worked_out_by_hand():
    result = scores(torch.tensor([[6, 2, 0], [1, 3, 0], [1, 0, 7]]))
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


def test_class_that_does_not_occur_is_nan_and_not_averaged():
    result = scores(torch.tensor([[3, 0, 1], [0, 0, 0], [0, 0, 4]]))
    for values in (result.iou, result.f1, result.precision, result.recall):
        assert [math.isnan(value) for value in values] == [False, True, False]
    assert result.miou == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert result.support == (4, 0, 4)


def test_class_in_target_or_prediction_only_counts_zero():
    result = scores(torch.tensor([[0, 0, 2], [0, 5, 0], [0, 0, 0]]))  # 0: target, 2: prediction
    for values in (result.iou, result.f1, result.precision, result.recall):
        assert values == (0.0, 1.0, 0.0)
    assert result.miou == pytest.approx(1 / 3)
    assert result.oa == pytest.approx(5 / 7)


def test_everything_ignored_gives_nan_without_a_warning():
    target = torch.full((4, 4), 255)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = scores(confusion_matrix(target, torch.zeros_like(target), 2))
    assert result.support == (0, 0)
    means = (result.miou, result.mf1, result.mprecision, result.mrecall, result.oa, result.kappa)
    assert all(math.isnan(value) for value in (*result.iou, *result.f1, *means))


def test_single_pixel():
    result = scores(confusion_matrix(torch.tensor(1), torch.tensor(1), 2))
    assert (result.miou, result.mf1, result.oa) == (1.0, 1.0, 1.0)
    assert result.support == (0, 1)


def test_large_counts_keep_every_pixel():
    count = 2**40 + 1  # float32 would round it
    assert scores(torch.tensor([[count, 0], [1, 0]])).support == (count, 1)


def test_scores_refuse_a_matrix_that_is_not_square():
    with pytest.raises(ValueError, match=r"square, not \(2, 3\)"):
        scores(torch.zeros(2, 3))


def test_kappa_worked_out_by_hand():
    # 15 of 20 agree; by chance (8 * 11 + 12 * 9) / 400 would.
    result = scores(torch.tensor([[7, 1], [4, 8]]))
    assert result.kappa == pytest.approx((0.75 - 0.49) / (1 - 0.49))


def test_kappa_below_chance_is_negative_and_of_one_class_unknown():
    assert scores(torch.tensor([[0, 5], [5, 0]])).kappa == -1
    assert math.isnan(scores(torch.tensor([[5, 0], [0, 0]])).kappa)


@pytest.mark.parametrize("absent", [(), (2,), (0, 4)])
def test_scores_equal_those_of_scikit_learn(absent):
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(len(absent))
    target = torch.randint(0, 5, (4000,), generator=generator)
    prediction = torch.where(
        torch.rand(4000, generator=generator) < 0.6,
        target,
        torch.randint(0, 5, (4000,), generator=generator),
    )
    kept = torch.tensor(
        [
            int(t) not in absent and int(p) not in absent
            for t, p in zip(target, prediction, strict=True)
        ]
    )
    counted = target.clone()
    counted[~kept] = 255
    result = scores(confusion_matrix(counted, prediction, 5))
    y = target[kept].numpy(), prediction[kept].numpy()
    labels = [index for index in range(5) if index not in absent]
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(*y, labels=labels)
    for ours, theirs in (
        (result.precision, precision),
        (result.recall, recall),
        (result.f1, f1),
        (result.iou, sklearn.jaccard_score(*y, labels=labels, average=None)),
    ):
        assert [ours[index] for index in labels] == pytest.approx(theirs.tolist())
        assert all(math.isnan(ours[index]) for index in absent)
    assert [result.support[index] for index in labels] == support.tolist()
    assert result.kappa == pytest.approx(sklearn.cohen_kappa_score(*y))
    assert result.oa == pytest.approx(sklearn.accuracy_score(*y))
    assert result.mf1 == pytest.approx(f1.mean())


def test_left_out_classes_are_in_no_mean_and_in_everything_else():
    confusion = torch.tensor([[6, 2, 0], [1, 3, 0], [1, 0, 7]])
    whole, result = scores(confusion), scores(confusion, [1])
    assert (result.iou, result.support, result.oa) == (whole.iou, whole.support, whole.oa)
    assert result.kappa == whole.kappa
    assert result.miou == pytest.approx((6 / 10 + 7 / 8) / 2)
    assert result.mf1 == pytest.approx((12 / 16 + 14 / 15) / 2)
    assert result.mprecision == pytest.approx((6 / 8 + 1) / 2)
    assert result.mrecall == pytest.approx((6 / 8 + 7 / 8) / 2)
    assert math.isnan(scores(confusion, [0, 1, 2]).miou)
