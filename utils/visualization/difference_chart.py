"""Differences with their intervals as a picture, drawn with Pillow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from utils.evaluation.bootstrap import LEVEL
from utils.evaluation.compare import Difference
from utils.reports.tables import points
from utils.visualization.axes import Axis, tick_step
from utils.visualization.charts import legend
from utils.visualization.typesetting import (
    FAINT_INK,
    GAP_PX,
    INK,
    MARGIN_PX,
    RULE,
    TITLE_PX,
    Color,
    blank,
    draw_text,
    line_height_px,
    shorten,
    text_width_px,
)

# Dark for the interval, a paler one of it for the bar; distinct in brightness too.
_COLORS: tuple[Color, ...] = ((24, 100, 171), (214, 110, 12), (43, 138, 62), (140, 60, 150))
_PALER = 0.62  # share of white in a bar
_BAR_PX, _CAP_PX = 11, 4  # heights of a bar and of half the end of an interval
_NOTE = f"points; the line is the {LEVEL:.0%} interval; grey number: the interval holds zero"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The differences of one modality."""

    title: str
    note: str  # below the title; may be empty
    series: Mapping[str, Sequence[Difference]]  # one for each name, by what makes the difference


def difference_chart(
    panels: Sequence[Panel], names: Sequence[str], title: str, *, width_px: int = 900
) -> np.ndarray:
    """Draw a bar from zero, an interval and a number for each difference.

    Args:
        panels: one below the other, on one scale.
        names: of the groups in a panel; long ones are cut.
        title: heading; cut to the width.
        width_px: width of the picture.

    Returns:
        ``(H, width_px, 3)`` uint8; its height grows with the number of differences. A difference
        that is nan is shown as ``-``, without a bar.
    """
    inner_px = width_px - 2 * MARGIN_PX
    series = list(dict.fromkeys(name for panel in panels for name in panel.series))
    colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(series)}
    key = Image.fromarray(legend(series, list(colors.values()), inner_px))
    pitch_px, head_px = _BAR_PX + 6, line_height_px(TITLE_PX) + GAP_PX
    scale = _axis(panels, names, width_px)
    heights_px = [_panel_height_px(panel, len(names), pitch_px) for panel in panels]
    top_px = MARGIN_PX + head_px + line_height_px() + GAP_PX + key.height + 2 * GAP_PX
    page = blank(top_px + sum(heights_px) + MARGIN_PX, width_px)
    draw_text(page, MARGIN_PX, MARGIN_PX, shorten(title, inner_px, TITLE_PX), size_px=TITLE_PX)
    note = shorten(_NOTE, inner_px)
    draw_text(page, MARGIN_PX, MARGIN_PX + head_px, note, color=FAINT_INK)
    page.paste(key, (MARGIN_PX, MARGIN_PX + head_px + line_height_px() + GAP_PX))
    for panel, height_px in zip(panels, heights_px, strict=True):
        _draw_panel(page, panel, names, colors, scale, top_px, pitch_px)
        top_px += height_px
    return np.array(page)


def _axis(panels: Sequence[Panel], names: Sequence[str], width_px: int) -> Axis:
    """Points of a percentage along the width: all intervals, and zero, in whole steps."""
    inner_px = width_px - 2 * MARGIN_PX
    names_px = min(max(map(text_width_px, names)), inner_px // 3)
    start_px = MARGIN_PX + names_px + 2 * GAP_PX
    end_px = width_px - MARGIN_PX - text_width_px("-100.00") - 2 * GAP_PX
    found = [d for panel in panels for all_of in panel.series.values() for d in all_of]
    ends = [100 * x for d in found for x in (d.value, d.low, d.high) if math.isfinite(x)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if low == high:
        low, high = -1.0, 1.0
    step = tick_step(low, high, max(2, (end_px - start_px) // 80))
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return Axis(low=low, high=high, step=step, start_px=start_px, end_px=end_px)


def _panel_head_px(panel: Panel) -> int:
    lines = 2 if panel.note else 1
    return lines * (line_height_px() + 2) + GAP_PX


def _panel_height_px(panel: Panel, num_names: int, pitch_px: int) -> int:
    group_px = max(len(panel.series) * pitch_px, line_height_px()) + GAP_PX
    return _panel_head_px(panel) + num_names * group_px + line_height_px() + 3 * GAP_PX


def _draw_panel(
    page: Image.Image,
    panel: Panel,
    names: Sequence[str],
    colors: Mapping[str, Color],
    scale: Axis,
    top_px: int,
    pitch_px: int,
) -> None:
    draw = ImageDraw.Draw(page)
    inner_px = page.width - 2 * MARGIN_PX
    draw_text(page, MARGIN_PX, top_px, shorten(panel.title, inner_px))
    if panel.note:
        note_px = top_px + line_height_px() + 2
        draw_text(page, MARGIN_PX, note_px, shorten(panel.note, inner_px), color=FAINT_INK)
    top_px += _panel_head_px(panel)
    group_px = max(len(panel.series) * pitch_px, line_height_px()) + GAP_PX
    base_px = top_px + len(names) * group_px
    for tick in scale.ticks():
        x_px = round(scale.at(tick))
        draw.line((x_px, top_px, x_px, base_px), fill=FAINT_INK if tick == 0 else RULE)
        text = f"{round(tick, 6):+g}" if tick else "0"
        draw_text(page, x_px, base_px + 5, text, anchor="ma", color=FAINT_INK)
    for number, name in enumerate(names):
        group_top_px = top_px + number * group_px
        draw.line((MARGIN_PX, group_top_px, page.width - MARGIN_PX, group_top_px), fill=RULE)
        text = shorten(name, round(scale.start_px) - 2 * GAP_PX - MARGIN_PX)
        middle_px = group_top_px + group_px // 2
        draw_text(page, scale.start_px - 2 * GAP_PX, middle_px, text, anchor="rm")
        first_px = middle_px - len(panel.series) * pitch_px // 2 + pitch_px // 2
        for place, (series, differences) in enumerate(panel.series.items()):
            middle_px = first_px + place * pitch_px
            _draw_difference(page, differences[number], scale, middle_px, colors[series])
    draw.line((scale.start_px, base_px, scale.end_px, base_px), fill=RULE)


def _draw_difference(
    page: Image.Image, found: Difference, scale: Axis, middle_px: int, color: Color
) -> None:
    draw = ImageDraw.Draw(page)
    right_px = page.width - MARGIN_PX
    if math.isnan(found.value):
        draw_text(page, right_px, middle_px, "-", anchor="rm", color=FAINT_INK)
        return
    ends_px = sorted((round(scale.at(0)), round(scale.at(100 * found.value))))
    pale = tuple(round(c + _PALER * (255 - c)) for c in color)
    half_px = _BAR_PX // 2
    draw.rectangle((ends_px[0], middle_px - half_px, ends_px[1], middle_px + half_px), fill=pale)
    if not math.isnan(found.low):
        low_px, high_px = round(scale.at(100 * found.low)), round(scale.at(100 * found.high))
        draw.line((low_px, middle_px, high_px, middle_px), fill=color, width=2)
        for x_px in (low_px, high_px):
            draw.line((x_px, middle_px - _CAP_PX, x_px, middle_px + _CAP_PX), fill=color, width=2)
    ink, text = INK if found.excludes_zero else FAINT_INK, points(found.value)
    draw_text(page, right_px, middle_px, text, anchor="rm", size_px=_BAR_PX + 2, color=ink)
