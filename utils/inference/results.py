"""Result files of one image: label map, colours, overlay, confidence and polygons."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from utils.boxes import nearest_pixels
from utils.inference.scratch import ScratchMaps
from utils.rasters.polygons import write_geojson
from utils.rasters.reading import Raster
from utils.rasters.writing import RasterWriter, open_writer
from utils.visualization.colors import Color, colorize, overlay

_CHANNELS = {"index": 1, "color": 3, "overlay": 3, "confidence": 1}  # of the images written
KINDS = (*_CHANNELS, "polygons")
_STRIP_PX = 1 << 21  # pixels painted at a time; blending takes about 60 bytes a pixel
_THUMBNAIL_PX = 360


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """The results that a run writes of every image."""

    folder: Path
    kinds: tuple[str, ...]  # of ``KINDS``
    classes: tuple[str, ...]
    palette: tuple[Color, ...]  # RGB in 0..255 of each class


@dataclass(frozen=True, kw_only=True)
class Written:
    """Facts about an image whose results are written."""

    pixels: tuple[int, ...]  # of each class
    thumbnail: np.ndarray  # (h, w, 3) uint8, the overlay scaled down


def kinds_of_results(text: str) -> tuple[str, ...]:
    """Parse the argument of ``--write``, such as ``index,overlay``."""
    kinds = tuple(text.split(","))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise argparse.ArgumentTypeError(f"knows {', '.join(KINDS)}, not '{unknown[0]}'")
    return kinds


def result_path(output: Path, kind: str, result: Path) -> Path:
    """Return the file of one kind of result."""
    return output / kind / (result.with_suffix(".geojson") if kind == "polygons" else result)


def write_results(
    output: OutputSettings, result: Path, scene: Raster, maps: ScratchMaps
) -> Written:
    """Write all results of one image, each file atomically, a strip at a time.

    Args:
        output: what to write, and where.
        result: name of the image's results.
        scene: the image.
        maps: its predictions.
    """
    width, place = scene.size[1], scene.placement
    pixels = np.zeros(256, np.int64)
    thumbnail = _Thumbnail(scene.size)
    # A PNG of indices stays grey: servers that score submissions want values, not a palette.
    colors = output.palette if result.suffix == ".tif" else None
    writers: dict[str, RasterWriter] = {}
    with ExitStack() as stack:
        for kind, channels in _CHANNELS.items():
            if kind in output.kinds:
                path = result_path(output.folder, kind, result)
                own = colors if kind == "index" else None
                opened = open_writer(path, scene.size, channels, place, own)
                writers[kind] = stack.enter_context(opened)
        for rows in strips_of(scene.size):
            labels = maps.index.read(rows)
            pixels += np.bincount(labels.ravel(), minlength=256)
            blended = overlay(scene.read_rgb(rows, slice(0, width)), labels, output.palette)
            thumbnail.add(rows, blended)
            strips = {"index": labels, "overlay": blended}
            if "color" in writers:
                strips["color"] = colorize(labels, output.palette)
            if maps.confidence is not None:
                strips["confidence"] = maps.confidence.read(rows)
            for kind, writer in writers.items():
                writer.write(strips[kind])
    if "polygons" in output.kinds:
        write_geojson(
            maps.index.path,
            scene.size,
            result_path(output.folder, "polygons", result),
            names=output.classes,
            palette=output.palette,
            placement=place,
        )
    return Written(
        pixels=tuple(pixels[: len(output.classes)].tolist()),
        thumbnail=thumbnail.picture,
    )


def strips_of(size: tuple[int, int]) -> Iterator[slice]:
    """Yield the rows of an image from the top down, in strips of bounded memory."""
    num_rows = max(1, _STRIP_PX // size[1])
    for top in range(0, size[0], num_rows):
        yield slice(top, min(top + num_rows, size[0]))


class _Thumbnail:
    """A thumbnail of an image that comes in strips; its pixels are means of those they cover."""

    def __init__(self, size: tuple[int, int]) -> None:
        scale = min(1.0, _THUMBNAIL_PX / max(size))
        self._height, self._width = (max(1, round(scale * side)) for side in size)
        self._size = size
        self.picture = np.zeros((self._height, self._width, 3), np.uint8)

    def add(self, rows: slice, strip: np.ndarray) -> None:
        """Fill the rows of the thumbnail whose centres lie in a strip."""
        centres = nearest_pixels(self._size[0], self._height)
        inside = np.flatnonzero((centres >= rows.start) & (centres < rows.stop))
        if inside.size:
            size = (self._width, inside.size)
            small = Image.fromarray(strip).resize(size, Image.Resampling.BOX)
            self.picture[inside] = np.asarray(small)
