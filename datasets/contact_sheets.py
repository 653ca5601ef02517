"""Contact sheets: a few images of a data set beside renderings of their structure maps."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from configs.schema import StructureConfig
from datasets.encodings import mean_color
from datasets.structure_maps import (
    SHEET,
    holds_values,
    map_path,
    read_manifest,
    read_map,
    store_folder,
)
from datasets.tile_set import TileSet
from utils.errors import UserError
from utils.files import write_png
from utils.visualization.colors import colorize, colorize_segments, colorize_values, draw_boundaries
from utils.visualization.panels import Cell, contact_sheet

NUM_ROWS = 4

Draw = Callable[[np.ndarray, np.ndarray], Cell]  # image (H, W, 3) uint8, ids or levels (H, W)


def draw_store_sheet(tile_set: TileSet, folder: Path, *, values: bool) -> None:
    """Draw ``contact_sheet.png`` of a store.

    Args:
        tile_set: the images.
        folder: the store.
        values: True if its maps hold levels, not segment ids.
    """
    draws: dict[str, Draw] = {"values": _values}
    if not values:
        draws = {"segments": _segments, "borders": _borders, "mean colour": _mean_color}
    columns = [(title, folder, draw) for title, draw in draws.items()]
    _draw_sheet(folder / SHEET, tile_set, columns)


def draw_common_sheet(tile_set: TileSet, structure: StructureConfig) -> Path | None:
    """Draw ``modalities/contact_sheet.png``: a column for each modality of a recipe.

    Sensors that are not imported yet are left out.

    Returns:
        Path of the file; None if there are fewer than two modalities.
    """
    columns: list[tuple[str, Path, Draw]] = []
    for name in structure.present():
        settings = structure.selected().get(name)
        store = settings.store if settings is not None else name
        folder = store_folder(tile_set.root, store)
        if (folder / "manifest.json").is_file():
            draw = _segments if store in structure.segment_stores() else _values
            columns.append((name, folder, draw))
    if len(columns) < 2:
        return None
    path = store_folder(tile_set.root, SHEET)
    _draw_sheet(path, tile_set, columns)
    return path


def _draw_sheet(path: Path, tile_set: TileSet, columns: list[tuple[str, Path, Draw]]) -> None:
    """Draw a few images in rows, with one rendering of their maps in each column."""
    tile_ids = list(tile_set.tiles)
    chosen = tile_ids[:: -(-len(tile_ids) // NUM_ROWS)]
    rows = []
    for tile_id in chosen:
        image = tile_set.read_image(tile_id)
        cells = [draw(image, read_map(map_path(folder, tile_id))) for _, folder, draw in columns]
        rows.append([Cell(picture=image), *cells])
    titles = ["image", *(title for title, _, _ in columns)]
    write_png(path, contact_sheet(rows, titles, chosen))


def draw_data_sheet(
    path: Path, tile_set: TileSet, tile_ids: Sequence[str], stores: Sequence[str]
) -> None:
    """Draw a few tiles beside their targets and structure maps; unreadable ones stay empty.

    Args:
        path: PNG file; not written without a tile.
        tile_set: the data set.
        tile_ids: tiles with a readable image.
        stores: names of the stores to show.
    """
    chosen = tile_ids[:: -(-len(tile_ids) // NUM_ROWS)] if tile_ids else []
    rows = []
    for tile_id in chosen:
        image = tile_set.read_image(tile_id)
        cells: list[Cell | None] = [Cell(picture=image)]
        cells += [_target(tile_set, tile_id, kind) for kind in tile_set.label_kinds]
        cells += [_map(tile_set, tile_id, image, store) for store in stores]
        rows.append(cells)
    if rows:
        titles = ["image", *(f"{kind} labels" for kind in tile_set.label_kinds), *stores]
        key = [*zip(tile_set.classes, tile_set.palette, strict=True), ("ignored", (0, 0, 0))]
        write_png(path, contact_sheet(rows, titles, chosen, key=key))


def _target(tile_set: TileSet, tile_id: str, kind: str) -> Cell | None:
    with suppress(UserError):
        target = tile_set.read_target(tile_id, kind)
        return Cell(picture=colorize(target, tile_set.palette), smooth=False)
    return None


def _map(tile_set: TileSet, tile_id: str, image: np.ndarray, store: str) -> Cell | None:
    folder = store_folder(tile_set.root, store)
    with suppress(UserError):
        draw = _values if holds_values(read_manifest(folder)[0].generator) else _segments
        return draw(image, read_map(map_path(folder, tile_id)))
    return None


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
