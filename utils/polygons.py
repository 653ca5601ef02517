"""Class polygons of a label map, as GeoJSON."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.contours import trace_regions
from utils.files import atomic_path
from utils.rings import cut_rings, end_columns, ring_areas, sort_rings, take_rings

ToXY = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Polygon:
    """A region of one class."""

    class_index: int
    area_px: int
    # The exterior, then the holes: (n, 2) pixel corners (column, row), the first one again at the
    # end. In these coordinates the exterior runs counter-clockwise, holes clockwise.
    rings: list[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Polygons that are complete at the same time."""

    classes: np.ndarray  # (N,)
    areas_px: np.ndarray  # (N,)
    num_rings: np.ndarray  # (N,)
    num_corners: np.ndarray  # (R,): of each ring
    corners: np.ndarray  # (sum of num_corners, 2): column, row; not closed


def class_polygons(strips: Iterable[np.ndarray]) -> Iterator[Polygon]:
    """Polygons of the regions of a label map, in the order of their last pixels.

    A region is a set of pixels of one class that hang together by their sides. Polygons follow the
    edges of its pixels; corners are where they turn. They are valid: rings do not cross, touch in
    single corners at most, and no ring touches itself.

    Args:
        strips: ``(h, W)`` uint8 class indices from the top down, of any heights; 255 = ignored.
    """
    for batch in _batches(strips, 1):
        ring_stop = np.cumsum(batch.num_rings).tolist()
        rings = np.split(batch.corners, np.cumsum(batch.num_corners)[:-1])
        rings = [np.concatenate([ring, ring[:1]]) for ring in rings]
        for polygon, stop in enumerate(ring_stop):
            yield Polygon(
                class_index=int(batch.classes[polygon]),
                area_px=int(batch.areas_px[polygon]),
                rings=rings[stop - batch.num_rings[polygon] : stop],
            )


def write_geojson(
    strips: Iterable[np.ndarray],
    path: Path,
    names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    *,
    to_xy: ToXY | None = None,
    crs: str | None = None,
    min_area_px: int = 1,
    pixel_area_m2: float | None = None,
) -> int:
    """Write the class polygons of a label map as a GeoJSON feature collection, atomically.

    One feature a line, written as soon as its region is complete. Its properties: ``class``
    (index), ``name``, ``color``, ``area_px`` and, where a pixel's is given, ``area_m2``. Exteriors
    run counter-clockwise and holes clockwise in the coordinates that are written (RFC 7946).

    Differs from RFC 7946, which wants longitude and latitude on WGS 84: coordinates are those of
    the image, because to reproject them needs PROJ (GDAL). ``crs`` names their system in the
    ``crs`` member of GeoJSON's first version of 2008, which GDAL and QGIS read.

    Memory grows with the width, and with the contours of the regions that are not complete: 8 bytes
    for every second corner. Of a class that runs through the whole image (a background), that is
    all of its contours; ``min_area_px`` makes the file smaller, not this.

    Args:
        strips: ``(h, W)`` uint8 class indices from the top down, of any heights; 255 = ignored.
        path: the file.
        names: of the classes.
        palette: RGB of each class.
        to_xy: arrays of columns and rows of pixel corners -> arrays of x and y, by an affine
            transform; None: x is the column and y the row.
        crs: name of the reference system, such as ``urn:ogc:def:crs:EPSG::2949``.
        min_area_px: smaller regions are left out; they stay holes in those around them.
        pixel_area_m2: ground area of a pixel.

    Returns:
        The number of polygons.
    """
    num_polygons = 0
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as file:
        head: dict[str, object] = {"type": "FeatureCollection"}
        if crs is not None:
            head["crs"] = {"type": "name", "properties": {"name": crs}}
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "features": [')
        heads = [_feature_head(index, names, palette) for index in range(len(names))]
        mirrored = to_xy is not None and _is_mirrored(to_xy)
        for batch in _batches(strips, min_area_px):
            rings = _ring_texts(batch, to_xy, mirrored)
            stop = 0
            for index, area, number in zip(
                batch.classes.tolist(),
                batch.areas_px.tolist(),
                batch.num_rings.tolist(),
                strict=True,
            ):
                area_m2 = "" if pixel_area_m2 is None else f', "area_m2": {area * pixel_area_m2!r}'
                file.write(
                    f'{"," if num_polygons else ""}\n{heads[index]}, "area_px": {area}{area_m2}}}, '
                    '"geometry": {"type": "Polygon", "coordinates": '
                    f"[{','.join(rings[stop : stop + number])}]}}}}"
                )
                stop += number
                num_polygons += 1
        file.write("\n]}\n")
    return num_polygons


def _feature_head(index: int, names: Sequence[str], palette: Sequence[tuple[int, int, int]]) -> str:
    """A feature up to its areas."""
    color = "#{:02x}{:02x}{:02x}".format(*palette[index])
    properties = {"class": index, "name": names[index], "color": color}
    text = json.dumps(properties, ensure_ascii=False)[:-1]
    return f'{{"type": "Feature", "properties": {text}'


def _is_mirrored(to_xy: ToXY) -> bool:
    """Whether what turns left in (column, row) turns right in (x, y), as it does north up."""
    x, y = to_xy(np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    return bool((x[1] - x[0]) * (y[2] - y[0]) < (x[2] - x[0]) * (y[1] - y[0]))


def _ring_texts(batch: _Batch, to_xy: ToXY | None, mirrored: bool) -> list[str]:
    """Every ring as JSON."""
    columns, rows = batch.corners.T
    if to_xy is None:
        x, y = columns, rows
    else:
        x, y = to_xy(columns.astype(np.float64), rows.astype(np.float64))
    texts = []
    for values in (x.tolist(), y.tolist()):
        # Most values occur often, and to write one takes ten times as long as to look it up.
        text_of = {value: repr(value) for value in set(values)}
        texts.append([text_of[value] for value in values])
    corners = [f"[{x}, {y}]" for x, y in zip(*texts, strict=True)]
    rings = []
    start = 0
    for number in batch.num_corners.tolist():
        ring = corners[start : start + number]
        ring.append(ring[0])
        if mirrored:
            ring.reverse()
        rings.append(f"[{','.join(ring)}]")
        start += number
    return rings


def _batches(strips: Iterable[np.ndarray], min_area_px: int) -> Iterator[_Batch]:
    for regions in trace_regions(strips):
        rings = sort_rings(cut_rings(regions.rings))
        num_regions = regions.classes.size
        areas_px = np.bincount(rings.owner, ring_areas(rings), num_regions).astype(np.int64)
        kept = areas_px >= min_area_px
        rings = take_rings(rings, np.flatnonzero(kept[rings.owner]))
        corners = np.repeat(rings.points, 2, axis=0)
        corners[1::2, 0] = end_columns(rings)
        yield _Batch(
            classes=regions.classes[kept],
            areas_px=areas_px[kept],
            num_rings=np.bincount(rings.owner, minlength=num_regions)[kept],
            num_corners=2 * rings.size,
            corners=corners,
        )
