"""Transforms, coordinate systems and world files as rasterio (GDAL) reads them."""

import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine
from rasterio.control import GroundControlPoint

from tests.utils.rasters.tiff_files import read_all, write_tiff
from utils.errors import DataError
from utils.rasters.placement import Placement
from utils.rasters.georeference import read_world_file
from utils.rasters.reading import open_scene
from utils.rasters.tiff_tags import DOUBLE, SHORT, encode_directory, encode_header
from utils.rasters.writing import open_writer

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "geotiff-samples"
PICTURE = np.random.default_rng(4).integers(0, 256, (20, 30, 3)).astype(np.uint8)
NORTH_UP = Affine(0.3, 0, 252930.6, 0, -0.3, 5173152)
TURNED = Affine(0.3, 0.1, 252930.6, 0.05, -0.25, 5173152)
WORLD = "0.5\n0.0\n0.0\n-0.5\n100.25\n199.75\n"


def georeference_of(path: Path) -> Placement:
    with open_scene(path) as scene:
        assert scene.georeference is not None
        return scene.georeference


def seen_by_gdal(path: Path) -> tuple:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            ground = [(point.row, point.col, point.x, point.y, point.z) for point in file.gcps[0]]
            return file.crs, file.transform, file.shape, ground, file.gcps[1], file.tags()


def copied(path: Path, suffix: str = ".tif", channels: int = 3) -> Path:
    """The image through our reader and writer."""
    result = path.with_name(f"{path.stem}_copy{suffix}")
    with (
        open_scene(path) as scene,
        open_writer(result, scene.size, channels, scene.georeference) as writer,
    ):
        pixels = scene.read(slice(None), slice(None))
        writer.write(pixels if channels == 3 else pixels[:, :, 0])
    return result


def set_tags(path: Path, tags: dict, changes: dict) -> Path:
    """An image of one pixel with these geo tags, and the changes to them."""
    entries = {256: (4, [1]), 257: (4, [1]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1])}
    entries |= {273: (4, [8]), 277: (3, [1]), 278: (4, [1]), 279: (4, [1]), **tags, **changes}
    entries = {number: entry for number, entry in entries.items() if entry is not None}
    path.write_bytes(encode_header(10) + b"\7\0" + encode_directory(entries, 10))
    return path


@pytest.mark.parametrize("name", ["images/tile_1.tif", "images/tile_2.tif", "labels/tile_1.tif"])
def test_real_images_come_back_where_they_were(tmp_path: Path, name: str):
    if not SAMPLES.is_dir():
        pytest.skip(f"{SAMPLES} is not there")
    path = tmp_path / Path(name).name
    shutil.copy(SAMPLES / name, path)
    channels = 3 if name.startswith("images") else 1
    result = copied(path, channels=channels)
    before, after = seen_by_gdal(path), seen_by_gdal(result)
    assert before[:3] == after[:3] and before[0].to_epsg() == 2949
    with rasterio.open(path) as old, rasterio.open(result) as new:
        np.testing.assert_array_equal(old.read(), new.read())
        assert old.bounds == new.bounds
        georeference = georeference_of(path)
        assert georeference.transform() == old.transform[:6]
        assert math.isclose(georeference.pixel_area_m2(), old.res[0] * old.res[1])
        assert georeference.to_geojson_crs() == "urn:ogc:def:crs:EPSG::2949"


@pytest.mark.parametrize("point", ["Area", "Point"])
@pytest.mark.parametrize("place", [NORTH_UP, TURNED, Affine(0.3, 0, 5, 0, 0.3, 7)])
@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326", "EPSG:2263", "+proj=laea +lat_0=52"])
def test_any_transform_and_system_survives(tmp_path: Path, crs: str, place: Affine, point: str):
    path = tmp_path / "a.tif"
    write_tiff(path, PICTURE, crs=crs, transform=place)
    if point == "Point":
        with rasterio.open(path, "r+") as file:
            file.update_tags(AREA_OR_POINT="Point")
    assert seen_by_gdal(path)[5]["AREA_OR_POINT"] == point
    assert seen_by_gdal(copied(path)) == seen_by_gdal(path)
    found = georeference_of(path).transform()
    np.testing.assert_allclose(found, seen_by_gdal(path)[1][:6], rtol=1e-12)
    code = None if crs.startswith("+") else f"urn:ogc:def:crs:EPSG::{crs[5:]}"
    assert georeference_of(path).to_geojson_crs() == code


def test_tie_points_survive_and_make_no_transform(tmp_path: Path):
    path = tmp_path / "a.tif"
    points = [
        GroundControlPoint(r, c, 9 + c, 50 - r + c / 9, 0) for r, c in ((0, 0), (0, 30), (20, 0))
    ]
    write_tiff(path, PICTURE, gcps=points, crs="EPSG:4326")
    before = seen_by_gdal(path)
    assert len(before[3]) == 3
    assert seen_by_gdal(copied(path)) == before
    georeference = georeference_of(path)
    assert georeference.transform() is None and georeference.world_file_text() is None
    assert georeference.pixel_area_m2() is None
    copied(path, ".png")
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".png", ".tif", ".tif"]


def test_the_no_data_value_of_an_image_is_not_copied(tmp_path: Path):
    write_tiff(tmp_path / "a.tif", PICTURE, transform=NORTH_UP, nodata=0)
    with rasterio.open(copied(tmp_path / "a.tif")) as file:
        assert file.nodata is None and file.transform == NORTH_UP


GEO = {
    33550: (DOUBLE, [2.0, 3.0, 0.0]),
    33922: (DOUBLE, [4.0, 5.0, 0.0, 100.0, 200.0, 0.0]),
    34735: (SHORT, [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32632]),
}
MATRIX = {34264: (DOUBLE, [2.0, 1, 0, 50, 1, -3, 0, 60, *[0.0] * 7, 1.0])}
ODD = {
    "tie inside": {},
    "negative scale": {33550: (DOUBLE, [2.0, -3.0, 0.0])},
    "two scales": {33550: (DOUBLE, [2.0, 3.0])},
    "both ways": MATRIX,
    "no scale": {33550: (DOUBLE, [0.0, 3.0, 0.0]), **MATRIX},
    "matrix": {33550: None, 33922: None, **MATRIX},
    "point": {34735: (SHORT, [1, 1, 0, 1, 1025, 0, 1, 2])},
    "point matrix": {
        33550: None,
        33922: None,
        **MATRIX,
        34735: (SHORT, [1, 1, 0, 1, 1025, 0, 1, 2]),
    },
}


@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
def test_odd_tags_are_understood_as_gdal_does(tmp_path: Path, changes: dict):
    path = set_tags(tmp_path / "a.tif", GEO, changes)
    assert georeference_of(path).transform() == seen_by_gdal(path)[1][:6]


@pytest.mark.parametrize(
    "changes",
    [
        {33550: (DOUBLE, [float("nan"), 1.0, 0.0])},
        {33550: None},
        {34735: (DOUBLE, [float("nan")] * 8), 33550: None, 33922: None, 34264: (SHORT, [1] * 3)},
        {34735: (SHORT, [1, 1, 0, 9, 3076, 34736, 1, 400]), 33922: (SHORT, [1])},
    ],
)
def test_broken_tags_place_nothing(tmp_path: Path, changes: dict):
    georeference = georeference_of(set_tags(tmp_path / "a.tif", GEO, changes))
    assert georeference.transform() is None and georeference.pixel_area_m2() is None


@pytest.mark.parametrize(
    ("keys", "area"),
    [
        ({1024: 1, 3072: 32632}, 6.0),
        ({1024: 1, 3072: 32760}, 6.0),
        ({1024: 1, 3072: 25832}, 6.0),
        ({1024: 1, 3072: 26910}, 6.0),
        ({1024: 1, 3072: 2263}, None),  # New York in feet, not stated in the file
        ({1024: 1, 3072: 32661}, None),
        ({1024: 1, 3072: 2263, 3076: 9003}, 6.0 * (1200 / 3937) ** 2),
        ({1024: 1, 3072: 32767, 3076: 9002}, 6.0 * 0.3048**2),
        ({1024: 1, 3072: 32767, 3076: 9001}, 6.0),
        ({1024: 1, 3072: 32767, 3076: 9036}, None),  # kilometre
        ({1024: 1, 3072: 3857, 3076: 9001}, None),
        ({1024: 1, 3072: 32767, 3075: 7, 3076: 9001}, None),
        ({1024: 2, 2048: 4326}, None),
        ({1024: 2, 2048: 4326, 3076: 9001}, None),
        ({3072: 32632}, None),
    ],
)
def test_area_is_stated_where_it_can_be_known(tmp_path: Path, keys: dict, area: float | None):
    directory = [1, 1, 0, len(keys)]
    for key, value in keys.items():
        directory += [key, 0, 1, value]
    path = set_tags(tmp_path / "a.tif", GEO, {34735: (SHORT, directory)})
    assert georeference_of(path).pixel_area_m2() == pytest.approx(area)


def test_a_unit_of_its_own_has_its_size_in_the_file(tmp_path: Path):
    keys = [1, 1, 0, 3, 1024, 0, 1, 1, 3076, 0, 1, 32767, 3077, 34736, 1, 1]
    changes = {34735: (SHORT, keys), 34736: (DOUBLE, [9.0, 0.5])}
    path = set_tags(tmp_path / "a.tif", GEO, changes)
    assert georeference_of(path).pixel_area_m2() == 6.0 * 0.25


@pytest.mark.parametrize(
    ("name", "world"),
    [
        ("a.tif", ".tfw"),
        ("a.tif", ".tifw"),
        ("a.tiff", ".tfw"),
        ("a.jpg", ".jgw"),
        ("a.JPEG", ".jgw"),
        ("a.png", ".PGW"),
        ("a.png", ".pngw"),
        ("a.bmp", ".bpw"),
        ("a.webp", ".wld"),
    ],
)
def test_world_files_are_found_under_their_names(tmp_path: Path, name: str, world: str):
    path = tmp_path / name
    Image.fromarray(PICTURE).save(path)
    path.with_suffix(world).write_text(WORLD.replace("\n", "\r\n"))
    path.with_suffix(".prj").write_text("PROJCS[]")
    georeference = georeference_of(path)
    assert georeference.transform() == (0.5, 0, 100, 0, -0.5, 200)
    assert georeference.projection == "PROJCS[]"
    assert georeference.world_file_text() == WORLD
    assert georeference.pixel_area_m2() is None and georeference.to_geojson_crs() is None
    for suffix in (".tif", ".png"):
        result = copied(path, suffix)
        assert seen_by_gdal(result)[1] == Affine(0.5, 0, 100, 0, -0.5, 200)
        assert result.with_suffix(".prj").read_text() == "PROJCS[]"


def test_a_turned_world_file_is_as_gdal_reads_it(tmp_path: Path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text("0.3\n0.05\n0.1\n-0.25\n1000\n2000")
    expected = seen_by_gdal(tmp_path / "a.png")[1]
    np.testing.assert_allclose(georeference_of(tmp_path / "a.png").transform(), expected[:6])
    for suffix in (".tif", ".png"):
        result = copied(tmp_path / "a.png", suffix)
        np.testing.assert_allclose(seen_by_gdal(result)[1][:6], expected[:6], rtol=1e-12)


def test_tags_count_before_a_world_file_which_completes_them(tmp_path: Path):
    path = set_tags(tmp_path / "a.tif", GEO, {})
    (tmp_path / "a.tfw").write_text(WORLD)
    assert georeference_of(path).transform() == seen_by_gdal(path)[1][:6] == (2, 0, 92, 0, -3, 215)
    set_tags(path, GEO, {33550: None, 33922: None})
    placed = (0.5, 0, 100, 0, -0.5, 200)
    assert georeference_of(path).transform() == seen_by_gdal(path)[1][:6] == placed
    assert georeference_of(path).pixel_area_m2() == 0.25
    result = copied(path, channels=1)
    assert seen_by_gdal(result)[:2] == seen_by_gdal(path)[:2]
    assert result.with_suffix(".tfw").exists() is False


@pytest.mark.parametrize(
    "numbers",
    ["", "1,2,3", "1,0,0,1,5,5,7", "a,b,c,d,e,f", "0,0,0,0,1,1", "1,0,0,nan,1,1", "1 0 0 1 5 5"],
)
def test_a_broken_world_file_is_named(tmp_path: Path, numbers: str):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text(numbers.replace(",", "\n"))
    sentence = (
        r"a\.pgw is no world file: six lines of numbers that place the pixels of a\.png are "
        r"expected; mend or delete it$"
    )
    with pytest.raises(DataError, match=sentence):
        read_all(tmp_path / "a.png")


def test_without_any_of_these_there_is_none(tmp_path: Path):
    for name in ("a.png", "a.tif", "noend"):
        Image.fromarray(PICTURE).save(tmp_path / name, format="PNG" if name == "a.png" else "TIFF")
        assert read_world_file(tmp_path / name) is None
        with open_scene(tmp_path / name) as scene:
            assert scene.georeference is None


def test_what_is_placed_on_the_map_is_not_turned(tmp_path: Path):
    place = {"transform": NORTH_UP, "crs": "EPSG:32632"}
    write_tiff(tmp_path / "a.tif", PICTURE, orientation=6, **place)
    np.testing.assert_array_equal(read_all(tmp_path / "a.tif"), PICTURE)
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read().transpose(1, 2, 0), PICTURE)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif)
    assert read_all(tmp_path / "a.png").shape == (30, 20, 3)
    (tmp_path / "a.pgw").write_text(WORLD)
    np.testing.assert_array_equal(read_all(tmp_path / "a.png"), PICTURE)


@pytest.mark.parametrize(
    "matrix",
    [
        (1, 2, 0, 5, 2, 4, 0, 6, *[0.0] * 7, 1),  # pixels without an area
        (1e300, 0, 0, float("nan"), 0, -1e300, 0, 6, *[0.0] * 7, 1),
    ],
)
def test_a_matrix_that_places_nothing_is_no_transform(matrix):
    assert Placement(tags={34264: tuple(map(float, matrix))}).transform() is None
