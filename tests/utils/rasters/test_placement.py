"""Georeferencing: what is read, its area, and what results of the same grid get, by rasterio."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from tests.utils.rasters.raster_files import EVERYTHING, picture, write_tiff
from utils.errors import DataError
from utils.rasters.placement import Placement
from utils.rasters.reading import open_scene
from utils.rasters.writing import open_writer

SHARED = Path(__file__).parents[4] / "shared" / "data"
PHOTO = picture(20, 30)
NORTH_UP = Affine(0.3, 0, 252930.6, 0, -0.3, 5173152)
WORLD = "0.5\n0.0\n0.0\n-0.5\n100.25\n199.75\n"


def placement_of(path: Path) -> Placement:
    with open_scene(path) as raster:
        assert raster.placement is not None
        return raster.placement


def copied(path: Path, folder: Path, suffix: str = ".tif") -> Path:
    """A result of the same grid, in another folder."""
    result = folder / "copy" / f"{path.stem}{suffix}"
    with (
        open_scene(path) as raster,
        open_writer(result, raster.size, 1, raster.placement) as writer,
    ):
        writer.write(np.zeros(raster.size, np.uint8))
    return result


def seen_by_gdal(path: Path) -> tuple:
    with rasterio.open(path) as file:
        points = [(point.row, point.col, point.x, point.y, point.z) for point in file.gcps[0]]
        crs = file.gcps[1] if points else file.crs  # a TIFF file holds one of both
        rpcs = {} if file.rpcs is None else file.rpcs.to_dict()
        numbers = {k: [f"{n:.12g}" for n in np.ravel(v)] for k, v in rpcs.items() if v}
        area_or_point = file.tags().get("AREA_OR_POINT", "Area")
        return crs, file.transform, file.shape, points, numbers, area_or_point


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not at hand")
def test_real_images_come_back_where_they_were(tmp_path: Path):
    paths = [*SHARED.glob("geotiff-samples/images/*.tif"), *SHARED.glob("geodata-samples/*.tif")]
    paths += SHARED.glob("geodata-samples/*.vrt")
    assert len(paths) >= 10
    for path in paths:
        assert seen_by_gdal(copied(path, tmp_path)) == seen_by_gdal(path), path


@pytest.mark.parametrize(
    ("crs", "place", "point"),
    [
        ("EPSG:32632", NORTH_UP, "Area"),
        ("EPSG:32632", NORTH_UP, "Point"),
        ("EPSG:4326", Affine(0.3, 0, 5, 0, 0.3, 7), "Area"),  # south up
        ("EPSG:2263", Affine(0.3, 0.1, 252930.6, 0.05, -0.25, 5173152), "Point"),
        ("+proj=laea +lat_0=52", Affine(-0.3, 0, 5, 0, -0.3, 7), "Area"),
    ],
)
def test_any_transform_and_system_survives(tmp_path: Path, crs: str, place: Affine, point: str):
    path = write_tiff(tmp_path / "a.tif", PHOTO, crs=crs, transform=place, nodata=0)
    if point == "Point":
        with rasterio.open(path, "r+") as file:
            file.update_tags(AREA_OR_POINT="Point")
    result = copied(path, tmp_path)
    assert seen_by_gdal(result) == seen_by_gdal(path)
    with rasterio.open(result) as file:
        assert file.nodata is None  # it would be a class
    found = placement_of(path)
    np.testing.assert_allclose(found.transform[:6], seen_by_gdal(path)[1][:6], rtol=1e-12)
    assert found.crs == CRS.from_user_input(crs) and found.area_or_point == point


def test_ground_control_points_survive_and_make_no_transform(tmp_path: Path):
    points = [
        GroundControlPoint(r, c, 9 + c, 50 - r + c / 9, 0) for r, c in ((0, 0), (0, 30), (20, 0))
    ]
    path = write_tiff(tmp_path / "a.tif", PHOTO, gcps=points, crs="EPSG:4326")
    before = seen_by_gdal(path)
    assert len(before[3]) == 3
    assert seen_by_gdal(copied(path, tmp_path)) == before
    found = placement_of(path)
    assert (found.transform, found.pixel_area_m2()) == (None, None)
    result = copied(path, tmp_path, ".png")
    assert sorted(file.name for file in result.parent.iterdir()) == ["a.png", "a.tif"]


@pytest.mark.parametrize(
    ("crs", "metres"),
    [
        ("EPSG:27700", 1),
        ("EPSG:2263", 1200 / 3937),  # New York, US survey feet
        ("+proj=utm +zone=33 +units=km", 1000),
        ("EPSG:3857", None),  # Web Mercator
        ("EPSG:4087", None),  # Plate Carree
        ("+proj=eqc +lat_ts=50", 1),  # of a place
        ("EPSG:4326", None),
        ('LOCAL_CS["building site",UNIT["metre",1]]', None),
        (None, None),
    ],
)
def test_area_is_stated_where_it_can_be_known(crs: str | None, metres: float | None):
    system = None if crs is None else CRS.from_user_input(crs)
    found = Placement(crs=system, transform=Affine(2, 0, 9, 0, -3, 8)).pixel_area_m2()
    assert found == (None if metres is None else pytest.approx(6 * metres**2, rel=1e-6))
    turned = Placement(crs=system, transform=Affine(2, 1, 9, 1, -3, 8)).pixel_area_m2()
    assert turned == (None if metres is None else pytest.approx(7 * metres**2, rel=1e-6))
    assert Placement(crs=system).pixel_area_m2() is None


@pytest.mark.parametrize(
    ("name", "world"),
    [("a.tif", ".tifw"), ("a.tiff", ".tfw"), ("a.JPEG", ".jgw"), ("a.png", ".PGW")],
)
def test_world_files_and_prj_files_are_read(tmp_path: Path, name: str, world: str):
    path = tmp_path / name
    Image.fromarray(PHOTO).save(path)
    path.with_suffix(world).write_text(WORLD.replace("\n", "\r\n"))
    assert placement_of(path) == Placement(
        transform=Affine(0.5, 0, 100, 0, -0.5, 200), area_or_point=placement_of(path).area_or_point
    )
    assert seen_by_gdal(copied(path, tmp_path))[0] is None  # no system is invented
    path.with_suffix(".prj").write_text(CRS.from_epsg(32633).to_wkt(version="WKT1_ESRI"))
    for suffix in (".tif", ".png"):
        result = copied(path, tmp_path, suffix)
        assert seen_by_gdal(result)[1] == Affine(0.5, 0, 100, 0, -0.5, 200)
        found = placement_of(result)
        assert found.crs.to_epsg() == 32633 and found.pixel_area_m2() == 0.25
    assert result.with_suffix(".pgw").read_text() == WORLD
    assert [file for file in result.parent.iterdir() if file.suffix == ".xml"] == []


def test_a_turned_world_file_is_as_gdal_reads_it(tmp_path: Path):
    for name, world in (("a.png", "a.pgw"), ("a.webp", "a.wld")):
        Image.fromarray(PHOTO).save(tmp_path / name)
        (tmp_path / world).write_text("0.3\n0.05\n0.1\n-0.25\n1000\n2000")
    expected = seen_by_gdal(tmp_path / "a.png")[1][:6]
    assert not math.isclose(expected[2], 1000)
    np.testing.assert_allclose(placement_of(tmp_path / "a.webp").transform[:6], expected)
    for suffix in (".tif", ".png"):
        result = copied(tmp_path / "a.png", tmp_path, suffix)
        np.testing.assert_allclose(seen_by_gdal(result)[1][:6], expected, rtol=1e-12)


def test_tags_count_before_a_world_file_and_an_unknown_prj_file_is_no_system(tmp_path: Path):
    write_tiff(tmp_path / "a.tif", PHOTO, crs="EPSG:32632", transform=NORTH_UP)
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    for name, content in (("a.tfw", WORLD), ("a.pgw", WORLD), ("a.prj", "PROJCS[]")):
        (tmp_path / name).write_text(content)
    assert placement_of(tmp_path / "a.tif").transform == NORTH_UP
    assert placement_of(tmp_path / "a.png").crs is None


@pytest.mark.parametrize("numbers", ["1,2,3", "a,b,c,d,e,f", "0,0,0,0,1,1", "1,0,0,nan,1,1"])
def test_a_broken_world_file_is_named(tmp_path: Path, numbers: str):
    (tmp_path / "a.wld").write_text(numbers.replace(",", "\n"))
    for image in ("a.png", "a.tif"):
        Image.fromarray(PHOTO).save(tmp_path / image)
        sentence = rf"a\.wld is not a world file: six lines .* place the pixels of {image} are ex"
        with pytest.raises(DataError, match=sentence), open_scene(tmp_path / image):
            pass


def test_without_any_of_these_there_is_no_placement(tmp_path: Path):
    for name in ("a.png", "a.tif", "noend"):
        Image.fromarray(PHOTO).save(tmp_path / name, format="PNG" if name == "a.png" else "TIFF")
        with open_scene(tmp_path / name) as raster:
            assert raster.placement is None
    broken = Affine(1e300, 0, float("nan"), 0, -1e300, 6)
    write_tiff(tmp_path / "a.tif", PHOTO, transform=broken, crs="EPSG:32632")
    assert placement_of(tmp_path / "a.tif").transform is None


def test_the_aux_file_of_gdal_is_read_and_none_is_written(tmp_path: Path):
    write_tiff(tmp_path / "a.tif", PHOTO, transform=NORTH_UP, crs="EPSG:32632")
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.png", driver="PNG")
    assert (tmp_path / "a.png.aux.xml").is_file()
    found = placement_of(tmp_path / "a.png")
    assert (found.crs.to_epsg(), found.transform) == (32632, NORTH_UP)
    folder = copied(tmp_path / "a.png", tmp_path, ".png").parent
    assert sorted(file.name for file in folder.iterdir()) == ["a.pgw", "a.png", "a.prj"]
    shutil.rmtree(folder)
    before = sorted(tmp_path.iterdir())
    with open_scene(tmp_path / "a.tif") as raster:
        raster.read_mask(EVERYTHING, EVERYTHING)
    assert sorted(tmp_path.iterdir()) == before
