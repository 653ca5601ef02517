"""Charts of scores and training runs. The only module that uses matplotlib.

Every function takes plain values (names, numbers, colours) and returns a ``Chart``. A page grows
with its text, so nothing is cut off at an edge.
"""

import io
import logging
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from utils.console import percent, points
from utils.visualization.colors import Color, outline_color

Point = tuple[float, float]
Interval = tuple[float, float, float]  # a value, and the low and the high end of its interval

_DPI = 100
_MARGIN_PX = 20
_INK, _FAINT, _RULE, _ABSENT = "#22262e", "#6e7480", "#e0e3e8", "#e8e9eb"
# The colours of Okabe and Ito, which colour-blind readers can tell apart.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b5b5b")
_MARKERS = "osD^vPX"
_MAX_MARKERS = 20  # on one curve
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "font.size": 10,
    "grid.color": _RULE,
    "legend.borderaxespad": 0,
    "legend.borderpad": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "savefig.dpi": _DPI,
    "text.color": _INK,
    "text.parse_math": False,  # a class name may contain dollar signs
    "xtick.color": _FAINT,
    "ytick.color": _INK,
    "ytick.left": False,
}


@contextmanager
def _style() -> Iterator[None]:
    """Draw in the style of this module, whatever the user's matplotlibrc sets."""
    # Silences the notes about an unwritable home folder and about building the font cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib import style

    with warnings.catch_warnings(), style.context(["default", _STYLE]):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box
        yield


class Chart:
    """A chart, with coordinates in pixels from the upper left corner.

    Args:
        width_px: width of the figure. What stands out is kept: the page is fitted to its content.
        height_px: height of the figure.

    Attributes:
        figure: the ``matplotlib.figure.Figure``.
    """

    def __init__(self, width_px: float, height_px: float) -> None:
        from matplotlib.figure import Figure

        self._size_px = width_px, height_px
        self.figure = Figure(figsize=(width_px / _DPI, height_px / _DPI), dpi=_DPI)

    def axes(self, left_px: float, top_px: float, width_px: float, height_px: float) -> Any:
        """Add axes that fill a rectangle."""
        width, height = self._size_px
        bottom = 1 - (top_px + height_px) / height
        return self.figure.add_axes((left_px / width, bottom, width_px / width, height_px / height))

    def text(self, left_px: float, top_px: float, text: str, **properties: Any) -> None:
        """Write a line of text below and to the right of a point."""
        x, y = left_px / self._size_px[0], 1 - top_px / self._size_px[1]
        self.figure.text(x, y, text, va="top", **properties)

    @_style()
    def pixels(self) -> np.ndarray:
        """Return the chart as ``(H, W, 3)`` uint8 RGB."""
        file = io.BytesIO()
        # "tight" fits the page to its content.
        self.figure.savefig(file, format="png", bbox_inches="tight", pad_inches=_MARGIN_PX / _DPI)
        return np.array(Image.open(file).convert("RGB"))


def _one_line(text: str, num_characters: int = 40) -> str:
    """Return text without line breaks, shortened by an ellipsis."""
    text = " ".join(text.split())
    return text if len(text) <= num_characters else text[: num_characters - 1].rstrip() + "…"


def _outlined(colors: Sequence[Color]) -> dict[str, np.ndarray]:
    """Return matplotlib's colours of outlined bars and swatches: white ones show on white."""
    outlines = [outline_color(color) for color in colors]
    return {"color": np.array(colors) / 255, "edgecolor": np.array(outlines) / 255}


@_style()
def confusion_chart(
    counts: np.ndarray, classes: Sequence[str], palette: Sequence[Color] | None = None
) -> Chart:
    """Draw a confusion matrix: the percentage of each target class predicted as each class.

    Args:
        counts: ``(C, C)`` pixel counts; rows are target classes, columns predicted classes.
        classes: C names.
        palette: C colours, RGB in 0..255, shown beside the names.

    Returns:
        a chart that grows with the names. A class without target pixels has a grey row.
    """
    num_targets = np.sum(counts, axis=1, keepdims=True, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        fractions = counts / num_targets  # nan in rows without target pixels
    num_classes, cell_px = len(classes), 58 if len(classes) <= 10 else 48
    side_px = cell_px * num_classes
    chart = Chart(side_px, side_px)
    axes = chart.axes(0, 0, side_px, side_px)
    axes.set_facecolor(_ABSENT)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for (row, column), fraction in np.ndenumerate(fractions):
        text = "-" if math.isnan(fraction) else f"{100 * fraction:.1f}" if fraction else "0"
        color = "white" if fraction > 0.5 else _INK if fraction > 0 else _FAINT
        cell = axes.text(column, row, text, ha="center", va="center", color=color)
        cell.set_in_layout(False)  # it lies inside the axes, so it need not be measured
    # White lines between the cells.
    edges = np.arange(1, num_classes) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.spines[:].set_visible(False)
    # Names, above and on the left, and swatches between them and the cells.
    axes.tick_params(which="both", length=0, labelcolor=_INK, pad=24 if palette else 6)
    axes.xaxis.tick_top()
    names = [_one_line(name) for name in classes]
    upright = max(map(len, names)) * 8 > cell_px
    axes.set_xticks(range(num_classes), names, rotation=90 if upright else 0)
    axes.set_yticks(range(num_classes), names)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("prediction", color=_FAINT, labelpad=8)
    axes.set_ylabel("target", color=_FAINT, labelpad=8)
    chart.text(0, side_px + 10, "% of the target pixels of each class", color=_FAINT)
    if palette:
        axes.autoscale(False)
        outside, inside = [-0.5 - 14 / cell_px] * num_classes, range(num_classes)
        for x, y in ((outside, inside), (inside, outside)):
            axes.scatter(x, y, s=80, marker="s", clip_on=False, **_outlined(palette))
    return chart


@_style()
def reliability_diagram(
    *,
    bin_pixels: Sequence[int],
    bin_confidence: Sequence[float],
    bin_accuracy: Sequence[float],
    error: float,
    confidence: float,
    accuracy: float,
) -> Chart:
    """Draw accuracy against confidence, and the percentage of pixels in every bin.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, figure 1.

    Args:
        bin_pixels: pixels of each of N bins of equal width in confidence 0..1.
        bin_confidence: mean confidence of each bin in 0..1; nan for an empty bin.
        bin_accuracy: fraction of correct pixels of each bin; nan for an empty bin.
        error: expected calibration error in 0..1; nan if there is no pixel.
        confidence: mean over all pixels.
        accuracy: fraction of correct pixels.
    """
    from matplotlib.patches import Patch

    chart = Chart(480, 720)
    upper, lower = chart.axes(0, 90, 480, 480), chart.axes(0, 600, 480, 110)
    total, num_bins = sum(bin_pixels), len(bin_pixels)
    title, note = "no labelled pixel", ""
    if total:
        title = f"expected calibration error {percent(error)} %"
        note = f"mean confidence {percent(confidence)} %, accuracy {percent(accuracy)} % "
        note += f"of {total:,} pixels"
    chart.text(0, 0, title, size=12)
    chart.text(0, 26, note, color=_FAINT)
    kinds = {"accuracy": "#5a8cbe", "overconfidence": "#e69f00", "underconfidence": "#a9d6f0"}
    handles = [Patch(facecolor=color) for color in kinds.values()]
    upper.legend(handles, kinds, loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3)
    filled, width = np.flatnonzero(bin_pixels), 94 / num_bins
    centers = 100 * (filled + 0.5) / num_bins
    correct = 100 * np.array(bin_accuracy)[filled]
    gaps = 100 * np.array(bin_confidence)[filled] - correct  # positive: overconfident
    gap_colors = [kinds["overconfidence" if gap > 0 else "underconfidence"] for gap in gaps]
    upper.bar(centers, correct, width, color=kinds["accuracy"])
    upper.bar(centers, gaps, width, bottom=correct, color=gap_colors)
    upper.hlines(correct, centers - width / 2, centers + width / 2, color=_INK)
    shares = 100 * np.array(bin_pixels)[filled] / max(1, total)
    labels = [f"{share:.1f}" if share >= 0.05 else "<0.1" for share in shares]
    lower.bar_label(lower.bar(centers, shares, width, color=_FAINT), labels, size=8)
    upper.plot((0, 100), (0, 100), color=_FAINT, linewidth=1, linestyle=(0, (5, 4)))
    upper.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy, %", xticklabels=[])
    upper.grid(axis="y")
    lower.set(xlim=(0, 100), yticks=[], xlabel="confidence, %", ylabel="pixels, %")
    return chart


@dataclass(frozen=True, kw_only=True)
class DifferencePanel:
    """Differences of one group of series, such as those of one modality."""

    title: str
    note: str = ""  # below the title
    series: Mapping[str, Sequence[Interval]]  # fractions in -1..1, one for each row; nan: unknown


@_style()
def difference_chart(
    panels: Sequence[DifferencePanel], rows: Sequence[str], title: str, *, level: float
) -> Chart:
    """Draw a bar from zero, a confidence interval and a number for each difference, in points.

    Args:
        panels: one below the other, on one scale.
        rows: names of the values of each series, such as classes.
        title: heading.
        level: confidence level of the intervals in 0..1.

    Returns:
        a chart that grows with the number of differences. One that is nan is shown as ``-``; the
        number of one whose interval includes zero (or is nan) is grey.
    """
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    colors = {name: _COLORS[index % len(_COLORS)] for index, name in enumerate(names)}
    key_px = 20 * -(-len(names) // 4)
    heights_px = [len(rows) * _row_px(panel) for panel in panels]
    tops_px = [60 + key_px + 50 + 85 * i + sum(heights_px[:i]) for i in range(len(panels))]
    chart = Chart(640, tops_px[-1] + heights_px[-1])
    chart.text(0, 0, _one_line(title, 90), size=12)
    note = f"points; line: {level:.0%} interval; grey number: the interval includes zero"
    chart.text(0, 26, note, color=_FAINT)
    handles = [Patch(color=color) for color in colors.values()]
    labels = [_one_line(name) for name in names]
    anchor = (0, 1 - 52 / chart.figure.bbox.height)
    chart.figure.legend(handles, labels, loc="upper left", bbox_to_anchor=anchor, ncols=4)
    values = [value for panel in panels for each in panel.series.values() for value in each]
    ends = [100 * end for value in values for end in value if math.isfinite(end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    pad = 0.04 * (high - low) or 1.0
    for panel, top_px, height_px in zip(panels, tops_px, heights_px, strict=True):
        axes = chart.axes(0, top_px, 640, height_px)
        axes.set(xlim=(low - pad, high + pad), ylim=(height_px, 0))
        chart.text(0, top_px - (42 if panel.note else 24), _one_line(panel.title, 90))
        chart.text(0, top_px - 24, _one_line(panel.note, 110), color=_FAINT)
        _draw_differences(axes, panel, rows, colors)
    return chart


def _row_px(panel: DifferencePanel) -> int:
    """Return the height of one row of a panel: a bar for each series, and a gap."""
    return 17 * max(1, len(panel.series)) + 12


def _draw_differences(
    axes: Any, panel: DifferencePanel, rows: Sequence[str], colors: Mapping[str, str]
) -> None:
    """Fill the axes of one panel, whose y is in pixels from the top."""
    height_px = _row_px(panel)
    axes.grid(axis="x")
    axes.axvline(0, color=_FAINT, linewidth=1)
    axes.set_yticks([height_px * (index + 0.5) for index in range(len(rows))])
    axes.set_yticklabels([_one_line(name) for name in rows])
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:+.4g}" if x else "0")
    for edge in range(len(rows) + 1):
        axes.axhline(edge * height_px, color=_RULE, linewidth=1)
    at_right = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center_baseline"}
    for place, (name, differences) in enumerate(panel.series.items()):
        y = height_px * np.arange(len(differences)) + 6 + 17 * (place + 0.5)
        values, *ends = 100 * np.array(differences).T
        axes.barh(y, values, 11, color=colors[name], alpha=0.4, linewidth=0)
        axes.plot(ends, [y, y], color=colors[name], marker="|", markersize=9, mew=1.6)
        for height, (value, low, high) in zip(y, differences, strict=True):
            color = _INK if low > 0 or high < 0 else _FAINT
            axes.text(1.09, height, points(value), **at_right, color=color, size=9)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One plot of a run page."""

    title: str
    y_label: str
    series: Mapping[str, Sequence[Point]]  # (step, value) by name; nan interrupts a curve


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Scores of classes on a run page."""

    title: str
    names: Sequence[str]
    values: Sequence[float]  # fractions in 0..1; nan: unknown
    colors: Sequence[Color]


@_style()
def run_chart(
    *,
    title: str,
    note: str,
    curves: Sequence[Curves],
    facts: Mapping[str, str],
    bars: Bars | None = None,
    worst: np.ndarray | None = None,
    worst_title: str = "",
) -> Chart:
    """Draw a training run on one page: curves above, scores of classes and worst tiles below.

    Args:
        title: heading.
        note: explanation below the title.
        curves: two plots, side by side.
        facts: settings of the run by name, listed below the bars.
        bars: scores of the classes.
        worst: ``(H, W, 3)`` uint8 panel of the worst tiles, shown pixel by pixel.
        worst_title: heading of this panel.
    """
    lower_px = 480
    facts_px = lower_px + 60 + 28 * (len(bars.names) if bars else 0)
    chart = Chart(1560, facts_px)  # the page grows with the facts and the worst tiles
    chart.text(0, 0, _one_line(title, 100), size=17)
    chart.text(0, 34, _one_line(note, 160), color=_FAINT)
    for left_px, plot in zip((60, 860), curves, strict=True):
        _draw_curves(chart.axes(left_px, 130, 700, 270), plot)
    if bars is not None:
        chart.text(0, lower_px, _one_line(bars.title, 45), size=12)
        _draw_bars(chart.axes(160, lower_px + 35, 200, 28 * len(bars.names)), bars)
    top_px = facts_px
    for name, text in facts.items():
        chart.text(0, top_px, name, color=_FAINT)
        for line in textwrap.wrap(text, 40) or [""]:
            chart.text(110, top_px, line)
            top_px += 22
    if worst is not None:
        chart.text(460, lower_px, _one_line(worst_title, 100), size=12)
        axes = chart.axes(440, lower_px + 30, worst.shape[1], worst.shape[0])
        axes.imshow(worst, interpolation="none", aspect="auto")
        axes.set_axis_off()
    return chart


def _draw_curves(axes: Any, plot: Curves) -> None:
    """Draw one curve for each series, told apart by colour and marker."""
    from matplotlib.ticker import MaxNLocator

    for index, curve in enumerate(plot.series.values()):
        x, y = np.array(curve, dtype=np.float64).reshape(-1, 2).T
        axes.plot(
            x,
            np.where(np.isfinite(y), y, np.nan),
            color=_COLORS[index % len(_COLORS)],
            marker=_MARKERS[index % len(_MARKERS)],
            markevery=max(1, len(x) // _MAX_MARKERS),
        )
    axes.set(xlabel="step", ylabel=plot.y_label)
    axes.grid(axis="y")
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    columns = 5
    num_lines = -(-len(plot.series) // columns)
    axes.set_title(_one_line(plot.title, 80), pad=14 + 16 * num_lines)
    names = [_one_line(name) for name in plot.series]
    axes.legend(axes.lines, names, loc="lower left", bbox_to_anchor=(0, 1.03), ncols=columns)
    if not any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color=_FAINT)


def _draw_bars(axes: Any, bars: Bars) -> None:
    """Draw one horizontal bar for each score, with its percentage."""
    places = range(len(bars.names))
    values = [100 * (value if value > 0 else 0.0) for value in bars.values]  # nan: 0
    axes.barh(places, 100, 0.72, color=_RULE)
    widths = [1.0 if value else 0.0 for value in values]
    axes.barh(places, values, 0.72, **_outlined(bars.colors), linewidth=widths)
    for place, value in zip(places, bars.values, strict=True):
        axes.text(130, place, percent(value), ha="right", va="center_baseline")
    axes.set(xlim=(0, 100), ylim=(len(bars.names) - 0.5, -0.5), xticks=[])
    axes.set_yticks(places, [_one_line(name, 28) for name in bars.names])
    axes.spines["bottom"].set_visible(False)
