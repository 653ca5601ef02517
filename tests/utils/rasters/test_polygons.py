"""What a file of polygons says beside their shape, and how it is written."""

import json
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from tests.utils.rasters.geojson_files import (
    IGNORED,
    area_of,
    features_of,
    from_first,
    noise,
    set_block_rows,
    write,
)
from utils.errors import DataError
from utils.rasters.placement import Placement

UTM_33 = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)  # GeoKeys: area, EPSG
NORTH_UP = {33550: (0.5, 0.25, 0.0), 33922: (0.0, 0.0, 0.0, 500000.0, 5173152.0, 0.0)}


@pytest.mark.parametrize("block_rows", [1, 5, 1000])
def test_heights_of_strips_do_not_change_a_byte(tmp_path, monkeypatch, block_rows):
    set_block_rows(monkeypatch, block_rows)
    label_map = noise(90, 70, [0.6, 0.3], 1)
    whole = write(tmp_path / "whole.geojson", [label_map]).read_bytes()
    for number, heights in enumerate([[1] * 90, [0, 37, 0, 52, 1], [3] * 30]):
        strips = np.split(label_map, np.cumsum(heights)[:-1])
        assert write(tmp_path / f"{number}.geojson", strips).read_bytes() == whole


def test_strips_may_be_one_array_that_is_filled_again(tmp_path):
    label_map = noise(60, 50, [0.5, 0.4], 2)

    def filled_again() -> Iterator[np.ndarray]:
        strip = np.empty((4, 50), dtype=np.uint8)
        for top in range(0, 60, 4):
            strip[:] = label_map[top : top + 4]
            yield strip

    found = write(tmp_path / "a.geojson", filled_again()).read_bytes()
    assert found == write(tmp_path / "b.geojson", [label_map]).read_bytes()


def test_properties(tmp_path):
    rows = np.array([[1, 1, 2], [3, 3, 3]], dtype=np.uint8)
    found = [feature["properties"] for feature in features_of(tmp_path / "a.geojson", [rows])]
    assert sorted(found, key=lambda each: each["class"]) == [
        {"class": 1, "name": "Gebäude", "color": "#0000ff", "area_px": 2},
        {"class": 2, "name": 'a "b"', "color": "#010203", "area_px": 1},
        {"class": 3, "name": "tree", "color": "#00a010", "area_px": 3},
    ]


def test_coordinates_of_a_georeferenced_map(tmp_path):
    georeference = Placement(tags={34735: UTM_33, **NORTH_UP})
    rows = np.array([[IGNORED] * 4, [IGNORED, 4, 4, 4], [IGNORED, 4, IGNORED, 4], [4] * 4])
    path = write(tmp_path / "a.geojson", [rows.astype(np.uint8)], georeference)
    content = json.loads(path.read_text(encoding="utf-8"))
    name = {"name": "urn:ogc:def:crs:EPSG::32633"}
    assert content["crs"] == {"type": "name", "properties": name}
    [feature] = content["features"]
    assert feature["properties"]["area_px"] == 9 and feature["properties"]["area_m2"] == 9 / 8
    outer, hole = [from_first(ring) for ring in feature["geometry"]["coordinates"]]
    north = [5173152 - 0.25 * row for row in range(5)]
    assert outer == [
        [500000, north[4]],
        [500002, north[4]],
        [500002, north[1]],
        [500000.5, north[1]],
        [500000.5, north[3]],
        [500000, north[3]],
        [500000, north[4]],
    ]
    assert hole == [
        [500001, north[3]],
        [500001, north[2]],
        [500001.5, north[2]],
        [500001.5, north[3]],
        [500001, north[3]],
    ]


@pytest.mark.parametrize(
    "world",
    [
        (0.3, 0.05, 0.1, -0.25, 1000.0, 2000.0),  # turned
        (0.3, 0.0, 0.0, 0.3, 1000.0, 2000.0),  # north is down
        (-0.3, 0.0, 0.0, 0.3, 1000.0, 2000.0),  # turned by half
        (0.0, 0.3, 0.3, 0.0, 1000.0, 2000.0),  # rows and columns exchanged
        (0.0, 0.3, -0.3, 0.0, 1000.0, 2000.0),
    ],
)
def test_any_transform_keeps_the_direction_of_rings(tmp_path, world):
    label_map = noise(30, 30, [0.6, 0.3], 4)
    placed = Placement(tags={}, world=world)
    a, b, c, d, e, f = placed.transform()
    pixels = features_of(tmp_path / "a.geojson", [label_map])
    found = features_of(tmp_path / "b.geojson", [label_map], placed)
    assert len(pixels) == len(found)
    for pixel, feature in zip(pixels, found, strict=True):
        rings = [np.array(ring) for ring in feature["geometry"]["coordinates"]]
        assert [area_of(ring - rings[0][0]) > 0 for ring in rings] == [True] + [False] * (
            len(rings) - 1
        )
        for ring, corners in zip(rings, pixel["geometry"]["coordinates"], strict=True):
            x, y = np.array(corners).T
            expected = np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)
            assert np.allclose(np.unique(ring, axis=0), np.unique(expected, axis=0), atol=1e-9)


def test_no_system_is_named_for_pixel_coordinates(tmp_path):
    rows = np.zeros((2, 2), dtype=np.uint8)
    path = write(tmp_path / "a.geojson", [rows], Placement(tags={34735: UTM_33}))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert "crs" not in content and "area_m2" not in content["features"][0]["properties"]
    assert max(content["features"][0]["geometry"]["coordinates"][0]) == [2, 2]


def test_a_class_without_a_name_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "a.geojson", [np.zeros((2, 2), dtype=np.uint8)])
    before = path.read_bytes()
    sentence = (
        "a.geojson cannot be written: the map holds class 5, but only 5 classes have names; "
        "give those that the map was made with"
    )
    with pytest.raises(DataError) as error:
        write(path, [np.full((2, 2), 5, dtype=np.uint8)])
    assert str(error.value) == f"{path.parent}/{sentence}"
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_strips_that_fail_leave_no_file(tmp_path):
    def failing() -> Iterator[np.ndarray]:
        yield np.zeros((2, 2), dtype=np.uint8)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write(tmp_path / "a.geojson", failing())
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_height(tmp_path):
    blocks = np.random.default_rng(0).integers(3, size=(20, 20))
    tile = np.kron(blocks, np.ones((25, 25))).astype(np.uint8)

    def peak(height: int) -> int:
        tracemalloc.start()
        write(tmp_path / "a.geojson", (tile for _ in range(0, height, 500)))
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(2000)  # what is imported and kept the first time
    low, high = peak(4000), peak(40000)
    assert high < 1.1 * low + (1 << 20)
    assert high < 20_000_000  # as many bytes as the map has pixels
