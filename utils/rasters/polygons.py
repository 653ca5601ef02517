"""Polygons of the classes of a label map as a GeoJSON file (RFC 7946)."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.files import atomic_path
from utils.rasters.contours import Region, trace_regions
from utils.rasters.georeference import Georeference, Transform

_PIXELS: Transform = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_PIECE = 1 << 16  # edges of a ring that are text at a time
_CACHED = 1 << 16  # coordinates whose text is kept, of x and of y
EdgeWriter = Callable[[list[int], list[int], list[int]], list[str]]


def write_geojson(
    strips: Iterable[np.ndarray],
    path: Path,
    *,
    names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    georeference: Georeference | None,
) -> None:
    """Write one feature for each group of pixels of a class that hang together by their sides.

    Polygons follow the edges of the pixels and are valid in the sense of OGC; the ring that goes
    round a region is counter-clockwise, those round its holes clockwise. Properties: ``class``
    (index), ``name``, ``color`` (#rrggbb), ``area_px``, and ``area_m2`` where that is known.

    Coordinates are those of the image: by its transform, with 15 digits, else x = column and
    y = row, from the upper left corner and downwards. Differs from RFC 7946, which wants longitude
    and latitude on WGS 84: only GDAL or PROJ could turn all the systems that there are into that.
    Instead the system is named as in GeoJSON 2008, by the member ``crs``, which GDAL and QGIS read.
    Without a transform or without an EPSG code nothing can be named, and programs take the
    coordinates for degrees until they are told otherwise.

    Features are written as they are complete; ``trace_regions`` says what is kept in memory.

    Args:
        strips: consecutive ``(h, W)`` uint8 rows of class indices, from the top down; 255 =
            ignored, which gives no feature. The file does not depend on their heights.
        path: file to write, atomically.
        names: of the classes.
        palette: colours of the classes, 0..255.
        georeference: of the image.

    Raises:
        DataError: the map holds a class that has no name.
    """
    transform = None if georeference is None else georeference.transform()
    crs, pixel_m2 = None, None
    if georeference is not None and transform is not None:
        crs, pixel_m2 = georeference.to_geojson_crs(), georeference.pixel_area_m2()
    a, b, _, d, e, _ = transform = transform or _PIXELS
    mirrored = a * e < b * d
    write_edges = _edge_writer(transform)
    classes = [_class_members(i, *each) for i, each in enumerate(zip(names, palette, strict=True))]
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{{"type":"FeatureCollection",{_crs_member(crs)}"features":[')
        separator = "\n"
        for region in trace_regions(strips):
            if region.value >= len(classes):
                raise DataError(
                    f"{path} cannot be written: the map holds class {region.value}, but only "
                    f"{len(classes)} classes have names; give those that the map was made with"
                )
            members = f'{classes[region.value]},"area_px":{region.area_px}'
            if pixel_m2 is not None:
                members += f',"area_m2":{region.area_px * pixel_m2:.12g}'
            file.write(f'{separator}{{"type":"Feature","properties":{{{members}}},')
            file.write('"geometry":{"type":"Polygon","coordinates":')
            file.writelines(_coordinates(region, write_edges, mirrored))
            file.write("}}")
            separator = ",\n"
        file.write("\n]}\n")


def _crs_member(crs: str | None) -> str:
    return "" if crs is None else f'"crs":{{"type":"name","properties":{{"name":"{crs}"}}}},'


def _class_members(index: int, name: str, colour: tuple[int, int, int]) -> str:
    text = json.dumps(name, ensure_ascii=False)
    return f'"class":{index},"name":{text},"color":"#{bytes(colour).hex()}"'


def _edge_writer(transform: Transform) -> EdgeWriter:
    """What writes the two corners of edges, given x of the first and the second, and y."""
    a, b, c, d, e, f = transform
    if b or d:

        def corner(x: int, y: int) -> str:
            return f"[{a * x + b * y + c:.15g},{d * x + e * y + f:.15g}]"

        return lambda x, x_end, y: [
            f"{corner(start, line)},{corner(end, line)}"
            for start, end, line in zip(x, x_end, y, strict=True)
        ]

    x_text = lru_cache(_CACHED)(lambda x: f"{a * x + c:.15g}")
    y_text = lru_cache(_CACHED)(lambda y: f"{e * y + f:.15g}")
    return lambda x, x_end, y: [
        f"[{start},{line}],[{end},{line}]"
        for start, end, line in zip(map(x_text, x), map(x_text, x_end), map(y_text, y), strict=True)
    ]


def _coordinates(region: Region, write_edges: EdgeWriter, mirrored: bool) -> Iterator[str]:
    """The rings of a region as text, each with its first corner at the end again."""
    before = "[["
    for part in region.rings:
        for x, y in part:
            x_end = np.concatenate([x[1:], x[:1]])
            if mirrored:
                x, x_end, y = x_end[::-1], x[::-1], y[::-1]
            for start in range(0, x.size, _PIECE):
                piece = slice(start, start + _PIECE)
                texts = write_edges(x[piece].tolist(), x_end[piece].tolist(), y[piece].tolist())
                if not start:
                    first = texts[0].partition("],")[0]
                yield before + ",".join(texts)
                before = ","
            yield f",{first}]]"
            before = ",["
    yield "]"
