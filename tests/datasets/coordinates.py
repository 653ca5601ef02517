"""Tiles in which every pixel of every member tells its place, and a check that they agree."""

from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from datasets.structure_maps import MapRecipe, store_folder, write_map
from datasets.tile_set import TileSet
from datasets.transforms import Geometry
from tests.datasets.fakes import tile_at, write_tiles

NUM_CLASSES = 50
STORES = ("ids", "levels")
RECIPE = MapRecipe(generator="sam", settings={}, weights_sha256=None)


def class_at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return ((7 * rows + 3 * columns) % NUM_CLASSES).astype(np.uint8)


def level_at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return 1 + 100 * rows + 50 * columns


def draw_members(height: int, width: int) -> dict[str, np.ndarray]:
    rows, columns = np.mgrid[:height, :width]
    return {
        "image": np.stack([rows, columns, 0 * rows], -1).astype(np.uint8),
        "target": class_at(rows, columns),
        "ids": (1 + rows * width + columns).astype(np.uint16),
        "levels": level_at(rows, columns).astype(np.uint16),
    }


def write_set(root: Path, sizes: list[tuple[int, int]]) -> TileSet:
    """A data set with one training tile of each size (height, width) and both stores."""
    drawn = {f"t{number:03d}": draw_members(*size) for number, size in enumerate(sizes)}
    members = [
        ("train", tile_at(name, own["ids"].shape), own["image"], own["target"])
        for name, own in drawn.items()
    ]
    classes = {f"class {i}": (0, 0, 0) for i in range(NUM_CLASSES)}
    tile_set = write_tiles(root, members, classes=(*classes,), palette=(*classes.values(),))
    for store in STORES:
        for name, own in drawn.items():
            write_map(store_folder(root, store), name, own[store], "", RECIPE)
    return tile_set


def cut_all(geometry: Geometry, members: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """All members cut by one window, as a sample of this seed has it."""
    height, width = members["image"].shape[:2]
    window = geometry.draw((height, width), np.random.default_rng(seed))
    return {name: geometry.cut(name, member, window) for name, member in members.items()}


def check_aligned(
    members: dict[str, np.ndarray], tile_size: tuple[int, int], shrink: float
) -> None:
    """Every pixel of a crop is the same place in all members.

    A side of it has ``shrink`` times as many pixels in the tile.
    """
    image, ids, found_levels = (members[name].astype(int) for name in ("image", "ids", "levels"))
    inside = ids > 0
    rows, columns = np.divmod(ids - 1, tile_size[1])
    expected = np.where(inside, class_at(rows, columns), 255)
    np.testing.assert_array_equal(members["target"], expected)
    if shrink == 1:
        place = np.stack([rows, columns, 0 * rows], -1) * inside[..., np.newaxis]
        np.testing.assert_array_equal(image, place)
        levels = np.where(inside, level_at(rows, columns), 0)
        np.testing.assert_array_equal(found_levels, levels)
        return
    # Far from the border of the tile, the photo shows where the pixel lies to a part of a pixel:
    # half for the nearest, half for the rounding, and some at the edge of the window.
    is_within = min(tile_size) >= round(shrink * len(ids))
    far = _shrunk(inside, int(np.ceil(max(1.0, 1 / shrink))) + 1, is_within)
    bound = 0.5 + 0.2 * shrink
    for channel, places in enumerate((rows, columns)):
        assert np.abs(image[..., channel] - places)[far].max(initial=0) <= 0.5 + bound
    off = np.abs(found_levels - level_at(rows, columns))
    assert off[far].max(initial=0) <= 0.5 + 150 * bound
    assert found_levels[far].all()
    # Less than half data gives none, so this border is that of the ids, to a pixel; but the nearest
    # pixels may miss all of a tile that is narrower than their distance.
    if min(tile_size) > 2 * shrink:
        assert not found_levels[_shrunk(~inside, 2, True)].any()


def _shrunk(inside: np.ndarray, radius: int, beyond: bool) -> np.ndarray:
    """Pixels with nothing outside within the radius; beyond the edge of the crop is ``beyond``."""
    padded = np.pad(inside, radius, constant_values=beyond)
    return sliding_window_view(padded, (2 * radius + 1, 2 * radius + 1)).all((2, 3))
