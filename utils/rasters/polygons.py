"""Polygons of the classes of a label map as a GeoJSON file (RFC 7946)."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.features import shapes
from rasterio.io import DatasetReader
from rasterio.warp import transform

from configs.schema import IGNORE_INDEX
from utils.errors import DataError
from utils.files import atomic_path
from utils.rasters.placement import Placement
from utils.rasters.sources import gdal_settings

# Corners that are converted at a time: a call of PROJ costs as much as hundreds of them.
_BATCH_POINTS = 1 << 18
_LONGITUDE_LATITUDE = CRS.from_epsg(4326)
_DEGREE_DECIMALS = 9  # a tenth of a millimetre
_SIGNIFICANT_DIGITS = 15  # of other coordinates
# (N, 2) columns and rows -> (N, 2) coordinates
Locate = Callable[[np.ndarray], np.ndarray]


def write_geojson(
    index: Path,
    size: tuple[int, int],
    path: Path,
    *,
    names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    placement: Placement | None,
) -> None:
    """Write one feature for each 4-connected region of a class.

    Polygons follow the edges of the pixels and are valid in the sense of OGC; exterior rings are
    counter-clockwise, holes clockwise. Properties: ``class`` (index), ``name``, ``color``
    (#rrggbb), ``area_px``, and ``area_m2`` where it is known.

    Coordinates are longitude and latitude on WGS 84. Of an image that has a transform, but no
    coordinate reference system that leads there, they are those of the image; without a transform,
    x = column and y = row from the upper left corner downwards.

    The map is read in strips. GDAL keeps all regions in memory, about 1 kB each.

    Args:
        index: file of ``(H, W)`` uint8 class indices without a header; 255 is ignored and gives no
            feature.
        size: height and width of the map.
        path: file to write, atomically.
        names: of the classes.
        palette: colours of the classes, 0..255.
        placement: georeferencing of the image.

    Raises:
        DataError: the map holds a class that has no name, or a corner has no longitude.
    """
    locate, decimals = _locator(placement, size)
    pixel_m2 = None if placement is None else placement.pixel_area_m2()
    classes = [_class_members(i, *each) for i, each in enumerate(zip(names, palette, strict=True))]
    with atomic_path(path) as partial, partial.open("wb") as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        separator = b"\n"
        for values, regions in _batches(index, size):
            if max(values) >= len(classes):
                raise DataError(
                    f"{path} cannot be written: the map holds class {max(values)}, but only "
                    f"{len(classes)} classes have names; give those that the map was made with"
                )
            polygons = _polygons(regions, locate, decimals, path)
            for value, (text, area_px) in zip(values, polygons, strict=True):
                members = f'{classes[value]},"area_px":{area_px}'
                if pixel_m2 is not None:
                    members += f',"area_m2":{area_px * pixel_m2:.12g}'
                file.write(
                    b'%s{"type":"Feature","properties":{%s},"geometry":{"type":"Polygon",'
                    b'"coordinates":[%s]}}' % (separator, members.encode(), text)
                )
                separator = b",\n"
        file.write(b"\n]}\n")


def _class_members(index: int, name: str, colour: tuple[int, int, int]) -> str:
    text = json.dumps(name, ensure_ascii=False)
    return f'"class":{index},"name":{text},"color":"#{bytes(colour).hex()}"'


def _batches(
    index: Path, size: tuple[int, int]
) -> Iterator[tuple[list[int], list[list[np.ndarray]]]]:
    """Yield classes and rings of regions, of some hundred thousand corners at a time.

    A ring is ``x, y, x, y ...`` in pixels, its first corner repeated at the end.
    """
    values: list[int] = []
    regions: list[list[np.ndarray]] = []
    num_points = 0
    with _open_map(index, size) as dataset:
        for geometry, value in shapes(rasterio.band(dataset, 1), connectivity=4):
            if value == IGNORE_INDEX:
                continue
            # At once: arrays take a tenth of the memory of tuples, which is slow when it is large.
            rings = [np.fromiter(chain.from_iterable(r), float) for r in geometry["coordinates"]]
            values.append(int(value))
            regions.append(rings)
            num_points += sum(map(len, rings)) // 2
            if num_points >= _BATCH_POINTS:
                yield values, regions
                values, regions, num_points = [], [], 0
    if values:
        yield values, regions


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


def _polygons(
    regions: list[list[np.ndarray]], locate: Locate, decimals: int, path: Path
) -> Iterator[tuple[bytes, int]]:
    """Yield each region's rings as JSON, without the outer brackets, and its area in pixels."""
    rings = [ring for region in regions for ring in region]
    points = np.concatenate(rings).reshape(-1, 2).astype(np.int64)
    lengths = np.array([len(ring) // 2 for ring in rings])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    is_hole = np.array([number > 0 for region in regions for number in range(len(region))])
    areas_px = np.abs(_signed_areas(points, starts, ends))
    areas_px = np.add.reduceat(np.where(is_hole, -areas_px, areas_px), np.flatnonzero(~is_hole))
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
    for region, area_px in zip(regions, np.rint(areas_px).astype(int).tolist(), strict=True):
        yield b",".join(islice(texts, len(region))), area_px


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


def _locator(placement: Placement | None, size: tuple[int, int]) -> tuple[Locate, int]:
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
        return to_degrees, _DEGREE_DECIMALS
    largest = int(np.abs(to_image_crs(frame)).max())
    return to_image_crs, max(0, _SIGNIFICANT_DIGITS - len(str(largest)))
