"""How the pixels of a TIFF file lie on the disk: its blocks (strips or tiles) and what is in one.

Everything that a header may lie about is checked here, before a block is read.
"""

import io
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import DataError
from utils.rasters import tiff_tags as tag
from utils.rasters.tiff_tags import TiffTags

NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 5, 7, 8, 32946, 32773
LZMA, ZSTD, WEBP = 34925, 50000, 50001
_COMPRESSIONS = {
    NONE: "none",
    2: "CCITT RLE",
    3: "CCITT fax 3",
    4: "CCITT fax 4",
    LZW: "LZW",
    6: "old-style JPEG",
    JPEG: "JPEG",
    DEFLATE: "Deflate",
    34712: "JPEG 2000",
    34887: "LERC",
    OLD_DEFLATE: "Deflate",
    PACKBITS: "PackBits",
    LZMA: "LZMA",
    ZSTD: "ZSTD",
    WEBP: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_DECODED = {NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD, WEBP}
_PREDICTED = {LZW, DEFLATE, OLD_DEFLATE, LZMA, ZSTD}
_OPTIONAL = {LZMA: "lzma", ZSTD: "zstd"}  # as Pillow names them
_AS_COLORS = {JPEG, WEBP}  # their decoders make pixels of bytes, not bytes of bytes

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_DTYPES = {
    1: {8: "u1", 16: "u2", 32: "u4", 64: "u8"},
    2: {8: "i1", 16: "i2", 32: "i4", 64: "i8"},
    3: {16: "f2", 32: "f4", 64: "f8"},
}

# Decoded, in bytes. Pillow counts a byte as a pixel there, and warns of more than 89 million.
_MAX_BLOCK_BYTES = 80 << 20
_MAX_BLOCKS = 1 << 24  # their places alone take 256 MiB
_LONG_STRIP_BYTES = 4 << 20  # one that is not compressed is read in parts of about 1 MiB
_PART_BYTES = 1 << 20


class WholeOnly(Exception):
    """A TIFF file that is none for us, but may be one for Pillow. Holds what stands in the way."""


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """Where the blocks of a TIFF file lie and how they are coded.

    Attributes:
        size: height and width of the stored image.
        block_size: rows and columns of a block; a strip is as wide as the image.
        tiled: whether blocks at the edge are stored in full size.
        bits: of a sample.
        dtype: of a sample, in the file's byte order; samples below 8 bits become uint8.
        samples: of a pixel.
        planar: whether every sample has blocks of its own, all of the first one first.
        colors: ``(N, 3)`` uint8, the colours of a palette.
        offsets: of every block, in bytes; from left to right, then down, then by sample.
        lengths: of every block, in bytes.
    """

    path: Path
    size: tuple[int, int]
    block_size: tuple[int, int]
    tiled: bool
    bits: int
    dtype: np.dtype
    samples: int
    planar: bool
    compression: int
    predictor: int
    photometric: int
    subsampling: tuple[int, ...]
    jpeg_tables: bytes
    colors: np.ndarray | None
    offsets: np.ndarray
    lengths: np.ndarray

    @property
    def grid(self) -> tuple[int, int]:
        """Number of blocks down and across."""
        (height, width), (rows, columns) = self.size, self.block_size
        return -(-height // rows), -(-width // columns)

    @property
    def block_samples(self) -> int:
        """Samples of a pixel within one block."""
        return 1 if self.planar else self.samples

    @property
    def row_bytes(self) -> int:
        """Bytes in a row of a decoded block."""
        return -(-self.block_size[1] * self.block_samples * self.bits // 8)

    @property
    def compression_name(self) -> str:
        """For messages."""
        return _COMPRESSIONS.get(self.compression, f"number {self.compression}")


def read_layout(tags: TiffTags) -> TiffLayout:
    """Read and check how a TIFF file stores its pixels.

    Raises:
        WholeOnly: by another method than those that are read by window.
        DataError: it contradicts itself.
    """
    size = tags.number(tag.HEIGHT, 0), tags.number(tag.WIDTH, 0)
    if not (0 < size[0] < 1 << 31 and 0 < size[1] < 1 << 31):
        raise _contradicts(tags, f"it is {size[1]} pixels wide and {size[0]} high")
    compression = tags.number(tag.COMPRESSION, NONE)
    samples = tags.number(tag.SAMPLES, 1)
    if not 0 < samples <= 0xFFFF:
        raise _contradicts(tags, f"it has {samples} samples a pixel")
    tiled = tag.TILE_WIDTH in tags
    layout = TiffLayout(
        path=tags.path,
        size=size,
        block_size=_block_size(tags, size, tiled),
        tiled=tiled,
        bits=_same(tags, tag.BITS, 1, "bits"),
        dtype=np.dtype("u1"),
        samples=samples,
        planar=tags.number(tag.PLANAR, 1) == 2,
        compression=compression,
        predictor=tags.number(tag.PREDICTOR, 1) if compression in _PREDICTED else 1,
        photometric=tags.number(tag.PHOTOMETRIC, RGB if samples >= 3 else MIN_IS_BLACK),
        subsampling=tuple(int(value) for value in tags.array(tag.SUBSAMPLING)) or (2, 2),
        jpeg_tables=tags.array(tag.JPEG_TABLES).tobytes(),
        colors=None,
        offsets=np.zeros(0, np.uint64),
        lengths=np.zeros(0, np.uint64),
    )
    if compression not in _DECODED or not is_built_in(compression):
        raise WholeOnly(f"compression {layout.compression_name}")
    if tags.number(tag.FILL_ORDER, 1) != 1:
        raise WholeOnly("bits in reverse order (FillOrder 2)")
    layout = replace(layout, dtype=_dtype(tags, layout), colors=_colors(tags, layout))
    _check_coding(layout)
    return _with_blocks(layout, tags)


@lru_cache
def is_built_in(compression: int) -> bool:
    """Whether the libtiff inside this Pillow has one of the codecs that a build may lack."""
    if compression not in _OPTIONAL:
        return True
    try:
        Image.new("L", (1, 1)).save(io.BytesIO(), "TIFF", compression=_OPTIONAL[compression])
    except (OSError, KeyError, ValueError):
        return False
    return True


def _block_size(tags: TiffTags, size: tuple[int, int], tiled: bool) -> tuple[int, int]:
    if tiled:
        rows, columns = tags.number(tag.TILE_HEIGHT, 0), tags.number(tag.TILE_WIDTH, 0)
    else:
        rows, columns = min(tags.number(tag.ROWS_PER_STRIP, size[0]), size[0]), size[1]
    if rows < 1 or columns < 1:
        raise _contradicts(tags, f"its blocks are {columns} pixels wide and {rows} high")
    return rows, columns


def _same(tags: TiffTags, number: int, default: int, what: str) -> int:
    """The value of a tag that has one for every sample, if they are equal."""
    values = set(tags.array(number).tolist()) or {default}
    if len(values) > 1:
        raise WholeOnly(f"samples of different {what}")
    return int(values.pop())


def _dtype(tags: TiffTags, layout: TiffLayout) -> np.dtype:
    kind = _same(tags, tag.SAMPLE_FORMAT, 1, "formats")
    if layout.bits in (1, 2, 4) and kind == 1 and layout.block_samples == 1:
        return np.dtype("u1")
    name = _DTYPES.get(1 if kind == 4 else kind, {}).get(layout.bits)  # 4: undefined
    if name is None:
        raise WholeOnly(f"{layout.bits}-bit samples of format {kind}")
    return np.dtype(tags.order + name)


def _colors(tags: TiffTags, layout: TiffLayout) -> np.ndarray | None:
    """The palette; some programs write its 16-bit values in 8 bits."""
    if layout.photometric != PALETTE:
        return None
    values = tags.array(tag.COLOR_MAP)
    if layout.bits > 16 or values.size != 3 << layout.bits or values.dtype.kind != "u":
        raise _contradicts(tags, f"its palette has {values.size} values")
    return (values >> (8 if values.max() > 255 else 0)).astype(np.uint8).reshape(3, -1).T


def _check_coding(layout: TiffLayout) -> None:
    """Whether the combination of compression, predictor and colours is one we decode."""
    photometric, plain = layout.photometric, layout.dtype == np.uint8 and layout.bits == 8
    known = {MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK}
    if layout.compression == JPEG and layout.block_samples == 3:
        known.add(YCBCR)
    if photometric not in known:
        raise WholeOnly(f"colours of kind {photometric} (PhotometricInterpretation)")
    unsigned = layout.dtype.kind == "u" and layout.dtype.itemsize <= 2
    if photometric in (MIN_IS_WHITE, PALETTE, CMYK) and not unsigned:
        raise WholeOnly(f"{layout.dtype.name} samples as colours of kind {photometric}")
    if photometric == CMYK and layout.samples < 4:
        raise WholeOnly(f"{layout.samples} samples as CMYK")
    if layout.compression in _AS_COLORS and not (plain and layout.block_samples <= 4):
        raise WholeOnly(
            f"{layout.block_samples} samples of {layout.bits} bits in {layout.compression_name}"
        )
    if layout.predictor not in (1, 2, 3) or (layout.predictor > 1 and layout.bits < 8):
        raise WholeOnly(f"predictor {layout.predictor} on {layout.bits} bits")
    if layout.predictor == 3 and layout.dtype.kind != "f":
        raise WholeOnly(f"predictor 3 on {layout.dtype.name}")


def _with_blocks(layout: TiffLayout, tags: TiffTags) -> TiffLayout:
    """The layout with the places of its blocks."""
    down, across = layout.grid
    num_blocks = down * across * (layout.samples if layout.planar else 1)
    if num_blocks > _MAX_BLOCKS:
        raise _contradicts(tags, f"it has {num_blocks} blocks")
    wanted = (tag.TILE_OFFSETS, tag.TILE_BYTES) if layout.tiled else ()
    offsets_tag, lengths_tag = wanted or (tag.STRIP_OFFSETS, tag.STRIP_BYTES)
    offsets = tags.array(offsets_tag, 8 * _MAX_BLOCKS)[:num_blocks]
    lengths = tags.array(lengths_tag, 8 * _MAX_BLOCKS)[:num_blocks]
    if not len(offsets) == len(lengths) == num_blocks:
        raise _contradicts(
            tags, f"it has {num_blocks} blocks, {len(offsets)} offsets and {len(lengths)} lengths"
        )
    if offsets.dtype.kind != "u" or lengths.dtype.kind != "u":
        raise _contradicts(tags, "the places of its blocks are no whole numbers")
    layout = replace(layout, offsets=offsets, lengths=lengths)
    if layout.compression == NONE and not layout.tiled:
        layout = _in_parts(layout)
    if layout.block_size[0] * layout.row_bytes > _MAX_BLOCK_BYTES:
        raise WholeOnly(
            f"blocks of {layout.block_size[0]} x {layout.block_size[1]} pixels, more than "
            f"{_MAX_BLOCK_BYTES >> 20} MiB each"
        )
    return layout


def _in_parts(layout: TiffLayout) -> TiffLayout:
    """Long strips without compression, taken as several shorter ones."""
    (height, _), (rows, width) = layout.size, layout.block_size
    if rows * layout.row_bytes <= _LONG_STRIP_BYTES:
        return layout
    part = max(1, _PART_BYTES // layout.row_bytes)
    if rows < height:  # parts must not reach over the end of a strip
        part = max(number for number in range(1, part + 1) if rows % number == 0)
    starts = np.arange(0, height, part)
    parts = replace(layout, block_size=(part, width))
    if len(starts) * (layout.samples if layout.planar else 1) > _MAX_BLOCKS:
        raise WholeOnly(f"more than {_MAX_BLOCKS} rows")
    within = (starts % rows * layout.row_bytes).astype(np.uint64)
    shape = layout.samples if layout.planar else 1, layout.grid[0]
    strips, lengths = (
        a.reshape(shape)[:, starts // rows] for a in (layout.offsets, layout.lengths)
    )
    present = (strips > 0) & (lengths > 0)
    offsets = np.where(present, strips.astype(np.uint64) + within, 0).ravel()
    rest = np.where(lengths > within, lengths.astype(np.uint64) - within, 0)
    lengths = np.minimum(rest, part * layout.row_bytes)
    # A strip that ends too early is broken, not sparse: it keeps a length that is too short.
    lengths = np.where(present, np.maximum(lengths, 1), 0).ravel()
    return replace(parts, offsets=offsets, lengths=lengths)


def _contradicts(tags: TiffTags, what: str) -> DataError:
    return DataError(f"{tags.path} is a broken TIFF file ({what}); replace the file")
