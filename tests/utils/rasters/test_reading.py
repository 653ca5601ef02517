"""Pixels, values and masks of images, against Pillow, rasterio and what was written."""

import re
import struct
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image, ImageFile, ImageOps
from rasterio._env import get_gdal_config
from rasterio.errors import NotGeoreferencedWarning

from tests.utils.rasters.raster_files import (
    EVERYTHING,
    by_gdal,
    chunk,
    crafted_tiff,
    picture,
    png_header,
    read_rgb,
    write_png_16,
    write_tiff,
)
from utils.errors import ConfigError, DataError, MissingDataError
from utils.rasters.reading import open_scene
from utils.rasters.sources import count_pixels

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "geodata-samples"
PHOTO = picture(60, 70)
WINDOW = slice(5, 43), slice(9, 61)
TILES = {"tiled": "YES", "blockxsize": 32, "blockysize": 16}


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """By the definition, in Python's numbers."""
    flat = [round(min(max((float(v) - low) / (high - low), 0), 1) * 255) for v in values.flat]
    return np.array(flat, np.uint8).reshape(values.shape)


def warnings_of(recwarn: pytest.WarningsRecorder) -> list[str]:
    """All but those of a missing georeference, which the reader silences where nobody records."""
    passed = (NotGeoreferencedWarning, ResourceWarning)
    return [str(each.message) for each in recwarn if not issubclass(each.category, passed)]


def refusal(path: Path, stretch: tuple[float, float] | None = None) -> str:
    """Read a file that must be refused: in one sentence that names it, soon, in little memory."""
    start = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        read_rgb(path, stretch)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert time.perf_counter() - start < 5
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


LAYOUTS = [
    ("uint8", {"compress": "LZW", "predictor": 2, **TILES}),
    ("uint8", {"compress": "DEFLATE", "interleave": "band", "endianness": "BIG", **TILES}),
    ("uint8", {"compress": "PACKBITS", "blockysize": 7, "bigtiff": "YES"}),
    ("uint8", {"compress": "WEBP", "webp_lossless": "YES", "blockysize": 16}),
    ("uint16", {"blockysize": 7, "interleave": "band", "endianness": "BIG", "bigtiff": "YES"}),
    ("uint16", {"compress": "ZSTD", "predictor": 2, "interleave": "pixel", **TILES}),
]


@pytest.mark.parametrize(("dtype", "options"), LAYOUTS)
def test_tiff_layouts_give_the_pixels_that_went_in(tmp_path: Path, dtype: str, options: dict):
    values = picture(75, 91, 3, dtype)
    path = write_tiff(tmp_path / "a.tif", values, **options)
    shown = values if dtype == "uint8" else np.rint(values / 257).astype(np.uint8)
    with open_scene(path) as raster:
        assert (raster.size, raster.num_bands, raster.dtype) == ((75, 91), 3, values.dtype)
        for window in (WINDOW, (slice(70, 75), slice(0, 91)), (EVERYTHING, EVERYTHING)):
            np.testing.assert_array_equal(raster.read_rgb(*window), shown[window])
            np.testing.assert_array_equal(raster.read_values(*window), values[window])
        np.testing.assert_array_equal(
            raster.read_values(*WINDOW, [3, 1]), values[WINDOW][..., [2, 0]]
        )
        assert raster.read_mask(*WINDOW).all()


def test_jpeg_in_tiff_gives_about_the_pixels_that_went_in(tmp_path: Path):
    smooth = np.asarray(Image.fromarray(PHOTO[:4, :5]).resize((320, 256), Image.Resampling.BICUBIC))
    options = {"photometric": "YCBCR", "jpeg_quality": 95, "tiled": "YES"}
    write_tiff(tmp_path / "a.tif", smooth, compress="JPEG", **options)
    assert np.abs(read_rgb(tmp_path / "a.tif").astype(int) - smooth).mean() < 2


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 7])
def test_the_first_three_bands_are_shown_or_one_as_grey(tmp_path: Path, bands: int):
    values = picture(20, 30, bands)
    write_tiff(tmp_path / "a.tif", values, photometric="MINISBLACK")
    shown = values[:, :, :3] if bands >= 3 else values[:, :, [0, 0, 0]]
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif"), shown)


@pytest.mark.parametrize("photometric", ["MINISBLACK", "MINISWHITE"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_grey_of_any_depth_spans_black_to_white(tmp_path: Path, bits: int, photometric: str):
    top = (1 << bits) - 1
    values = (picture(40, 50, 1, "uint16") >> (16 - bits)).astype(np.uint8 if bits <= 8 else "u2")
    write_tiff(tmp_path / "a.tif", values, nbits=bits, photometric=photometric)
    grey = np.rint(values * (255 / top))
    grey = np.rint((top - values.astype(int)) * (255 / top)) if photometric[5:] == "WHITE" else grey
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif"), np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_palettes_become_colours_and_stay_values(tmp_path: Path, bits: int):
    colors, indices = picture(1, 1 << bits)[0], picture(20, 30, 1) >> (8 - bits)
    colormap = {index: (*map(int, color), 255) for index, color in enumerate(colors)}
    write_tiff(tmp_path / "a.tif", indices, colormap=colormap, nbits=bits, photometric="PALETTE")
    image = Image.fromarray(indices[:, :, 0], "P")
    image.putpalette(colors.tobytes())
    image.save(tmp_path / "a.png", bits=bits)
    for name in ("a.tif", "a.png"):
        with open_scene(tmp_path / name) as raster:
            rgb, values = (read(*WINDOW) for read in (raster.read_rgb, raster.read_values))
            np.testing.assert_array_equal(raster.palette[: 1 << bits], colors)
        np.testing.assert_array_equal(rgb, colors[indices[WINDOW][:, :, 0]])
        np.testing.assert_array_equal(values, indices[WINDOW])
        shown = read_rgb(tmp_path / name, (50, 100))
        np.testing.assert_array_equal(shown, stretched(colors, 50, 100)[indices[:, :, 0]])


def test_inks_become_rgb(tmp_path: Path):
    inks = Image.fromarray(picture(60, 70, 4), "CMYK")
    for name, tolerance in (("a.tif", 1), ("a.jpg", 0)):
        inks.save(tmp_path / name)
        expected = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
        assert np.abs(read_rgb(tmp_path / name) - expected).max() <= tolerance


OTHER_FORMATS = [
    *[(suffix, mode) for suffix in ("png", "webp", "bmp") for mode in ("L", "RGB")],
    *[("png", mode) for mode in ("1", "P", "LA", "RGBA")],
    *[("webp", "RGBA"), ("bmp", "P"), ("jpg", "L"), ("jpg", "RGB"), ("gif", "P")],
    *[("tif", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
]


@pytest.mark.parametrize(("suffix", "mode"), OTHER_FORMATS)
def test_what_pillow_writes_is_read_as_pillow_reads_it(tmp_path: Path, suffix, mode, recwarn):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PHOTO).convert(mode).save(path)
    with Image.open(path) as image:
        rgb, values = np.asarray(image.convert("RGB")), np.asarray(image)
    with open_scene(path) as raster:
        np.testing.assert_array_equal(raster.read_rgb(EVERYTHING, EVERYTHING), rgb)
        np.testing.assert_array_equal(raster.read_rgb(*WINDOW), rgb[WINDOW])
        stored = raster.read_values(*WINDOW)
        np.testing.assert_array_equal(stored.reshape(values[WINDOW].shape), values[WINDOW])
        assert raster.placement is None
    assert warnings_of(recwarn) == []
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("stretch", [None, (0, 10000), (300.5, 900)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_scaled_with_all_their_bits(tmp_path: Path, channels: int, stretch):
    values = picture(9, 13, channels, "uint16")
    values[0, :3] = [[0], [1], [65535]]
    write_png_16(tmp_path / "a.png", values)
    write_tiff(tmp_path / "a.tif", values, photometric="MINISBLACK", compress="LZW")
    shown = values[:, :, :3] if channels >= 3 else values[:, :, [0, 0, 0]]
    expected = stretched(shown, *(stretch or (0, 65535)))
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_rgb(tmp_path / name, stretch), expected)
        with open_scene(tmp_path / name) as raster:
            found = raster.read_values(slice(2, 8), slice(3, 9))
            np.testing.assert_array_equal(found, values[2:8, 3:9])


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint32", "int32", "float32", "float64"])
def test_other_types_need_a_stretch(tmp_path: Path, dtype: str):
    values = np.random.default_rng(0).normal(0, 60, (40, 50, 3)).astype(dtype)
    path = write_tiff(tmp_path / "a.tif", values, compress="LZW", endianness="BIG", **TILES)
    np.testing.assert_array_equal(read_rgb(path, (-50, 80)), stretched(values, -50, 80))
    with open_scene(path) as raster:
        np.testing.assert_array_equal(raster.read_values(EVERYTHING, EVERYTHING), values)
    assert refusal(path).endswith(
        f"a.tif holds {dtype} values, without an agreed black and white; state the two values "
        "(stretch), or convert it to 8 bits"
    )


def test_numbers_without_a_grey(tmp_path: Path):
    values = np.array([[[np.nan], [np.inf], [-np.inf], [1]]], np.float32)
    assert read_rgb(write_tiff(tmp_path / "a.tif", values), (0, 2))[0, :, 0].tolist() == [
        *(0, 255, 0, 128)
    ]
    path = write_tiff(tmp_path / "b.tif", values.astype(np.complex64))
    assert "holds complex128 values; convert them to real numbers" in refusal(path, (0, 2))


def test_a_stretch_takes_8_bits_as_well(tmp_path: Path):
    for name in ("a.tif", "a.png"):
        Image.fromarray(PHOTO).save(tmp_path / name)
        expected = stretched(PHOTO, 50, 100)
        np.testing.assert_array_equal(read_rgb(tmp_path / name, (50, 100)), expected)
    for stretch in ((5, 5), (5, 4), (0, float("nan")), (0, float("inf"))):
        sentence = r"stretch is \S+ to \S+; give two numbers, the lower one first$"
        with pytest.raises(ConfigError, match=sentence):
            read_rgb(tmp_path / "a.tif", stretch)


@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
def test_orientation_turns_pixels_values_and_mask(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[274] = orientation
    rgba = np.dstack([PHOTO, np.where(PHOTO[:, :, :1] > 90, 255, 0).astype(np.uint8)])
    for name in ("a.jpg", "a.webp", "a.png"):
        shown = Image.fromarray(PHOTO if name == "a.jpg" else rgba)
        shown.save(tmp_path / name, exif=exif, lossless=True, exact=True)
    write_tiff(tmp_path / "a.tif", rgba, orientation=orientation, photometric="RGB", alpha="YES")
    options = {"orientation": orientation, "endianness": "BIG", "bigtiff": "YES", **TILES}
    write_tiff(tmp_path / "b.tif", rgba, photometric="RGB", alpha="YES", **options)
    upright = Image.fromarray(rgba)
    upright.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(upright))
    lossy = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")))
    for path in sorted(tmp_path.iterdir()):
        with open_scene(path) as raster:
            assert raster.size == expected.shape[:2]
            for window in ((EVERYTHING, EVERYTHING), WINDOW, (slice(0, 3), slice(50, 90))):
                rgb = (lossy if path.suffix == ".jpg" else expected[:, :, :3])[window]
                np.testing.assert_array_equal(raster.read_rgb(*window), rgb)
                if path.suffix != ".jpg":
                    values, mask = raster.read_values(*window), raster.read_mask(*window)
                    np.testing.assert_array_equal(values, expected[window])
                    np.testing.assert_array_equal(mask, expected[window][:, :, 3] > 0)


def test_what_is_placed_on_the_earth_is_not_turned(tmp_path: Path):
    place = {"transform": rasterio.Affine(0.3, 0, 252930, 0, -0.3, 5173152), "crs": "EPSG:32632"}
    write_tiff(tmp_path / "a.tif", PHOTO, orientation=6, **place)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PHOTO).save(tmp_path / "a.png", exif=exif)
    assert read_rgb(tmp_path / "a.png").shape == (70, 60, 3)
    (tmp_path / "a.pgw").write_text("0.5\n0.0\n0.0\n-0.5\n100.25\n199.75\n")
    for name in ("a.tif", "a.png"):
        np.testing.assert_array_equal(read_rgb(tmp_path / name), PHOTO)


def test_broken_exif_does_not_hide_the_pixels(tmp_path: Path, recwarn):
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\xff nonsense")
    pixels = read_rgb(tmp_path / "a.jpg")
    assert warnings_of(recwarn) == []
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / "a.jpg")))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_the_first_frame_counts(tmp_path: Path, name: str):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue", "lime")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    assert (read_rgb(tmp_path / name) == [255, 0, 0]).all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_masks_of_every_kind(tmp_path: Path):
    invalid = np.zeros((60, 70), bool)
    invalid[10:30, 20:60] = True
    dark = np.maximum(PHOTO, 1)
    dark[invalid] = 0
    alpha = np.where(invalid, 0, 77).astype(np.uint8)[:, :, None]
    write_tiff(tmp_path / "nodata.tif", dark, nodata=0)
    write_tiff(tmp_path / "alpha.tif", np.dstack([PHOTO, alpha]), photometric="RGB", alpha="YES")
    depths = np.where(invalid, np.nan, 3.5).astype(np.float32)[:, :, None]
    write_tiff(tmp_path / "nan.tif", depths, nodata=float("nan"))
    for name, internal in (("inside.tif", "YES"), ("beside.tif", "NO")):
        write_tiff(tmp_path / name, PHOTO)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal),
            rasterio.open(tmp_path / name, "r+") as file,
        ):
            file.write_mask(~invalid)
    Image.fromarray(np.dstack([PHOTO, alpha])).save(tmp_path / "alpha.png")
    Image.fromarray(dark).save(tmp_path / "colour.png", transparency=(0, 0, 0))
    indices = Image.fromarray(np.where(invalid, 2, PHOTO[:, :, 0] % 2).astype(np.uint8), "P")
    indices.putpalette(bytes(range(9)))
    indices.save(tmp_path / "palette.png", transparency=bytes([255, 9, 0]))
    write_png_16(tmp_path / "deep.png", np.dstack([PHOTO, alpha]).astype(np.uint16))
    files = [path for path in tmp_path.iterdir() if path.suffix != ".msk"]
    assert len(files) == 9
    for path in files:
        with open_scene(path) as raster:
            for window in ((EVERYTHING, EVERYTHING), WINDOW):
                np.testing.assert_array_equal(raster.read_mask(*window), ~invalid[window], path)
    with open_scene(tmp_path / "nodata.tif") as raster:
        assert raster.no_data == 0
    assert read_rgb(tmp_path / "alpha.png").tolist() == PHOTO.tolist()  # its colours are kept


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="../shared/data is not at hand")
@pytest.mark.parametrize(
    ("name", "percent"),
    [
        ("RGB.byte.tif", 67.457),
        ("RGB2.byte.tif", 67.397),
        ("alpha.tif", 1.550),
        ("RGBA.uint16.tif", 48.860),
        ("all-nodata.tif", 0),
    ],
)
def test_masks_of_real_rasters(name: str, percent: float):
    with open_scene(SAMPLES / name) as raster, by_gdal(SAMPLES / name) as dataset:
        mask = raster.read_mask(EVERYTHING, EVERYTHING)
        assert round(100 * mask.mean(), 3) == pytest.approx(percent)
        values = raster.read_values(*WINDOW)
        np.testing.assert_array_equal(np.moveaxis(values, -1, 0), dataset.read()[:, 5:43, 9:61])


@pytest.mark.parametrize("driver", ["JP2OpenJPEG", "HFA", "ENVI", "NITF"])
def test_other_geodata_formats_and_vrt_are_read(tmp_path: Path, driver: str):
    values = picture(60, 70)
    write_tiff(tmp_path / "a.tif", values, transform=rasterio.Affine(2, 0, 9, 0, -2, 8))
    lossless = {"quality": 100, "reversible": "YES"} if driver == "JP2OpenJPEG" else {}
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "b.tif", driver=driver, **lossless)
    rasterio.shutil.copy(tmp_path / "b.tif", tmp_path / "b", driver="VRT")
    for name in ("b.tif", "b"):
        with open_scene(tmp_path / name) as raster:
            np.testing.assert_array_equal(raster.read_rgb(*WINDOW), values[WINDOW])


def test_pixels_outside_are_left_out(tmp_path: Path):
    write_tiff(tmp_path / "a.tif", picture(75, 91))
    with open_scene(tmp_path / "a.tif") as raster:
        assert raster.read_rgb(slice(70, 200), slice(90, 91)).shape == (5, 1, 3)
        assert raster.read_rgb(slice(80, 90), slice(0, 5)).shape == (0, 5, 3)
        assert raster.read_mask(slice(0, 5), slice(91, 95)).shape == (5, 0)
        with pytest.raises(ValueError, match="a window has steps of 1, not 2 and None"):
            raster.read_rgb(slice(0, 9, 2), slice(0, 9))


def test_threads_take_turns(tmp_path: Path):
    values = picture(300, 300)
    path = write_tiff(tmp_path / "a.tif", values, compress="DEFLATE", **TILES)
    wrong = []
    with open_scene(path) as raster:

        def read(seed: int) -> None:
            for top, left in np.random.default_rng(seed).integers(0, 250, (40, 2)):
                window = slice(top, top + 50), slice(left, left + 50)
                if (raster.read_rgb(*window) != values[window]).any():
                    wrong.append(window)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_the_cache_of_gdal_is_bounded(tmp_path: Path):
    write_tiff(tmp_path / "a.tif", PHOTO)
    with open_scene(tmp_path / "a.tif"):
        assert get_gdal_config("GDAL_CACHEMAX") == 128 << 20


def test_the_content_counts_not_the_name(tmp_path: Path):
    for name, form in (("a.tif", "PNG"), ("a.png", "TIFF"), ("a.jpg", "BMP"), ("b.tif", "WEBP")):
        Image.fromarray(PHOTO).save(tmp_path / name, format=form, lossless=True)
        np.testing.assert_array_equal(read_rgb(tmp_path / name), PHOTO)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (20000, 1)])
def test_any_size_is_read(tmp_path: Path, shape: tuple[int, int]):
    values = np.resize(PHOTO, (*shape, 3))
    for name in ("a.tif", "a.png"):
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_array_equal(read_rgb(tmp_path / name), values)


@pytest.mark.parametrize("name", ["Straße 東京 🛰:!?.tif", "x" * 251 + ".tif", "x" * 251 + ".png"])
def test_names_may_be_strange_and_long(tmp_path: Path, name: str):
    Image.fromarray(PHOTO).save(tmp_path / name)
    np.testing.assert_array_equal(read_rgb(tmp_path / name), PHOTO)
    assert count_pixels(tmp_path / name) == 60 * 70


@pytest.mark.parametrize("read", [read_rgb, count_pixels])
def test_what_is_no_file_is_named(tmp_path: Path, monkeypatch, read):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png is a folder, not an image file; name a file$"):
        read(tmp_path / "a.png")
    for name in ("no.tif", "a.png/no.tif", "a.png/no.tif/no.tif"):
        with pytest.raises(MissingDataError, match=r"no\.tif does not exist$"):
            read(tmp_path / name)
    with pytest.raises(DataError, match=r"cannot be opened \(File name too long\); make it"):
        read(tmp_path / ("x" * 300))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    sentence = r"b\.tif cannot be opened \(Permission denied\); make it readable or leave it out$"
    with pytest.raises(DataError, match=sentence):
        read(tmp_path / "b.tif")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.vrt"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello\n" * 50, b"\xff\xd8", b"BM", b"RIFFxxxxWEBP", b"II*\0", b"II*\0\x08\0\0\0\0\0"],
)
def test_what_is_no_image_is_named(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    sentence = rf"{re.escape(name)} cannot be read as an image \([^<]+\); replace the file$"
    assert re.search(sentence, refusal(tmp_path / name))
    with pytest.raises(DataError, match=r"cannot be read as an image"):
        count_pixels(tmp_path / name)


HUGE = (1 << 31) - 16
LIES = {
    "no width": {256: None},
    "no height": {257: [0]},
    "too wide": {256: [1 << 31]},
    "no rows": {278: [0], 257: [0]},
    "a million samples": {277: [1 << 20]},
    "no offsets": {273: None},
    "offset beyond the end": {273: [5000]},
    "not deflated": {259: [8]},
    "no JPEG": {259: [7]},
    "no WebP": {259: [50001]},
    "unknown codec": {259: [777]},
    "many blocks": {257: [HUGE], 278: [1]},
    "huge tiles": {322: [HUGE], 323: [HUGE], 324: [8], 325: [64], 259: [8]},
    "huge image": {256: [1 << 20], 257: [1 << 20], 278: [1 << 20], 259: [8]},
}


def test_a_crafted_file_without_a_lie_is_read(tmp_path: Path):
    pixels = read_rgb(crafted_tiff(tmp_path / "a.tif", {}))
    assert pixels[:, :, 0].ravel().tolist() == list(range(64))


@pytest.mark.parametrize("changes", LIES.values(), ids=LIES)
def test_a_lie_in_a_tiff_file_is_refused(tmp_path: Path, changes: dict):
    path = crafted_tiff(tmp_path / "a.tif", changes)
    window = slice(0, 50), slice(0, 50)
    with pytest.raises(DataError) as caught, open_scene(path) as raster:
        raster.read_rgb(*window)
    assert re.search(r"a\.tif (cannot be read as an image|is damaged)", str(caught.value))


@pytest.mark.parametrize("codec", ["NONE", "LZW", "DEFLATE", "PACKBITS", "ZSTD", "JPEG", "WEBP"])
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.3, 0.6, 0.95])
def test_a_truncated_tiff_file_is_refused(tmp_path: Path, codec: str, fraction: float):
    options = {"tiled": "YES", "blockxsize": 16, "blockysize": 16}
    path = write_tiff(tmp_path / "a.tif", PHOTO, compress=codec, **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    sentence = r"a\.tif (is damaged: rows 0 to 59, columns 0 to 69|cannot be read as an image) .*"
    assert re.search(sentence + "; replace the file$", refusal(path))


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
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, bits: int, recwarn):
    content = png_header(60000, 60000, bits, 3) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    assert re.search(
        r"a\.png has more than 178956970 pixels, too many to be decoded as a whole; convert it to "
        r"a tiled TIFF \(gdal_translate .*\)$",
        refusal(tmp_path / "a.png"),
    )
    assert warnings_of(recwarn) == []


def test_below_the_limit_there_is_no_warning(tmp_path: Path, recwarn, monkeypatch):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 70 // 2 + 1)  # Pillow would warn
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), PHOTO)
    assert warnings_of(recwarn) == []
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 70 // 2 - 1)
    assert "has more than 4198 pixels" in refusal(tmp_path / "a.png")


def test_a_directory_that_leads_back_to_itself_is_read_once(tmp_path: Path):
    path = crafted_tiff(tmp_path / "a.tif", {})
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<I", 72))
    assert read_rgb(path).max() == 63


def test_pixels_are_counted_without_decoding_one(tmp_path: Path, monkeypatch):
    names = [f"a.{suffix}" for suffix in ("png", "jpg", "bmp", "webp", "tif", "gif")]
    for name in names:
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert [count_pixels(tmp_path / name) for name in names] == [600] * 6
