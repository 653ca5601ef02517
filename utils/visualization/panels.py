"""Contact sheets, prediction panels and class legends, drawn with Pillow, pixel by pixel."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.visualization.colors import ERROR_COLORS, Color, colorize, error_map, outline_color

_INK: Color = (34, 38, 46)
_FAINT_INK: Color = (110, 116, 128)
_RULE: Color = (224, 227, 232)
_MARGIN_PX = 20  # empty border of a sheet
_GAP_PX = 10  # between neighbours
_TEXT_PX = 14
_SWATCH_PX, _SWATCH_GAP_PX = 13, 6
_COLUMNS = ("image", "structure", "target", "prediction", "errors")


@lru_cache
def _font() -> ImageFont.FreeTypeFont:
    """Load the font of matplotlib's package, which has accents, without importing matplotlib."""
    spec = find_spec("matplotlib")
    assert spec is not None and spec.origin is not None, "matplotlib is a requirement"
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), _TEXT_PX)


def _line_height_px() -> int:
    return sum(_font().getmetrics())


def _width_px(text: str) -> int:
    return math.ceil(_font().getlength(_one_line(text)))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _write(sheet: Image.Image, left_px: int, top_px: int, text: str, color: Color = _INK) -> None:
    """Write one line of text; left_px, top_px is its upper left corner."""
    ImageDraw.Draw(sheet).text((left_px, top_px), _one_line(text), fill=color, font=_font())


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One picture of a contact sheet."""

    picture: np.ndarray  # (H, W, 3) or (H, W) uint8
    smooth: bool = True  # resampled as a photo; False for colours that encode classes or ids


@dataclass(frozen=True, kw_only=True, eq=False)
class PanelRow:
    """Image, target and prediction of one tile, for a row of a prediction panel."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    prediction: np.ndarray  # (H, W) class indices
    target: np.ndarray | None = None  # (H, W) class indices, 255 = ignore
    structure: Cell | None = None  # input of the structure branch
    title: str = ""  # such as the tile id


def legend(names: Sequence[str], colors: Sequence[Color], width_px: int) -> np.ndarray:
    """Draw outlined colour swatches with their names, in as many lines as they need.

    Args:
        names: such as class names; one that is wider than the legend ends in an ellipsis.
        colors: RGB in 0..255 of each name.
        width_px: width of the legend.

    Returns:
        ``(H, width_px, 3)`` uint8 on white, without an outer margin.
    """
    text_left_px = _SWATCH_PX + _SWATCH_GAP_PX
    names = [_shorten(name, width_px - text_left_px) for name in names]
    # Entries flow from left to right and continue on the next line.
    corners, left_px, top_px = [], 0, 0
    for name in names:
        entry_px = text_left_px + _width_px(name)
        if left_px and left_px + entry_px > width_px:
            left_px, top_px = 0, top_px + _line_height_px() + _GAP_PX // 2
        corners.append((left_px, top_px))
        left_px += entry_px + 2 * _GAP_PX
    strip = Image.new("RGB", (width_px, top_px + _line_height_px()), "white")
    for name, color, (left_px, top_px) in zip(names, colors, corners, strict=True):
        swatch_top_px = top_px + (_line_height_px() - _SWATCH_PX) // 2
        box = (left_px, swatch_top_px, left_px + _SWATCH_PX - 1, swatch_top_px + _SWATCH_PX - 1)
        ImageDraw.Draw(strip).rectangle(box, fill=color, outline=outline_color(color))
        _write(strip, left_px + text_left_px, top_px, name)
    return np.array(strip)


def _shorten(text: str, width_px: int) -> str:
    """Cut text to a width; a cut ends in an ellipsis."""
    text = _one_line(text)
    if _width_px(text) <= width_px:
        return text
    while text and _width_px(text + "…") > width_px:
        text = text[:-1]
    return text.rstrip() + "…"


def contact_sheet(
    rows: Sequence[Sequence[Cell | None]],
    column_titles: Sequence[str],
    row_titles: Sequence[str] = (),
    cell_px: int = 256,
    key: Sequence[tuple[str, Color]] = (),
) -> np.ndarray:
    """Arrange pictures in a grid with titles and a legend.

    Every picture is scaled until its longer side is ``cell_px``. Columns and rows are as wide and
    high as their largest picture or title, so no title is cut.

    Args:
        rows: the pictures, in at least one row, with one entry a column; None leaves its place
            empty.
        column_titles: above the columns.
        row_titles: above each row's left edge; none for a sheet without them.
        cell_px: longer side of a picture on the sheet.
        key: names and their RGB in 0..255, for a legend below the grid.

    Returns:
        ``(H, W, 3)`` uint8 on white.

    Raises:
        ValueError: a row or the row titles are too short or too long.
    """
    grid = [[_fit(cell, cell_px) if cell else None for cell in row] for row in rows]
    widths_px = [
        max([_width_px(title), *(picture.width for picture in column if picture)])
        for title, column in zip(column_titles, zip(*grid, strict=True), strict=True)
    ]
    title_px = _line_height_px() + _GAP_PX // 2
    head_px = title_px if row_titles else 0
    heights_px = [head_px + max([p.height for p in row if p], default=1) for row in grid]
    lefts_px, right_px = _stack(widths_px, _MARGIN_PX, _GAP_PX)
    first_top_px = _MARGIN_PX + title_px + (_GAP_PX // 2 if row_titles else 0)
    tops_px, bottom_px = _stack(heights_px, first_top_px, 2 * _GAP_PX if row_titles else _GAP_PX)
    right_px = max([right_px, *(_MARGIN_PX + _width_px(title) for title in row_titles)])

    size = (right_px + _MARGIN_PX, bottom_px + _MARGIN_PX)
    sheet = Image.new("RGB", size, "white")
    for left_px, title in zip(lefts_px, column_titles, strict=True):
        _write(sheet, left_px, _MARGIN_PX, title)
    for top_px, title in zip(tops_px if row_titles else (), row_titles, strict=True):
        _write(sheet, _MARGIN_PX, top_px, title, _FAINT_INK)
    for top_px, row in zip(tops_px, grid, strict=True):
        for left_px, picture in zip(lefts_px, row, strict=True):
            if picture:
                _paste_framed(sheet, picture, left_px, top_px + head_px)
    if not key:
        return np.array(sheet)
    names, colors = zip(*key, strict=True)
    strip = legend(names, colors, right_px - _MARGIN_PX)
    frame = ((0, _MARGIN_PX), (_MARGIN_PX, _MARGIN_PX), (0, 0))
    return np.concatenate([np.array(sheet), np.pad(strip, frame, constant_values=255)])


def _paste_framed(sheet: Image.Image, picture: Image.Image, left_px: int, top_px: int) -> None:
    """Paste a picture with a thin line around it, which shows where white classes end."""
    frame = (left_px - 1, top_px - 1, left_px + picture.width, top_px + picture.height)
    ImageDraw.Draw(sheet).rectangle(frame, outline=_RULE)
    sheet.paste(picture, (left_px, top_px))


def _stack(sizes_px: Sequence[int], start_px: int, gap_px: int) -> tuple[list[int], int]:
    """Return the starts of boxes laid one after the other, and the end of the last one."""
    starts_px = [start_px + sum(sizes_px[:i]) + gap_px * i for i in range(len(sizes_px))]
    return starts_px, starts_px[-1] + sizes_px[-1]


def _fit(cell: Cell, cell_px: int) -> Image.Image:
    """Scale a picture until its longer side is ``cell_px``."""
    picture = Image.fromarray(cell.picture).convert("RGB")
    scale = cell_px / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    resampling = Image.Resampling.LANCZOS if cell.smooth else Image.Resampling.NEAREST
    return picture.resize(size, resampling)


def prediction_panel(
    rows: Sequence[PanelRow],
    classes: Sequence[str],
    palette: Sequence[Color],
    cell_px: int = 256,
) -> np.ndarray:
    """Arrange image, structure, target, prediction and errors side by side, one tile a row.

    The columns structure, target and errors are left out if no row has them.

    Args:
        rows: at least one tile; sizes may differ.
        classes: names for the legend.
        palette: RGB in 0..255 of each class.
        cell_px: longer side of a picture on the panel.

    Returns:
        ``(H, W, 3)`` uint8 on white, with a legend below the grid.
    """
    grid = [panel_cells(row, palette) for row in rows]
    columns = [name for name in _COLUMNS if any(cells[name] for cells in grid)]
    key = list(zip(classes, palette, strict=True))
    if "errors" in columns:
        key += ERROR_COLORS.items()
    return contact_sheet(
        [[cells[name] for name in columns] for cells in grid],
        columns,
        [row.title for row in rows] if any(row.title for row in rows) else (),
        cell_px,
        key,
    )


def panel_cells(row: PanelRow, palette: Sequence[Color]) -> dict[str, Cell | None]:
    """Return the pictures of one tile by column, from left to right; None leaves one out."""
    target = errors = None
    if row.target is not None:
        target = Cell(picture=colorize(row.target, palette), smooth=False)
        errors = Cell(picture=error_map(row.image, row.target, row.prediction), smooth=False)
    return {
        "image": Cell(picture=row.image),
        "structure": row.structure,
        "target": target,
        "prediction": Cell(picture=colorize(row.prediction, palette), smooth=False),
        "errors": errors,
    }
