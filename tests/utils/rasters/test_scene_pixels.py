"""Kinds of pixels and formats: 16 bits, floats, stretches, EXIF, CMYK, first frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.utils.rasters.png_files import write_png_16
from tests.utils.rasters.tiff_files import read_all, write_tiff
from utils.errors import ConfigError, DataError
from utils.files import write_png
from utils.rasters.reading import open_scene

RNG = np.random.default_rng(5)
VALUES = RNG.integers(0, 65536, (9, 13, 4)).astype(np.uint16)
VALUES[0, :3] = [[0], [1], [65535]]
PHOTO = RNG.integers(0, 256, (9, 13, 3)).astype(np.uint8)


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """By the definition, in Python's numbers."""
    flat = [round(min(max((float(v) - low) / (high - low), 0), 1) * 255) for v in values.flat]
    return np.array(flat, np.uint8).reshape(values.shape)


@pytest.mark.parametrize("stretch", [None, (0, 10000), (300.5, 900)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_scaled_with_all_its_bits(tmp_path: Path, channels: int, stretch):
    write_png_16(tmp_path / "a.png", VALUES[:, :, :channels])
    shown = VALUES[:, :, :3] if channels >= 3 else VALUES[:, :, [0, 0, 0]]
    expected = stretched(shown, *(stretch or (0, 65535)))
    np.testing.assert_array_equal(read_all(tmp_path / "a.png", stretch), expected)


@pytest.mark.parametrize("stretch", [(0, 65535), (0, 10000), (300.5, 900)])
def test_16_bit_tiff_is_stretched(tmp_path: Path, stretch):
    write_tiff(tmp_path / "a.tif", VALUES, compress="DEFLATE", predictor=2)
    expected = stretched(VALUES[:, :, :3], *stretch)
    np.testing.assert_array_equal(read_all(tmp_path / "a.tif", stretch), expected)


@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
@pytest.mark.parametrize("tiled", ["YES", "NO"])
@pytest.mark.parametrize(
    ("dtype", "predictors"),
    [
        ("int8", (1, 2)),
        ("int16", (1, 2)),
        ("uint32", (1, 2)),
        ("int32", (1, 2)),
        ("float32", (1, 2, 3)),
        ("float64", (1, 2, 3)),
    ],
)
def test_other_types_need_a_stretch(tmp_path: Path, dtype: str, predictors, tiled, order):
    values = RNG.normal(0, 60, (40, 50, 3)).astype(dtype)
    for predictor in predictors:
        path = tmp_path / f"{predictor}.tif"
        options = {"compress": "LZW", "predictor": predictor, "endianness": order}
        write_tiff(path, values, tiled=tiled, blockxsize=16, blockysize=16, **options)
        np.testing.assert_array_equal(read_all(path, (-50, 80)), stretched(values, -50, 80))
        sentence = (
            rf"\d\.tif holds {dtype} values, of which nobody knows which are black and white; "
            r"state the two values \(stretch\), or convert it to 8 bits$"
        )
        with pytest.raises(DataError, match=sentence):
            read_all(path)


def test_what_is_no_number_becomes_black(tmp_path: Path):
    values = np.array([[[np.nan], [np.inf], [-np.inf], [1]]], np.float32)
    write_tiff(tmp_path / "a.tif", values)
    assert read_all(tmp_path / "a.tif", (0, 2))[0, :, 0].tolist() == [0, 255, 0, 128]


def test_a_stretch_takes_8_bits_and_colours_as_well(tmp_path: Path):
    expected = stretched(PHOTO, 50, 100)
    write_tiff(tmp_path / "a.tif", PHOTO)
    write_png(tmp_path / "a.png", PHOTO)
    Image.fromarray(PHOTO).quantize(200).save(tmp_path / "p.tif")
    for name in ("a.tif", "a.png"):
        np.testing.assert_array_equal(read_all(tmp_path / name, (50, 100)), expected)
    colors = np.asarray(Image.open(tmp_path / "p.tif").convert("RGB"))
    np.testing.assert_array_equal(
        read_all(tmp_path / "p.tif", (50, 100)), stretched(colors, 50, 100)
    )


@pytest.mark.parametrize("stretch", [(5, 5), (5, 4), (0, float("nan")), (0, float("inf"))])
def test_an_empty_stretch_is_refused(tmp_path: Path, stretch):
    sentence = r"stretch is \S+ to \S+; give two numbers, the lower one first$"
    with pytest.raises(ConfigError, match=sentence):
        read_all(tmp_path / "a.tif", stretch)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.png"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
def test_exif_orientation_is_respected(tmp_path: Path, name: str, orientation: int):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(PHOTO).save(tmp_path / name, exif=exif)
    image = Image.open(tmp_path / name)
    expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    with open_scene(tmp_path / name) as scene:
        assert scene.size == expected.shape[:2]
        np.testing.assert_array_equal(scene.read(slice(None), slice(None)), expected)
        np.testing.assert_array_equal(scene.read(slice(2, 7), slice(1, 8)), expected[2:7, 1:8])


def test_broken_exif_does_not_hide_the_pixels(tmp_path: Path, recwarn):
    image = Image.fromarray(PHOTO)
    image.save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\xff nonsense")
    pixels = read_all(tmp_path / "a.jpg")
    assert [str(warning.message) for warning in recwarn] == []
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / "a.jpg")))


@pytest.mark.parametrize(
    ("name", "mode"),
    [(f"a.{suffix}", mode) for suffix in ("png", "webp", "bmp") for mode in ("L", "RGB")]
    + [("a.png", mode) for mode in ("1", "P", "LA", "RGBA")]
    + [("a.webp", "RGBA"), ("a.bmp", "P"), ("a.jpg", "L"), ("a.jpg", "CMYK"), ("a.gif", "P")],
)
def test_other_formats_are_read_as_pillow_reads_them(tmp_path: Path, name: str, mode: str, recwarn):
    Image.fromarray(PHOTO).convert(mode).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(image.convert("RGB"))
    with open_scene(tmp_path / name) as scene:
        assert (scene.is_tiff, scene.by_window, scene.georeference) == (False, False, None)
        np.testing.assert_array_equal(scene.read(slice(None), slice(None)), expected)
        np.testing.assert_array_equal(scene.read(slice(3, 5), slice(1, 13)), expected[3:5, 1:])
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_the_first_frame_counts(tmp_path: Path, name: str):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue", "lime")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    assert (read_all(tmp_path / name) == [255, 0, 0]).all()


def test_transparent_pixels_keep_their_colour(tmp_path: Path):
    rgba = np.dstack([PHOTO, np.zeros(PHOTO.shape[:2], np.uint8)])
    for name in ("a.png", "a.tif"):
        Image.fromarray(rgba).save(tmp_path / name)
        np.testing.assert_array_equal(read_all(tmp_path / name), PHOTO)
    indexed = Image.fromarray(PHOTO).quantize(4)
    indexed.save(tmp_path / "p.png", transparency=bytes([0, 9, 255, 3]))
    np.testing.assert_array_equal(read_all(tmp_path / "p.png"), np.asarray(indexed.convert("RGB")))


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_tiff_file_of_a_rare_kind_is_decoded_as_a_whole(tmp_path: Path, order: str):
    picture = np.tile(np.eye(16, dtype=bool), (2, 3))
    Image.fromarray(picture).save(tmp_path / "a.tif", compression="group4", big_tiff=order == "big")
    with open_scene(tmp_path / "a.tif") as scene:
        assert (scene.is_tiff, scene.by_window) == (True, False)
        np.testing.assert_array_equal(
            scene.read(slice(1, 9), slice(None))[:, :, 0] > 0, picture[1:9]
        )


def test_a_tiff_file_that_lost_bits_on_the_way_is_not_stretched(tmp_path: Path, monkeypatch):
    write_tiff(tmp_path / "a.tif", VALUES[:, :, :3], compress="LZW", photometric="RGB")
    monkeypatch.setattr("utils.rasters.tiff_layout._MAX_BLOCK_BYTES", 10)
    with open_scene(tmp_path / "a.tif") as scene:
        assert not scene.by_window
        upper = VALUES[:, :, :3] >> 8
        np.testing.assert_array_equal(scene.read(slice(None), slice(None)), upper)
    sentence = (
        r"a\.tif has more than 8 bits a channel and cannot be stretched \(blocks of 9 x 13 pixels, "
        r"more than 0 MiB each\); convert it to a tiled TIFF"
    )
    with pytest.raises(DataError, match=sentence):
        read_all(tmp_path / "a.tif", (0, 1000))
