"""Polygons of GeoJSON files, burned on the grid of an image.

Corners are in the coordinate reference system that the file names in its ``crs`` member, and
longitude and latitude on WGS 84 without one, as RFC 7946 says. x comes before y in any system.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.warp import transform

from utils.errors import DataError
from utils.files import read_json
from utils.rasters.placement import Grid
from utils.rasters.sources import gdal_settings

POLYGON_SUFFIX = ".geojson"
OUTSIDE = -1  # what is burned where no polygon is
_NO_CRS = "CRS84"  # longitude and latitude on WGS 84
_MARGIN = 0.05  # share of an image's extent around it, within which polygons are converted
_MIN_CORNERS = 4  # of a ring, the first one repeated at the end
_NUM_LISTED = 20  # attributes in an error; the rest is counted

Bounds = tuple[float, float, float, float]  # left, bottom (or top row), right, top (or bottom row)


def is_polygons(name: str) -> bool:
    """Return True for the name of a file of polygons, by its suffix."""
    return name.lower().endswith(POLYGON_SUFFIX)


class _Shapes:
    """Polygons without their attributes, in a few arrays.

    Args:
        corners: ``(N, 2)`` float64, x and y of the rings, one ring after the other.
        ring_lengths: number of corners of every ring.
        num_rings: number of rings of every polygon, of which the first is its exterior.
    """

    def __init__(
        self, corners: np.ndarray, ring_lengths: np.ndarray, num_rings: np.ndarray
    ) -> None:
        self.corners, self._ring_lengths, self._num_rings = corners, ring_lengths, num_rings
        self._rings = np.concatenate([[0], np.cumsum(ring_lengths)])  # the first corner of each
        self._polygons = np.concatenate([[0], np.cumsum(num_rings)])  # the first ring of each
        starts = self._rings[self._polygons[:-1]]
        if len(starts):
            self._low = np.minimum.reduceat(corners, starts)
            self._high = np.maximum.reduceat(corners, starts)
        else:
            self._low = self._high = np.zeros((0, 2))

    def bounds(self) -> Bounds:
        """Return the extent of all polygons."""
        (left, bottom), (right, top) = self._low.min(axis=0), self._high.max(axis=0)
        return float(left), float(bottom), float(right), float(top)

    def meets(self, bounds: Bounds) -> np.ndarray:
        """Return for every polygon if its extent meets that one, ``(P,)`` bool."""
        left, bottom, right, top = bounds
        starts_before = (self._low <= (right, top)).all(axis=1)
        ends_after = (self._high >= (left, bottom)).all(axis=1)
        return np.logical_and(starts_before, ends_after)

    def take(self, chosen: np.ndarray) -> "_Shapes":
        """Return the polygons that are True in ``(P,)`` bool."""
        is_ring = np.repeat(chosen, self._num_rings)
        is_corner = np.repeat(is_ring, self._ring_lengths)
        lengths = self._ring_lengths[is_ring]
        return _Shapes(self.corners[is_corner], lengths, self._num_rings[chosen])

    def moved_to(self, corners: np.ndarray) -> "_Shapes":
        """Return the same polygons with other coordinates."""
        return _Shapes(corners, self._ring_lengths, self._num_rings)

    def geometry(self, polygon: int) -> dict[str, Any]:
        """Return a polygon as GeoJSON."""
        ends = self._rings[self._polygons[polygon] : self._polygons[polygon + 1] + 1].tolist()
        corners = self.corners[ends[0] : ends[-1]].tolist()
        rings = [corners[start - ends[0] : end - ends[0]] for start, end in pairwise(ends)]
        return {"type": "Polygon", "coordinates": rings}


@dataclass(frozen=True, kw_only=True, eq=False)
class Polygons:
    """Polygons of a GeoJSON file, in the order in which they are drawn.

    Attributes:
        path: the file.
        crs: coordinate reference system of the corners.
        attribute: its name.
        values: the attribute of every feature that has a polygon; None where it is missing.
        shapes: the polygons.
        features: ``(P,)`` the feature that a polygon belongs to.
    """

    path: Path
    crs: CRS
    attribute: str
    values: Sequence[Any]
    shapes: _Shapes
    features: np.ndarray

    @property
    def bounds(self) -> Bounds:
        """Return left, bottom, right and top of all polygons, one at least, in ``crs``."""
        return self.shapes.bounds()

    def text(self) -> str:
        """Return the extent for a message."""
        left, bottom, right, top = self.bounds
        extent = f"x {left:.10g} to {right:.10g}, y {bottom:.10g} to {top:.10g}"
        return f"{extent} ({self.crs.to_string()[:40]})"

    def on(self, grid: Grid | None, numbers: np.ndarray, name: str) -> "PlacedPolygons":
        """Put the polygons on the grid of an image; those far from it are not converted.

        Args:
            grid: of the image; None: it has no place on the earth.
            numbers: what to burn for every feature, 0 or more.
            name: of the image, for errors.

        Raises:
            DataError: the image is not placed, or the corners cannot be converted to its grid.
        """
        if grid is None or grid.placement.crs is None:
            lacks = "transform" if grid is None else "coordinate reference system"
            raise DataError(
                f"{name} has no {lacks}, but labels as polygons need an image that is placed on "
                "the earth; place it (gdal_edit.py, gdalwarp), or give masks as labels"
            )
        try:
            left, bottom, right, top = _with_margin(grid.bounds_in(self.crs))
            near = self.shapes.meets((left, bottom, right, top))
            shapes = self.shapes.take(near)
            shapes = shapes.moved_to(self._to_pixels(shapes.corners, grid))
        except Exception as error:  # GDAL's own, private ones
            raise DataError(
                f"{self.path} ({self.crs.to_string()[:40]}) cannot be put on {name} "
                f"({grid.placement.crs.to_string()[:40]}); convert the polygons to the coordinate "
                "reference system of the image (ogr2ogr -t_srs)"
            ) from error
        own, apart = self.bounds if len(self.values) else None, None
        if own and (own[0] > right or own[2] < left or own[1] > top or own[3] < bottom):
            apart = (
                f"{name} lies outside {self.path}: it spans {grid.text(self.crs)}, the polygons "
                f"{self.text()}"
            )
        burned = numbers[self.features[near]]
        return PlacedPolygons(polygons=self, grid=grid, shapes=shapes, numbers=burned, apart=apart)

    def _to_pixels(self, corners: np.ndarray, grid: Grid) -> np.ndarray:
        """Convert corners to columns and rows; raises an error where that is impossible."""
        x, y = corners.T
        if len(corners) and grid.placement.crs != self.crs:
            # PROJ takes lists faster than arrays.
            moved = transform(self.crs, grid.placement.crs, x.tolist(), y.tolist())
            x, y = np.array(moved[0]), np.array(moved[1])
        assert grid.placement.transform is not None
        a, b, c, d, e, f = (~grid.placement.transform)[:6]
        pixels = np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)
        if not np.isfinite(pixels).all():
            raise ValueError("a corner has no place in the other system")
        return pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedPolygons:
    """Polygons on the grid of an image.

    Attributes:
        polygons: the file that they are of.
        grid: of the image.
        shapes: those near the image, in columns and rows.
        numbers: ``(P,)`` what is burned for each of them.
        apart: a clause with both extents if the image lies outside that of all polygons.
    """

    polygons: Polygons
    grid: Grid
    shapes: _Shapes
    numbers: np.ndarray
    apart: str | None

    def burn(self, rows: slice) -> np.ndarray:
        """Draw the polygons; a pixel shows the last one in which its centre lies.

        Args:
            rows: of the image, from ``start`` up to ``stop``.

        Returns:
            ``(h, W)`` int32: the numbers of the polygons, -1 outside all of them.
        """
        burned = np.full((rows.stop - rows.start, self.grid.size[1]), OUTSIDE, np.int32)
        drawn = [
            (self.shapes.geometry(polygon), int(self.numbers[polygon]))
            for polygon in np.flatnonzero(self._meets(rows)).tolist()
        ]
        if drawn:
            rasterize(drawn, out=burned, transform=Affine.translation(0, rows.start))
        return burned

    def _meets(self, rows: slice) -> np.ndarray:
        return self.shapes.meets((0, rows.start, self.grid.size[1], rows.stop))


def read_polygons(path: Path, attribute: str) -> Polygons:
    """Read the polygons of a GeoJSON FeatureCollection, and one attribute of each.

    Empty geometries are skipped, so there may be no polygon.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is no such collection, holds other geometries as well, no
            feature has the attribute, or the coordinate reference system is unknown.
    """
    content = read_json(path)
    features = content.get("features") if isinstance(content, dict) else None
    if not isinstance(features, list) or content.get("type") != "FeatureCollection":
        raise DataError(f"{path} is no GeoJSON FeatureCollection; save it as one (ogr2ogr)")
    crs = _crs_of(content, path)
    others: Counter[str] = Counter()
    corners: list[Any] = []
    ring_lengths: list[int] = []
    num_rings: list[int] = []
    owners: list[int] = []
    properties: list[dict[str, Any]] = []
    for number, feature in enumerate(features):
        try:
            members = list(_polygons(feature["geometry"], others))
            for rings in members:
                corners += [corner[:2] for ring in rings for corner in ring]
                ring_lengths += map(len, rings)
                num_rings.append(len(rings))
                owners.append(len(properties))
            if members:
                properties.append(dict(feature.get("properties") or {}))
        except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
            raise DataError(f"{path}: features[{number}] is not valid GeoJSON") from error
    _check(path, attribute, properties, others)
    return Polygons(
        path=path,
        crs=crs,
        attribute=attribute,
        values=[each.get(attribute) for each in properties],
        shapes=_Shapes(
            _coordinates(corners, crs, path), np.array(ring_lengths, int), np.array(num_rings, int)
        ),
        features=np.array(owners, int),
    )


def _polygons(geometry: Any, others: Counter[str]) -> Iterator[list[Any]]:
    """Yield the closed rings of every polygon with an area; count other geometries by type."""
    if geometry is None:
        return
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for member in geometry["geometries"]:
            yield from _polygons(member, others)
    elif kind in ("Polygon", "MultiPolygon"):
        found = geometry["coordinates"]
        for rings in [found] if kind == "Polygon" else found:
            closed = [ring if ring[:1] == ring[-1:] else [*ring, ring[0]] for ring in rings]
            if closed and len(closed[0]) >= _MIN_CORNERS:
                yield [ring for ring in closed if len(ring) >= _MIN_CORNERS]
    else:
        others[str(kind)] += 1


def _check(
    path: Path, attribute: str, properties: Sequence[dict[str, Any]], others: Counter[str]
) -> None:
    if others:
        found = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
        raise DataError(
            f"{path} holds {others.total()} geometries that are no polygons ({found}); remove them"
        )
    if properties and not any(attribute in each for each in properties):
        names = list(Counter(name for each in properties for name in each))
        more = f" and {len(names) - _NUM_LISTED} more" if len(names) > _NUM_LISTED else ""
        known = f"they have {', '.join(names[:_NUM_LISTED])}{more}" if names else "they have none"
        raise DataError(
            f"no polygon of {path} has the attribute '{attribute}' ({known}); name one with "
            "--attribute"
        )


def _coordinates(corners: list[Any], crs: CRS, path: Path) -> np.ndarray:
    """Return ``(N, 2)`` float64 of lists of numbers, after checks."""
    try:
        found = np.array(corners, np.float64).reshape(len(corners), 2)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path} has corners that are no pairs of numbers; write it again"
        ) from error
    if not np.isfinite(found).all():
        raise DataError(f"{path} has corners that are no finite numbers; write it again")
    if crs.is_geographic and len(found) and (np.abs(found).max(axis=0) > (360, 90)).any():
        x, y = found[np.argmax((np.abs(found) / (360, 90)).max(axis=1))]
        raise DataError(
            f"{path} has the corner {x:.10g}, {y:.10g}, which is no longitude and latitude; name "
            "the coordinate reference system in its member 'crs', or convert it (ogr2ogr -t_srs "
            "EPSG:4326)"
        )
    return found


def _crs_of(content: dict[str, Any], path: Path) -> CRS:
    """Return the coordinate reference system that a GeoJSON file names."""
    named = content.get("crs", {"properties": {"name": _NO_CRS}})
    try:
        name = named["properties"]["name"]
        with gdal_settings():  # else GDAL prints its errors
            return CRS.from_user_input("OGC:CRS84" if name == _NO_CRS else name)
    except (TypeError, KeyError, CRSError) as error:
        raise DataError(
            f"{path} names an unknown coordinate reference system ({named}); convert it to "
            "longitude and latitude (ogr2ogr -t_srs EPSG:4326)"
        ) from error


def _with_margin(bounds: Bounds) -> Bounds:
    left, bottom, right, top = bounds
    if not all(map(math.isfinite, bounds)):
        raise ValueError("the image has no place in the other system")
    margin = _MARGIN * max(top - bottom, right - left)
    if left > right:  # across the antimeridian
        left, right = -math.inf, math.inf
    return left - margin, bottom - margin, right + margin, top + margin
