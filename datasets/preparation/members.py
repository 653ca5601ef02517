"""One file of a data set: by itself, in a zip archive, or in an archive inside an archive."""

import io
import re
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from PIL import Image

from utils.errors import DataError
from utils.files import open_image

_LOCAL_HEADER_BYTES = 30  # of a zip's member, before its name
_BLOCK_BYTES = 1 << 20  # most image files tell their size in the first
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1  # flag bit
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file, by itself or in an archive. Threads may read it at the same time."""

    name: str  # where it lies, from the source on
    path: Path  # the file on disk: itself, or the archive
    zipped: zipfile.ZipInfo | None = None  # None: it is no part of an archive
    offset: int = 0  # of its local header in ``path``

    def identity(self) -> list[str | int]:
        """What changes when the file is replaced, as plain values."""
        if self.zipped is not None:
            return [self.name, self.zipped.file_size, self.zipped.CRC]
        status = self.path.stat()
        return [self.name, status.st_size, status.st_mtime_ns]

    def open_image(self) -> Image.Image:
        """Read and decode an image file in its own mode.

        Raises:
            MissingDataError, DataError: it is not there, truncated, or no image.
        """
        if self.zipped is None:
            return open_image(self.path)
        with self._content() as content:  # closed, or the image would hold on to its file
            try:
                image = Image.open(content)
                image.load()
            except _UNREADABLE as error:
                raise self._unreadable(error) from error
        return image

    def image_size(self) -> tuple[int, int]:
        """Height and width as the file's header gives them; no pixel is decoded.

        Raises:
            DataError: the header cannot be read.
        """
        if self.zipped is None:
            return self._size_in(self.path)
        with closing(self.blocks()) as blocks:
            head = next(blocks, b"")
        # Some TIFF files have their header behind their pixels.
        return self._size_in(io.BytesIO(head) if _has_header(head) else self._content())

    def _size_in(self, file: Path | io.BytesIO) -> tuple[int, int]:
        try:
            with Image.open(file) as image:
                return image.height, image.width
        except _UNREADABLE as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        what = "file" if self.zipped is None else "archive"
        reason = re.sub(r" <_io\.BytesIO.*?>", "", str(error))
        return DataError(f"{self.name} cannot be read as an image ({reason}); replace the {what}")

    def part_of(self, file: BinaryIO) -> tuple[int, io.RawIOBase]:
        """Where a stored, not packed member begins in its archive, and that part of it as a file.

        Args:
            file: the archive, opened; it stays open as long as the part is read.
        """
        assert self.zipped is not None
        start = _start_of_data(file, self.zipped, self.offset)
        return start, _Part(file, start, self.zipped.file_size)

    def _content(self) -> io.BytesIO:
        content = io.BytesIO()
        for block in self.blocks():
            content.write(block)
        content.seek(0)
        return content

    def blocks(self) -> Generator[bytes, None, None]:
        """The bytes of an archive's member, unpacked, checked when the last one was given.

        ``zipfile`` would read the archive's directory again for every member and thread.

        Raises:
            DataError: they are not whole, or packed in a way that is not known here.
        """
        assert self.zipped is not None
        info, crc, size = self.zipped, 0, 0
        if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
            how = "encrypted" if info.flag_bits & _ENCRYPTED else f"method {info.compress_type}"
            raise DataError(
                f"{self.name} cannot be unpacked here ({how}); unpack its archive and give the "
                "folder instead"
            )
        try:
            with self.path.open("rb") as file:
                for block in _unpacked(file, info, self.offset):
                    crc, size = zlib.crc32(block, crc), size + len(block)
                    yield block
        except (zlib.error, zipfile.BadZipFile) as error:
            raise DataError(f"{self.name} is damaged ({error}); get the archive again") from error
        if crc != info.CRC or size != info.file_size:
            raise DataError(f"{self.name} is damaged (bad checksum); get the archive again")


def file_member(path: Path) -> Member:
    """A file that lies in no archive, called by its path."""
    return Member(name=str(path), path=path)


class _Part(io.RawIOBase):
    """A stretch of a file, read as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("seek before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        left = max(self._size - self._position, 0)
        self._file.seek(self._start + self._position)
        data = self._file.read(min(len(buffer), left))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _has_header(head: bytes) -> bool:
    """Whether the header of an image file is in its first bytes, as far as these tell."""
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    return head[:2] not in (b"II", b"MM") or int.from_bytes(head[4:8], order) < len(head) // 2


def _start_of_data(file: BinaryIO, info: zipfile.ZipInfo, offset: int) -> int:
    """Where a member's bytes begin, behind its local header."""
    file.seek(offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\3\4":
        raise zipfile.BadZipFile(f"no member at byte {offset}")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return offset + _LOCAL_HEADER_BYTES + lengths


def _unpacked(file: BinaryIO, info: zipfile.ZipInfo, offset: int) -> Iterator[bytes]:
    file.seek(_start_of_data(file, info, offset))
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    left = info.compress_size
    while left:
        packed = file.read(min(_BLOCK_BYTES, left))
        if not packed:
            raise zipfile.BadZipFile("it ends too early")
        left -= len(packed)
        if info.compress_type == zipfile.ZIP_STORED:
            yield packed
            continue
        while packed:  # a block of a flat label would become a thousand blocks at once
            yield inflate.decompress(packed, _BLOCK_BYTES)
            packed = inflate.unconsumed_tail
    if info.compress_type != zipfile.ZIP_STORED:
        yield inflate.flush()
