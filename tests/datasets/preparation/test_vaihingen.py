"""Vaihingen from fake archives with the official names to a prepared set."""

import numpy as np
import pytest

from datasets.preparation.vaihingen import SPLITS
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

COMPLETE, ERODED = f"{VAIHINGEN}_ground_truth_COMPLETE", f"{VAIHINGEN}_ground_truth_eroded_COMPLETE"


@pytest.fixture(scope="module")
def files():
    return vaihingen()


@pytest.fixture
def prepare(run_prepare, tmp_path):
    def prepare(source, *more):
        root = tmp_path / "set"
        return root, *run_prepare("vaihingen", "--source", source, "--output", root, *more)

    return prepare


def test_the_splits_have_the_published_areas():
    official, geoseg, ssrs = (SPLITS[name].lists for name in ("official", "geoseg", "ssrs"))
    assert len(official["train"]) == 16 and len(official["test"]) == 17
    assert sorted(map(int, official["train"] + official["test"])) == VAIHINGEN_AREAS
    assert geoseg["val"] == ("30",) and len(geoseg["train"]) == 15
    assert geoseg["test"] == official["test"]
    assert ssrs["test"] == ("5", "15", "21", "30")
    assert sorted(map(int, ssrs["train"])) == [1, 3, 7, 11, 13, 17, 23, 26, 28, 32, 34, 37]


@pytest.mark.parametrize("how", ["zips", "folders", "nested"])
def test_image_and_label_of_one_name_are_told_apart(files, prepare, tmp_path, how):
    source = pack(files, tmp_path / "in", how)
    root, code, out, _ = prepare(source, "--split", "official", "--dsm")
    assert code == 0, out
    tiles = open_tile_set(root)
    assert (tiles.bands, tiles.label_kinds) == ("irrg", ("full", "eroded"))
    store = store_folder(root, "dsm")
    settings = read_manifest(store)[0].settings
    for area in VAIHINGEN_AREAS:
        size, tile = vaihingen_size(area), str(area)
        np.testing.assert_array_equal(tiles.read_image(tile), image_of(area, *size))
        target = target_of(area, *size)
        np.testing.assert_array_equal(tiles.read_target(tile), target)
        eroded = tiles.read_target(tile, "eroded")
        assert (eroded[0] == 255).all()
        np.testing.assert_array_equal(eroded[1:], target[1:])
        levels = read_map(map_path(store, tile))
        height = from_levels(levels, settings["minimum"], settings["maximum"])
        np.testing.assert_allclose(height, height_of(area, *size), atol=1e-3)


def test_labels_for_participants_are_in_the_archive_of_the_images(files, prepare, tmp_path):
    source = pack({VAIHINGEN: files[VAIHINGEN]}, tmp_path / "in", "zips")
    root, code, *_ = prepare(source, "--split", "ssrs")
    assert code == 0 and open_tile_set(root).label_kinds == ("full",)
    _, code, _, err = prepare(source, "--output", tmp_path / "other")
    assert code == 2 and "17 of 33 labels are not in" in err and "area2.tif" in err
    assert f"add {COMPLETE}.zip" in err


def test_what_lies_in_a_folder_with_another_name_is_no_image(files, prepare, tmp_path):
    moved = {name.replace("top/", "pictures/"): c for name, c in files[VAIHINGEN].items()}
    source = pack({VAIHINGEN: moved, COMPLETE: files[COMPLETE]}, tmp_path / "in", "zips")
    root, code, _, err = prepare(source)
    assert code == 2 and "33 of 33 images are not in" in err and f"add {VAIHINGEN}.zip" in err
    assert not root.exists() and not list(tmp_path.glob(".*"))
