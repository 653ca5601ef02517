"""Maps on disk and the manifest of a store: what is refused, what counts as done."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.schema import DepthAnythingConfig, FeaturesConfig, SamConfig, SuperpixelsConfig
from datasets.rasters import read_raster, read_text, write_raster
from datasets.structure_maps import (
    MapRecipe,
    begin_store,
    check_store,
    depth_levels,
    finish_map,
    from_levels,
    map_path,
    map_settings,
    read_facts,
    read_manifest,
    read_map,
    store_folder,
    to_levels,
    write_manifest,
    write_map,
)
from utils.errors import DataError, MissingDataError
from utils.files import sha256_of

RECIPE = MapRecipe(generator="sam", settings={"points": 32, "iou": 0.88}, weights_sha256="ab")
OTHER = MapRecipe(generator="sam", settings={"points": 16, "iou": 0.88}, weights_sha256="ab")
IDS = np.random.default_rng(0).integers(0, 65536, (40, 50)).astype(np.uint16)
WANTED = {"generator": "sam", "settings": {"points": 32, "iou": 0.88}}


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Two images, and a finished store 'maps' for them in tmp_path."""
    images = {name: tmp_path / "images" / f"{name}.tif" for name in "ab"}
    folder = store_folder(tmp_path, "maps")
    for value, (name, path) in enumerate(images.items()):
        write_raster(path, np.full((40, 50, 3), value, np.uint8))
        write_map(folder, name, IDS, sha256_of(path), RECIPE)
    write_manifest(folder, RECIPE, {name: sha256_of(path) for name, path in images.items()})
    return images


def test_only_16_bit_maps_are_written(tmp_path: Path):
    for wrong in (IDS.astype(np.uint8), IDS[None]):
        with pytest.raises(ValueError, match=r"a structure map is \(H, W\) uint16, not \("):
            write_map(tmp_path, "a", wrong, "hash", RECIPE)


def test_facts_are_read_for_the_image_and_recipe_of_a_map_only(tmp_path: Path):
    assert read_facts(tmp_path, "a", "hash", RECIPE) is None
    write_map(tmp_path, "a", IDS, "hash", RECIPE)
    assert read_facts(tmp_path, "a", "hash", RECIPE) == {}
    np.testing.assert_array_equal(read_map(map_path(tmp_path, "a")), IDS)
    write_map(tmp_path, "a", IDS, "hash", RECIPE, {"group": "g"})
    assert read_facts(tmp_path, "a", "hash", RECIPE) == {"group": "g"}
    assert read_facts(tmp_path, "a", "hash of a changed image", RECIPE) is None
    assert read_facts(tmp_path, "a", "hash", OTHER) is None
    path = map_path(tmp_path, "a")
    path.write_bytes(path.read_bytes()[:-4])
    assert read_facts(tmp_path, "a", "hash", RECIPE) is None
    write_raster(path, IDS)  # without its record
    assert read_facts(tmp_path, "a", "hash", RECIPE) is None


def test_levels_are_those_of_a_range():
    depth = np.random.default_rng(0).normal(3, 20, (40, 50)).astype(np.float32)
    levels, (low, high) = depth_levels(depth)
    assert levels.dtype == np.uint16 and (levels.min(), levels.max()) == (1, 65535)
    assert np.abs(from_levels(levels, low, high) - depth).max() <= (high - low) / 131068 * 1.001
    flat, ends = depth_levels(np.full((2, 2), 7, np.float32))
    assert flat.tolist() == [[1, 1], [1, 1]] and ends == (7.0, 7.0)
    clipped = to_levels(np.array([[-5.0, 0, 1, 2, 9, np.nan]]), 0, 2)
    assert clipped.tolist() == [[1, 1, 32768, 65535, 65535, 0]]
    with pytest.raises(DataError, match=r"not finite everywhere.*precision=fp32"):
        depth_levels(np.full((2, 2), np.inf, np.float32))


def test_a_map_is_0_where_there_is_no_data_and_its_range_is_that_of_the_rest():
    depth = np.array([[-100, 1, 2], [5, 999, 3]], np.float32)
    valid = np.array([[False, True, True], [True, False, True]])
    levels, facts = finish_map(depth, "depth_anything", valid)
    assert facts == {"range": (1.0, 5.0)}
    assert levels.tolist() == [[0, 1, 16385], [65535, 0, 32768]]
    back = from_levels(levels, *facts["range"])
    assert np.isnan(back[~valid]).all() and np.abs(back - depth)[valid].max() < 1e-4
    levels, facts = finish_map(depth, "depth_anything", np.zeros_like(valid))
    assert not levels.any() and facts == {"range": None}
    ids = np.array([[9, 1, 2], [2, 9, 3]], np.uint16)
    found, facts = finish_map(ids, "sam", valid)
    assert found.tolist() == [[0, 1, 2], [2, 0, 3]] and facts == {"num_segments": 3}
    assert found.dtype == np.uint16 and finish_map(ids, "sam", None)[0] is ids


def test_maps_of_cells_are_stored_side_by_side_without_those_that_hold_no_data(tmp_path: Path):
    cells = np.random.default_rng(0).integers(1, 256, (5, 3, 4)).astype(np.uint8)
    valid = np.ones((24, 32), bool)
    valid[:, :5] = False  # more than half of the first column
    found, facts = finish_map(cells, "features", valid)
    assert facts == {} and found.dtype == np.uint8 and not found[:, :, 0].any()
    assert np.array_equal(found[:, :, 1:], cells[:, :, 1:])
    assert finish_map(cells, "features", None)[0] is cells
    recipe = replace(RECIPE, generator="features")
    write_map(tmp_path, "a", found, "hash", recipe)
    path = map_path(tmp_path, "a")
    stored = read_raster(path, "8-bit")
    assert stored.shape == (3, 20) and stored[1, 5:10].tolist() == found[:, 1, 1].tolist()
    assert read_facts(tmp_path, "a", "hash", recipe) == {"components": 5}
    assert np.array_equal(read_map(path, "cells"), found)
    write_raster(path, stored[:, :-1], read_text(path))
    with pytest.raises(DataError, match=r"a\.tif is no map of cells; delete it and run generate"):
        read_map(path, "cells")


@pytest.mark.parametrize(
    "config", [SuperpixelsConfig(), SamConfig(), DepthAnythingConfig(), FeaturesConfig()]
)
def test_what_decides_a_map_and_what_does_not(config):
    free = {"store", "encodings", "checkpoint", "points_per_batch", "images_per_batch"}
    assert map_settings(config).keys() == vars(config).keys() - free


def test_the_digest_takes_in_every_part_and_no_order():
    swapped = replace(RECIPE, settings={"iou": 0.88, "points": 32})
    assert swapped.digest() == RECIPE.digest()
    others = (OTHER, replace(RECIPE, weights_sha256="cd"), replace(RECIPE, generator="slic"))
    assert len({recipe.digest() for recipe in (RECIPE, *others)}) == 4


def test_a_store_goes_on_with_the_same_recipe_only(tmp_path: Path):
    unfinished = r"the structure maps .* are missing or not finished; make them with generate\.py"
    for _ in range(2):
        with pytest.raises(MissingDataError, match=unfinished):
            read_manifest(tmp_path)
        begin_store(tmp_path, RECIPE)
    with pytest.raises(DataError, match=r"settings\.points: 16 \| 32.*structure\.sam\.store"):
        begin_store(tmp_path, OTHER)
    write_manifest(tmp_path, RECIPE, {"a": "hash"})
    with pytest.raises(DataError, match=r"settings\.points: 16 \| 32"):
        begin_store(tmp_path, OTHER)
    assert read_manifest(tmp_path) == (RECIPE, {"a": "hash"})  # left as it was
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(DataError, match=r"has format 99, this program reads 2; delete .* generate"):
        read_manifest(tmp_path)


def test_a_store_is_whole_of_these_settings_and_of_these_images(tmp_path: Path, images):
    assert check_store(tmp_path, "maps", WANTED, images) == RECIPE
    assert check_store(tmp_path, "maps", WANTED, {"a": images["a"]}) == RECIPE
    with pytest.raises(DataError, match=r"found\): settings\.points: 16 \| 32\. Change the recipe"):
        check_store(tmp_path, "maps", {**WANTED, "settings": OTHER.settings}, images)
    text = r"maps lacks 1 of {} maps \(first: '{}'\); complete it with generate\.py"
    with pytest.raises(MissingDataError, match=text.format(3, "c")):
        check_store(tmp_path, "maps", WANTED, {**images, "c": images["a"]})
    write_raster(images["b"], np.full((40, 50, 3), 9, np.uint8))
    with pytest.raises(DataError, match=r"1 images changed .* \(first: 'b'\); run generate\.py"):
        check_store(tmp_path, "maps", WANTED, images)
    map_path(store_folder(tmp_path, "maps"), "b").unlink()
    with pytest.raises(MissingDataError, match=text.format(2, "b")):
        check_store(tmp_path, "maps", WANTED, images)
    begin_store(store_folder(tmp_path, "maps"), RECIPE)  # a second run has opened it again
    with pytest.raises(MissingDataError, match=r"are missing or not finished.*generate\.py"):
        check_store(tmp_path, "maps", WANTED, images)
