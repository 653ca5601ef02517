"""Recall by size of objects, against scipy's labelling."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from utils.evaluation.objects import AREAS_PX, COUNTS, SIZE_NAMES, object_counts, object_scores

IGNORED = 255


def by_scipy(target, prediction, num_classes):
    counts = np.zeros((num_classes, len(AREAS_PX) + 1, len(COUNTS)), dtype=np.int64)
    for c in range(num_classes):
        labels, number = ndimage.label(target == c)
        for index in range(1, number + 1):
            area = int((labels == index).sum())
            right = int(((labels == index) & (prediction == c)).sum())
            size = sum(area >= edge for edge in AREAS_PX)
            counts[c, size] += [area, right, 1, right >= area / 2]
    return counts


@pytest.mark.parametrize("shape", [(160, 241), (1, 900), (900, 1)])
@pytest.mark.parametrize("side", [1, 5, 40])
def test_counts_equal_those_of_labelled_regions(shape, side):
    rng = np.random.default_rng(side)
    small = rng.integers(3, size=[-(-length // side) for length in shape]).astype(np.uint8)
    target = np.kron(small, np.ones((side, side), np.uint8))[: shape[0], : shape[1]]
    target[rng.random(shape) < 0.05] = IGNORED
    other = rng.integers(3, size=shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.5, target, other)
    counts = object_counts(target, prediction, 4)
    np.testing.assert_array_equal(counts, by_scipy(target, prediction, 4))


def test_a_comb_whose_teeth_meet_in_the_last_row_is_one_object():
    comb = np.zeros((50, 41), np.uint8)
    comb[:, ::2] = 1
    comb[-1] = 1
    counts = object_counts(comb, comb, 2)[..., 2]
    assert counts.tolist() == [[20, 0, 0, 0, 0], [0, 0, 1, 0, 0]]


def test_an_area_belongs_to_the_class_that_begins_with_it():
    target = np.zeros((16, 33), np.uint8)
    target[:, :16] = 1  # 256 px
    target[:, 17:32] = 1  # 240 px
    scores = object_scores(object_counts(target, target, 2))
    assert scores.num_objects[1].tolist() == [1, 1, 0, 0, 0]
    middle = [f"{low}-{high - 1}" for low, high in pairwise(AREAS_PX)]
    assert list(SIZE_NAMES) == [f"<{AREAS_PX[0]}", *middle, f">={AREAS_PX[-1]}"]
    assert scores.detected[1, :2].tolist() == scores.recall[1, :2].tolist() == [1, 1]
    assert np.isnan(scores.detected[1, 2:]).all() and np.isnan(scores.recall[1, 2:]).all()
    nothing = object_scores(object_counts(np.full_like(target, IGNORED), target, 2))
    assert not nothing.num_objects.any() and np.isnan(nothing.detected).all()
