"""The directory of a TIFF file: its tags, read from a file and made for one.

TIFF 6.0 (Adobe, 1992), sections 2 and 8, and the BigTIFF design (Aldus header number 43, 64-bit
offsets). Of a file only the first directory is read; no value is believed before it was checked
against the length of the file and a bound, so that a lying file costs neither memory nor time.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.errors import DataError

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_VALUE_BYTES = 1 << 20  # of one tag; the arrays of blocks have a bound of their own
_DTYPES = {
    1: "u1",  # BYTE
    2: "u1",  # ASCII
    3: "u2",  # SHORT
    4: "u4",  # LONG
    6: "i1",  # SBYTE
    7: "u1",  # UNDEFINED
    8: "i2",  # SSHORT
    9: "i4",  # SLONG
    11: "f4",  # FLOAT
    12: "f8",  # DOUBLE
    13: "u4",  # IFD
    16: "u8",  # LONG8
    17: "i8",  # SLONG8
    18: "u8",  # IFD8
}
BYTE, ASCII, SHORT, LONG, DOUBLE, LONG8 = 1, 2, 3, 4, 12, 16

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 277, 278, 279
PLANAR, PREDICTOR, COLOR_MAP = 284, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES, SUBSAMPLING = 338, 339, 347, 530


class TiffTags:
    """The tags of the first directory; values are read when they are asked for.

    Attributes:
        path: the file, for messages.
        order: byte order as numpy writes it, ``<`` or ``>``.
        num_bytes: length of the file.

    Raises:
        DataError: the directory is broken, or a value lies outside the file.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.path = path
        self._file = file
        self.num_bytes = file.seek(0, 2)
        magic = self._read(0, 4, "the header")
        if magic not in MAGICS:
            raise DataError(f"{path} is no TIFF file; replace the file")
        self.order = "<" if magic[:1] == b"I" else ">"
        big = magic in MAGICS[2:]
        self._offset = np.dtype(self.order + ("u8" if big else "u4"))
        self._entries = self._read_directory(big)

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def array(self, tag: int, max_bytes: int = _MAX_VALUE_BYTES) -> np.ndarray:
        """All values of a tag in native byte order; none if the file lacks it."""
        if tag not in self._entries:
            return np.zeros(0, np.uint64)
        kind, count, field = self._entries[tag]
        if kind not in _DTYPES:
            raise self._broken(f"tag {tag} is of type {kind}")
        dtype = np.dtype(self.order + _DTYPES[kind])
        length = count * dtype.itemsize
        if length > max_bytes:
            raise self._broken(f"tag {tag} has {count} values")
        if length > len(field):
            start = int(np.frombuffer(field, self._offset)[0])
            field = self._read(start, length, f"tag {tag}")
        return np.frombuffer(field, dtype, count).astype(dtype.newbyteorder("="))

    def number(self, tag: int, default: int) -> int:
        """The first value of a tag that holds whole numbers."""
        values = self.array(tag)
        if values.size == 0:
            return default
        if values.dtype.kind not in "ui":
            raise self._broken(f"tag {tag} is no whole number")
        return int(values[0])

    def _read_directory(self, big: bool) -> dict[int, tuple[int, int, bytes]]:
        """Type, number of values and value field, by tag; the first of equal tags counts."""
        width = self._offset.itemsize
        position = int(self._number_at(8 if big else 4, width, "the header"))
        count_bytes = 8 if big else 2
        num_entries = self._number_at(position, count_bytes, "its directory")
        entry_bytes = 4 + 2 * width
        if not 0 < num_entries <= 0xFFFF:
            raise self._broken(f"its directory has {num_entries} entries")
        start = position + count_bytes
        content = self._read(start, num_entries * entry_bytes, "its directory")
        layout = struct.Struct(f"{self.order}HH{'Q' if big else 'I'}{width}s")
        entries: dict[int, tuple[int, int, bytes]] = {}
        for tag, kind, count, field in layout.iter_unpack(content):
            entries.setdefault(tag, (kind, count, field))
        return entries

    def _number_at(self, position: int, width: int, what: str) -> int:
        return int(np.frombuffer(self._read(position, width, what), f"{self.order}u{width}")[0])

    def _read(self, position: int, length: int, what: str) -> bytes:
        if position + length > self.num_bytes:
            raise self._broken(f"{what} lies beyond the end of the file, {self.num_bytes} bytes")
        self._file.seek(position)
        content = self._file.read(length)
        if len(content) < length:
            raise self._broken(f"{what} cannot be read")
        return content

    def _broken(self, what: str) -> DataError:
        return DataError(f"{self.path} is a broken TIFF file ({what}); replace the file")


Entry = tuple[int, Sequence[int] | Sequence[float] | bytes]  # type of the values, and the values


def encode_directory(entries: Mapping[int, Entry], position: int, *, big: bool = False) -> bytes:
    """A little-endian directory that is put at ``position``, its long values behind it.

    Args:
        entries: by tag; ASCII values are bytes and end with a zero byte.
        position: offset in the file, even.
        big: for a BigTIFF file.
    """
    count_format, entry_format, width = ("<Q", "<HHQ", 8) if big else ("<H", "<HHI", 4)
    num_entry_bytes = struct.calcsize(entry_format) + width
    after = position + struct.calcsize(count_format) + len(entries) * num_entry_bytes + width
    table, long_values = struct.pack(count_format, len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        content = np.asarray(
            list(values) if isinstance(values, bytes) else values, "<" + _DTYPES[kind]
        ).tobytes()
        field = content
        if len(content) > width:
            field = struct.pack("<Q" if big else "<I", after + len(long_values))
            long_values += content + bytes(-len(content) % 8)
        table += struct.pack(entry_format, tag, kind, len(values)) + field.ljust(width, b"\0")
    return table + bytes(width) + long_values


def encode_header(directory: int, *, big: bool = False) -> bytes:
    """The first 8 bytes (BigTIFF: 16) of a little-endian file, with its directory's offset."""
    if big:
        return b"II+\0" + struct.pack("<HHQ", 8, 0, directory)
    return b"II*\0" + struct.pack("<I", directory)
