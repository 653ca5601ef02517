"""The one reader of users' rasters: values, validity and placement of any image, by window.

Whatever reads an image, a mask or a sensor's raster of a user goes through ``open_scene``, so that
training and inference see the same picture. Every reader may rely on this:

- The content decides, not the name. TIFF, JPEG 2000, VRT and other geodata formats are read by GDAL
  (rasterio), window by window, in memory that does not grow with the image. PNG, JPEG, BMP, WebP
  and GIF (first frame) are decoded as a whole, up to Pillow's limit for decompression bombs: twice
  ``Image.MAX_IMAGE_PIXELS``, 178,956,970 pixels unless changed.
- ``read_rgb`` returns what a viewer shows (palettes, inks and depths resolved) by the bands and
  the stretch of a ``Rendering``, ``read_values`` the stored numbers, ``read_mask`` the pixels that
  hold data. All three agree on rows and columns.
- An image is seen after its EXIF orientation (TIFF: tag 274), unless it is placed on the earth: a
  placement is that of the stored pixels.
- With a ``Grid``, the raster is seen through a warp to it: same size, same placement.
- What cannot be read raises ``DataError`` or ``MissingDataError`` with one sentence. Not every
  flipped bit is noticed: GDAL and Pillow do not check all checksums.
- Reads of one open raster from several threads take turns. It must not be open across a fork.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from utils.boxes import Box
from utils.console import counted
from utils.errors import DataError
from utils.rasters.placement import Grid, Placement
from utils.rasters.rendering import AS_STORED, Range, Rendering, stretch_text
from utils.rasters.sources import GdalSource, PillowSource, Slices, open_source

ToBytes = Callable[[np.ndarray], np.ndarray]  # stored values -> 0..255 uint8
_SAMPLE_PX = 128  # side of the windows of a sample
_FEW = 1 << 18  # pixels of a sample from which a range is told
_BUSY, _FEW_VALUES = 0.1, 16  # an alpha band of data: share of such pixels, number of values
_OUTSIDE, _FILLED = 0.5, 0.1  # share of values outside a stretch, and of it that they fill
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
        num_bands: number of bands, a declared alpha band included.
        dtype: of stored values, in native byte order; one for all bands.
        bits: of a stored value.
        palette: ``(N, 3)`` uint8, the colours that values of the first band stand for, or None.
        no_data: the stored value that stands for no data, or None; see also ``read_mask``.
        has_mask: False if every pixel holds data.
        alpha_band: the band that is declared as alpha, counted from 1, or None.
        rgb_bands: three bands, or one, that ``read_rgb`` shows: those of the rendering, else red,
            green and blue where the file names each once, else the first three, else the first.
        assumes_bands: True if there are more than three bands, and neither the rendering nor the
            file names those of red, green and blue.
        placement: georeferencing by the file and those beside it, or None.
    """

    def __init__(self, path: Path, source: GdalSource | PillowSource, rendering: Rendering) -> None:
        self.path = path
        self.num_bands, self.dtype, self.bits = source.num_bands, source.dtype, source.bits
        self.palette: np.ndarray | None = source.palette
        self.no_data: float | None = source.no_data
        self.placement: Placement | None = source.placement
        self.alpha_band: int | None = source.alpha_band
        self._source, self._rendering, self._lock = source, rendering, threading.Lock()
        self._turn = _TURNS[1 if self.placement is not None else source.orientation]
        self.size = source.size[::-1] if self._turn[0] else source.size
        takes_alpha = rendering.takes_as_data(self.alpha_band)
        self._masks_by_alpha = source.alpha_is_mask and not takes_alpha
        self.has_mask = source.has_mask or self._masks_by_alpha or self.dtype.kind == "f"
        num_colors = self.num_bands - (self.alpha_band is not None and not takes_alpha)
        self.rgb_bands = rendering.bands or source.color_bands or (1, 2, 3)[: num_colors // 3 * 3]
        self.rgb_bands = self.rgb_bands or (1,)
        self.assumes_bands = num_colors > 3 and not (rendering.bands or source.color_bands)
        self._to_bytes: list[ToBytes] = []

    def read_rgb(self, rows: slice, columns: slice) -> np.ndarray:
        """Read a window as a viewer shows it, pixels without data as they are stored.

        One band is shown as grey, alpha is not. Values become 0..255 by the stretch; without one
        those of up to 8 bits by their whole range.

        Args:
            rows: as in a slice of an array; pixels outside the image are left out.
            columns: likewise.

        Returns:
            ``(h, w, 3)`` uint8; NaN is 0.

        Raises:
            DataError: the window is damaged, a band is missing, or the values need a stretch.
        """
        if not self._to_bytes:
            self._to_bytes = self._renderers()
        if self._shows_palette and self.palette is not None:
            rgb = self.palette[self.read_values(rows, columns, [1])[:, :, 0]]
            if not self._rendering.stretch:
                return rgb
        else:
            rgb = self.read_values(rows, columns, self.rgb_bands)
        if len(self._to_bytes) == 1:
            found = self._to_bytes[0](rgb)
        else:
            channels = [to_bytes(rgb[..., i]) for i, to_bytes in enumerate(self._to_bytes)]
            found = np.stack(channels, axis=-1)
        return np.ascontiguousarray(np.broadcast_to(found, (*rgb.shape[:2], 3)))

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

        By a mask band or ``.msk`` file; else by the no-data value, in all bands but alpha, by
        transparent colours and, unless the rendering takes it as data, by declared alpha. Of
        floating-point values also by NaN in any shown band.

        Raises:
            DataError: the window is damaged.
        """
        if not self.has_mask:
            ends = zip((rows, columns), self.size, strict=True)
            return np.ones([len(range(*part.indices(length))) for part, length in ends], bool)
        read = partial(self._source.valid, with_alpha=self._masks_by_alpha)
        valid = self._seen(rows, columns, read, np.zeros((0, 0), bool))
        if self.dtype.kind == "f":
            valid &= ~np.isnan(self.read_values(rows, columns, self.rgb_bands)).any(axis=-1)
        return valid

    def read_inside(self, rows: slice, columns: slice) -> np.ndarray:
        """Read which pixels of a window lie in the extent of the file, ``(h, w)`` bool.

        Told of a file with a no-data value that is warped by nearest pixels, where ``read_mask`` is
        False for both; of any other, all are True.

        Raises:
            DataError: the window is damaged.
        """
        return self._seen(rows, columns, self._source.inside, np.zeros((0, 0), bool))

    def sample(
        self, num_pixels: int, bands: Sequence[int] | None = None, box: Box | None = None
    ) -> np.ndarray:
        """Return the values of about so many pixels, those with data, spread over the image.

        All pixels of a smaller image; of a larger one those of windows on a regular grid.

        Args:
            num_pixels: wanted at most, but at least one window.
            bands: as in ``read_values``.
            box: part of the image; None: all of it.

        Returns:
            ``(N, bands)`` in ``dtype``; N may be 0.
        """
        box = box or Box(0, 0, *self.size)
        height, width = box.height_px, box.width_px
        if height * width <= num_pixels:
            places = [([*range(0, height, _SAMPLE_PX)], _SAMPLE_PX), ([0], width)]
        else:
            num = max(1, math.isqrt(num_pixels) // _SAMPLE_PX)
            places = []
            for length in (height, width):
                side = min(_SAMPLE_PX, length)
                last = length - side
                starts = [round(last * (2 * i + 1) / (2 * num)) for i in range(num)]
                places.append((sorted({*starts}), side))
        (tops, high), (lefts, wide) = places
        found = []
        for top in (box.top_px + start for start in tops):
            for left in (box.left_px + start for start in lefts):
                window = slice(top, min(top + high, box.bottom_px)), slice(left, left + wide)
                found.append(self.read_values(*window, bands)[self.read_mask(*window)])
        return np.concatenate(found)

    def has_busy_alpha(self) -> bool:
        """Return True if a declared alpha band is a mask, but has values like those of a picture.

        That is, many of them between transparent and opaque, in a sample of the image.
        """
        if self.alpha_band is None or not self._masks_by_alpha:
            return False
        values = self.sample(_FEW, [self.alpha_band])
        opaque = (1 << self.bits) - 1
        between = values[(values > 0) & (values < opaque)]
        return len(between) > _BUSY * len(values) and len(np.unique(between)) > _FEW_VALUES

    def stretch_warning(self) -> str | None:
        """Return a sentence if the values hardly fit the stretch, for a sample of the image.

        That is, if more than half of them lie outside, or they fill less than a tenth of it.
        """
        stretch = self._rendering.stretch
        if not stretch or self._shows_palette:
            return None
        values = self.sample(_FEW, self.rgb_bands).astype(np.float64)
        if not len(values):
            return None
        low, high = (np.array(ends) for ends in zip(*stretch, strict=True))
        outside = ((values < low) | (values > high)).mean()
        fills = (np.ptp(np.percentile(values, [1, 99], axis=0), axis=0) / (high - low)).max()
        if outside <= _OUTSIDE and fills >= _FILLED:
            return None
        how = f"of which {outside:.0%} lie outside"
        if outside <= _OUTSIDE:
            how = f"which fill only {fills:.1%} of"
        return (
            f"{self.path} has values of {self._range_text(values)}, {how} the stretch "
            f"{stretch_text(stretch)}; if they have another unit than the training images, name "
            "their own with --stretch"
        )

    @property
    def _shows_palette(self) -> bool:
        return self.palette is not None and self.rgb_bands == (1,)

    @property
    def _is_sampled_whole(self) -> bool:
        return self.size[0] * self.size[1] <= _FEW

    def _range_text(self, values: np.ndarray) -> str:
        low, high = values.min(), values.max()
        return f"{low:.6g} to {high:.6g}{'' if self._is_sampled_whole else ' (in a sample)'}"

    def _renderers(self) -> list[ToBytes]:
        """Return the mapping of stored values to 0..255, one for all bands or one for each.

        Raises:
            DataError: a band is missing, or the values have no agreed black and white.
        """
        stretch, num_shown = self._rendering.stretch, len(self.rgb_bands)
        if max(self.rgb_bands) > self.num_bands:
            raise DataError(
                f"{self.path} has {counted(self.num_bands, 'band')}, not the bands "
                f"{','.join(map(str, self.rgb_bands))}; name others with --bands"
            )
        if self.dtype.kind not in "uif":
            raise DataError(
                f"{self.path} holds {self.dtype.name} values; convert them to real numbers"
            )
        if self._shows_palette:
            # Colours are stretched, not the indices.
            return [partial(_scale, stretch=pair) for pair in stretch or ((0.0, 255.0),)]
        if len(stretch) > num_shown:
            raise DataError(f"{self.path} has one band, and --stretch three pairs; give one pair")
        if not stretch and not (self.dtype.kind == "u" and self.bits <= 8):
            return [self._without_stretch()]
        return [_levels(self._source, pair) for pair in stretch or [None]]

    def _without_stretch(self) -> ToBytes:
        """Return black for an image without data, whose values have no agreed black and white.

        Raises:
            DataError: there are such values.
        """
        values = self.sample(_FEW, self.rgb_bands)
        values = values[np.isfinite(values)]
        if not len(values) and self._is_sampled_whole:
            return lambda stored: np.zeros(stored.shape, np.uint8)
        found, example = "no values in a sample", "--stretch LOW,HIGH"
        if len(values):
            found = f"values of {self._range_text(values)}"
        if len(values) and values.min() < values.max():
            example = f"--stretch {values.min():.6g},{values.max():.6g}"
        raise DataError(
            f"{self.path} holds {self.dtype.name} {found}, without an agreed black and white; name "
            f"the values that become 0 and 255: {example}"
        )

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
def open_scene(
    path: Path,
    rendering: Rendering = AS_STORED,
    grid: Grid | None = None,
    *,
    bilinear: bool = False,
) -> Iterator[Raster]:
    """Open an image file for reading by window.

    Args:
        path: a raster of any format that the module's docstring names.
        rendering: bands and stretch of ``read_rgb``, meaning of an alpha band.
        grid: size and placement to warp the raster to; it must be placed itself. Pixels outside
            the raster hold no data.
        bilinear: interpolate between pixels of the raster; else values of the nearest one.

    Raises:
        MissingDataError: there is no such file.
        DataError: it cannot be read; the message says why and what to do.
    """
    with open_source(path, grid, bilinear=bilinear) as source:
        yield Raster(path, source, rendering)


def _levels(source: GdalSource | PillowSource, stretch: Range | None) -> ToBytes:
    """Return the mapping of stored values to 0..255: linear between two values, clipped outside."""
    dtype, bits = source.dtype, source.bits
    if dtype.kind == "f" or dtype.itemsize > 2:
        low_and_high = stretch or (0.0, float((1 << bits) - 1))
        return partial(_scale, stretch=low_and_high, is_inverted=source.white_is_zero)
    # A table of all values of the type; those of less than 8 bits are spread over 0..255 first.
    unsigned = np.dtype(f"u{dtype.itemsize}")
    values = np.arange(1 << 8 * dtype.itemsize).astype(unsigned).view(dtype).astype(np.float64)
    top = (1 << bits) - 1
    if bits < 8:
        values, top = values * (255 / top), 255
    table = _scale(values, stretch or (0, top), is_inverted=source.white_is_zero)
    if dtype == np.uint8 and (table == np.arange(256)).all():
        return lambda values: values
    return lambda values: table[values.view(unsigned)]


def _scale(values: np.ndarray, stretch: Range, *, is_inverted: bool = False) -> np.ndarray:
    """Map values to 0..255 uint8, the two of the stretch to the ends; NaN becomes 0."""
    low, high = stretch
    levels = np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255)
    return np.nan_to_num(255 - levels if is_inverted else levels).astype(np.uint8)
