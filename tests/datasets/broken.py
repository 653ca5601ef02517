"""A sound little data set with three stores, for tests that break it."""

import json
from pathlib import Path

import numpy as np

from datasets.rasters import write_raster
from datasets.structure_maps import SENSOR, MapRecipe, store_folder, write_manifest, write_map
from datasets.tile_set import TileSet, open_tile_set
from tests.datasets.fakes import tile_at, write_tiles
from utils.files import sha256_of

SIZE_PX = 8
CLASSES, PALETTE = ("ground", "roof", "water"), ((90, 90, 90), (200, 0, 0), (0, 0, 200))
SPLIT_OF = {"a": "train", "b": "train", "c": "val", "d": "test"}
RECIPES = {
    "depth": MapRecipe(generator="depth_anything", settings={}, weights_sha256="d"),
    "dsm": MapRecipe(generator=SENSOR, settings={"minimum": 0, "maximum": 9}, weights_sha256=None),
    "superpixels": MapRecipe(generator="superpixels", settings={}, weights_sha256=None),
}


def image_of(name: str) -> np.ndarray:
    rng = np.random.default_rng(ord(name))
    return rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def target_of(name: str) -> np.ndarray:
    """Of ``a`` half ground, half roof; of ``b`` 3/4 ground and 1/4 ignored; of the others all."""
    target = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    if name == "b":
        target[:2] = 255
    else:
        target[: SIZE_PX // 2] = 1
    if name in "cd":
        target[0] = 2
    return target


def map_of(name: str) -> np.ndarray:
    return (1 + ord(name) + np.arange(SIZE_PX * SIZE_PX).reshape(SIZE_PX, SIZE_PX)).astype("u2")


def write_set(root: Path) -> TileSet:
    """Four whole images of 8 px: a and b in train, c in val, d in test."""
    members = [
        (split, tile_at(name, (SIZE_PX, SIZE_PX)), image_of(name), target_of(name))
        for name, split in SPLIT_OF.items()
    ]
    tile_set = write_tiles(root, members, classes=CLASSES, palette=PALETTE)
    sources = {tile_id: sha256_of(tile_set.image_path(tile_id)) for tile_id in tile_set.tiles}
    for store, recipe in RECIPES.items():
        folder = store_folder(root, store)
        for tile_id, source in sources.items():
            write_map(folder, tile_id, map_of(tile_id), source, recipe)
        write_manifest(folder, recipe, sources)
    return tile_set


def rewrite_map(tile_set: TileSet, store: str, tile_id: str, levels: np.ndarray) -> None:
    """Another map, which says the same of itself."""
    source = sha256_of(tile_set.image_path(tile_id))
    folder = store_folder(tile_set.root, store)
    write_map(folder, tile_id, levels.astype("u2"), source, RECIPES[store])


def write_eroded(tile_set: TileSet) -> TileSet:
    """Labels whose first column is ignored."""
    edit_json(tile_set.root / "dataset.json", labels=["full", "eroded"])
    for tile_id in tile_set.tiles:
        target = target_of(tile_id)
        target[:, 0] = 255
        write_raster(tile_set.target_path(tile_id, "eroded"), target)
    return open_tile_set(tile_set.root)


def truncate(path: Path, num_bytes: int = -5) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def store(toy: TileSet, name: str) -> Path:
    return store_folder(toy.root, name)


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite_list(toy: TileSet, split: str, text: str) -> None:
    """Another list, under no other hash than its own."""
    (toy.root / f"splits/{split}.txt").write_text(text)
    path = toy.root / "dataset.json"
    edit_json(path, split={**json.loads(path.read_text())["split"], "sha256": None})
