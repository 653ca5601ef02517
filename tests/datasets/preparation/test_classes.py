"""The class file, and the decoding of masks against hand-written pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import Affine

from datasets.preparation.classes import (
    LabelRepair,
    MaskDecoder,
    read_class_file,
)
from datasets.preparation.labels import PolygonDecoder
from tests.utils.rasters.raster_files import write_tiff
from utils.errors import ConfigError, DataError
from utils.rasters.placement import Grid, Placement
from utils.rasters.reading import open_scene
from utils.rasters.vectors import read_polygons

CLASSES = {
    "classes": [
        {"name": "sea", "color": "#0000FF", "value": 3},
        {"name": "land", "color": [0, 255, 0], "value": 1},
    ],
    "ignore": {"colors": ["#000000"], "values": [0]},
}


@pytest.fixture
def classes(tmp_path):
    return class_file(tmp_path, **CLASSES)


def class_file(folder, **content):
    """The class file of this content."""
    path = folder / "classes.json"
    path.write_text(json.dumps(content))
    return read_class_file(path)


def two(folder, bg=(), fg=(), **more):
    """Classes bg (black) and fg (white) with further members."""
    entries = [{"name": "bg", "color": "#000000"} | dict(bg)]
    entries += [{"name": "fg", "color": "#FFFFFF"} | dict(fg)]
    return class_file(folder, classes=entries, **more)


def save(path, array, dtype=np.uint8):
    Image.fromarray(np.asarray(array, dtype)).save(path)
    return path


def save_palette(path):
    """Indices 1, 2, 0 that are painted sea, land and ignore."""
    image = Image.fromarray(np.array([[1, 2, 0]], np.uint8), mode="P")
    image.putpalette([0, 0, 0, 0, 0, 255, 0, 255, 0])
    image.save(path)
    return path


def decode(decoder, path, repair=None, rows=slice(None), grid=None):
    with open_scene(path, grid=grid) as mask:
        rows = slice(*rows.indices(mask.size[0])[:2])
        return decoder.decode(mask, rows, str(path), repair)


def read(decoder, path):
    """Class indices of a mask file, and what was unknown."""
    decoded = decode(decoder, path)
    assert decoded.target.dtype == np.uint8
    return decoded.target.tolist(), decoded.unknown


def test_a_class_file_is_read_as_it_is_written(classes, tmp_path):
    assert classes.names == ("sea", "land")
    assert classes.colors == ((0, 0, 255), (0, 255, 0))
    assert classes.values == (3, 1)
    assert (classes.ignore_colors, classes.ignore_values) == (((0, 0, 0),), (0,))
    path = tmp_path / "short.json"
    entries = [{"name": name, "color": [i, 0, 0]} for i, name in enumerate("abcd")]
    entries[3]["value"] = 65535
    path.write_text(json.dumps({"classes": entries}))
    classes = read_class_file(path)
    assert classes.values == (0, 1, 2, 65535)
    assert classes.ignore_colors == classes.ignore_values == ()
    mask = save(tmp_path / "deep.png", [[65535, 255, 2]], np.uint16)
    assert read(MaskDecoder(classes), mask) == ([[3, 255, 2]], {"255": 1})


def test_the_example_of_the_docs_is_a_class_file(tmp_path):
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    example = text.partition("## Class file")[2].partition("```json")[2].partition("```")[0]
    classes = class_file(tmp_path, **json.loads(example))
    assert classes.values == (0, (41, range(311, 314)), "others")
    assert classes.mask_colors[2] == ((255, 0, 0), (176, 0, 0))
    assert classes.ignore_values == (255, range(-9999, 0))


def test_every_class_and_ignore_is_decoded(classes, tmp_path):
    decoder = MaskDecoder(classes)
    rgb = [[[0, 0, 255], [0, 255, 0], [0, 0, 0]]]
    for path in (
        save(tmp_path / "rgb.png", rgb),
        save(tmp_path / "rgba.png", [[[*color, 255] for color in rgb[0]]]),
        save(tmp_path / "rgb.tif", rgb),
        save_palette(tmp_path / "palette.png"),
        save(tmp_path / "index.png", [[3, 1, 0]]),
        save(tmp_path / "deep.png", [[3, 1, 0]], np.uint16),
        save(tmp_path / "deeper.tif", [[3, 1, 0]], np.int32),
    ):
        assert read(decoder, path) == ([[0, 1, 255]], {}), path
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert read(decoder, tmp_path / "bits.png") == ([[1, 255]], {})


def test_the_kind_can_be_said(classes, tmp_path):
    palette = save_palette(tmp_path / "palette.png")
    assert read(MaskDecoder(classes, "index"), palette) == ([[1, 255, 255]], {"2": 1})
    grey = save(tmp_path / "grey.png", [[0, 9]])
    assert read(MaskDecoder(classes, "color"), grey) == ([[255, 255]], {"#090909": 1})


def test_unknown_colours_and_values_are_counted_and_ignored(classes, tmp_path):
    decoder = MaskDecoder(classes)
    path = save(tmp_path / "rgb.png", [[[0, 0, 255], [0, 0, 254], [0, 0, 254], [1, 2, 3]]])
    assert read(decoder, path) == ([[0, 255, 255, 255]], {"#0000FE": 2, "#010203": 1})
    path = save(tmp_path / "index.tif", [[3, -5, 70000, 65535, 2, 2]], np.int32)
    unknown = {"-5": 1, "70000": 1, "65535": 1, "2": 2}
    assert read(decoder, path) == ([[0, 255, 255, 255, 255, 255]], unknown)


def test_a_repair_touches_unknown_colours_only(classes, tmp_path):
    row = [[0, 0, 255], [0, 254, 0], [1, 0, 250], [9, 9, 9], [0, 255, 255]]
    path = save(tmp_path / "mask.png", [row])
    swap = LabelRepair(why="", colors=(((0, 254, 0), (0, 255, 0)), ((0, 0, 255), (0, 0, 0))))
    decoded = decode(MaskDecoder(classes), path, swap)
    assert decoded.target.tolist() == [[0, 1, 255, 255, 255]] and decoded.num_repaired == 1
    assert decoded.unknown == {"#0100FA": 1, "#090909": 1, "#00FFFF": 1}
    decoded = decode(MaskDecoder(classes), path, LabelRepair(why="", threshold=128))
    # Almost black is black, which this class file ignores.
    assert decoded.target.tolist() == [[0, 1, 0, 255, 255]] and decoded.num_repaired == 3
    assert decoded.unknown == {"#00FFFF": 1}


@pytest.mark.parametrize(
    ("kind", "name", "array", "dtype", "sentence"),
    [
        (
            "auto",
            "deep.tif",
            [[[1, 2, 3]]],
            np.uint16,
            r"deep\.tif has 3 bands of uint16; masks ar",
        ),
        (
            "auto",
            "heights.tif",
            np.arange(1200)[None] + 0.25,
            "f4",
            "such as 0.25 and 1199.25, as o",
        ),
        ("index", "rgb.png", [[[1, 2, 3]]], np.uint8, "has 3 bands of uint8, not class values; us"),
        ("color", "deep.png", [[1]], np.uint16, "has 1 band of uint16, not colours; use --label-k"),
        ("auto", "glass.png", [[[1, 2, 3, 254]]], np.uint8, "has partly transparent pixels, .* sa"),
        ("auto", "veil.png", [[[1, 254]]], np.uint8, "has partly transparent pixels, .* save it w"),
    ],
)
def test_masks_that_cannot_be_meant(classes, tmp_path, kind, name, array, dtype, sentence):
    with pytest.raises(DataError, match=sentence):
        path = tmp_path / name
        if name.endswith(".tif"):
            array = np.asarray(array, dtype)
            write_tiff(path, array.reshape(*array.shape[:2], -1))
        else:
            save(path, array, dtype)
        read(MaskDecoder(classes, kind), path)


SEA = CLASSES["classes"][0]
BARE = {"name": "sea", "color": "#0000FF"}
LAND = {"name": "land", "color": "#00FF00"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": []}, "must have a list 'classes' of 1 to 254 entries"),
        (
            {"classes": ["sea"]},
            r"classes\[0\] must be an object with name, color, value, values, co",
        ),
        ({"classes": [{"name": " ", "color": "#000001"}]}, r"classes\[0\] needs a 'name' and a 'c"),
        ({"classes": [{"name": "a", "colour": 1}]}, "has the unknown key 'colour'; known are name"),
        ({"classes": [{"name": "a", "color": "#+12345"}]}, "class 'a': the color must be '#RRGGBB"),
        ({"classes": [{"name": "a", "color": [1, 2, 256]}]}, "the color must be '#RRGGBB' or"),
        ({"ignored": {}}, "has the unknown key 'ignored'; known are classes, ignore"),
        ({"ignore": {"values": 0}}, "ignore: 'values' must be a list, not 0"),
        (
            {"ignore": {"values": [1 << 64]}},
            "ignore: a value must be a whole number of 64 bits, or",
        ),
        ({"ignore": {"values": [True]}}, r"or a range of them, .* as \"257..512\", not True"),
        ({"ignore": {"values": ["5..4"]}}, r"the lower one first, as \"257..512\", not '5..4'"),
        (
            {"ignore": {"colors": ["#0000FF"]}},
            "gives the color #0000FF to class 'sea' and to ignore",
        ),
        (
            {"ignore": {"values": [3]}},
            r"the value 3 to class 'sea' and to ignore \(a class without",
        ),
        ({"ignore": {"values": ["-2..2"]}}, "the value 1 to ignore and to class 'land'"),
        ({"classes": [{**SEA, "value": [1, 257]}]}, r"not \[1, 257\]; several go into 'values'"),
        ({"classes": [{**SEA, "values": [2]}]}, "'sea' has both 'value' and 'values'; give one"),
        (
            {"classes": [{**BARE, "values": []}]},
            r"'values' must be a list, or \"others\", not \[\]",
        ),
        ({"classes": [{**BARE, "values": "0..2"}]}, r"must be a list, or \"others\", not '0..2'"),
        ({"classes": [{**BARE, "colors": "#000001"}]}, r"'colors' must be a list, or \"others\""),
        (
            {"classes": [{**BARE, "values": [4, "1..9"]}]},
            "the value 4 to class 'sea' and to class 's",
        ),
        ({"classes": [BARE, {**BARE, "name": "b"}]}, "gives the color #0000FF to two classes"),
        (
            {"classes": [{**BARE, "values": "others"}, {**LAND, "values": "others"}]},
            "gives the values \"others\" to class 'sea' and to class 'land'",
        ),
        (
            {"classes": [{**BARE, "colors": ["#101010"]}, {**LAND, "colors": ["#101010"]}]},
            "gives the color #101010 to class 'sea' and to class 'land'",
        ),
        ({"classes": CLASSES["classes"][:1] * 2}, "gives the name sea to two classes"),
    ],
)
def test_class_files_that_do_not_say_what_they_should(tmp_path, change, sentence):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({**CLASSES, **change}))
    with pytest.raises(ConfigError, match=sentence):
        read_class_file(path)


def test_any_rows_of_a_mask_are_decoded(classes, tmp_path):
    bands = np.arange(40)[:, None] // 5 % 3 * np.ones((1, 9), int)
    colors = np.array([[0, 0, 255], [0, 255, 0], [0, 0, 0]], np.uint8)
    path, expected = save(tmp_path / "mask.png", colors[bands]), np.array([0, 1, 255])[bands]
    for rows in (slice(0, 13), slice(13, 40), slice(7, 8)):
        decoded = decode(MaskDecoder(classes), path, rows=rows)
        np.testing.assert_array_equal(decoded.target, expected[rows])


@pytest.mark.parametrize("fg", [[1, 257, 512], ["1..1", "257..512"], "others"])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "uint32", "float32", "float64"])
def test_a_class_may_have_many_values(tmp_path, fg, dtype):
    """Case 9 of docs/trials.md: three quarters are of the class with the values 1, 257 and 512."""
    values = np.kron([[0, 1], [257, 512]], np.ones((4, 4))).astype(dtype)
    path = write_tiff(tmp_path / "mask.tif", values[..., None])
    decoded = decode(MaskDecoder(two(tmp_path, fg={"values": fg})), path)
    np.testing.assert_array_equal(decoded.target, values > 0)
    assert decoded.target.mean() == 0.75 and decoded.unknown == {}


@pytest.mark.parametrize("fg", [["#FF0000", [0, 0, 9]], "others"])
def test_a_class_may_have_many_colours(tmp_path, fg):
    """Case 9 of docs/trials.md, for colours; those of pictures are not read in masks then."""
    classes = two(tmp_path, fg={"colors": fg}, ignore={"colors": ["#00FF00"]})
    assert classes.colors == ((0, 0, 0), (255, 255, 255))
    row = [[0, 0, 0], [255, 0, 0], [0, 0, 9], [0, 255, 0], [255, 255, 255]]
    path = save(tmp_path / "mask.png", [row])
    white = ([[0, 1, 1, 255, 1]], {}) if fg == "others" else ([[0, 1, 1, 255, 255]], {"#FFFFFF": 1})
    assert read(MaskDecoder(classes), path) == white


def test_values_may_have_64_bits_and_a_sign(tmp_path):
    bg, fg = {"values": [-(1 << 63), "-5..-1"]}, {"values": ["9223372036854775807..1" + 19 * "0"]}
    decoder = MaskDecoder(two(tmp_path, bg, fg, ignore={"values": [-9999, "7..8"]}))
    low = np.array([[-(1 << 63), -6, -5, -1, 0, -9999, 7, 9, (1 << 63) - 1]])
    path = write_tiff(tmp_path / "low.tif", low[..., None])
    assert read(decoder, path) == (
        [[0, 255, 0, 0, 255, 255, 255, 255, 1]],
        {"-6": 1, "0": 1, "9": 1},
    )
    high = np.array([[0, 8, (1 << 63) - 1, 10**19, 10**19 + 1]], np.uint64)
    path = write_tiff(tmp_path / "high.tif", high[..., None])
    assert read(decoder, path) == ([[255, 255, 1, 1, 255]], {"0": 1, str(10**19 + 1): 1})
    path = write_tiff(tmp_path / "real.tif", np.array([[[-(2.0**63)], [-5.0]]]))
    assert read(decoder, path) == ([[0, 0]], {})


@pytest.mark.parametrize(
    ("dtype", "no_data", "row", "targets", "num_no_data"),
    [
        ("float32", None, [0, 1, 1, 0], [0, 1, 1, 0], 0),
        ("float32", np.nan, [0, 1, np.nan, 1], [0, 1, 255, 1], 1),
        ("float64", None, [0, 1, np.nan, 1], [0, 1, 255, 1], 1),
        ("float32", -9999, [0, -9999, np.nan, 1], [0, 255, 255, 1], 2),
        ("int16", -1, [0, -1, -1, 1], [0, 255, 255, 1], 2),
        ("uint8", 7, [0, 7, 1, 1], [0, 255, 1, 1], 1),
    ],
)
def test_no_data_of_a_label_raster_is_ignored(tmp_path, dtype, no_data, row, targets, num_no_data):
    """Case 15 of docs/trials.md: whole floats are read, and pixels without data are counted."""
    path = write_tiff(tmp_path / "mask.tif", np.array([row], dtype)[..., None], nodata=no_data)
    decoded = decode(MaskDecoder(two(tmp_path)), path)
    assert decoded.target.tolist() == [targets]
    assert (decoded.num_no_data, decoded.num_tagged, decoded.unknown) == (num_no_data, 0, {})
    # A class of all other values has what the file declares as values, not what it does not hold.
    others = MaskDecoder(two(tmp_path, fg={"values": "others"}))
    assert decode(others, path).target.tolist() == [targets]


def test_a_fraction_is_no_value(tmp_path):
    """Case 15 of docs/trials.md."""
    decoder = MaskDecoder(two(tmp_path))
    row = np.array([[[0.5], [0.1], [3], [1], [np.inf], [1e30]]], np.float32)
    path = write_tiff(tmp_path / "b.tif", row)
    unknown = {"0.1": 1, "0.5": 1, "3": 1, "inf": 1, str(int(np.float32(1e30))): 1}
    assert read(decoder, path) == ([[255, 255, 255, 1, 255, 255]], unknown)
    assert read(MaskDecoder(two(tmp_path, fg={"values": "others"})), path)[1].keys() >= {"0.5"}


def test_the_class_file_wins_over_the_no_data_value_of_a_mask(tmp_path):
    values = np.array([[[0], [1], [0], [1]]], np.uint8)
    path = write_tiff(tmp_path / "index.tif", values, nodata=0)
    decoded = decode(MaskDecoder(two(tmp_path)), path)
    assert decoded.target.tolist() == [[0, 1, 0, 1]]
    assert (decoded.num_tagged, decoded.num_no_data) == (2, 0)
    ignored = two(tmp_path, {"value": 9}, ignore={"values": [0]})
    decoded = decode(MaskDecoder(ignored), path)
    assert decoded.target.tolist() == [[255, 1, 255, 1]] and decoded.num_tagged == 0
    path = write_tiff(tmp_path / "rgb.tif", np.repeat(255 * values, 3, axis=2), nodata=0)
    decoded = decode(MaskDecoder(two(tmp_path)), path)
    assert decoded.target.tolist() == [[0, 1, 0, 1]] and decoded.num_tagged == 2
    colors = {0: (1, 2, 3, 255), 1: (255, 255, 255, 255)}
    path = write_tiff(tmp_path / "p.tif", values, nodata=0, colormap=colors, photometric="PALETTE")
    decoded = decode(MaskDecoder(two(tmp_path, bg={"color": [1, 2, 3]})), path)
    assert decoded.target.tolist() == [[0, 1, 0, 1]] and decoded.num_tagged == 2
    decoded = decode(MaskDecoder(two(tmp_path)), path)
    assert decoded.target.tolist() == [[255, 1, 255, 1]] and decoded.num_no_data == 2


@pytest.mark.parametrize("no_data", [None, 0])
def test_pixels_beside_a_warped_mask_are_of_no_class(tmp_path, no_data):
    crs = CRS.from_epsg(32633)
    values = np.array([[0, 1], [1, 0]], np.uint8)
    place = {"crs": crs, "transform": Affine(1, 0, 400000, 0, -1, 5700000), "nodata": no_data}
    path = write_tiff(tmp_path / "mask.tif", values[..., None], **place)
    moved = Placement(crs=crs, transform=Affine(0.5, 0, 400000, 0, -0.5, 5700001))
    decoded = decode(MaskDecoder(two(tmp_path)), path, grid=Grid(size=(8, 6), placement=moved))
    expected = np.full((8, 6), 255)
    expected[2:6, :4] = np.kron(values, np.ones((2, 2), int))
    np.testing.assert_array_equal(decoded.target, expected)
    assert (decoded.num_no_data, decoded.num_tagged) == (32, 0 if no_data is None else 8)


def test_transparent_pixels_are_no_data(tmp_path):
    """Case 25 of docs/trials.md: grey with alpha is read like grey."""
    decoder = MaskDecoder(two(tmp_path, fg={"value": 255}))
    for name, row in {
        "la.png": [[0, 255], [255, 255], [255, 0]],
        "rgba.png": [[0, 0, 0, 255], [255, 255, 255, 255], [255, 255, 255, 0]],
    }.items():
        decoded = decode(decoder, save(tmp_path / name, [row]))
        assert decoded.target.tolist() == [[0, 1, 255]]
        assert decoded.num_no_data == 1
    undeclared = np.array([[[255, 255, 255, 0]]], np.uint8)
    path = write_tiff(tmp_path / "four.tif", undeclared, photometric="RGB", alpha="UNSPECIFIED")
    with pytest.raises(DataError, match="or a fourth band that is not alpha"):
        decode(decoder, path)


def test_masks_of_1_bit(tmp_path):
    """Case 25 of docs/trials.md."""
    decoder = MaskDecoder(two(tmp_path, fg={"value": 255}))
    row = np.array([[0, 255, 255]])
    Image.fromarray(row > 0).save(tmp_path / "bit.png")
    decoded = decode(decoder, tmp_path / "bit.png")
    assert decoded.target.tolist() == [[0, 255, 255]] and decoded.unknown == {"1": 2}
    text = "bit.png has 1 bit a pixel: its values are 0 and 1, though viewers show 0 and 255; --lab"
    assert text in decoded.hint
    assert read(MaskDecoder(two(tmp_path)), tmp_path / "bit.png") == ([[0, 1, 1]], {})
    # A TIFF file of 1 bit has a palette of black and white by GDAL.
    path = write_tiff(tmp_path / "bit.tif", np.uint8(row > 0)[..., None], nbits=1)
    assert read(decoder, path) == ([[0, 1, 1]], {})
    red = two(tmp_path, fg={"color": "#FF0000"})
    decoded = decode(MaskDecoder(red), path)
    assert decoded.unknown == {"#FFFFFF": 2} and "--label-kind index reads these" in decoded.hint
    assert read(MaskDecoder(red, "index"), path) == ([[0, 1, 1]], {})


def test_values_that_are_stored_as_colours_are_recognised(tmp_path):
    """Case 25 of docs/trials.md: 0 and 1 in three channels."""
    decoder = MaskDecoder(two(tmp_path))
    decoded = decode(decoder, save(tmp_path / "a.png", [[[0, 0, 0], [1, 1, 1], [9, 9, 9]]]))
    assert decoded.unknown == {"#010101": 1, "#090909": 1}
    assert decoded.hint == (
        "#010101 looks like the class value 1; save the masks with one channel instead of three"
    )
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([0, 0, 0, 1, 1, 1])
    image.save(tmp_path / "p.png")
    assert "give --label-kind index" in decode(decoder, tmp_path / "p.png").hint
    assert decode(decoder, save(tmp_path / "b.png", [[[2, 2, 2]]])).hint is None


def polygon_file(folder, *values):
    """One square of 2 x 2 pixels per value, side by side from the upper left corner of GRID."""
    squares = [[[2 * i, 8], [2 * i + 2, 8], [2 * i + 2, 6], [2 * i, 6]] for i in range(len(values))]
    features = [
        {
            "type": "Feature",
            "properties": {"class": value},
            "geometry": {"type": "Polygon", "coordinates": [square]},
        }
        for value, square in zip(values, squares, strict=True)
    ]
    path = folder / "labels.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return read_polygons(path, "class")


GRID = Grid(
    size=(3, 12),
    placement=Placement(crs=CRS.from_epsg(4326), transform=Affine(1, 0, 0, 0, -1, 8)),
)


def test_polygons_have_the_class_of_their_name_or_value(tmp_path):
    classes = two(tmp_path, {"name": "5", "value": 7}, {"values": ["20..30"]})
    polygons = polygon_file(tmp_path, "fg", "5", 7, "25", 20.0, 7)
    decoder = PolygonDecoder(classes)
    placed = decoder.place(polygons, GRID, "a.tif")
    decoded = decoder.decode(placed, slice(0, 3))
    row = [1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    assert decoded.target.tolist() == [row, row, [255] * 12]
    assert (decoded.num_outside, decoded.unknown, decoded.hint) == (12, {}, None)
    assert decoder.decode(placed, slice(1, 2)).target.tolist() == [row]
    decoder = PolygonDecoder(classes, background="fg")
    decoded = decoder.decode(decoder.place(polygons, GRID, "a.tif"), slice(0, 3))
    assert decoded.target.tolist() == [row, row, [1] * 12]
    assert decoded.num_outside == 0 and decoded.target.dtype == np.uint8


def test_attributes_of_no_class_are_counted(tmp_path):
    decoder = PolygonDecoder(two(tmp_path, ignore={"values": [9]}))
    polygons = polygon_file(tmp_path, "FG", 9, None, "null", True, "FG")
    decoded = decoder.decode(decoder.place(polygons, GRID, "a.tif"), slice(0, 3))
    assert (decoded.target == 255).all()
    assert decoded.unknown == {'"FG"': 8, "null": 4, '"null"': 4, "true": 4}
    assert decoded.hint == f"they are values of 'class' in {polygons.path}"


def test_a_background_is_a_class(tmp_path):
    with pytest.raises(ConfigError, match="--background is 'sea', but the classes are bg, fg"):
        PolygonDecoder(two(tmp_path), background="sea")
