import numpy as np
import pytest

from utils.visualization.colors import (
    PanelRow,
    colorize,
    colorize_segments,
    colorize_values,
    draw_boundaries,
    error_picture,
    overlay,
    prediction_panel,
)
from utils.visualization.panels import Cell

PALETTE = ((200, 0, 0), (0, 100, 0))
CLASSES = ("building", "low vegetation")


def photo(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_colorize_paints_classes_and_ignored_pixels():
    target = np.array([[0, 1, 255]], dtype=np.uint8)
    picture = colorize(target, PALETTE)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[200, 0, 0], [0, 100, 0], [0, 0, 0]]]


def test_higher_values_are_brighter_in_even_steps_and_no_data_is_black():
    colors = colorize_values(np.linspace(1, 65535, 50).astype(np.int32)[None])
    assert colors.dtype == np.uint8 and colors.shape == (1, 50, 3)
    brightness = colors[0] @ [0.299, 0.587, 0.114]
    steps = np.diff(brightness)
    assert steps.min() > 0.8 * steps.mean() and steps.max() < 1.2 * steps.mean()
    assert colorize_values(np.array([[0, 1]])).tolist() == [[[0, 0, 0], [8, 8, 40]]]


def test_colorize_takes_the_indices_of_a_network():
    assert colorize(np.array([[1]], dtype=np.int64), PALETTE).tolist() == [[[0, 100, 0]]]


@pytest.mark.parametrize("index", [2, -1, 300])
def test_colorize_refuses_an_index_without_color(index):
    with pytest.raises(ValueError, match=f"class index {index} has no colour; the palette has 2"):
        colorize(np.array([[index]]), PALETTE)


def test_overlay_blends_classes_and_leaves_ignored_pixels():
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    target = np.array([[0, 1, 255]], dtype=np.uint8)
    blended = overlay(image, target, PALETTE, alpha=0.25)
    assert blended.dtype == np.uint8
    assert blended.tolist() == [[[125, 75, 75], [75, 100, 75], [100, 100, 100]]]
    assert np.array_equal(overlay(image, target, PALETTE, alpha=0), image)
    assert overlay(image, target, PALETTE, alpha=1)[0, 0].tolist() == [200, 0, 0]


def test_overlay_refuses_another_size():
    with pytest.raises(ValueError, match=r"image is \(4, 4\) and target \(4, 5\)"):
        overlay(photo(4, 4), np.zeros((4, 5), np.uint8), PALETTE)


def test_segment_colors_depend_on_the_id_alone():
    ids = np.array([[0, 1, 2], [2, 1, 70000]])
    picture = colorize_segments(ids)
    assert picture.dtype == np.uint8
    assert picture.shape == (2, 3, 3)
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, 1].tolist() == picture[1, 1].tolist()
    assert picture[0, 2].tolist() == picture[1, 0].tolist()
    assert np.array_equal(colorize_segments(ids[:, 1:].astype(np.int32)), picture[:, 1:])


def test_segment_colors_are_bright_and_far_apart():
    colors = colorize_segments(np.arange(1, 2001)[np.newaxis])[0].astype(int)
    assert colors.max(axis=1).min() >= 150
    assert len(np.unique(colors, axis=0)) > 1980
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() >= 60  # of neighbouring ids


def test_boundaries_are_one_pixel_wide_and_the_image_is_kept():
    image = photo(4, 5)
    before = image.copy()
    ids = np.array([[1, 1, 1, 2, 2], [1, 1, 1, 2, 2], [3, 3, 3, 3, 3], [3, 3, 3, 3, 3]])
    drawn = draw_boundaries(image, ids, color=(1, 2, 3))
    border = (drawn == (1, 2, 3)).all(axis=2)
    assert border.astype(int).tolist() == [
        [0, 0, 1, 0, 0],
        [1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert np.array_equal(drawn[~border], before[~border])
    assert np.array_equal(image, before)


def test_one_segment_has_no_boundary():
    image = photo(3, 3)
    assert np.array_equal(draw_boundaries(image, np.ones((3, 3), int)), image)


def test_errors_are_red_on_a_dimmed_grey_image():
    image = np.array([[[255, 255, 255], [0, 0, 0], [9, 9, 9], [9, 9, 9]]], dtype=np.uint8)
    target = np.array([[0, 1, 1, 255]], dtype=np.uint8)
    prediction = np.array([[0, 1, 0, 1]])
    assert error_picture(image, target, prediction).tolist() == [
        [[193, 193, 193], [40, 40, 40], [235, 30, 40], [0, 0, 0]]
    ]


def rows_of_panel(**changes):
    image = photo(40, 60)
    target = np.zeros((40, 60), np.uint8)
    target[:, 30:] = 1
    values = {"image": image, "target": target, "prediction": 1 - target, **changes}
    return [PanelRow(**values)]


def has_color(picture, color):
    return bool((picture == color).all(axis=2).any())


def test_panel_shows_every_column_and_a_legend():
    structure = Cell(picture=np.full((40, 60, 3), (1, 200, 3), np.uint8), smooth=False)
    panel = prediction_panel(rows_of_panel(structure=structure), CLASSES, PALETTE, cell_px=60)
    assert has_color(panel, (1, 200, 3))  # structure
    assert has_color(panel, (235, 30, 40))  # wrong pixels
    strip = panel[-80:]  # the lowest pictures end above it
    assert has_color(strip, PALETTE[0])
    assert has_color(strip, PALETTE[1])


def test_panel_without_targets_has_two_columns():
    narrow = prediction_panel(rows_of_panel(target=None), CLASSES, PALETTE, cell_px=100)
    wide = prediction_panel(rows_of_panel(), CLASSES, PALETTE, cell_px=100)
    assert narrow.shape[1] == 2 * 20 + 2 * 100 + 10
    assert wide.shape[1] == 2 * 20 + 4 * 100 + 3 * 10
    assert not has_color(narrow, (235, 30, 40))


def test_panel_of_one_pixel():
    pixel = np.zeros((1, 1), np.uint8)
    rows = [PanelRow(image=photo(1, 1), target=pixel, prediction=pixel)]
    panel = prediction_panel(rows, CLASSES, PALETTE, cell_px=64)
    assert panel.dtype == np.uint8


def test_panel_keeps_its_margin_white_under_long_names():
    panel = prediction_panel(
        [*rows_of_panel(title="a very long tile id " * 20), *rows_of_panel()],
        ("a class name that is much wider than the whole panel " * 10, "water"),
        PALETTE,
        cell_px=50,
    )
    for edge in (panel[:15], panel[-15:], panel[:, :15], panel[:, -15:]):
        assert (edge == 255).all()
