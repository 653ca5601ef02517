"""Bands, stretches and alpha: which values of a file become red, green and blue."""

import re
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from tests.utils.rasters.raster_files import EVERYTHING, picture, write_tiff
from utils.boxes import Box
from utils.errors import ConfigError, DataError
from utils.rasters.reading import open_scene
from utils.rasters.rendering import Rendering, bands_of, stretch_of, stretch_text

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "geodata-samples"
PHOTO = picture(60, 70)
NAMES = {"r": "red", "g": "green", "b": "blue", "u": "undefined", "a": "alpha", "y": "gray"}


def tagged(path: Path, values: np.ndarray, colors: str) -> Path:
    """Write a file whose bands have these colour interpretations, one letter each."""
    write_tiff(path, values, photometric="MINISBLACK")
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp[NAMES[color]] for color in colors]
    return path


def rgb_of(path: Path, **rendering) -> np.ndarray:
    with open_scene(path, Rendering(**rendering)) as raster:
        return raster.read_rgb(EVERYTHING, EVERYTHING)


@pytest.mark.parametrize(
    ("colors", "bands", "shown", "is_assumed"),
    [
        ("bgru", (), (3, 2, 1), False),  # case 8 of docs/trials.md
        ("urgb", (), (2, 3, 4), False),
        ("yuuu", (), (1, 2, 3), True),
        ("yuua", (), (1, 2, 3), False),  # three bands and a mask
        ("rguu", (), (1, 2, 3), True),  # blue is missing
        ("bgra", (4, 1, 2), (4, 1, 2), False),
        ("yuuuuuuu", (5, 3, 2), (5, 3, 2), False),
        ("bg", (), (1, 1, 1), False),
        ("rgb", (2,), (2, 2, 2), False),
    ],
)
def test_bands_are_those_asked_for_else_those_the_file_names(
    tmp_path: Path, colors, bands, shown, is_assumed
):
    values = picture(20, 30, len(colors))
    path = tagged(tmp_path / "a.tif", values, colors)
    with open_scene(path, Rendering(bands=bands)) as raster:
        assert raster.assumes_bands is is_assumed
        found = raster.read_rgb(EVERYTHING, EVERYTHING)
    np.testing.assert_array_equal(found, values[:, :, [band - 1 for band in shown]])


def test_a_stretch_for_each_band(tmp_path: Path):
    values = np.dstack([PHOTO[..., 0] * 2.0, PHOTO[..., 1] + 500.0, -1.0 * PHOTO[..., 2]])
    path = write_tiff(tmp_path / "a.tif", values)
    found = rgb_of(path, stretch=((0, 510), (500, 755), (-255, 0)))
    np.testing.assert_array_equal(found, np.dstack([PHOTO[..., :2], 255 - PHOTO[..., 2]]))
    path = write_tiff(tmp_path / "grey.tif", values[..., :1])
    with pytest.raises(DataError, match=r"grey\.tif has one band, and --stretch three pairs"):
        rgb_of(path, stretch=((0, 1), (0, 1), (0, 1)))
    with pytest.raises(DataError, match=r"a\.tif has 3 bands, not the bands 4,2,1; name others"):
        rgb_of(tmp_path / "a.tif", bands=(4, 2, 1), stretch=((0, 1),))


@pytest.mark.parametrize("alpha", ["YES", "NO"])
def test_a_fourth_band_changes_no_colour(tmp_path: Path, alpha: str):
    """Near infrared, 0 in some rows, tagged as alpha or not."""
    infrared = np.clip(PHOTO[..., :1] // 2, 10, 119)
    infrared[:20] = 0
    values = np.dstack([PHOTO, infrared])
    path = write_tiff(tmp_path / "a.tif", values, photometric="RGB", alpha=alpha)
    np.testing.assert_array_equal(rgb_of(path), PHOTO)
    declared = alpha != "NO"
    with open_scene(path) as raster:
        assert raster.has_mask is declared and raster.has_busy_alpha() is declared
        np.testing.assert_array_equal(
            raster.read_mask(EVERYTHING, EVERYTHING), (infrared[..., 0] > 0) | (not declared)
        )
    for rendering in ({"alpha_is_data": True}, {"bands": (4, 1, 2)}):
        with open_scene(path, Rendering(**rendering)) as raster:
            assert not raster.has_mask and raster.read_mask(EVERYTHING, EVERYTHING).all()
    np.testing.assert_array_equal(rgb_of(path, bands=(4, 1, 2)), values[..., [3, 0, 1]])


def test_a_mask_of_few_levels_is_no_picture(tmp_path: Path):
    soft = np.full((60, 70, 1), 255, np.uint8)
    soft[:30] = 0
    soft[30:32] = np.arange(70)[:, None]  # an edge that fades out
    path = write_tiff(tmp_path / "a.tif", np.dstack([PHOTO, soft]), photometric="RGB", alpha="YES")
    with open_scene(path) as raster:
        assert not raster.has_busy_alpha()


def test_nan_holds_no_data(tmp_path: Path):
    values = PHOTO.astype(np.float32)
    values[3:9, 4:7, 1] = np.nan
    path = write_tiff(tmp_path / "a.tif", values)
    with open_scene(path, Rendering(stretch=((0, 255),))) as raster:
        valid = raster.read_mask(EVERYTHING, EVERYTHING)
        assert raster.has_mask and (valid == ~np.isnan(values[..., 1])).all()
        assert len(raster.sample(10**6)) == valid.sum() == 60 * 70 - 18
    with open_scene(path, Rendering(bands=(3,), stretch=((0, 255),))) as raster:
        assert raster.read_mask(EVERYTHING, EVERYTHING).all()  # of the shown band


def test_a_sample_lies_in_its_part_and_is_bounded(tmp_path: Path):
    values = picture(700, 900, 1, "uint16")
    values[:, :300] = 7
    with open_scene(write_tiff(tmp_path / "a.tif", values)) as raster:
        assert len(raster.sample(10**6)) == 700 * 900
        some = raster.sample(1 << 16)
        assert len(some) == 1 << 16 and set(some.ravel()) <= set(values.ravel())
        assert (raster.sample(1 << 16, [1], Box(100, 0, 500, 300)) == 7).all()


@pytest.mark.parametrize(
    ("low_and_high", "clause"),
    [
        ((200, 2750), None),
        ((0, 255), r"of which (9\d|100)% lie outside"),
        ((2000, 4000), r"of which [67]\d% lie outside"),
        ((0, 65535), r"which fill only 3\.8% of"),
    ],
)
def test_values_that_hardly_fit_the_stretch_are_told(tmp_path: Path, low_and_high, clause):
    """Case 5 of docs/trials.md: values of 200 to 2750."""
    path = write_tiff(tmp_path / "a.tif", PHOTO.astype(np.uint16) * 10 + 200)
    with open_scene(path, Rendering(stretch=(low_and_high,))) as raster:
        text = raster.stretch_warning()
    if clause is None:
        assert text is None
    else:
        low, high = low_and_high
        assert re.search(rf"values of 200 to 2750, {clause} the stretch {low},{high};", text or "")


def test_options_are_parsed_and_refused():
    assert bands_of("3,2,1") == (3, 2, 1) and bands_of("4") == (4,)
    assert stretch_of("0,2047") == ((0, 2047),)
    assert stretch_text(stretch_of("0,1,-2.5,3,4,1e6")) == "0,1,-2.5,3,4,1e+06"
    for text in ("", "1,2", "0,1,2", "a,b,c", "1,2,3,4"):
        with pytest.raises(ArgumentTypeError, match="must be three bands as R,G,B"):
            bands_of(text)
    for text in ("", "5", "5,4", "1,1", "0,1,2", "0,nan", "0,inf", "0,1,0,1"):
        with pytest.raises(ArgumentTypeError, match="must be LOW,HIGH"):
            stretch_of(text)
    with pytest.raises(ConfigError, match="give three, as red, green and blue, or one as grey"):
        Rendering(bands=(0, 1, 2))
    rendering = Rendering(bands=(3, 2, 1), stretch=((0, 5.5),), alpha_is_data=True)
    assert Rendering.from_plain(rendering.to_plain()) == rendering


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="../shared/data is not at hand")
def test_red_of_a_real_raster_is_the_band_it_names():
    path = SAMPLES / "RGBA.uint16.tif"
    with rasterio.open(path) as dataset:
        stored = dataset.read(3).astype(np.float64)
    high = stored.max()
    found = rgb_of(path, stretch=((0, high),))
    np.testing.assert_array_equal(found[..., 0], np.rint(stored / high * 255))


def test_an_image_without_data_or_finite_values_needs_no_stretch(tmp_path: Path):
    empty = write_tiff(tmp_path / "empty.tif", np.zeros((9, 9, 3), np.uint16), nodata=0)
    assert not rgb_of(empty).any()
    values = PHOTO.astype(np.float32)
    values[0, :3, 0] = [np.inf, -np.inf, np.nan]
    path = write_tiff(tmp_path / "infinite.tif", values)
    with pytest.raises(DataError, match=r"float32 values of 0 to 255, .*: --stretch 0,255$"):
        rgb_of(path)
    flat = write_tiff(tmp_path / "flat.tif", np.full((9, 9, 3), 5, np.uint16))
    with pytest.raises(DataError, match=r"values of 5 to 5, .*: --stretch LOW,HIGH$"):
        rgb_of(flat)
