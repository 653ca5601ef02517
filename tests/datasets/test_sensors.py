"""Bands of sensors on the grid of their image: choice of the band, pixels without data, places."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT

from datasets.sensors import find_raster, open_band
from tests.utils.rasters.raster_files import write_tiff
from utils.errors import DataError
from utils.rasters.frames import Frame, wanted_warp
from utils.rasters.placement import Placement
from utils.rasters.reading import open_scene
from utils.rasters.rendering import Rendering

NAN = np.nan


def at(x: float, y: float, pixel_m: float = 1.0, crs: str = "EPSG:32633") -> dict:
    return {"crs": crs, "transform": rasterio.Affine(pixel_m, 0, x, 0, -pixel_m, y)}


def frame(size: tuple[int, int], place: dict | None = None) -> Frame:
    if place is None:
        return Frame(name="image", size=size)
    crs = rasterio.CRS.from_user_input(place["crs"])
    return Frame(
        name="image", size=size, placement=Placement(crs=crs, transform=place["transform"])
    )


def read(path: Path, image: Frame, **options) -> tuple[np.ndarray, bool]:
    """The whole band, and if it was warped."""
    with open_band(partial(open_scene, path), image, **options) as band:
        return band.read(*(slice(0, length) for length in image.size)), band.is_warped


def test_no_data_of_one_band_among_several(tmp_path: Path):
    """GDAL's mask of a file tells pixels in which any band holds data."""
    values = np.array([[[1, 5, 9], [2, -1, 9], [-1, 7, -1]]], np.float32)
    path = write_tiff(tmp_path / "a.tif", values, nodata=-1)
    for band, expected in ((1, [1, 2, NAN]), (2, [5, NAN, 7]), (3, [9, 9, NAN])):
        np.testing.assert_array_equal(read(path, frame((1, 3)), band=band)[0], [expected])


def test_alpha_marks_pixels_without_data_unless_it_is_data(tmp_path: Path):
    values = np.array([[[50, 255], [60, 0], [70, 9]]], np.uint8)
    path = write_tiff(tmp_path / "a.tif", values)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = (ColorInterp.gray, ColorInterp.alpha)
    np.testing.assert_array_equal(read(path, frame((1, 3)))[0], [[50, NAN, 70]])
    with pytest.raises(DataError, match=r"band 2 of .* is declared as alpha.*give --alpha-is-data"):
        read(path, frame((1, 3)), band=2)
    as_data = Rendering(alpha_is_data=True)
    found = read(path, frame((1, 3)), band=2, rendering=as_data)[0]
    np.testing.assert_array_equal(found, [[255, 0, 9]])


@pytest.mark.parametrize("kind", ["tag", "nan", "mask"])
def test_pixels_without_data_are_not_mixed_with_their_neighbours(tmp_path: Path, kind: str):
    values = np.full((20, 20, 1), 7, np.float32)
    values[8:12, 8:12] = NAN if kind == "nan" else -9999
    options = {"nodata": -9999} if kind == "tag" else {}
    path = write_tiff(tmp_path / "a.tif", values, **options, **at(0, 40, 2.0))
    if kind == "mask":
        with rasterio.open(path, "r+") as file:
            file.write_mask(values[..., 0] != -9999)
    found, is_warped = read(path, frame((40, 40), at(0, 40)))
    assert is_warped and np.isnan(found[17:23, 17:23]).all()
    assert np.isnan(found).sum() <= 10 * 10
    outside = read(path, frame((2, 2), at(-1, 41)))[0]
    np.testing.assert_array_equal(outside, [[NAN, NAN], [NAN, 7]])
    np.testing.assert_allclose(found[~np.isnan(found)], 7, rtol=1e-6)
    with pytest.raises(DataError, match=r"leave --no-data out and run gdal_edit\.py -a_nodata 3"):
        read(path, frame((40, 40), at(0, 40)), no_data=3)


def test_a_raster_in_another_system_is_read_as_gdal_warps_it(tmp_path: Path):
    """Longitude and latitude, read in two windows, against a warp by hand."""
    y, x = np.mgrid[:300, :300]
    values = (x + 2.0 * y).astype(np.float32)[..., None]
    place = {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-5, 0, 15, 0, -1e-5, 51)}
    path = write_tiff(tmp_path / "a.tif", values, **place)
    grid = at(500_050, 5_649_780, 2.0)
    with rasterio.open(path) as file:
        options = {"resampling": Resampling.bilinear, "tolerance": 0.01, "add_alpha": True}
        with WarpedVRT(file, **grid, height=60, width=50, **options) as warped:
            expected = warped.read(1)
            assert warped.dataset_mask().all()
    with open_band(partial(open_scene, path), frame((60, 50), grid)) as band:
        upper, lower = (band.read(rows, slice(0, 50)) for rows in (slice(0, 33), slice(33, 60)))
    np.testing.assert_array_equal(np.concatenate([upper, lower]), expected)


@pytest.mark.parametrize(
    ("raster", "is_warped"),
    [
        (frame((10, 10), at(0, 10)), False),
        (frame((10, 10), at(0.009, 10)), False),  # less than a hundredth of a pixel
        (frame((10, 10), at(0.5, 10)), True),
        (frame((20, 20), at(-5, 15)), True),
        (frame((10, 10)), False),
    ],
)
def test_placed_rasters_are_put_together_by_their_places(raster: Frame, is_warped: bool):
    image = frame((10, 10), at(0, 10))
    assert (wanted_warp(raster, image) is not None) == is_warped


@pytest.mark.parametrize(
    ("raster", "sentence"),
    [
        (frame((10, 10), at(40, 10)), r"does not .* extends over x 40 to 50, y 0 to 10 \(EPSG:326"),
        (frame((10, 9)), r"is 10 x 9 and its image image 10 x 10 .* size, or georeference both: p"),
        (
            frame((10, 10), at(0, 10, crs='LOCAL_CS["a"]')),
            "coordinates of image cannot be",
        ),
    ],
)
def test_rasters_that_do_not_belong_to_their_image(raster: Frame, sentence: str):
    with pytest.raises(DataError, match=sentence):
        wanted_warp(raster, frame((10, 10), at(0, 10)))


def test_two_rasters_of_one_image_are_refused(tmp_path: Path):
    for name in ("a.tif", "a.png"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"the image 'a' has several rasters, .*remove all but one"):
        find_raster(tmp_path, "a")
    (tmp_path / "a.png").unlink()
    assert find_raster(tmp_path, "a") == tmp_path / "a.tif"
