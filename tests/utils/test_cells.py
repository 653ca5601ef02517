"""Cells of a window, compared with a literal formula in float64."""

import math

import numpy as np
import pytest
import torch

from datasets.dataset import TileDataset
from datasets.samplers import SampleKey
from datasets.structure_maps import MapRecipe, store_folder, write_map
from datasets.transforms import Geometry
from tests.datasets.coordinates import draw_members
from tests.datasets.fakes import tile_at, write_tiles
from utils.boxes import Box, cell_grid, valid_cells
from utils.errors import DataError
from utils.geometry import cut_cells, cut_maps, dihedral

SIZE, GRID = (100, 76), (13, 10)  # 8 px a cell: 7.7 px high, 7.6 px wide


def draw_cells(has_gaps: bool, grid: tuple[int, int] = GRID) -> np.ndarray:
    rng = np.random.default_rng(1)
    cells = rng.integers(1, 256, (3, *grid)).astype(np.uint8)
    return cells * (rng.random(grid) > 0.3) if has_gaps else cells


def one_cell(cells: np.ndarray, size: tuple[int, int], y: float, x: float) -> np.ndarray:
    """The levels at a place of the image in pixels, before rounding; zeros: no data."""
    total, share = np.zeros(len(cells)), 0.0
    if not (0 <= y <= size[0] and 0 <= x <= size[1]):
        return total
    row, column = (p * g / s - 0.5 for p, g, s in zip((y, x), cells.shape[1:], size, strict=True))
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            weight = (1 - abs(row - i)) * (1 - abs(column - j))
            cell = cells[:, min(max(i, 0), GRID[0] - 1), min(max(j, 0), GRID[1] - 1)]
            if cell[0] > 0:
                total, share = total + weight * cell, share + weight
    return total / share if share >= 0.5 else np.zeros(len(cells))


@pytest.mark.parametrize("has_gaps", [False, True])
@pytest.mark.parametrize(
    ("window", "out"),
    [
        (Box(13, 5, 41, 37), (6, 5)),  # at fractional places
        (Box(13, 5, 41, 37), (11, 9)),  # zoomed in
        (Box(0, 0, 100, 76), (5, 4)),  # zoomed out
        (Box(-30, 40, 90, 60), (12, 8)),  # beyond two borders
    ],
)
def test_cells_of_a_window_are_those_of_the_formula(window, out, has_gaps):
    cells = draw_cells(has_gaps)
    found = cut_cells(torch.from_numpy(cells)[None], SIZE, window, out)[0].numpy()
    assert found.shape == (3, *out) and found.dtype == np.uint8
    assert np.array_equal(cut_cells(cells, SIZE, window, out), found)
    for i in range(out[0]):
        for j in range(out[1]):
            y = window.top_px + (i + 0.5) * window.height_px / out[0]
            x = window.left_px + (j + 0.5) * window.width_px / out[1]
            expected = one_cell(cells, SIZE, y, x)
            assert np.abs(found[:, i, j] - expected).max() <= 0.5001, (i, j)
            assert found[:, i, j].any() == expected.any()


def test_cells_that_coincide_with_the_window_do_not_change():
    cells = torch.from_numpy(draw_cells(True))
    assert torch.equal(cut_cells(cells, SIZE, Box(0, 0, *SIZE), GRID), cells)
    cells = torch.from_numpy(draw_cells(True, (12, 9)))  # of 8 px each
    pixels = torch.arange(96 * 72).view(1, 96, 72)
    maps = {"cells": cells[None], "pixels": pixels}
    found = cut_maps(maps, (96, 72), Box(16, 24, 40, 32), {"cells": 8})
    assert torch.equal(found["cells"][0], cells[:, 2:7, 3:7])
    assert torch.equal(found["pixels"], pixels[:, 16:56, 24:56])


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_window_of_a_turned_image_is_the_turned_window(turn):
    """In positions whose weights are sums of powers of two, so that nothing is rounded."""
    cells, size = torch.from_numpy(draw_cells(True, (12, 12))), (96, 96)
    mask = torch.zeros(96, 96, dtype=torch.bool)
    mask[10:58, 34:82] = True
    rows, columns = (dihedral(mask, turn).any(dim).nonzero() for dim in (1, 0))
    turned = Box(int(rows[0]), int(columns[0]), 48, 48)
    found = cut_cells(dihedral(cells, turn), size, turned, (6, 6))
    assert torch.equal(found, dihedral(cut_cells(cells, size, Box(10, 34, 48, 48), (6, 6)), turn))


@pytest.mark.parametrize("size", [(100, 76), (9, 8), (1, 40), (97, 5)])
def test_a_cell_holds_data_if_half_of_its_pixels_do(size):
    valid = np.random.default_rng(0).random(size) > 0.5
    grid = cell_grid(size, 8)
    assert grid == (math.ceil(size[0] / 8), math.ceil(size[1] / 8))
    members: dict[tuple[int, int], list[bool]] = {}
    for y, x in np.ndindex(*size):
        place = int((y + 0.5) * grid[0] / size[0]), int((x + 0.5) * grid[1] / size[1])
        members.setdefault(place, []).append(valid[y, x])
    expected = [
        [2 * sum(members[i, j]) >= len(members[i, j]) for j in range(grid[1])]
        for i in range(grid[0])
    ]
    assert valid_cells(valid, grid).tolist() == expected


RECIPE = MapRecipe(generator="features", settings={}, weights_sha256=None)
SIZES = [(160, 160), (75, 131), (40, 90)]


@pytest.fixture
def tile_set(tmp_path):
    """Three tiles of several sizes in the training split, with cells that tell their place."""
    members = [
        ("train", tile_at(f"t{number}", size), draw_members(*size)["image"], np.zeros(size, "u1"))
        for number, size in enumerate(SIZES)
    ]
    tile_set = write_tiles(tmp_path / "set", members)
    for number, size in enumerate(SIZES):
        write_map(store_folder(tile_set.root, "cells"), f"t{number}", cells_of(size), "", RECIPE)
    return tile_set


def cells_of(size: tuple[int, int]) -> np.ndarray:
    """Row and column of the centre of each cell, in pixels."""
    grid = cell_grid(size, 8)
    lines = [1 + (np.arange(n) + 0.5) * s / n for n, s in zip(grid, size, strict=True)]
    return np.stack(np.meshgrid(*lines, indexing="ij")).round().astype(np.uint8)


def read(tile_set, index, seed=0, **settings):
    ids = tile_set.split("train")
    dataset = TileDataset(
        tile_set=tile_set, tile_ids=ids, stores=["cells"], cell_px={"cells": 8}, **settings
    )
    return dataset[SampleKey(index=index, seed=(0, 0, seed))]


@pytest.mark.parametrize("zoom", [0.5, 0.8, 1.0, 1.7])
def test_cells_of_a_crop_show_the_places_that_the_photo_shows(tile_set, zoom):
    geometry = Geometry(
        crop_size_px=40, scale_range=(zoom, zoom), dihedral=True, cell_px={"cells": 8}
    )
    num_compared = 0
    for seed in range(24):
        batch = read(tile_set, seed % 3, seed, geometry=geometry)
        size = torch.tensor(SIZES[seed % 3]).view(2, 1, 1)
        cells = batch.maps["cells"]
        assert cells.shape == (1, 2, 5, 5) and cells.dtype == torch.uint8
        inside = torch.nn.functional.max_pool2d((batch.target == 255).float(), 8)[0] == 0
        blocks = torch.nn.functional.avg_pool2d(batch.image[:, :2].float(), 8)
        # Beyond the outermost centres cells are constant.
        places = cells[0].float() - 1
        inner = inside & ((places > 8) & (places < size - 8)).all(0)
        off = (places - 0.5 - blocks[0])[:, inner].abs()
        assert off.numel() == 0 or off.max() <= 1, (seed, off.max())
        num_compared += off.numel()
        assert (cells[0, :, ~inside & (batch.target[0, 4::8, 4::8] == 255)] == 0).all()
    assert num_compared > 400


def test_whole_tiles_keep_their_cells_and_those_of_another_are_stretched_over_them(tile_set):
    for index, size in enumerate(SIZES):
        found = read(tile_set, index).maps["cells"]
        assert np.array_equal(found[0].numpy(), cells_of(size)) and found.is_contiguous()
    batch = read(tile_set, 1, shuffled=True)
    other = batch.maps["cells"]
    assert np.array_equal(other[0].numpy(), cells_of((40, 90)))
    whole = cut_cells(other, (75, 131), Box(0, 0, 75, 131), (10, 17))[0].float()
    rows = (torch.arange(10) + 0.5) * 4  # of 40, on the 75 of this tile
    assert (whole[0, 1:-1] - 1 - rows[1:-1, None]).abs().max() <= 1
    write_map(store_folder(tile_set.root, "cells"), "t0", cells_of((160, 90)), "", RECIPE)
    with pytest.raises(DataError, match=r"t0\.tif has \(20, 12\) cells and its image \(20, 20\)"):
        read(tile_set, 0)
