"""Confusion matrix, bars of classes and colour legend as pictures, drawn with Pillow."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from utils.visualization.typesetting import (
    FAINT_INK,
    GAP_PX,
    INK,
    MARGIN_PX,
    PAPER,
    RULE,
    TEXT_PX,
    TITLE_PX,
    Color,
    blank,
    draw_swatch,
    draw_text,
    draw_upright_text,
    line_height_px,
    shorten,
    text_width_px,
)

_SWATCH_PX = 13
_SWATCH_GAP_PX = 6

# From nothing to everything, for the shares of a confusion matrix.
_HEAT_COLORS = np.array(
    [(246, 249, 253), (205, 222, 240), (128, 177, 216), (48, 116, 178), (10, 48, 104)], float
)
_ABSENT_COLOR: Color = (232, 233, 235)


def legend(classes: Sequence[str], palette: Sequence[Color], width_px: int) -> np.ndarray:
    """A strip of colour swatches with their names, in as many lines as they need.

    Args:
        classes: names; one that is wider than the strip ends in an ellipsis.
        palette: RGB in 0..255 of each name.
        width_px: width of the strip.

    Returns:
        ``(H, width_px, 3)`` uint8 on white, without an outer margin.
    """
    places, height_px = _flow([_entry_width_px(name) for name in classes], width_px)
    strip = blank(max(1, height_px), width_px)
    for name, color, (left_px, top_px) in zip(classes, palette, places, strict=True):
        middle_px = top_px + line_height_px() // 2
        draw_swatch(strip, left_px, middle_px, _SWATCH_PX, color)
        text_px = left_px + _SWATCH_PX + _SWATCH_GAP_PX
        draw_text(strip, text_px, middle_px, shorten(name, width_px - text_px), anchor="lm")
    return np.array(strip)


def _entry_width_px(name: str) -> int:
    return _SWATCH_PX + _SWATCH_GAP_PX + text_width_px(name)


def _flow(widths_px: Sequence[int], width_px: int) -> tuple[list[tuple[int, int]], int]:
    """Set boxes side by side, line under line.

    Returns:
        the (left, top) of each box, and the height of all.
    """
    places, left_px, top_px = [], 0, 0
    for box_px in widths_px:
        if left_px and left_px + box_px > width_px:
            left_px, top_px = 0, top_px + line_height_px() + GAP_PX // 2
        places.append((left_px, top_px))
        left_px += box_px + 2 * GAP_PX
    return places, top_px + line_height_px() if places else 0


def bars(
    shares: Sequence[float],
    names: Sequence[str],
    palette: Sequence[Color],
    title: str,
    *,
    width_px: int,
) -> np.ndarray:
    """Draw a bar for each share of 1, with its percentage.

    Args:
        shares: 0..1; nan is shown as ``-``, without a bar.
        names: of the bars; long ones are cut, so that the bars keep a third of the width.
        palette: RGB in 0..255 of each bar.
        title: heading; cut to the width.
        width_px: width of the picture.

    Returns:
        ``(H, width_px, 3)`` uint8; its height grows with the number of bars.
    """
    inner_px = width_px - 2 * MARGIN_PX
    number_px = text_width_px("100.00")
    names_px = min(max(map(text_width_px, names)), inner_px * 2 // 3 - number_px - 2 * GAP_PX)
    left_px = MARGIN_PX + names_px + GAP_PX
    full_px = width_px - MARGIN_PX - number_px - GAP_PX - left_px
    pitch_px = line_height_px() + GAP_PX
    top_px = MARGIN_PX + line_height_px(TITLE_PX) + 2 * GAP_PX
    page = blank(top_px + pitch_px * len(names) + MARGIN_PX, width_px)
    draw = ImageDraw.Draw(page)
    draw_text(page, MARGIN_PX, MARGIN_PX, shorten(title, inner_px, TITLE_PX), size_px=TITLE_PX)
    for index, (share, name, color) in enumerate(zip(shares, names, palette, strict=True)):
        middle_px = top_px + index * pitch_px + pitch_px // 2
        edges_px = (middle_px - line_height_px() // 2, middle_px + line_height_px() // 2)
        draw_text(page, left_px - GAP_PX, middle_px, shorten(name, names_px), anchor="rm")
        draw.rectangle((left_px, edges_px[0], left_px + full_px, edges_px[1]), fill=RULE)
        text = "-" if math.isnan(share) else f"{100 * share:.2f}"
        draw_text(page, width_px - MARGIN_PX, middle_px, text, anchor="rm")
        if share > 0:
            end_px = left_px + round(share * full_px)
            outline = tuple(c * 3 // 4 for c in color)
            draw.rectangle((left_px, edges_px[0], end_px, edges_px[1]), fill=color, outline=outline)
    return np.array(page)


def confusion_picture(
    confusion: np.ndarray, classes: Sequence[str], palette: Sequence[Color] | None = None
) -> np.ndarray:
    """Draw a confusion matrix: of each target class (row), the percentage predicted as each.

    Args:
        confusion: ``(C, C)`` pixel counts; rows are target classes, columns predicted ones.
        classes: C names; the picture grows with the longest.
        palette: C colours, RGB in 0..255, shown beside the names.

    Returns:
        ``(H, W, 3)`` uint8. The row of a class without target pixels is grey.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    names_px = max(_entry_width_px(name) if palette else text_width_px(name) for name in classes)
    cell_px = 58 if len(classes) <= 10 else 46
    upright = names_px + GAP_PX > cell_px
    head_px = names_px if upright else line_height_px()
    note = "% of the target pixels of each class"
    left_px = MARGIN_PX + line_height_px() + GAP_PX + names_px + GAP_PX
    top_px = MARGIN_PX + 2 * line_height_px() + 2 * GAP_PX + head_px + GAP_PX
    side_px = cell_px * len(classes)
    width_px = max(left_px + side_px, MARGIN_PX + text_width_px(note)) + MARGIN_PX
    page = blank(top_px + side_px + MARGIN_PX, width_px)

    draw_text(page, MARGIN_PX, MARGIN_PX, note, color=FAINT_INK)
    axis_y_px = MARGIN_PX + line_height_px() + GAP_PX
    draw_text(page, left_px + side_px / 2, axis_y_px, "prediction", anchor="ma", color=FAINT_INK)
    axis_middle_px = top_px + side_px / 2 + text_width_px("target") / 2
    axis_x_px = MARGIN_PX + line_height_px() / 2
    draw_upright_text(page, axis_x_px, axis_middle_px, "target", color=FAINT_INK)
    for index, name in enumerate(classes):
        color = palette[index] if palette else None
        middle_px = index * cell_px + cell_px // 2
        _row_name(page, left_px - GAP_PX, top_px + middle_px, name, color)
        _column_name(page, left_px + middle_px, top_px - GAP_PX, name, color, upright)
        for column in range(len(classes)):
            corner = (left_px + column * cell_px, top_px + index * cell_px)
            _confusion_cell(page, corner, cell_px, counts[index, column], counts[index].sum())
    return np.array(page)


def _row_name(
    page: Image.Image, right_px: int, middle_px: int, name: str, color: Color | None
) -> None:
    """A name that ends at ``right_px``, its swatch (if any) after it."""
    if color is not None:
        draw_swatch(page, right_px - _SWATCH_PX, middle_px, _SWATCH_PX, color)
        right_px -= _SWATCH_PX + _SWATCH_GAP_PX
    draw_text(page, right_px, middle_px, name, anchor="rm")


def _column_name(
    page: Image.Image, middle_px: int, bottom_px: int, name: str, color: Color | None, upright: bool
) -> None:
    """A name that stands on ``bottom_px``, its swatch (if any) under it or before it."""
    if upright:
        if color is not None:
            center_px = bottom_px - _SWATCH_PX // 2
            draw_swatch(page, middle_px - _SWATCH_PX // 2, center_px, _SWATCH_PX, color)
            bottom_px -= _SWATCH_PX + _SWATCH_GAP_PX
        draw_upright_text(page, middle_px, bottom_px, name)
        return
    width_px = _entry_width_px(name) if color is not None else text_width_px(name)
    left_px = middle_px - width_px // 2
    center_px = bottom_px - line_height_px() // 2
    if color is not None:
        draw_swatch(page, left_px, center_px, _SWATCH_PX, color)
        left_px += _SWATCH_PX + _SWATCH_GAP_PX
    draw_text(page, left_px, center_px, name, anchor="lm")


def _confusion_cell(
    page: Image.Image, corner: tuple[int, int], cell_px: int, count: float, num_targets: float
) -> None:
    left_px, top_px = corner
    box = (left_px, top_px, left_px + cell_px - 2, top_px + cell_px - 2)
    share = count / num_targets if num_targets else 0.0
    color = _heat(share) if num_targets else _ABSENT_COLOR
    ImageDraw.Draw(page).rectangle(box, fill=color)
    text, ink = f"{100 * share:.1f}", PAPER if share > 0.5 else INK
    if not num_targets:
        text, ink = "-", FAINT_INK
    elif not count:
        text, ink = "0", FAINT_INK
    middle_px = (cell_px - 1) / 2
    draw_text(
        page,
        left_px + middle_px,
        top_px + middle_px,
        text,
        anchor="mm",
        size_px=TEXT_PX if cell_px > 50 else TEXT_PX - 2,
        color=ink,
    )


def _heat(share: float) -> Color:
    """Colour of a share in 0..1, between the neighbouring heat colours."""
    at = share * (len(_HEAT_COLORS) - 1)
    red, green, blue = (
        round(float(np.interp(at, range(len(_HEAT_COLORS)), _HEAT_COLORS[:, channel])))
        for channel in range(3)
    )
    return red, green, blue
