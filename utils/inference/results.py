"""Result files of one image, and the temporary maps that they are written from."""

import argparse
import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from configs.schema import IGNORE_INDEX
from utils.boxes import nearest_pixels
from utils.errors import ConfigError
from utils.inference.probabilities import SCALE
from utils.rasters.polygons import PolygonFacts, check_polygons, write_geojson
from utils.rasters.qgis_style import write_style
from utils.rasters.reading import Raster
from utils.rasters.region_sums import region_sums
from utils.rasters.simplification import require_shapely
from utils.rasters.writing import BandTags, RasterWriter, open_writer
from utils.visualization.colors import Color, colorize, overlay

KINDS = ("index", "color", "overlay", "confidence", "probabilities", "polygons")
_RGB = ("color", "overlay")
_STRIP_PX = 1 << 21  # pixels painted at a time; blending takes about 60 bytes a pixel
_THUMBNAIL_PX = 360


class RowFile:
    """``(H, W)`` or ``(C, H, W)`` uint8 in a file without a header, written and read by rows.

    Several processes may write different rows. Unlike a memory map, reading and writing leave
    nothing in the memory of the process. Bands are interleaved by row.

    Args:
        path: created by the first ``write``.
        width: of a row, in pixels.
        bands: C; None: there is no such axis.
    """

    def __init__(self, path: Path, width: int, bands: int | None = None) -> None:
        self.path, self._width, self._bands = path, width, bands

    def write(self, top: int, rows: np.ndarray) -> None:
        """Write ``(rows, W)`` or ``(C, rows, W)`` uint8 from row ``top`` on.

        Of a file with bands, ``(rows, W)`` are written to every band.
        """
        if self._bands is not None:
            rows = np.broadcast_to(rows, (self._bands, *rows.shape[-2:])).swapaxes(0, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        with self.path.open("r+b") as file:
            file.seek(top * self._width * (self._bands or 1))
            file.write(rows.tobytes())

    def read(self, rows: slice) -> np.ndarray:
        """Read ``(rows, W)`` or ``(C, rows, W)`` uint8."""
        num_bytes = self._width * (self._bands or 1)  # of a row
        count, offset = (rows.stop - rows.start) * num_bytes, rows.start * num_bytes
        found = np.fromfile(self.path, np.uint8, count, offset=offset)
        if self._bands is None:
            return found.reshape(-1, self._width)
        return found.reshape(-1, self._bands, self._width).swapaxes(0, 1)


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """The results that a run writes of every image, and the names of all files of an image.

    Raises:
        ConfigError: an option of polygons has no sense, or lacks a package.
    """

    folder: Path
    kinds: tuple[str, ...]  # of ``KINDS``
    classes: tuple[str, ...]
    palette: tuple[Color, ...]  # RGB in 0..255 of each class
    min_area: float = 0.0  # of a polygon; m2 where the area of a pixel is known, else pixels
    simplify_m: float | None = None  # size of what borders of polygons lose; None: nothing

    def __post_init__(self) -> None:
        given = {"--min-area": self.min_area or None, "--simplify": self.simplify_m}
        for option, value in given.items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{option} is {value:g}; give a number above 0")
            if value is not None and "polygons" not in self.kinds:
                raise ConfigError(f"{option} acts on polygons; add them: --write polygons")
        if self.simplify_m is not None:
            require_shapely()

    def path(self, kind: str, result: Path) -> Path:
        """Return the file of one kind of result; ``result`` is that of the ``Input``.

        Probabilities are a TIFF file also of an image whose other results are PNG files.
        """
        suffix = {"polygons": ".geojson", "probabilities": ".tif"}.get(kind, result.suffix)
        return self.folder / kind / result.with_suffix(suffix)

    def files(self, result: Path) -> list[Path]:
        """Return all files that results of an image may have, of any kind, with those beside."""
        paths = [self.path(kind, result) for kind in KINDS]
        beside = [path.with_suffix(suffix) for path in paths for suffix in (".pgw", ".prj")]
        return [*paths, *beside, self.path("index", result).with_suffix(".qml")]

    def marker(self, result: Path) -> Path:
        """Return the file that marks an image as done."""
        return self.folder / "done" / f"{_key(result)}.json"

    def scratch(self, result: Path, width: int) -> dict[str, RowFile]:
        """Return the temporary maps of an image, the same on every rank.

        ``index`` holds class indices and 255 where there is no data, ``confidence`` steps of 1/255,
        ``probabilities`` the same for each class (``probabilities_of``); the values of the latter
        two do not matter where there is no data. The suffix ``.partial`` marks the files as
        unfinished.
        """
        prefix = str(self.folder / f".{_key(result)}")
        bands = {"index": None, "confidence": None, "probabilities": len(self.classes)}
        return {
            kind: RowFile(Path(f"{prefix}.{kind}.partial"), width, number)
            for kind, number in bands.items()
        }

    def remove_scratch(self, result: Path) -> None:
        """Remove the temporary maps of an image. No process may be using them."""
        for rows in self.scratch(result, 0).values():
            rows.path.unlink(missing_ok=True)


def _key(result: Path) -> str:
    """Return a hash that stands for the name of results, which may be long."""
    return hashlib.sha256(str(result).encode()).hexdigest()[:24]


def kinds_of_results(text: str) -> tuple[str, ...]:
    """Parse the argument of ``--write``, such as ``index,overlay``."""
    kinds = tuple(dict.fromkeys(text.split(",")))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise argparse.ArgumentTypeError(f"knows {', '.join(KINDS)}, not '{unknown[0]}'")
    return kinds


@dataclass(frozen=True)
class Written:
    """Facts on the results of one image.

    Attributes:
        pixels: number of pixels of each class.
        thumbnail: the overlay scaled down, ``(h, w, 3)`` uint8.
        polygons: None if none were asked for.
    """

    pixels: tuple[int, ...]
    thumbnail: np.ndarray
    polygons: PolygonFacts | None


def check_results(output: OutputSettings, scene: Raster) -> None:
    """Raise ``DataError`` if the results of an image cannot be written, before it is predicted."""
    if "polygons" in output.kinds:
        check_polygons(scene.path, scene.size, scene.placement, output.simplify_m)


def write_results(
    output: OutputSettings, result: Path, scene: Raster, maps: Mapping[str, RowFile]
) -> Written:
    """Write all results of one image, each file atomically, a strip at a time.

    Pixels without data are 255 in ``index``, black in other images, and in no polygon. TIFF files
    tell them by a no-data value or a mask.

    Args:
        output: what to write, and where.
        result: name of the image's results.
        scene: the image.
        maps: its predictions, see ``OutputSettings.scratch``; ``confidence`` is needed for
            polygons as well.

    Raises:
        ConfigError, DataError: polygons cannot be written, see ``write_geojson``.
    """
    size = scene.size
    pixels = np.zeros(256, np.int64)
    scale = min(1.0, _THUMBNAIL_PX / max(size))
    thumbnail = np.zeros((*(max(1, round(scale * side)) for side in size), 3), np.uint8)
    with ExitStack() as stack:
        writers = {
            kind: stack.enter_context(_writer(output, kind, result, scene))
            for kind in output.kinds
            if kind != "polygons"
        }
        for rows in strips_of(size):
            labels = maps["index"].read(rows)
            valid = labels != IGNORE_INDEX if scene.has_mask else None
            pixels += np.bincount(labels.ravel(), minlength=256)
            blended = overlay(scene.read_rgb(rows, slice(0, size[1])), labels, output.palette)
            strips = {"index": labels, "overlay": blended}
            if "color" in writers:
                strips["color"] = colorize(labels, output.palette)
            if "confidence" in writers:
                strips["confidence"] = maps["confidence"].read(rows)
            if "probabilities" in writers:
                strips["probabilities"] = np.moveaxis(maps["probabilities"].read(rows), 0, -1)
            for kind, strip in strips.items():
                if valid is not None and kind != "index":
                    strip[~valid] = 0
                if kind in writers:
                    writers[kind].write(strip, valid)
            _add_to_thumbnail(thumbnail, size[0], rows, blended)
    if "index" in writers:
        write_style(output.path("index", result), output.classes, output.palette)
    polygons = _write_polygons(output, result, scene, maps) if "polygons" in output.kinds else None
    return Written(tuple(pixels[: len(output.classes)].tolist()), thumbnail, polygons)


def _writer(
    output: OutputSettings, kind: str, result: Path, scene: Raster
) -> AbstractContextManager[RasterWriter]:
    """Open the file of one kind of result."""
    path = output.path(kind, result)
    if kind == "index":
        # A PNG of indices stays grey: servers that score submissions want values, not a palette.
        palette = output.palette if path.suffix == ".tif" else None
        items = {f"class_{index}": name for index, name in enumerate(output.classes)}
        tags = BandTags(names=("class",), no_data=IGNORE_INDEX, items=items)
        return open_writer(path, scene.size, 1, scene.placement, palette, tags=tags, overviews=True)
    bands, tags = 3 if kind in _RGB else 1, BandTags()
    if kind == "probabilities":
        bands, tags = len(output.classes), BandTags(names=output.classes, scale=SCALE)
    return open_writer(path, scene.size, bands, scene.placement, tags=tags, masked=scene.has_mask)


def _write_polygons(
    output: OutputSettings, result: Path, scene: Raster, maps: Mapping[str, RowFile]
) -> PolygonFacts:
    strips = ((maps["index"].read(r), maps["confidence"].read(r)) for r in strips_of(scene.size))
    return write_geojson(
        maps["index"].path,
        scene.size,
        output.path("polygons", result),
        names=output.classes,
        palette=output.palette,
        placement=scene.placement,
        confidence=region_sums(strips, scene.size[1], IGNORE_INDEX),
        min_area=output.min_area,
        simplify_m=output.simplify_m,
    )


def strips_of(size: tuple[int, int]) -> Iterator[slice]:
    """Yield the rows of an image from the top down, in strips of bounded memory."""
    num_rows = max(1, _STRIP_PX // size[1])
    for top in range(0, size[0], num_rows):
        yield slice(top, min(top + num_rows, size[0]))


def _add_to_thumbnail(thumbnail: np.ndarray, height: int, rows: slice, strip: np.ndarray) -> None:
    """Fill the rows of a thumbnail whose centres lie in a strip of the image by its means."""
    centres = nearest_pixels(height, len(thumbnail))
    inside = np.flatnonzero((centres >= rows.start) & (centres < rows.stop))
    if inside.size:
        size = thumbnail.shape[1], inside.size
        thumbnail[inside] = np.asarray(Image.fromarray(strip).resize(size, Image.Resampling.BOX))
