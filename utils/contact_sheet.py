"""Contact sheets: pictures of any size in a grid with titles."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from utils.typesetting import (
    FAINT_INK,
    GAP_PX,
    MARGIN_PX,
    blank,
    draw_text,
    line_height_px,
    text_width_px,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One picture of a contact sheet."""

    picture: np.ndarray  # (H, W, 3) or (H, W) uint8
    smooth: bool = True  # photos; False for colours that stand for something: never blended


def contact_sheet(
    rows: Sequence[Sequence[Cell | None]],
    column_titles: Sequence[str],
    row_titles: Sequence[str] | None = None,
    cell_px: int = 256,
) -> np.ndarray:
    """Set pictures in a grid with titles.

    Every picture is enlarged or reduced until its longer side is ``cell_px``. Columns and rows are
    as wide and high as their largest picture or their title, so no title is cut.

    Args:
        rows: the pictures; each row has one entry a column, None leaves its place empty.
        column_titles: above the columns.
        row_titles: above each row's left edge; none if left out.
        cell_px: longer side of a picture on the sheet.

    Returns:
        ``(H, W, 3)`` uint8 on white.

    Raises:
        ValueError: no row, or a row or the row titles are too short or too long.
    """
    _check_grid(rows, column_titles, row_titles)
    grid = [[_fit(cell, cell_px) if cell else None for cell in row] for row in rows]
    titles = list(row_titles or [])
    columns = list(zip(*grid, strict=True))
    widths_px = [
        max([text_width_px(title), *(picture.width for picture in column if picture)])
        for title, column in zip(column_titles, columns, strict=True)
    ]
    heights_px = [max([picture.height for picture in row if picture], default=1) for row in grid]
    title_px = line_height_px() + GAP_PX // 2
    row_gap_px = 2 * GAP_PX if titles else GAP_PX
    inner_width_px = max(
        [sum(widths_px) + GAP_PX * (len(widths_px) - 1), *map(text_width_px, titles)]
    )
    inner_height_px = title_px * (1 + len(titles)) + sum(heights_px) + row_gap_px * (len(grid) - 1)
    sheet = blank(inner_height_px + 2 * MARGIN_PX, inner_width_px + 2 * MARGIN_PX)

    lefts_px = [MARGIN_PX + sum(widths_px[:i]) + GAP_PX * i for i in range(len(widths_px))]
    for left_px, title in zip(lefts_px, column_titles, strict=True):
        draw_text(sheet, left_px, MARGIN_PX, title)
    top_px = MARGIN_PX + title_px
    for index, row in enumerate(grid):
        if titles:
            draw_text(sheet, MARGIN_PX, top_px, titles[index], color=FAINT_INK)
            top_px += title_px
        for left_px, picture in zip(lefts_px, row, strict=True):
            if picture:
                sheet.paste(picture, (left_px, top_px))
        top_px += heights_px[index] + row_gap_px
    return np.array(sheet)


def _check_grid(
    rows: Sequence[Sequence[Cell | None]],
    column_titles: Sequence[str],
    row_titles: Sequence[str] | None,
) -> None:
    if not rows or not column_titles:
        raise ValueError("a contact sheet needs at least one row and one column")
    for index, row in enumerate(rows):
        if len(row) != len(column_titles):
            raise ValueError(
                f"row {index} has {len(row)} pictures for {len(column_titles)} columns"
            )
    if row_titles is not None and len(row_titles) != len(rows):
        raise ValueError(f"{len(row_titles)} row titles for {len(rows)} rows")


def _fit(cell: Cell, cell_px: int) -> Image.Image:
    """Scale a picture until its longer side is ``cell_px``."""
    picture = Image.fromarray(cell.picture).convert("RGB")
    scale = cell_px / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    resampling = Image.Resampling.LANCZOS if cell.smooth else Image.Resampling.NEAREST
    return picture.resize(size, resampling)
