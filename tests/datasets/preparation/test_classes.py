"""The class file, and the decoding of masks against hand-written pixels."""

import json

import numpy as np
import pytest
from PIL import Image

from datasets.preparation.classes import LabelRepair, MaskDecoder, read_class_file
from utils.errors import ConfigError, DataError
from utils.rasters.reading import open_scene

CLASSES = {
    "classes": [
        {"name": "sea", "color": "#0000FF", "value": 3},
        {"name": "land", "color": [0, 255, 0], "value": 1},
    ],
    "ignore": {"colors": ["#000000"], "values": [0]},
}


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(CLASSES))
    return read_class_file(path)


def save(path, array, dtype=np.uint8):
    Image.fromarray(np.asarray(array, dtype)).save(path)
    return path


def save_palette(path):
    """Indices 1, 2, 0 that are painted sea, land and ignore."""
    image = Image.fromarray(np.array([[1, 2, 0]], np.uint8), mode="P")
    image.putpalette([0, 0, 0, 0, 0, 255, 0, 255, 0])
    image.save(path)
    return path


def decode(decoder, path, repair=None):
    with open_scene(path) as mask:
        return decoder.decode(mask, str(path), repair)


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
    assert [decoded.pixels[i] for i in (0, 1, 255)] == [2, 1, 2]


@pytest.mark.parametrize(
    ("kind", "name", "array", "dtype", "sentence"),
    [
        ("auto", "real.tif", [[1]], np.float32, r"real\.tif has 1 band of float32; masks must be"),
        ("index", "rgb.png", [[[1, 2, 3]]], np.uint8, "has 3 bands of uint8, not class values; us"),
        ("color", "deep.png", [[1]], np.uint16, "has 1 band of uint16, not colours; use --label-k"),
        ("auto", "glass.png", [[[1, 2, 3, 254]]], np.uint8, "has transparent pixels, .* save it w"),
    ],
)
def test_masks_that_cannot_be_meant(classes, tmp_path, kind, name, array, dtype, sentence):
    with pytest.raises(DataError, match=sentence):
        read(MaskDecoder(classes, kind), save(tmp_path / name, array, dtype))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": []}, "must have a list 'classes' of 1 to 254 entries"),
        ({"classes": ["sea"]}, r"classes\[0\] must be an object with name, color, value, not 's"),
        ({"classes": [{"name": " ", "color": "#000001"}]}, r"classes\[0\] needs a 'name' and a 'c"),
        ({"classes": [{"name": "a", "colour": 1}]}, "has the unknown key 'colour'; known are name"),
        ({"classes": [{"name": "a", "color": "#+12345"}]}, "class 'a': the color must be '#RRGGBB"),
        ({"classes": [{"name": "a", "color": [1, 2, 256]}]}, "the color must be '#RRGGBB' or"),
        ({"ignored": {}}, "has the unknown key 'ignored'; known are classes, ignore"),
        ({"ignore": {"values": 0}}, "ignore: 'values' must be a list, not 0"),
        ({"ignore": {"values": [65536]}}, r"value must be a whole number in 0\.\.65535, not 65536"),
        ({"ignore": {"values": [True]}}, r"value must be a whole number in 0\.\.65535, not True"),
        ({"ignore": {"colors": ["#0000FF"]}}, r"gives the color \(0, 0, 255\) to two entries"),
        ({"ignore": {"values": [3]}}, r"the value 3 to two entries \(a class without 'value'"),
        ({"classes": CLASSES["classes"][:1] * 2}, "gives the name sea to two entries"),
    ],
)
def test_class_files_that_do_not_say_what_they_should(tmp_path, change, sentence):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({**CLASSES, **change}))
    with pytest.raises(ConfigError, match=sentence):
        read_class_file(path)


def test_a_large_mask_is_decoded_strip_by_strip(classes, tmp_path):
    bands = np.arange(1479)[:, None] // 50 % 3 * np.ones((1, 9), int)
    colors = np.array([[0, 0, 255], [0, 255, 0], [0, 0, 0]], np.uint8)
    decoded = decode(MaskDecoder(classes), save(tmp_path / "large.png", colors[bands]))
    assert np.array_equal(decoded.target, np.array([0, 1, 255])[bands])
    assert [decoded.pixels[i] for i in (0, 1, 255)] == [500 * 9, 500 * 9, 479 * 9]
