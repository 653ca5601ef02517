"""Fit of a generator to the training split, made once for a store.

The first process that has it writes it, and all others read it: shards, ranks, resumed runs.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets.rasters import open_raster
from datasets.structure_maps import FIT, MapRecipe, check_recipe, map_kind, store_folder
from datasets.tile_set import Tile, TileSet
from utils.boxes import Box, cell_grid, valid_cells
from utils.distributed import DistContext
from utils.errors import DataError
from utils.files import atomic_path, sha256_of

NUM_WINDOWS = 64
_INPUTS = "inputs"  # entry of the file: SHA-256 of what it was made from
_STEPS = (0.7548776662466927, 0.5698402909980532)  # of the R2 sequence, which fills a square evenly

Window = tuple[np.ndarray, np.ndarray | None]  # pixels (h, w, 3) uint8, and cells with data
Compute = Callable[[Iterable[Window]], dict[str, Tensor]]


def store_fit(
    folder: Path,
    wanted: dict[str, Any],
    tile_set: TileSet,
    split: str,
    compute: Compute,
    dist: DistContext,
) -> dict[str, Tensor]:
    """Read the fit of a store, or make and write it. Call on all ranks.

    Args:
        folder: the store.
        wanted: generator, settings (with ``window_px`` and ``cell_px``) and hash of the weights.
        tile_set: the data set.
        split: whose images are fitted to.
        compute: makes the fit of windows of images.
        dist: this process.

    Raises:
        DataError: the store has other settings, or its fit was made from something else.
    """
    boxes = spread_windows(tile_set, split, wanted["settings"]["window_px"])
    inputs = _digest(wanted, tile_set, dict.fromkeys(tile_id for tile_id, _ in boxes))
    path = folder / FIT
    if dist.is_main:
        check_recipe(folder, {key: wanted[key] for key in ("generator", "settings")})
        if not path.is_file():
            windows = _read_windows(tile_set, boxes, wanted["settings"]["cell_px"])
            fit = compute(tqdm(windows, f"{folder.name}: fitting", len(boxes), unit="window"))
            _write(path, fit, inputs)
    dist.barrier()
    return read_fit(folder, inputs)


def spread_windows(tile_set: TileSet, split: str, window_px: int) -> list[tuple[str, Box]]:
    """Return at most 64 windows, spread evenly over the tiles of a split and over each tile."""
    tile_ids = tile_set.split(split)
    found: dict[tuple[str, Box], None] = {}
    for number in range(NUM_WINDOWS):
        tile = tile_set.tiles[tile_ids[number * len(tile_ids) // NUM_WINDOWS]]
        found[tile.id, _place(tile, number, window_px)] = None
    return list(found)


def _place(tile: Tile, number: int, window_px: int) -> Box:
    """Return a window of a tile: of its numbers, any consecutive ones are spread evenly."""
    lengths = tile.height_px, tile.width_px
    sides = [min(window_px, length) for length in lengths]
    shares = [(0.5 + number * step) % 1 for step in _STEPS]
    parts = zip(lengths, sides, shares, strict=True)
    top, left = (int((length - side + 1) * share) for length, side, share in parts)
    return Box(top, left, *sides)


def _read_windows(
    tile_set: TileSet, boxes: Iterable[tuple[str, Box]], cell_px: int
) -> Iterator[Window]:
    for tile_id, box in boxes:
        valid = tile_set.read_valid(tile_id)
        grid = cell_grid((box.height_px, box.width_px), cell_px)
        cells = None if valid is None else valid_cells(valid[box.slices], grid)
        yield open_raster(tile_set.image_path(tile_id), "RGB")[box.slices], cells


def _digest(wanted: dict[str, Any], tile_set: TileSet, tile_ids: Iterable[str]) -> str:
    images = []
    for tile_id in tile_ids:
        path = tile_set.image_path(tile_id)
        open_raster(path, "RGB")  # a sentence if it is missing or damaged
        images.append([tile_id, sha256_of(path)])
    return hashlib.sha256(json.dumps([wanted, images], sort_keys=True).encode()).hexdigest()


def _write(path: Path, fit: dict[str, Tensor], inputs: str) -> None:
    arrays: dict[str, Any] = {key: value.numpy() for key, value in fit.items()}
    arrays[_INPUTS] = inputs
    with atomic_path(path, keeps_first=True) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def read_fits(root: Path, recipes: Mapping[str, MapRecipe]) -> dict[str, dict[str, Tensor]]:
    """Read the fits of the stores of a data set that have one, by store; errors as ``read_fit``."""
    kinds = {store: map_kind(recipe.generator) for store, recipe in recipes.items()}
    return {s: read_fit(store_folder(root, s)) for s, kind in kinds.items() if kind == "cells"}


def read_fit(folder: Path, inputs: str | None = None) -> dict[str, Tensor]:
    """Read the fit of a store.

    Args:
        folder: the store.
        inputs: what it must have been made from; None: anything.

    Raises:
        DataError: it is missing, damaged, or made from something else.
    """
    path, remedy = folder / FIT, f"delete {folder} and run generate.py again"
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {key: file[key] for key in file.files}
        found = str(content.pop(_INPUTS))
        fit = {key: torch.from_numpy(array.astype(np.float32)) for key, array in content.items()}
    except Exception as error:  # numpy and zipfile raise many types for a damaged file
        raise DataError(f"{path} cannot be read ({error}); {remedy}") from error
    if inputs not in (None, found):
        raise DataError(
            f"{path} was made from other training images, settings or weights than these; {remedy}"
        )
    return fit
