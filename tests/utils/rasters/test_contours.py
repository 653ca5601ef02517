"""Polygons of label maps: rasterised back, counted and measured by GDAL and scipy."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rasterio.features import rasterize, shapes
from scipy import ndimage

from tests.utils.rasters.geojson_files import (
    IGNORED,
    area_of,
    features_of,
    from_first,
    noise,
    set_block_rows,
)
from utils.rasters.contours import trace_regions


def polygons_of(path: Path, rows: list[str]) -> list[tuple[int, list]]:
    """Class and rings of a map that is drawn with digits; a dot is an ignored pixel."""
    label_map = np.array([[IGNORED if c == "." else int(c) for c in row] for row in rows], np.uint8)
    features = features_of(path, [label_map])
    check(features, label_map)
    return [
        (f["properties"]["class"], [from_first(ring) for ring in f["geometry"]["coordinates"]])
        for f in features
    ]


def check_rings(rings: list[np.ndarray]) -> None:
    """As OGC wants them: no ring meets itself, and two rings meet in a single point at most."""
    points_of_rings, passed = [], set()
    for ring in rings:
        assert (ring[0] == ring[-1]).all()
        steps = np.diff(np.concatenate([ring, ring[1:2]]), axis=0)
        assert (np.count_nonzero(steps, axis=1) == 1).all()
        assert ((steps[:-1, 0] == 0) != (steps[1:, 0] == 0)).all()  # a corner at each point
        points = []
        for start, step in zip(ring[:-1].astype(int), steps[:-1].astype(int), strict=True):
            length = np.abs(step).max()
            points += [tuple(start + step // length * i) for i in range(length)]
        assert len(set(points)) == len(points)
        edges = {frozenset(edge) for edge in zip(points, [*points[1:], points[0]], strict=True)}
        assert not edges & passed
        passed |= edges
        assert all(len(other & set(points)) <= 1 for other in points_of_rings)
        points_of_rings.append(set(points))


def check(features: list[dict], label_map: np.ndarray) -> None:
    """All that holds of the polygons of a map in pixel coordinates."""
    classes = [c for c in np.unique(label_map) if c != IGNORED]
    regions = sum(ndimage.label(label_map == c)[1] for c in classes)
    assert len(features) == regions
    for feature in features:
        rings = [np.array(ring) for ring in feature["geometry"]["coordinates"]]
        areas = [area_of(ring) for ring in rings]
        assert areas[0] > 0 and all(area < 0 for area in areas[1:])
        assert sum(areas) == feature["properties"]["area_px"]
        check_rings(rings)
    if features:
        back = rasterize(
            [(f["geometry"], f["properties"]["class"]) for f in features],
            out_shape=label_map.shape,
            fill=IGNORED,
            dtype="uint8",
        )
        assert np.array_equal(back, label_map)


@pytest.mark.parametrize("block_rows", [1, 2, 7, 64])
@pytest.mark.parametrize(
    "shares",
    [[1 / 2, 1 / 2], [0.35, 0.65], [0.6, 0.3], [1 / 3] * 3, [0.1, 0.2, 0.65], [0.25] * 4],
)
def test_polygons_of_noise_are_the_map_again(tmp_path, monkeypatch, block_rows, shares):
    set_block_rows(monkeypatch, block_rows)
    for seed in range(3):
        label_map = noise(41, 37, shares, seed)
        check(features_of(tmp_path / "a.geojson", [label_map]), label_map)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 70), (70, 3)])
@pytest.mark.parametrize("block_rows", [1, 3])
def test_polygons_of_narrow_maps(tmp_path, monkeypatch, shape, block_rows):
    set_block_rows(monkeypatch, block_rows)
    for seed in range(8):
        label_map = noise(*shape, [0.4, 0.4], seed)
        check(features_of(tmp_path / "a.geojson", [label_map]), label_map)


def test_polygons_are_those_of_gdal(tmp_path):
    rng = np.random.default_rng(3)
    smooth = [ndimage.gaussian_filter(rng.standard_normal((300, 400)), 4) for _ in range(4)]
    label_map = np.argmax(smooth, axis=0).astype(np.uint8)

    def summary(geometry: dict, value: int) -> tuple:
        rings = [np.array(ring) for ring in geometry["coordinates"]]
        low, high = rings[0].min(axis=0), rings[0].max(axis=0)
        return value, abs(sum(map(area_of, rings))), *low, *high

    ours = features_of(tmp_path / "a.geojson", [label_map])
    assert len(ours) > 100
    assert sorted(summary(f["geometry"], f["properties"]["class"]) for f in ours) == sorted(
        summary(geometry, int(value)) for geometry, value in shapes(label_map, connectivity=4)
    )


def test_one_pixel_and_a_map_of_one_class(tmp_path):
    found = polygons_of(tmp_path / "a.geojson", ["..", ".3"])
    assert found == [(3, [[[1, 1], [2, 1], [2, 2], [1, 2], [1, 1]]])]
    found = polygons_of(tmp_path / "a.geojson", ["1111"] * 3)
    assert found == [(1, [[[0, 0], [4, 0], [4, 3], [0, 3], [0, 0]]])]


def test_nothing_but_ignored_pixels_and_no_rows_at_all(tmp_path):
    assert polygons_of(tmp_path / "a.geojson", ["...."] * 3) == []
    assert features_of(tmp_path / "a.geojson", []) == []


def test_a_hole_goes_round_all_that_lies_in_it(tmp_path):
    found = polygons_of(tmp_path / "a.geojson", ["00000", "01200", "01.20", "00000"])
    assert sorted(value for value, _ in found) == [0, 1, 2, 2]
    [outer, hole] = dict(found)[0]
    assert outer == [[0, 0], [5, 0], [5, 4], [0, 4], [0, 0]]
    assert hole == [[1, 1], [1, 3], [4, 3], [4, 2], [3, 2], [3, 1], [1, 1]]


def test_a_hole_in_a_hole_belongs_to_the_region_around_it(tmp_path):
    rows = ["00000", "01110", "01010", "01110", "00000"]
    found = polygons_of(tmp_path / "a.geojson", rows)
    assert sorted((value, len(rings)) for value, rings in found) == [(0, 1), (0, 2), (1, 2)]


def test_holes_that_touch_at_a_corner_are_two(tmp_path):
    found = polygons_of(tmp_path / "a.geojson", ["0000", "0100", "0010", "0000"])
    assert dict(found)[0][1:] == [
        [[1, 1], [1, 2], [2, 2], [2, 1], [1, 1]],
        [[2, 2], [2, 3], [3, 3], [3, 2], [2, 2]],
    ]
    found = polygons_of(tmp_path / "a.geojson", ["0000", "0010", "0100", "0000"])
    assert len(dict(found)[0]) == 3


def test_a_hole_that_touches_the_outside_at_a_corner_is_a_ring_of_its_own(tmp_path):
    [(_, [outer, hole])] = polygons_of(tmp_path / "a.geojson", ["000", "0.0", "00."])
    assert outer == [[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [0, 3], [0, 0]]
    assert hole == [[1, 1], [1, 2], [2, 2], [2, 1], [1, 1]]


def test_regions_that_touch_at_a_corner_are_two(tmp_path):
    found = polygons_of(tmp_path / "a.geojson", ["01", "10"])
    assert sorted(value for value, _ in found) == [0, 0, 1, 1]


@pytest.mark.parametrize("block_rows", [1, 2, 100])
def test_a_region_is_one_though_its_parts_meet_late(tmp_path, monkeypatch, block_rows):
    set_block_rows(monkeypatch, block_rows)
    comb = ["0.0.0.0.0"] * 6 + ["000.00000", "0..0....0", "000000000"]
    assert [value for value, _ in polygons_of(tmp_path / "a.geojson", comb)] == [0]


def test_regions_come_before_the_map_ends(monkeypatch):
    set_block_rows(monkeypatch, 2)
    num_read = []

    def strips() -> Iterator[np.ndarray]:
        for number in range(50):
            num_read.append(number)
            yield np.full((2, 6), number % 2, dtype=np.uint8)

    for number, region in enumerate(trace_regions(strips())):
        assert region.value == number % 2 and region.area_px == 12
        assert len(num_read) <= number + 2
