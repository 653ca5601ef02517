"""Boundary IoU and F1 against the distance between every two pixels."""

import numpy as np
import pytest

from utils.evaluation import boundary as boundaries
from utils.evaluation.boundary import COUNTS, WIDTHS_PX, boundary_counts, boundary_scores

IGNORED = 255


def literal(target, prediction, num_classes, widths_px):
    """The definitions, one class, one pair of pixels at a time."""
    prediction = np.where(target == IGNORED, IGNORED, prediction)
    rows, columns = (axis.ravel() for axis in np.indices(target.shape))
    apart = np.maximum(abs(rows[:, None] - rows), abs(columns[:, None] - columns))
    counts = np.zeros((len(widths_px), num_classes, len(COUNTS)), dtype=np.int64)
    for c in range(num_classes):
        own, near, contour = [], [], []
        for labels in (target.ravel(), prediction.ravel()):
            other = (labels != c) & (labels != IGNORED)
            to_other = np.where(other, apart, 10**6).min(1)
            own.append(labels == c)
            near.append([own[-1] & (to_other <= width) for width in widths_px])
            contour.append(own[-1] & (to_other <= 1))
        reach = [np.where(mask, apart, 10**6).min(1) for mask in contour]
        for w, width in enumerate(widths_px):
            counts[w, c] = [
                near[0][w].sum(),
                near[1][w].sum(),
                (near[0][w] & near[1][w]).sum(),
                contour[0].sum(),
                contour[1].sum(),
                (contour[0] & (reach[1] <= width)).sum(),
                (contour[1] & (reach[0] <= width)).sum(),
            ]
    return counts


def blocks(rng, shape, num_classes, side):
    """Random labels in blocks, with some ignored pixels."""
    small = rng.integers(num_classes, size=[-(-length // side) for length in shape])
    labels = np.kron(small, np.ones((side, side), int))[: shape[0], : shape[1]].astype(np.uint8)
    return labels


@pytest.mark.parametrize("strip_rows", [1, 4, 256])
@pytest.mark.parametrize(
    ("shape", "num_classes", "side"),
    [((23, 31), 3, 4), ((30, 17), 6, 9), ((20, 20), 11, 3), ((1, 40), 3, 5), ((40, 1), 3, 5)],
)
def test_counts_equal_the_distances_between_all_pixels(
    monkeypatch, strip_rows, shape, num_classes, side
):
    monkeypatch.setattr(boundaries, "_STRIP_ROWS", strip_rows)
    rng = np.random.default_rng(sum(shape) + side)
    target, prediction = (blocks(rng, shape, num_classes, side) for _ in range(2))
    prediction = np.where(rng.random(shape) < 0.7, target, prediction)
    target[rng.random(shape) < 0.1] = IGNORED
    expected = literal(target, prediction, num_classes, WIDTHS_PX)
    np.testing.assert_array_equal(boundary_counts(target, prediction, num_classes), expected)
    assert expected[:, :, 2].any() and (expected[0] != expected[-1]).any()


@pytest.mark.parametrize("strip_rows", [1, 2, 256])
def test_a_contour_at_the_full_width_is_seen_from_another_strip(monkeypatch, strip_rows):
    """What makes row 8 a contour is row 9, which is farther from row 0 than any width."""
    monkeypatch.setattr(boundaries, "_STRIP_ROWS", strip_rows)
    target, prediction = np.zeros((12, 1), np.uint8), np.zeros((12, 1), np.uint8)
    target[9:], prediction[1:] = 1, 1
    counts = boundary_counts(target, prediction, 2)
    assert counts[:, 0, COUNTS.index("matched_prediction")].tolist() == [0, 0, 0, 1]


def test_the_last_classes_of_a_large_set_are_counted():
    target = np.tile(np.array([253, 254], np.uint8), (5, 3))
    counts = boundary_counts(target, target, 255)
    assert counts[0, 253:].tolist() == [[15] * 7] * 2
    assert not counts[:, :253].any()


def test_scores_of_a_border_worked_out_by_hand():
    """Eight columns, the border of two classes one pixel too far to the right."""
    target = np.tile(np.array([0, 0, 0, 0, 1, 1, 1, 1], np.uint8), (5, 1))
    prediction = np.tile(np.array([0, 0, 0, 0, 0, 1, 1, 1], np.uint8), (5, 1))
    found = boundary_scores(boundary_counts(target, prediction, 2, (1, 2)), (1, 2))
    # Class 0, width 1: column 3 and column 4; width 2: columns 2-3 and 3-4.
    np.testing.assert_allclose(found.iou, [[0, 0], [1 / 3, 1 / 3]])
    np.testing.assert_allclose(found.f1, [[1, 1], [1, 1]])  # one pixel off is within 1
    far = np.tile(np.array([0, 0, 0, 0, 0, 0, 1, 1], np.uint8), (5, 1))
    np.testing.assert_allclose(
        boundary_scores(boundary_counts(target, far, 2, (1, 2)), (1, 2)).f1, [[0, 0], [1, 1]]
    )


def test_widths_of_half_the_precision_and_all_the_recall():
    target = np.zeros((9, 40), np.uint8)
    target[:, :10] = 1
    prediction = target.copy()
    prediction[:, 30:] = 1  # a second object that is not there
    found = boundary_scores(boundary_counts(target, prediction, 2, (1,)), (1,))
    np.testing.assert_allclose(found.f1[0], [2 * 0.5 / 1.5, 2 * 0.5 / 1.5])


def test_nothing_is_a_border_next_to_ignored_pixels_or_at_the_edge():
    target = np.zeros((12, 12), np.uint8)
    target[:, 5:7] = IGNORED
    assert not boundary_counts(target, np.ones_like(target), 2).any()
    target[:, 7:] = 1  # seen from 3 px on, across the two ignored columns
    counts = boundary_counts(target, target, 2)
    assert counts[:, 0, 0].tolist() == [0, 0, 2 * 12, 5 * 12]
    assert not counts[:, :, 3:].any()  # no two classes touch: there is no contour


@pytest.mark.parametrize("value", [0, IGNORED])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 3)])
def test_without_a_border_there_is_no_score(value, shape):
    target = np.full(shape, value, np.uint8)
    found = boundary_scores(boundary_counts(target, np.zeros_like(target), 2))
    assert np.isnan(found.iou).all() and np.isnan(found.f1).all()


def test_a_border_in_one_of_the_two_only_scores_zero():
    target, prediction = np.zeros((6, 6), np.uint8), np.zeros((6, 6), np.uint8)
    target[2:4, 2:4] = 1
    found = boundary_scores(boundary_counts(target, prediction, 3))
    assert (found.iou[:, :2] == 0).all() and (found.f1[:, :2] == 0).all()
    assert np.isnan(found.iou[:, 2]).all()


def test_counts_of_images_are_added():
    rng = np.random.default_rng(3)
    pairs = [[blocks(rng, (16, 16), 3, 4) for _ in range(2)] for _ in range(2)]
    apart = [np.full((9, 16), IGNORED, np.uint8)] * 2  # more than the largest width
    joined = [
        np.concatenate([a, gap, b]) for a, gap, b in zip(*[pairs[0], apart, pairs[1]], strict=True)
    ]
    total = sum(boundary_counts(*pair, 3) for pair in pairs)
    np.testing.assert_array_equal(boundary_counts(*joined, 3), total)


def test_arguments_are_left_alone():
    rng = np.random.default_rng(4)
    target, prediction = (blocks(rng, (20, 20), 3, 4) for _ in range(2))
    target[3] = IGNORED
    copies = target.copy(), prediction.copy()
    boundary_counts(target, prediction, 3)
    np.testing.assert_array_equal(target, copies[0])
    np.testing.assert_array_equal(prediction, copies[1])
