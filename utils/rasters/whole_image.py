"""Images that are decoded as a whole, by Pillow: PNG, JPEG, BMP, WebP, GIF, and rare TIFF files.

Memory grows with the image, so there is a limit: the number of pixels at which Pillow takes a file
for a decompression bomb, twice ``Image.MAX_IMAGE_PIXELS``, which is 178,956,970 pixels (about
13,377 x 13,377) unless somebody changed it. Such an image takes up to 0.7 GB, a 16-bit PNG in
colour twice that. What is larger must be a TIFF file, which ``utils.rasters.tiff_window`` reads by
window.
"""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

from utils.errors import DataError
from utils.rasters.pixel_values import Levels, Stretch

CONVERT = (
    "convert it to a tiled TIFF (gdal_translate -co TILED=YES -co COMPRESS=DEFLATE), which is "
    "read by window"
)
# No others: Pillow would start programs for some (EPS), and guess for some.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")
_ORIENTATION = 274
_HIGH, _LOW = ";16B", ";16L"  # of Pillow's raw modes: which byte of 16 bits becomes the 8 bits


class WholeImage:
    """The first frame of an image file in memory.

    Args:
        file: open for reading; not needed afterwards.
        path: its name, for messages.
        stretch: see ``Levels``.
        obstacle: why a TIFF file is not read by window.

    Attributes:
        size: height and width of the stored image.
        orientation: its EXIF orientation, 1 to 8.

    Raises:
        DataError: Pillow cannot decode it, it is too large, or its values need a stretch.
    """

    def __init__(
        self, file: BinaryIO, path: Path, stretch: Stretch | None, obstacle: str | None = None
    ) -> None:
        self._path = path
        self._obstacle = obstacle
        self._low: Image.Image | None = None
        self._image = self._decode(file)
        if self._raw_mode == "LA;16B" and self._image.mode == "RGBA":
            # As 8-bit pixels of the same length: upper and lower byte of grey, then of alpha.
            self._low = self._decode(file, "RGBA").getchannel(1)
        elif self._raw_mode.endswith(_HIGH) and self._image.mode in ("RGB", "RGBA"):
            self._low = self._decode(file, self._raw_mode.replace(_HIGH, _LOW))
        self.size = self._image.height, self._image.width
        self.orientation = self._read_orientation()
        self._levels = Levels(self._dtype(), stretch, path)
        if stretch is not None and self._lost_bits():
            raise DataError(
                f"{path} has more than 8 bits a channel and cannot be stretched ({obstacle}); "
                f"{CONVERT}"
            )

    def read(self, rows: range, columns: range) -> np.ndarray:
        """``(len(rows), len(columns), 3)`` uint8 RGB; rows and columns of the stored image."""
        box = (columns.start, rows.start, columns.stop, rows.stop)
        if self._image.mode.startswith(("I", "F")):
            grey = np.asarray(self._image.crop(box))
            grey = self._levels(grey.astype(grey.dtype.newbyteorder("="), copy=False))
            return np.repeat(grey[:, :, None], 3, axis=2)
        values = self._rgb(self._image, box)
        if self._low is not None:
            values = values.astype(np.uint16) << 8 | self._rgb(self._low, box)
        return self._levels(values)

    def _rgb(self, image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of palettes with transparency
                return np.array(image.crop(box).convert("RGB"))
        except ValueError as error:
            raise DataError(
                f"{self._path} has colours that do not become RGB ({error}); convert it to RGB"
            ) from error

    def _decode(self, file: BinaryIO, raw_mode: str | None = None) -> ImageFile.ImageFile:
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = Image.open(file, formats=_FORMATS)
                if raw_mode is None:
                    self._raw_mode = _raw_mode(image)
                else:
                    image.tile = [part._replace(args=raw_mode) for part in image.tile]
                image.load()
        except Image.DecompressionBombError as error:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise DataError(
                f"{self._path} has more than {limit} pixels, too many to be decoded as a whole"
                f"{f' ({self._obstacle})' if self._obstacle else ''}; {CONVERT}"
            ) from error
        except Exception as error:  # a broken file makes Pillow raise nearly anything
            raise self._unreadable(error) from error
        return image

    def _unreadable(self, error: Exception) -> DataError:
        if self._obstacle:
            return DataError(
                f"{self._path} is a TIFF file with {self._obstacle}, which cannot be decoded here; "
                f"{CONVERT}"
            )
        what = str(error).split(" <_io.")[0] or type(error).__name__  # Pillow names the open file
        return DataError(f"{self._path} cannot be read as an image ({what}); replace the file")

    def _read_orientation(self) -> int:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                orientation = self._image.getexif().get(_ORIENTATION, 1)
        except Exception:  # the pixels are good; only what a camera wrote beside them is not
            return 1
        return orientation if orientation in range(1, 9) else 1

    def _dtype(self) -> np.dtype:
        if self._low is not None or self._image.mode.startswith("I;16"):
            return np.dtype("u2")
        return np.dtype({"I": "i4", "F": "f4"}.get(self._image.mode, "u1"))

    def _lost_bits(self) -> bool:
        """Whether Pillow took the upper 8 bits of a TIFF file's samples."""
        if self._image.format != "TIFF" or self._image.mode.startswith(("I", "F")):
            return False
        return max(self._image.tag_v2.get(258, (8,))) > 8  # type: ignore[attr-defined]


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How the pixels of a PNG file are stored, as Pillow names it; empty for other formats."""
    if image.format != "PNG" or not image.tile:
        return ""
    return str(image.tile[0].args)


def count_whole(file: BinaryIO, path: Path) -> int:
    """Height times width, by the header of a file that is no TIFF file.

    Raises:
        DataError: Pillow cannot open it, or it is too large.
    """
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=_FORMATS)
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        raise DataError(f"{path} cannot be read as an image; replace the file") from error
    return image.height * image.width
