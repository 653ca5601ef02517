"""Damaged, crafted, huge and strange raster files: read rightly or refused in one sentence."""

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image, ImageFile

from tests.utils.rasters.raster_files import (
    chunk,
    crafted_tiff,
    picture,
    png_header,
    read_rgb,
    refusal,
    warnings_of,
    write_png_16,
    write_tiff,
)
from utils.errors import DataError, MissingDataError
from utils.rasters.reading import open_scene
from utils.rasters.sources import count_pixels

PHOTO = picture(60, 70)


@pytest.mark.parametrize("read", [read_rgb, count_pixels])
def test_what_is_no_file_is_named(tmp_path: Path, read):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png is a folder, not an image file; name a file$"):
        read(tmp_path / "a.png")
    for name in ("no.tif", "a.png/no.tif/no.tif"):
        with pytest.raises(MissingDataError, match=r"no\.tif does not exist$"):
            read(tmp_path / name)
    with pytest.raises(DataError, match=r"cannot be opened \(File name too long\); make it"):
        read(tmp_path / ("x" * 300))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.vrt"])
@pytest.mark.parametrize("content", [b"", b"hello\n" * 50, b"\xff\xd8", b"BM", b"II*\0"])
def test_what_is_no_image_is_named(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    sentence = rf"{re.escape(name)} cannot be read as an image \([^<]+\); replace the file"
    assert re.search(sentence, refusal(tmp_path / name))
    with pytest.raises(DataError, match=r"cannot be read as an image"):
        count_pixels(tmp_path / name)


@pytest.mark.parametrize(
    ("driver", "suffix"), [("GPKG", "gpkg"), ("netCDF", "nc"), ("GRIB", "grb"), ("HF2", "hf2")]
)
def test_sound_files_of_other_formats_are_named_with_their_conversion(
    tmp_path: Path, driver: str, suffix: str
):
    """Case 23 of docs/trials.md: the file is good, so no other one is asked for."""
    degrees = {"crs": "EPSG:4326", "transform": rasterio.Affine(0.1, 0, 10, 0, -0.1, 50)}
    write_tiff(tmp_path / "a.tif", picture(30, 40, 1), **degrees)
    path, result = tmp_path / f"a scene.{suffix}", tmp_path / "a scene.tif"
    rasterio.shutil.copy(tmp_path / "a.tif", path, driver=driver, strict=False)
    assert refusal(path) == (
        f"{path} is of a format that is not read here ({driver}); convert it: gdal_translate "
        f"'{path}' '{result}'"
    )
    path.write_bytes(path.read_bytes()[100:])
    assert refusal(path).endswith("); replace the file, or convert it to TIFF")


HUGE = (1 << 31) - 16
LIES = {
    "none": {},
    "no height": {257: [0]},
    "a million samples": {277: [1 << 20]},
    "offset beyond the end": {273: [5000]},
    "not deflated": {259: [8]},
    "unknown codec": {259: [777]},
    "huge tiles": {322: [HUGE], 323: [HUGE], 324: [8], 325: [64], 259: [8]},
    "huge image": {256: [1 << 20], 257: [1 << 20], 278: [1 << 20], 259: [8]},
}


@pytest.mark.parametrize("changes", LIES.values(), ids=LIES)
def test_a_lie_in_a_tiff_file_is_refused(tmp_path: Path, changes: dict):
    path = crafted_tiff(tmp_path / "a.tif", changes)
    if not changes:
        assert read_rgb(path)[:, :, 0].ravel().tolist() == list(range(64))
        return
    sentence = r"a\.tif (cannot be read as an image|is damaged)"
    with pytest.raises(DataError, match=sentence), open_scene(path) as raster:
        raster.read_rgb(slice(0, 50), slice(0, 50))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.webp", "a.gif", "a.tif", "16.png"])
def test_damaged_files_are_read_or_refused(tmp_path: Path, name: str, recwarn):
    """A byte anywhere is overwritten, and the file cut there."""
    path = tmp_path / name
    exif = Image.Exif()
    exif[274] = 6
    if name == "16.png":
        write_png_16(path, PHOTO.astype(np.uint16))
    elif name == "a.tif":
        write_tiff(path, PHOTO, compress="DEFLATE", blockysize=16)
    else:
        Image.fromarray(PHOTO).save(path, **({} if name[2:] in ("bmp", "gif") else {"exif": exif}))
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for place in [*range(60), *rng.integers(0, len(content), 60)]:
        lying = bytearray(content)
        lying[place] = rng.integers(0, 256)
        path.write_bytes(lying[: rng.choice([len(content), place + 1])])
        try:
            with open_scene(path) as raster:
                assert raster.read_rgb(slice(0, 100), slice(0, 100)).dtype == np.uint8
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 30
    assert warnings_of(recwarn) == []


@pytest.mark.parametrize("bits", [8, 16])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, bits: int, recwarn, monkeypatch
):
    content = png_header(60000, 60000, bits, 3) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    assert re.search(
        r"a\.png has more than 178956970 pixels, too many to be decoded as a whole; convert it to "
        r"a tiled TIFF \(gdal_translate .*\)$",
        refusal(tmp_path / "a.png"),
    )
    Image.fromarray(PHOTO).save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 70 // 2 + 1)  # Pillow would warn
    np.testing.assert_array_equal(read_rgb(tmp_path / "b.png"), PHOTO)
    assert warnings_of(recwarn) == []


def test_pixels_are_counted_without_decoding_one(tmp_path: Path, monkeypatch):
    names = [f"a.{suffix}" for suffix in ("png", "jpg", "bmp", "webp", "tif", "gif")]
    for name in names:
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert [count_pixels(tmp_path / name) for name in names] == [600] * 6
