"""Pictures of classes, segments, values and errors, and the panel that sets them side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from configs.schema import IGNORE_INDEX
from utils.visualization.charts import legend
from utils.visualization.panels import Cell, contact_sheet
from utils.visualization.typesetting import MARGIN_PX, Color

_IGNORED_COLOR: Color = (0, 0, 0)
_WRONG_COLOR: Color = (235, 30, 40)
ERROR_COLORS = {"wrong": _WRONG_COLOR, "ignored": _IGNORED_COLOR}  # what error pictures mean
_PANEL_COLUMNS = ("image", "structure", "target", "prediction", "errors")
_LUMA = np.array([0.299, 0.587, 0.114])  # weights of R, G, B in perceived brightness
# From low to high values, in even steps of perceived brightness: also in order when printed grey.
_VALUE_COLORS = (
    (8, 8, 40),
    (60, 24, 110),
    (128, 44, 128),
    (192, 76, 92),
    (228, 115, 85),
    (245, 158, 105),
    (252, 202, 160),
    (255, 244, 230),
)


def colorize(target: np.ndarray, palette: Sequence[Color]) -> np.ndarray:
    """Paint class indices in the colours of their classes; ignore (255) is black.

    Args:
        target: ``(H, W)`` class indices of a target or a prediction, any integer dtype.
        palette: RGB in 0..255 of each class.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: an index has no colour.
    """
    known = target != IGNORE_INDEX
    if known.any():
        low, high = int(target[known].min()), int(target[known].max())
        if low < 0 or high >= len(palette):
            wrong = low if low < 0 else high
            raise ValueError(f"class index {wrong} has no colour; the palette has {len(palette)}")
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[: len(palette)] = palette
    colors[IGNORE_INDEX] = _IGNORED_COLOR
    return colors[target]


def overlay(
    image: np.ndarray, target: np.ndarray, palette: Sequence[Color], alpha: float = 0.5
) -> np.ndarray:
    """Blend class colours over an image; ignore pixels (255) stay as they are.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        target: ``(H, W)`` class indices of a target or a prediction.
        palette: RGB in 0..255 of each class.
        alpha: weight of the class colour, 0..1.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    _check_size(image, target, "target")
    blended = (1 - alpha) * image + alpha * colorize(target, palette)
    known = (target != IGNORE_INDEX)[..., np.newaxis]
    return np.where(known, np.rint(blended).astype(np.uint8), image)


def colorize_segments(ids: np.ndarray) -> np.ndarray:
    """Give every segment a colour that depends on its id alone; id 0 is black.

    Neighbouring ids differ strongly in hue. The same id has the same colour in every picture.

    Args:
        ids: ``(H, W)`` segment ids, any integer dtype.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    values, places = np.unique(ids, return_inverse=True)
    colors = _hashed_colors(values)
    colors[values == 0] = 0
    return colors[places.reshape(ids.shape)]


def _hashed_colors(values: np.ndarray) -> np.ndarray:
    """Bright colours of integers: ``(N,)`` -> ``(N, 3)`` uint8."""
    # Multiples of the golden ratio, modulo one turn, never come close to one another: the hue.
    golden = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    hue = (golden >> np.uint64(40)) / 2.0**24
    # Folding the high bits down makes saturation and value independent of the hue.
    mixed = (golden ^ (golden >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    saturation = 0.35 + 0.6 * ((mixed >> np.uint64(40)) & np.uint64(0xFF)) / 255
    value = 0.6 + 0.4 * ((mixed >> np.uint64(52)) & np.uint64(0xFF)) / 255
    # Each channel is a trapezoid over the hue circle; the three are a third of a turn apart.
    turns = (hue[:, np.newaxis] + np.array([0, 2, 1]) / 3) % 1.0
    pure = np.clip(np.abs(turns * 6 - 3) - 1, 0, 1)
    rgb = value[:, np.newaxis] * (1 - saturation[:, np.newaxis] * (1 - pure))
    return np.rint(255 * rgb).astype(np.uint8)


def colorize_values(levels: np.ndarray) -> np.ndarray:
    """Paint levels of a depth or a sensor from dark to bright; no data (0) is black.

    Args:
        levels: ``(H, W)`` levels 0..65535, any integer dtype.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    anchors = np.linspace(1, 65535, len(_VALUE_COLORS))
    channels = [np.interp(levels, anchors, channel) for channel in np.array(_VALUE_COLORS).T]
    colors = np.rint(np.stack(channels, -1)).astype(np.uint8)
    colors[levels == 0] = 0
    return colors


def draw_boundaries(image: np.ndarray, ids: np.ndarray, color: Color = (255, 0, 200)) -> np.ndarray:
    """Draw the borders between segments, one pixel wide.

    A pixel is on a border if its right or its lower neighbour belongs to another segment.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, left as it is.
        ids: ``(H, W)`` segment ids.
        color: of the borders; the default hardly occurs in aerial images.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    _check_size(image, ids, "ids")
    border = np.zeros(ids.shape, dtype=bool)
    border[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    border[:-1, :] |= ids[:-1, :] != ids[1:, :]
    drawn = image.copy()
    drawn[border] = color
    return drawn


def error_picture(image: np.ndarray, target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Show where a prediction is wrong.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        target: ``(H, W)`` class indices, 255 = ignore.
        prediction: ``(H, W)`` class indices.

    Returns:
        ``(H, W, 3)`` uint8: right pixels as a dimmed grey image, wrong ones red, ignored black.
    """
    _check_size(image, target, "target")
    _check_size(image, prediction, "prediction")
    gray = np.rint(image @ _LUMA * 0.6 + 40).astype(np.uint8)
    picture = np.repeat(gray[..., np.newaxis], 3, axis=2)
    picture[target != prediction] = _WRONG_COLOR
    picture[target == IGNORE_INDEX] = _IGNORED_COLOR
    return picture


def _check_size(image: np.ndarray, other: np.ndarray, name: str) -> None:
    if image.shape[:2] != other.shape:
        raise ValueError(
            f"image is {image.shape[:2]} and {name} {other.shape} (height, width); "
            "they must have one size"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PanelRow:
    """What a prediction panel shows of one image."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    prediction: np.ndarray  # (H, W) class indices
    target: np.ndarray | None = None  # (H, W) class indices, 255 = ignore
    structure: Cell | None = None  # what the structure branch saw, as a picture
    title: str = ""  # such as the tile id


def prediction_panel(
    rows: Sequence[PanelRow],
    classes: Sequence[str],
    palette: Sequence[Color],
    cell_px: int = 256,
) -> np.ndarray:
    """Set images, structure, targets, predictions and errors side by side, one image a row.

    The columns structure, target and errors are left out if no row has what they show.

    Args:
        rows: at least one image; sizes may differ.
        classes: names for the legend below the grid.
        palette: RGB in 0..255 of each class.
        cell_px: longer side of a picture on the panel.

    Returns:
        ``(H, W, 3)`` uint8 on white.
    """
    grid = [panel_cells(row, palette) for row in rows]
    titles = [title for title in _PANEL_COLUMNS if any(cells[title] for cells in grid)]
    has_row_titles = any(row.title for row in rows)
    sheet = contact_sheet(
        [[cells[title] for title in titles] for cells in grid],
        titles,
        [row.title for row in rows] if has_row_titles else None,
        cell_px,
    )
    names, colors = [*classes], [*palette]
    if "errors" in titles:
        names += ERROR_COLORS
        colors += ERROR_COLORS.values()
    strip = legend(names, colors, sheet.shape[1] - 2 * MARGIN_PX)
    return np.concatenate([sheet, _frame(strip)])


def panel_cells(row: PanelRow, palette: Sequence[Color]) -> dict[str, Cell | None]:
    """The pictures of one image by their titles, from left to right; None: nothing to show."""
    target = errors = None
    if row.target is not None:
        target = Cell(picture=colorize(row.target, palette), smooth=False)
        errors = Cell(picture=error_picture(row.image, row.target, row.prediction), smooth=False)
    return {
        "image": Cell(picture=row.image),
        "structure": row.structure,
        "target": target,
        "prediction": Cell(picture=colorize(row.prediction, palette), smooth=False),
        "errors": errors,
    }


def _frame(strip: np.ndarray) -> np.ndarray:
    """Put the page's margin left and right of a strip and below it."""
    return np.pad(strip, ((0, MARGIN_PX), (MARGIN_PX, MARGIN_PX), (0, 0)), constant_values=255)
