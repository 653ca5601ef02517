"""Charts: the artists of each figure show the values given."""

import os
import subprocess
import sys

import numpy as np
from matplotlib.colors import to_hex

from tests.utils.visualization.test_panels import assert_white_edges
from utils.visualization.charts import (
    Bars,
    Curves,
    DifferencePanel,
    confusion_chart,
    difference_chart,
    reliability_diagram,
    run_chart,
)

NAN, INF = float("nan"), float("inf")
CLASSES = ["road", "Gebäude", "$tree$"]
PALETTE = [(255, 255, 255), (0, 0, 255), (0, 255, 0)]
COUNTS = np.array([[80, 20, 0], [1, 2, 1], [0, 0, 0]])
LONG = "a name that is far longer than a page leaves room for, $such as$ this one, " * 3


def hexes(colors):
    return [to_hex(color) for color in colors]


def drawn_bars(axes):
    """Horizontal and vertical bars with an extent: (x0, y0, width, height), colour and outline."""
    return [
        ((*bar.get_xy(), bar.get_width(), bar.get_height()), to_hex(bar.get_facecolor()), bar)
        for bar in axes.patches
        if bar.get_width() and bar.get_height()
    ]


def test_confusion_chart_has_a_target_class_a_row_and_a_prediction_a_column_with_colours():
    (axes,) = confusion_chart(COUNTS, CLASSES, PALETTE).figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "target")
    shown = np.ma.filled(axes.images[0].get_array(), NAN)
    np.testing.assert_allclose(shown, [[0.8, 0.2, 0], [0.25, 0.5, 0.25], [NAN] * 3])
    assert axes.yaxis_inverted() and not axes.xaxis_inverted()  # the first row is the upper one
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[1, 0] == "20.0" and texts[0, 1] == "25.0"  # (x, y) = (column, row)
    assert texts[2, 0] == "0" and texts[0, 2] == texts[2, 2] == "-"
    for axis in (axes.xaxis, axes.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == CLASSES
        assert not axis.get_ticklabels()[2].get_parse_math()
        np.testing.assert_array_equal(axis.get_ticklocs(), [0, 1, 2])
    rows, columns = axes.collections
    for swatches, along in ((rows, 1), (columns, 0)):
        np.testing.assert_array_equal(swatches.get_offsets()[:, along], [0, 1, 2])
        assert (swatches.get_offsets()[:, 1 - along] < -0.5).all()  # outside the cells
        assert hexes(swatches.get_facecolor()) == ["#ffffff", "#0000ff", "#00ff00"]
        assert hexes(swatches.get_edgecolor()) == ["#bfbfbf", "#0000bf", "#00bf00"]


def reliability(*bins, num_bins=10):
    """Bins as (index, pixels, confidence, accuracy)."""
    pixels, confidence, accuracy = [0] * num_bins, [NAN] * num_bins, [NAN] * num_bins
    for index, *values in bins:
        pixels[index], confidence[index], accuracy[index] = values
    return reliability_diagram(
        bin_pixels=pixels,
        bin_confidence=confidence,
        bin_accuracy=accuracy,
        error=0.123 if bins else NAN,
        confidence=0.6,
        accuracy=0.5,
    )


def test_reliability_diagram_shows_accuracy_gaps_and_pixels_at_their_confidence():
    chart = reliability((7, 300, 0.75, 0.5), (2, 100, 0.25, 0.4))
    upper, lower = chart.figure.axes
    (_, over, under) = hexes(handle.get_facecolor() for handle in upper.get_legend().get_patches())
    names = [text.get_text() for text in upper.get_legend().get_texts()]
    assert names == ["accuracy", "overconfidence", "underconfidence"]
    shown = {}
    for (x, y, width, height), color, _ in drawn_bars(upper):
        shown.setdefault(round(x + width / 2), []).append((round(y), round(y + height), color))
    assert [bar[:2] for bar in shown[75]] == [(0, 50), (50, 75)] and shown[75][1][2] == over
    assert [bar[:2] for bar in shown[25]] == [(0, 40), (40, 25)] and shown[25][1][2] == under
    percents = {round(x + width / 2): height for (x, _, width, height), _, _ in drawn_bars(lower)}
    assert percents == {25: 25, 75: 75}
    assert upper.get_xlim() == lower.get_xlim() == upper.get_ylim() == (0, 100)
    texts = [text.get_text() for text in chart.figure.texts]
    assert texts[0] == "expected calibration error 12.30 %"
    assert texts[1] == "mean confidence 60.00 %, accuracy 50.00 % of 400 pixels"
    assert reliability().figure.texts[0].get_text() == "no labelled pixel"


def differences(*panels, rows=("mean", "road")):
    return difference_chart(panels, rows, "title", level=0.9)


def test_difference_chart_bars_start_at_zero_and_lines_span_the_intervals():
    chart = differences(
        DifferencePanel(title="sam", series={"b": [(-0.1, -0.2, -0.05), (0.02, -0.01, 0.04)]}),
        DifferencePanel(
            title="depth", series={"a": [(0.3, 0.1, 0.9), (NAN, NAN, NAN), (-1e-9, -1e-9, 0)]}
        ),
    )
    first, second = chart.figure.axes
    bars = [box for box, _, _ in drawn_bars(first)]
    np.testing.assert_allclose([(x, width) for x, _, width, _ in bars], [(0, -10), (0, 2)])
    middles = [y + height / 2 for _, y, _, height in bars]
    np.testing.assert_allclose(middles, first.get_yticks())  # beside the name of their row
    assert [label.get_text() for label in first.get_yticklabels()] == ["mean", "road"]
    assert first.yaxis_inverted()
    lines = [line.get_xdata() for line in first.lines if line.get_marker() == "|"]
    np.testing.assert_allclose(lines, [(-20, -5), (-1, 4)])
    numbers = [(text.get_text(), text.get_color()) for text in first.texts]
    assert [number for number, _ in numbers] == ["-10.00", "+2.00"]
    assert numbers[0][1] != numbers[1][1]  # the second interval includes zero
    assert [text.get_text() for text in second.texts] == ["+30.00", "-", "0.00"]
    assert first.get_xlim() == second.get_xlim() and first.get_xlim()[1] > 90
    colors = [to_hex(axes.patches[0].get_facecolor()) for axes in (first, second)]
    (legend,) = chart.figure.legends
    assert hexes(patch.get_facecolor() for patch in legend.get_patches()) == colors
    assert [text.get_text() for text in legend.get_texts()] == ["b", "a"]
    assert "90%" in chart.figure.texts[1].get_text()


def run(series, **options):
    plots = [Curves(title="loss", y_label="loss", series=series)] * 2
    return run_chart(title="run", note="note", curves=plots, **{"facts": {}, **options})


def test_run_chart_draws_a_curve_a_series_and_breaks_it_at_unknown_values():
    chart = run({"a": [(1, 5), (2, NAN), (3, INF), (4, 7)], "_b": [(1, 2), (9, 3)]})
    axes = chart.figure.axes[0]
    first, second = axes.lines
    np.testing.assert_array_equal(first.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(first.get_ydata(), [5, NAN, NAN, 7])
    np.testing.assert_array_equal(second.get_xydata(), [(1, 2), (9, 3)])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "_b"]
    assert first.get_color() != second.get_color() and first.get_marker() != second.get_marker()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")


def test_run_chart_bars_are_as_long_as_the_scores_and_outlined():
    names, values = [*CLASSES, "mean"], [1.0, 0.25, NAN, 0.0]
    bars = Bars(title="IoU", names=names, values=values, colors=[*PALETTE, (9, 9, 9)])
    axes = run({"a": [(1, 2)]}, bars=bars).figure.axes[2]
    shown = [bar for bar in drawn_bars(axes) if bar[2].get_linewidth()][-2:]
    (_, first_y, first, _), (_, second_y, second, _) = (box for box, _, _ in shown)
    assert (first, second) == (100, 25) and first_y < second_y and axes.yaxis_inverted()
    assert [color for _, color, _ in shown] == ["#ffffff", "#0000ff"]
    assert hexes(bar.get_edgecolor() for _, _, bar in shown) == ["#bfbfbf", "#0000bf"]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert [text.get_text() for text in axes.texts] == ["100.00", "25.00", "-", "0.00"]
    assert [text.get_position()[1] for text in axes.texts] == [0, 1, 2, 3]


def test_run_chart_shows_the_worst_tiles_pixel_by_pixel():
    rng = np.random.default_rng(0)
    worst = rng.integers(0, 255, (300, 501, 3), dtype=np.uint8)
    bars = Bars(title="IoU", names=[LONG], values=[1.0], colors=PALETTE[:1])  # widens the page
    page = run({}, bars=bars, worst=worst, worst_title="worst", facts={"seed": "0"}).pixels()
    tops, lefts = np.nonzero((page[:-1, :-1] == worst[0, 0]).all(-1))
    assert any(
        np.array_equal(page[top : top + 300, left : left + 501], worst)
        for top, left in zip(tops, lefts, strict=True)
    )


def test_charts_of_awkward_values_keep_their_margin():
    series = {LONG: [(0, 0, 0)] * 2, "_b": [(0, NAN, NAN)] * 2}
    panel = DifferencePanel(title=LONG, note=LONG, series=series)
    bars = Bars(title=LONG, names=[LONG] * 2, values=[NAN, 1], colors=PALETTE[:2])
    curves = {f"{index} {LONG}": [(0, 1e12 * index), (1, 2)] for index in range(12)}
    for chart in (
        confusion_chart(np.eye(2), [LONG, "ab日本"]),
        reliability(),
        differences(panel, DifferencePanel(title="none", series={}), rows=[LONG, "Straße"]),
        run(curves, bars=bars, facts={"frozen ViTs": LONG}, worst_title=LONG),
    ):
        picture = chart.pixels()
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        assert_white_edges(picture)


def test_matplotlib_prints_nothing(tmp_path):
    """Not even with a home folder that cannot be written and a matplotlibrc with mistakes."""
    (tmp_path / "matplotlibrc").write_text("backend: TkAgg\nno.such.key: 1\n")
    code = (
        "import sys; from utils.visualization.charts import confusion_chart\n"
        "confusion_chart([[1, 2], [3, 4]], ['a', 'b']).pixels()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {**os.environ, "MPLCONFIGDIR": "/dev/null/x", "MATPLOTLIBRC": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
