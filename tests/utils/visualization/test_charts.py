import numpy as np
import pytest

from utils.visualization.charts import bars, confusion_picture, legend
from utils.visualization.typesetting import printable, shorten, text_width_px

HOTTEST = (10, 48, 104)
ABSENT = (232, 233, 235)


def count(picture, color):
    return int((picture == color).all(axis=2).sum())


def assert_white_edges(picture, edge_px=15):
    for edge in (
        picture[:edge_px],
        picture[-edge_px:],
        picture[:, :edge_px],
        picture[:, -edge_px:],
    ):
        assert (edge == 255).all()


@pytest.mark.parametrize("with_palette", [False, True])
@pytest.mark.parametrize("num_classes", [1, 2, 10, 20])
def test_confusion_picture_of_few_and_many_classes(num_classes, with_palette):
    classes = [f"class number {index}" for index in range(num_classes)]
    palette = [(250, 10 * index, 0) for index in range(num_classes)] if with_palette else None
    picture = confusion_picture(np.eye(num_classes, dtype=np.int64) * 9, classes, palette)
    cell_px = 58 if num_classes <= 10 else 46
    assert picture.dtype == np.uint8
    assert picture.shape[0] > num_classes * cell_px
    assert count(picture, HOTTEST) > num_classes * cell_px**2 / 2
    assert count(picture, ABSENT) < 57 * 57 / 10  # edges of letters
    assert_white_edges(picture)
    if palette:
        assert count(picture, palette[-1]) > 2 * 11 * 11 - 1  # at both axes


def test_long_class_names_widen_the_confusion_picture():
    name = "an extraordinarily long class name, such as impervious surface (unpaved)"
    picture = confusion_picture(np.eye(2), [name, "b"])
    assert picture.shape[1] >= 2 * 20 + text_width_px(name) + 2 * 58
    assert picture.shape[0] >= 2 * 20 + text_width_px(name) + 2 * 58
    assert_white_edges(picture)


def test_short_class_names_stand_upright_only_if_they_must():
    short = confusion_picture(np.eye(2), ["no", "yes"])
    long = confusion_picture(np.eye(2), ["no", "background"])
    assert short.shape[0] < long.shape[0]
    assert_white_edges(short)


def test_rows_without_target_pixels_are_grey():
    picture = confusion_picture(np.array([[5, 0], [0, 0]]), ["a", "b"])
    assert count(picture, ABSENT) > 2 * 57 * 57 * 0.9
    assert count(confusion_picture(np.zeros((2, 2)), ["a", "b"]), HOTTEST) == 0


def test_rows_are_normalised_on_their_own():
    rare = confusion_picture(np.array([[1, 1], [0, 10**12]]), ["a", "b"])
    common = confusion_picture(np.array([[500, 500], [0, 3]]), ["a", "b"])
    assert np.array_equal(rare, common)


def test_legend_has_the_width_asked_for_and_wraps():
    classes, palette = ["water", "road", "building"] * 4, [(1, 2, 3), (4, 5, 6), (7, 8, 9)] * 4
    wide, narrow = legend(classes, palette, 2000), legend(classes, palette, 200)
    assert wide.shape[1] == 2000
    assert narrow.shape[1] == 200
    assert narrow.shape[0] > 3 * wide.shape[0]
    for color in palette:
        assert count(narrow, color) == 4 * 11 * 11


def test_legend_shortens_a_name_that_does_not_fit():
    strip = legend(["name " * 50], [(1, 2, 3)], 150)
    assert strip.shape[1] == 150
    assert (strip[:, -1] == 255).all()


def test_empty_legend():
    assert legend([], [], 100).shape == (1, 100, 3)


def test_shortened_text_fits_and_ends_in_an_ellipsis():
    assert shorten("water", 200) == "water"
    cut = shorten("impervious surface", 60)
    assert cut.endswith("…")
    assert text_width_px(cut) <= 60


def test_printable_text_is_one_line_without_accents():
    assert printable("Gebäude\n und  Straßen") == "Gebaude und Straßen"


def bar_px(picture, color):
    """Width and height of a bar without its outline."""
    rows, columns = np.nonzero((picture == color).all(axis=2))
    return (np.ptp(columns) + 1, np.ptp(rows) + 1) if len(rows) else (0, 0)


def test_bars_are_as_long_as_their_shares():
    palette = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (9, 9, 9)]
    shares = [1.0, 0.25, 0.0, float("nan")]
    picture = bars(shares, ["one", "two", "three", "none"], palette, "title", width_px=440)
    assert picture.shape[1] == 440 and picture.dtype == np.uint8
    full, quarter, nothing, absent = (bar_px(picture, color) for color in palette)
    assert abs(quarter[0] + 2 - (full[0] + 2) / 4) <= 1 and full[0] > 200
    assert quarter[1] == full[1] and nothing == absent == (0, 0)
    assert_white_edges(picture)


def test_bars_of_many_classes_with_long_names_stay_on_the_page():
    names = [f"a class with a name that is far too long to be shown, {i}" for i in range(30)]
    palette = [(255 - i, i, 100) for i in range(30)]
    picture = bars([0.5] * 30, names, palette, "a title " * 20, width_px=440)
    assert all(bar_px(picture, color)[0] > 400 / 3 / 2 - 3 for color in palette)
    assert_white_edges(picture)
