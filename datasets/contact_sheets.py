"""Contact sheets: a few images of a data set beside renderings of their targets and maps."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from configs.schema import StructureConfig
from datasets.encodings import mean_color
from datasets.structure_maps import (
    SHEET,
    map_kind,
    map_path,
    read_manifest,
    read_map,
    store_folder,
)
from datasets.tile_set import Color, TileSet
from utils.errors import UserError
from utils.files import write_png
from utils.visualization.colors import colorize, colorize_segments, colorize_values, draw_boundaries
from utils.visualization.panels import Cell, contact_sheet

NUM_ROWS = 4


class Column(NamedTuple):
    """Pictures of one kind, one for each tile."""

    title: str
    read: Callable[[str], np.ndarray]  # (H, W) class indices or map of a tile
    draw: Callable[[np.ndarray, np.ndarray], Cell]  # image (H, W, 3) uint8 and what was read


def draw_store_sheet(tile_set: TileSet, folder: Path) -> None:
    """Draw ``contact_sheet.png`` of a finished store."""
    columns = [_column(map_kind(read_manifest(folder)[0].generator), folder)]
    if columns[0].draw is _segments:
        draws = {"segments": _segments, "borders": _borders, "mean colour": _mean_color}
        columns = [Column(title, columns[0].read, draw) for title, draw in draws.items()]
    _draw_sheet(folder / SHEET, tile_set, list(tile_set.tiles), columns)


def draw_common_sheet(tile_set: TileSet, structure: StructureConfig) -> Path | None:
    """Draw ``modalities/contact_sheet.png``: a column for each modality of a recipe.

    Sensors that are not imported yet are left out.

    Returns:
        Path of the file; None if there are fewer than two modalities.
    """
    columns = []
    for name in structure.present():
        settings = structure.selected().get(name)
        folder = store_folder(tile_set.root, settings.store if settings is not None else name)
        if (folder / "manifest.json").is_file():
            columns.append(_column(name, folder))
    if len(columns) < 2:
        return None
    path = store_folder(tile_set.root, SHEET)
    _draw_sheet(path, tile_set, list(tile_set.tiles), columns)
    return path


def draw_data_sheet(
    path: Path, tile_set: TileSet, tile_ids: Sequence[str], stores: Sequence[str]
) -> None:
    """Draw a few tiles beside their targets and structure maps; unreadable ones stay empty.

    Args:
        path: PNG file; not written without a tile.
        tile_set: the data set.
        tile_ids: tiles with a readable image.
        stores: names of the finished stores to show.
    """

    def target(image: np.ndarray, indices: np.ndarray) -> Cell:
        return Cell(picture=colorize(indices, tile_set.palette), smooth=False)

    columns = [
        Column(f"{kind} labels", partial(tile_set.read_target, kind=kind), target)
        for kind in tile_set.label_kinds
    ]
    columns += [_column(store, store_folder(tile_set.root, store)) for store in stores]
    key = [*zip(tile_set.classes, tile_set.palette, strict=True), ("ignored", (0, 0, 0))]
    _draw_sheet(path, tile_set, tile_ids, columns, key)


def _column(title: str, folder: Path) -> Column:
    """Return the maps of a store: values, cells, or segments in colours of their own."""
    kind = map_kind(read_manifest(folder)[0].generator)
    draw = {"segments": _segments, "values": _values, "cells": _cells}[kind]
    return Column(title, lambda tile_id: read_map(map_path(folder, tile_id), kind), draw)


def _draw_sheet(
    path: Path,
    tile_set: TileSet,
    tile_ids: Sequence[str],
    columns: Sequence[Column],
    key: Sequence[tuple[str, Color]] = (),
) -> None:
    chosen = tile_ids[:: max(1, -(-len(tile_ids) // NUM_ROWS))]
    rows = []
    for tile_id in chosen:
        image = tile_set.read_image(tile_id)
        cells: list[Cell | None] = [Cell(picture=image)]
        for column in columns:
            cells.append(None)
            with suppress(UserError):
                cells[-1] = column.draw(image, column.read(tile_id))
        rows.append(cells)
    if rows:
        titles = ["image", *(column.title for column in columns)]
        write_png(path, contact_sheet(rows, titles, chosen, key=key))


def _segments(image: np.ndarray, ids: np.ndarray) -> Cell:
    return Cell(picture=colorize_segments(ids), smooth=False)


def _borders(image: np.ndarray, ids: np.ndarray) -> Cell:
    return Cell(picture=draw_boundaries(image, ids))


def _mean_color(image: np.ndarray, ids: np.ndarray) -> Cell:
    picture = torch.from_numpy(image).movedim(-1, 0).unsqueeze(0) / 255
    means = mean_color(picture, torch.from_numpy(ids.astype(np.int32)).unsqueeze(0))[0]
    return Cell(picture=(255 * means).byte().movedim(0, -1).numpy(), smooth=False)


def _values(image: np.ndarray, levels: np.ndarray) -> Cell:
    return Cell(picture=colorize_values(levels))


def _cells(image: np.ndarray, cells: np.ndarray) -> Cell:
    """Draw the first three components as red, green and blue, two standard deviations each way."""
    levels = np.moveaxis(cells[:3], 0, -1).astype(np.int16)
    picture = np.where(levels > 0, 2 * levels - 128, 0)
    return Cell(picture=np.clip(picture, 0, 255).astype(np.uint8), smooth=False)
