"""Vaihingen from fake archives with the official names to a prepared set."""

import numpy as np
import pytest

from datasets.structure_maps import from_levels, map_path, read_manifest, read_map, store_folder
from datasets.tile_set import open_tile_set
from tests.datasets.fake_archives import (
    VAIHINGEN,
    VAIHINGEN_AREAS,
    height_of,
    image_of,
    pack,
    target_of,
    vaihingen,
    vaihingen_size,
)

COMPLETE = f"{VAIHINGEN}_ground_truth_COMPLETE"


@pytest.fixture(scope="module")
def files():
    return vaihingen()


@pytest.mark.parametrize("how", ["folders", "nested"])
def test_image_and_label_of_one_name_are_told_apart(files, prepare_archives, tmp_path, how):
    source = pack(files, tmp_path / "in", how)
    root, code, *_ = prepare_archives("vaihingen", source, "--split", "official", "--dsm")
    tiles, store = open_tile_set(root), store_folder(root, "dsm")
    assert code == 0 and (tiles.bands, tiles.label_kinds) == ("irrg", ("full", "eroded"))
    settings = read_manifest(store)[0].settings
    for area in VAIHINGEN_AREAS:
        size, tile = vaihingen_size(area), str(area)
        np.testing.assert_array_equal(tiles.read_image(tile), image_of(area, *size))
        target, eroded = target_of(area, *size), tiles.read_target(tile, "eroded")
        np.testing.assert_array_equal(tiles.read_target(tile), target)
        assert (eroded[0] == 255).all() and np.array_equal(eroded[1:], target[1:])
        levels = read_map(map_path(store, tile))
        height = from_levels(levels, settings["minimum"], settings["maximum"])
        np.testing.assert_allclose(height, height_of(area, *size), atol=1e-3)


def test_labels_for_participants_are_in_the_archive_of_the_images(
    files, prepare_archives, tmp_path
):
    source = pack({VAIHINGEN: files[VAIHINGEN]}, tmp_path / "in", "zips")
    root, code, *_ = prepare_archives("vaihingen", source, "--split", "ssrs")
    assert code == 0 and open_tile_set(root).label_kinds == ("full",)
    _, code, _, err = prepare_archives("vaihingen", source, "--output", tmp_path / "other")
    assert code == 2 and "17 of 33 labels are not in" in err and "area2.tif" in err
    assert f"add {COMPLETE}.zip" in err
