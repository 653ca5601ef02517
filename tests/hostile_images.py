"""A folder with thirty files as users have them: odd ones that are good, and bad ones."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

_LONG = "an aerial photograph with a very long name " * 5
_RNG = np.random.default_rng(0)

# Name -> width and height of the result.
GOOD = {
    "plain.png": (40, 30),
    "one.png": (1, 1),
    "column.png": (1, 2000),
    "row.png": (2000, 1),
    "grey.png": (40, 30),
    "grey_alpha.png": (40, 30),
    "alpha.png": (40, 30),
    "palette.png": (40, 30),
    "bits.png": (40, 30),
    "sixteen_bits.png": (40, 30),
    "sixteen_bits.tif": (40, 30),
    "cmyk.jpg": (40, 30),
    "cmyk.tif": (40, 30),
    "animated.webp": (40, 30),
    "animated.png": (40, 30),
    "rotated.jpg": (30, 40),  # EXIF: to be turned by a quarter
    "a.jpg.png": (40, 30),  # inside it is a JPEG
    "Größe – 大きさ.png": (40, 30),
    f"{_LONG}.png": (40, 30),
    "folder.png/inside.bmp": (40, 30),
}

# Name -> part of the error message.
BAD = {
    "zero_bytes.png": "cannot be read as an image",
    "zero_bytes.tif": "cannot be read as an image",
    "truncated.png": "cannot be read as an image",
    "truncated.jpg": "cannot be read as an image",
    "truncated.tif": "rows 0 to 29, columns 0 to 39 cannot be decoded",
    "text.png": "cannot be read as an image",
    "bomb.png": "too many to be decoded as a whole",
    "lying.tif": "cannot be read as an image",
    "floats.tif": "without an agreed black and white",
    "broken_block.tif": "columns 0 to 399 cannot be decoded",
}


def write_hostile_images(folder: Path) -> None:
    """Write all of them."""
    (folder / "folder.png").mkdir(parents=True)
    pixels = _RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    rgb = Image.fromarray(pixels)
    rgb.save(folder / "plain.png")
    for name in ("one.png", "column.png", "row.png"):
        Image.new("RGB", GOOD[name], (90, 120, 60)).save(folder / name)
    for name, mode in (
        ("grey.png", "L"),
        ("grey_alpha.png", "LA"),
        ("alpha.png", "RGBA"),
        ("palette.png", "P"),
        ("bits.png", "1"),
        ("cmyk.jpg", "CMYK"),
        ("cmyk.tif", "CMYK"),
    ):
        rgb.convert(mode).save(folder / name)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    deep.save(folder / "sixteen_bits.png")
    deep.save(folder / "sixteen_bits.tif")
    for name in ("animated.webp", "animated.png"):
        rgb.save(folder / name, save_all=True, append_images=[rgb.rotate(90)])
    exif = Image.Exif()
    exif[274] = 6
    rgb.save(folder / "rotated.jpg", exif=exif)
    rgb.save(folder / "a.jpg.png", format="JPEG")
    for name in ("Größe – 大きさ.png", f"{_LONG}.png", "folder.png/inside.bmp"):
        rgb.save(folder / name)
    _write_bad(folder, rgb)


def _write_bad(folder: Path, rgb: Image.Image) -> None:
    for name in ("zero_bytes.png", "zero_bytes.tif"):
        (folder / name).touch()
    for name in ("truncated.png", "truncated.jpg", "truncated.tif"):
        content = _encoded(rgb, name)
        (folder / name).write_bytes(content[: len(content) // 2])
    (folder / "text.png").write_text("no image at all\n")
    (folder / "bomb.png").write_bytes(_bomb())
    tiff = _encoded(rgb, "a.tif")
    (folder / "lying.tif").write_bytes(tiff[:4] + struct.pack("<I", 1 << 31) + tiff[8:])
    Image.fromarray(_RNG.random((30, 40), np.float32)).save(folder / "floats.tif")
    deflated = io.BytesIO()
    rgb.resize((400, 300)).save(deflated, "TIFF", compression="tiff_adobe_deflate")
    content = bytearray(deflated.getvalue())
    content[100:400] = b"\xff" * 300
    (folder / "broken_block.tif").write_bytes(content)


def _encoded(image: Image.Image, name: str) -> bytes:
    file = io.BytesIO()
    image.save(file, Image.registered_extensions()[Path(name).suffix])
    return file.getvalue()


def _bomb() -> bytes:
    """A few bytes that claim to be 60,000 x 60,000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")
