"""PNG files of kinds that Pillow does not write, by the letter of the format."""

import struct
import zlib
from pathlib import Path

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png_header(width: int, height: int, bits: int, channels: int) -> bytes:
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))


def write_png_16(path: Path, values: np.ndarray) -> None:
    """Write ``(H, W, channels)`` uint16; rows with the filters none, sub and up in turn."""
    height, width, channels = values.shape
    flat = np.frombuffer(values.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    rows = []
    for number, row in enumerate(flat):
        kind = number % 3
        if kind == 1:
            left = np.concatenate([np.zeros(2 * channels, np.uint8), row[: -2 * channels]])
            row = row - left
        elif kind == 2:
            row = row - flat[number - 1]
        rows.append(bytes([kind]) + row.tobytes())
    content = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    header = png_header(width, height, 16, channels)
    path.write_bytes(header + content + chunk(b"IEND", b""))
