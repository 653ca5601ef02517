"""Contact sheets: pictures of any size in a grid with titles."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from utils.visualization.typesetting import (
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
    title_px = line_height_px() + GAP_PX // 2
    head_px = title_px if titles else 0
    heights_px = [head_px + max([p.height for p in row if p], default=1) for row in grid]
    lefts_px, right_px = _lay(widths_px, MARGIN_PX, GAP_PX)
    first_top_px = MARGIN_PX + title_px + (GAP_PX // 2 if titles else 0)
    tops_px, bottom_px = _lay(heights_px, first_top_px, 2 * GAP_PX if titles else GAP_PX)
    right_px = max([right_px, *(MARGIN_PX + text_width_px(title) for title in titles)])

    sheet = blank(bottom_px + MARGIN_PX, right_px + MARGIN_PX)
    for left_px, title in zip(lefts_px, column_titles, strict=True):
        draw_text(sheet, left_px, MARGIN_PX, title)
    for top_px, title in zip(tops_px, titles, strict=False):
        draw_text(sheet, MARGIN_PX, top_px, title, color=FAINT_INK)
    for top_px, row in zip(tops_px, grid, strict=True):
        for left_px, picture in zip(lefts_px, row, strict=True):
            if picture:
                sheet.paste(picture, (left_px, top_px + head_px))
    return np.array(sheet)


def _lay(sizes_px: Sequence[int], start_px: int, gap_px: int) -> tuple[list[int], int]:
    """Lay boxes one after the other.

    Returns:
        where each one starts, and where the last one ends.
    """
    starts_px = [start_px + sum(sizes_px[:i]) + gap_px * i for i in range(len(sizes_px))]
    return starts_px, starts_px[-1] + sizes_px[-1]


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
