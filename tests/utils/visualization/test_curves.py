import numpy as np
import pytest

from utils.visualization.curves import curves

FIRST, SECOND = (24, 100, 171), (224, 122, 20)
NAN, INF = float("nan"), float("inf")


def draw(series, **options):
    return curves(series, "title", "step", "loss", **options)


def columns_with(picture, color, top=100):
    """Which columns below the legend hold a colour."""
    return np.flatnonzero((picture[top:] == color).all(axis=2).any(axis=0))


def assert_white_edges(picture, edge_px=12):
    for edge in (
        picture[:edge_px],
        picture[-edge_px:],
        picture[:, :edge_px],
        picture[:, -edge_px:],
    ):
        assert (edge == 255).all()


def test_size_is_what_was_asked_for():
    assert draw({"a": [(0, 1), (1, 2)]}).shape == (480, 800, 3)
    small = draw({"a": [(0, 1), (1, 2)]}, height_px=240, width_px=320)
    assert small.shape == (240, 320, 3)
    assert small.dtype == np.uint8
    with pytest.raises(ValueError, match=r"240 x 320 pixels or more .* not 100 x 320"):
        draw({}, height_px=100, width_px=320)


def test_a_legend_of_many_lines_makes_the_picture_higher():
    names = [f"a series with a long name {index}" for index in range(12)]
    few, many = (
        draw({name: [(0, 0), (1, 9)] for name in chosen}, height_px=240, width_px=320)
        for chosen in (names[:1], names)
    )
    assert few.shape == (240, 320, 3)
    assert many.shape[0] > 240 + 11 * 15
    assert_white_edges(many)


def test_every_series_is_drawn_in_its_color():
    picture = draw({"a": [(0, 1), (10, 2)], "b": [(0, 2), (10, 1)]})
    for color in (FIRST, SECOND):
        columns = columns_with(picture, color)
        assert columns.max() - columns.min() > 600


def test_higher_values_stand_higher():
    picture = draw({"low": [(0, 1), (1, 1)], "high": [(0, 9), (1, 9)]})
    rows = [
        np.flatnonzero((picture[100:] == color).all(axis=2).any(axis=1)).mean()
        for color in (FIRST, SECOND)
    ]
    assert rows[0] > rows[1] + 200


def test_points_that_are_not_finite_interrupt_the_line():
    whole = draw({"a": [(0, 1), (1, 1.5), (2, 1.2), (3, 1.4), (4, 2)]})
    broken = draw({"a": [(0, 1), (1, 1.5), (2, NAN), (3, 1.4), (4, 2), (5, INF), (NAN, 3)]})
    assert np.diff(columns_with(whole, FIRST)).max() < 20
    assert np.diff(columns_with(broken, FIRST)).max() > 200


@pytest.mark.parametrize(
    "series",
    [
        {},
        {"a": []},
        {"a": [(0, NAN)]},
        {"a": [(3, 0.5)]},
        {"a": [(0, 0), (1, 0)]},
        {"a": [(0, -3.3), (1, -3.3)]},
        {"a": [(0, 1e-7), (1e9, 3e-7)]},
        {"a": [(0, -1e12), (1, 1e12)]},
        {"a": [(0.1, 123.4561), (0.2, 123.4562)]},
        {f"a series with a long name {index}": [(0, index), (1, 2)] for index in range(12)},
    ],
)
@pytest.mark.parametrize("size", [{}, {"height_px": 300, "width_px": 400}])
def test_awkward_series_are_drawn_without_touching_the_border(series, size):
    assert_white_edges(draw(series, **size))


def test_long_title_is_cut_inside_the_picture():
    assert_white_edges(curves({"a": [(0, 1), (1, 2)]}, "title " * 100, "x", "y"))
