"""Files on disk: atomic writes, JSON, small pictures, hashes, lists of images."""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from PIL import Image

from utils.errors import DataError, MissingDataError

T = TypeVar("T")
_PARTIAL_LENGTH = 50  # characters of a name in that of its temporary file
_PARTIAL_NAME = re.compile(r"\.(.*)\.[0-9a-f]{12}\.partial", re.DOTALL)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, and rename the file when the block ends.

    The file is flushed to the disk before it is renamed, so a reader (or a restart after a crash)
    sees the complete new file or the old one. If the block raises, the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Random, because processes in containers that share a disk can have the same number. A long
    # name is cut, because the temporary one must not exceed the limit of the file system.
    partial = path.with_name(f".{path.name[:_PARTIAL_LENGTH]}.{uuid4().hex[:12]}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
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
        return json.loads(path.read_text(encoding="utf-8"))
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


def list_images(folder: Path) -> list[Path]:
    """Return all image files below ``folder``, sorted; hidden files and folders are skipped.

    Raises:
        MissingDataError: the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise MissingDataError(f"{folder} is not a folder")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    hidden = [any(part.startswith(".") for part in p.relative_to(folder).parts) for p in paths]
    paths = [p for p, skip in zip(paths, hidden, strict=True) if p.is_file() and not skip]
    if not paths:
        raise MissingDataError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return paths


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
