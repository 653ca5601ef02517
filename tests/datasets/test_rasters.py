from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.rasters import open_raster, read_raster, read_text, write_raster
from utils.errors import DataError, MissingDataError

KINDS = {"RGB": ((3,), np.uint8), "8-bit": ((), np.uint8), "16-bit": ((), np.uint16)}


def drawn(kind: str, size: tuple[int, int] = (5, 7)) -> np.ndarray:
    channels, dtype = KINDS[kind]
    return np.random.default_rng(0).integers(0, 65536, (*size, *channels)).astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(5, 7), (1, 9)])
def test_values_come_back_mapped_or_in_memory_and_other_programs_read_them(tmp_path, kind, size):
    path, array = tmp_path / "new" / "a.tif", drawn(kind, size)
    write_raster(path, array)
    mapped, copied = open_raster(path, kind), read_raster(path, kind)
    for found in (mapped, copied, np.array(Image.open(path))):
        assert type(found) is np.ndarray and found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert not mapped.flags.writeable and copied.flags.writeable
    assert not mapped.flags.owndata and copied.flags.owndata
    assert read_text(path) == {}


def test_a_file_that_takes_a_name_over_is_read_by_its_own_header(tmp_path: Path):
    for length in (1, 3, 1):
        write_raster(tmp_path / "a.tif", np.full((4, length), length, np.uint8), {"n": length})
        assert open_raster(tmp_path / "a.tif", "8-bit").shape == (4, length)
        assert read_text(tmp_path / "a.tif") == {"n": length}


@pytest.mark.parametrize("length", [0, 3, 5000])
def test_the_text_is_kept_and_numbers_stay_aligned(tmp_path: Path, length: int):
    text = {"text": "ä" * length, "more": {"range": [0.1, 1e30], "none": None}}
    array, first, second = drawn("16-bit"), tmp_path / "a.tif", tmp_path / "b.tif"
    for path in (first, second):
        write_raster(path, array, text)
    assert read_text(first) == text and open_raster(first, "16-bit").flags.aligned
    np.testing.assert_array_equal(open_raster(first, "16-bit"), array)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("read", [lambda path: open_raster(path, "16-bit"), read_text])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.9999, 1.01])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_file_of_another_length_than_its_header_says_is_named(tmp_path: Path, read, share):
    path = tmp_path / "a.tif"
    write_raster(path, drawn("16-bit", (64, 64)), {"key": "value" * 50})
    content = path.read_bytes()
    path.write_bytes((content * 2)[: int(share * len(content))])
    sentence = r"a\.tif is not (whole: \d+ bytes, its header says 8|a raster written by).*it again$"
    with pytest.raises(DataError, match=sentence):
        read(path)


@pytest.mark.parametrize(
    ("mode", "options", "found"),
    [
        ("RGB", {"format": "PNG"}, "not a TIFF file"),
        ("RGB", {"format": "TIFF", "compression": "tiff_lzw"}, r"RGB, 1 strips or tiles, libtiff"),
        ("RGBA", {"format": "TIFF"}, r"RGBA, 1 strips or tiles, raw"),
        ("I;16B", {"format": "TIFF"}, r"I;16B, 1 strips or tiles, raw"),
    ],
)
def test_a_foreign_file_is_named(tmp_path: Path, mode: str, options: dict, found: str):
    Image.new(mode, (8, 8)).save(tmp_path / "a.tif", **options)
    with pytest.raises(DataError, match=rf"a\.tif is not a raster written .* one strip \({found}"):
        open_raster(tmp_path / "a.tif", "RGB")


def test_another_kind_another_text_and_no_file_are_named(tmp_path: Path):
    with pytest.raises(MissingDataError, match=r"a\.tif does not exist$"):
        open_raster(tmp_path / "a.tif", "RGB")
    write_raster(tmp_path / "a.tif", drawn("RGB"))
    with pytest.raises(DataError, match=r"a\.tif is RGB, not 8-bit; prepare or generate it again"):
        open_raster(tmp_path / "a.tif", "8-bit")
    for text in ("a photo", "[1]"):
        Image.new("L", (8, 8)).save(tmp_path / "a.tif", tiffinfo={270: text})
        assert open_raster(tmp_path / "a.tif", "8-bit").max() == 0
        with pytest.raises(DataError, match=r"a\.tif is not .*\(its description is no JSON object"):
            read_text(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 2), np.int32), ((2, 2, 3), np.uint16), ((2, 2, 4), np.uint8), (4, np.uint8)],
)
def test_only_rasters_are_written(tmp_path: Path, shape, dtype):
    with pytest.raises(ValueError, match=r"a raster is RGB or 8 or 16 bit, not \("):
        write_raster(tmp_path / "a.tif", np.zeros(shape, dtype))
    assert not list(tmp_path.iterdir())
