"""Polygons of the classes of a label map as a GeoJSON file (RFC 7946).

Coordinates are longitude and latitude on WGS 84. Of an image that has a transform, but no
coordinate reference system that leads there, they are those of the image; without a transform,
x = column and y = row from the upper left corner downwards.

A map is read in strips. GDAL keeps all regions in memory, about 1 kB each; simplification takes all
corners as well.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.features import shapes
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.warp import transform

from configs.schema import IGNORE_INDEX
from utils.errors import DataError
from utils.files import atomic_path
from utils.rasters.placement import Placement
from utils.rasters.region_sums import RegionSums
from utils.rasters.simplification import simplify_borders
from utils.rasters.sources import gdal_settings

# Corners that are converted at a time: a call of PROJ costs as much as hundreds of them.
_BATCH_POINTS = 1 << 18
_LONGITUDE_LATITUDE = CRS.from_epsg(4326)
_DEGREE_DECIMALS = 9  # a tenth of a millimetre
_ROUNDING = 1e-9  # relative; of areas, so that one of 1 m2 is not smaller than 1 m2
_SIGNIFICANT_DIGITS = 15  # of other coordinates
# (N, 2) columns and rows -> (N, 2) coordinates
Locate = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class PolygonFacts:
    """Facts on the polygons of an image that a user should know.

    Attributes:
        num_written: number of polygons in the file.
        num_dropped: number of those left out because they are small.
        are_pixels: True if coordinates are columns and rows, because nothing places the image.
    """

    num_written: int
    num_dropped: int
    are_pixels: bool


@dataclass(frozen=True, kw_only=True)
class _Regions:
    """Regions of a map and their rings in pixels.

    Attributes:
        classes: ``(N,)`` int64.
        areas_px: ``(N,)`` int64.
        first: ``(N,)`` int64, flat index of the first pixel, in rows from the top.
        points: ``(P, 2)`` int64, columns and rows of corners; the first one of a ring is repeated
            at its end.
        lengths: ``(R,)`` number of points of each ring.
        is_hole: ``(R,)`` bool; the first ring of a region is no hole.
    """

    classes: np.ndarray
    areas_px: np.ndarray
    first: np.ndarray
    points: np.ndarray
    lengths: np.ndarray
    is_hole: np.ndarray

    def only(self, chosen: np.ndarray) -> "_Regions":
        """Return some regions; ``chosen`` is ``(N,)`` bool."""
        if chosen.all():
            return self
        rings = chosen[np.cumsum(~self.is_hole) - 1]
        return _Regions(
            classes=self.classes[chosen],
            areas_px=self.areas_px[chosen],
            first=self.first[chosen],
            points=self.points[np.repeat(rings, self.lengths)],
            lengths=self.lengths[rings],
            is_hole=self.is_hole[rings],
        )


def write_geojson(
    index: Path,
    size: tuple[int, int],
    path: Path,
    *,
    names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    placement: Placement | None,
    confidence: RegionSums | None = None,
    min_area: float = 0.0,
    simplify_m: float | None = None,
) -> PolygonFacts:
    """Write one feature for each 4-connected region of a class.

    Polygons follow the edges of the pixels and are valid in the sense of OGC; exterior rings are
    counter-clockwise, holes clockwise. Properties: ``class`` (index), ``name``, ``color``
    (#rrggbb), ``area_px``, ``area_m2`` where it is known, and ``confidence``, the mean of its
    pixels, 0..1.

    Args:
        index: file of ``(H, W)`` uint8 class indices without a header; 255 gives no feature.
        size: height and width of the map.
        path: file to write, atomically.
        names: of the classes.
        palette: colours of the classes, 0..255.
        placement: georeferencing of the image.
        confidence: sums of the pixels' confidence in steps of 1/255, by region.
        min_area: smaller regions are left out; in square metres where the area of a pixel is
            known, else in pixels.
        simplify_m: size in metres of what borders between regions lose, see ``simplify_borders``;
            areas remain those of the pixels.

    Raises:
        DataError: the map holds a class that has no name, a corner has no longitude, or as of
            ``check_polygons``.
    """
    pixel_m2 = None if placement is None else placement.pixel_area_m2()
    if simplify_m is None:
        batches = _batches(index, size)
    else:
        batches = _simplified(index, size, simplify_m / _pixel_size_m(path, placement))
    form = _Form(
        path=path,
        locator=_locator(path, placement, size),
        members=[_class_members(i, *c) for i, c in enumerate(zip(names, palette, strict=True))],
        pixel_m2=pixel_m2,
        confidence=confidence,
    )
    num_written = num_dropped = 0
    with atomic_path(path) as partial, partial.open("wb") as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for regions in batches:
            is_class = regions.classes != IGNORE_INDEX
            is_large = regions.areas_px * (pixel_m2 or 1) >= min_area * (1 - _ROUNDING)
            num_dropped += int((is_class & ~is_large).sum())
            for feature in form.features(regions.only(is_class & is_large)):
                file.write((b",\n" if num_written else b"\n") + feature)
                num_written += 1
        file.write(b"\n]}\n")
    return PolygonFacts(num_written, num_dropped, placement is None or placement.transform is None)


@dataclass(frozen=True, kw_only=True)
class _Form:
    """The form of features in one file.

    Attributes:
        path: the file, for errors.
        locator: see ``_locator``.
        members: properties of each class as JSON.
        pixel_m2, confidence: as in ``write_geojson``; None: not written.
    """

    path: Path
    locator: tuple[Locate, int]
    members: Sequence[str]
    pixel_m2: float | None
    confidence: RegionSums | None

    def features(self, regions: _Regions) -> Iterator[bytes]:
        """Yield the features of some regions as JSON."""
        if not len(regions.classes):
            return
        if (largest := regions.classes.max()) >= len(self.members):
            raise DataError(
                f"{self.path} cannot be written: the map holds class {largest}, but only "
                f"{len(self.members)} classes have names; give those that the map was made with"
            )
        polygons = _polygons(regions, *self.locator, self.path)
        for members, polygon in zip(self._properties(regions), polygons, strict=True):
            yield (
                b'{"type":"Feature","properties":{%s},"geometry":{"type":"Polygon",'
                b'"coordinates":[%s]}}' % (members, polygon)
            )

    def _properties(self, regions: _Regions) -> Iterator[bytes]:
        """Yield the properties of each region as JSON, without brackets."""
        means = None
        if self.confidence is not None:
            means = (self.confidence.of(regions.first) / (255 * regions.areas_px)).tolist()
        pairs = zip(regions.classes.tolist(), regions.areas_px.tolist(), strict=True)
        for number, (value, area_px) in enumerate(pairs):
            text = f'{self.members[value]},"area_px":{area_px}'
            if self.pixel_m2 is not None:
                text += f',"area_m2":{area_px * self.pixel_m2:.12g}'
            if means is not None:
                text += f',"confidence":{means[number]:.3f}'
            yield text.encode()


def _class_members(index: int, name: str, colour: tuple[int, int, int]) -> str:
    text = json.dumps(name, ensure_ascii=False)
    return f'"class":{index},"name":{text},"color":"#{bytes(colour).hex()}"'


def check_polygons(
    path: Path, size: tuple[int, int], placement: Placement | None, simplify_m: float | None
) -> None:
    """Raise ``DataError``, which names ``path``, if polygons of an image cannot be written.

    A pole lies within it, or the size of pixels, which simplification needs, is unknown.
    """
    _locator(path, placement, size)
    if simplify_m is not None:
        _pixel_size_m(path, placement)


def _pixel_size_m(path: Path, placement: Placement | None) -> float:
    """Return the side of a square of the area of a pixel, in metres."""
    pixel_m2 = None if placement is None else placement.pixel_area_m2()
    if pixel_m2 is None:
        raise DataError(
            f"{path}: polygons cannot be simplified by metres, because the image has no coordinate "
            "system in which its pixels have a size in metres; leave --simplify out, or project "
            "the image (gdalwarp)"
        )
    return math.sqrt(pixel_m2)


def _batches(
    index: Path, size: tuple[int, int], *, also_ignored: bool = False
) -> Iterator[_Regions]:
    """Yield the regions of a map, of some hundred thousand corners at a time."""
    values: list[int] = []
    regions: list[list[np.ndarray]] = []
    num_points = 0
    with _open_map(index, size) as dataset:
        for geometry, value in shapes(rasterio.band(dataset, 1), connectivity=4):
            if value == IGNORE_INDEX and not also_ignored:
                continue
            # At once: arrays take a tenth of the memory of tuples, which is slow when it is large.
            rings = [np.fromiter(chain.from_iterable(r), float) for r in geometry["coordinates"]]
            values.append(int(value))
            regions.append(rings)
            num_points += sum(map(len, rings)) // 2
            if num_points >= _BATCH_POINTS:
                yield _regions(values, regions, size[1])
                values, regions, num_points = [], [], 0
    if values:
        yield _regions(values, regions, size[1])


def _regions(values: list[int], regions: list[list[np.ndarray]], width: int) -> _Regions:
    """Collect and measure regions; a ring is ``x, y, x, y ...``."""
    rings = [ring for region in regions for ring in region]
    points = np.concatenate(rings).reshape(-1, 2).astype(np.int64)
    lengths = np.array([len(ring) // 2 for ring in rings])
    starts = np.cumsum(lengths) - lengths
    is_hole = np.array([number > 0 for region in regions for number in range(len(region))])
    areas_px = np.abs(_signed_areas(points, starts, starts + lengths))
    areas_px = np.add.reduceat(np.where(is_hole, -areas_px, areas_px), np.flatnonzero(~is_hole))
    # The leftmost of the uppermost corners is that of the first pixel.
    corners = np.minimum.reduceat(points[:, 1] * (width + 1) + points[:, 0], starts)[~is_hole]
    return _Regions(
        classes=np.array(values),
        areas_px=np.rint(areas_px).astype(np.int64),
        first=corners // (width + 1) * width + corners % (width + 1),
        points=points,
        lengths=lengths,
        is_hole=is_hole,
    )


def _simplified(index: Path, size: tuple[int, int], tolerance: float) -> Iterator[_Regions]:
    """Yield simplified regions, also those without data: borders with them are shared ones."""
    parts = [*_batches(index, size, also_ignored=True)]
    members = ("classes", "areas_px", "first", "points", "lengths", "is_hole")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in members}
    numbers = np.cumsum([0, *(len(part.classes) for part in parts)]).tolist()
    del parts
    outlines = joined["points"], joined["lengths"], joined["is_hole"]
    points, lengths, is_hole = simplify_borders(*outlines, tolerance)
    of_regions = {name: joined[name] for name in members[:3]}
    del joined, outlines
    ring_ends = np.append(np.flatnonzero(~is_hole), len(is_hole))
    point_ends = np.append(0, np.cumsum(lengths))
    for start, end in pairwise(numbers):  # in the batches that they came in
        rings = slice(ring_ends[start], ring_ends[end])
        yield _Regions(
            **{name: values[start:end] for name, values in of_regions.items()},
            points=points[point_ends[rings.start] : point_ends[rings.stop]],
            lengths=lengths[rings],
            is_hole=is_hole[rings],
        )


@contextmanager
def _open_map(path: Path, size: tuple[int, int]) -> Iterator[DatasetReader]:
    """Open a file without a header as a dataset of one band."""
    height, width = size
    description = (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">'
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
        f'<SourceFilename relativeToVRT="0">{escape(str(path.resolve()))}</SourceFilename>'
        f"<PixelOffset>1</PixelOffset><LineOffset>{width}</LineOffset>"
        "</VRTRasterBand></VRTDataset>"
    )
    with gdal_settings(GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE="ALL"):
        with rasterio.open(description) as dataset:
            yield dataset


def _polygons(regions: _Regions, locate: Locate, decimals: int, path: Path) -> Iterator[bytes]:
    """Yield each region's rings as JSON, without the outer brackets."""
    points, lengths, is_hole = regions.points, regions.lengths, regions.is_hole
    ends = np.cumsum(lengths)
    starts = ends - lengths
    # Regions meet in corners, so there are about half as many places as corners.
    keys, place = np.unique(points[:, 0] << 32 | points[:, 1], return_inverse=True)
    located = locate(np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1))
    if not np.isfinite(located).all():
        raise DataError(
            f"{path} cannot be written: the placement of the image gives pixels without longitude "
            "and latitude; leave polygons out, or correct the placement"
        )
    # Rings that run the wrong way round are reversed: their point i becomes start + end - 1 - i.
    is_wrong = (_signed_areas(located[place], starts, ends) < 0) != is_hole
    order = np.arange(len(points))
    reversed_order = np.repeat(starts + ends - 1, lengths) - order
    place = place[np.where(np.repeat(is_wrong, lengths), reversed_order, order)]
    text = _pairs(np.rint(located * 10.0**decimals).astype(np.int64), decimals)[place]
    spans = zip(starts.tolist(), ends.tolist(), strict=True)
    texts = (b"[%s]" % text[start:end].tobytes().translate(None, b" ")[1:] for start, end in spans)
    for num_rings in np.diff(np.flatnonzero(~is_hole), append=len(is_hole)).tolist():
        yield b",".join(islice(texts, num_rings))


def _pairs(units: np.ndarray, decimals: int) -> np.ndarray:
    """Format pairs of numbers as JSON lists, each after a comma: ``,[-73.5,45.25]``.

    Far faster than Python's formatting of floats.

    Args:
        units: ``(N, 2)`` int64, the numbers in units of their last decimal.
        decimals: number of digits after the point.

    Returns:
        ``(N, width)`` uint8, ASCII; blanks in it are to be removed.
    """
    rest = np.abs(units)
    num_digits = max(decimals + 1, len(str(rest.max())))
    text = np.full((len(units), 2, num_digits + 5), ord(" "), np.uint8)
    text[:, 0, :2], text[:, 0, -1], text[:, 1, -1] = [*b",["], ord(","), ord("]")
    text[:, :, 2] = np.where(units < 0, ord("-"), ord(" "))
    if decimals:
        text[:, :, -2 - decimals] = ord(".")
    for place in range(num_digits):  # from the last one
        digits = rest % 10 + ord("0")
        if place > decimals:  # no leading zeros
            digits[rest == 0] = ord(" ")
        text[:, :, -2 - place - (place >= decimals)] = digits
        rest //= 10
    return text.reshape(len(units), -1)


def _signed_areas(points: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the areas of closed rings by the shoelace formula, above zero counter-clockwise."""
    # Relative to a corner of the ring: coordinates are large, and areas may be small.
    x, y = (points - np.repeat(points[starts], ends - starts, axis=0)).T
    twice = x[:-1] * y[1:] - x[1:] * y[:-1]
    twice[ends[:-1] - 1] = 0  # from the end of a ring to the start of the next one
    return np.add.reduceat(twice, starts) / 2


def _locator(path: Path, placement: Placement | None, size: tuple[int, int]) -> tuple[Locate, int]:
    """Return the mapping of columns and rows to the coordinates of a file, and their decimals."""
    if placement is None or placement.transform is None:
        return lambda points: points, 0
    a, b, c, d, e, f = placement.transform[:6]
    crs = placement.crs
    is_projected = crs is not None and crs.is_projected

    def to_image_crs(points: np.ndarray) -> np.ndarray:
        return points @ [[a, d], [b, e]] + [c, f]

    def to_degrees(points: np.ndarray) -> np.ndarray:
        x, y = to_image_crs(points).T.tolist()  # PROJ takes lists faster than arrays
        longitude, latitude = map(np.array, transform(crs, _LONGITUDE_LATITUDE, x, y))
        if is_projected:  # no jump where an image meets the antimeridian
            longitude = (longitude - middle + 180) % 360 - 180 + middle
        return np.stack([longitude, latitude], axis=1)

    height, width = size
    frame = np.array([[x, y] for x in (0, width / 2, width) for y in (0, height / 2, height)])
    middle = 0.0
    try:
        middle = 0.0 if crs is None else float(to_degrees(frame)[4, 0])
        is_on_earth = crs is not None and np.isfinite(to_degrees(frame)).all()
    except Exception:  # GDAL's own, private ones: a building site's system, another planet's
        is_on_earth = False
    if is_on_earth:
        if is_projected and _shows_a_pole(crs, placement.transform, size):
            raise DataError(
                f"{path}: a pole lies within the image, and polygons in longitude and latitude "
                "cannot go round it; leave polygons out, or cut the image at the pole"
            )
        return to_degrees, _DEGREE_DECIMALS
    largest = int(np.abs(to_image_crs(frame)).max())
    return to_image_crs, max(0, _SIGNIFICANT_DIGITS - len(str(largest)))


def _shows_a_pole(crs: CRS, place: Affine, size: tuple[int, int]) -> bool:
    for latitude in (90.0, -90.0):
        try:
            [x], [y] = transform(_LONGITUDE_LATITUDE, crs, [0.0], [latitude])
        except Exception:  # GDAL's own, private ones: a pole is nowhere there
            continue
        column, row = ~place @ (x, y)
        # One on the border is on no way round; in a map of the whole earth it is the border.
        if _ROUNDING < column / size[1] < 1 - _ROUNDING:
            if _ROUNDING < row / size[0] < 1 - _ROUNDING:
                return True
    return False
