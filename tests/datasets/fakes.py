"""Data sets, pictures cut into overlapping tiles, generators without a network, and kills."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.preparation.writer import TileSetWriter, Tiling
from datasets.structure_generation import Shard, Store, complete_store
from datasets.structure_maps import MapRecipe, map_path, read_map, store_folder
from datasets.tile_set import Tile, TileSet, open_tile_set
from tests.processes import exit_code_of
from utils.boxes import Box
from utils.distributed import DistContext
from utils.errors import DataError

RECIPES = {
    "segments": MapRecipe(generator="sam", settings={}, weights_sha256="s"),
    "values": MapRecipe(generator="depth_anything", settings={}, weights_sha256="v"),
}
NUM_BLOBS = 40


def tile_at(
    name: str, size: tuple[int, int], source: str | None = None, top: int = 0, left: int = 0
) -> Tile:
    box = {"top_px": top, "left_px": left, "height_px": size[0], "width_px": size[1]}
    return Tile(id=name, source=name if source is None else source, **box)


def write_tiles(
    root: Path, members: Iterable[tuple[str, Tile, np.ndarray, np.ndarray]], **facts: Any
) -> TileSet:
    """Write a data set of ``(split, tile, image, target)``; of one class, if no facts say more."""
    known = {"name": "toy", "classes": ("a",), "palette": ((0, 0, 0),), "origin": ""}
    with TileSetWriter(root, **{**known, "prepared_with": {}, **facts}) as writer:
        for member in members:
            writer.add(*member)
    return open_tile_set(root)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture whose red and green are the bytes of a depth, and whose blue numbers blobs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    depth = 20_000 + 70 * x + 45 * y + 3000 * np.sin(x / 30 + seed) * np.cos(y / 40)
    blobs = np.zeros((height, width), np.uint8)
    for number in range(1, NUM_BLOBS + 1):
        row, column, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(6, 22)
        near = (y - row) ** 2 + (x - column) ** 2 < radius**2
        if not blobs[near].any():  # they never touch what was there
            blobs[near] = number
    depth = depth.astype(np.uint16)
    return np.stack([depth >> 8, depth & 255, blobs], -1).astype(np.uint8)


def depth_of(image: np.ndarray) -> np.ndarray:
    return image[..., 0] * 256.0 + image[..., 1]


def write_cut_set(
    root: Path, pictures: dict[str, np.ndarray], size_px: int, overlap_px: int
) -> TileSet:
    """Cut pictures as prepare.py cuts training images."""
    tiling, members = Tiling(tile_size_px=size_px, overlap_px=overlap_px), []
    for source, image in pictures.items():
        for tile in tiling.tiles(source, "train", Box(0, 0, *image.shape[:2])):
            part = image[tile.slices]
            members.append(("train", tile, part, np.zeros(part.shape[:2], np.uint8)))
    return write_tiles(root, members)


class FakeGenerator:
    """Blobs as segments with shuffled ids, or depth with a scale and shift of each image's own."""

    weights_sha256 = "fake"

    def __init__(self, kind: str, images_per_batch: int = 1, seconds_per_image: float = 0) -> None:
        self.kind = kind
        self.images_per_batch = images_per_batch
        self.seconds_per_image = seconds_per_image
        self.batches: list[int] = []

    def generate_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.batches.append(len(images))
        time.sleep(self.seconds_per_image * len(images))
        return [self._map(image) for image in images]

    def _map(self, image: np.ndarray) -> np.ndarray:
        if (image[..., 2] == 255).all():
            raise DataError("an image that cannot be mapped")
        rng = np.random.default_rng(int(hashlib.sha256(image.tobytes()).hexdigest()[:8], 16))
        if self.kind == "values":
            return (rng.uniform(0.2, 5) * depth_of(image) + rng.uniform(-3e4, 3e4)).astype("f4")
        numbers = np.unique(image[..., 2])
        numbers = numbers[numbers > 0]
        table = np.zeros(256, np.uint16)
        table[numbers] = 1 + rng.permutation(len(numbers))
        return table[image[..., 2]]


def store_of(tile_set: TileSet, kind: str) -> Store:
    folder = store_folder(tile_set.root, kind)
    return Store(tile_set=tile_set, folder=folder, recipe=RECIPES[kind], join=True)


def fill(
    store: Store, generator: FakeGenerator, dist: DistContext, shard: Shard | None = None
) -> int:
    size = generator.images_per_batch
    return complete_store(store, generator.generate_batch, dist, images_per_batch=size, shard=shard)


def complete(
    tile_set: TileSet, generator: FakeGenerator, dist: DistContext, shard: Shard | None = None
) -> Path:
    store = store_of(tile_set, generator.kind)
    fill(store, generator, dist, shard)
    return store.folder


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, also what is hidden, and the names of folders."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in paths}


def inodes(folder: Path) -> dict[Path, int]:
    """The maps and parts in a folder: one that is written again has another number."""
    return {path: path.stat().st_ino for path in folder.rglob("[!.]*.tif")}


def whole_map(tile_set: TileSet, folder: Path, source: str) -> np.ndarray:
    """The maps of a source's tiles put together; they must agree where they overlap."""
    tiles = [tile for tile in tile_set.tiles.values() if tile.source == source]
    size = max(tile.bottom_px for tile in tiles), max(tile.right_px for tile in tiles)
    whole = np.full(size, -1)
    for tile in tiles:
        ids, before = read_map(map_path(folder, tile.id)), whole[tile.slices]
        assert ((before == -1) | (before == ids)).all(), tile.id
        whole[tile.slices] = ids
    return whole


def kill_while(
    work: Callable[..., Any], *arguments: Any, folder: Path, num_maps: int, delay_s: float
) -> None:
    """Run a function in a process that kills itself a moment after a folder holds some maps."""
    code = exit_code_of(_end, work, arguments, folder, num_maps, delay_s)
    assert code == -signal.SIGKILL


def _end(
    work: Callable[..., Any], arguments: Sequence[Any], folder: Path, num_maps: int, delay_s: float
) -> None:
    # The process watches itself: another one may be given no time until all maps are made.
    def watch() -> None:
        while len(list(folder.rglob("[!.]*.tif"))) < num_maps:
            time.sleep(0.002)
        time.sleep(delay_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    work(*arguments)
