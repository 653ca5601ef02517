"""One block (strip or tile) of a TIFF file: its bytes decoded to samples.

Deflate is undone by Python's own zlib, up to the length a block may have. For the other codecs
the libtiff inside Pillow works: the bytes get a small TIFF file of one strip round them. A codec
that makes bytes of bytes (LZW, PackBits, ZSTD, LZMA) is told that they are grey pixels, so that any
type of sample passes; the predictor (TIFF 6.0, section 14; TIFF Technical Note 3 for floats) is
then undone here. JPEG is told what its pixels are, so that libtiff turns YCbCr to RGB.
"""

import io
import zlib

import numpy as np
from PIL import Image

from utils.errors import DataError
from utils.rasters import tiff_layout as coding
from utils.rasters import tiff_tags as tag
from utils.rasters.tiff_layout import TiffLayout
from utils.rasters.tiff_tags import Entry, encode_directory, encode_header

_MAX_RESTS = 16  # times the length of a block that more is unpacked, to come to its checksum


def decode_block(layout: TiffLayout, content: bytes, rows: int) -> np.ndarray:
    """The samples of one block.

    Args:
        layout: of the file.
        content: bytes of the block, not empty.
        rows: that the block holds; fewer than ``layout.block_size`` in a last strip.

    Returns:
        ``(rows, columns, samples)`` in the native form of ``layout.dtype``; samples below 8 bits
        as uint8. JPEG and WebP: uint8 grey or RGB, or the four of CMYK.

    Raises:
        DataError: the block is damaged, without the name of the file.
    """
    try:
        if layout.compression == coding.WEBP:
            return _decode_webp(layout, content, rows)
        if layout.compression == coding.JPEG:
            return _decode_jpeg(layout, content, rows)
        flat = _decode_bytes(layout, content, rows)
    except DataError:
        raise
    except Exception as error:  # broken bytes make Pillow raise nearly anything
        raise DataError(f"{layout.compression_name}: {error or type(error).__name__}") from error
    return _samples(layout, flat)


def _decode_bytes(layout: TiffLayout, content: bytes, rows: int) -> np.ndarray:
    """Undo a codec of bytes; ``(rows, row bytes)`` uint8."""
    expected = rows * layout.row_bytes
    if layout.compression in (coding.DEFLATE, coding.OLD_DEFLATE):
        content = _inflate(content, expected)
    elif layout.compression != coding.NONE:
        entries: dict[int, Entry] = {
            tag.BITS: (tag.SHORT, [8]),
            tag.PHOTOMETRIC: (tag.SHORT, [coding.MIN_IS_BLACK]),
        }
        image = _open_strip(layout, content, (rows, layout.row_bytes), entries)
        return np.array(image)
    if len(content) < expected:
        raise DataError(f"{layout.compression_name}: {len(content)} of {expected} bytes")
    return np.frombuffer(content, np.uint8, expected).reshape(rows, -1)


def _inflate(content: bytes, expected: int) -> bytes:
    """Undo Deflate; the rest of a longer block is looked at for its checksum alone."""
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(content, expected)
    for _ in range(_MAX_RESTS):
        if unpacker.eof:
            break
        unpacker.decompress(unpacker.unconsumed_tail, max(1, expected))
    return unpacked


def _decode_jpeg(layout: TiffLayout, content: bytes, rows: int) -> np.ndarray:
    samples, photometric = layout.block_samples, layout.photometric
    entries: dict[int, Entry] = {tag.BITS: (tag.SHORT, [8] * samples)}
    if layout.jpeg_tables:
        entries[tag.JPEG_TABLES] = (7, layout.jpeg_tables)
    if photometric == coding.YCBCR:
        entries[tag.SUBSAMPLING] = (tag.SHORT, layout.subsampling)
    elif photometric != coding.CMYK or samples < 4:
        photometric = coding.RGB if samples >= 3 else coding.MIN_IS_BLACK
    colors = {coding.MIN_IS_BLACK: 1, coding.CMYK: 4}.get(photometric, 3)
    if samples > colors:  # at most one more; Pillow knows it as alpha in all versions
        entries[tag.EXTRA_SAMPLES] = (tag.SHORT, [2] * (samples - colors))
    entries[tag.PHOTOMETRIC] = (tag.SHORT, [photometric])
    image = _open_strip(layout, content, (rows, layout.block_size[1]), entries)
    return np.array(image).reshape(*image.size[::-1], -1)


def _decode_webp(layout: TiffLayout, content: bytes, rows: int) -> np.ndarray:
    """A WebP block is a WebP file; Pillow's libtiff may lack the codec, but not Pillow."""
    image = Image.open(io.BytesIO(content), formats=["WEBP"])
    if image.size != (layout.block_size[1], rows):
        raise DataError(f"WebP: {image.size[0]} x {image.size[1]} pixels")
    return np.array(image.convert("RGB"))


def _open_strip(
    layout: TiffLayout, content: bytes, size: tuple[int, int], entries: dict[int, Entry]
) -> Image.Image:
    """Decode one strip of ``size`` pixels by a TIFF file in memory that holds nothing else."""
    rows, columns = size
    first = 8  # after the header
    entries = {
        **entries,
        tag.WIDTH: (tag.LONG, [columns]),
        tag.HEIGHT: (tag.LONG, [rows]),
        tag.COMPRESSION: (tag.SHORT, [layout.compression]),
        tag.SAMPLES: (tag.SHORT, [len(entries[tag.BITS][1])]),
        tag.ROWS_PER_STRIP: (tag.LONG, [rows]),
        tag.STRIP_OFFSETS: (tag.LONG, [first]),
        tag.STRIP_BYTES: (tag.LONG, [len(content)]),
    }
    padding = bytes(len(content) % 2)
    at = first + len(content) + len(padding)
    file = encode_header(at) + content + padding + encode_directory(entries, at)
    image = Image.open(io.BytesIO(file), formats=["TIFF"])
    image.load()
    return image


def _samples(layout: TiffLayout, flat: np.ndarray) -> np.ndarray:
    """Bytes of rows -> samples, the predictor undone."""
    columns, samples = layout.block_size[1], layout.block_samples
    if layout.bits < 8:
        shifts = np.arange(8 - layout.bits, -1, -layout.bits, dtype=np.uint8)
        parts = flat[:, :, None] >> shifts & ((1 << layout.bits) - 1)
        return parts.reshape(len(flat), -1)[:, :columns, None]
    if layout.predictor == 3:
        return _undo_float_predictor(layout, flat).reshape(-1, columns, samples)
    native = layout.dtype.newbyteorder("=")
    values = flat.view(layout.dtype).astype(native, copy=False)
    if layout.predictor == 2:
        values = values.view(f"u{native.itemsize}")
        values = _running_sums(values, samples).view(native)
    return values.reshape(-1, columns, samples)


def _undo_float_predictor(layout: TiffLayout, flat: np.ndarray) -> np.ndarray:
    """Rows hold the most significant bytes of all samples, then the next ones, as differences."""
    size = layout.dtype.itemsize
    planes = _running_sums(flat, layout.block_samples).reshape(len(flat), size, -1)
    big_endian = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">f{size}")
    return big_endian.astype(f"f{size}")


def _running_sums(values: np.ndarray, stride: int) -> np.ndarray:
    """Sums along rows of every ``stride``-th value, modulo the type.

    By doubling: after n steps a value is the sum of 2^n differences. That is whole-array work, and
    faster than ``np.add.accumulate`` for the lengths of real rows.
    """
    sums = values.copy()
    step = stride
    while step < sums.shape[1]:
        sums[:, step:] = sums[:, step:] + sums[:, :-step]
        step *= 2
    return sums


def sparse_block(layout: TiffLayout, rows: int) -> np.ndarray:
    """What a block without bytes stands for: zeros."""
    shape = rows, layout.block_size[1], layout.block_samples
    return np.zeros(shape, layout.dtype.newbyteorder("="))
