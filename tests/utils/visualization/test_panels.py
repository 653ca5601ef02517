"""Contact sheets, prediction panels and legends, pixel by pixel."""

import numpy as np

from utils.visualization.panels import Cell, PanelRow, contact_sheet, legend, prediction_panel

PALETTE = ((200, 0, 0), (0, 100, 0))
CLASSES = ("Gebäude", "low vegetation")
RED, BLACK = (235, 30, 40), (0, 0, 0)  # of error maps: wrong and ignored
LONG = "a title that is much longer than the picture below it is wide"


def flat(height, width, color=(10, 20, 30), smooth=True):
    return Cell(picture=np.full((height, width, 3), color, np.uint8), smooth=smooth)


def has(picture, color):
    return (picture == color).all(axis=2)


def size(mask):
    """Height and width of what is marked."""
    return int(mask.any(axis=1).sum()), int(mask.any(axis=0).sum())


def assert_white_edges(sheet, edge_px=15):
    for edge in (sheet[:edge_px], sheet[-edge_px:], sheet[:, :edge_px], sheet[:, -edge_px:]):
        assert (edge == 255).all()


def test_pictures_are_fitted_with_their_aspect_kept():
    grey = Cell(picture=np.full((50, 100), 77, np.uint8))
    sheet = contact_sheet([[flat(10, 40), grey]], ["a", "b"], cell_px=80)
    assert size(has(sheet, (10, 20, 30))) == (20, 80)
    assert size(has(sheet, (77, 77, 77))) == (40, 80)
    assert sheet.shape[1] == 20 + 80 + 10 + 80 + 20
    very_flat = contact_sheet([[flat(1, 1000)]], [""], cell_px=64)
    assert size(has(very_flat, (10, 20, 30))) == (1, 64)


def test_class_colors_are_never_blended_and_photos_are():
    checks = np.indices((101, 101)).sum(axis=0) % 2 * 255
    picture = np.repeat(checks[..., np.newaxis], 3, axis=2).astype(np.uint8)
    area = np.s_[50:90, 25:65]
    sharp = contact_sheet([[Cell(picture=picture, smooth=False)]], ["a"], cell_px=50)[area]
    smooth = contact_sheet([[Cell(picture=picture)]], ["a"], cell_px=50)[area]
    assert set(np.unique(sharp)) <= {0, 255}
    assert smooth.min() > 60 and smooth.max() < 200


def test_long_titles_widen_the_sheet_and_row_titles_make_it_higher():
    plain = contact_sheet([[flat(1, 1)]], [LONG], cell_px=30)
    titled = contact_sheet([[flat(1, 1)]], ["a"], [LONG], cell_px=30)
    assert titled.shape[0] > plain.shape[0] + 15
    for sheet in (plain, titled):
        assert sheet.shape[1] > 40 + 5 * len(LONG)
        assert_white_edges(sheet)


def test_pictures_are_framed_and_empty_places_stay_white():
    sheet = contact_sheet([[None, flat(9, 9, (255,) * 3)], [None, None]], ["", ""], cell_px=40)
    frame = (sheet != 255).any(axis=2)
    assert size(frame) == (42, 42) and frame.sum() == 42 * 42 - 40 * 40


def test_legend_wraps_at_its_width_and_outlines_every_swatch():
    classes, palette = ["water", "road", "roof"] * 4, [(1, 2, 3), (4, 5, 6), (255, 255, 255)] * 4
    wide, narrow = legend(classes, palette, 2000), legend(classes, palette, 120)
    assert (wide.shape[1], narrow.shape[1]) == (2000, 120)
    assert narrow.shape[0] > 8 * wide.shape[0] and (narrow[:, -1] == 255).all()
    for color in palette[:2]:
        assert has(narrow, color).sum() == 4 * 11 * 11  # inside the outline
    outline = has(wide, (191, 191, 191))
    assert outline[:, : wide.shape[1]].sum() >= 4 * (13 * 13 - 11 * 11)
    firsts = [np.flatnonzero(has(wide, color).any(axis=0))[0] for color in palette[:2]]
    assert firsts[0] < firsts[1] and firsts[0] == 1  # in the given order, from the left edge
    strip = legend(["name " * 50], [(1, 2, 3)], 150)
    assert strip.shape[1] == 150 and (strip[:, -1] == 255).all()
    with_accent, without = (legend([name], [(1, 2, 3)], 150) for name in ("Häuser", "Hauser"))
    assert not np.array_equal(with_accent, without)


def rows_of_panel(**changes):
    """The left half is class 0, predicted as 1; the right half class 1, predicted rightly."""
    target = np.zeros((40, 60), np.uint8)
    target[:, 30:] = 1
    target[:10] = 255
    values = {"image": np.full((40, 60, 3), 90, np.uint8), "target": target, **changes}
    return [PanelRow(prediction=np.ones_like(target), **values)]


def test_panel_shows_image_structure_target_prediction_and_errors_in_this_order():
    structure = flat(40, 60, (1, 200, 3), smooth=False)
    panel = prediction_panel(rows_of_panel(structure=structure), CLASSES, PALETTE, cell_px=120)
    top = np.flatnonzero(has(panel, (90, 90, 90)).any(axis=1))[0]
    image, seen, target, prediction, errors = (
        panel[top : top + 80 : 2, left : left + 120 : 2] for left in range(20, 20 + 5 * 130, 130)
    )
    assert has(image, (90, 90, 90)).all() and has(seen, (1, 200, 3)).all()
    assert has(target[:10], BLACK).all()
    assert has(target[10:, :30], PALETTE[0]).all() and has(target[10:, 30:], PALETTE[1]).all()
    assert has(prediction, PALETTE[1]).all()
    assert has(errors[:10], BLACK).all() and has(errors[10:, :30], RED).all()
    assert has(errors[10:, 30:], (94, 94, 94)).all()
    legend_colors = [*PALETTE, RED, BLACK]
    assert all(has(panel[top + 80 :], color).sum() >= 11 * 11 for color in legend_colors)
    assert_white_edges(panel)
    without = prediction_panel(rows_of_panel(target=None), CLASSES, PALETTE, cell_px=100)
    assert without.shape[1] == 2 * 20 + 2 * 100 + 10 and not has(without, RED).any()
