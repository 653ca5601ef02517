"""Where an image lies on the earth: the GeoTIFF tags and world files that say so, kept unread.

What places an image is copied to results of the same grid as it stands, so that nothing is lost in
translation; only what this code needs itself is understood: the affine transform, the unit of
projected coordinates, and the EPSG code. GeoTIFF: OGC 19-008r4. Not read: GDAL's .aux.xml files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.rasters.tiff_tags import ASCII, DOUBLE, SHORT, Entry, TiffTags

# Not 42113, GDAL_NODATA: a value of the image that means "no data" means a class in a class map.
_PIXEL_SCALE, _TIE_POINTS, _MATRIX = 33550, 33922, 34264
_KEYS, _KEY_DOUBLES, _KEY_TEXT = 34735, 34736, 34737
_TYPES = {
    _PIXEL_SCALE: DOUBLE,
    _TIE_POINTS: DOUBLE,
    _MATRIX: DOUBLE,
    _KEYS: SHORT,
    _KEY_DOUBLES: DOUBLE,
    _KEY_TEXT: ASCII,
}

_MODEL_TYPE, _RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1024, 1025, 2048, 3072
_PROJECTION, _LINEAR_UNIT, _LINEAR_UNIT_SIZE = 3075, 3076, 3077
_PIXEL_IS_POINT, _MERCATOR, _USER_DEFINED = 2, 7, 32767
_METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}  # metre, foot, US survey foot
# Projected systems of EPSG that are metres by their definition: UTM on WGS 84 north and south, on
# ETRS89 and on NAD83. Files that GDAL wrote state the unit in any case.
_METRIC = [range(32601, 32661), range(32701, 32761), range(25828, 25839), range(26901, 26924)]
# Mercator: metres at the equator only. At 50 degrees a square metre counts as 2.4.
_MERCATOR_CODES = {3857, 3785, 3395, 54004, 900913}

_FAR = 1e15  # no coordinate of anything on earth; nan is no smaller either
_MAX_TEXT_BYTES = 1 << 16
Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Georeference:
    """What places an image.

    Attributes:
        tags: raw values of the GeoTIFF tags, by number; text as bytes with its last zero.
        world: the six lines of a world file: x by column, y by column, x by row, y by row, x and y
            of the centre of the first pixel. Counts if the tags place nothing.
        projection: text of the .prj file beside it.
    """

    tags: Mapping[int, tuple[float, ...] | tuple[int, ...] | bytes]
    world: Transform | None = None
    projection: str | None = None

    def transform(self) -> Transform | None:
        """``(a, b, c, d, e, f)``: x = a column + b row + c, y = d column + e row + f.

        Whole columns and rows are corners of pixels, as in GDAL and rasterio. None, if the image is
        placed by tie points alone, or not at all.
        """
        found = self._transform_of_tags()
        if found is None and self.world is not None:
            a, d, b, e, x, y = self.world
            found = (a, b, x - (a + b) / 2, d, e, y - (d + e) / 2)
        if found is None or not all(abs(number) < _FAR for number in found):
            return None
        a, b, _, d, e, _ = found
        return None if a * e == b * d else found  # else pixels would have no area

    def pixel_area_m2(self) -> float | None:
        """Square metres that a pixel covers; None where that cannot be known.

        Known is it for projected systems whose unit is metres or feet: stated in the file
        (ProjLinearUnits), or a UTM zone by its EPSG code. Not for longitude and latitude, not for
        Mercator, whose metres are true at the equator only, and not for a world file alone.
        """
        transform, metres = self.transform(), self._metres_per_unit()
        if transform is None or metres is None:
            return None
        a, b, _, d, e, _ = transform
        return abs(a * e - b * d) * metres**2

    def to_geojson_crs(self) -> str | None:
        """Name of the coordinate system as GeoJSON gives it, if it has an EPSG code."""
        code = self._epsg()
        return None if code is None else f"urn:ogc:def:crs:EPSG::{code}"

    def world_file_text(self) -> str | None:
        """Content of a world file for the same grid; None without a transform."""
        transform = self.transform()
        if transform is None:
            return None
        a, b, c, d, e, f = transform
        numbers = (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)
        return "".join(f"{number!r}\n" for number in numbers)

    def entries(self) -> dict[int, Entry]:
        """The tags for a TIFF file of the same grid; a world file becomes tags."""
        entries: dict[int, Entry] = {number: (_TYPES[number], v) for number, v in self.tags.items()}
        transform = self.transform()
        if transform is not None and self._transform_of_tags() is None:
            a, b, c, d, e, f = transform
            if self._key(_RASTER_TYPE) == _PIXEL_IS_POINT:
                c, f = c + (a + b) / 2, f + (d + e) / 2
            entries = {n: entry for n, entry in entries.items() if n not in _PLACING}
            if a > 0 > e and b == d == 0:
                entries[_PIXEL_SCALE] = (DOUBLE, [a, -e, 0.0])
                entries[_TIE_POINTS] = (DOUBLE, [0.0, 0.0, 0.0, c, f, 0.0])
            else:
                entries[_MATRIX] = (DOUBLE, [a, b, 0.0, c, d, e, 0.0, f, *[0.0] * 7, 1.0])
            entries.setdefault(_KEYS, (SHORT, [1, 1, 0, 1, _RASTER_TYPE, 0, 1, 1]))
        return entries

    def _transform_of_tags(self) -> Transform | None:
        """What the tags say; like GDAL, scale and tie point before the matrix, rows downwards."""
        scale, ties, matrix = (_floats(self.tags.get(number, ())) for number in _PLACING)
        found: Transform
        if len(scale) >= 2 and scale[0] and scale[1] and len(ties) >= 6:
            a, e = scale[0], -abs(scale[1])
            found = (a, 0.0, ties[3] - ties[0] * a, 0.0, e, ties[4] - ties[1] * e)
        elif len(matrix) == 16:
            found = (matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7])
        else:
            return None
        if self._key(_RASTER_TYPE) == _PIXEL_IS_POINT:
            a, b, c, d, e, f = found
            found = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
        return found

    def _metres_per_unit(self) -> float | None:
        code = self._epsg()
        if self._key(_MODEL_TYPE) != 1 or self._key(_PROJECTION) == _MERCATOR:
            return None
        if code in _MERCATOR_CODES:
            return None
        unit = self._key(_LINEAR_UNIT)
        if unit == _USER_DEFINED:
            size = self._key(_LINEAR_UNIT_SIZE)
            return size if size is not None and math.isfinite(size) and size > 0 else None
        if unit is not None:
            return _METRES.get(int(unit))
        return 1.0 if any(code in codes for codes in _METRIC) else None

    def _epsg(self) -> int | None:
        code = self._key({1: _PROJECTED, 2: _GEOGRAPHIC}.get(int(self._key(_MODEL_TYPE) or 0), 0))
        return int(code) if code is not None and 1024 <= code < _USER_DEFINED else None

    def _key(self, number: int) -> float | None:
        """Value of a GeoKey that is a number; None, if it is absent or broken."""
        values = _floats(self.tags.get(_KEYS, ()))
        for at in range(4, len(values) - 3, 4):
            key, place, _, value = map(int, values[at : at + 4])
            if key == number and place == 0:
                return value
            if key == number and place == _KEY_DOUBLES:
                doubles = _floats(self.tags.get(_KEY_DOUBLES, ()))
                return doubles[value] if value < len(doubles) else None
        return None


_PLACING = (_PIXEL_SCALE, _TIE_POINTS, _MATRIX)


def _floats(values: Sequence[float] | bytes) -> list[float]:
    return [] if isinstance(values, bytes) else [float(value) for value in values]


def read_georeference(path: Path, tags: TiffTags | None) -> Georeference | None:
    """What places an image: its own tags (of a TIFF file), else a world file beside it.

    Raises:
        DataError: one of them is broken.
    """
    found: dict[int, tuple[float, ...] | tuple[int, ...] | bytes] = {}
    for number, kind in _TYPES.items():
        values = tags.array(number) if tags is not None else np.zeros(0)
        if values.size and (kind == DOUBLE or values.dtype.kind == "u"):
            found[number] = _plain(values, kind)
    if any(number in found for number in _PLACING):
        return Georeference(tags=found)
    world = read_world_file(path)
    if world is None:
        return Georeference(tags=found) if found else None
    return Georeference(tags=found, world=world.world, projection=world.projection)


def _plain(values: np.ndarray, kind: int) -> tuple[float, ...] | tuple[int, ...] | bytes:
    if kind == ASCII:
        return values.astype(np.uint8).tobytes()
    if kind == SHORT:
        return tuple(int(value) & 0xFFFF for value in values)
    return tuple(float(value) for value in values)


def read_world_file(path: Path) -> Georeference | None:
    """The world file of an image and the .prj file that goes with it; None, if there is none.

    For ``a.tif`` it is called a.tfw, a.tifw or a.wld, in lower or upper case.

    Raises:
        DataError: it does not hold six numbers that place pixels side by side.
    """
    suffix = path.suffix.lower()
    names = [f".{suffix[1:2]}{suffix[-1:]}w", f"{suffix}w", ".wld"] if len(suffix) > 1 else []
    found = _beside(path, names)
    if found is None:
        return None
    try:
        numbers = [float(line) for line in _read_text(found).splitlines() if line.strip()]
        a, d, b, e, x, y = numbers
        sound = all(map(math.isfinite, numbers)) and a * e != b * d
    except ValueError:
        sound = False
    if not sound:
        raise DataError(
            f"{found} is no world file: six lines of numbers that place the pixels of {path.name} "
            "are expected; mend or delete it"
        )
    projection = _beside(path, [".prj"])
    return Georeference(
        tags={},
        world=(a, d, b, e, x, y),
        projection=None if projection is None else _read_text(projection),
    )


def _beside(path: Path, suffixes: list[str]) -> Path | None:
    """The first file that is called like ``path`` but for its suffix."""
    for suffix in suffixes:
        for cased in (suffix, suffix.upper()):
            candidate = path.with_suffix(cased)
            try:
                if candidate.is_file():
                    return candidate
            except OSError:  # a longer name than the system allows belongs to no file
                continue
    return None


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MAX_TEXT_BYTES).decode("utf-8", errors="replace")
