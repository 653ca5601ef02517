"""An image file of any size and kind, read by window as 8-bit RGB.

TIFF and BigTIFF files in strips or tiles are read by window: a read decodes the blocks that it
touches and no others, so memory does not grow with the image. All other formats, and the TIFF
files that ``utils.rasters.tiff_layout`` does not take, are decoded as a whole, up to the limit
stated in ``utils.rasters.whole_image``.

TIFF files are parsed here by hand, a few hundred lines, and their blocks decoded by what is
installed anyway (zlib, and the libtiff inside Pillow). The alternative was tifffile: in its version
2026.3.3 it needs Python 3.11, while this code runs on 3.10, and it decodes the usual compressions
(LZW, JPEG, ZSTD) by imagecodecs, a wheel of 26 MB, 82 MB when installed. GDAL would bring a
binary stack of its own for one task.

**Orientation.** An image is given as it is seen, after its EXIF (TIFF: tag 274) orientation. An
image that is placed on the map is not turned: its placement is that of the stored pixels, and
GDAL and the programs on top of it do not turn it either.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from utils.errors import DataError, MissingDataError
from utils.rasters import tiff_tags as tag
from utils.rasters.georeference import read_georeference
from utils.rasters.pixel_values import Stretch, check_stretch
from utils.rasters.placement import Placement
from utils.rasters.tiff_layout import WholeOnly, read_layout
from utils.rasters.tiff_tags import MAGICS, TiffTags
from utils.rasters.tiff_window import TiffWindows
from utils.rasters.whole_image import CONVERT, WholeImage, count_whole

# EXIF orientation -> how the stored image becomes the seen one: transposed, then its rows reversed,
# its columns reversed.
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


class _Source(Protocol):
    """Windows of the image as it is stored."""

    size: tuple[int, int]

    def read(self, rows: range, columns: range) -> np.ndarray: ...


class Scene:
    """An open image file, for one thread at a time.

    Attributes:
        size: height and width as seen.
        georeference: where the image lies, if the file or a world file beside it says so.
        is_tiff: whether it is a TIFF file, whatever its name.
        by_window: whether a read decodes only what it needs.
    """

    def __init__(
        self,
        source: _Source,
        *,
        orientation: int,
        georeference: Placement | None,
        is_tiff: bool,
        by_window: bool,
    ) -> None:
        self._source = source
        self._transposed, self._rows_reversed, self._columns_reversed = _TURNS[orientation]
        height, width = source.size
        self.size = (width, height) if self._transposed else (height, width)
        self.georeference = georeference
        self.is_tiff = is_tiff
        self.by_window = by_window

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Read a window; one after another from the top down is fastest.

        Args:
            rows: as slices of arrays are; what lies outside the image is left out.
            columns: likewise.

        Returns:
            ``(h, w, 3)`` uint8 RGB.

        Raises:
            DataError: the part of the file that holds the window is damaged.
        """
        height, width = self.size
        seen = range(*rows.indices(height)), range(*columns.indices(width))
        if any(part.step != 1 for part in seen):
            raise ValueError(f"a window has steps of 1, not {rows.step} and {columns.step}")
        if not all(seen):
            return np.zeros((len(seen[0]), len(seen[1]), 3), np.uint8)
        stored = (
            _reversed(seen[0], height) if self._rows_reversed else seen[0],
            _reversed(seen[1], width) if self._columns_reversed else seen[1],
        )
        if not self._transposed:
            window = self._source.read(*stored)
        else:
            window = self._source.read(*stored[::-1]).transpose(1, 0, 2)
        step_down = -1 if self._rows_reversed else 1
        step_across = -1 if self._columns_reversed else 1
        return np.ascontiguousarray(window[::step_down, ::step_across])


def _reversed(part: range, length: int) -> range:
    return range(length - part.stop, length - part.start)


@contextmanager
def open_scene(path: Path, stretch: Stretch | None = None) -> Iterator[Scene]:
    """Open an image file for reading by window.

    Args:
        path: PNG, JPEG, BMP, WebP, GIF (its first frame) or TIFF; what counts is what is inside.
        stretch: the values that become 0 and 255, for images of any depth. Without it, 16-bit
            images are mapped from 0..65535 to 0..255.

    Raises:
        ConfigError: the stretch is none.
        MissingDataError: there is no such file.
        DataError: it cannot be read; the message says why and what to do.
    """
    check_stretch(stretch)
    with _open(path) as file:
        yield (
            _open_tiff(file, path, stretch) if _is_tiff(file) else _open_other(file, path, stretch)
        )


def count_pixels(path: Path) -> int:
    """Height times width of an image file, of which no pixel is decoded; errors as open_scene."""
    with _open(path) as file:
        if _is_tiff(file):
            tags = TiffTags(file, path)
            return tags.number(tag.HEIGHT, 0) * tags.number(tag.WIDTH, 0)
        return count_whole(file, path)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingDataError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, not an image file; name a file") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened ({error.strerror}); make it readable or leave it out"
        ) from error


def _is_tiff(file: BinaryIO) -> bool:
    return file.read(4) in MAGICS


def _open_tiff(file: BinaryIO, path: Path, stretch: Stretch | None) -> Scene:
    tags = TiffTags(file, path)
    georeference = read_georeference(path, tags)
    orientation = tags.number(tag.ORIENTATION, 1) if georeference is None else 1
    orientation = orientation if orientation in _TURNS else 1
    source: _Source
    try:
        source, by_window = TiffWindows(file, read_layout(tags), stretch), True
    except WholeOnly as obstacle:
        if tags.number(tag.ORIENTATION, 1) in range(2, 9):
            # Pillow turns some of these by itself and some not, whether georeferenced or not.
            raise DataError(
                f"{path} is a TIFF file with {obstacle} and is to be turned (Orientation "
                f"{tags.number(tag.ORIENTATION, 1)}), which is not read; {CONVERT}"
            ) from obstacle
        source, by_window = WholeImage(file, path, stretch, str(obstacle)), False
    return Scene(
        source,
        orientation=orientation,
        georeference=georeference,
        is_tiff=True,
        by_window=by_window,
    )


def _open_other(file: BinaryIO, path: Path, stretch: Stretch | None) -> Scene:
    image = WholeImage(file, path, stretch)
    georeference = read_georeference(path, None)
    return Scene(
        image,
        orientation=image.orientation if georeference is None else 1,
        georeference=georeference,
        is_tiff=False,
        by_window=False,
    )
