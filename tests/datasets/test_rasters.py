import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.rasters import open_raster, read_raster, read_text, write_raster
from utils.errors import DataError, MissingDataError

KINDS = {"RGB": ((5, 7, 3), np.uint8), "8-bit": ((5, 7), np.uint8), "16-bit": ((5, 7), np.uint16)}


def drawn(kind: str, seed: int = 0) -> np.ndarray:
    shape, dtype = KINDS[kind]
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_comes_back_mapped_or_in_memory(tmp_path: Path, kind: str):
    path, array = tmp_path / "new" / "a.tif", drawn(kind)
    write_raster(path, array)
    mapped, copied = open_raster(path, kind), read_raster(path, kind)
    for found in (mapped, copied):
        assert type(found) is np.ndarray and found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert not mapped.flags.writeable and copied.flags.writeable
    assert not mapped.flags.owndata and copied.flags.owndata


def test_a_file_that_takes_a_name_over_is_read_by_its_own_header(tmp_path: Path):
    for length in (1, 3, 1):
        write_raster(tmp_path / "a.tif", np.full((4, length), length, np.uint8), {"n": length})
        assert open_raster(tmp_path / "a.tif", "8-bit").shape == (4, length)
        assert read_text(tmp_path / "a.tif") == {"n": length}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (300, 1000), (1000, 300)])
def test_any_size_is_one_strip_that_other_programs_read(tmp_path: Path, kind: str, size: tuple):
    shape, dtype = KINDS[kind]
    array = np.arange(np.prod((*size, *shape[2:]))).reshape(*size, *shape[2:]).astype(dtype)
    write_raster(tmp_path / "a.tif", array, {"key": "x" * size[0]})
    np.testing.assert_array_equal(open_raster(tmp_path / "a.tif", kind), array)
    image = Image.open(tmp_path / "a.tif")
    assert len(image.tile) == 1 and image.size == (size[1], size[0])
    np.testing.assert_array_equal(np.array(image), array)


def test_a_window_of_a_view_is_written(tmp_path: Path):
    array = drawn("RGB")[1:4, ::-1]
    write_raster(tmp_path / "a.tif", array)
    np.testing.assert_array_equal(read_raster(tmp_path / "a.tif", "RGB"), array)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path):
    for name in ("a.tif", "b.tif"):
        write_raster(tmp_path / name, drawn("16-bit"), {"b": [1.5, None], "a": "ä"})
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5000])
def test_the_text_is_kept_and_numbers_stay_aligned(tmp_path: Path, length: int):
    text = {"text": "ä" * length, "more": {"range": [0.1, 1e30], "none": None}}
    write_raster(tmp_path / "a.tif", drawn("16-bit"), text)
    assert read_text(tmp_path / "a.tif") == text
    assert open_raster(tmp_path / "a.tif", "16-bit").flags.aligned
    np.testing.assert_array_equal(open_raster(tmp_path / "a.tif", "16-bit"), drawn("16-bit"))


def test_there_may_be_no_text(tmp_path: Path):
    write_raster(tmp_path / "a.tif", drawn("8-bit"))
    assert read_text(tmp_path / "a.tif") == {}


@pytest.mark.parametrize("read", [lambda path: open_raster(path, "16-bit"), read_text])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.5, 0.9, 0.9999, 1.01])
def test_a_file_of_another_length_than_its_header_says_is_named(tmp_path: Path, read, share):
    path = tmp_path / "a.tif"
    array = np.random.default_rng(0).integers(0, 65536, (64, 64)).astype(np.uint16)
    write_raster(path, array, {"key": "value" * 50})
    content = path.read_bytes()
    path.write_bytes((content * 2)[: int(share * len(content))])
    sentence = (
        r"^\S+a\.tif (is not whole: \d+ bytes, its header says 8\d\d\d|is no raster as prepare\.py "
        r"and generate\.py write them, TIFF without compression in one strip \(.+\)); prepare or "
        r"generate it again$"
    )
    with pytest.raises(DataError, match=sentence):
        read(path)


def test_a_raster_of_another_kind_is_named(tmp_path: Path):
    write_raster(tmp_path / "a.tif", drawn("RGB"))
    with pytest.raises(DataError, match=r"a\.tif is RGB, not 8-bit; prepare or generate it again"):
        open_raster(tmp_path / "a.tif", "8-bit")


@pytest.mark.parametrize(
    ("mode", "options", "found"),
    [
        ("RGB", {"format": "PNG"}, "cannot identify image file"),
        ("RGB", {"format": "TIFF", "compression": "tiff_lzw"}, r"RGB, 1 strips or tiles, libtiff"),
        ("RGBA", {"format": "TIFF"}, r"RGBA, 1 strips or tiles, raw"),
        ("F", {"format": "TIFF"}, r"F, 1 strips or tiles, raw"),
        ("I;16B", {"format": "TIFF"}, r"I;16B, 1 strips or tiles, raw"),
    ],
)
def test_a_foreign_file_is_named(tmp_path: Path, mode: str, options: dict, found: str):
    Image.new(mode, (8, 8)).save(tmp_path / "a.tif", **options)
    with pytest.raises(DataError, match=rf"a\.tif is no raster as .* one strip \({found}"):
        open_raster(tmp_path / "a.tif", "RGB")


def test_a_text_of_another_program_is_named(tmp_path: Path):
    Image.new("L", (8, 8)).save(tmp_path / "a.tif", tiffinfo={270: "a photo"})
    assert open_raster(tmp_path / "a.tif", "8-bit").max() == 0
    with pytest.raises(DataError, match=r"a\.tif is no raster .*\(its description is no JSON"):
        read_text(tmp_path / "a.tif")
    Image.new("L", (8, 8)).save(tmp_path / "a.tif", tiffinfo={270: json.dumps([1])})
    with pytest.raises(DataError, match=r"a\.tif is no raster .*\(its description is a list"):
        read_text(tmp_path / "a.tif")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(MissingDataError, match=r"a\.tif does not exist$"):
        open_raster(tmp_path / "a.tif", "RGB")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), np.int32),
        np.zeros((2, 2, 3), np.uint16),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_only_rasters_are_written(tmp_path: Path, array: np.ndarray):
    with pytest.raises(ValueError, match=r"a raster is RGB or 8 or 16 bit, not \("):
        write_raster(tmp_path / "a.tif", array)
    assert not list(tmp_path.iterdir())
