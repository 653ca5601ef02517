import numpy as np
import pytest

from utils.charts import confusion_picture, legend
from utils.contact_sheet import Cell, contact_sheet
from utils.curves import curves
from utils.visualize import (
    PanelRow,
    colorize,
    colorize_segments,
    draw_boundaries,
    error_picture,
    overlay,
    prediction_panel,
)

PALETTE = ((255, 0, 0), (0, 100, 200))
TARGET = np.array([[0, 1, 255]], np.uint8)
IMAGE = np.full((1, 3, 3), 100, np.uint8)


def assert_clean_border(picture):
    """Nothing is cut off at the edge of the page."""
    assert picture.dtype == np.uint8 and picture.ndim == 3
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 255).all()


def test_colours_by_hand():
    assert colorize(TARGET, PALETTE)[0].tolist() == [[255, 0, 0], [0, 100, 200], [0, 0, 0]]
    with pytest.raises(ValueError, match="class index 1 has no colour; the palette has 1"):
        colorize(TARGET, PALETTE[:1])


def test_overlay_by_hand():
    blended = overlay(IMAGE, TARGET, PALETTE, alpha=0.5)
    assert blended[0].tolist() == [[178, 50, 50], [50, 100, 150], [100, 100, 100]]


def test_errors_by_hand():
    picture = error_picture(IMAGE, TARGET, np.array([[0, 0, 0]], np.uint8))
    assert picture[0, 0].tolist() == [100, 100, 100]
    assert picture[0, 1, 0] > 200 and picture[0, 2].tolist() == [0, 0, 0]


def test_segments_have_colours_of_their_own():
    ids = np.arange(300).reshape(20, 15)
    picture = colorize_segments(ids)
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert len({tuple(color) for color in picture.reshape(-1, 3).tolist()}) > 290
    assert np.array_equal(colorize_segments(ids[5:])[0], picture[5])


def test_boundaries_by_hand():
    ids = np.array([[1, 1, 2], [1, 1, 2]])
    image = np.zeros((2, 3, 3), np.uint8)
    drawn = draw_boundaries(image, ids, (9, 9, 9))
    assert (drawn[..., 0] == [[0, 9, 0], [0, 9, 0]]).all() and image.max() == 0


def test_sizes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"image is \(1, 3\) and target \(1, 2\)"):
        overlay(IMAGE, TARGET[:, :2], PALETTE)


@pytest.mark.parametrize("size", [(1, 1), (10, 300), (64, 64)])
def test_panels_fit_any_size_and_long_names(size):
    target = np.zeros(size, np.uint8)
    row = PanelRow(
        image=np.zeros((*size, 3), np.uint8),
        prediction=target,
        target=target,
        structure=Cell(picture=np.zeros((*size, 3), np.uint8), smooth=False),
        title="a very long tile name that goes on and on and on " * 3,
    )
    names = ["impervious surfaces and everything that is similar to them", "b"]
    assert_clean_border(prediction_panel([row, row], names, PALETTE))
    assert_clean_border(
        prediction_panel([PanelRow(image=row.image, prediction=target)], names, PALETTE)
    )


def test_class_colours_are_never_blended_on_a_sheet():
    checker = np.indices((7, 7)).sum(0) % 2 * 255
    picture = np.repeat(checker[..., None], 3, 2).astype(np.uint8)
    sheet = contact_sheet([[Cell(picture=picture, smooth=False)]], [""], cell_px=100)
    assert set(np.unique(sheet)) == {0, 255}


@pytest.mark.parametrize("num_classes", [2, 6, 20])
def test_confusion_pictures_fit_their_names(num_classes):
    counts = np.random.default_rng(0).integers(0, 1000, (num_classes, num_classes))
    counts[0] = 0
    names = [f"class number {i} with quite a long name" for i in range(num_classes)]
    assert_clean_border(confusion_picture(counts, names))


def test_curves_and_legends_stay_on_their_page():
    series = {"loss": [(0, 3.0), (10, 1.0), (20, float("nan")), (30, 0.5)], "empty": []}
    assert_clean_border(curves(series, "a title", "step", "loss"))
    assert_clean_border(curves({"one": [(1, 1.0)]}, "", "", ""))
    strip = legend([f"class {i}" for i in range(30)], [(i, i, i) for i in range(30)], 200)
    assert strip.shape[1] == 200
