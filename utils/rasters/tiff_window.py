"""Windows of a TIFF file as RGB: only the blocks that a window touches are decoded."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from utils.errors import DataError
from utils.rasters import tiff_layout as coding
from utils.rasters.pixel_values import Levels, Stretch, as_three_bands, cmyk_to_rgb, shown_bands
from utils.rasters.tiff_blocks import decode_block, sparse_block
from utils.rasters.tiff_layout import TiffLayout

# A row of tiles of 512 x 512 pixels takes 45 MiB where the image is 30,000 pixels wide.
_CACHE_BYTES = 128 << 20


class TiffWindows:
    """Reads windows of the stored image; blocks decoded last are kept, as RGB.

    Args:
        file: the TIFF file, open as long as this is used.
        layout: what is in it.
        stretch: see ``Levels``.

    Attributes:
        size: height and width of the stored image.

    Raises:
        DataError: the values need a stretch (see ``Levels``).
    """

    def __init__(self, file: BinaryIO, layout: TiffLayout, stretch: Stretch | None) -> None:
        self.size = layout.size
        self._file = file
        self._layout = layout
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        native = layout.dtype.newbyteorder("=")
        # Inks and palettes stand for 8-bit colours: those are stretched, at the end.
        self._is_color = layout.photometric in (coding.PALETTE, coding.CMYK)
        self._levels = Levels(native, None if self._is_color else stretch, layout.path)
        self._color_levels = Levels(np.dtype("u1"), stretch, layout.path)

    def read(self, rows: range, columns: range) -> np.ndarray:
        """``(len(rows), len(columns), 3)`` uint8 RGB.

        Args:
            rows: of the stored image, step 1, not empty.
            columns: likewise.

        Raises:
            DataError: a block is damaged.
        """
        window = np.empty((len(rows), len(columns), 3), np.uint8)
        block_rows, block_columns = self._layout.block_size
        for down in _touched(rows, block_rows):
            for across in _touched(columns, block_columns):
                top, left = down * block_rows, across * block_columns
                block = self._block(down, across)
                from_rows, to_rows = _overlap(rows, top, block.shape[0])
                from_columns, to_columns = _overlap(columns, left, block.shape[1])
                window[to_rows, to_columns] = block[from_rows, from_columns]
        return window

    def _block(self, down: int, across: int) -> np.ndarray:
        """One block as RGB; from the cache, if it is there."""
        place = down, across
        if place in self._cache:
            self._cache.move_to_end(place)
            return self._cache[place]
        block = self._as_rgb(self._samples(down, across))
        self._cache[place] = block
        self._cached_bytes += block.nbytes
        while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return block

    def _samples(self, down: int, across: int) -> np.ndarray:
        """Samples of a block: all, or those of the shown bands where each has its own blocks."""
        layout = self._layout
        if not layout.planar:
            return self._decode(down, across, 0)
        shown = 4 if layout.photometric == coding.CMYK else 3 if layout.samples >= 3 else 1
        return np.concatenate([self._decode(down, across, s) for s in range(shown)], axis=2)

    def _decode(self, down: int, across: int, sample: int) -> np.ndarray:
        layout = self._layout
        blocks_down, blocks_across = layout.grid
        number = (sample * blocks_down + down) * blocks_across + across
        offset, length = int(layout.offsets[number]), int(layout.lengths[number])
        rows = layout.block_size[0]
        if not layout.tiled:
            rows = min(rows, layout.size[0] - down * rows)
        if offset == 0 or length == 0:
            return sparse_block(layout, rows)
        try:
            return decode_block(layout, self._bytes(offset, length), rows)
        except (DataError, OSError) as error:
            top, left = down * layout.block_size[0], across * layout.block_size[1]
            raise DataError(
                f"{layout.path} is damaged: its block at row {top}, column {left} cannot be "
                f"decoded ({error}); replace the file"
            ) from error

    def _bytes(self, offset: int, length: int) -> bytes:
        """The bytes of a block; no more than are there, and than a block may need."""
        decoded = self._layout.block_size[0] * self._layout.row_bytes
        limit = 2 * decoded + (1 << 20)
        if self._layout.compression == coding.NONE:
            length = min(length, decoded)
        end = self._file.seek(0, 2)
        if offset + length > end:
            raise DataError(f"it ends at byte {offset + length}, the file at {end}")
        if length > limit:
            raise DataError(f"it has {length} bytes")
        self._file.seek(offset)
        return self._file.read(length)

    def _as_rgb(self, samples: np.ndarray) -> np.ndarray:
        layout = self._layout
        if layout.photometric == coding.PALETTE:
            assert layout.colors is not None
            return self._color_levels(layout.colors[samples[:, :, 0]])
        if layout.photometric == coding.CMYK:
            return self._color_levels(cmyk_to_rgb(self._levels(samples[:, :, :4])))
        samples = shown_bands(samples)
        if layout.bits < 8:
            samples = samples * np.uint8(255 // ((1 << layout.bits) - 1))
        if layout.photometric == coding.MIN_IS_WHITE:
            samples = np.iinfo(samples.dtype).max - samples
        return as_three_bands(self._levels(samples))


def _touched(window: range, block: int) -> Iterator[int]:
    """Numbers of the blocks that a window touches along one axis."""
    yield from range(window.start // block, (window.stop - 1) // block + 1)


def _overlap(window: range, start: int, length: int) -> tuple[slice, slice]:
    """Where a block that begins at ``start`` and a window meet: in the block and in the window."""
    first, last = max(window.start, start), min(window.stop, start + length)
    return slice(first - start, last - start), slice(first - window.start, last - window.start)
