"""Access to the files of a data set in folders, in zip archives and in archives inside archives.

Every file is named by its path from the given source on:
``Potsdam.zip/2_Ortho_RGB.zip/2_Ortho_RGB/top_potsdam_2_10_RGB.tif``, or the same without ``.zip``
where a user has unpacked it. An inner archive that is stored without compression is read in place;
a compressed one is extracted once to a temporary folder, which is removed when the block ends.
"""

import io
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TypeVar

from PIL import Image
from tqdm import tqdm

from utils.console import counted
from utils.errors import DataError, MissingDataError, UserError
from utils.rasters.placement import Grid
from utils.rasters.reading import Raster, open_scene
from utils.rasters.rendering import AS_STORED, Rendering
from utils.threads import read_ahead

T = TypeVar("T")
R = TypeVar("R")
_NUM_NAMED = 3  # files in an error; the rest is counted
_STRIP_ROWS = 512
_BLOCK_BYTES = 1 << 20
_WHOLE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")  # opening them decodes all pixels
_ORIENTATION, _FIRST_TURNED = 274, 5  # EXIF tag; from this value on, rows are seen as columns
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True, kw_only=True)
class ArchiveFile:
    """A file on disk or in a zip archive. Several threads may read it at the same time."""

    name: str  # path from the source on
    path: Path  # the file, or the archive on disk that contains it
    archive: zipfile.ZipFile | None = None  # the innermost archive; None: a file by itself
    entry: zipfile.ZipInfo | None = None  # its entry in the archive
    scratch: Path = Path()  # folder for the extracted file

    def identity(self) -> list[str | int]:
        """Return plain values that change when the file is replaced."""
        if self.entry is not None:
            return [self.name, self.entry.file_size, self.entry.CRC]
        status = self.path.stat()
        return [self.name, status.st_size, status.st_mtime_ns]

    @contextmanager
    def open_image(
        self,
        rendering: Rendering = AS_STORED,
        grid: Grid | None = None,
        *,
        bilinear: bool = False,
    ) -> Iterator[Raster]:
        """Open an image for reading; a member of an archive is extracted and verified first.

        Args:
            rendering: as in ``open_scene``, like the others.
            grid: size and placement to warp it to.
            bilinear: interpolate.

        Raises:
            MissingDataError, DataError: the file is missing, damaged, or not an image.
        """
        if self.archive is None:
            with open_scene(self.path, rendering, grid, bilinear=bilinear) as raster:
                yield raster
            return
        self.scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.scratch) as folder:
            path = Path(folder) / self.name.rpartition("/")[2]
            with self.open() as packed, path.open("wb") as file:
                shutil.copyfileobj(packed, file, _BLOCK_BYTES)
            try:
                with open_scene(path, rendering, grid, bilinear=bilinear) as raster:
                    yield raster
            except UserError as error:
                raise type(error)(str(error).replace(str(path), self.name)) from error

    def image_size(self) -> tuple[int, int]:
        """Return height and width as ``open_image`` does, from the header if that is possible.

        An orientation that a PNG file states after its pixels is not found.

        Raises:
            MissingDataError, DataError: as ``open_image``.
        """
        formats = _WHOLE_FORMATS if self.archive is None else (*_WHOLE_FORMATS, "TIFF")
        with suppress(*_UNREADABLE), self.open() as file, Image.open(file, formats=formats) as seen:
            # After the EXIF orientation; that of a TIFF is unused where it is placed on the earth.
            # Of a PNG file without early EXIF data, Pillow would decode the pixels.
            has_exif = seen.format != "TIFF" and (seen.format != "PNG" or "exif" in seen.info)
            turned = has_exif and seen.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
            if not turned or self.archive is not None:  # without a world file beside it
                return (seen.width, seen.height) if turned else (seen.height, seen.width)
        with self.open_image() as raster:  # any other format, or unused where it is placed
            return raster.size

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the file; the CRC of an archive's member is verified when its end is reached.

        Raises:
            DataError: the member is damaged, encrypted, or compressed by an unknown method.
        """
        try:
            member = self.archive.open(self.entry) if self.archive and self.entry else None
            with member or self.path.open("rb") as file:
                yield file
        except RuntimeError as error:  # encrypted, or an unknown compression method
            raise DataError(
                f"{self.name} cannot be unpacked here ({error}); unpack its archive and give the "
                "folder instead"
            ) from error
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"{self.name} is damaged ({error}); get the archive again") from error


class Archives:
    """Index of the files in folders and zip archives, as ``open_archives`` yields it."""

    def __init__(
        self,
        sources: Sequence[Path],
        scratch: Path,
        skip: Collection[str],
        in_place: Collection[str],
        handles: ExitStack,
    ) -> None:
        self._sources, self._scratch, self._handles = sources, scratch, handles
        self._skip, self._in_place = skip, in_place
        files = [file for source in sources for file in self._list_source(source)]
        # Of several files of one name the one in the fewest archives comes first.
        files.sort(key=lambda file: (file.name.lower().count(".zip/"), file.name))
        self._by_file_name: dict[str, list[ArchiveFile]] = {}
        for file in files:
            self._by_file_name.setdefault(_file_name(file.name), []).append(file)

    def matching(self, pattern: str) -> Iterator[tuple[ArchiveFile, re.Match[str]]]:
        """Yield every file whose path ends with a regular expression, regardless of case."""
        wanted = re.compile(rf"(?:^|/){pattern}$", re.IGNORECASE)
        for files in self._by_file_name.values():
            for file in files:
                if match := wanted.search(file.name):
                    yield file, match

    def find(self, names: dict[str, str], below: str = "") -> dict[str, ArchiveFile]:
        """Return the files of those source images that have one.

        Args:
            names: file name by source id, regardless of case.
            below: regular expression of a folder or archive anywhere above the file, without
                ``.zip``; empty: no restriction.
        """
        folder = re.compile(rf"(?:^|/){below}(?:\.zip)?/" if below else "", re.IGNORECASE)
        found = {}
        for source, name in names.items():
            for file in self._by_file_name.get(name.lower(), []):
                if folder.search(file.name):
                    found[source] = file
                    break
        return found

    def require(
        self, what: str, names: dict[str, str], archives: str, places: Sequence[str] = ("",)
    ) -> dict[str, ArchiveFile]:
        """Return the files of all source images.

        Args:
            what: kind of the files, singular, for the error.
            names: as for ``find``.
            archives: the official archive that contains them, for the error.
            places: values of ``below`` for ``find``, the preferred one first.

        Raises:
            MissingDataError: files are missing; they are counted and the first are named.
        """
        found: dict[str, ArchiveFile] = {}
        for below in reversed(places):
            found |= self.find(names, below)
        if missing := [name for source, name in names.items() if source not in found]:
            first = ", ".join(missing[:_NUM_NAMED])
            given = ", ".join(str(source) for source in self._sources)
            number = f"{len(missing)} of {counted(len(names), what)}"
            raise MissingDataError(
                f"not in {given}: {number} (first: {first}); add {archives}, or the folder "
                "it was unpacked to, with --source"
            )
        return {source: found[source] for source in names}

    def _list_source(self, source: Path) -> Iterator[ArchiveFile]:
        if source.is_file():
            yield from self._list_zip(source, source.resolve().name)
        elif source.is_dir():
            name = source.resolve().name
            for path in sorted(path for path in source.rglob("*") if path.is_file()):
                inside = f"{name}/{path.relative_to(source).as_posix()}"
                if path.suffix.lower() != ".zip":
                    yield ArchiveFile(name=inside, path=path)
                elif path.name.lower() not in self._skip:
                    yield from self._list_zip(path, inside)
        else:
            raise MissingDataError(f"--source {source} is neither a file nor a folder")

    def _list_zip(
        self, path: Path, name: str, start: int = 0, end: int | None = None
    ) -> Iterator[ArchiveFile]:
        """Yield the files of an archive, which is ``path`` or a range of its bytes."""
        # A handle of its own for each archive: ``zipfile`` locks it, and never closes it.
        handle = self._handles.enter_context(_Beginning(path, end))
        try:
            archive = zipfile.ZipFile(handle)
            if archive.start_dir < start:
                raise zipfile.BadZipFile("its directory is missing")  # found is another archive's
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise DataError(
                f"{name} is truncated or not a zip archive ({error}); get it again"
            ) from error
        for entry in archive.infolist():
            file = ArchiveFile(
                name=f"{name}/{entry.filename}",
                path=path,
                archive=archive,
                entry=entry,
                scratch=self._scratch,
            )
            inner = _file_name(entry.filename)
            if entry.is_dir() or inner in self._skip:
                continue
            if not inner.endswith(".zip"):
                yield file
            elif entry.compress_type == zipfile.ZIP_STORED:
                handle.seek(entry.header_offset + 26)  # lengths of the name and the extra field
                first = entry.header_offset + 30 + sum(struct.unpack("<2H", handle.read(4)))
                yield from self._list_zip(path, file.name, first, first + entry.file_size)
            elif inner not in self._in_place:
                yield from self._list_zip(self._extract(file), file.name)

    def _extract(self, file: ArchiveFile) -> Path:
        assert file.entry is not None
        self._scratch.mkdir(parents=True, exist_ok=True)
        path = self._scratch / f"{len(list(self._scratch.iterdir()))}.zip"
        text, size = f"unpacking {file.name}", file.entry.file_size
        with file.open() as packed, path.open("wb") as unpacked:
            with tqdm.wrapattr(packed, "read", total=size, desc=text) as watched:
                shutil.copyfileobj(watched, unpacked, _BLOCK_BYTES)
        return path


@contextmanager
def open_archives(
    sources: Sequence[Path],
    scratch: Path,
    skip: Collection[str] = (),
    in_place: Collection[str] = (),
) -> Iterator[Archives]:
    """Open all archives, and close them when the block ends.

    Args:
        sources: zip archives, and folders that are searched recursively for files and archives.
        scratch: folder for compressed inner archives, emptied before and removed after use.
        skip: names of archives that are not needed, in lower case.
        in_place: names of archives that are indexed only if that needs no extraction, in lower
            case.

    Raises:
        MissingDataError: a source does not exist.
        DataError: an archive is truncated, encrypted, or compressed by an unknown method.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    with ExitStack() as handles:
        handles.callback(shutil.rmtree, scratch, ignore_errors=True)
        yield Archives(sources, scratch, skip, in_place, handles)


class _Beginning(io.BufferedReader):
    """A file up to a byte, as if it ended there.

    ``zipfile`` finds an archive from its end and permits anything before it, so this opens one that
    is stored in another. Seeking in a member that ``zipfile`` has opened would read all bytes
    before the target.
    """

    def __init__(self, path: Path, end: int | None) -> None:
        super().__init__(io.FileIO(path))
        self._end = path.stat().st_size if end is None else end

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_END:
            offset, whence = self._end + offset, io.SEEK_SET
        return super().seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._end - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def strips(height_px: int) -> Iterator[slice]:
    """Yield rows to read at a time: decoding takes several times the memory of the pixels."""
    for top in range(0, height_px, _STRIP_ROWS):
        yield slice(top, min(top + _STRIP_ROWS, height_px))


def in_threads(
    function: Callable[[T], R],
    items: Collection[T],
    text: str,
    num_threads: int,
    unit: str = "image",
) -> list[R]:
    """Return the results of all items, in order, and report the progress under a text."""
    results = read_ahead(function, items, num_threads=num_threads, ahead=2 * num_threads)
    with closing(results):
        return list(tqdm(results, desc=text, total=len(items), unit=unit))


def _file_name(name: str) -> str:
    return name.rpartition("/")[2].lower()
