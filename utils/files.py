"""Files on disk: atomic writes, JSON, small pictures, hashes, lists of images."""

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from PIL import Image

from utils.errors import DataError, MissingDataError

T = TypeVar("T")
_NUM_SUFFIXES = 5  # in a message
_PARTIAL_LENGTH = 50  # characters of a name in that of its temporary file
_PARTIAL_NAME = re.compile(r"\.(.*)\.[0-9a-f]{12}\.partial", re.DOTALL)
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".j2k", ".img"),
    *(".vrt", ".ntf", ".nitf", ".pix", ".ers", ".mrf", ".ppm", ".pgm", ".sgi"),
)
_RAW_SUFFIXES = (".bil", ".bip", ".bsq", ".dat", ".raw")  # of images if a header lies beside them
_HEADER = ".hdr"
# Files that belong to an image of the same stem: placement, statistics, masks, overviews, styles.
_SIDECARS = (
    *(".tfw", ".tifw", ".tfwx", ".jgw", ".jpgw", ".pgw", ".pngw", ".gfw", ".bpw", ".j2w", ".wld"),
    *(".prj", ".xml", ".msk", ".ovr", ".qml", ".points", ".rpb", ".rrd", ".ige", ".idx", ".ppg"),
    *(".stx", ".clr", _HEADER),
)


@contextmanager
def atomic_path(path: Path, *, keeps_first: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, and rename the file when the block ends.

    The file is flushed to the disk before it is renamed, so a reader (or a restart after a crash)
    sees the complete new file or the old one. If the block raises, the temporary file is removed.

    Args:
        path: the file.
        keeps_first: leave a file that exists by then as it is: of several processes, one writes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Random, because processes in containers that share a disk can have the same number. A long
    # name is cut, because the temporary one must not exceed the limit of the file system.
    partial = path.with_name(f".{path.name[:_PARTIAL_LENGTH]}.{uuid4().hex[:12]}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        if keeps_first:
            with suppress(FileExistsError):
                os.link(partial, path)
            partial.unlink()
        else:
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partial(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder.

    No other process may be writing there.
    """
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)


def remove_partial_of(paths: Iterable[Path], prefixes: Iterable[Path] = ()) -> None:
    """Remove the temporary files that killed processes left of certain files, and no others.

    No other process may be writing these files.

    Args:
        paths: the files, as given to ``atomic_path``.
        prefixes: the same for all files whose path begins like one of these.
    """
    exact = {(path.parent, path.name[:_PARTIAL_LENGTH]) for path in paths}
    begins = {(path.parent, path.name[:_PARTIAL_LENGTH]) for path in prefixes}
    for folder in {folder for folder, _ in exact | begins}:
        for partial in folder.glob(".*.partial"):
            match = _PARTIAL_NAME.fullmatch(partial.name)
            if match is None or not partial.is_file() or partial.is_symlink():
                continue
            starts = {(folder, match[1][: end + 1]) for end in range(len(match[1]))}
            if (folder, match[1]) in exact or begins & starts:
                partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a plain value to ``path`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def to_json(value: Any) -> Any:
    """Convert to plain JSON values.

    Tuples become lists, numpy scalars numbers, nan and infinity null, other objects their text.
    """
    if isinstance(value, dict):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, bool, int)) else str(value)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is not JSON.
    """
    if not path.is_file():
        raise MissingDataError(f"{path} does not exist")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a mark
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); restore or delete it") from error


def remembered(path: Path | None, compute: Callable[[], T]) -> T:
    """Return a plain value from a JSON file, or compute it and write the file.

    Without ``path``, the value is computed and not written.
    """
    if path is not None and path.is_file():
        return read_json(path)
    value = compute()
    if path is not None:
        write_json(path, value)
    return value


def write_png(path: Path, array: np.ndarray) -> None:
    """Write an array as PNG, atomically.

    Args:
        path: file to write.
        array: ``(H, W, 3)`` uint8 RGB, ``(H, W)`` uint8 or ``(H, W)`` uint16.
    """
    with atomic_path(path) as partial:
        Image.fromarray(array).save(partial, format="PNG")


def read_rgb(path: Path) -> np.ndarray:
    """Read a small picture as ``(H, W, 3)`` uint8 RGB.

    Raises:
        MissingDataError: there is no such file.
        DataError: Pillow cannot read it.
    """
    if not path.is_file():
        raise MissingDataError(f"{path} does not exist")
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); replace the file") from error


@dataclass(frozen=True, kw_only=True)
class FolderContent:
    """Visible files at any depth of a folder, by their suffixes."""

    images: list[Path]  # sorted
    passed_over: list[Path]  # sorted; neither images nor files that belong to one


def list_content(folder: Path, more_suffixes: Collection[str] = ()) -> FolderContent:
    """List all files below ``folder``; hidden files and folders are left out.

    World files, statistics, masks and the like (``a.tfw`` and ``a.tif.aux.xml`` of ``a.tif``) are
    in neither list.

    Args:
        folder: folder to search.
        more_suffixes: in lower case; files with these count as images too.

    Raises:
        MissingDataError: the folder is missing or holds no image.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise MissingDataError(f"{folder} {what}")
    visible = (
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    files = {path: None for path in sorted(visible) if path.is_file()}  # ordered, and fast to ask
    suffixes = (*IMAGE_SUFFIXES, *more_suffixes)
    images = [path for path in files if path.suffix.lower() in suffixes or _is_raw(path, files)]
    owners = {*images, *(path.with_suffix("") for path in images)}
    others = [path for path in files if path not in owners and not _is_sidecar(path, owners)]
    if not images:
        found = f", only {_suffixes_of(others)}" if others else ""
        raise MissingDataError(f"{folder} holds no image ({', '.join(suffixes)}){found}")
    return FolderContent(images=images, passed_over=others)


def list_images(folder: Path) -> list[Path]:
    """Return all image files below ``folder`` as ``list_content`` finds them; errors as there."""
    return list_content(folder).images


def passed_over_line(folder: Path, files: Sequence[Path]) -> str | None:
    """Return a line that counts the files passed over in a folder of images; None without any."""
    if not files:
        return None
    number, suffixes = len(files), _suffixes_of(files)
    if number == 1:
        return f"1 file of {folder} is no image by its suffix ({suffixes}) and was passed over"
    of = f"{number} files of {folder} are no images"
    return f"{of} by their suffix ({suffixes}) and were passed over"


def _is_raw(path: Path, files: Collection[Path]) -> bool:
    headers = path.with_suffix(_HEADER), path.with_name(path.name + _HEADER)
    return path.suffix.lower() in _RAW_SUFFIXES and any(header in files for header in headers)


def _is_sidecar(path: Path, owners: Collection[Path]) -> bool:
    stem = path.with_suffix("")
    return path.suffix.lower() in _SIDECARS and (stem in owners or stem.with_suffix("") in owners)


def _suffixes_of(files: Iterable[Path]) -> str:
    """Return the suffixes of files, the most frequent first, for messages."""
    counts = Counter(path.suffix.lower() or "none" for path in files)
    listed = [suffix for suffix, _ in counts.most_common(_NUM_SUFFIXES)]
    return ", ".join([*listed, "..."] if len(counts) > _NUM_SUFFIXES else listed)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
