"""Pixels, values and masks of images, against Pillow, rasterio and what was written."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image, ImageOps
from rasterio._env import get_gdal_config

from tests.utils.rasters.raster_files import (
    EVERYTHING,
    picture,
    read_rgb,
    refusal,
    warnings_of,
    write_png_16,
    write_tiff,
)
from utils.errors import ConfigError
from utils.rasters.reading import open_scene
from utils.rasters.rendering import Rendering

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "geodata-samples"
PHOTO = picture(60, 70)
WINDOW = slice(5, 43), slice(9, 61)
TILES = {"tiled": "YES", "blockxsize": 32, "blockysize": 16}


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """By the definition, in Python's numbers."""
    flat = [round(min(max((float(v) - low) / (high - low), 0), 1) * 255) for v in values.flat]
    return np.array(flat, np.uint8).reshape(values.shape)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("uint8", {"compress": "WEBP", "webp_lossless": "YES", **TILES}),
        ("uint16", {"blockysize": 7, "interleave": "band", "endianness": "BIG", "bigtiff": "YES"}),
    ],
)
def test_tiff_layouts_give_the_pixels_that_went_in(tmp_path: Path, dtype: str, options: dict):
    values = picture(75, 91, 3, dtype)
    path = write_tiff(tmp_path / "a.tif", values, **options)
    shown = values if dtype == "uint8" else np.rint(values / 257).astype(np.uint8)
    stretch = () if dtype == "uint8" else ((0.0, 65535.0),)
    with open_scene(path, Rendering(stretch=stretch)) as raster:
        assert (raster.size, raster.num_bands, raster.dtype) == ((75, 91), 3, values.dtype)
        for window in (WINDOW, (slice(70, 75), slice(0, 91)), (EVERYTHING, EVERYTHING)):
            np.testing.assert_array_equal(raster.read_rgb(*window), shown[window])
            np.testing.assert_array_equal(raster.read_values(*window), values[window])
        np.testing.assert_array_equal(
            raster.read_values(*WINDOW, [3, 1]), values[WINDOW][..., [2, 0]]
        )
        assert raster.read_mask(*WINDOW).all()


@pytest.mark.parametrize("photometric", ["MINISBLACK", "MINISWHITE"])
@pytest.mark.parametrize("bits", [1, 4, 8, 12, 16])
def test_grey_of_any_depth_spans_black_to_white(tmp_path: Path, bits: int, photometric: str):
    top = (1 << bits) - 1
    values = (picture(40, 50, 1, "uint16") >> (16 - bits)).astype(np.uint8 if bits <= 8 else "u2")
    write_tiff(tmp_path / "a.tif", values, nbits=bits, photometric=photometric)
    grey = np.rint(values * (255 / top))
    grey = np.rint((top - values.astype(int)) * (255 / top)) if photometric[5:] == "WHITE" else grey
    stretch = (0, top) if bits > 8 else None
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif", stretch), np.repeat(grey, 3, axis=2))


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


@pytest.mark.parametrize(("dtype", "num_colors"), [("u1", 3), ("u1", 300), ("u2", 3), ("u1", 0)])
def test_values_without_a_colour_are_black(tmp_path: Path, dtype: str, num_colors: int):
    values = np.array([[[0], [1], [200 if dtype == "u1" else 400]]], dtype)
    write_tiff(tmp_path / "a.tif", values)
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.vrt", driver="VRT")
    colors = "".join(f'<Entry c1="{9 + i % 9}" c2="8" c3="7" c4="255"/>' for i in range(num_colors))
    table = f"<ColorTable>{colors}</ColorTable>" if colors else ""
    grey, palette = (f"<ColorInterp>{name}</ColorInterp>" for name in ("Gray", "Palette"))
    text = (tmp_path / "a.vrt").read_text()
    assert grey in text
    (tmp_path / "a.vrt").write_text(text.replace(grey, palette + table))
    last = {0: [200] * 3, 3: [0] * 3, 300: [11, 8, 7]}[num_colors]
    first = [[9, 8, 7], [10, 8, 7]] if num_colors else [[0] * 3, [1] * 3]
    assert read_rgb(tmp_path / "a.vrt").tolist() == [[*first, last]]


def test_inks_become_rgb(tmp_path: Path):
    inks = Image.fromarray(picture(60, 70, 4), "CMYK")
    for name, tolerance in (("a.tif", 1), ("a.jpg", 0)):
        inks.save(tmp_path / name)
        expected = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
        assert np.abs(read_rgb(tmp_path / name) - expected).max() <= tolerance


@pytest.mark.parametrize(
    ("suffix", "modes"),
    [
        *[("png", "1 L LA P RGB RGBA"), ("webp", "L RGB RGBA"), ("bmp", "P"), ("jpg", "L RGB")],
        *[("gif", "P"), ("tif", "1 LA P")],
    ],
)
def test_what_pillow_writes_is_read_as_pillow_reads_it(tmp_path: Path, suffix, modes, recwarn):
    for mode in modes.split():
        path = tmp_path / f"{mode}.{suffix}"
        Image.fromarray(PHOTO).convert(mode).save(path)
        with Image.open(path) as image:
            rgb, values = np.asarray(image.convert("RGB")), np.asarray(image)[WINDOW]
        with open_scene(path) as raster:
            np.testing.assert_array_equal(raster.read_rgb(EVERYTHING, EVERYTHING), rgb)
            np.testing.assert_array_equal(raster.read_rgb(*WINDOW), rgb[WINDOW])
            stored = raster.read_values(*WINDOW).reshape(values.shape)
            np.testing.assert_array_equal(stored, values)
            assert raster.placement is None
    assert warnings_of(recwarn) == []
    assert len([*tmp_path.iterdir()]) == len(modes.split())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])  # the first three are shown, or one as grey
def test_16_bits_are_scaled_with_all_their_bits(tmp_path: Path, channels: int):
    values = picture(9, 13, channels, "uint16")
    values[0, :3] = [[0], [1], [65535]]
    write_png_16(tmp_path / "a.png", values)
    write_tiff(tmp_path / "a.tif", values, photometric="MINISBLACK", compress="LZW")
    shown = values[:, :, :3] if channels >= 3 else values[:, :, [0, 0, 0]]
    for name in ("a.png", "a.tif"):
        for stretch in ((0, 65535), (300.5, 900)):
            expected = stretched(shown, *stretch)
            np.testing.assert_array_equal(read_rgb(tmp_path / name, stretch), expected)
        with open_scene(tmp_path / name) as raster:
            found = raster.read_values(slice(2, 8), slice(3, 9))
            np.testing.assert_array_equal(found, values[2:8, 3:9])


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "uint32", "float32", "float64"])
def test_other_types_need_a_stretch(tmp_path: Path, dtype: str):
    values = np.random.default_rng(0).normal(300, 60, (40, 50, 3))
    values = (values % 127 if dtype == "int8" else values).astype(dtype)
    path = write_tiff(tmp_path / "a.tif", values, compress="LZW", endianness="BIG", **TILES)
    np.testing.assert_array_equal(read_rgb(path, (50, 380)), stretched(values, 50, 380))
    with open_scene(path) as raster:
        np.testing.assert_array_equal(raster.read_values(EVERYTHING, EVERYTHING), values)
    low, high = values.min(), values.max()
    assert refusal(path).endswith(
        f"a.tif holds {dtype} values of {low:.6g} to {high:.6g}, without an agreed black and "
        f"white; name the values that become 0 and 255: --stretch {low:.6g},{high:.6g}"
    )


def test_numbers_without_a_grey(tmp_path: Path):
    values = np.array([[[np.nan], [np.inf], [-np.inf], [1]]], np.float32)
    rgb = read_rgb(write_tiff(tmp_path / "a.tif", values), (0, 2))
    assert rgb[0, :, 0].tolist() == [0, 255, 0, 128]
    path = write_tiff(tmp_path / "b.tif", values.astype(np.complex64))
    assert "holds complex128 values; convert them to real numbers" in refusal(path, (0, 2))


def test_a_stretch_of_two_numbers_the_lower_first(tmp_path: Path):
    write_tiff(tmp_path / "a.tif", PHOTO)
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


@pytest.mark.parametrize(
    ("dtype", "bands", "no_data", "alpha"),
    [
        ("u1", 5, None, "YES"),  # red, green, blue, alpha, another
        ("i2", 4, None, "YES"),
        ("f4", 2, None, "YES"),
        ("u1", 4, 7, "YES"),
        ("u1", 4, 7, "NO"),  # the fourth band is near infrared, which may well be 7
        ("u2", 3, 7, "NO"),
    ],
)
def test_no_data_is_told_by_alpha_of_any_type_and_by_all_colours(
    tmp_path: Path, dtype: str, bands: int, no_data: float | None, alpha: str
):
    """Other than by GDAL and rasterio, which know alpha of few types and numbers of bands."""
    values = np.random.default_rng(0).integers(6, 9, (60, 70, bands)).astype(dtype)
    photometric, alpha_at = ("RGB", 3) if bands > 2 else ("MINISBLACK", 1)
    colors = [band for band in range(bands) if alpha == "NO" or band != alpha_at]
    valid = np.ones((60, 70), bool)
    if no_data is not None:
        values[5:9, :, colors] = no_data
        valid = (values[..., colors] != no_data).any(axis=-1)
    if alpha == "YES":
        values[30:, 40:, alpha_at] = 0
        valid[30:, 40:] = False
    options = {"photometric": photometric, "alpha": alpha, "nodata": no_data}
    write_tiff(tmp_path / "a.tif", values, **options)
    with open_scene(tmp_path / "a.tif") as raster:
        assert raster.has_mask
        np.testing.assert_array_equal(raster.read_mask(EVERYTHING, EVERYTHING), valid)
        np.testing.assert_array_equal(raster.read_mask(*WINDOW), valid[WINDOW])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_masks_and_no_data_values_beside_photos(tmp_path: Path, name: str):
    Image.fromarray(PHOTO // 200 * 200).save(tmp_path / name, quality=100)
    pixels = np.asarray(Image.open(tmp_path / name))
    tag = int(pixels[0, 0, 0])
    bands = [
        f'<PAMRasterBand band="{i}"><NoDataValue>{tag}</NoDataValue></PAMRasterBand>'
        for i in (1, 2, 3)
    ]
    (tmp_path / f"{name}.aux.xml").write_text(f"<PAMDataset>{''.join(bands)}</PAMDataset>")
    with open_scene(tmp_path / name) as raster:
        assert raster.no_data == tag
        found = raster.read_mask(*WINDOW)
    np.testing.assert_array_equal(found, (pixels != tag).any(axis=-1)[WINDOW])
    valid = PHOTO[..., 1] > 90
    with rasterio.open(tmp_path / name, "r+") as file:
        file.write_mask(valid)
    with open_scene(tmp_path / name) as raster:
        np.testing.assert_array_equal(raster.read_mask(*WINDOW), valid[WINDOW])


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


def test_threads_take_turns_and_share_a_bounded_cache(tmp_path: Path):
    values = picture(300, 300)
    path = write_tiff(tmp_path / "a.tif", values, compress="DEFLATE", **TILES)
    corners = np.random.default_rng(0).integers(0, 250, (160, 2)).tolist()
    with open_scene(path) as raster, ThreadPoolExecutor(4) as pool:
        assert get_gdal_config("GDAL_CACHEMAX") == 128 << 20
        windows = [(slice(top, top + 50), slice(left, left + 50)) for top, left in corners]
        found = pool.map(lambda window: raster.read_rgb(*window), windows)
        assert all((values[w] == rgb).all() for w, rgb in zip(windows, found, strict=True))


def test_the_content_counts_not_the_name(tmp_path: Path):
    for name, form in (("a.tif", "PNG"), ("a.png", "TIFF")):
        Image.fromarray(PHOTO).save(tmp_path / name, format=form, lossless=True)
        np.testing.assert_array_equal(read_rgb(tmp_path / name), PHOTO)


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
    with open_scene(SAMPLES / name) as raster, rasterio.open(SAMPLES / name) as dataset:
        mask = raster.read_mask(EVERYTHING, EVERYTHING)
        assert round(100 * mask.mean(), 3) == pytest.approx(percent)
        values = raster.read_values(*WINDOW)
        np.testing.assert_array_equal(np.moveaxis(values, -1, 0), dataset.read()[:, 5:43, 9:61])
