"""Memory-mapped rasters of a prepared set: uncompressed TIFF files, read by window.

A training crop is a part of its tile. A compressed tile would have to be decoded as a whole; of a
mapped one only the pages of the window are read, and any viewer opens the files.
"""

import json
import mmap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from utils.errors import DataError, MissingDataError
from utils.files import atomic_path

SUFFIX = ".tif"
_NUM_HEADERS = 1 << 14  # cached, about 1 KiB each: parsing one takes longer than a crop
_DESCRIPTION = 270  # TIFF tag ImageDescription
Kind = Literal["RGB", "8-bit", "16-bit"]  # a pixel is (3,) uint8, uint8, or uint16
_KINDS: dict[str, tuple[Kind, type[np.generic], tuple[int, ...]]] = {  # by Pillow's mode
    "RGB": ("RGB", np.uint8, (3,)),
    "L": ("8-bit", np.uint8, ()),
    "I;16": ("16-bit", np.uint16, ()),
}


@dataclass(frozen=True, kw_only=True)
class _Header:
    kind: Kind
    dtype: type[np.generic]
    shape: tuple[int, ...]
    offset: int  # of the first pixel, in bytes
    text: str


def write_raster(path: Path, array: np.ndarray, text: dict[str, Any] | None = None) -> None:
    """Write an array as TIFF in one strip, atomically; equal input gives equal bytes.

    Args:
        path: the file.
        array: ``(H, W, 3)`` uint8 RGB, ``(H, W)`` uint8 or ``(H, W)`` uint16.
        text: plain values stored in the file (as JSON in its ImageDescription).
    """
    pixels = [pixel for _, *pixel in _KINDS.values()]
    if array.ndim < 2 or [array.dtype, array.shape[2:]] not in pixels:
        raise ValueError(f"a raster is RGB or 8 or 16 bit, not {array.shape} {array.dtype}")
    tags = {} if text is None else {_DESCRIPTION: json.dumps(text)}
    with atomic_path(path) as partial:
        Image.fromarray(array).save(partial, format="TIFF", compression="raw", tiffinfo=tags)


def open_raster(path: Path, kind: Kind) -> np.ndarray:
    """Memory-map the pixels of a raster, not writable; only pages that are accessed are read.

    Raises:
        MissingDataError: there is no such file.
        DataError: it was not written by ``write_raster``, is truncated, or of another kind.
    """
    header = _read_header(path)
    if header.kind != kind:
        raise DataError(f"{path} is {header.kind}, not {kind}; prepare or generate it again")
    with path.open("rb") as file:  # numpy.memmap takes half as long again
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    count = int(np.prod(header.shape))
    return np.frombuffer(mapped, header.dtype, count, header.offset).reshape(header.shape)


def read_raster(path: Path, kind: Kind) -> np.ndarray:
    """Read the pixels of a raster, writable; otherwise as ``open_raster``."""
    return np.array(open_raster(path, kind))


def read_text(path: Path) -> dict[str, Any]:
    """Read the ``text`` given to ``write_raster``, without reading pixels.

    Raises:
        MissingDataError: there is no such file.
        DataError: as in ``open_raster``.
    """
    text = _read_header(path).text
    try:
        return dict(json.loads(text or "{}"))
    except (ValueError, TypeError) as error:
        raise _wrong_format(path, "its description is no JSON object") from error


def _read_header(path: Path) -> _Header:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingDataError(f"{path} does not exist") from error
    return _parse_header(path, found.st_size, (found.st_ino, found.st_mtime_ns))


@lru_cache(_NUM_HEADERS)
def _parse_header(path: Path, num_bytes: int, version: tuple[int, int]) -> _Header:
    """Parse the header of a file and check the length of the file against it.

    ``version`` distinguishes the file from earlier ones of this name in the cache.
    """
    try:
        # Not by Image.open, which refuses large images: of these only the header is read.
        with TiffImageFile(path) as image:
            mode, size, parts = image.mode, image.size, image.tile
            text = image.tag_v2.get(_DESCRIPTION, "")
    except (OSError, SyntaxError, ValueError, KeyError, TypeError) as error:
        raise _wrong_format(path, str(error)) from error
    codecs = {codec for codec, *_ in parts}
    if mode not in _KINDS or len(parts) != 1 or codecs != {"raw"}:
        found = f"{mode}, {len(parts)} strips or tiles, {', '.join(sorted(codecs)) or '-'}"
        raise _wrong_format(path, found)
    first_byte = parts[0].offset
    kind, dtype, channels = _KINDS[mode]
    shape = (size[1], size[0], *channels)
    expected = first_byte + int(np.prod(shape)) * np.dtype(dtype).itemsize
    if num_bytes != expected:
        raise DataError(
            f"{path} is not whole: {num_bytes} bytes, its header says {expected}; prepare or "
            "generate it again"
        )
    return _Header(kind=kind, dtype=dtype, shape=shape, offset=first_byte, text=text)


def _wrong_format(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is not a raster written by prepare.py or generate.py, uncompressed TIFF "
        f"in one strip ({reason}); prepare or generate it again"
    )
