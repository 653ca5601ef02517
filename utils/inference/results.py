"""Result files of one image, and the temporary maps that they are written from."""

import argparse
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from utils.boxes import nearest_pixels
from utils.rasters.polygons import write_geojson
from utils.rasters.reading import Raster
from utils.rasters.writing import RasterWriter, open_writer
from utils.visualization.colors import Color, colorize, overlay

_CHANNELS = {"index": 1, "color": 3, "overlay": 3, "confidence": 1}  # of the images written
KINDS = (*_CHANNELS, "polygons")
_STRIP_PX = 1 << 21  # pixels painted at a time; blending takes about 60 bytes a pixel
_THUMBNAIL_PX = 360


class RowFile:
    """``(H, W)`` uint8 in a file without a header, written and read by rows.

    Several processes may write different rows. Unlike a memory map, reading and writing leave
    nothing in the memory of the process.

    Args:
        path: created by the first ``write``.
        width: of a row, in pixels.
    """

    def __init__(self, path: Path, width: int) -> None:
        self.path, self._width = path, width

    def write(self, top: int, rows: np.ndarray) -> None:
        """Write ``(rows, W)`` uint8 from row ``top`` on."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        with self.path.open("r+b") as file:
            file.seek(top * self._width)
            file.write(rows.tobytes())

    def read(self, rows: slice) -> np.ndarray:
        """Read ``(rows, W)`` uint8."""
        count, offset = (rows.stop - rows.start) * self._width, rows.start * self._width
        return np.fromfile(self.path, np.uint8, count, offset=offset).reshape(-1, self._width)


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """The results that a run writes of every image, and the names of all files of an image."""

    folder: Path
    kinds: tuple[str, ...]  # of ``KINDS``
    classes: tuple[str, ...]
    palette: tuple[Color, ...]  # RGB in 0..255 of each class

    def path(self, kind: str, result: Path) -> Path:
        """Return the file of one kind of result; ``result`` is that of the ``Input``."""
        name = result.with_suffix(".geojson") if kind == "polygons" else result
        return self.folder / kind / name

    def marker(self, result: Path) -> Path:
        """Return the file that marks an image as done."""
        return self.folder / "done" / f"{_key(result)}.json"

    def scratch(self, result: Path, width: int) -> dict[str, RowFile]:
        """Return the temporary maps of an image, the same on every rank.

        ``index`` holds class indices, ``confidence`` steps of 1/255; the suffix ``.partial`` marks
        them as unfinished.
        """
        prefix = str(self.folder / f".{_key(result)}")
        kinds = ("index", "confidence")
        return {kind: RowFile(Path(f"{prefix}.{kind}.partial"), width) for kind in kinds}

    def remove_scratch(self, result: Path) -> None:
        """Remove the temporary maps of an image. No process may be using them."""
        for rows in self.scratch(result, 0).values():
            rows.path.unlink(missing_ok=True)


def _key(result: Path) -> str:
    """Return a hash that stands for the name of results, which may be long."""
    return hashlib.sha256(str(result).encode()).hexdigest()[:24]


def kinds_of_results(text: str) -> tuple[str, ...]:
    """Parse the argument of ``--write``, such as ``index,overlay``."""
    kinds = tuple(text.split(","))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise argparse.ArgumentTypeError(f"knows {', '.join(KINDS)}, not '{unknown[0]}'")
    return kinds


def write_results(
    output: OutputSettings, result: Path, scene: Raster, maps: Mapping[str, RowFile]
) -> tuple[tuple[int, ...], np.ndarray]:
    """Write all results of one image, each file atomically, a strip at a time.

    Args:
        output: what to write, and where.
        result: name of the image's results.
        scene: the image.
        maps: its predictions, see ``OutputSettings.scratch``.

    Returns:
        Number of pixels of each class, and the overlay scaled down, ``(h, w, 3)`` uint8.
    """
    size, place = scene.size, scene.placement
    pixels = np.zeros(256, np.int64)
    scale = min(1.0, _THUMBNAIL_PX / max(size))
    thumbnail = np.zeros((*(max(1, round(scale * side)) for side in size), 3), np.uint8)
    # A PNG of indices stays grey: servers that score submissions want values, not a palette.
    colors = output.palette if result.suffix == ".tif" else None
    writers: dict[str, RasterWriter] = {}
    with ExitStack() as stack:
        for kind in output.kinds:
            if kind in _CHANNELS:
                own = colors if kind == "index" else None
                opened = open_writer(output.path(kind, result), size, _CHANNELS[kind], place, own)
                writers[kind] = stack.enter_context(opened)
        for rows in strips_of(size):
            labels = maps["index"].read(rows)
            pixels += np.bincount(labels.ravel(), minlength=256)
            blended = overlay(scene.read_rgb(rows, slice(0, size[1])), labels, output.palette)
            _add_to_thumbnail(thumbnail, size[0], rows, blended)
            strips = {"index": labels, "overlay": blended}
            if "color" in writers:
                strips["color"] = colorize(labels, output.palette)
            if "confidence" in writers:
                strips["confidence"] = maps["confidence"].read(rows)
            for kind, writer in writers.items():
                writer.write(strips[kind])
    if "polygons" in output.kinds:
        write_geojson(
            maps["index"].path,
            size,
            output.path("polygons", result),
            names=output.classes,
            palette=output.palette,
            placement=place,
        )
    return tuple(pixels[: len(output.classes)].tolist()), thumbnail


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
