"""Result rasters as GeoTIFF or PNG files, written in strips of rows.

Memory does not grow with the height. A result is atomic: it gets its name when all rows are
written; an error leaves nothing, a kill a ``.partial`` file.
"""

import errno
import os
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter

from utils.errors import ConfigError
from utils.files import atomic_path, write_text
from utils.rasters.placement import Placement
from utils.rasters.sources import gdal_settings

Palette = Sequence[tuple[int, int, int]]  # at most 256 colours
Size = tuple[int, int]  # height and width
BLOCK_PX = 512
# Level 6 halves the class maps that level 1 writes; photographs it makes slower, not smaller.
_LEVELS = {1: 6, 3: 1}
_CHUNK_ROWS = 256  # that are filtered at a time: they fit a processor's cache
_UP = 2  # a PNG filter: the difference to the row above


class RasterWriter(ABC):
    """An open result raster of uint8, 1 or 3 bands; made by ``open_writer``."""

    def __init__(self, size: Size, bands: int) -> None:
        self._size, self._bands = size, bands
        self._num_rows = 0  # that were added

    def write(self, rows: np.ndarray) -> None:
        """Add rows below those that were written.

        Args:
            rows: ``(n, width, 3)`` or, of one band, ``(n, width)`` uint8; any n.
        """
        height, width = self._size
        expected = (width,) if self._bands == 1 else (width, self._bands)
        assert rows.dtype == np.uint8 and rows.shape[1:] == expected
        if self._num_rows + len(rows) > height:
            raise ValueError(f"{self._num_rows + len(rows)} rows for an image of {height}")
        if len(rows):
            self._add(rows.reshape(len(rows), width, self._bands))

    def finish(self, path: Path) -> None:
        """Write what is left of a file; ``ValueError`` unless all rows were written."""
        if self._num_rows < self._size[0]:
            raise ValueError(f"{self._num_rows} of {self._size[0]} rows of {path} were written")

    @abstractmethod
    def _add(self, rows: np.ndarray) -> None:
        """Write ``(n, width, bands)``, n above 0, and count them."""


class _TiffWriter(RasterWriter):
    """Rows of a TIFF file.

    GDAL compresses a block again whenever it is flushed before all of its rows are there: three
    times the time, and twice the memory. So rows are collected to whole rows of blocks.
    """

    def __init__(self, dataset: DatasetWriter) -> None:
        super().__init__((dataset.height, dataset.width), dataset.count)
        self._dataset = dataset
        self._rows = np.empty((self._bands, BLOCK_PX, dataset.width), np.uint8)

    def _add(self, rows: np.ndarray) -> None:
        while len(rows):
            start = self._num_rows % BLOCK_PX
            part = rows[: BLOCK_PX - start]
            end = start + len(part)
            self._rows[:, start:end] = np.moveaxis(part, -1, 0)
            self._num_rows += len(part)
            rows = rows[len(part) :]
            if end == BLOCK_PX or self._num_rows == self._size[0]:
                window = (self._num_rows - end, self._num_rows), (0, self._size[1])
                self._dataset.write(self._rows[:, :end], window=window)


class _PngWriter(RasterWriter):
    """Rows of a PNG file: twice as fast as GDAL, which writes PNG files from other files only.

    Every row is stored as its difference to the one above. On aerial photographs and on class maps
    that compressed best, and no slower than no filter.
    """

    def __init__(self, file: BinaryIO, size: Size, bands: int, palette: Palette | None) -> None:
        super().__init__(size, bands)
        self._file = file
        self._above = np.zeros((1, size[1] * bands), np.uint8)
        self._compressor = zlib.compressobj(_LEVELS[bands])
        color_type = 2 if bands == 3 else 0 if palette is None else 3
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, color_type, 0, 0, 0))
        if palette is not None:
            self._chunk(b"PLTE", np.array(_full(palette), np.uint8).tobytes())

    def _add(self, rows: np.ndarray) -> None:
        for top in range(0, len(rows), _CHUNK_ROWS):
            flat = rows[top : top + _CHUNK_ROWS].reshape(-1, self._above.shape[1])
            filtered = np.empty((len(flat), flat.shape[1] + 1), np.uint8)
            filtered[:, 0] = _UP
            np.subtract(flat[:1], self._above, out=filtered[:1, 1:])
            np.subtract(flat[1:], flat[:-1], out=filtered[1:, 1:])
            self._above = flat[-1:].copy()
            if content := self._compressor.compress(filtered.data):
                self._chunk(b"IDAT", content)
        self._num_rows += len(rows)

    def finish(self, path: Path) -> None:
        """Write the end of the file."""
        super().finish(path)
        self._chunk(b"IDAT", self._compressor.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, name: bytes, content: bytes) -> None:
        checksum = zlib.crc32(content, zlib.crc32(name))
        self._file.write(struct.pack(">I", len(content)) + name)
        self._file.write(content)
        self._file.write(struct.pack(">I", checksum))


@contextmanager
def open_writer(
    path: Path,
    size: Size,
    bands: int,
    placement: Placement | None = None,
    palette: Palette | None = None,
) -> Iterator[RasterWriter]:
    """Write a .tif or .png file by strips of rows.

    A .tif file has tiles of 512 x 512 pixels, Deflate, and is a BigTIFF file where 4 GiB might be
    exceeded. A .png file cannot hold a placement: a world file (.pgw) and a .prj file go with it.

    Args:
        path: file to write.
        size: height and width.
        bands: 3 (RGB) or 1.
        placement: georeferencing of the same grid.
        palette: colours of the values of one band; other values are black.

    Raises:
        ConfigError: another suffix.
        OSError: the file could not be written, for example to a full disk.
    """
    suffix = path.suffix.lower()
    if suffix not in (".tif", ".png"):
        raise ConfigError(f"{path} cannot be written; results are .tif or .png files")
    placement = placement or Placement()
    with atomic_path(path) as partial:
        if suffix == ".png":
            with partial.open("wb") as file:
                writer = _PngWriter(file, size, bands, palette)
                yield writer
                writer.finish(path)
            _write_world_file(path, placement)
            return
        with _tiff_errors(path), gdal_settings(GDAL_PAM_ENABLED="NO"):
            with _create_tiff(partial, size, bands) as dataset:
                _place(dataset, placement)
                if palette is not None:
                    dataset.write_colormap(1, dict(enumerate(_full(palette))))
                tiff_writer = _TiffWriter(dataset)
                yield tiff_writer
                tiff_writer.finish(path)
            _check_whole(partial)


@contextmanager
def _tiff_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise OSError(f"{path} could not be written ({error.__cause__ or error})") from error


def _create_tiff(path: Path, size: Size, bands: int) -> DatasetWriter:
    try:
        return rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=size[0],
            width=size[1],
            count=bands,
            dtype="uint8",
            photometric="RGB" if bands == 3 else "MINISBLACK",
            interleave="pixel",
            tiled=True,
            blockxsize=BLOCK_PX,
            blockysize=BLOCK_PX,
            compress="DEFLATE",
            zlevel=_LEVELS[bands],
            predictor=2 if bands == 3 else 1,
            bigtiff="IF_SAFER",
        )
    except Exception as error:  # also private ones of rasterio
        raise OSError(f"{path} cannot be created ({error})") from error


def _place(dataset: DatasetWriter, placement: Placement) -> None:
    """Copy a georeferencing, but no no-data value: it would be a class."""
    if placement.area_or_point is not None:
        dataset.update_tags(AREA_OR_POINT=placement.area_or_point)
    if placement.gcps and placement.transform is None:  # a TIFF file holds one of both
        dataset.gcps = [*placement.gcps], placement.gcps_crs
    else:
        if placement.crs is not None:
            dataset.crs = placement.crs
        if placement.transform is not None:
            dataset.transform = placement.transform
    if placement.rpcs is not None:
        dataset.rpcs = placement.rpcs


def _full(palette: Palette) -> list[tuple[int, int, int]]:
    """Return 256 colours: a value without a colour must not make a file invalid."""
    return [*palette, *[(0, 0, 0)] * (256 - len(palette))]


def _check_whole(path: Path) -> None:
    """Raise ``OSError`` unless all blocks of a TIFF file lie within it.

    GDAL does not report errors of the last writes, which closing a file causes.
    """
    num_bytes = path.stat().st_size
    with rasterio.open(path) as dataset:
        height, width = dataset.block_shapes[0]
        for down in range(-(-dataset.height // height)):
            for across in range(-(-dataset.width // width)):
                offset, length = (
                    int(dataset.get_tag_item(f"BLOCK_{what}_{across}_{down}", "TIFF", bidx=1) or 0)
                    for what in ("OFFSET", "SIZE")
                )
                if not offset or offset + length > num_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _write_world_file(path: Path, placement: Placement) -> None:
    """Write what places a PNG file beside it."""
    if (world := placement.world_file_text()) is None:
        return
    write_text(path.with_suffix(".pgw"), world)
    if placement.crs is not None:
        write_text(path.with_suffix(".prj"), placement.crs.to_wkt(version="WKT1_ESRI"))
