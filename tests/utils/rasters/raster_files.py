"""Raster files of tests, written by rasterio (GDAL), Pillow, or by the letter of the format."""

import struct
import time
import tracemalloc
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from utils.errors import DataError
from utils.rasters.reading import open_scene
from utils.rasters.rendering import Rendering

EVERYTHING = slice(None)


def picture(height: int, width: int, bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    """``(H, W, bands)`` noise that spans the whole type."""
    top = np.iinfo(dtype).max
    rng = np.random.default_rng(height * width + bands)
    return rng.integers(0, top, (height, width, bands), dtype, endpoint=True)


def write_tiff(
    path: Path, values: np.ndarray, *, orientation: int | None = None, **options
) -> Path:
    """Write ``(H, W, bands)`` with the creation options of GDAL's GTiff driver."""
    height, width, bands = values.shape
    colormap = options.pop("colormap", None)
    size = {"height": height, "width": width, "count": bands, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", **size, **options) as file:
        file.write(np.moveaxis(values, -1, 0))
        if colormap is not None:
            file.write_colormap(1, colormap)
        if orientation is not None:
            file.update_tags(TIFFTAG_RESOLUTIONUNIT="2")
    if orientation is not None:  # GDAL does not write the tag: another one is turned into it
        big_endian = options.get("endianness") == "BIG"
        big = options.get("bigtiff") == "YES"
        form = (">" if big_endian else "<") + ("HHQH" if big else "HHIH")
        was, becomes = (struct.pack(form, t, 3, 1, v) for t, v in ((296, 2), (274, orientation)))
        content = path.read_bytes()
        assert content.count(was) == 1
        path.write_bytes(content.replace(was, becomes))
    return path


def read_rgb(path: Path, stretch: tuple[float, float] | None = None) -> np.ndarray:
    """The whole image by our reader."""
    with open_scene(path, Rendering(stretch=(stretch,) if stretch else ())) as raster:
        return raster.read_rgb(EVERYTHING, EVERYTHING)


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png_header(width: int, height: int, bits: int, channels: int) -> bytes:
    """The first part of a PNG file."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    size = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size)


def write_png_16(path: Path, values: np.ndarray) -> None:
    """Write ``(H, W, channels)`` uint16, which Pillow cannot."""
    height, width, channels = values.shape
    rows = [b"\0" + row.tobytes() for row in values.astype(">u2")]
    content = chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    path.write_bytes(png_header(width, height, 16, channels) + content)


def crafted_tiff(path: Path, changes: Mapping[int, Sequence[int] | None]) -> Path:
    """A grey TIFF file of 8 x 8 pixels in one strip, some tags (of type LONG) of which lie."""
    tags = {256: [8], 257: [8], 258: [8], 259: [1], 262: [1], 273: [8], 277: [1], 278: [8]}
    tags |= {279: [64], **changes}
    entries = [(tag, values) for tag, values in sorted(tags.items()) if values is not None]
    body = struct.pack("<H", len(entries))
    for tag, values in entries:
        body += struct.pack("<HHII", tag, 4, len(values), values[0])
    path.write_bytes(b"II*\0" + struct.pack("<I", 72) + bytes(range(64)) + body + bytes(4))
    return path


def warnings_of(recwarn: pytest.WarningsRecorder) -> list[str]:
    """All but those of a missing georeference, which the reader silences where nobody records."""
    passed = (NotGeoreferencedWarning, ResourceWarning)
    return [str(each.message) for each in recwarn if not issubclass(each.category, passed)]


def refusal(path: Path, stretch: tuple[float, float] | None = None) -> str:
    """Read a file that must be refused: in one sentence that names it, soon, in little memory."""
    start = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        read_rgb(path, stretch)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert time.perf_counter() - start < 5
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)
