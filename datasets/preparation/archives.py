"""Files in folders, in zip archives and in archives inside archives, found and read alike.

Every file has a name that says where it lies, from the given source on:
``Potsdam.zip/2_Ortho_RGB.zip/2_Ortho_RGB/top_potsdam_2_10_RGB.tif``, or the same without ``.zip``
where a user has unpacked it. An inner archive that its outer one merely stores is read in place; a
compressed one is unpacked to a temporary folder that goes when the block ends.
"""

import re
import shutil
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from datasets.preparation.members import Member
from utils.errors import DataError, MissingDataError

_NUM_NAMED = 3  # files in an error; the rest is counted


class Archives:
    """What lies in the given folders and archives. Use as a context manager.

    Args:
        sources: zip archives, and folders that are searched recursively for files and archives.
        scratch: folder for archives that have to be unpacked first; it is removed at the end, and
            so is what a killed run left in it.
        skip: names of archives that nobody will ask for, in lower case.
        in_place: likewise; archives that are read only where they need not be unpacked for it.

    Raises:
        MissingDataError: a source does not exist.
        DataError: an archive is truncated, encrypted, or packed in a way that cannot be read.
    """

    def __init__(
        self,
        sources: Sequence[Path],
        scratch: Path,
        skip: Collection[str] = (),
        in_place: Collection[str] = (),
    ) -> None:
        self._sources, self._scratch = sources, scratch
        self._skip, self._in_place = skip, in_place
        self._by_file_name: dict[str, list[Member]] = {}

    def __enter__(self) -> "Archives":
        shutil.rmtree(self._scratch, ignore_errors=True)
        try:
            members = [member for source in self._sources for member in self._list_source(source)]
        except BaseException:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        # Of several files of one name the one in the fewest archives comes first.
        members.sort(key=lambda member: (member.name.lower().count(".zip/"), member.name))
        for member in members:
            self._by_file_name.setdefault(_file_name(member.name), []).append(member)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def members(self, pattern: str) -> Iterator[tuple[Member, re.Match[str]]]:
        """Every file whose name ends like a regular expression, whatever the case, in order."""
        wanted = re.compile(rf"(?:^|/){pattern}$", re.IGNORECASE)
        for members in self._by_file_name.values():
            for member in members:
                if match := wanted.search(member.name):
                    yield member, match

    def find(self, names: dict[str, str], below: str = "") -> dict[str, Member]:
        """The files of some sources, as far as they are there.

        Args:
            names: file name by source id, in any case.
            below: regular expression of a folder or archive somewhere above the file, without
                ``.zip``; empty: anywhere.
        """
        folder = re.compile(rf"(?:^|/){below}(?:\.zip)?/" if below else "", re.IGNORECASE)
        found = {}
        for source, name in names.items():
            for member in self._by_file_name.get(name.lower(), []):
                if folder.search(member.name):
                    found[source] = member
                    break
        return found

    def require(
        self, what: str, names: dict[str, str], archives: str, places: Sequence[str] = ("",)
    ) -> dict[str, Member]:
        """The files of all sources.

        Args:
            what: what they are, for the error.
            names: see ``find``.
            archives: where they lie officially, for the error.
            places: what ``find`` knows as ``below``, the first choice first.

        Raises:
            MissingDataError: some are not there; counts and names them.
        """
        found: dict[str, Member] = {}
        for below in reversed(places):
            found |= self.find(names, below)
        if missing := [name for source, name in names.items() if source not in found]:
            first = ", ".join(missing[:_NUM_NAMED])
            given = ", ".join(str(source) for source in self._sources)
            raise MissingDataError(
                f"{len(missing)} of {len(names)} {what}s are not in {given} (first: {first}); add "
                f"{archives}, or the folder it was unpacked to, with --source"
            )
        return {source: found[source] for source in names}

    def _list_source(self, source: Path) -> Iterator[Member]:
        if source.is_file():
            yield from self._list_zip(source, source.resolve().name)
        elif source.is_dir():
            name = source.resolve().name
            for path in sorted(path for path in source.rglob("*") if path.is_file()):
                inside = f"{name}/{path.relative_to(source).as_posix()}"
                if path.suffix.lower() != ".zip":
                    yield Member(name=inside, path=path)
                elif path.name.lower() not in self._skip:
                    yield from self._list_zip(path, inside)
        else:
            raise MissingDataError(f"--source {source} is no file and no folder")

    def _list_zip(self, path: Path, name: str) -> Iterator[Member]:
        with path.open("rb") as file:
            yield from self._list_part(path, file, 0, name)

    def _list_part(self, path: Path, file: Any, start: int, name: str) -> Iterator[Member]:
        """Members of the archive that ``file`` holds; it begins at byte ``start`` of ``path``."""
        try:
            infos = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise DataError(
                f"{name} is truncated or no zip archive ({error}); get it again"
            ) from error
        for info in infos:
            member = Member(
                name=f"{name}/{info.filename}",
                path=path,
                zipped=info,
                offset=start + info.header_offset,
            )
            if info.is_dir():
                continue
            if not info.filename.lower().endswith(".zip"):
                yield member
            elif _file_name(info.filename) not in self._skip:
                yield from self._list_inner(member)

    def _list_inner(self, member: Member) -> Iterator[Member]:
        assert member.zipped is not None
        if member.zipped.compress_type != zipfile.ZIP_STORED:
            if _file_name(member.name) not in self._in_place:
                yield from self._list_zip(self._unpack(member), member.name)
            return
        with member.path.open("rb") as file:
            start, part = member.part_of(file)
            yield from self._list_part(member.path, part, start, member.name)

    def _unpack(self, member: Member) -> Path:
        assert member.zipped is not None
        self._scratch.mkdir(parents=True, exist_ok=True)
        path = self._scratch / f"{len(list(self._scratch.iterdir()))}.zip"
        text = f"unpacking {member.name}"
        bar = tqdm(desc=text, total=member.zipped.file_size, unit="B", unit_scale=True)
        with path.open("wb") as file, bar:
            for block in member.blocks():
                file.write(block)
                bar.update(len(block))
        return path


def _file_name(name: str) -> str:
    return name.rpartition("/")[2].lower()
