"""Windows of TIFF files against the pixels that rasterio (GDAL) reads from the same files."""

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from datasets.rasters import write_raster
from tests.utils.rasters.tiff_files import pixels_of, read_all, write_tiff
from utils.rasters import tiff_layout, tiff_window
from utils.rasters.reading import open_scene

CODECS = ["NONE", "LZW", "DEFLATE", "PACKBITS", "ZSTD", "LZMA"]
PREDICTORS = {codec: [1] if codec in ("NONE", "PACKBITS") else [1, 2] for codec in CODECS}
CASES = [
    (codec, predictor, dtype)
    for codec in CODECS
    for predictor in PREDICTORS[codec]
    for dtype in ("uint8", "uint16")
]
SHAPE = (75, 91)  # no multiple of a tile or strip


def drawn(bands: int, dtype: str, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A smooth picture with noise, and all values of the type."""
    rng = np.random.default_rng(bands)
    limits = np.iinfo(dtype)
    waves = np.sin(np.arange(shape[0])[:, None, None] / 9 + np.arange(shape[1])[:, None] / 7)
    values = waves * np.linspace(0.5, 1, bands) + rng.normal(0, 0.1, (*shape, bands))
    values = (values + 1.2) / 2.4 * (limits.max - limits.min) + limits.min
    return np.clip(values, limits.min, limits.max).astype(dtype)


def as_8_bit(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else np.rint(values / 257).astype(np.uint8)


def windows(shape: tuple[int, int], number: int) -> list[tuple[slice, slice]]:
    rng = np.random.default_rng(number)
    ends = [np.sort(rng.choice(length + 1, (number, 2)), axis=1) for length in shape]
    return [(slice(*rows), slice(*columns)) for rows, columns in zip(*ends, strict=True)]


@pytest.mark.parametrize("big", ["NO", "YES"])
@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
@pytest.mark.parametrize("interleave", ["PIXEL", "BAND"])
@pytest.mark.parametrize("tiled", ["YES", "NO"])
@pytest.mark.parametrize(("codec", "predictor", "dtype"), CASES)
def test_every_layout_is_read_as_gdal_reads_it(
    tmp_path: Path, codec: str, predictor: int, dtype: str, tiled: str, interleave, order, big
):
    path = tmp_path / "a.tif"
    options = {"compress": codec, "interleave": interleave, "endianness": order, "bigtiff": big}
    if predictor > 1:
        options["predictor"] = predictor
    sizes = {"blockxsize": 32, "blockysize": 16} if tiled == "YES" else {"blockysize": 7}
    write_tiff(path, drawn(3, dtype), tiled=tiled, **sizes, **options)
    assert (
        path.read_bytes()[:4]
        == {
            ("LITTLE", "NO"): b"II*\0",
            ("LITTLE", "YES"): b"II+\0",
            ("BIG", "NO"): b"MM\0*",
            ("BIG", "YES"): b"MM\0+",
        }[order, big]
    )
    expected = as_8_bit(pixels_of(path))
    with open_scene(path) as scene:
        assert (scene.size, scene.is_tiff, scene.by_window) == (SHAPE, True, True)
        for rows, columns in windows(SHAPE, 5):
            np.testing.assert_array_equal(scene.read(rows, columns), expected[rows, columns])
        np.testing.assert_array_equal(scene.read(slice(None), slice(None)), expected)


@pytest.mark.parametrize("tiled", ["YES", "NO"])
@pytest.mark.parametrize(
    ("bands", "options"),
    [
        (3, {"compress": "JPEG", "photometric": "YCBCR"}),
        (3, {"compress": "JPEG", "photometric": "RGB"}),
        (1, {"compress": "JPEG"}),
        (2, {"compress": "JPEG"}),
        (4, {"compress": "JPEG"}),
        (4, {"compress": "JPEG", "photometric": "MINISBLACK"}),
        (3, {"compress": "JPEG", "interleave": "BAND"}),
        (3, {"compress": "WEBP", "webp_lossless": "YES"}),
        (4, {"compress": "WEBP", "webp_lossless": "YES"}),
        (3, {"compress": "WEBP", "webp_level": 60}),
    ],
)
def test_codecs_of_pictures_are_read_as_gdal_reads_them(tmp_path: Path, bands, options, tiled):
    sizes = {"blockxsize": 32, "blockysize": 16} if tiled == "YES" else {"blockysize": 16}
    path = tmp_path / "a.tif"
    write_tiff(path, drawn(bands, "uint8"), tiled=tiled, **sizes, **options)
    if options.get("photometric") == "YCBCR":  # two libjpegs enlarge colours differently
        expected = np.asarray(Image.open(path))
        assert np.abs(expected.astype(int) - pixels_of(path)).mean() < 1
    else:
        expected = pixels_of(path)
    with open_scene(path) as scene:
        assert scene.by_window
        np.testing.assert_array_equal(scene.read(slice(5, 50), slice(9, 80)), expected[5:50, 9:80])
        np.testing.assert_array_equal(scene.read(slice(None), slice(None)), expected)


def test_pixels_of_a_jpeg_are_those_that_went_in(tmp_path: Path):
    picture = drawn(3, "uint8")
    smooth = np.repeat(np.repeat(picture[::16, ::16], 16, axis=0), 16, axis=1)[:75, :91]
    options = {"photometric": "YCBCR", "jpeg_quality": 95, "blockxsize": 48, "blockysize": 48}
    write_tiff(tmp_path / "a.tif", smooth, tiled="YES", compress="JPEG", **options)
    assert np.abs(read_all(tmp_path / "a.tif").astype(int) - smooth).mean() < 2


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("interleave", ["PIXEL", "BAND"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_first_three_bands_are_shown_or_one_as_grey(
    tmp_path: Path, bands: int, interleave: str, dtype: str
):
    picture = drawn(bands, dtype)
    options = {"compress": "LZW", "predictor": 2, "interleave": interleave}
    write_tiff(tmp_path / "a.tif", picture, photometric="MINISBLACK", **options)
    shown = picture[:, :, :3] if bands >= 3 else picture[:, :, [0, 0, 0]]
    np.testing.assert_array_equal(read_all(tmp_path / "a.tif"), as_8_bit(shown))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_what_pillow_writes_is_read_as_pillow_reads_it(tmp_path: Path, mode: str, compression: str):
    image = Image.fromarray(drawn(3, "uint8")).convert(mode)
    image.save(tmp_path / "a.tif", compression=compression)
    with open_scene(tmp_path / "a.tif") as scene:
        assert scene.by_window
        pixels = scene.read(slice(None), slice(None))
    expected = np.asarray(Image.open(tmp_path / "a.tif").convert("RGB"))
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("photometric", ["MINISBLACK", "MINISWHITE"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_of_any_depth_spans_black_to_white(tmp_path: Path, bits: int, photometric: str):
    top = (1 << bits) - 1
    picture = (drawn(1, "uint16") >> (16 - bits)).astype("uint8" if bits <= 8 else "uint16")
    write_tiff(tmp_path / "a.tif", picture, nbits=bits, photometric=photometric, compress="DEFLATE")
    grey = np.rint(picture[:, :, 0] * (255 / top))
    grey = 255 - grey if photometric == "MINISWHITE" else grey
    pixels = read_all(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels, np.repeat(grey[:, :, None], 3, axis=2))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_become_their_colours(tmp_path: Path, bits: int):
    rng = np.random.default_rng(bits)
    colors = rng.integers(0, 256, (1 << bits, 3)).astype(np.uint8)
    indices = rng.integers(0, 1 << bits, (*SHAPE, 1)).astype(np.uint8)
    colormap = {index: (*map(int, color), 255) for index, color in enumerate(colors)}
    write_tiff(tmp_path / "a.tif", indices, colormap=colormap, nbits=bits, photometric="PALETTE")
    np.testing.assert_array_equal(read_all(tmp_path / "a.tif"), colors[indices[:, :, 0]])


@pytest.mark.parametrize("tiled", ["YES", "NO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_file_is_turned_as_pillow_turns_it(tmp_path: Path, orientation: int, tiled: str):
    picture = drawn(3, "uint8")
    options = {"compress": "LZW", "tiled": tiled, "blockxsize": 32, "blockysize": 16}
    write_tiff(tmp_path / "a.tif", picture, orientation=orientation, **options)
    expected = np.asarray(Image.open(tmp_path / "a.tif").convert("RGB"))
    with open_scene(tmp_path / "a.tif") as scene:
        assert scene.size == expected.shape[:2] and scene.by_window
        for rows, columns in windows(scene.size, 5):
            np.testing.assert_array_equal(scene.read(rows, columns), expected[rows, columns])


def test_a_long_strip_without_compression_is_read_in_parts(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tiff_layout, "_LONG_STRIP_BYTES", 100_000)
    monkeypatch.setattr(tiff_layout, "_PART_BYTES", 30_000)
    picture = drawn(3, "uint8", (1009, 503))  # a prime number of rows
    write_raster(tmp_path / "a.tif", picture)
    write_tiff(tmp_path / "b.tif", picture, blockysize=500, compress="NONE", interleave="BAND")
    for name in ("a.tif", "b.tif"):
        with open_scene(tmp_path / name) as scene:
            tracemalloc.start()
            window = scene.read(slice(490, 510), slice(3, 500))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            np.testing.assert_array_equal(window, picture[490:510, 3:500])
            np.testing.assert_array_equal(scene.read(slice(None), slice(None)), picture)
        assert peak < picture.nbytes / 3


def test_neighbouring_windows_decode_no_block_twice(tmp_path: Path, monkeypatch):
    picture = drawn(3, "uint8", (200, 300))
    write_tiff(
        tmp_path / "a.tif", picture, compress="LZW", tiled="YES", blockxsize=64, blockysize=64
    )
    decoded = []
    decode = tiff_window.decode_block
    monkeypatch.setattr(
        tiff_window, "decode_block", lambda *args: decoded.append(1) or decode(*args)
    )
    with open_scene(tmp_path / "a.tif") as scene:
        for top, left in itertools.product(range(0, 200, 48), range(0, 300, 48)):
            scene.read(slice(top, top + 64), slice(left, left + 64))
    assert len(decoded) == 4 * 5


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch):
    picture = drawn(3, "uint8", (200, 300))
    write_tiff(tmp_path / "a.tif", picture, tiled="YES", blockxsize=64, blockysize=64)
    monkeypatch.setattr(tiff_window, "_CACHE_BYTES", 3 * 64 * 64 * 3)
    with open_scene(tmp_path / "a.tif") as scene:
        np.testing.assert_array_equal(scene.read(slice(None), slice(None)), picture)
        assert len(scene._source._cache) == 3


@pytest.mark.parametrize("tiled", ["YES", "NO"])
def test_memory_does_not_grow_with_the_area(tmp_path: Path, tiled: str):
    """30,000 x 30,000 pixels: 2.7 GB decoded, most of it never written."""
    options = {"compress": "DEFLATE", "sparse_ok": "TRUE", "tiled": tiled}
    options |= {"blockxsize": 512, "blockysize": 512} if tiled == "YES" else {"blockysize": 16}
    part = drawn(3, "uint8", (600, 1100))
    place = rasterio.transform.from_origin(5, 0, 1, 1)
    with rasterio.open(
        tmp_path / "a.tif", "w", "GTiff", 30000, 30000, 3, None, place, "uint8", **options
    ) as file:
        for top, left in ((200, 900), (29000, 28000)):
            window = ((top, top + 600), (left, left + 1100))
            file.write(part.transpose(2, 0, 1), window=window)
    tracemalloc.start()
    with open_scene(tmp_path / "a.tif") as scene:
        for top in range(0, 30000, 6000):
            assert scene.read(slice(top, top + 64), slice(20000, 20640)).max() == 0
        np.testing.assert_array_equal(scene.read(slice(29000, 29600), slice(28000, 29100)), part)
        strip = scene.read(slice(0, 640), slice(None))
        np.testing.assert_array_equal(strip[200:, 900:2000], part[:440])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (128 << 20) + strip.nbytes + (16 << 20)  # the cache, the window, and little else


def test_what_lies_outside_is_left_out(tmp_path: Path):
    picture = drawn(3, "uint8")
    write_tiff(tmp_path / "a.tif", picture)
    with open_scene(tmp_path / "a.tif") as scene:
        assert scene.read(slice(70, 200), slice(90, 91)).shape == (5, 1, 3)
        assert scene.read(slice(80, 90), slice(0, 5)).shape == (0, 5, 3)
        with pytest.raises(ValueError, match="a window has steps of 1, not 2 and None"):
            scene.read(slice(0, 9, 2), slice(0, 9))
