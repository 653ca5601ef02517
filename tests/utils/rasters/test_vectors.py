"""Polygons on a grid, against points in polygons by hand and independent conversions."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform_geom

from utils.errors import DataError
from utils.rasters.placement import Grid, Placement
from utils.rasters.vectors import read_polygons

UTM = CRS.from_epsg(32633)
PLACE = Affine(0.5, 0, 400000, 0, -0.5, 5700000)
# In columns and rows; no centre of a pixel (at .5) lies on an edge.
TRIANGLE = [(2.2, 1.3), (37.1, 6.7), (9.6, 28.9)]
HOLE = [(10.3, 8.1), (19.8, 9.9), (12.2, 17.4)]
SQUARE = [(30.1, 20.2), (38.3, 20.2), (38.3, 27.9), (30.1, 27.9)]
SIZE = (30, 40)


def polygon(*rings: list[tuple[float, float]]) -> dict:
    """A GeoJSON geometry of rings in pixels, in the coordinates of PLACE."""
    placed = [[list(PLACE @ corner) for corner in [*ring, ring[0]]] for ring in rings]
    return {"type": "Polygon", "coordinates": placed}


def save(
    path: Path, geometries: list[dict | None], name: str | None = "EPSG:32633", **more
) -> Path:
    """A file whose features have the classes 0, 1 ..."""
    content = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "properties": {"class": i}, "geometry": geometry}
            for i, geometry in enumerate(geometries)
        ],
    }
    if name is not None:
        content["crs"] = {"type": "name", "properties": {"name": name}}
    path.write_text(json.dumps(content | more))
    return path


def burn(path: Path, placement: Placement, *windows: slice) -> np.ndarray:
    """Positions of the features, drawn in windows."""
    polygons = read_polygons(path, "class")
    grid = Grid(size=SIZE, placement=placement)
    placed = polygons.on(grid, np.arange(len(polygons.values)), "a.tif")
    return np.concatenate([placed.burn(rows) for rows in windows or [slice(0, SIZE[0])]])


def inside(*rings: list[tuple[float, float]]) -> np.ndarray:
    """Pixels whose centre lies in a polygon: a ray to the right crosses its edges an odd number."""
    found = np.zeros(SIZE, bool)
    for row, column in np.ndindex(*SIZE):
        x, y = column + 0.5, row + 0.5
        for ring in rings:
            for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
                if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
                    found[row, column] ^= True
    return found


def expected(*parts: np.ndarray) -> np.ndarray:
    """The last part that covers a pixel, -1 outside of all."""
    found = np.full(SIZE, -1)
    for number, part in enumerate(parts):
        found[part] = number
    return found


HERE = Placement(crs=UTM, transform=PLACE)


def test_a_pixel_belongs_to_the_last_polygon_around_its_centre(tmp_path: Path):
    large = [(-50, 5.2), (90, 5.2), (90, 12.4), (-50, 12.4)]
    path = save(tmp_path / "a.geojson", [polygon(TRIANGLE, HOLE), polygon(SQUARE), polygon(large)])
    found = burn(path, HERE)
    np.testing.assert_array_equal(
        found, expected(inside(TRIANGLE, HOLE), inside(SQUARE), inside(large))
    )
    assert found.dtype == np.int32
    for step in (1, 7, 29):  # windows show what the whole image shows
        windows = [slice(top, min(top + step, SIZE[0])) for top in range(0, SIZE[0], step)]
        np.testing.assert_array_equal(burn(path, HERE, *windows), found)


def test_parts_and_collections_are_one_feature(tmp_path: Path):
    shape, square = polygon(TRIANGLE, HOLE), polygon(SQUARE)
    overlap = polygon([(20.2, 15.3), (35.3, 15.3), (35.3, 25.3), (20.2, 25.3)])
    parts = [each["coordinates"] for each in (shape, square, overlap)]
    multi = {"type": "MultiPolygon", "coordinates": parts}
    empty = {"type": "Polygon", "coordinates": []}
    nested = {"type": "GeometryCollection", "geometries": [square, empty, overlap]}
    collection = {"type": "GeometryCollection", "geometries": [shape, nested]}
    one = inside(TRIANGLE, HOLE) | inside(SQUARE)
    one |= inside([(20.2, 15.3), (35.3, 15.3), (35.3, 25.3), (20.2, 25.3)])
    for geometry in (multi, collection):
        path = save(tmp_path / "a.geojson", [None, empty, geometry, None])
        assert [*read_polygons(path, "class").values] == [2]
        np.testing.assert_array_equal(burn(path, HERE), expected(one))


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (32633, "urn:ogc:def:crs:EPSG::32633"),
        (3857, "EPSG:3857"),
        (25832, "http://www.opengis.net/def/crs/EPSG/0/25832"),
        (4326, None),
        (4326, "CRS84"),
        (4326, "urn:ogc:def:crs:OGC:1.3:CRS84"),
        (4326, "urn:ogc:def:crs:EPSG::4326"),
    ],
)
def test_polygons_may_have_any_coordinate_system(tmp_path: Path, code: int, name: str | None):
    shapes = [polygon(TRIANGLE, HOLE), polygon(SQUARE)]
    moved = [transform_geom(UTM, CRS.from_epsg(code), shape) for shape in shapes]
    moved[1]["coordinates"] = [[[*corner, 7.5] for corner in moved[1]["coordinates"][0]]]  # height
    found = burn(save(tmp_path / "a.geojson", moved, name), HERE)
    np.testing.assert_array_equal(found, expected(inside(TRIANGLE, HOLE), inside(SQUARE)))


def test_an_image_may_be_rotated_and_in_degrees(tmp_path: Path):
    turned = Affine(0.3, 0.4, 400000, 0.4, -0.3, 5700000)
    ring = [list(turned @ corner) for corner in [*TRIANGLE, TRIANGLE[0]]]
    path = save(tmp_path / "a.geojson", [{"type": "Polygon", "coordinates": [ring]}])
    found = burn(path, Placement(crs=UTM, transform=turned))
    np.testing.assert_array_equal(found, expected(inside(TRIANGLE)))
    degrees = Placement(crs=CRS.from_epsg(4326), transform=Affine(1e-5, 0, 13.5, 0, -1e-5, 51.4))
    ring = [list(degrees.transform @ corner) for corner in [*TRIANGLE, TRIANGLE[0]]]
    geometry = transform_geom("EPSG:4326", UTM, {"type": "Polygon", "coordinates": [ring]})
    found = burn(save(tmp_path / "a.geojson", [geometry]), degrees)
    np.testing.assert_array_equal(found, expected(inside(TRIANGLE)))


def test_only_polygons_near_the_image_are_converted(tmp_path: Path):
    """The other side of the earth has no place in this system, and no image here needs it."""
    shape = transform_geom(UTM, "EPSG:4326", polygon(TRIANGLE))
    ring = [[105, 0], [106, 0], [106, 1], [105, 0]]
    far = {"type": "Polygon", "coordinates": [ring]}
    path = save(tmp_path / "a.geojson", [shape, far], None)
    np.testing.assert_array_equal(burn(path, HERE), expected(inside(TRIANGLE)))
    everywhere = {"type": "Polygon", "coordinates": [[[105, 0], [0, 40], [20, 60], [105, 0]]]}
    with pytest.raises(
        DataError, match=r"\(OGC:CRS84\) cannot be put on a.tif \(EPSG:32633\); con"
    ):
        burn(save(path, [everywhere], None), HERE)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is no GeoJSON FeatureCollection"),
        ({"type": "Feature"}, "is no GeoJSON FeatureCollection"),
        ({"features": [3]}, r"features\[0\] is not valid GeoJSON"),
        (
            {"crs": {"type": "name", "properties": {"name": "EPSG:1"}}},
            "names an unknown coordinate",
        ),
        ({"crs": None}, r"names an unknown coordinate reference system \(None\)"),
        ({"crs": {"type": "name", "properties": {}}}, "names an unknown coordinate reference"),
    ],
)
def test_files_that_are_no_polygons(tmp_path: Path, content: dict | str, sentence: str, capfd):
    path = tmp_path / "a.geojson"
    if isinstance(content, str):
        path.write_text(content)
    else:
        save(path, [polygon(SQUARE)], **content)
    with pytest.raises(DataError, match=sentence) as caught:
        read_polygons(path, "class")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_other_geometries_and_attributes_are_named(tmp_path: Path):
    point, line = {"type": "Point", "coordinates": [1, 2]}, {"type": "LineString"}
    path = save(tmp_path / "a.geojson", [point, polygon(SQUARE), line, point])
    with pytest.raises(DataError, match=r"holds 3 geometries .* \(2 Point, 1 LineString\); remove"):
        read_polygons(path, "class")
    with pytest.raises(DataError, match=r"has the attribute 'kind' \(they have class\); name one"):
        read_polygons(save(path, [polygon(SQUARE)]), "kind")
    for corner in ("x", None, 1e999):
        geometry = {"type": "Polygon", "coordinates": [[[0, 0], [1, corner], [2, 2], [0, 0]]]}
        with pytest.raises(DataError, match="has corners that are no "):
            read_polygons(save(path, [geometry]), "class")


def test_metres_are_not_taken_for_degrees(tmp_path: Path):
    path = save(tmp_path / "a.geojson", [polygon(SQUARE)], None)
    sentence = r"has the corner 4000\d\d\.?\d*, 56999\d\d\.?\d*, which is no longitude and latitude"
    with pytest.raises(DataError, match=sentence):
        read_polygons(path, "class")


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        (None, "a.tif has no transform, but labels as polygons need an image that is placed"),
        (Grid(size=SIZE, placement=Placement(transform=PLACE)), "a.tif has no coordinate referenc"),
    ],
)
def test_images_without_polygons_are_refused(tmp_path: Path, grid: Grid | None, sentence: str):
    polygons = read_polygons(save(tmp_path / "a.geojson", [polygon(SQUARE)]), "class")
    with pytest.raises(DataError, match=sentence):
        polygons.on(grid, np.zeros(1, int), "a.tif")


def test_an_image_apart_from_all_polygons_is_known(tmp_path: Path):
    polygons = read_polygons(save(tmp_path / "a.geojson", [polygon(SQUARE)]), "class")
    far = Grid(size=SIZE, placement=Placement(crs=UTM, transform=Affine(1, 0, 9e5, 0, -1, 57e5)))
    apart = polygons.on(far, np.zeros(1, int), "a.tif").apart or ""
    assert re.match(r"a\.tif lies outside .*: it spans x 900000 to 900040, .* x 400015", apart)
    near = Grid(size=SIZE, placement=Placement(crs=UTM, transform=PLACE))
    assert polygons.on(near, np.zeros(1, int), "a.tif").apart is None
