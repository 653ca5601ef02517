"""Colours of classes, segments, values and errors, by hand."""

import numpy as np
import pytest

from utils.visualization.colors import (
    colorize,
    colorize_segments,
    colorize_values,
    draw_boundaries,
    overlay,
)

PALETTE = ((200, 0, 0), (0, 100, 0))


def test_colorize_paints_classes_and_ignored_pixels():
    for dtype in (np.uint8, np.int64):
        picture = colorize(np.array([[0, 1, 255]], dtype=dtype), PALETTE)
        assert picture.dtype == np.uint8
        assert picture.tolist() == [[[200, 0, 0], [0, 100, 0], [0, 0, 0]]]
    for index in (2, -1, 300):
        with pytest.raises(ValueError, match=f"class index {index} has no colour; the palette ha"):
            colorize(np.array([[index]]), PALETTE)


def test_higher_values_are_brighter_in_even_steps_and_no_data_is_black():
    colors = colorize_values(np.linspace(1, 65535, 50).astype(np.int32)[None])
    assert colors.dtype == np.uint8 and colors.shape == (1, 50, 3)
    brightness = colors[0] @ [0.299, 0.587, 0.114]
    steps = np.diff(brightness)
    assert steps.min() > 0.8 * steps.mean() and steps.max() < 1.2 * steps.mean()
    assert colorize_values(np.array([[0, 1]])).tolist() == [[[0, 0, 0], [8, 8, 40]]]


def test_overlay_blends_classes_and_leaves_ignored_pixels():
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    target = np.array([[0, 1, 255]], dtype=np.uint8)
    blended = overlay(image, target, PALETTE, alpha=0.25)
    assert blended.dtype == np.uint8
    assert blended.tolist() == [[[125, 75, 75], [75, 100, 75], [100, 100, 100]]]
    with pytest.raises(ValueError, match=r"image is \(4, 4\) and target \(4, 5\)"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), PALETTE)


def test_segment_colors_depend_on_the_id_alone_and_are_bright_and_far_apart():
    ids = np.array([[0, 1, 2], [2, 1, 70000]])
    picture = colorize_segments(ids)
    assert picture.dtype == np.uint8 and picture.shape == (2, 3, 3)
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, 1].tolist() == picture[1, 1].tolist()
    assert picture[0, 2].tolist() == picture[1, 0].tolist()
    assert np.array_equal(colorize_segments(ids[:, 1:].astype(np.int32)), picture[:, 1:])
    colors = colorize_segments(np.arange(1, 2001)[np.newaxis])[0].astype(int)
    assert colors.max(axis=1).min() >= 150
    assert len(np.unique(colors, axis=0)) > 1980
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() >= 60  # of neighbouring ids


def test_boundaries_are_one_pixel_wide_and_the_image_is_kept():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    before = image.copy()
    ids = np.array([[1, 1, 1, 2, 2], [1, 1, 1, 2, 2], [3, 3, 3, 3, 3], [3, 3, 3, 3, 3]])
    drawn = draw_boundaries(image, ids, color=(1, 2, 3))
    border = (drawn == (1, 2, 3)).all(axis=2)
    assert border[:2].astype(int).tolist() == [[0, 0, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert not border[2:].any()
    assert np.array_equal(drawn[~border], before[~border])
    assert np.array_equal(image, before)
