"""Potsdam and Vaihingen from fake archives with the official names to prepared sets."""

from pathlib import Path

import numpy as np
import pytest

from datasets.preparation.archives import ArchiveFile
from datasets.structure_maps import from_levels, map_path, read_manifest, read_map, store_folder
from datasets.tile_set import open_tile_set
from tests.datasets.fake_archives import (
    BLACK,
    COLORS,
    POTSDAM_TILES,
    VAIHINGEN,
    VAIHINGEN_AREAS,
    encode,
    height_of,
    image_of,
    pack,
    potsdam,
    target_of,
    vaihingen,
    vaihingen_size,
)
from tests.datasets.preparation.conftest import nothing_is_left, prepare_once
from utils.errors import MissingDataError

SIZE = (10, 12)
RGB, LABELS, ERODED, DSM = "2_Ortho_RGB", "5_Labels_all", "5_Labels_all_noBoundary", "1_DSM"
CLASSES = ("impervious surface", "building", "low vegetation", "tree", "car", "clutter")


@pytest.fixture(scope="module")
def files():
    return potsdam(SIZE)


@pytest.fixture(scope="module")
def prepared(files, tmp_path_factory):
    """All tiles from one archive of archives with both surface models, and what was printed."""
    chosen = {name: files[name] for name in files if name != "4_Ortho_RGBIR"}
    folder = tmp_path_factory.mktemp("potsdam")
    source, root = pack(chosen, folder, "nested"), folder / "set"
    more = ("--split", "official", "--dsm", "--ndsm")
    return root, prepare_once("potsdam", "--source", source, "--output", root, *more)


@pytest.fixture
def prepare(prepare_archives, files, tmp_path):
    """Prepare some archives, some members of which are changed."""

    def prepare(archives, *more, **changed):
        chosen = {
            archive: {name: changed.get(Path(name).stem, it) for name, it in files[archive].items()}
            for archive in archives
        }
        return prepare_archives("potsdam", pack(chosen, tmp_path / "in", "zips"), *more)

    return prepare


def index_of(tile):
    return POTSDAM_TILES.index(tile)


def assert_content(root, numbers, size_of):
    """Every image, its labels and its surface model are those of its number."""
    tiles, store = open_tile_set(root), store_folder(root, "dsm")
    settings = read_manifest(store)[0].settings
    assert sorted(tiles.tiles) == sorted(numbers) and tiles.split_name == "official"
    for tile, number in numbers.items():
        size = size_of(number)
        np.testing.assert_array_equal(tiles.read_image(tile), image_of(number, *size))
        target, eroded = target_of(number, *size), tiles.read_target(tile, "eroded")
        np.testing.assert_array_equal(tiles.read_target(tile), target)
        assert (eroded[0] == 255).all() and np.array_equal(eroded[1:], target[1:])
        levels = read_map(map_path(store, tile))
        valid = np.ones(size, bool)
        valid[:, -1] = tile != "3_13"  # one column narrower than its image
        np.testing.assert_array_equal(levels > 0, valid)
        heights = from_levels(levels, settings["minimum"], settings["maximum"])
        np.testing.assert_allclose(heights[valid], height_of(number, *size)[valid], atol=1e-3)


def test_archives_of_all_kinds_become_one_set(prepared):
    tiles = open_tile_set(prepared[0])
    assert (tiles.name, tiles.channels, tiles.label_kinds) == ("potsdam", "rgb", ("full", "eroded"))
    assert (tiles.classes, tiles.palette) == (CLASSES, tuple(map(tuple, COLORS)))
    numbers = {tile: number for number, tile in enumerate(POTSDAM_TILES)}
    assert_content(prepared[0], numbers, lambda _: SIZE)


def test_known_faults_are_repaired_and_what_was_prepared_is_printed(prepared):
    root, output = prepared
    lines = output.splitlines()
    cars = (target_of(index_of("6_7"), *SIZE) == 4).sum(1)
    assert [line for line in lines if line.startswith("repaired:")] == [
        "repaired: 120 pixels of 4_12 (full): the label was saved with losses",
        f"repaired: {cars.sum()} pixels of 6_7 (full): cars are (252, 255, 0)",
        f"repaired: {cars[1:].sum()} pixels of 6_7 (eroded): cars are (252, 255, 0)",
    ]
    assert lines[0].split() == ["train", "test"] and lines[1].split() == ["images", "24", "14"]
    split = f"split 'official', SHA-256 {open_tile_set(root).split_sha256[:8]}...: the benchmark's"
    assert any(line.startswith(split) for line in lines)
    assert "labels of 38 images: full of 38, eroded of 38" in lines


def test_surface_models_become_modalities_over_one_range(prepared):
    folder = store_folder(prepared[0], "dsm")
    recipe, hashes = read_manifest(folder)
    assert recipe.settings == {"minimum": 0.0, "maximum": 37 + 20 / 8}
    assert sorted(hashes) == sorted(POTSDAM_TILES)
    assert read_manifest(store_folder(prepared[0], "ndsm"))[0].settings["maximum"] == 37


def test_heights_are_cut_like_the_images_and_the_rest_is_kept_whole(prepare_archives, tmp_path):
    files = potsdam((40, 50))
    source = pack({name: files[name] for name in (RGB, LABELS, DSM)}, tmp_path / "in", "folders")
    more = ("--tile-size", 32, "--overlap", 8, "--dsm", "--range", 0, 20)
    root, code, *_ = prepare_archives("potsdam", source, *more)
    tiles, name = open_tile_set(root), "2_12_y00008_x00018"
    assert code == 0 and len(tiles.split("train")) == 22 * 4
    assert tiles.split("val") == ("2_10",) and len(tiles.split("test")) == 14
    folder = store_folder(root, "dsm")
    assert read_manifest(folder)[0].settings == {"minimum": 0.0, "maximum": 20.0}
    height = from_levels(read_map(map_path(folder, name)), 0, 20)
    np.testing.assert_allclose(height, height_of(2, 40, 50)[8:40, 18:50], atol=1e-3)


@pytest.mark.parametrize(
    ("archive", "bands"),
    [("3_Ortho_IRRG", "irrg"), ("4_Ortho_RGBIR", "rgb"), ("4_Ortho_RGBIR", "irrg")],
)
def test_irrg_comes_from_its_own_archive_or_from_four_bands(prepare, archive, bands):
    image = image_of(index_of("2_10"), *SIZE)
    root, code, *_ = prepare((archive, LABELS), "--bands", bands)
    tiles = open_tile_set(root)
    assert code == 0 and (tiles.channels, tiles.label_kinds) == (bands, ("full",))
    if archive == "3_Ortho_IRRG":
        image = 255 - image
    elif bands == "irrg":
        image = np.stack([image[..., 0] // 2, image[..., 0], image[..., 1]], -1)
    np.testing.assert_array_equal(tiles.read_image("2_10"), image)


def test_labels_are_repaired_in_their_tiles_only(prepare):
    label = np.full((*SIZE, 3), 255, np.uint8)
    label[0, :3], label[1] = [252, 255, 0], BLACK
    labels = {"top_potsdam_2_11_label": encode(label)}
    root, code, out, _ = prepare((RGB, LABELS), "--unknown-to-ignore", **labels)
    assert code == 0 and "ignored: 3 pixels of the unknown #FCFF00" in out
    target = open_tile_set(root).read_target("2_11")
    assert target[0, :4].tolist() == [255, 255, 255, 0] and (target[1] == 255).all()


def test_labels_for_participants_are_enough_for_ssrs(prepare, tmp_path):
    archives = (RGB, "5_Labels_for_participants")
    root, code, out, _ = prepare(archives, "--split", "ssrs")
    assert code == 0 and "labels of 24 images: full of 24" in out
    with pytest.raises(MissingDataError, match="has no eroded labels, only full; prepare it again"):
        open_tile_set(root).read_target("2_10", "eroded")
    _, code, _, err = prepare(archives, "--output", tmp_path / "other")
    assert code == 2
    assert ": 14 of 37 labels (first: top_potsdam_2_13_label.tif, " in err
    assert "add 5_Labels_all.zip (or 5_Labels_for_participants.zip, which lacks the test" in err


def test_another_size_is_found_before_anything_is_decoded(prepare, monkeypatch):
    monkeypatch.setattr(ArchiveFile, "open_image", None)  # a call would fail
    label, dsm = "top_potsdam_2_11_label_noBoundary", "dsm_potsdam_02_11"
    for what, shape, kind in ((label, (9, 12, 3), "eroded mask"), (dsm, (10, 11), "dsm")):
        changed = {what: encode(np.zeros(shape, np.float32 if what == dsm else np.uint8))}
        root, code, _, err = prepare((RGB, LABELS, ERODED, DSM), "--dsm", **changed)
        assert code == 2 and nothing_is_left(root)
        assert f"image and {kind} differ in size for 1 of 37 images (height x width; first: " in err
        assert "RGB.tif is 10 x 12 and " in err
        assert f"{what}.tif is {shape[0]} x {shape[1]}); give them one size" in err


def test_arguments_that_cannot_be_meant(prepare):
    root, code, _, err = prepare((LABELS,), "--range", 0, 1)
    assert (code, err) == (2, "error: --range needs --dsm\n") and nothing_is_left(root)


def test_the_same_command_again_needs_no_archive(prepared, run_prepare):
    command = ("potsdam", "--source", "gone", "--output", prepared[0], "--dsm", "--ndsm")
    code, out, _ = run_prepare(*command, "--split", "official", "--workers", 1)
    assert code == 0 and "is already prepared with these settings" in out
    code, _, err = run_prepare(*command)
    assert code == 2 and "(wanted | found): split: geoseg | official. Delete it or choose" in err


@pytest.mark.parametrize("how", ["folders", "nested"])
def test_vaihingens_images_and_labels_of_one_name_are_told_apart(prepare_archives, tmp_path, how):
    source = pack(vaihingen(), tmp_path / "in", how)
    root, code, *_ = prepare_archives("vaihingen", source, "--split", "official", "--dsm")
    tiles = open_tile_set(root)
    assert code == 0 and (tiles.channels, tiles.label_kinds) == ("irrg", ("full", "eroded"))
    assert_content(root, {str(area): area for area in VAIHINGEN_AREAS}, vaihingen_size)


def test_vaihingens_labels_for_participants_are_in_the_archive_of_the_images(
    prepare_archives, tmp_path
):
    source = pack({VAIHINGEN: vaihingen()[VAIHINGEN]}, tmp_path / "in", "zips")
    root, code, *_ = prepare_archives("vaihingen", source, "--split", "ssrs")
    assert code == 0 and open_tile_set(root).label_kinds == ("full",)
