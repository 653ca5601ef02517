"""The cases of docs/trials.md that are about prepare.py, by its command line.

Each name begins with the number of its case, each value is the one that is right there.
"""

import json
import tracemalloc

import numpy as np
import pytest
import rasterio
from PIL import Image, ImageOps
from rasterio.enums import ColorInterp

from tests.trial_files import (
    TWO,
    TWO_255,
    class_file,
    halves,
    noise,
    placed,
    the_tile,
    tiles_of,
    write_geotiff,
    write_image,
)
from tests.utils.rasters.raster_files import write_png_16

ALL_TRAIN = ("--shares", 1, 0, 0)


@pytest.fixture
def prepare(run_prepare, tmp_path, tmp_path_factory):
    """Run ``prepare.py folder`` on ``images`` and ``labels`` of a folder; the set and the output.

    ``TEXT = prepare(..., fails=True)[1]`` is the sentence of a refusal, which must leave nothing.
    """
    sets = tmp_path_factory.mktemp("sets")

    def run(*arguments, classes=TWO, ignore=None, fails=False, name="set", split=ALL_TRAIN):
        path = class_file(tmp_path / "classes.json", classes, ignore)
        where = () if "--images" in arguments or "--tree" in arguments else ("--tree", tmp_path)
        command = ("folder", *where, "--classes", path, *split, *arguments)
        code, out, err = run_prepare(*command, "--output", sets / name)
        assert code == (2 if fails else 0), out + err
        assert not fails or not any(name in path.name for path in sets.iterdir())
        return sets / name, err.partition("error: ")[2].strip() if fails else out

    return run


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_case_01_images_are_turned_as_viewers_show_them(prepare, tmp_path, orientation):
    """The mask was drawn on the turned picture: its red block has the class 1."""
    upright = np.full((256, 384, 3), (20, 90, 120), np.uint8)
    upright[:50] = (90, 30, 200)
    upright[:, :100] = (250, 10, 10)
    stored = Image.fromarray(upright).transpose(TURNS[orientation])
    exif = Image.Exif()
    exif[0x112] = orientation
    path = write_image(tmp_path / "images/a.jpg", np.array(stored), quality=95, exif=exif)
    mask = np.zeros((256, 384), np.uint8)
    mask[:, :100] = 1
    write_image(tmp_path / "labels/a.png", mask)
    root, _ = prepare()
    image, labels = the_tile(root), the_tile(root, "labels")
    assert np.array_equal(image, np.array(ImageOps.exif_transpose(Image.open(path))))
    assert np.sum(labels[image[..., 0] > 135] == 1) == 25_600 == np.sum(labels == 1)


def test_case_03_pixels_without_data_are_ignored(prepare, tmp_path):
    """A collar of no-data value 0 under a mask of class 0: neither trained on nor scored."""
    pixels = np.maximum(noise(), 1)
    pixels[:, :50] = 0
    write_geotiff(tmp_path / "images/a.tif", pixels, nodata=0, photometric="RGB", **placed())
    write_image(tmp_path / "labels/a.png", halves())
    root, out = prepare()
    labels = the_tile(root, "labels")
    assert np.all(labels[:, :50] == 255) and np.array_equal(labels[:, 50:], halves()[:, 50:])
    assert ["ignored", "39.1", "%"] in [line.split()[:3] for line in out.splitlines()]
    assert "no data: 4,800 pixels (39.1%) of 1 image, which are ignored" in out


def write_deep(folder, kind, values):
    """Write the same values of 16 bits in one of the ways of case 4."""
    if kind == "e":
        folder.mkdir()
        return write_png_16(folder / "a.png", values)
    ways = {
        "a": {"photometric": "RGB"},
        "b": {"photometric": "RGB", "interleave": "band"},
        "c": {"photometric": "MINISBLACK"},
        "d": {"photometric": "RGB", "compress": "lzw", "predictor": 2, "tiled": True}
        | {"blockxsize": 64, "blockysize": 64},
    }
    return write_geotiff(folder / "a.tif", values, **ways[kind])


@pytest.mark.parametrize("kind", "abcde")
def test_case_04_images_of_16_bits_become_the_picture_of_8_bits(prepare, tmp_path, kind):
    """Values 0 to 3060: refused without a stretch, and exact with it, however they are stored."""
    picture = noise()
    write_deep(tmp_path / "images", kind, picture.astype(np.uint16) * 12)
    write_image(tmp_path / "labels/a.png", halves())
    text = prepare(fails=True)[1]
    assert "--stretch" in text and "3060" in text and "\n" not in text
    root, _ = prepare("--stretch", "0,3060")
    assert np.array_equal(the_tile(root), picture)
    facts = json.loads((root / "dataset.json").read_text())
    assert facts["rendering"]["stretch"] == [[0, 3060]]


def nir_file(path, kind):
    """Write red, green, blue and near infrared in one of the ways of case 6."""
    pixels = noise(96, 128, 4)
    pixels[..., 3] = 10 + pixels[..., 3] % 110
    pixels[:40, :, 3] = 0
    ways = {
        "premultiplied": {"photometric": "RGB", "alpha": "PREMULTIPLIED"},
        "gray": {"photometric": "MINISBLACK", "alpha": "NO"},
        "gray-planar": {"photometric": "MINISBLACK", "alpha": "NO", "interleave": "band"},
        "planar": {"photometric": "RGB", "alpha": "PREMULTIPLIED", "interleave": "band"},
        "big": {"photometric": "RGB", "alpha": "NO", "bigtiff": "YES", "endianness": "BIG"},
        "webp": {"photometric": "RGB", "compress": "webp", "webp_lossless": "YES"}
        | {"interleave": "pixel"},
    }
    write_geotiff(path, pixels, **ways[kind])


@pytest.mark.parametrize("kind", ["premultiplied", "gray", "gray-planar", "planar", "big", "webp"])
def test_case_06_a_fourth_band_changes_no_color(prepare, tmp_path, kind):
    """Colours are as GDAL reads them; a band that is declared as alpha may be said to be data."""
    path = tmp_path / "images/a.tif"
    nir_file(path, kind)
    write_image(tmp_path / "labels/a.png", halves())
    with rasterio.open(path) as file:
        stored = np.moveaxis(file.read((1, 2, 3)), 0, -1)
        is_alpha = file.colorinterp[3] == ColorInterp.alpha
    root, out = prepare()
    assert np.array_equal(the_tile(root), stored)
    ignored = 40 * 128 if is_alpha else 0
    assert np.sum(the_tile(root, "labels") == 255) == ignored
    assert ("looks like data, e.g. near infrared" in out) == is_alpha
    if is_alpha:
        root, _ = prepare("--alpha-is-data", name="all")
        assert np.array_equal(the_tile(root), stored)
        assert np.array_equal(the_tile(root, "labels"), halves())


def test_case_07a_labels_that_lie_elsewhere_are_refused(prepare, tmp_path):
    """Equal sizes, 40 m apart: the message has both places."""
    write_geotiff(tmp_path / "images/a.tif", noise(), photometric="RGB", **placed())
    write_geotiff(tmp_path / "labels/a.tif", halves(), **placed(400_040))
    text = prepare(fails=True)[1]
    assert "x 400000 to 400128" in text and "x 400040 to 400168" in text
    assert "\n" not in text


@pytest.mark.parametrize("place", [placed(400_000.009), {}], ids=["same", "none"])
def test_case_07a_a_hundredth_of_a_pixel_or_no_place_is_no_difference(prepare, tmp_path, place):
    write_geotiff(tmp_path / "images/a.tif", noise(), photometric="RGB", **placed())
    write_geotiff(tmp_path / "labels/a.tif", halves(), **place)
    root, out = prepare()
    assert np.array_equal(the_tile(root, "labels"), halves()) and "grid" not in out


@pytest.mark.parametrize(
    ("num_bands", "named", "rgb"),
    [(4, True, "3,2,1"), (4, False, "3,2,1"), (8, False, "5,3,2")],
    ids=["named", "BGRN", "eight"],
)
def test_case_08_red_is_the_band_that_the_file_or_the_user_names(
    prepare, tmp_path, num_bands, named, rgb
):
    """Blue, green, red, infrared: red of the set is the third band, and else a note is printed."""
    pixels = noise(96, 128, num_bands)
    names = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined)
    path, gray = tmp_path / "images/a.tif", {"photometric": "MINISBLACK"}
    write_geotiff(path, pixels, colors=names if named else (), **gray)
    write_image(tmp_path / "labels/a.png", halves())
    if not named:
        note = "neither file nor --bands names red, green and blue: the bands 1,2,3 were taken"
        assert note in prepare(name="first")[1]
    root, out = prepare(*(() if named else ("--bands", rgb)))
    shown = [int(band) - 1 for band in rgb.split(",")]
    assert np.array_equal(the_tile(root), pixels[..., shown]) and "were taken" not in out


@pytest.mark.parametrize(
    ("foreground", "codes"),
    [
        ({"values": [1, 257, 512]}, [0, 1, 257, 512]),
        ({"values": [1, "257..512"]}, [0, 1, 257, 512]),
        ({"values": "others"}, [0, 1, 257, 512]),
        ({"colors": ["#010000", "#010001", "#000002"]}, [0x000000, 0x010000, 0x010001, 0x000002]),
        ({"colors": "others"}, [0x000000, 0x010000, 0x010001, 0x000002]),
    ],
)
def test_case_09_many_values_or_colors_are_one_class(prepare, tmp_path, foreground, codes):
    """A quarter of the pixels has each code: 75 % are of the class of three of them."""
    write_image(tmp_path / "images/a.png", noise())
    mask = np.repeat(np.array(codes), 32)[None].repeat(96, 0)
    if "colors" in foreground:
        mask = np.dstack([mask >> 16, mask >> 8 & 255, mask & 255])
    write_image(tmp_path / "labels/a.png", mask.astype("u1" if mask.ndim == 3 else "u2"))
    classes = [{"name": "bg", "value": 0}, {"name": "fg", **foreground}]
    root, out = prepare(classes=classes)
    rows = [line.split() for line in out.splitlines()]
    assert ["fg", "75.0", "%"] in [row[:3] for row in rows]
    assert ["bg", "25.0", "%"] in [row[:3] for row in rows]
    assert np.array_equal(the_tile(root, "labels"), np.arange(128)[None].repeat(96, 0) >= 32)


def write_pairs(tmp_path, image_name, mask_name, images="images", masks="labels"):
    for name in ("100", "200", "300"):
        write_image(tmp_path / images / image_name.format(name), noise())
        write_image(tmp_path / masks / mask_name.format(name), halves())


@pytest.mark.parametrize(
    ("image_name", "mask_name", "suffixes"),
    [
        ("{}_sat.jpg", "{}_mask.png", ("--image-suffix", "_sat", "--mask-suffix", "_mask")),
        ("{}.tif", "{}_15label.png", ("--mask-suffix", "_15label")),
    ],
)
def test_case_10_names_with_endings_are_paired(prepare, tmp_path, image_name, mask_name, suffixes):
    """The message proposes the options, which work; ids are without the endings."""
    write_pairs(tmp_path, image_name, mask_name)
    assert " ".join(suffixes) in prepare(fails=True)[1]
    root, _ = prepare(*suffixes)
    assert list(tiles_of(root)) == ["100", "200", "300"]


def test_case_10_one_folder_of_both_and_folders_by_split_are_read(prepare, tmp_path):
    both, tree = tmp_path / "both", tmp_path / "tree"
    write_pairs(both, "{}_sat.jpg", "{}_mask.png", ".", ".")
    suffixes = ("--image-suffix", "_sat", "--mask-suffix", "_mask")
    root, _ = prepare("--images", both, "--labels", both, *suffixes, name="one")
    assert list(tiles_of(root)) == ["100", "200", "300"]
    write_pairs(tree, "{}.jpg", "{}.png", "img_dir/train", "ann_dir/train")
    root, _ = prepare("--tree", tree, split=())
    assert (root / "splits/train.txt").read_text().split() == ["100", "200", "300"]


def write_large(folder, side):
    """Write an image and its mask, each of one value, in tiles."""
    options = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    image = np.broadcast_to(np.array([120, 90, 60], np.uint8), (side, side, 3))
    write_geotiff(folder / "images/a.tif", image, photometric="RGB", **options)
    write_geotiff(folder / "labels/a.tif", np.broadcast_to(np.uint8(1), (side, side)), **options)


def test_case_11_an_image_larger_than_pillow_opens_is_cut(prepare, tmp_path, monkeypatch):
    """The limit of 178,956,970 pixels is lowered here; the test below has the real one."""
    write_large(tmp_path, 270)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)  # twice as many are an error
    root, _ = prepare("--tile-size", 90)
    assert len(tiles_of(root)) == 9
    assert all(np.all(image == [120, 90, 60]) for image in tiles_of(root).values())
    assert all(np.all(labels == 1) for labels in tiles_of(root, "labels").values())


@pytest.mark.slow
def test_case_11_memory_does_not_grow_with_the_image(prepare, tmp_path):
    """13,500 x 13,500 pixels, of which the RGB pixels alone would take 547 MB."""
    write_large(tmp_path, 13_500)
    tracemalloc.start()
    root, _ = prepare("--tile-size", 512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len([*(root / "images").iterdir()]) == 27 * 27 and peak < 150e6


def write_crops(folder):
    """36 crops of 128 pixels, 64 apart, out of one picture."""
    scene = noise(448, 448)
    for top in range(0, 321, 64):
        for left in range(0, 321, 64):
            name = f"2_10_{left}_{top}_{left + 128}_{top + 128}.png"
            crop = scene[top : top + 128, left : left + 128]
            write_image(folder / "images" / name, crop)
            write_image(folder / "labels" / name, halves(128, 128))


def test_case_13_crops_that_overlap_across_splits_are_found(prepare, run_prepare, tmp_path):
    """All validation and test tiles share pixels with training tiles; the names tell it before."""
    write_crops(tmp_path)
    shares = ("--shares", 0.6, 0.2, 0.2)
    root, out = prepare(split=shares)
    assert "--group-by" in out and out.count("crops of") == 1
    text = prepare("--group-by", r"^(\d+_\d+)_", split=shares, fails=True, name="grouped")[1]
    assert "\n" not in text and "group" in text
    code, out, err = run_prepare("check", "--data", root)
    assert code == 2 and "same pixels in two splits" in out + err
    found = json.loads((root / "check/check.json").read_text())
    pairs = found["faults"]["same pixels in two splits"]
    with_train = " ".join(pair for pair in pairs if "(train)" in pair)
    held_out = [*(root / "splits/val.txt").read_text().split()]
    held_out += (root / "splits/test.txt").read_text().split()
    assert len(held_out) == 14 and all(f"'{name}'" in with_train for name in held_out)


def test_case_13_scenes_stay_in_one_split(prepare, run_prepare, tmp_path):
    for scene in range(3):
        for crop in range(4):
            name = f"2_{scene}_{crop * 64}_0_{crop * 64 + 128}_128.png"
            pixels = np.roll(noise(96, 128), 31 * scene, 1)
            write_image(tmp_path / "images" / name, np.roll(pixels, -crop, 0))
            write_image(tmp_path / "labels" / name, halves())
    group = ("--group-by", r"^(\d+_\d+)_")
    root, out = prepare(*group, split=("--shares", 0.4, 0.3, 0.3))
    assert "crops of" not in out
    for split in ("train", "val", "test"):
        names = (root / "splits" / f"{split}.txt").read_text().split()
        assert len(names) == 4 and len({name.split("_")[1] for name in names}) == 1


NAN_RIGHT = np.where(np.arange(128) < 100, halves(), np.nan).astype(np.float32)
MINUS_RIGHT = np.where(np.arange(128) < 100, halves().astype(np.int16), np.int16(-1))


@pytest.mark.parametrize(
    ("mask", "options", "ignore", "num_ignored"),
    [
        (halves().astype(np.float32), {}, None, 0),
        (NAN_RIGHT, {"nodata": np.nan}, None, 28 * 96),
        (NAN_RIGHT, {}, None, 28 * 96),
        (MINUS_RIGHT, {"nodata": -1}, None, 28 * 96),
        (MINUS_RIGHT, {}, {"values": [-1]}, 28 * 96),
        (MINUS_RIGHT.astype(np.int32), {}, {"values": ["-9999..-1"]}, 28 * 96),
    ],
    ids=["float", "nan-tag", "nan", "tag", "value", "range"],
)
def test_case_15_labels_of_any_type_that_hold_whole_numbers_are_read(
    prepare, tmp_path, mask, options, ignore, num_ignored
):
    """What is no data there is ignored and counted."""
    write_image(tmp_path / "images/a.png", noise())
    write_geotiff(tmp_path / "labels/a.tif", mask, **options)
    root, out = prepare(ignore=ignore)
    expected = halves()
    expected[:, 128 - num_ignored // 96 :] = 255
    assert np.array_equal(the_tile(root, "labels"), expected)
    if num_ignored:
        assert ["ignored", "21.9", "%"] in [line.split()[:3] for line in out.splitlines()]
    counted = "no data in the labels: 2,688 pixels (21.9%), which are ignored"
    assert (counted in out) == bool(num_ignored and ignore is None)


def test_case_15_a_fraction_is_no_class(prepare, tmp_path):
    write_image(tmp_path / "images/a.png", noise())
    write_geotiff(tmp_path / "labels/a.tif", halves().astype(np.float32) / 2)
    text = prepare(fails=True)[1]
    assert "0.5: 6,144 pixels" in text


def test_case_25_a_mask_of_1_bit_holds_0_and_1(prepare, tmp_path):
    """Viewers show 255, so a class file may say that; the message says what is there."""
    write_image(tmp_path / "images/a.png", noise())
    write_image(tmp_path / "labels/a.png", halves().astype(bool))
    assert Image.open(tmp_path / "labels/a.png").mode == "1"
    text = prepare(classes=TWO_255, fails=True)[1]
    assert "True" not in text and "1: 6,144 pixels" in text and "1 bit" in text
    root, _ = prepare(classes=TWO)
    assert np.array_equal(the_tile(root, "labels"), halves())


@pytest.mark.parametrize("kind", ["0/255", "RGB", "LA", "0/1 in three channels"])
def test_case_25_black_and_white_masks_are_read_or_explained(prepare, tmp_path, kind):
    write_image(tmp_path / "images/a.png", noise())
    mask = halves() * np.uint8(1 if "three" in kind else 255)
    if kind == "LA":
        mask = np.dstack([mask, np.full_like(mask, 255)])
    elif kind != "0/255":
        mask = np.dstack([mask] * 3)
    write_image(tmp_path / "labels/a.png", mask)
    white = [{"name": "bg", "color": "#000000"}, {"name": "fg", "value": 255, "color": "#ffffff"}]
    if "three" in kind:
        text = prepare(classes=white, fails=True)[1]
        assert "#010101: 6,144 pixels" in text
    else:
        root, _ = prepare(classes=white)
        assert np.array_equal(the_tile(root, "labels"), halves())


NAMES = ("são paulo #3 50% & co", "cityA/2020/tile 0.v1", "b")


@pytest.mark.parametrize(
    "form", ["{}", "{}.jpg", "{}.png", "bare", "back slashes", "images/{}.jpg"]
)
def test_case_29_lists_name_images_in_any_usual_way(prepare, tmp_path, form):
    for name in NAMES:
        write_image(tmp_path / f"images/{name}.jpg", noise())
        write_image(tmp_path / f"labels/{name}.png", halves())
    lists = []
    for split, names in (("train", NAMES[:2]), ("val", NAMES[2:])):
        if form == "bare":
            lines = [name.rpartition("/")[2] for name in names]
        elif form == "back slashes":
            lines = [f"{name}.jpg".replace("/", "\\") for name in names]
        else:
            lines = [form.format(name) for name in names]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
        lists += [f"--{split}-list", tmp_path / f"{split}.txt"]
    folders = ("--images", tmp_path / "images", "--labels", tmp_path / "labels")
    root, _ = prepare(*folders, *lists, split=())
    train = (root / "splits/train.txt").read_text().splitlines()
    assert sorted(train) == sorted(name.replace("/", "__") for name in NAMES[:2])
