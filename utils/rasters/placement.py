"""Georeferencing of rasters: what GDAL reads of a file, and world and .prj files beside it."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.io import DatasetReader
from rasterio.rpc import RPC
from rasterio.transform import Affine
from rasterio.warp import transform, transform_bounds

from utils.boxes import Box
from utils.errors import DataError

_SAME_PX = 0.01  # largest distance of equal corners
_MAX_COORDINATE = 1e15  # no coordinate of anything on earth; NaN is not below it either
# Their metres are true to scale at the equator only: at 50 degrees, a square metre counts as 2.4.
_MERCATOR = ("merc", "webmerc")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Georeferencing of a raster.

    Attributes:
        crs: coordinate reference system of the transform.
        transform: column, row -> x, y; whole numbers are corners of pixels.
        gcps: ground control points.
        gcps_crs: their coordinate reference system.
        rpcs: rational polynomial coefficients.
        area_or_point: GeoTIFF raster type, ``Area`` or ``Point``.
    """

    crs: CRS | None = None
    transform: Affine | None = None
    gcps: tuple[GroundControlPoint, ...] = ()
    gcps_crs: CRS | None = None
    rpcs: RPC | None = None
    area_or_point: str | None = None

    def pixel_area_m2(self) -> float | None:
        """Return the area of a pixel in square metres.

        None for longitude and latitude, for Mercator and Plate Carree, and without a coordinate
        reference system.
        """
        if self.transform is None or self.crs is None or not self.crs.is_projected:
            return None
        parameters = self.crs.to_dict()
        name = parameters.get("proj")
        if name in _MERCATOR or (name == "eqc" and not parameters.get("lat_ts")):
            return None
        _, metres = self.crs.linear_units_factor
        return abs(self.transform.determinant) * metres**2

    def world_file_text(self) -> str | None:
        """Return the content of a world file; None without a transform."""
        if self.transform is None:
            return None
        a, b, c, d, e, f = self.transform[:6]
        numbers = (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)  # of the first pixel's centre
        return "".join(f"{number!r}\n" for number in numbers)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Grid of pixels on the earth: height and width, and a placement with a transform."""

    size: tuple[int, int]
    placement: Placement

    def bounds_in(self, crs: CRS | None) -> tuple[float, float, float, float]:
        """Return left, bottom, right and top in a coordinate reference system; None: the own."""
        height, width = self.size
        assert self.placement.transform is not None
        corners = [
            self.placement.transform @ xy
            for xy in ((0, 0), (width, 0), (0, height), (width, height))
        ]
        x, y = zip(*corners, strict=True)
        bounds = min(x), min(y), max(x), max(y)
        own = self.placement.crs
        if crs is None or own is None or own == crs:
            return bounds
        return transform_bounds(own, crs, *bounds)

    def text(self, crs: CRS | None = None) -> str:
        """Return the extent for a message, in a coordinate reference system; None: the own."""
        left, bottom, right, top = self.bounds_in(crs)
        shown = crs or self.placement.crs
        system = f" ({shown.to_string()[:40]})" if shown is not None else ""
        return f"x {left:.10g} to {right:.10g}, y {bottom:.10g} to {top:.10g}{system}"


def placement_of(crs: str | None, transform: Sequence[float], box: Box) -> Placement:
    """Return the placement of a rectangle of an image.

    Args:
        crs: coordinate reference system of the image, as WKT.
        transform: of the image, the six numbers of ``Affine``.
        box: the rectangle.
    """
    corner = Affine.translation(box.left_px, box.top_px)
    known = None if crs is None else CRS.from_wkt(crs)
    return Placement(crs=known, transform=Affine(*transform) @ corner)


def grid_of(size: tuple[int, int], placement: Placement | None) -> Grid | None:
    """Return the grid of an image; None without a transform."""
    if placement is None or placement.transform is None:
        return None
    return Grid(size=size, placement=placement)


def same_grid(one: Grid, other: Grid) -> bool:
    """Return True for equal sizes, and corners within a hundredth of a pixel.

    Coordinates without a coordinate reference system are taken as those of the other grid.
    """
    a, b = one.placement, other.placement
    assert a.transform is not None and b.transform is not None
    if one.size != other.size or (a.crs and b.crs and a.crs != b.crs):
        return False
    to_pixels = ~a.transform @ b.transform
    height, width = one.size
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    moved = [(xy, to_pixels @ xy) for xy in corners]
    return all(abs(p - q) <= _SAME_PX for xy, seen in moved for p, q in zip(xy, seen, strict=True))


def covers(one: Grid, other: Grid) -> bool:
    """Return True if the extent of a grid covers that of another, but for a pixel of either."""
    crs = other.placement.crs
    left, bottom, right, top = one.bounds_in(crs)
    inner = other.bounds_in(crs)
    pixel = max(
        (right - left) / one.size[1],
        (top - bottom) / one.size[0],
        (inner[2] - inner[0]) / other.size[1],
        (inner[3] - inner[1]) / other.size[0],
    )
    return (
        left <= inner[0] + pixel
        and bottom <= inner[1] + pixel
        and right >= inner[2] - pixel
        and top >= inner[3] - pixel
    )


def read_placement(path: Path, dataset: DatasetReader | None) -> Placement | None:
    """Read the georeferencing of an image file.

    Args:
        path: the file; a world file and a .prj file are looked for beside it.
        dataset: the file as opened by GDAL; None where GDAL does not read it.

    Raises:
        DataError: the world file is broken.
    """
    found = Placement()
    if dataset is not None:
        gcps, gcps_crs = dataset.gcps
        found = Placement(
            crs=dataset.crs or None,
            transform=_sound(dataset.transform),
            gcps=tuple(gcps),
            gcps_crs=gcps_crs,
            rpcs=dataset.rpcs,
            area_or_point=dataset.tags().get("AREA_OR_POINT"),
        )
    if found.transform is None and not found.gcps and found.rpcs is None:
        # GDAL skips a broken world file without an error, and does not read those of WebP.
        found = replace(found, transform=_read_world_file(path))
    if found.transform is not None and found.crs is None:
        found = replace(found, crs=_read_projection(path))
    return None if found == Placement(area_or_point=found.area_or_point) else found


def _sound(transform: Affine) -> Affine | None:
    """Return a transform that places pixels; None for a broken one and for GDAL's default."""
    if transform.is_identity or not all(abs(number) < _MAX_COORDINATE for number in transform[:6]):
        return None
    return transform if transform.determinant else None


def _read_world_file(path: Path) -> Affine | None:
    """Read the transform of a world file: for a.tif, a.tfw, a.tifw or a.wld."""
    world = _world_file(path)
    if world is None:
        return None
    try:
        a, d, b, e, x, y = map(float, _text_of(world).split())
        transform = _sound(Affine(a, b, x - (a + b) / 2, d, e, y - (d + e) / 2))
    except ValueError:
        transform = None
    if transform is None:
        raise DataError(
            f"{world} is not a world file: six lines of numbers that place the pixels of "
            f"{path.name} are expected; correct or delete it"
        )
    return transform


def placing_files(path: Path) -> list[Path]:
    """Return the world file and the .prj file that lie beside an image."""
    return [file for file in (_world_file(path), _beside(path, [".prj"])) if file is not None]


def _world_file(path: Path) -> Path | None:
    suffix = path.suffix.lower()
    names = [f".{suffix[1:2]}{suffix[-1:]}w", f"{suffix}w", ".wld"] if len(suffix) > 1 else []
    return _beside(path, names)


def _read_projection(path: Path) -> CRS | None:
    """Read the coordinate reference system of the .prj file of an image, if GDAL knows it."""
    if (projection := _beside(path, [".prj"])) is None:
        return None
    with suppress(CRSError):
        return CRS.from_wkt(_text_of(projection), morph_from_esri_dialect=True) or None
    return None


def _beside(path: Path, suffixes: list[str]) -> Path | None:
    """Return the first file that differs from ``path`` in its suffix, lower or upper case."""
    names = (path.with_suffix(each) for suffix in suffixes for each in (suffix, suffix.upper()))
    # Unlike Path.is_file, it takes names that are longer than the system allows.
    return next((name for name in names if os.path.isfile(name)), None)  # noqa: PTH113


def _text_of(path: Path) -> str:
    return path.read_text("utf-8", errors="replace")


def transform_points(
    points: Sequence[tuple[float, float]], crs_from: str, crs_to: str
) -> list[tuple[float, float]] | None:
    """Transform x and y from one coordinate reference system to another (WKT, or ``EPSG:4326``).

    Returns:
        None where there is no way, e.g. from a local system, or a point has no coordinates there.
    """
    try:
        systems = CRS.from_string(crs_from), CRS.from_string(crs_to)
        x, y = transform(*systems, *zip(*points, strict=True))
    except Exception:  # GDAL's own, private ones
        return None
    return list(zip(x, y, strict=True)) if np.isfinite([x, y]).all() else None
