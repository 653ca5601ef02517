"""Rasters that are read by window: TIFF files without compression, mapped into memory.

A training crop needs a part of its tile. What is compressed must be decoded as a whole for it;
here only the pages that hold the window are touched, and any viewer still opens the files.
"""

import json
import mmap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from utils.errors import DataError, MissingDataError
from utils.files import atomic_path

SUFFIX = ".tif"
_NUM_HEADERS = 1 << 14  # kept in memory, about 1 KiB each: parsing one takes longer than a crop
_DESCRIPTION = 270  # TIFF tag ImageDescription
Kind = Literal["RGB", "8-bit", "16-bit"]  # what a pixel is: (3,) uint8, uint8, uint16
_KINDS: dict[str, Kind] = {"RGB": "RGB", "L": "8-bit", "I;16": "16-bit"}  # by Pillow's mode
_PIXELS: dict[Kind, tuple[type[np.generic], tuple[int, ...]]] = {
    "RGB": (np.uint8, (3,)),
    "8-bit": (np.uint8, ()),
    "16-bit": (np.uint16, ()),
}


@dataclass(frozen=True, kw_only=True)
class _Header:
    kind: Kind
    shape: tuple[int, ...]
    offset: int  # of the first pixel, in bytes
    text: str


def write_raster(path: Path, array: np.ndarray, text: dict[str, Any] | None = None) -> None:
    """Write an array as TIFF in one strip, atomically; the same input gives the same bytes.

    Args:
        path: file to write.
        array: ``(H, W, 3)`` uint8 RGB, ``(H, W)`` uint8 or ``(H, W)`` uint16.
        text: plain values kept in the file (as JSON in its ImageDescription).
    """
    if array.ndim < 2 or (array.dtype, array.shape[2:]) not in _PIXELS.values():
        raise ValueError(f"a raster is RGB or 8 or 16 bit, not {array.shape} {array.dtype}")
    tags = {} if text is None else {_DESCRIPTION: json.dumps(text)}
    with atomic_path(path) as partial:
        Image.fromarray(array).save(partial, format="TIFF", compression="raw", tiffinfo=tags)


def open_raster(path: Path, kind: Kind) -> np.ndarray:
    """The pixels of a raster, mapped: what is not looked at is not read.

    Args:
        path: the file.
        kind: what it must hold.

    Returns:
        ``(H, W, 3)`` uint8 RGB, ``(H, W)`` uint8 or ``(H, W)`` uint16, not writable.

    Raises:
        MissingDataError: there is no such file.
        DataError: it was not written by ``write_raster``, is not whole, or of another kind.
    """
    header = _read_header(path)
    if header.kind != kind:
        raise DataError(f"{path} is {header.kind}, not {kind}; prepare or generate it again")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    count = int(np.prod(header.shape))
    return np.frombuffer(mapped, _PIXELS[kind][0], count, header.offset).reshape(header.shape)


def read_raster(path: Path, kind: Kind) -> np.ndarray:
    """The pixels of a raster in memory, writable; the rest as ``open_raster``."""
    return np.array(open_raster(path, kind))


def read_text(path: Path) -> dict[str, Any]:
    """What ``write_raster`` was given as text, without a look at the pixels.

    Errors as in ``open_raster``, also if the file is not whole.
    """
    text = _read_header(path).text
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise _strange(path, f"its description is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise _strange(path, f"its description is a {type(value).__name__}")
    return value


def _read_header(path: Path) -> _Header:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingDataError(f"{path} does not exist") from error
    return _parse_header(path, found.st_size, (found.st_ino, found.st_mtime_ns))


@lru_cache(_NUM_HEADERS)
def _parse_header(path: Path, num_bytes: int, version: tuple[int, int]) -> _Header:
    """The header of a file, and whether the file is as long as it says.

    Args:
        path: the file.
        num_bytes: its length.
        version: tells a file from another one that had its name before.
    """
    try:
        with Image.open(path, formats=["TIFF"]) as image:
            mode, size, parts = image.mode, image.size, image.tile
            text = image.tag_v2.get(_DESCRIPTION, "")  # type: ignore[attr-defined]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _strange(path, str(error)) from error
    codecs = {codec for codec, *_ in parts}
    if mode not in _KINDS or len(parts) != 1 or codecs != {"raw"}:
        found = f"{mode}, {len(parts)} strips or tiles, {', '.join(sorted(codecs)) or '-'}"
        raise _strange(path, found)
    first_byte = parts[0].offset
    kind = _KINDS[mode]
    dtype, channels = _PIXELS[kind]
    shape = (size[1], size[0], *channels)
    expected = first_byte + int(np.prod(shape)) * np.dtype(dtype).itemsize
    if num_bytes != expected:
        raise DataError(
            f"{path} is not whole: {num_bytes} bytes, its header says {expected}; prepare or "
            "generate it again"
        )
    return _Header(kind=kind, shape=shape, offset=first_byte, text=text)


def _strange(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} is no raster as prepare.py and generate.py write them, TIFF without compression "
        f"in one strip ({what}); prepare or generate it again"
    )
