"""What infer.py writes of an image, from the map of its classes and the image itself."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from utils.boxes import nearest_pixels
from utils.rasters.polygons import write_geojson
from utils.rasters.row_file import RowFile
from utils.rasters.scene import Scene
from utils.rasters.writing import PngWriter, TiffWriter, open_writer
from utils.visualization.colors import Color, colorize, overlay

_CHANNELS = {"index": 1, "color": 3, "overlay": 3, "confidence": 1}  # of the pictures
KINDS = (*_CHANNELS, "polygons")
_STRIP_PX = 1 << 21  # pixels that are painted at a time; blending takes some 60 bytes of each
_THUMBNAIL_PX = 360


@dataclass(frozen=True, kw_only=True)
class Written:
    """What is known of an image after its results were written."""

    pixels: tuple[int, ...]  # of each class
    thumbnail: np.ndarray  # (h, w, 3) uint8, the overlay in small


def kinds_of_results(text: str) -> tuple[str, ...]:
    """The argument type of ``--write index,overlay``."""
    kinds = tuple(text.split(","))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise argparse.ArgumentTypeError(f"knows {', '.join(KINDS)}, not '{unknown[0]}'")
    return kinds


def result_path(output: Path, kind: str, result: Path) -> Path:
    """File of one kind of result."""
    return output / kind / (result.with_suffix(".geojson") if kind == "polygons" else result)


def write_results(
    output: Path,
    result: Path,
    kinds: Sequence[str],
    scene: Scene,
    index: RowFile,
    confidence: RowFile,
    classes: Sequence[str],
    palette: Sequence[Color],
) -> Written:
    """Write all that was asked for of one image, each file atomically, a strip at a time.

    Args:
        output: folder of all results.
        result: name of this image's.
        kinds: which of ``KINDS``.
        scene: the image.
        index: its class indices.
        confidence: of them, in steps of 1/255; read for that kind only.
        classes: C names.
        palette: C colours, RGB in 0..255.
    """
    width, place = scene.size[1], scene.georeference
    pixels = np.zeros(256, np.int64)
    thumbnail = _Thumbnail(scene.size)
    # A PNG of indices stays grey: servers that score submissions want values, not a palette.
    colors = palette if result.suffix == ".tif" else None
    writers: dict[str, TiffWriter | PngWriter] = {}
    with ExitStack() as stack:
        for kind, channels in _CHANNELS.items():
            if kind in kinds:
                path, own = result_path(output, kind, result), colors if kind == "index" else None
                opened = open_writer(path, scene.size, channels, place, own)
                writers[kind] = stack.enter_context(opened)
        for rows in strips_of(scene.size):
            labels = index.read(rows)
            pixels += np.bincount(labels.ravel(), minlength=256)
            blended = overlay(scene.read(rows, slice(0, width)), labels, palette)
            thumbnail.add(rows, blended)
            strips = {"index": labels, "overlay": blended}
            if "color" in writers:
                strips["color"] = colorize(labels, palette)
            if "confidence" in writers:
                strips["confidence"] = confidence.read(rows)
            for kind, writer in writers.items():
                writer.write(strips[kind])
    if "polygons" in kinds:
        write_geojson(
            (index.read(rows) for rows in strips_of(scene.size)),
            result_path(output, "polygons", result),
            names=classes,
            palette=palette,
            georeference=place,
        )
    return Written(
        pixels=tuple(pixels[: len(classes)].tolist()),
        thumbnail=thumbnail.picture,
    )


def strips_of(size: tuple[int, int]) -> Iterator[slice]:
    """Rows of an image from the top down, as many at a time as memory should hold."""
    num_rows = max(1, _STRIP_PX // size[1])
    for top in range(0, size[0], num_rows):
        yield slice(top, min(top + num_rows, size[0]))


class _Thumbnail:
    """A small picture of a large one that goes by in strips: means of what its pixels cover."""

    def __init__(self, size: tuple[int, int]) -> None:
        scale = min(1.0, _THUMBNAIL_PX / max(size))
        self._height, self._width = (max(1, round(scale * side)) for side in size)
        self._size = size
        self.picture = np.zeros((self._height, self._width, 3), np.uint8)

    def add(self, rows: slice, strip: np.ndarray) -> None:
        """Reduce a strip to the rows of the small picture whose centres lie in it."""
        centres = nearest_pixels(self._size[0], self._height)
        inside = np.flatnonzero((centres >= rows.start) & (centres < rows.stop))
        if inside.size:
            size = (self._width, inside.size)
            small = Image.fromarray(strip).resize(size, Image.Resampling.BOX)
            self.picture[inside] = np.asarray(small)
