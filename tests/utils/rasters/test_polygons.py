"""Polygons of label maps: drawn by hand, rasterised back by rasterio, counted by scipy."""

import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.warp import transform_geom
from scipy import ndimage
from shapely import coverage_is_valid
from shapely.geometry import shape

from utils.errors import ConfigError, DataError
from utils.rasters import polygons, simplification
from utils.rasters.placement import Placement
from utils.rasters.polygons import PolygonFacts, check_polygons, write_geojson
from utils.rasters.region_sums import region_sums

IGNORED = 255
NAMES = ("road", "Gebäude", 'a "b"', "tree", "car")
PALETTE = ((255, 255, 255), (0, 0, 255), (1, 2, 3), (0, 160, 16), (255, 0, 0))
UTM_33 = CRS.from_epsg(32633)
NORTH_UP = Affine(0.5, 0, 500000, 0, -0.25, 5173152)
SITE = CRS.from_wkt('LOCAL_CS["building site",UNIT["metre",1]]')
MARS = CRS.from_wkt(
    'PROJCS["Mars",GEOGCS["Mars",DATUM["Mars",SPHEROID["Mars",3396190,169.89]],PRIMEM["R",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Equirectangular"],PARAMETER["standard_parallel_1",20],UNIT["metre",1]]'
)
SQUARE = np.zeros((2, 2), np.uint8)


def written(path: Path, label_map: np.ndarray, placement=None, **options) -> PolygonFacts:
    source = path.with_name("<map> & index.partial")
    source.write_bytes(label_map.tobytes())
    options |= {"names": NAMES, "palette": PALETTE, "placement": placement}
    try:
        return write_geojson(source, label_map.shape, path, **options)
    finally:
        source.unlink()


def features_of(path: Path, label_map: np.ndarray, placement=None, **options) -> list:
    written(path, label_map, placement, **options)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [*content] == ["type", "features"]  # RFC 7946 has done with "crs"
    return content["features"]


def drawn(*rows: str) -> np.ndarray:
    """A map drawn with digits; a dot is an ignored pixel."""
    return np.array([[IGNORED if c == "." else int(c) for c in row] for row in rows], np.uint8)


def noise(shape: tuple[int, int], fractions: list[float], seed: int) -> np.ndarray:
    """Classes with these fractions of the pixels; the rest is ignored."""
    values = np.array([*range(len(fractions)), IGNORED], dtype=np.uint8)
    chances = [*fractions, 1 - sum(fractions)]
    return np.random.default_rng(seed).choice(values, shape, p=chances)


def from_first(ring: list) -> list:
    """The same ring from its lowest point on: nothing says where a ring begins."""
    start = ring.index(min(ring))
    return [*ring[start:-1], *ring[: start + 1]]


def check(features: list[dict], label_map: np.ndarray, place: Affine, crs: CRS | None) -> None:
    """A feature a region, rings in the directions of RFC 7946, and the same map again."""
    classes = [c for c in np.unique(label_map) if c != IGNORED]
    assert len(features) == sum(ndimage.label(label_map == c)[1] for c in classes)
    shapes = []
    for feature in features:
        geometry, areas = feature["geometry"], []
        for ring in geometry["coordinates"]:
            assert ring[0] == ring[-1]
            (x, y), (x_next, y_next) = (np.array(ring) - ring[0]).T[:, :-1], np.diff(ring, axis=0).T
            areas.append(float((x * y_next - x_next * y).sum() / 2))
        assert areas[0] > 0 and all(area < 0 for area in areas[1:])  # holes are clockwise
        if crs is None:
            expected = feature["properties"]["area_px"] * abs(place.determinant)
            assert sum(areas) == pytest.approx(expected)
        else:
            geometry = transform_geom("EPSG:4326", crs, geometry)
        shapes.append((geometry, feature["properties"]["class"]))
    shape = {"out_shape": label_map.shape, "transform": place}
    back = rasterize(shapes, fill=IGNORED, dtype="uint8", **shape)
    assert np.array_equal(back, label_map)


@pytest.mark.parametrize("batch_points", [1, 40, 1 << 18])
@pytest.mark.parametrize(
    ("shape", "fractions"), [((41, 37), [0.1, 0.2, 0.65]), ((1, 50), [0.4, 0.4])]
)
def test_polygons_of_noise_are_the_map_again(tmp_path, monkeypatch, shape, fractions, batch_points):
    monkeypatch.setattr(polygons, "_BATCH_POINTS", batch_points)
    for seed in range(3):
        label_map = noise(shape, fractions, seed)
        check(features_of(tmp_path / "a", label_map), label_map, Affine.identity(), None)


@pytest.mark.parametrize(
    "place",
    [
        Affine(0.3, 0.1, 500000, 0.05, -0.25, 5173152),  # turned
        Affine(0.3, 0, 500000, 0, 0.3, 5173152),  # north is down
        Affine(0, -0.3, 500000, 0.3, 0, 5173152),  # rows and columns exchanged
    ],
)
@pytest.mark.parametrize("crs", [UTM_33, None])
def test_any_transform_keeps_the_direction_of_rings(tmp_path, crs, place):
    label_map = noise((30, 30), [0.6, 0.3], 4)
    placement = Placement(crs=crs, transform=place)
    check(features_of(tmp_path / "a", label_map, placement), label_map, place, crs)


def test_a_map_drawn_by_hand(tmp_path):
    """Regions and holes that touch at a corner are two; ignored pixels are in no polygon."""
    features = features_of(tmp_path / "a", drawn("0000.", "0100.", "0010.", "00003"))
    found = {(f["properties"]["class"], f["properties"]["area_px"]): f for f in features}
    assert len(features) == 4 and {*found} == {(0, 14), (1, 1), (3, 1)}
    outer, *holes = found[0, 14]["geometry"]["coordinates"]
    assert from_first(outer) == [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]
    assert sorted(map(from_first, holes)) == [
        [[1, 1], [1, 2], [2, 2], [2, 1], [1, 1]],
        [[2, 2], [2, 3], [3, 3], [3, 2], [2, 2]],
    ]
    assert found[1, 1]["properties"] == {
        "class": 1,
        "name": "Gebäude",
        "color": "#0000ff",
        "area_px": 1,
    }
    assert features_of(tmp_path / "a", drawn("..")) == []


def test_coordinates_are_longitude_and_latitude(tmp_path):
    """The central meridian of the zone, 15 degrees east, is its easting 500,000."""
    placement = Placement(crs=UTM_33, transform=NORTH_UP)
    [feature] = features_of(tmp_path / "a", drawn(".444", ".4.4", "4444"), placement)
    assert feature["properties"]["area_px"] == 9 and feature["properties"]["area_m2"] == 9 / 8
    for longitude, latitude in feature["geometry"]["coordinates"][0]:
        assert 15 <= longitude < 15.0001 and 46.7 < latitude < 46.8
    back = transform_geom("EPSG:4326", UTM_33, feature["geometry"])["coordinates"]
    outer, hole = [from_first(np.round(ring, 3).tolist()) for ring in back]
    east = [500000 + 0.5 * column for column in range(5)]
    north = [5173152 - 0.25 * row for row in range(4)]
    corners = [(0, 3), (4, 3), (4, 0), (1, 0), (1, 2), (0, 2), (0, 3)]
    assert outer == [[east[x], north[y]] for x, y in corners]
    corners = [(2, 2), (2, 1), (3, 1), (3, 2), (2, 2)]
    assert hole == [[east[x], north[y]] for x, y in corners]


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_numbers_are_formatted_as_python_does(decimals):
    units = np.array([[0, -1], [9, -10], [10**decimals, -(10**decimals)], [123456789012, 45]])
    text = polygons._pairs(units, decimals).tobytes().replace(b" ", b"").decode()
    numbers = [[f"{value / 10**decimals:.{decimals}f}" for value in pair] for pair in units]
    assert text == "".join(f",[{one},{other}]" for one, other in numbers)


@pytest.mark.parametrize(
    ("placement", "largest", "are_pixels"),
    [
        (None, [2, 2], True),
        (Placement(crs=UTM_33), [2, 2], True),  # control points or RPCs alone place no polygon
        (Placement(transform=NORTH_UP), [500001, 5173152], False),
        (Placement(crs=SITE, transform=NORTH_UP), [500001, 5173152], False),
        (Placement(crs=MARS, transform=NORTH_UP), [500001, 5173152], False),
    ],
)
def test_coordinates_without_a_way_to_longitude(tmp_path, placement, largest, are_pixels):
    assert written(tmp_path / "a", SQUARE, placement) == PolygonFacts(1, 0, are_pixels)
    [feature] = json.loads((tmp_path / "a").read_text())["features"]
    assert max(feature["geometry"]["coordinates"][0]) == largest
    assert ("area_m2" in feature["properties"]) == (placement is not None and placement.crs is MARS)


def test_no_polygon_goes_round_the_earth(tmp_path):
    """An image on the antimeridian, and one of the whole earth."""
    over_the_edge = Affine(400_000, 0, 800_000, 0, -1000, 10_000)
    placement = Placement(crs=CRS.from_epsg(32660), transform=over_the_edge)
    [feature] = features_of(tmp_path / "a", SQUARE, placement)
    longitudes = [x for x, _ in feature["geometry"]["coordinates"][0]]
    assert max(longitudes) - min(longitudes) < 8 and min(longitudes) < -180 < max(longitudes)
    earth = Placement(crs=CRS.from_epsg(4326), transform=Affine(180, 0, -180, 0, -90, 90))
    [feature] = features_of(tmp_path / "a", SQUARE, earth)
    [ring] = feature["geometry"]["coordinates"]
    assert from_first(ring) == [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]


ARCTIC, PLATE_CARREE = CRS.from_epsg(3995), CRS.from_epsg(4087)
HALF_EARTH_M = 20_037_508.342789244
EARTH = Affine(HALF_EARTH_M, 0, -HALF_EARTH_M, 0, -HALF_EARTH_M / 2, HALF_EARTH_M / 2)


@pytest.mark.parametrize(
    ("crs", "place", "is_written"),
    [
        (ARCTIC, Affine(1000, 0, -500, 0, -1000, 1500), False),
        (CRS.from_epsg(3031), Affine(1000, 0, -1500, 0, -1000, 500), False),
        (ARCTIC, Affine(1000, 0, 0, 0, -1000, 1000), True),  # the pole is on the border
        (ARCTIC, Affine(1000, 0, 500, 0, -1000, 1500), True),
        (PLATE_CARREE, EARTH, True),  # a pole is the border
    ],
)
def test_no_polygon_goes_round_a_pole(tmp_path, crs, place, is_written):
    placement = Placement(crs=crs, transform=place)
    if is_written:
        check_polygons(tmp_path / "a", (2, 2), placement, None)
        assert written(tmp_path / "a", SQUARE, placement).num_written == 1
        return
    for write in (written, lambda path, array, place: check_polygons(path, (2, 2), place, None)):
        with pytest.raises(DataError, match="a: a pole lies within the image, and polygons in lo"):
            write(tmp_path / "a", SQUARE, placement)
    assert [*tmp_path.iterdir()] == []


def test_a_class_without_a_name_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    features_of(path, SQUARE)
    before = path.read_bytes()
    sentence = "a cannot be written: the map holds class 5, but only 5 classes have names; give"
    with pytest.raises(DataError, match=sentence):
        features_of(path, np.full((2, 2), 5, np.uint8))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_the_map_is_not_held_in_memory(tmp_path):
    blocks = np.random.default_rng(0).integers(3, size=(40, 40), dtype=np.uint8)
    label_map = np.kron(blocks, np.ones((100, 100), np.uint8))
    source, names = tmp_path / "index", {"names": NAMES, "palette": PALETTE}
    source.write_bytes(label_map.tobytes())
    write_geojson(source, (10, 10), tmp_path / "a", placement=None, **names)
    tracemalloc.start()
    write_geojson(source, label_map.shape, tmp_path / "a", placement=None, **names)
    assert tracemalloc.get_traced_memory()[1] < label_map.nbytes / 4
    tracemalloc.stop()


@pytest.mark.parametrize("seed", range(4))
def test_confidence_is_the_mean_of_the_pixels_of_each_polygon(tmp_path, monkeypatch, seed):
    """Polygons are found by GDAL, sums by us: each polygon is burned again to take its mean."""
    monkeypatch.setattr(polygons, "_BATCH_POINTS", 40)
    label_map = noise((23, 31), [0.5, 0.3], seed)
    confidence = np.random.default_rng(seed).integers(0, 256, label_map.shape).astype(np.uint8)
    strips = ((label_map[top : top + 5], confidence[top : top + 5]) for top in range(0, 23, 5))
    sums = region_sums(strips, 31, IGNORED)
    features = features_of(tmp_path / "a", label_map, confidence=sums)
    assert len(features) > 50
    for feature in features:
        inside = rasterize([feature["geometry"]], out_shape=label_map.shape) == 1
        mean = confidence[inside].mean() / 255
        assert feature["properties"]["confidence"] == pytest.approx(mean, abs=0.00051)


@pytest.mark.parametrize(
    ("placement", "min_area", "kept"),
    [
        (None, 3.0, [9, 3]),
        (None, 3.5, [9]),
        (Placement(crs=UTM_33, transform=NORTH_UP), 0.25, [9, 3, 2]),  # m2: pixels of 1/8 m2
        (Placement(crs=UTM_33, transform=NORTH_UP), 0.26, [9, 3]),
        (Placement(crs=CRS.from_epsg(4326), transform=NORTH_UP), 3.0, [9, 3]),
    ],
)
def test_small_polygons_are_dropped_and_counted(tmp_path, placement, min_area, kept):
    """Pixels without data are no dropped polygons."""
    if placement is not None and placement.crs.is_geographic:
        placement = Placement(crs=placement.crs, transform=Affine(1e-5, 0, 15, 0, -1e-5, 46))
    label_map = drawn("00011", "000.1", "00022")
    facts = written(tmp_path / "a", label_map, placement, min_area=min_area)
    features = json.loads((tmp_path / "a").read_text(encoding="utf-8"))["features"]
    assert sorted((f["properties"]["area_px"] for f in features), reverse=True) == kept
    assert (facts.num_written, facts.num_dropped) == (len(kept), 3 - len(kept))


def blobs(size: tuple[int, int], seed: int) -> np.ndarray:
    """Rounded regions of four classes, and a corner without data."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).random(size), 2)
    label_map = np.digitize(field, np.quantile(field, [0.3, 0.5, 0.8])).astype(np.uint8)
    label_map[np.add.outer(np.arange(size[0]), 2 * np.arange(size[1])) < size[0]] = IGNORED
    return label_map


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("metres", [0.5, 1.5])
def test_simplified_polygons_share_their_borders(tmp_path, monkeypatch, seed, metres):
    """No gap, no overlap, no lost polygon; the frame and what the map says of regions stay."""
    monkeypatch.setattr(polygons, "_BATCH_POINTS", 100)
    monkeypatch.setattr(polygons, "_locator", lambda *_: (lambda points: points, 0))
    placement = Placement(crs=UTM_33, transform=Affine(0.5, 0, 500000, 0, -0.5, 5173152))
    label_map = blobs((50, 70), seed) if seed else noise((30, 20), [0.6, 0.3], 1)
    plain = features_of(tmp_path / "a", label_map, placement)
    simple = features_of(tmp_path / "b", label_map, placement, simplify_m=metres)
    assert [f["properties"] for f in simple] == [f["properties"] for f in plain]
    before, after = ([shape(f["geometry"]) for f in found] for found in (plain, simple))
    assert all(each.is_valid and each.geom_type == "Polygon" and each.area > 0 for each in after)
    assert coverage_is_valid(after)
    num_corners = [sum(len(str(f["geometry"]).split("], [")) for f in s) for s in (plain, simple)]
    assert num_corners[1] < 0.85 * num_corners[0]
    # Only borders with pixels without data may move, each corner by less than the tolerance.
    num_valid = (label_map != IGNORED).sum()
    perimeter = sum(each.length for each in before)
    assert abs(sum(each.area for each in after) - num_valid) < perimeter * metres / 0.5


def test_simplified_polygons_cover_a_whole_image_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(polygons, "_locator", lambda *_: (lambda points: points, 0))
    placement = Placement(crs=UTM_33, transform=NORTH_UP)
    label_map = blobs((40, 60), 5)
    label_map[label_map == IGNORED] = 4
    features = features_of(tmp_path / "a", label_map, placement, simplify_m=1.0)
    assert sum(shape(f["geometry"]).area for f in features) == label_map.size


@pytest.mark.parametrize("found", ["none", "old"])
def test_a_missing_or_old_shapely_is_named(monkeypatch, found):
    if found == "none":
        monkeypatch.setitem(sys.modules, "shapely", None)
        monkeypatch.setattr(simplification.importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.delattr("shapely.coverage_simplify")
    with pytest.raises(ConfigError, match=r"pip install 'shapely>=2.1', or leave --simplify out$"):
        simplification.require_shapely()


def test_the_border_of_a_collar_without_data_is_simplified_as_well(tmp_path):
    label_map = np.zeros((40, 40), np.uint8)
    label_map[np.add.outer(np.arange(40), np.arange(40)) < 30] = IGNORED
    placement = Placement(crs=UTM_33, transform=Affine(0.5, 0, 500000, 0, -0.5, 5173152))
    [plain] = features_of(tmp_path / "a", label_map, placement)
    [simple] = features_of(tmp_path / "a", label_map, placement, simplify_m=0.5)
    assert len(plain["geometry"]["coordinates"][0]) > 60
    assert len(simple["geometry"]["coordinates"][0]) < 10
