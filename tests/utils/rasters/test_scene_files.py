"""Which files are opened: what is inside counts, names may be anything, sizes extreme."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.utils.rasters.failing import read_soon
from tests.utils.rasters.tiff_files import pixels_of, read_all, write_tiff
from utils.errors import DataError, MissingDataError
from utils.rasters.sources import count_pixels
from utils.rasters.reading import open_scene

PICTURE = np.random.default_rng(2).integers(0, 256, (60, 70, 3)).astype(np.uint8)
REPLACE = r"; replace the file$"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"])
@pytest.mark.parametrize("content", [b"", b"hello\n" * 50, b"\xff\xd8", b"BM", b"RIFFxxxxWEBP"])
def test_what_is_no_image_is_named(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    sentence = rf"{re.escape(name)} cannot be read as an image \([^<]+\){REPLACE}"
    assert re.search(sentence, str(read_soon(tmp_path / name)))


def test_the_content_counts_not_the_name(tmp_path: Path):
    for name, form in (("a.tif", "PNG"), ("a.png", "TIFF"), ("a.jpg", "BMP"), ("b.tif", "WEBP")):
        Image.fromarray(PICTURE).save(tmp_path / name, format=form, lossless=True)
        with open_scene(tmp_path / name) as scene:
            assert scene.is_tiff == (form == "TIFF")
            np.testing.assert_array_equal(scene.read(slice(None), slice(None)), PICTURE)
    Image.fromarray(PICTURE).save(tmp_path / "c.tif", format="JPEG")
    assert np.abs(read_all(tmp_path / "c.tif").astype(int) - PICTURE).mean() < 60


@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (20000, 1)])
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
def test_any_size_is_read(tmp_path: Path, shape: tuple[int, int], name: str):
    picture = np.resize(PICTURE, (*shape, 3))
    Image.fromarray(picture).save(tmp_path / name)
    pixels = read_all(tmp_path / name)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / name)))
    tiles = {"tiled": "YES", "blockxsize": 256, "blockysize": 256, "compress": "LZW"}
    write_tiff(tmp_path / "b.tif", picture, **tiles)
    np.testing.assert_array_equal(read_all(tmp_path / "b.tif"), pixels_of(tmp_path / "b.tif"))


@pytest.mark.parametrize("name", ["Straße 東京 🛰.tif", "x" * 251 + ".tif", "x" * 251 + ".png"])
def test_names_may_be_strange_and_long(tmp_path: Path, name: str):
    Image.fromarray(PICTURE).save(tmp_path / name)
    np.testing.assert_array_equal(read_all(tmp_path / name), PICTURE)


def test_what_is_no_file_is_named(tmp_path: Path, monkeypatch):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png is a folder, not an image file; name a file$"):
        read_all(tmp_path / "a.png")
    for name in ("no.tif", "a.png/no.tif", "a.png/no.tif/no.tif"):
        with pytest.raises(MissingDataError, match=r"no\.tif does not exist$"):
            read_all(tmp_path / name)
    with pytest.raises(DataError, match=r"cannot be opened \(File name too long\); make it"):
        read_all(tmp_path / ("x" * 300))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    sentence = r"b\.tif cannot be opened \(Permission denied\); make it readable or leave it out$"
    with pytest.raises(DataError, match=sentence):
        read_all(tmp_path / "b.tif")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.webp", "a.gif"])
def test_damaged_files_of_other_formats_are_read_or_named(tmp_path: Path, name: str, recwarn):
    path = tmp_path / name
    exif = {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"}
    Image.fromarray(PICTURE).save(path, **({} if name in ("a.bmp", "a.gif") else exif))
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for place in [*range(60), *rng.integers(0, len(content), 60)]:
        lying = bytearray(content)
        lying[place] = rng.integers(0, 256)
        path.write_bytes(lying[: rng.choice([len(content), place + 1])])
        try:
            assert read_all(path).dtype == np.uint8
        except DataError as error:
            assert re.match(
                re.escape(str(path)) + r" (cannot be read as an im|has more)", str(error)
            )
            refused += 1
    assert refused > 30
    assert not [warning for warning in recwarn if warning.category is not ResourceWarning]


def test_pixels_are_counted_without_decoding_one(tmp_path: Path, monkeypatch):
    picture = Image.new("RGB", (30, 20))
    names = [f"a.{suffix}" for suffix in ("png", "jpg", "bmp", "webp", "tif")]
    for name in names:
        picture.save(tmp_path / name)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert [count_pixels(tmp_path / name) for name in names] == [600] * 5
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png cannot be read as an image; replace the file$"):
        count_pixels(tmp_path / "text.png")
    with pytest.raises(MissingDataError, match=r"gone\.png does not exist$"):
        count_pixels(tmp_path / "gone.png")
