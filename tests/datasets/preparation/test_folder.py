"""A folder of images and masks: pairs, splits, and the prepared set; and tree mapping."""

import json
import shutil

import numpy as np
import pytest
import rasterio.shutil
from PIL import Image
from rasterio import Affine

from datasets.tile_set import open_tile_set
from tests.datasets.preparation.conftest import nothing_is_left
from tests.datasets.preparation.folder_files import touch
from tests.utils.rasters.raster_files import write_tiff

CLASSES = {
    "classes": [{"name": "sea", "color": "#0000FF"}, {"name": "land", "color": "#00FF00"}],
    "ignore": {"colors": ["#000000"]},
}
VALUES = {
    "classes": [
        {"name": "a", "color": "#000000", "value": 0},
        {"name": "b", "color": "#FFFFFF", "value": 1},
    ]
}
SIZES = {
    "train": {"a": (40, 70), "far/b": (100, 33), "c d": (64, 64)},
    "val": {"d": (90, 50)},
}
NOISE = np.random.default_rng(0).integers(0, 256, (100, 100, 3))


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array)
    array = array if array.dtype == np.uint16 else array.astype(np.uint8)
    Image.fromarray(array).save(path, **options)


def paint(path, rows, columns, color):
    array = np.array(Image.open(path))
    array[:rows, :columns] = color
    save(path, array)


@pytest.fixture
def tree(tmp_path):
    """Above sea, below land; the left column of the land is ignored. Images hold their rows."""
    for split, images in SIZES.items():
        for name, (height, width) in images.items():
            mask = np.zeros((height, width, 3))
            mask[: height // 2, :, 2] = 255
            mask[height // 2 :, 1:, 1] = 255
            image = np.broadcast_to(np.arange(height)[:, None, None], (height, width, 3))
            save(tmp_path / "tree" / split / "images" / f"{name}.png", image)
            save(tmp_path / "tree" / split / "masks" / f"{name}.png", mask)
    return tmp_path / "tree"


@pytest.fixture
def prepare(tree, tmp_path, run_prepare):
    """Prepare the tree; the printed text or the error, and the set."""
    classes, root = tmp_path / "classes.json", tmp_path / "out"
    classes.write_text(json.dumps(CLASSES))

    def prepare(*more):
        command = ("folder", "--tree", tree, "--classes", classes, "--output", root, *more)
        code, out, err = run_prepare(*command)
        assert code in (0, 2) and (code == 0 or nothing_is_left(root))
        return (out, open_tile_set(root)) if code == 0 else (err, None)

    return prepare


def test_a_tree_becomes_a_tile_set(prepare):
    out, tiles = prepare("--tile-size", 64, "--overlap", 8)
    assert (tiles.name, tiles.classes) == ("out", ("sea", "land"))
    assert tiles.split("val") == ("d_y00000_x00000", "d_y00045_x00000")
    assert tiles.split("train") == (
        *("a_y00000_x00000", "a_y00000_x00006", "c d"),
        *("far__b_y00000_x00000", "far__b_y00036_x00000"),
    )
    # Every pixel of a source image counts once, also those that overlap.
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert (rows["images"], rows["tiles"]) == (["3", "1"], ["5", "2"])
    pixels, land = 40 * 70 + 100 * 33 + 64 * 64, 20 * 69 + 50 * 32 + 32 * 63
    assert rows["land"] == [f"{100 * land / pixels:.1f}", "%", "49.0", "%"]
    assert rows["ignored"] == [f"{100 * (20 + 50 + 32) / pixels:.1f}", "%", "1.0", "%"]
    tile = tiles.tiles["far__b_y00036_x00000"]
    assert (tile.source, tile.top_px, tile.left_px) == ("far__b", 36, 0)
    assert (tile.height_px, tile.width_px) == (64, 33)
    assert tiles.read_image(tile.id)[:, 0, 0].tolist() == list(range(36, 100))
    target = tiles.read_target(tile.id)  # row 50 of the source is its first row of land
    assert target[13, 0] == 0 and target[14, 0] == 255 and target[14, 1] == 1


def test_unknown_colours_of_all_files_come_in_one_error_or_are_ignored(tree, prepare):
    masks = tree / "train" / "masks"
    paint(masks / "a.png", 2, 3, (1, 2, 3))
    paint(masks / "far" / "b.png", 2, 2, (1, 2, 3))
    paint(tree / "val" / "masks" / "d.png", 1, 3, (0, 0, 254))
    err, _ = prepare()
    first, *lines = err[err.index("error:") :].splitlines()
    # 13 of 40 * 70 + 100 * 33 + 64 * 64 + 90 * 50 = 14,696 pixels
    assert "2 colours or values that the class file does not name (0.088% of all" in first
    assert first.endswith("check --label-kind, or give --unknown-to-ignore:")
    assert lines == [
        f"  #010203: 10 pixels (0.068%), e.g. in {masks}/a.png",
        f"  #0000FE: 3 pixels (0.020%), e.g. in {tree}/val/masks/d.png",
    ]
    out, tiles = prepare("--unknown-to-ignore")
    assert "ignored: 10 pixels of the unknown #010203" in out
    target = tiles.read_target("a")
    assert (target[:2, :3] == 255).all() and target[2, 0] == 0


def test_lossy_masks_are_recognised_and_their_colours_not_all_listed(tree, prepare):
    mask = tree / "train" / "masks" / "a.png"
    save(mask.with_suffix(".jpg"), NOISE[:40, :70])
    mask.unlink()
    lines = prepare()[0].splitlines()
    assert any("JPEG blurs colours, masks should be PNG" in line for line in lines)
    assert len([line for line in lines if ", e.g. in " in line]) == 20
    assert lines[-1].startswith("  and ") and lines[-1].endswith(" more")


def test_images_are_prepared_as_a_viewer_shows_them_in_8_bits(tree, prepare):
    folder = tree / "train" / "images"
    row, seen, exif = np.arange(64, dtype=np.uint8), NOISE[:40, :70], Image.Exif()
    save(folder / "a.png", np.full((40, 70), 300, np.uint16))
    assert "a.png holds uint16 values of 300 to 300" in prepare()[0]
    save(folder / "c d.png", np.broadcast_to(row, (64, 64)))  # grey
    exif[274] = 6  # to be turned clockwise
    save(folder / "a.png", np.rot90(seen), exif=exif)
    _, tiles = prepare()
    np.testing.assert_array_equal(tiles.read_image("a"), seen)
    assert (tiles.read_image("c d") == row[None, :, None]).all()


def test_a_split_without_labels_is_prepared_to_be_predicted(tree, prepare, run_prepare, tmp_path):
    """Case 12 of docs/trials.md: a split of images alone was refused."""
    shutil.copytree(tree / "val" / "images", tree / "test" / "images")
    (tree / "test" / "images" / "d.png").rename(tree / "test" / "images" / "e.png")
    out, tiles = prepare()
    assert f"{tree}/test/images has no folder of masks: the split test is without labels" in out
    assert tiles.unlabelled == ("test",) and tiles.split("test") == ("e",)
    assert not tiles.target_path("e").exists() and tiles.target_path("d").exists()
    np.testing.assert_array_equal(tiles.read_image("e"), tiles.read_image("d"))
    # A tree that holds nothing else.
    for split in SIZES:
        shutil.rmtree(tree / split)
    classes, root = tmp_path / "classes.json", tmp_path / "alone"
    command = ("folder", "--tree", tree, "--classes", classes, "--output", root)
    assert run_prepare(*command)[0] == 0
    alone = open_tile_set(root)
    assert (alone.unlabelled, alone.splits) == (("test",), {"test": ("e",)})
    assert run_prepare("check", "--data", root)[0] == 0


def test_formats_that_gdal_reads_are_found_and_read(tmp_path, run_prepare):
    """Case 23 of docs/trials.md: JPEG 2000, ERDAS, VRT and ENVI files were passed over."""
    images, root, classes = tmp_path / "images", tmp_path / "out", tmp_path / "classes.json"
    rgb, scene = NOISE[:36, :40].astype(np.uint8), tmp_path / "scene.tif"
    write_tiff(scene, rgb, crs="EPSG:32633", transform=Affine(1, 0, 400_000, 0, -1, 5_700_000))
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES"}
    formats = {"jp2": ("JP2OpenJPEG", lossless), "img": ("HFA", {}), "vrt": ("VRT", {})}
    images.mkdir()
    for suffix, (driver, options) in (
        formats | {"dat": ("ENVI", {}), "pix": ("PCIDSK", {})}
    ).items():
        rasterio.shutil.copy(scene, images / f"{suffix}_a.{suffix}", driver=driver, **options)
        save(tmp_path / "masks" / f"{suffix}_a.png", np.zeros((36, 40)))
    (images / "readme.txt").write_text("")
    classes.write_text(json.dumps(VALUES))
    command = ("folder", "--tree", tmp_path, "--classes", classes, "--output", root)
    code, out, error = run_prepare(*command, "--shares", 1, 0, 0)
    assert code == 0, error
    passed_over = [line for line in out.splitlines() if "passed over" in line]
    assert passed_over == [
        f"1 file of {images} is no image by its suffix (.txt) and was passed over"
    ]
    tiles = open_tile_set(root)
    assert tiles.split("train") == ("dat_a", "img_a", "jp2_a", "pix_a", "vrt_a")
    for tile in tiles.split("train"):
        np.testing.assert_array_equal(tiles.read_image(tile), rgb)


@pytest.mark.parametrize("palette", [None, np.array([[0, 0, 0], [0, 255, 0]], np.uint8)])
def test_trees_are_prepared_from_their_documented_layout(run_prepare, tmp_path, palette):
    target, root = np.array([[0, 1] * 20] * 36, np.uint8), tmp_path / "set"
    command = ("tree_mapping", "--output", root, "--tree")
    touch(tmp_path / "flat" / "images", "a.png")
    sentence = "flat has no splits; lay it out as TREE/SPLIT/images and TREE/SPLIT/labels, or give"
    assert sentence in run_prepare(*command, tmp_path / "flat")[2]
    for name in ("train", "val"):
        save(tmp_path / "in" / name / "images" / f"{name}_forest.png", NOISE[:36, :40])
        mask = target if palette is None else palette[target]
        save(tmp_path / "in" / name / "labels" / f"{name}_forest.png", mask)
    assert run_prepare(*command, tmp_path / "in")[0] == 0
    tiles = open_tile_set(root)
    assert tiles.classes == ("background", "tree") and tiles.split_name == "folders"
    np.testing.assert_array_equal(tiles.read_target("val_forest"), target)
