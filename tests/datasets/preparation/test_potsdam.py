"""Potsdam from fake archives with the official names to a prepared set."""

import zipfile

import numpy as np
import pytest

from datasets.preparation.archives import ArchiveFile
from datasets.preparation.potsdam import SPLITS
from datasets.structure_maps import from_levels, map_path, read_manifest, read_map, store_folder
from datasets.tile_set import open_tile_set
from tests.datasets.fake_archives import (
    BLACK,
    POTSDAM_TILES,
    encode,
    height_of,
    image_of,
    pack,
    potsdam,
    potsdam_rgbir,
    target_of,
)
from utils.errors import MissingDataError

SIZE = (10, 12)
LABELS, ERODED = "5_Labels_all", "5_Labels_all_noBoundary"


@pytest.fixture(scope="module")
def files():
    return potsdam(SIZE)


@pytest.fixture(scope="module")
def archives(files, tmp_path_factory):
    return pack(files, tmp_path_factory.mktemp("potsdam"), "zips")


@pytest.fixture
def prepare(run_prepare, tmp_path):
    def prepare(source, *more):
        root = tmp_path / "set"
        return root, *run_prepare("potsdam", "--source", source, "--output", root, *more)

    return prepare


def only(files, *archives, **changed):
    """Some archives, with some members of the labels changed (None: taken out)."""
    chosen = {name: dict(files[name]) for name in archives or files}
    for name, content in changed.items():
        for members in chosen.values():
            for member in [m for m in members if m.endswith(f"{name}.tif")]:
                if content is None:
                    del members[member]
                else:
                    members[member] = content
    return chosen


def index_of(tile):
    return POTSDAM_TILES.index(tile)


def nothing_is_left(root):
    return not list(root.parent.glob("*set*")) and not list(root.parent.glob(".*"))


def test_the_splits_have_the_published_tiles():
    official, geoseg, ssrs = (SPLITS[name].lists for name in ("official", "geoseg", "ssrs"))
    assert sorted(official["train"] + official["test"]) == sorted(POTSDAM_TILES)
    assert (len(official["train"]), len(official["test"])) == (24, 14)
    assert geoseg["val"] == ("2_10",) and geoseg["test"] == official["test"]
    assert set(official["train"]) - set(geoseg["train"]) == {"2_10", "7_10"}
    assert set(ssrs["test"]) == {"4_10", "5_11", "2_11", "3_10", "6_11", "7_12"}
    assert len(ssrs["train"]) == 18 and "7_10" in ssrs["train"]
    assert set(ssrs["train"] + ssrs["test"]) == set(official["train"])


@pytest.mark.parametrize("how", ["zips", "folders", "nested", "nested stored"])
def test_archives_and_unpacked_folders_give_the_same_set(files, prepare, tmp_path, how):
    method = zipfile.ZIP_STORED if how == "nested stored" else zipfile.ZIP_DEFLATED
    source = pack(files, tmp_path / "in", how.split()[0], method)
    root, code, out, _ = prepare(source, "--split", "official")
    assert code == 0, out
    tiles = open_tile_set(root)
    assert (tiles.name, tiles.bands, tiles.label_kinds) == ("potsdam", "rgb", ("full", "eroded"))
    assert (tiles.split_name, tiles.unlabelled) == ("official", ())
    assert sorted(tiles.tiles) == sorted(POTSDAM_TILES)
    for tile in POTSDAM_TILES:
        image, target = image_of(index_of(tile), *SIZE), target_of(index_of(tile), *SIZE)
        np.testing.assert_array_equal(tiles.read_image(tile), image)
        np.testing.assert_array_equal(tiles.read_target(tile), target)
        eroded = tiles.read_target(tile, "eroded")
        assert (eroded[0] == 255).all()
        np.testing.assert_array_equal(eroded[1:], target[1:])
    assert not list(tmp_path.glob(".*"))


def test_every_class_is_decoded_from_the_published_colours(files, prepare, tmp_path):
    pixels = [[255, 255, 255], [0, 0, 255], [0, 255, 255], [0, 255, 0], [255, 255, 0], [255, 0, 0]]
    full = np.zeros((*SIZE, 3), np.uint8)
    full[:, :6], full[:, 6:] = pixels, [255, 0, 0]
    eroded = full.copy()
    eroded[:, 6:] = [0, 0, 0]
    labels = {"top_potsdam_2_10_label": full, "top_potsdam_2_10_label_noBoundary": eroded}
    changed = only(files, **{name: encode(label) for name, label in labels.items()})
    root, code, *_ = prepare(pack(changed, tmp_path / "in", "zips"))
    assert code == 0
    tiles = open_tile_set(root)
    assert tiles.classes == (
        *("impervious surface", "building", "low vegetation", "tree", "car", "clutter"),
    )
    assert tiles.palette == tuple(tuple(color) for color in pixels)
    assert tiles.read_target("2_10")[3].tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 5]
    expected = [0, 1, 2, 3, 4, 5, 255, 255, 255, 255, 255, 255]
    assert tiles.read_target("2_10", "eroded")[3].tolist() == expected


def test_the_known_faults_are_repaired_and_reported(archives, prepare):
    root, code, out, _ = prepare(archives, "--dsm")
    assert code == 0
    tiles = open_tile_set(root)
    for tile in ("6_7", "4_12"):
        target = target_of(index_of(tile), *SIZE)
        np.testing.assert_array_equal(tiles.read_target(tile), target)
    cars = (target_of(index_of("6_7"), *SIZE) == 4).sum(1)
    lines = out.splitlines()
    assert f"repaired: {cars.sum()} pixels of 6_7 (full): cars are (252, 255, 0)" in lines
    assert f"repaired: {cars[1:].sum()} pixels of 6_7 (eroded): cars are (252, 255, 0)" in lines
    assert "repaired: 120 pixels of 4_12 (full): the label was saved with losses" in lines
    assert out.count("repaired:") == 3
    levels = read_map(map_path(store_folder(root, "dsm"), "3_13"))
    assert (levels[:, -1] == 0).all() and (levels[:, :-1] > 0).all()


def test_repairs_are_for_their_tiles_only(files, prepare, tmp_path):
    label = np.full((*SIZE, 3), 255, np.uint8)
    label[0, :3] = [252, 255, 0]
    source = pack(only(files, top_potsdam_2_11_label=encode(label)), tmp_path / "in", "zips")
    root, code, _, err = prepare(source)
    assert code == 2
    assert "the masks hold 1 colours or values that no class of this data set has (0.03" in err
    assert "of all pixels); get the archives again, or give --unknown-to-ignore:\n" in err
    assert "  #FCFF00: 3 pixels (0.034%), e.g. in in/5_Labels_all.zip/top_potsdam_2_11_l" in err
    assert nothing_is_left(root)
    root, code, out, _ = prepare(source, "--unknown-to-ignore")
    assert code == 0 and "ignored: 3 pixels of the unknown #FCFF00" in out
    assert open_tile_set(root).read_target("2_11")[0, :4].tolist() == [255, 255, 255, 0]


def test_black_is_no_class_of_the_full_labels(files, prepare, tmp_path):
    label = np.full((*SIZE, 3), 255, np.uint8)
    label[0] = BLACK
    source = pack(only(files, top_potsdam_2_11_label=encode(label)), tmp_path / "in", "zips")
    _, code, _, err = prepare(source)
    assert code == 2 and "#000000: 12 pixels" in err


def test_irrg_comes_from_its_own_archive_or_from_four_bands(files, archives, prepare, tmp_path):
    root, code, *_ = prepare(archives, "--bands", "irrg")
    assert code == 0 and open_tile_set(root).bands == "irrg"
    image = image_of(index_of("2_10"), *SIZE)
    np.testing.assert_array_equal(open_tile_set(root).read_image("2_10"), 255 - image)
    four = pack(only(files, LABELS) | potsdam_rgbir(SIZE), tmp_path / "four", "zips")
    for bands, expected in (
        ("rgb", image),
        ("irrg", np.stack([image[..., 0] // 2, image[..., 0], image[..., 1]], -1)),
    ):
        root, code, *_ = prepare(four, "--output", tmp_path / bands, "--bands", bands)
        tiles = open_tile_set(tmp_path / bands)
        assert code == 0 and tiles.label_kinds == ("full",)
        np.testing.assert_array_equal(tiles.read_image("2_10"), expected)


def test_surface_models_become_modalities_over_one_range(archives, prepare, tmp_path):
    root, code, *_ = prepare(archives, "--dsm", "--ndsm")
    assert code == 0
    folder = store_folder(root, "dsm")
    recipe, hashes = read_manifest(folder)
    low, high = recipe.settings["minimum"], recipe.settings["maximum"]
    used = [index_of(tile) for tile in SPLITS["geoseg"].sources()]
    assert low == min(used) and high == pytest.approx(max(used) + 20 / 8)
    for tile in ("2_10", "7_13"):
        levels = read_map(map_path(folder, tile))
        expected = height_of(index_of(tile), *SIZE)
        np.testing.assert_allclose(from_levels(levels, low, high), expected, atol=1e-3)
    assert sorted(hashes) == sorted(open_tile_set(root).tiles)
    assert read_manifest(store_folder(root, "ndsm"))[0].settings["maximum"] == max(used)
    code = prepare(archives, "--dsm", "--range", 0, 10, "--output", tmp_path / "given")[1]
    recipe, _ = read_manifest(store_folder(tmp_path / "given", "dsm"))
    assert code == 0 and recipe.settings == {"minimum": 0.0, "maximum": 10.0}


def test_training_images_are_cut_and_the_rest_is_kept_whole(prepare, tmp_path):
    files = potsdam((40, 50))
    source = pack(only(files, "2_Ortho_RGB", LABELS, "1_DSM"), tmp_path / "in", "folders")
    root, code, *_ = prepare(source, "--tile-size", 32, "--overlap", 8, "--dsm")
    tiles = open_tile_set(root)
    assert code == 0 and len(tiles.split("train")) == 22 * 4
    assert tiles.split("val") == ("2_10",) and len(tiles.split("test")) == 14
    name = "2_12_y00008_x00018"
    image = image_of(index_of("2_12"), 40, 50)
    np.testing.assert_array_equal(tiles.read_image(name), image[8:40, 18:50])
    target = target_of(index_of("2_12"), 40, 50)
    np.testing.assert_array_equal(tiles.read_target(name), target[8:40, 18:50])
    recipe, _ = read_manifest(store_folder(root, "dsm"))
    levels = read_map(map_path(store_folder(root, "dsm"), name))
    height = from_levels(levels, recipe.settings["minimum"], recipe.settings["maximum"])
    expected = height_of(index_of("2_12"), 40, 50)[8:40, 18:50]
    np.testing.assert_allclose(height, expected, atol=1e-3)


def test_labels_for_participants_are_enough_for_ssrs(files, prepare, tmp_path):
    chosen = only(files, "2_Ortho_RGB", "5_Labels_for_participants")
    source = pack(chosen, tmp_path / "in", "zips")
    root, code, out, _ = prepare(source, "--split", "ssrs")
    assert code == 0
    assert "labels of 24 images: full of 24" in out
    with pytest.raises(MissingDataError, match="has no eroded labels, only full; prepare it again"):
        open_tile_set(root).read_target("2_10", "eroded")
    root, code, _, err = prepare(source, "--output", tmp_path / "other")
    assert code == 2
    assert "14 of 37 labels are not in" in err and "first: top_potsdam_2_13_label.tif, " in err
    assert "add 5_Labels_all.zip (or 5_Labels_for_participants.zip, which lacks the test" in err


def test_the_table_says_what_was_prepared(archives, prepare):
    root, _, out, _ = prepare(archives)
    lines = out.splitlines()
    assert lines[0].split() == ["train", "val", "test"]
    assert lines[1].split() == ["images", "22", "1", "14"]
    sha256 = open_tile_set(root).split_sha256
    assert (
        f"split 'geoseg', SHA-256 {sha256[:8]}...: GeoSeg and its descendants: val 2_10, train "
        "without 7_10 (wrong labels)"
    ) in lines
    assert "labels of 37 images: full of 37, eroded of 37" in lines


@pytest.mark.parametrize(
    ("archive", "what", "sentence"),
    [
        ("2_Ortho_RGB", "top_potsdam_2_12_RGB", "1 of 37 RGB images are not in"),
        (LABELS, "top_potsdam_2_13_label", "1 of 37 labels are not in"),
        ("1_DSM", "dsm_potsdam_05_13", "1 of 37 surface models are not in"),
    ],
)
def test_a_missing_tile_is_named_at_once(files, prepare, tmp_path, archive, what, sentence):
    chosen = only(files, "2_Ortho_RGB", LABELS, "1_DSM", **{what: None})
    root, code, _, err = prepare(pack(chosen, tmp_path / "in", "zips"), "--dsm")
    assert code == 2 and sentence in err and f"(first: {what}.tif); add {archive}.zip" in err
    assert err.rstrip().endswith("or the folder it was unpacked to, with --source")
    assert nothing_is_left(root)


@pytest.mark.parametrize(
    ("what", "array", "sentence"),
    [
        ("top_potsdam_2_11_label", np.zeros((10, 11, 3), np.uint8), "from their mask (height"),
        (
            "top_potsdam_2_11_label_noBoundary",
            np.zeros((9, 12, 3), np.uint8),
            "from their eroded mask",
        ),
        ("dsm_potsdam_02_11", np.zeros((10, 11), np.float32), "from their dsm (height"),
    ],
)
def test_another_size_is_found_before_anything_is_decoded(
    files, prepare, tmp_path, monkeypatch, what, array, sentence
):
    monkeypatch.setattr(ArchiveFile, "open_image", None)  # a call would fail
    chosen = only(files, "2_Ortho_RGB", LABELS, ERODED, "1_DSM", **{what: encode(array)})
    root, code, _, err = prepare(pack(chosen, tmp_path / "in", "zips"), "--dsm")
    height, width = array.shape[:2]
    assert code == 2 and "error: 1 of 37 images differ in size from" in err
    assert sentence in err
    assert "RGB.tif is 10 x 12 and " in err
    assert f"{what}.tif is {height} x {width}); give them one size" in err
    assert nothing_is_left(root)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--split", "x"), "--split x is not a split of potsdam; it has official, geoseg, ssrs"),
        (("--range", 0, 1), "--range needs --dsm"),
        (("--dsm", "--range", 1, 1), "--range is 1 1; the first must be the smaller"),
        (("--source", "nowhere"), "--source nowhere is neither a file nor a folder"),
        (("--tile-size", 8), "--tile-size is 8; it must be 32 or more"),
    ],
)
def test_arguments_that_cannot_be_meant(archives, prepare, arguments, sentence):
    root, code, _, err = prepare(archives, *arguments)
    assert (code, err) == (2, f"error: {sentence}\n")
    assert nothing_is_left(root)


def test_the_same_command_again_says_so_and_other_settings_are_refused(archives, prepare):
    prepare(archives)
    _, code, out, _ = prepare(archives, "--workers", 1)
    assert code == 0 and "is already prepared with these settings" in out
    _, code, _, err = prepare(archives, "--split", "ssrs")
    assert code == 2 and "(wanted | found): split: ssrs | geoseg. Delete it or choose" in err
