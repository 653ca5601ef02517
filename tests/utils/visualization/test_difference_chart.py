"""The picture of differences: bars end where their numbers say, and nothing leaves the page."""

import math

import numpy as np
import pytest

from utils.evaluation.compare import Difference
from utils.visualization.difference_chart import Panel, difference_chart

BLUE, PALE_BLUE = (24, 100, 171), (167, 196, 223)


def difference(value, low=math.nan, high=math.nan):
    return Difference(value=value, low=low, high=high)


def panel(*differences, title="sam", note=""):
    return Panel(title=title, note=note, series={"zeroed": differences})


def columns(picture, color, rows=slice(None)):
    return np.flatnonzero((picture[rows] == color).all(axis=2).any(axis=0))


def plot(picture):
    """The rows below title and legend, where colours are those of bars."""
    return slice(150, picture.shape[0])


def assert_white_edges(picture, edge_px=15):
    for edge in (
        picture[:edge_px],
        picture[-edge_px:],
        picture[:, :edge_px],
        picture[:, -edge_px:],
    ):
        assert (edge == 255).all()


def test_bars_and_intervals_have_the_lengths_of_their_numbers():
    picture = difference_chart([panel(difference(-0.10, -0.20, -0.05))], ["mean"], "title")
    rows = plot(picture)
    bar, line = columns(picture, PALE_BLUE, rows), columns(picture, BLUE, rows)
    zero_px = bar.max()
    per_point = (zero_px - line.min()) / 20  # the interval begins 20 points before zero
    assert zero_px - bar.min() == pytest.approx(10 * per_point, abs=2)
    assert zero_px - line.max() == pytest.approx(5 * per_point, abs=3)
    assert_white_edges(picture)


def test_panels_have_one_scale():
    picture = difference_chart(
        [panel(difference(-0.2)), panel(difference(-0.1), title="height")], ["mean"], "title"
    )
    bars = (picture == PALE_BLUE).all(axis=2).sum(axis=1)
    lengths = sorted({int(length) for length in bars if length > 20})
    assert len(lengths) == 2 and lengths[0] == pytest.approx(lengths[1] / 2, abs=2)


def test_a_gain_goes_to_the_other_side():
    picture = difference_chart([panel(difference(-0.1), difference(0.1))], ["a", "b"], "title")
    rows = (picture[plot(picture)] == PALE_BLUE).all(axis=2)
    found = [np.flatnonzero(row) for row in rows if row.any()]
    assert found[0].max() <= found[-1].min() + 1


def test_unknown_differences_have_no_bar():
    picture = difference_chart([panel(difference(math.nan))], ["mean"], "title")
    assert not columns(picture, PALE_BLUE, plot(picture)).size
    assert_white_edges(picture)


def test_nothing_changes_is_drawn_too():
    picture = difference_chart([panel(difference(0.0, 0.0, 0.0))], ["mean"], "title")
    assert columns(picture, BLUE, plot(picture)).size
    assert_white_edges(picture)


def test_long_names_and_notes_stay_on_the_page():
    long = "a name that is far longer than what a column of names may take of the page " * 3
    panels = [panel(*[difference(-0.5, -1, 0.3)] * 3, title=long, note=long)]
    picture = difference_chart(panels, [long, "b", "c"], long, width_px=500)
    assert picture.shape[1] == 500 and picture.dtype == np.uint8
    assert_white_edges(picture)
