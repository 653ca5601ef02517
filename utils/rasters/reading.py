"""The one reader of users' rasters: values, validity and placement of any image, by window.

Whatever reads an image, a mask or a sensor's raster of a user goes through ``open_scene``, so that
training and inference see the same picture. Every reader may rely on this:

- The content decides, not the name. TIFF, JPEG 2000, VRT and other geodata formats are read by GDAL
  (rasterio), window by window, in memory that does not grow with the image. PNG, JPEG, BMP, WebP
  and GIF (first frame) are decoded as a whole, up to Pillow's limit for decompression bombs: twice
  ``Image.MAX_IMAGE_PIXELS``, 178,956,970 pixels unless changed.
- ``read_rgb`` returns what a viewer shows (palettes, inks and depths resolved), ``read_values`` the
  stored numbers, ``read_mask`` the pixels that hold data. All three agree on rows and columns.
- An image is seen after its EXIF orientation (TIFF: tag 274), unless it is placed on the earth: a
  placement is that of the stored pixels.
- What cannot be read raises ``DataError`` or ``MissingDataError`` with one sentence. Not every
  flipped bit is noticed: GDAL and Pillow do not check all checksums.
- Reads of one open raster from several threads take turns. It must not be open across a fork.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from utils.errors import ConfigError, DataError
from utils.rasters.placement import Placement
from utils.rasters.sources import GdalSource, PillowSource, Slices, open_source

Stretch = tuple[float, float]  # the values that become 0 and 255
# EXIF orientation -> from the stored to the seen image: transpose, then reverse rows, columns.
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


class Raster:
    """An open raster.

    Attributes:
        path: the file.
        size: height and width, as seen.
        num_bands: number of bands.
        dtype: of stored values, in native byte order; one for all bands.
        palette: ``(N, 3)`` uint8, the colours that values of the first band stand for, or None.
        no_data: the stored value that stands for no data, or None; see also ``read_mask``.
        placement: georeferencing by the file and those beside it, or None.
    """

    def __init__(
        self, path: Path, source: GdalSource | PillowSource, stretch: Stretch | None = None
    ) -> None:
        self.path = path
        self.num_bands, self.dtype = source.num_bands, source.dtype
        self.palette: np.ndarray | None = source.palette
        self.no_data: float | None = source.no_data
        self.placement: Placement | None = source.placement
        self._source, self._stretch, self._lock = source, stretch, threading.Lock()
        self._turn = _TURNS[1 if self.placement is not None else source.orientation]
        self.size = source.size[::-1] if self._turn[0] else source.size
        self._to_8_bit: Callable[[np.ndarray], np.ndarray] | None = None

    def read_rgb(self, rows: slice, columns: slice) -> np.ndarray:
        """Read a window as a viewer shows it.

        The first three bands are shown, of fewer the first one as grey; alpha is not.
        Values become 0..255 by the stretch, else by the whole range of unsigned 8 or 16 bits.

        Args:
            rows: as in a slice of an array; pixels outside the image are left out.
            columns: likewise.

        Returns:
            ``(h, w, 3)`` uint8.

        Raises:
            DataError: the window is damaged, or the values need a stretch.
        """
        if self._to_8_bit is None:
            # A palette stands for 8-bit colours: these are stretched, not the indices.
            stretch = None if self.palette is not None else self._stretch
            self._to_8_bit = _levels(self._source, stretch, self.path)
        if self.palette is not None:
            rgb = self.palette[self.read_values(rows, columns, [1])[:, :, 0]]
            return rgb if self._stretch is None else _scale(np.arange(256), self._stretch)[rgb]
        values = self.read_values(rows, columns, [1, 2, 3] if self.num_bands >= 3 else [1])
        rgb = np.broadcast_to(self._to_8_bit(values), (*values.shape[:2], 3))
        return np.ascontiguousarray(rgb)

    def read_values(
        self, rows: slice, columns: slice, bands: Sequence[int] | None = None
    ) -> np.ndarray:
        """Read stored values: no stretch, no palette, no scale.

        Args:
            rows: as in a slice of an array; pixels outside the image are left out.
            columns: likewise.
            bands: which ones, counted from 1; None: all.

        Returns:
            ``(h, w, bands)`` in ``dtype``.

        Raises:
            DataError: the window is damaged.
        """
        bands = bands if bands is not None else range(1, self.num_bands + 1)
        empty = np.zeros((0, 0, len(bands)), self.dtype)
        return self._seen(rows, columns, lambda window: self._source.values(window, bands), empty)

    def read_mask(self, rows: slice, columns: slice) -> np.ndarray:
        """Read which pixels of a window hold data, ``(h, w)`` bool.

        By no-data values, mask bands, ``.msk`` files, alpha bands and transparent colours.

        Raises:
            DataError: the window is damaged.
        """
        return self._seen(rows, columns, self._source.valid, np.zeros((0, 0), bool))

    def _seen(
        self,
        rows: slice,
        columns: slice,
        read: Callable[[Slices], np.ndarray],
        empty: np.ndarray,
    ) -> np.ndarray:
        """Read a window of the seen image from the stored one; ``empty`` tells shape and dtype."""
        (top, bottom, row_step), (left, right, column_step) = (
            part.indices(length) for part, length in zip((rows, columns), self.size, strict=True)
        )
        if (row_step, column_step) != (1, 1):
            raise ValueError(f"a window has steps of 1, not {rows.step} and {columns.step}")
        if top >= bottom or left >= right:
            shape = max(0, bottom - top), max(0, right - left), *empty.shape[2:]
            return np.zeros(shape, empty.dtype)
        transposed, rows_reversed, columns_reversed = self._turn
        height, width = self.size
        if rows_reversed:
            top, bottom = height - bottom, height - top
        if columns_reversed:
            left, right = width - right, width - left
        window = slice(top, bottom), slice(left, right)
        with self._lock:
            found = read(window[::-1] if transposed else window)
        found = found.swapaxes(0, 1) if transposed else found
        return np.ascontiguousarray(
            found[:: -1 if rows_reversed else 1, :: -1 if columns_reversed else 1]
        )


@contextmanager
def open_scene(path: Path, stretch: Stretch | None = None) -> Iterator[Raster]:
    """Open an image file for reading by window.

    Args:
        path: a raster of any format that the module's docstring names.
        stretch: the values that ``read_rgb`` turns into 0 and 255.

    Raises:
        ConfigError: the stretch is empty, reversed or infinite.
        MissingDataError: there is no such file.
        DataError: it cannot be read; the message says why and what to do.
    """
    if stretch is not None:
        low, high = stretch
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"stretch is {low} to {high}; give two numbers, the lower one first")
    with open_source(path) as source:
        yield Raster(path, source, stretch)


def _levels(
    source: GdalSource | PillowSource, stretch: Stretch | None, path: Path
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the mapping of stored values to 0..255: linear between two values, clipped outside.

    Raises:
        DataError: the type has no agreed black and white, and no stretch is given.
    """
    dtype, bits = source.dtype, source.bits
    if dtype.kind not in "uif":
        raise DataError(f"{path} holds {dtype.name} values; convert them to real numbers")
    if stretch is None and not (dtype.kind == "u" and bits <= 16):
        raise DataError(
            f"{path} holds {dtype.name} values, without an agreed black and white; state the two "
            "values (stretch), or convert it to 8 bits"
        )
    if dtype.kind == "f" or dtype.itemsize > 2:
        low_and_high = stretch or (0.0, float((1 << bits) - 1))
        return lambda values: _scale(values, low_and_high)
    # A table of all values of the type; those of less than 8 bits are spread over 0..255 first.
    unsigned = np.dtype(f"u{dtype.itemsize}")
    values = np.arange(1 << 8 * dtype.itemsize).astype(unsigned).view(dtype).astype(np.float64)
    top = (1 << bits) - 1
    if source.white_is_zero:
        values = top - values
    if bits < 8:
        values, top = values * (255 / top), 255
    table = _scale(values, stretch or (0, top))
    if dtype == np.uint8 and (table == np.arange(256)).all():
        return lambda values: values
    return lambda values: table[values.view(unsigned)]


def _scale(values: np.ndarray, stretch: Stretch) -> np.ndarray:
    """Map values to 0..255 uint8, the two of the stretch to the ends; NaN becomes 0."""
    low, high = stretch
    fraction = (values.astype(np.float64) - low) / (high - low)
    return np.rint(np.clip(np.nan_to_num(fraction), 0, 1) * 255).astype(np.uint8)
