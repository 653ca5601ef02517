"""Masks of a SAM made by hand: measured, thinned out and painted; test_sam.py has the real ones."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.structure.sam_masks import Crop, Masks, drop_cut_off, measure, paint, suppress
from models.structure.segments import canonical
from tests.models.literal_paint import paint_literally
from utils.boxes import Box


def as_masks(arrays, crop_of=None):
    """Masks whose coarse logits have the size of their crop: 9 inside and -9 outside."""
    count = len(arrays)
    return Masks(
        coarse=torch.from_numpy(np.stack(arrays)) * 18.0 - 9,
        crop=torch.tensor(crop_of or [0] * count),
        boxes=torch.zeros(count, 4, dtype=torch.int64),
        areas=torch.tensor([int(array.sum()) for array in arrays]),
        iou=torch.linspace(1, 0.5, count),
        stability=torch.zeros(count),
    )


def with_boxes(*boxes):
    masks = as_masks([np.zeros((9, 9), bool)] * len(boxes))
    return replace(masks, boxes=torch.tensor(boxes))


def crop(top, left, height, width):
    return Crop(Box(top, left, height, width), torch.eye(height), torch.eye(width))


def painted(arrays):
    size = arrays[0].shape
    return paint(as_masks(arrays), [crop(0, 0, *size)], size).numpy()


@pytest.mark.parametrize("seed", range(4))
def test_painting_follows_the_rule_in_any_order_of_the_masks(seed):
    rng, arrays = np.random.default_rng(seed), np.zeros((8, 12, 15), bool)
    for array in arrays:
        y, x = rng.integers(0, 12), rng.integers(0, 15)
        array[y : y + rng.integers(1, 8), x : x + rng.integers(1, 8)] = True
    expected = canonical(paint_literally(arrays, (12, 15)))
    for order in (range(8), rng.permutation(8)):
        np.testing.assert_array_equal(canonical(painted(arrays[order])), expected)


def test_masks_of_equal_area_are_ordered_by_where_they_lie():
    rows = ([1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1])
    arrays = [np.array([row], dtype=bool) for row in rows]
    for order in itertools.permutations(arrays):
        np.testing.assert_array_equal(canonical(painted(order)), [[1, 1, 1, 2, 3]])


def test_masks_of_crops_are_painted_where_the_crops_lie():
    arrays = [np.ones((4, 5), bool), np.eye(4, 5, dtype=bool), np.ones((4, 5), bool)]
    crops = [crop(0, 0, 4, 5), crop(2, 3, 4, 5)]
    ids = paint(as_masks(arrays, [0, 1, 1]), crops, (6, 8)).numpy()
    expected = np.zeros((6, 8), int)
    expected[2:, 3:] = 1  # of equal areas the later in raster order is painted first
    expected[:4, :5] = 2
    expected[2:, 3:][np.eye(4, 5, dtype=bool)] = 3
    np.testing.assert_array_equal(ids, expected)


def test_box_area_and_stability_are_counted_pixel_by_pixel():
    logits = torch.full((3, 4, 6), -9.0)
    logits[0, 1, 2:4] = torch.tensor([0.5, 3.0])  # one pixel between the thresholds
    logits[0, 2, 2] = 3.0
    logits[1, 0, 0] = -0.5  # empty at 0, one pixel at -1
    place, iou = crop(10, 20, 4, 6), torch.ones(3)
    found = measure(logits, iou, place, 5, 1.0, 0.0)
    assert found.crop.tolist() == [5, 5, 5]
    assert found.areas.tolist() == [3, 0, 0]
    assert found.boxes.tolist() == [[22, 11, 23, 12], [20, 10, 20, 10], [20, 10, 20, 10]]
    assert found.stability[:2].tolist() == pytest.approx([2 / 3, 0])
    assert found.stability[2].isnan()
    assert len(measure(logits, iou, place, 5, 1.0, 2 / 3)) == 1  # >=, as in the package
    assert len(measure(logits, iou, place, 5, 1.0, 0.7)) == 0


def test_area_of_rows_beyond_the_range_of_int16():
    wide = Crop(Box(0, 0, 1, 40_000), torch.eye(1), torch.ones(40_000, 1))
    found = measure(torch.full((1, 1, 1), 9.0), torch.ones(1), wide, 0, 1.0, 0.5)
    assert found.areas.tolist() == [40_000] and found.stability.tolist() == [1]


def test_masks_that_a_crop_cuts_off_go_but_not_at_the_border_of_the_image():
    masks = with_boxes([40, 30, 79, 40], [30, 40, 55, 70], [0, 0, 55, 50])
    inside = drop_cut_off(masks, crop(0, 0, 100, 80), (300, 300))
    assert inside.boxes.tolist() == masks.boxes[1:].tolist()
    assert len(drop_cut_off(masks, crop(0, 0, 100, 80), (100, 80))) == 3


def test_of_masks_with_one_box_the_best_rated_stays():
    masks = with_boxes([0, 0, 8, 8], [0, 0, 8, 7], [4, 4, 8, 8])
    assert suppress(masks, masks.iou, 0.7).boxes.tolist() == [[0, 0, 8, 8], [4, 4, 8, 8]]
    assert suppress(masks, masks.iou.flip(0), 0.7).boxes.tolist() == [[4, 4, 8, 8], [0, 0, 8, 7]]
