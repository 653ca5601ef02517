"""Files on disk: atomic writes, hashes, and images read with errors that name the file."""

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
_STRIP_ROWS = 256
_PARTIAL_LENGTH = 50  # characters of a name in that of its temporary file
_PARTIAL_NAME = re.compile(r"\.(.*)\.[0-9a-f]{12}(\.raw)?\.partial", re.DOTALL)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; move it to ``path`` when the block ends well.

    The file is flushed to the disk before it gets its name, so a reader (or a restart after a
    crash) sees the whole new file or the old one. If the block raises, the temporary file goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by process number: in containers that share a disk all may have the same. Of a long name
    # only the beginning: the temporary one must not be too long where the name itself is not.
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

    Nobody may be writing there.
    """
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)


def remove_partial_of(paths: Iterable[Path], prefixes: Iterable[Path] = ()) -> None:
    """Remove the temporary files that killed processes left of certain files, and no others.

    Nobody may be writing these files.

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
            name = match[1]
            starts = {(folder, name[: end + 1]) for end in range(len(name))}
            if (folder, name) in exact or begins & starts:
                partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a plain value to ``path`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def to_json(value: Any) -> Any:
    """Convert to what JSON can hold: nan and infinity become null, unknown objects their text."""
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
    """A plain value from a JSON file; if that is not there, computed and written to it.

    Without ``path``, nothing is remembered.
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


def open_image(path: Path) -> Image.Image:
    """Open and fully decode an image file in its own mode.

    Raises:
        MissingDataError: there is no such file.
        DataError: Pillow cannot read it, or it is truncated.
    """
    if not path.is_file():
        raise MissingDataError(f"{path} does not exist")
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); replace the file") from error
    return image


def strips(image: Image.Image, mode: str | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Parts of some hundred rows, and the row each begins with.

    numpy copies a part cheaply; of a whole image it would make several copies on the way.

    Args:
        image: any.
        mode: Pillow's name of what the pixels are turned to; None: they stay as they are.
    """
    for top in range(0, image.height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, image.height)
        strip = image.crop((0, top, image.width, bottom))
        yield top, np.asarray(strip if mode in (None, strip.mode) else strip.convert(mode))


def read_rgb(path: Path) -> np.ndarray:
    """Read an image file as ``(H, W, 3)`` uint8 RGB (greyscale and palettes are expanded)."""
    image = open_image(path)
    if image.mode.startswith(("I", "F")):  # also I;16B, the big-endian TIFFs
        raise DataError(
            f"{path} has more than 8 bits a channel (mode {image.mode}); convert it to 8-bit RGB"
        )
    return np.array(image.convert("RGB"))


def list_images(folder: Path) -> list[Path]:
    """All image files below ``folder``, in sorted order; hidden files and folders are left out.

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
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
