"""What the check finds in splits: every fault once, in one line; class weights."""

import shutil

import numpy as np
import pytest

from datasets.preparation.check import check_tile_set
from datasets.preparation.check_splits import median_frequency_weights
from tests.datasets.broken import (
    SIZE_PX,
    fault,
    image_of,
    rewrite,
    texts,
    warning,
)


def test_the_same_pixels_in_two_splits(toy):
    rewrite(toy.image_path("d"), image_of("a"))
    shutil.rmtree(toy.root / "modalities")
    assert fault(toy) == (
        "'d' (test), 'a' (train) have the same pixels; take the image out of all splits but one"
    )


def test_the_same_pixels_twice_in_a_split(toy):
    rewrite(toy.image_path("b"), image_of("a"))
    shutil.rmtree(toy.root / "modalities")
    assert warning(toy) == (
        "'a' (train), 'b' (train) have the same pixels; they count more than other tiles"
    )


def test_images_of_one_colour_are_no_duplicates(toy):
    for name in "ad":
        rewrite(toy.image_path(name), np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8))
    shutil.rmtree(toy.root / "modalities")
    assert check_tile_set(toy).faults == []


def test_many_ignored_pixels(toy):
    rewrite(toy.target_path("a"), np.full((SIZE_PX, SIZE_PX), 255, np.uint8))
    assert texts(check_tile_set(toy).warnings)[-1] == (
        "62.5% of the pixels of train are ignored; check the classes and the masks if you did not "
        "expect that"
    )


def test_the_weights_are_median_frequency_over_frequency():
    counts = np.array([[60, 40, 0], [90, 0, 10], [0, 0, 0]])
    # Frequencies: 150/200, 40/100 and 10/100; their median is 0.4.
    assert median_frequency_weights(counts) == (0.5333, 1.0, 4.0)


def test_a_class_without_a_pixel_has_weight_0_and_no_part_in_the_median():
    counts = np.array([[60, 0, 40, 0]])
    assert median_frequency_weights(counts) == pytest.approx((0.5 / 0.6, 0, 0.5 / 0.4, 0), rel=1e-3)


def test_a_split_without_a_labelled_pixel_has_no_weights():
    assert median_frequency_weights(np.zeros((2, 3), np.int64)) is None
    assert median_frequency_weights(np.zeros((0, 3), np.int64)) is None
