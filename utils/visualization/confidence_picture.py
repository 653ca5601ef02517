"""Whether a network is right as often as it says, as a picture: a reliability diagram.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, figure 1: for every bin of
confidence the share of right pixels, and its gap to the mean confidence; below, how many pixels
the bin has.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from utils.evaluation.calibration import Calibration
from utils.visualization.axes import Axis
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
    draw_upright_text,
    line_height_px,
    shorten,
    text_width_px,
)

_RIGHT: Color = (90, 140, 190)
_TOO_SURE: Color = (240, 170, 110)  # the gap where confidence is above the share of right pixels
_UNSURE: Color = (150, 200, 160)  # ... and where it is below
_SIDE_PX = 480  # of the diagram
_SHARES_PX = 110  # height of the bars below
_LABEL_PX = 12  # size of the letters on these bars


def confidence_picture(found: Calibration) -> np.ndarray:
    """Draw share of right pixels against confidence, and the share of pixels in every bin.

    Args:
        found: of all pixels; a bin without any is left empty.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    labels_px = text_width_px("100")
    left_px = MARGIN_PX + line_height_px() + GAP_PX + labels_px + GAP_PX
    width_px = left_px + _SIDE_PX + MARGIN_PX + 2 * GAP_PX
    names = ("share of right pixels", "gap: too sure", "gap: not sure enough")
    strip = legend(names, (_RIGHT, _TOO_SURE, _UNSURE), width_px - 2 * MARGIN_PX)
    strip_top_px = MARGIN_PX + line_height_px(TITLE_PX) + line_height_px() + GAP_PX
    top_px = strip_top_px + strip.shape[0] + 2 * GAP_PX
    shares_top_px = top_px + _SIDE_PX + 3 * GAP_PX
    base_px = shares_top_px + _SHARES_PX
    page = blank(base_px + 2 * line_height_px() + GAP_PX + MARGIN_PX, width_px)

    _draw_heading(page, found)
    page.paste(Image.fromarray(strip), (MARGIN_PX, strip_top_px))
    x_axis = Axis(low=0, high=100, step=20, start_px=left_px, end_px=left_px + _SIDE_PX)
    y_axis = Axis(low=0, high=100, step=20, start_px=top_px + _SIDE_PX, end_px=top_px)
    _draw_grid(page, x_axis, y_axis)
    edges_px = [x_axis.at(100 * edge) for edge in np.linspace(0, 1, len(found.bin_pixels) + 1)]
    _draw_bins(page, found, edges_px, y_axis)
    _draw_diagonal(page, x_axis, y_axis)
    _draw_shares(page, found, edges_px, (shares_top_px, base_px))
    for tick in x_axis.ticks():
        x_px = round(x_axis.at(tick))
        ImageDraw.Draw(page).line((x_px, base_px, x_px, base_px + 4), fill=FAINT_INK)
        draw_text(page, x_px, base_px + 7, x_axis.label(tick), anchor="ma", color=FAINT_INK)
    draw_text(page, x_axis.middle_px, page.height - MARGIN_PX, "confidence, %", anchor="md")
    return np.array(page)


def _draw_heading(page: Image.Image, found: Calibration) -> None:
    """The error as title, and what it is the sum of."""
    inner_px = page.width - 2 * MARGIN_PX
    title = "no labelled pixel"
    means = ""
    if not math.isnan(found.error):
        title = f"calibration error {100 * found.error:.2f} %"
        means = (
            f"mean confidence {100 * found.confidence:.2f} %, right {100 * found.accuracy:.2f} % "
            f"of {sum(found.bin_pixels):,} pixels"
        )
    draw_text(page, MARGIN_PX, MARGIN_PX, shorten(title, inner_px, TITLE_PX), size_px=TITLE_PX)
    below_px = MARGIN_PX + line_height_px(TITLE_PX)
    draw_text(page, MARGIN_PX, below_px, shorten(means, inner_px), color=FAINT_INK)


def _draw_grid(page: Image.Image, x_axis: Axis, y_axis: Axis) -> None:
    """Horizontal lines with their labels, and the name of the axis."""
    draw = ImageDraw.Draw(page)
    for tick in y_axis.ticks():
        y_px = round(y_axis.at(tick))
        draw.line((x_axis.start_px, y_px, x_axis.end_px, y_px), fill=RULE)
        label = y_axis.label(tick)
        draw_text(page, x_axis.start_px - GAP_PX, y_px, label, anchor="rm", color=FAINT_INK)
    name = "right pixels, %"
    bottom_px = y_axis.middle_px + text_width_px(name) / 2
    draw_upright_text(page, MARGIN_PX + line_height_px() / 2, bottom_px, name)


def _draw_bins(page: Image.Image, found: Calibration, edges_px: list[float], y_axis: Axis) -> None:
    """A bar for each bin that has pixels, its gap, and a line where the bar ends."""
    draw = ImageDraw.Draw(page)
    base_px = round(y_axis.start_px)
    for index, right in enumerate(found.bin_accuracy):
        if math.isnan(right):
            continue
        sure = found.bin_confidence[index]
        left_px, right_px = round(edges_px[index]) + 1, round(edges_px[index + 1]) - 2
        right_y_px, sure_y_px = (round(y_axis.at(100 * value)) for value in (right, sure))
        draw.rectangle((left_px, right_y_px, right_px, base_px), fill=_RIGHT)
        gap = (left_px, min(right_y_px, sure_y_px), right_px, max(right_y_px, sure_y_px))
        draw.rectangle(gap, fill=_TOO_SURE if sure > right else _UNSURE)
        draw.rectangle((left_px, right_y_px - 1, right_px, right_y_px), fill=INK)
    draw.line((edges_px[0], base_px, edges_px[-1], base_px), fill=FAINT_INK)


def _draw_diagonal(page: Image.Image, x_axis: Axis, y_axis: Axis) -> None:
    """Where confidence and share of right pixels are one, in dashes."""
    draw = ImageDraw.Draw(page)
    for start in range(0, 100, 2):
        ends = [(x_axis.at(value), y_axis.at(value)) for value in (start, start + 1)]
        draw.line([*ends[0], *ends[1]], fill=FAINT_INK, width=1)


def _draw_shares(
    page: Image.Image, found: Calibration, edges_px: list[float], span_px: tuple[int, int]
) -> None:
    """How many of all pixels each bin has, in percent; the highest bar leaves room for a number."""
    draw = ImageDraw.Draw(page)
    top_px, base_px = span_px
    total, most = max(1, sum(found.bin_pixels)), max(1, *found.bin_pixels)
    full_px = base_px - top_px - line_height_px(_LABEL_PX)
    for index, pixels in enumerate(found.bin_pixels):
        left_px, right_px = round(edges_px[index]) + 1, round(edges_px[index + 1]) - 2
        height_px = round(pixels / most * full_px)
        if height_px:
            draw.rectangle((left_px, base_px - height_px, right_px, base_px), fill=FAINT_INK)
        if pixels:
            share = 100 * pixels / total
            text = f"{share:.1f}" if share >= 0.05 else "<0.1"
            at_px = ((left_px + right_px) / 2, base_px - height_px - 1)
            draw_text(page, *at_px, text, anchor="md", size_px=_LABEL_PX)
    draw.line((edges_px[0], base_px, edges_px[-1], base_px), fill=FAINT_INK)
    name = "pixels, %"
    bottom_px = (top_px + base_px) / 2 + text_width_px(name) / 2
    draw_upright_text(page, MARGIN_PX + line_height_px() / 2, bottom_px, name)
