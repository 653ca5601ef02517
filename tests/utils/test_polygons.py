"""Class polygons: the same regions as GDAL's, drawn back to the same map, valid, in any strips."""

import json
from pathlib import Path

import numpy as np
import pytest
from rasterio.features import rasterize, shapes
from rasterio.transform import Affine

from utils import contours
from utils.polygons import Polygon, class_polygons, write_geojson

NAMES, PALETTE = ["Straße", "tree", "car"], [(255, 255, 255), (0, 128, 0), (1, 2, 3)]


def random_map(seed: int) -> np.ndarray:
    """Two classes, of which one has large regions with many holes, and ignored pixels."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 30, 2)
    return rng.choice(np.array([0, 1, 255], np.uint8), size, p=[0.6, 0.33, 0.07])


def cut(labels: np.ndarray, height: int) -> list[np.ndarray]:
    return [labels[top : top + height] for top in range(0, len(labels), height)]


def draw(rings: list, shape: tuple[int, int]) -> np.ndarray:
    """Which pixels a polygon covers, as GDAL sees it; a polygon may have no pixel."""
    geometry = {"type": "Polygon", "coordinates": [np.asarray(ring).tolist() for ring in rings]}
    return rasterize([geometry], out_shape=shape, fill=0, default_value=1).astype(bool)


def signed_area(ring: np.ndarray) -> float:
    (x, y), (next_x, next_y) = ring[:-1].T, ring[1:].T
    return (x * next_y - next_x * y).sum() / 2


def check_polygon(polygon: Polygon) -> None:
    """Closed rings of the right direction that turn at every corner and never touch themselves."""
    exterior, *holes = polygon.rings
    assert signed_area(exterior) > 0 and all(signed_area(hole) < 0 for hole in holes)
    assert sum(map(signed_area, polygon.rings)) == polygon.area_px
    for ring in polygon.rings:
        assert (ring[0] == ring[-1]).all()
        steps = np.diff(np.concatenate([ring, ring[1:2]]), axis=0)
        horizontal = steps[:, 1] == 0
        assert ((steps != 0).sum(axis=1) == 1).all()
        assert (horizontal[1:] != horizontal[:-1]).all()
        corners = [tuple(corner) for corner in ring[:-1].tolist()]
        assert len(set(corners)) == len(corners)


@pytest.mark.parametrize("seed", range(40))
def test_polygons_are_the_regions_of_gdal_and_draw_the_map_again(seed):
    labels = random_map(seed)
    polygons = list(class_polygons([labels]))
    drawn = np.full_like(labels, 255)
    for polygon in polygons:
        check_polygon(polygon)
        inside = draw(polygon.rings, labels.shape)
        assert inside.sum() == polygon.area_px
        assert (drawn[inside] == 255).all()
        drawn[inside] = polygon.class_index
    assert (drawn == labels).all()
    found = shapes(labels, mask=labels != 255, connectivity=4)
    expected = sorted((int(v), draw(g["coordinates"], labels.shape).tobytes()) for g, v in found)
    ours = sorted((p.class_index, draw(p.rings, labels.shape).tobytes()) for p in polygons)
    assert ours == expected


@pytest.mark.parametrize("seed", range(40, 50))
def test_the_bytes_of_the_file_do_not_depend_on_the_strips(seed, tmp_path: Path, monkeypatch):
    labels = random_map(seed)
    write_geojson([labels], tmp_path / "whole", NAMES, PALETTE)
    expected = (tmp_path / "whole").read_bytes()
    for height in (1, 2, 3, 7):
        write_geojson(cut(labels, height), tmp_path / "cut", NAMES, PALETTE)
        assert (tmp_path / "cut").read_bytes() == expected
    monkeypatch.setattr(contours, "_SLAB_PX", 2 * labels.shape[1])
    write_geojson([labels], tmp_path / "cut", NAMES, PALETTE)
    assert (tmp_path / "cut").read_bytes() == expected


def rings_of(rows: list[str], class_index: int) -> list[list[list[list[int]]]]:
    """Rings of the polygons of a class, without the corner that closes them."""
    labels = np.array([[{".": 255}.get(c) or int(c) for c in row] for row in rows], np.uint8)
    found = [p for p in class_polygons(cut(labels, 1)) if p.class_index == class_index]
    return [[ring[:-1].tolist() for ring in polygon.rings] for polygon in found]


def test_one_pixel_one_row_one_column_and_one_class():
    assert rings_of(["1"], 1) == [[[[0, 0], [1, 0], [1, 1], [0, 1]]]]
    assert rings_of(["1221"], 2) == [[[[1, 0], [3, 0], [3, 1], [1, 1]]]]
    assert rings_of(["1", "1", "."], 1) == [[[[0, 0], [1, 0], [1, 2], [0, 2]]]]
    assert rings_of(["1" * 5] * 4, 1) == [[[[0, 0], [5, 0], [5, 4], [0, 4]]]]
    assert rings_of(["..", ".."], 1) == []
    assert list(class_polygons([])) == []


def test_pixels_that_touch_in_a_corner_are_two_regions():
    assert rings_of(["1.", ".1"], 1) == [
        [[[0, 0], [1, 0], [1, 1], [0, 1]]],
        [[[1, 1], [2, 1], [2, 2], [1, 2]]],
    ]


def test_holes_that_touch_each_other_are_two_rings():
    exterior = [[0, 0], [4, 0], [4, 4], [0, 4]]
    holes = [[[1, 1], [1, 2], [2, 2], [2, 1]], [[2, 2], [2, 3], [3, 3], [3, 2]]]
    rings = rings_of(["1111", "1.11", "11.1", "1111"], 1)
    assert [[*map(sorted, polygon)] for polygon in rings] == [
        [sorted(exterior), *map(sorted, holes)]
    ]


def test_a_hole_that_touches_the_outside_is_a_ring_of_its_own():
    rings = rings_of(["111", "1.1", "11."], 1)
    assert [[*map(sorted, polygon)] for polygon in rings] == [
        [
            sorted([[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [0, 3]]),
            sorted([[1, 1], [1, 2], [2, 2], [2, 1]]),
        ]
    ]
    mirrored = rings_of(["111", "1.1", ".11"], 1)
    assert [[*map(sorted, polygon)] for polygon in mirrored] == [
        [
            sorted([[0, 0], [3, 0], [3, 3], [1, 3], [1, 2], [0, 2]]),
            sorted([[1, 1], [1, 2], [2, 2], [2, 1]]),
        ]
    ]


def test_a_region_within_a_hole_within_a_region():
    rings = rings_of(["11111", "1...1", "1.1.1", "1...1", "11111"], 1)
    assert [len(polygon) for polygon in rings] == [1, 2]


@pytest.mark.parametrize("turned", [0.0, 0.1])
def test_the_file_lies_in_the_image_s_own_coordinates(turned, tmp_path: Path):
    labels = random_map(1)
    transform = Affine(0.25, turned, 466266.6, turned, -0.25, 5234321.3)
    path = tmp_path / "a.geojson"

    def to_xy(columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = 466266.6 + 0.25 * columns + turned * rows
        return x, 5234321.3 + turned * columns - 0.25 * rows

    number = write_geojson(
        [labels],
        path,
        NAMES,
        PALETTE,
        to_xy=to_xy,
        crs="urn:ogc:def:crs:EPSG::2949",
        pixel_area_m2=0.0625,
    )
    collection = json.loads(path.read_text(encoding="utf-8"))
    assert collection["crs"]["properties"] == {"name": "urn:ogc:def:crs:EPSG::2949"}
    assert collection["type"] == "FeatureCollection" and len(collection["features"]) == number
    drawn = np.full_like(labels, 255)
    for feature in collection["features"]:
        rings, properties = feature["geometry"]["coordinates"], feature["properties"]
        areas = [signed_area(np.array(ring) - rings[0][0]) for ring in rings]
        assert areas[0] > 0 and all(area < 0 for area in areas[1:])
        geometry = [feature["geometry"]]
        inside = rasterize(geometry, out_shape=labels.shape, transform=transform).astype(bool)
        drawn[inside] = properties["class"]
        assert properties["area_px"] == inside.sum()
        assert properties["area_m2"] == inside.sum() * 0.0625
        assert properties["name"] == NAMES[properties["class"]]
        assert properties["color"] == ("#ffffff", "#008000")[properties["class"]]
    assert (drawn == labels).all()


def test_without_a_georeference_x_is_the_column_and_y_the_row(tmp_path: Path):
    path = tmp_path / "a.geojson"
    assert write_geojson([np.array([[255, 1]], np.uint8)], path, NAMES, PALETTE) == 1
    assert path.read_text() == (
        '{"type": "FeatureCollection", "features": [\n'
        '{"type": "Feature", "properties": {"class": 1, "name": "tree", "color": "#008000", '
        '"area_px": 1}, "geometry": {"type": "Polygon", "coordinates": '
        "[[[1, 0],[2, 0],[2, 1],[1, 1],[1, 0]]]}}\n]}\n"
    )
    assert write_geojson([], path, NAMES, PALETTE) == 0
    assert json.loads(path.read_text())["features"] == []


def test_small_regions_are_left_out_and_stay_holes(tmp_path: Path):
    labels = np.zeros((5, 9), np.uint8)
    labels[2, 2], labels[2, 5:7] = 1, 2
    path = tmp_path / "a.geojson"
    assert write_geojson([labels], path, NAMES, PALETTE, min_area_px=2) == 2
    features = json.loads(path.read_text())["features"]
    assert [f["properties"]["area_px"] for f in features] == [2, 42]
    assert [len(f["geometry"]["coordinates"]) for f in features] == [1, 3]


def test_an_error_in_the_middle_leaves_no_file(tmp_path: Path):
    def strips():
        yield np.zeros((3, 3), np.uint8)
        raise KeyError

    with pytest.raises(KeyError):
        write_geojson(strips(), tmp_path / "a.geojson", NAMES, PALETTE)
    assert not list(tmp_path.iterdir())


def test_what_is_kept_between_strips_is_only_what_is_open():
    """Of 12,800 regions, those of the last row."""
    tracer = contours._Tracer(64)
    row = np.arange(64, dtype=np.uint8) % 2
    for number in range(200):
        tracer.add((row if number % 2 else 1 - row)[None])
    assert len(tracer._kept) == 64 and not any(tracer._kept)
    assert len(tracer._parts) == 64
