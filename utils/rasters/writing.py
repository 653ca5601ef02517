"""Result images written from the top down, in memory that does not grow with their height.

Both writers are context managers, and atomic: the file gets its name when the block ends well and
all rows were written; a kill leaves a ``.partial`` and nothing that looks finished.
"""

import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from utils.errors import ConfigError
from utils.files import atomic_path, write_text
from utils.rasters import tiff_tags as tag
from utils.rasters.georeference import Georeference
from utils.rasters.tiff_layout import DEFLATE, MIN_IS_BLACK, PALETTE, RGB
from utils.rasters.tiff_tags import Entry, encode_directory, encode_header

Palette = Sequence[tuple[int, int, int]]  # at most 256 colours
_TILE_PX = 512
# Level 6 halves the class maps that level 1 writes; photos it makes slower, not smaller.
_LEVELS = {1: 6, 3: 1}
# Offsets of a classic TIFF file have 32 bits. The margin is for its directory and the georeference.
CLASSIC_BYTES = (1 << 32) - (1 << 24)
_MAX_PNG_SIDE = (1 << 31) - 1
_CHUNK_ROWS = 256
_UP = 2  # a PNG filter: the difference to the row above


class _Writer(ABC):
    """Rows in, an atomic file out; what the two formats share."""

    def __init__(
        self, path: Path, size: tuple[int, int], channels: int, palette: Palette | None
    ) -> None:
        if channels not in _LEVELS or (palette is not None and channels != 1):
            raise ValueError(f"an image has 3 channels, or 1 with or without a palette: {channels}")
        if min(size) < 1:
            raise ValueError(f"an image of {size[0]} x {size[1]} pixels holds nothing")
        self.path = path
        self.size = size
        self._channels = channels
        self._palette = None if palette is None else _full_palette(palette)
        self._num_rows = 0
        self._file: BinaryIO
        self._exits: ExitStack

    def __enter__(self) -> "_Writer":
        with ExitStack() as exits:
            partial = exits.enter_context(atomic_path(self.path))
            self._file = exits.enter_context(partial.open("wb"))
            exits.push(self._end)
            self._begin()
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exits.__exit__(kind, error, trace)

    def write(self, rows: np.ndarray) -> None:
        """Add rows below those that were written.

        Args:
            rows: ``(n, width, 3)`` or, of one channel, ``(n, width)`` uint8.
        """
        expected = (self.size[1], 3) if self._channels == 3 else (self.size[1],)
        if rows.dtype != np.uint8 or rows.shape[1:] != expected:
            wanted = ", ".join(map(str, expected))
            raise ValueError(f"rows are (n, {wanted}) uint8, not {rows.shape} {rows.dtype}")
        self._num_rows += len(rows)
        if self._num_rows > self.size[0]:
            raise ValueError(f"{self._num_rows} rows for an image of {self.size[0]}")
        self._write(rows)

    def _end(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        if self._num_rows < self.size[0]:
            raise ValueError(f"{self._num_rows} of {self.size[0]} rows of {self.path} were written")
        self._finish()

    @abstractmethod
    def _begin(self) -> None:
        """Write what comes before the rows."""

    @abstractmethod
    def _write(self, rows: np.ndarray) -> None:
        """Write rows, which are as they should be."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what comes after all rows."""


class TiffWriter(_Writer):
    """A TIFF file of 512 x 512 tiles, Deflate; a BigTIFF file if it might exceed 4 GiB.

    Args:
        path: file to write.
        size: height and width.
        channels: 3 (RGB) or 1.
        georeference: of the same grid; its tags are copied.
        palette: colours of the values of one channel.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        channels: int,
        georeference: Georeference | None = None,
        palette: Palette | None = None,
    ) -> None:
        super().__init__(path, size, channels, palette)
        self._placing = {} if georeference is None else georeference.entries()
        down, across = (-(-length // _TILE_PX) for length in size)
        tile_bytes = _TILE_PX**2 * channels
        # zlib adds less than a thousandth and 64 bytes to what cannot be compressed; with each
        # tile go 8 bytes of directory.
        longest = down * across * (tile_bytes + tile_bytes // 1000 + 72)
        self.big = longest > CLASSIC_BYTES
        self._strip = np.zeros((_TILE_PX, across * _TILE_PX, channels), np.uint8)
        self._filled = 0  # rows of the strip
        self._offsets: list[int] = []
        self._lengths: list[int] = []

    def _begin(self) -> None:
        # The offset of a directory that is not there yet: such a file does not open.
        self._file.write(encode_header(0, big=self.big))

    def _write(self, rows: np.ndarray) -> None:
        rows = rows.reshape(*rows.shape[:2], self._channels)
        while len(rows):
            part = rows[: _TILE_PX - self._filled]
            self._strip[self._filled : self._filled + len(part), : self.size[1]] = part
            self._filled += len(part)
            rows = rows[len(part) :]
            if self._filled == _TILE_PX:
                self._flush()

    def _flush(self) -> None:
        """Write a row of tiles."""
        self._strip[self._filled :] = 0
        for left in range(0, self._strip.shape[1], _TILE_PX):
            tile = self._strip[:, left : left + _TILE_PX].copy()
            if self._channels == 3:  # predictor 2
                tile[:, 1:] -= tile[:, :-1].copy()
            content = zlib.compress(tile.data, _LEVELS[self._channels])
            self._offsets.append(self._file.tell())
            self._lengths.append(len(content))
            self._file.write(content)
        self._filled = 0

    def _finish(self) -> None:
        if self._filled:
            self._flush()
        self._file.write(bytes(self._file.tell() % 2))
        directory = self._file.tell()
        self._file.write(encode_directory(self._entries(), directory, big=self.big))
        self._file.seek(0)
        self._file.write(encode_header(directory, big=self.big))

    def _entries(self) -> dict[int, Entry]:
        long_type = tag.LONG8 if self.big else tag.LONG
        photometric = RGB if self._channels == 3 else MIN_IS_BLACK
        entries: dict[int, Entry] = {
            tag.WIDTH: (tag.LONG, [self.size[1]]),
            tag.HEIGHT: (tag.LONG, [self.size[0]]),
            tag.BITS: (tag.SHORT, [8] * self._channels),
            tag.COMPRESSION: (tag.SHORT, [DEFLATE]),
            tag.SAMPLES: (tag.SHORT, [self._channels]),
            tag.PLANAR: (tag.SHORT, [1]),
            tag.PREDICTOR: (tag.SHORT, [2 if self._channels == 3 else 1]),
            tag.TILE_WIDTH: (tag.SHORT, [_TILE_PX]),
            tag.TILE_HEIGHT: (tag.SHORT, [_TILE_PX]),
            tag.TILE_OFFSETS: (long_type, self._offsets),
            tag.TILE_BYTES: (tag.LONG, self._lengths),
        }
        if self._palette is not None:
            photometric = PALETTE
            colors = self._palette.astype(np.uint16).T.ravel() * 257
            entries[tag.COLOR_MAP] = (tag.SHORT, colors.tolist())
        entries[tag.PHOTOMETRIC] = (tag.SHORT, [photometric])
        return {**entries, **self._placing}


class PngWriter(_Writer):
    """A PNG file, compressed row by row.

    Every row is stored as its difference to the one above (filter 2). Measured on aerial photos and
    on class maps, that compressed best, and no slower than no filter.

    Args:
        path: file to write.
        size: height and width.
        channels: 3 (RGB) or 1.
        palette: colours of the values of one channel.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], channels: int, palette: Palette | None = None
    ) -> None:
        super().__init__(path, size, channels, palette)
        if max(size) > _MAX_PNG_SIDE:
            raise ValueError(f"a PNG file has at most {_MAX_PNG_SIDE} rows and columns")
        self._above = np.zeros((1, size[1] * channels), np.uint8)
        self._compressor = zlib.compressobj(_LEVELS[channels])

    def _begin(self) -> None:
        color_type = 2 if self._channels == 3 else 0 if self._palette is None else 3
        self._file.write(b"\x89PNG\r\n\x1a\n")
        height, width = self.size
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0))
        if self._palette is not None:
            self._chunk(b"PLTE", self._palette.tobytes())

    def _write(self, rows: np.ndarray) -> None:
        for top in range(0, len(rows), _CHUNK_ROWS):
            flat = rows[top : top + _CHUNK_ROWS].reshape(-1, self._above.shape[1])
            filtered = np.empty((len(flat), flat.shape[1] + 1), np.uint8)
            filtered[:, 0] = _UP
            np.subtract(flat[:1], self._above, out=filtered[:1, 1:])
            np.subtract(flat[1:], flat[:-1], out=filtered[1:, 1:])
            self._above = flat[-1:].copy()
            self._chunk(b"IDAT", self._compressor.compress(filtered.data))

    def _finish(self) -> None:
        self._chunk(b"IDAT", self._compressor.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, name: bytes, content: bytes) -> None:
        if not content and name == b"IDAT":
            return
        checksum = zlib.crc32(content, zlib.crc32(name))
        self._file.write(struct.pack(">I", len(content)) + name)
        self._file.write(content)
        self._file.write(struct.pack(">I", checksum))


def _full_palette(palette: Palette) -> np.ndarray:
    """``(256, 3)`` uint8: a value without a colour must not make the file invalid."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    return colors


@contextmanager
def open_writer(
    path: Path,
    size: tuple[int, int],
    channels: int,
    georeference: Georeference | None = None,
    palette: Palette | None = None,
) -> Iterator[TiffWriter | PngWriter]:
    """Write a .tif or .png file by rows; see ``TiffWriter`` and ``PngWriter``.

    A PNG file cannot hold a georeference: a world file (.pgw) is written beside it before it gets
    its name. Where the image had a .prj file, the result gets one as well.

    Raises:
        ConfigError: another suffix.
    """
    suffix = path.suffix.lower()
    writer: TiffWriter | PngWriter
    if suffix == ".tif":
        writer = TiffWriter(path, size, channels, georeference, palette)
    elif suffix == ".png":
        writer = PngWriter(path, size, channels, palette)
    else:
        raise ConfigError(f"{path} cannot be written; results are .tif or .png files")
    with writer:
        yield writer
        if georeference is not None and (world := georeference.world_file_text()) is not None:
            if suffix == ".png":
                write_text(path.with_suffix(".pgw"), world)
            if georeference.projection is not None:
                write_text(path.with_suffix(".prj"), georeference.projection)
