"""Line charts as pictures, drawn with Pillow: losses and scores over a run."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from utils.visualization.axes import Axis, tick_step
from utils.visualization.charts import legend
from utils.visualization.typesetting import (
    FAINT_INK,
    GAP_PX,
    MARGIN_PX,
    PAPER,
    RULE,
    TITLE_PX,
    Color,
    blank,
    draw_text,
    draw_upright_text,
    line_height_px,
    shorten,
    text_width_px,
)

Point = tuple[float, float]

# Distinct in hue and in brightness, so that lines stay apart in grey print too.
_COLORS: tuple[Color, ...] = (
    (24, 100, 171),
    (224, 122, 20),
    (43, 138, 62),
    (190, 40, 60),
    (120, 80, 170),
    (20, 150, 160),
    (130, 90, 60),
    (90, 96, 106),
)
_LINE_PX = 2
_DOT_PX = 7  # diameter
_MAX_DOTS = 30  # longer lines show no dots
_OVERSAMPLING = 4  # lines are drawn this much larger and reduced, for smooth edges
_MIN_HEIGHT_PX = 240
_MIN_WIDTH_PX = 320


def curves(
    series: Mapping[str, Sequence[Point]],
    title: str,
    x_label: str,
    y_label: str,
    *,
    height_px: int = 480,
    width_px: int = 800,
) -> np.ndarray:
    """Draw one line for each series.

    Args:
        series: points (x, y) of each line by its name, in drawing order. A point that is not
            finite is left out and interrupts its line. Lines of few points show them as dots.
        title: heading; cut to the width, as the names in the legend are.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.
        height_px: height of the picture, 240 or more, with one line of legend.
        width_px: width of the picture, 320 or more.

    Returns:
        ``(height_px, width_px, 3)`` uint8; higher by the further lines of a long legend.

    Raises:
        ValueError: the picture is too small for axes and text.
    """
    if height_px < _MIN_HEIGHT_PX or width_px < _MIN_WIDTH_PX:
        raise ValueError(
            f"a chart needs {_MIN_HEIGHT_PX} x {_MIN_WIDTH_PX} pixels or more (height x width), "
            f"not {height_px} x {width_px}"
        )
    colors = [_COLORS[index % len(_COLORS)] for index in range(len(series))]
    names = Image.fromarray(legend(list(series), colors, width_px - 2 * MARGIN_PX))
    page = blank(height_px + max(0, names.height - line_height_px()), width_px)
    top_px = _draw_heading(page, title, names)
    points = [point for line in series.values() for point in line if _is_finite(point)]
    x_axis, y_axis = _axes(points, page, top_px)
    _draw_axes(page, x_axis, y_axis, x_label, y_label)
    if not points:
        _draw_note(page, x_axis.middle_px, y_axis.middle_px, "no data")
    for color, line in zip(colors, series.values(), strict=True):
        _draw_line(page, line, x_axis, y_axis, color)
    return np.array(page)


def _is_finite(point: Point) -> bool:
    return all(math.isfinite(value) for value in point)


def _value_range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value; widened where they are one, 0..1 where there is none."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    half = abs(low) / 2 or 0.5
    return low - half, high + half


def _axes(points: Sequence[Point], page: Image.Image, top_px: int) -> tuple[Axis, Axis]:
    """Choose ranges and ticks, and leave room for the labels."""
    bottom_px = page.height - MARGIN_PX - 2 * line_height_px() - GAP_PX
    low, high = _value_range([y for _, y in points])
    step = tick_step(low, high, max(2, (bottom_px - top_px) // 50))
    low, high = math.floor(low / step + 1e-6) * step, math.ceil(high / step - 1e-6) * step
    y_axis = Axis(low=low, high=high, step=step, start_px=bottom_px, end_px=top_px)

    labels_px = max(text_width_px(y_axis.label(tick)) for tick in y_axis.ticks())
    left_px = MARGIN_PX + line_height_px() + GAP_PX + labels_px + GAP_PX
    right_px = page.width - MARGIN_PX - 2 * GAP_PX  # half of the last label stands out
    low, high = _value_range([x for x, _ in points])
    step = tick_step(low, high, max(2, (right_px - left_px) // 90))
    if all(float(x).is_integer() for x, _ in points):  # no half epochs
        step = max(step, 1.0)
    return Axis(low=low, high=high, step=step, start_px=left_px, end_px=right_px), y_axis


def _draw_heading(page: Image.Image, title: str, names: Image.Image) -> int:
    """Title, and the legend below it.

    Returns:
        the top of the plot below them.
    """
    inner_px = page.width - 2 * MARGIN_PX
    draw_text(page, MARGIN_PX, MARGIN_PX, shorten(title, inner_px, TITLE_PX), size_px=TITLE_PX)
    top_px = MARGIN_PX + line_height_px(TITLE_PX) + GAP_PX
    page.paste(names, (MARGIN_PX, top_px))
    return top_px + names.height + 2 * GAP_PX


def _draw_axes(page: Image.Image, x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> None:
    """Horizontal grid lines, the base line, ticks and labels."""
    draw = ImageDraw.Draw(page)
    left_px, right_px, base_px = x_axis.start_px, x_axis.end_px, y_axis.start_px
    for tick in y_axis.ticks():
        y_px = round(y_axis.at(tick))
        draw.line((left_px, y_px, right_px, y_px), fill=RULE)
        draw_text(page, left_px - GAP_PX, y_px, y_axis.label(tick), anchor="rm", color=FAINT_INK)
    draw.line((left_px, base_px, right_px, base_px), fill=FAINT_INK)
    for tick in x_axis.ticks():
        x_px = round(x_axis.at(tick))
        draw.line((x_px, base_px, x_px, base_px + 4), fill=FAINT_INK)
        draw_text(page, x_px, base_px + 7, x_axis.label(tick), anchor="ma", color=FAINT_INK)
    draw_text(page, x_axis.middle_px, page.height - MARGIN_PX, x_label, anchor="md")
    label_bottom_px = y_axis.middle_px + text_width_px(y_label) / 2
    draw_upright_text(page, MARGIN_PX + line_height_px() / 2, label_bottom_px, y_label)


def _draw_note(page: Image.Image, x_px: float, y_px: float, text: str) -> None:
    """Text in the middle of the plot, with the grid lines behind it wiped out."""
    half_px = text_width_px(text) / 2 + GAP_PX
    box = (x_px - half_px, y_px - GAP_PX, x_px + half_px, y_px + GAP_PX)
    ImageDraw.Draw(page).rectangle(box, fill=PAPER)
    draw_text(page, x_px, y_px, text, anchor="mm", color=FAINT_INK)


def _draw_line(
    page: Image.Image, line: Sequence[Point], x_axis: Axis, y_axis: Axis, color: Color
) -> None:
    """One smooth line, broken at points that are not finite."""
    scale = _OVERSAMPLING
    cover = Image.new("L", (page.width * scale, page.height * scale), 0)
    draw = ImageDraw.Draw(cover)
    runs: list[list[Point]] = [[]]
    for x, y in line:
        if _is_finite((x, y)):
            runs[-1].append(((x_axis.at(x) + 0.5) * scale, (y_axis.at(y) + 0.5) * scale))
        elif runs[-1]:
            runs.append([])
    for run in runs:
        if len(run) > 1:
            draw.line(run, fill=255, width=_LINE_PX * scale, joint="curve")
        if len(run) == 1 or len(line) <= _MAX_DOTS:
            for x_px, y_px in run:
                draw.circle((x_px, y_px), _DOT_PX * scale / 2, fill=255)
    page.paste(color, (0, 0), cover.reduce(scale))
