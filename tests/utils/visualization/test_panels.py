import numpy as np
import pytest

from utils.visualization.panels import Cell, contact_sheet
from utils.visualization.typesetting import text_width_px


def flat(height, width, color=(10, 20, 30), smooth=True):
    return Cell(picture=np.full((height, width, 3), color, np.uint8), smooth=smooth)


def assert_white_edges(sheet, edge_px=15):
    for edge in (sheet[:edge_px], sheet[-edge_px:], sheet[:, :edge_px], sheet[:, -edge_px:]):
        assert (edge == 255).all()


def test_pictures_are_fitted_with_their_aspect_kept():
    sheet = contact_sheet([[flat(10, 40), flat(50, 100, (200, 0, 0))]], ["a", "b"], cell_px=80)
    first = (sheet == (10, 20, 30)).all(axis=2)
    second = (sheet == (200, 0, 0)).all(axis=2)
    assert (first.any(axis=1).sum(), first.any(axis=0).sum()) == (20, 80)
    assert (second.any(axis=1).sum(), second.any(axis=0).sum()) == (40, 80)
    assert sheet.shape[1] == 20 + 80 + 10 + 80 + 20
    assert sheet.dtype == np.uint8


def test_row_titles_make_the_sheet_higher():
    rows = [[flat(8, 8)], [flat(8, 8)]]
    plain = contact_sheet(rows, ["image"], cell_px=50)
    titled = contact_sheet(rows, ["image"], ["one", "two"], cell_px=50)
    assert titled.shape[1] == plain.shape[1]
    assert titled.shape[0] > plain.shape[0] + 2 * 15


def test_class_colors_are_never_blended_and_photos_are():
    checks = np.indices((101, 101)).sum(axis=0) % 2 * 255
    picture = np.repeat(checks[..., np.newaxis], 3, axis=2).astype(np.uint8)
    area = np.s_[50:90, 25:65]
    sharp = contact_sheet([[Cell(picture=picture, smooth=False)]], ["a"], cell_px=50)[area]
    smooth = contact_sheet([[Cell(picture=picture)]], ["a"], cell_px=50)[area]
    assert set(np.unique(sharp)) <= {0, 255}
    assert smooth.min() > 60
    assert smooth.max() < 200


def test_long_titles_widen_the_sheet():
    title = "a title that is much longer than the picture below it is wide"
    by_column = contact_sheet([[flat(1, 1)]], [title], cell_px=30)
    by_row = contact_sheet([[flat(1, 1)]], ["a"], [title], cell_px=30)
    for sheet in (by_column, by_row):
        assert sheet.shape[1] == 2 * 20 + text_width_px(title)
        assert_white_edges(sheet)


def test_empty_places_stay_white():
    sheet = contact_sheet([[None, flat(9, 9)], [None, None]], ["", ""], cell_px=40)
    assert ((sheet != 255).any(axis=2)).sum() == 40 * 40


def test_very_flat_picture_keeps_one_pixel():
    sheet = contact_sheet([[flat(1, 1000)]], [""], cell_px=64)
    assert (sheet == (10, 20, 30)).all(axis=2).sum() == 64


def test_grey_pictures_are_shown():
    cell = Cell(picture=np.full((5, 5), 77, np.uint8))
    assert (contact_sheet([[cell]], [""], cell_px=20) == 77).all(axis=2).sum() == 400


@pytest.mark.parametrize(
    ("rows", "columns", "row_titles", "message"),
    [
        ([], ["a"], None, "a contact sheet needs at least one row and one column"),
        ([[None, None]], ["a"], None, "row 0 has 2 pictures for 1 columns"),
        ([[None]], ["a"], ["x", "y"], "2 row titles for 1 rows"),
    ],
)
def test_ragged_grids_are_refused(rows, columns, row_titles, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(rows, columns, row_titles)
