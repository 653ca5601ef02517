"""Boundary IoU and F1 against the distance between every two pixels."""

import numpy as np
import pytest

from utils.evaluation import boundary as boundaries
from utils.evaluation.boundary import COUNTS, WIDTHS_PX, boundary_counts, boundary_scores

IGNORED = 255


def literal(target, prediction, num_classes):
    """The definitions, one class, one pair of pixels at a time."""
    prediction = np.where(target == IGNORED, IGNORED, prediction)
    rows, columns = (axis.ravel() for axis in np.indices(target.shape))
    apart = np.maximum(abs(rows[:, None] - rows), abs(columns[:, None] - columns))
    counts = np.zeros((len(WIDTHS_PX), num_classes, len(COUNTS)), dtype=np.int64)
    for c in range(num_classes):
        near, contour = [], []
        for labels in (target.ravel(), prediction.ravel()):
            other = (labels != c) & (labels != IGNORED)
            to_other = np.where(other, apart, 10**6).min(1)
            near.append([(labels == c) & (to_other <= width) for width in WIDTHS_PX])
            contour.append((labels == c) & (to_other <= 1))
        reach = [np.where(mask, apart, 10**6).min(1) for mask in contour]
        for w, width in enumerate(WIDTHS_PX):
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


@pytest.mark.parametrize("strip_rows", [1, 4, 256])
@pytest.mark.parametrize(
    ("shape", "num_classes", "side"), [((23, 31), 3, 4), ((20, 20), 11, 3), ((40, 1), 3, 5)]
)
def test_counts_equal_the_distances_between_all_pixels(
    monkeypatch, strip_rows, shape, num_classes, side
):
    monkeypatch.setattr(boundaries, "_STRIP_ROWS", strip_rows)
    rng = np.random.default_rng(sum(shape) + side)
    small = rng.integers(num_classes, size=(2, *(-(-length // side) for length in shape)))
    blocks = np.kron(small, np.ones((side, side), int)).astype(np.uint8)
    target, prediction = blocks[:, : shape[0], : shape[1]]
    prediction = np.where(rng.random(shape) < 0.7, target, prediction)
    target[rng.random(shape) < 0.1] = IGNORED
    expected = literal(target, prediction, num_classes)
    copies = target.copy(), prediction.copy()
    np.testing.assert_array_equal(boundary_counts(target, prediction, num_classes), expected)
    np.testing.assert_array_equal((target, prediction), copies)
    assert expected[:, :, 2].any() and (expected[0] != expected[-1]).any()


@pytest.mark.parametrize("strip_rows", [1, 2, 256])
def test_a_contour_at_the_full_width_is_seen_from_another_strip(monkeypatch, strip_rows):
    """Row 8 is a contour because of row 9, which is farther from row 0 than any width."""
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


def columns(*classes):
    return np.tile(np.array(classes, np.uint8), (5, 1))


def scores_of(target, prediction, num_classes=2):
    return boundary_scores(boundary_counts(target, prediction, num_classes))


def test_scores_of_a_border_worked_out_by_hand():
    """Eight columns, the border of two classes one pixel too far to the right, then two."""
    target = columns(0, 0, 0, 0, 1, 1, 1, 1)
    found = scores_of(target, columns(0, 0, 0, 0, 0, 1, 1, 1))
    # Class 0, width 1: column 3 and column 4; width 2: columns 2-3 and 3-4.
    np.testing.assert_allclose(found.iou[:2], [[0, 0], [1 / 3, 1 / 3]])
    np.testing.assert_allclose(found.f1[:2], [[1, 1], [1, 1]])  # one pixel off is within 1
    far = scores_of(target, columns(0, 0, 0, 0, 0, 0, 1, 1))
    np.testing.assert_allclose(far.f1[:2], [[0, 0], [1, 1]])
    # A second object that is not there: half the precision and all the recall.
    more = scores_of(columns(1, 1, 1, *[0] * 9), columns(1, 1, 1, *[0] * 6, 1, 1, 1))
    np.testing.assert_allclose(more.f1[0], [2 * 0.5 / 1.5, 2 * 0.5 / 1.5])
    # A border in one of the two only scores 0; a class in neither has no score.
    one_sided = scores_of(columns(0, 0, 0, 0), columns(0, 0, 1, 1), num_classes=3)
    np.testing.assert_array_equal(one_sided.iou, [[0, 0, np.nan]] * 4)
    np.testing.assert_array_equal(one_sided.f1, [[0, 0, np.nan]] * 4)


def test_nothing_is_a_border_next_to_ignored_pixels_or_at_the_edge():
    target = np.zeros((12, 12), np.uint8)
    target[:, 5:7] = IGNORED
    assert not boundary_counts(target, np.ones_like(target), 2).any()
    nothing = scores_of(target, np.zeros_like(target))
    assert np.isnan(nothing.iou).all() and np.isnan(nothing.f1).all()
    target[:, 7:] = 1  # seen from 3 px on, across the two ignored columns
    counts = boundary_counts(target, target, 2)
    assert counts[:, 0, 0].tolist() == [0, 0, 2 * 12, 5 * 12]
    assert not counts[:, :, 3:].any()  # no two classes touch: there is no contour
