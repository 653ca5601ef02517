"""Stored pixels of image files: by window from GDAL (rasterio), or decoded as a whole by Pillow."""

import shlex
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import rasterio
from PIL import Image, ImageFile
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from utils.errors import DataError, MissingDataError
from utils.rasters.placement import Grid, Placement, placing_files, read_placement

# For good: a context would also change what other threads, which open files too, may warn of.
for _category in (NotGeoreferencedWarning, NodataShadowWarning):
    warnings.filterwarnings("ignore", category=_category)

Slices = tuple[slice, slice]  # rows and columns of a window, within the image

# GDAL's block cache, in bytes: a row of 512 x 512 tiles takes 45 MiB in an image 30,000 px wide.
_CACHE_BYTES = 128 << 20
# Rasters in files only: some of GDAL's drivers open connections, others accept any text.
_GDAL_DRIVERS = [
    *("GTiff", "VRT", "JP2OpenJPEG", "HFA", "ENVI", "EHdr", "ERS", "NITF", "PCIDSK", "AAIGrid"),
    *("PNM", "SGI", "MRF"),
]
# Other files of rasters, of which some hold several, or text: named, so that they can be converted.
_OTHER_DRIVERS = [
    *("GPKG", "MBTiles", "KMLSUPEROVERLAY", "netCDF", "HDF5", "HDF5Image", "BAG", "GRIB", "DTED"),
    *("SRTMHGT", "USGSDEM", "AIG", "SAGA", "RST", "PCRaster", "GSBG", "GSAG", "GS7BG", "HF2"),
]
_PILLOW_FORMATS = ["PNG", "JPEG", "BMP", "WEBP", "GIF"]  # GDAL's drivers have the same names
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WARP_TOLERANCE_PX = 0.01  # of GDAL's approximation of a change of coordinates
_ANY_CRS = CRS.from_epsg(3857)  # stands for that of coordinates without one
_ORIENTATION = 274  # the tag of EXIF and TIFF
_NO_IMAGE = "cannot be read as an image"
_CONVERT = "convert it to a tiled TIFF (gdal_translate -co TILED=YES -co COMPRESS=DEFLATE)"


class GdalSource:
    """Stored pixels of a dataset that GDAL has opened, by window; attributes of PillowSource."""

    def __init__(self, dataset: DatasetReader, path: Path, file: BinaryIO) -> None:
        if not dataset.count:
            raise DataError(f"{path} holds several images; extract one of them (gdal_translate)")
        self._dataset, self._path = dataset, path
        self.size = dataset.height, dataset.width
        self.num_bands = dataset.count
        is_known = not any(name.startswith("complex") for name in dataset.dtypes)
        self.dtype = np.result_type(*dataset.dtypes) if is_known else np.dtype(complex)
        structure = dataset.tags(1, ns="IMAGE_STRUCTURE") | dataset.tags(ns="IMAGE_STRUCTURE")
        self.bits = int(structure.get("NBITS", 8 * self.dtype.itemsize))
        self.white_is_zero = structure.get("MINISWHITE") == "YES"
        self.palette = _palette(dataset) if self.dtype in (np.uint8, np.uint16) else None
        self.no_data = dataset.nodata
        read_tags = _png_tags if dataset.driver == "PNG" else _tiff_tags
        self.orientation = _orientation(partial(read_tags, file))  # which GDAL does not report
        self.placement: Placement | None = read_placement(path, dataset)
        self.color_bands = _color_bands(dataset.colorinterp)
        is_alpha = [each == ColorInterp.alpha for each in dataset.colorinterp]
        self.alpha_band = 1 + is_alpha.index(True) if True in is_alpha else None
        has_own_mask = _has_own_mask(dataset)
        self.alpha_is_mask = self.alpha_band is not None and not has_own_mask
        self.has_mask = self.no_data is not None or has_own_mask
        # GDAL decodes a PNG file from its first row again for each window that lies further up.
        everything = slice(0, dataset.height), slice(0, dataset.width)
        self._whole = self._decode(everything, None) if dataset.driver == "PNG" else None
        self._mask_is_extent = False  # the mask of the dataset does not tell no-data values

    def values(self, window: Slices, bands: Sequence[int]) -> np.ndarray:
        """Return ``(h, w, bands)`` of a window, in ``dtype``; bands count from 1."""
        if self._whole is not None:
            found = self._whole[(slice(None), *window)][[band - 1 for band in bands]]
        else:
            found = self._decode(window, [*bands])
        return np.moveaxis(found, 0, -1)

    def valid(self, window: Slices, *, with_alpha: bool) -> np.ndarray:
        """Return ``(h, w)`` bool, False where a no-data value, a mask or alpha says no data.

        As GDAL has it, the mask band of a file counts alone; its no-data value and alpha both do.
        """
        alpha = self.alpha_band if with_alpha else None
        found = self._read_mask(window, alpha)
        if alpha is not None:
            found &= self.values(window, [alpha])[..., 0] != 0
        if self._mask_is_extent:
            values = self._decode(window, [*range(1, 1 + self.num_bands)])
            found &= (values != self.no_data).any(axis=0)
        return found

    def inside(self, window: Slices) -> np.ndarray:
        """Return ``(h, w)`` bool, False outside the extent of a warped raster."""
        if self._mask_is_extent:
            return self._read_mask(window)
        return np.ones([part.stop - part.start for part in window], bool)

    def _read_mask(self, window: Slices, alpha: int | None = None) -> np.ndarray:
        """Read the mask without that of alpha, whose values may be no data as well."""
        within = Window.from_slices(*window)
        with _errors_of(self._path, _damage(window)):
            if self._dataset.count > self.num_bands:  # GDAL takes alpha of few types as a mask
                return self._dataset.read(self._dataset.count, window=within) != 0
            if _has_own_mask(self._dataset):
                return self._dataset.read_masks(1, window=within) != 0
            if self._dataset.nodata is None:
                return np.ones([part.stop - part.start for part in window], bool)
            # Not its dataset_mask(), which may take the fourth of four bands alone.
            colors = [band for band in self._dataset.indexes if band != alpha]
            return self._dataset.read_masks(colors, window=within).any(axis=0)

    def warp(self, grid: Grid, *, bilinear: bool) -> None:
        """Replace the pixels by those of a grid; outside the raster there is no data.

        Raises:
            DataError: the raster is not placed.
        """
        own, other = self.placement, grid.placement
        if own is None or own.transform is None:
            raise DataError(
                f"{self._path} has no place on the earth, so it cannot be put on another grid; "
                "give it the size of the image, or a coordinate reference system and a transform"
            )
        # Coordinates without a system are taken as those of the other one.
        source_crs = own.crs or other.crs or _ANY_CRS
        has_mask = self._dataset.nodata is not None or self.alpha_band is not None
        # Nearest pixels with the no-data value are told apart from those outside.
        own_tag = not bilinear and self.no_data is not None and self.alpha_band is None
        without_tag = {"src_nodata": None, "nodata": None} if own_tag else {}
        if bilinear and self.dtype.kind in "iu":  # between whole numbers lie others
            self.dtype = np.dtype(np.float32 if self.dtype.itemsize <= 2 else np.float64)
        with _errors_of(self._path, "cannot be put on the grid of the image"):
            self._dataset = WarpedVRT(
                self._dataset,
                src_crs=source_crs,
                src_transform=own.transform,
                crs=other.crs or source_crs,
                transform=other.transform,
                height=grid.size[0],
                width=grid.size[1],
                resampling=Resampling.bilinear if bilinear else Resampling.nearest,
                tolerance=_WARP_TOLERANCE_PX,
                dtype=self.dtype.name,
                add_alpha=own_tag or not has_mask,  # to mark the pixels outside
                **without_tag,
            )
        self._mask_is_extent = own_tag
        self.size, self.placement = grid.size, other
        self._whole, self.has_mask = None, True

    def _decode(self, window: Slices, bands: list[int] | None) -> np.ndarray:
        within = Window.from_slices(*window)
        with _errors_of(self._path, _damage(window)):
            return self._dataset.read(bands, window=within, out_dtype=self.dtype)


class PillowSource:
    """Pixels of an image that Pillow has decoded as a whole (the first frame of several).

    Inks (CMYK) are RGB here, as they are in the TIFF files that GDAL reads.

    Attributes: those of ``Raster``, of which ``size`` is the stored one here, ``dtype`` of 1-bit
    samples is uint8, and ``palette`` has at least 256 colours; and

        bits: of a sample.
        white_is_zero: high values are dark.
        orientation: EXIF orientation, 1 to 8.
        color_bands: bands of red, green and blue, counted from 1; empty: the file does not say.
        has_mask: a mask, a no-data value or a transparent colour may say that pixels hold no data.
        alpha_is_mask: a declared alpha band says so, too.
    """

    white_is_zero = False
    no_data: float | None = None
    color_bands: tuple[int, ...] = ()

    def __init__(self, image: ImageFile.ImageFile, path: Path) -> None:
        with _errors_of(path, _NO_IMAGE), _quiet():
            image.load()
        self._image = image
        self.size = image.height, image.width
        self._is_cmyk = image.mode == "CMYK"
        self.num_bands = 3 if self._is_cmyk else len(image.getbands())
        self.dtype = np.dtype({"I": "i4", "F": "f4", "I;16": "u2"}.get(image.mode, "u1"))
        self.bits = 1 if image.mode == "1" else 8 * self.dtype.itemsize
        self.palette: np.ndarray | None = None
        if image.mode in ("P", "PA"):
            colors = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
            self.palette = np.zeros((256, 3), np.uint8)
            self.palette[: len(colors)] = colors
        self.orientation = _orientation(image.getexif)
        self.alpha_band = self.num_bands if image.mode in ("LA", "RGBA", "PA") else None
        self._mask: np.ndarray | None = None  # (H, W) bool, of a .msk file or within a JPEG file
        try:
            with DatasetReader(path, driver=_PILLOW_FORMATS) as dataset:
                self.placement = read_placement(path, dataset)
                if not image.has_transparency_data:
                    self.no_data = dataset.nodata
                # Not those of transparent colours, for which GDAL would decode the pixels again.
                if dataset.mask_flag_enums[0] == [MaskFlags.per_dataset]:
                    self._mask = dataset.read_masks(1) != 0
        except RasterioError:
            self.placement = read_placement(path, None)
        has_colors = image.has_transparency_data and self.alpha_band is None
        self.has_mask = has_colors or self.no_data is not None or self._mask is not None
        self.alpha_is_mask = self.alpha_band is not None and self._mask is None

    def values(self, window: Slices, bands: Sequence[int]) -> np.ndarray:
        """Return ``(h, w, bands)`` of a window, in ``dtype``; bands count from 1."""
        values = np.asarray(self._crop(window)).astype(self.dtype, copy=False)
        return values.reshape(*values.shape[:2], -1)[:, :, [band - 1 for band in bands]]

    def valid(self, window: Slices, *, with_alpha: bool) -> np.ndarray:
        """Return ``(h, w)`` bool, False where a pixel is fully transparent, or a mask says so."""
        if self._mask is not None:
            return self._mask[window].copy()
        if self.no_data is not None:
            bands = range(1, 1 + self.num_bands)
            return (self.values(window, bands) != self.no_data).any(axis=-1)
        part = self._crop(window)
        if not self._image.has_transparency_data or (self.alpha_band and not with_alpha):
            return np.ones((part.height, part.width), bool)
        with _quiet():
            return np.asarray(part.convert("RGBA").getchannel("A")) != 0

    def inside(self, window: Slices) -> np.ndarray:
        """Return ``(h, w)`` bool: all True."""
        return np.ones([part.stop - part.start for part in window], bool)

    def _crop(self, window: Slices) -> Image.Image:
        rows, columns = window
        part = self._image.crop((columns.start, rows.start, columns.stop, rows.stop))
        return part.convert("RGB") if self._is_cmyk else part


@contextmanager
def open_source(
    path: Path, grid: Grid | None = None, *, bilinear: bool = False
) -> Iterator[GdalSource | PillowSource]:
    """Open the stored pixels of an image file, or those warped to a grid; as ``open_scene``."""
    with _open(path, only_gdal=grid is not None) as (stored, file):
        is_gdal = isinstance(stored, DatasetReader)
        source = GdalSource(stored, path, file) if is_gdal else PillowSource(stored, path)
        if grid is not None and isinstance(source, GdalSource):
            source.warp(grid, bilinear=bilinear)
        yield source


def count_pixels(path: Path) -> int:
    """Return height times width of an image file by its header; errors as of ``open_scene``."""
    with _open(path) as (stored, _):
        return stored.height * stored.width


def files_of(path: Path) -> list[Path]:
    """Return an image file and all files that are read with it.

    These are the sources of a VRT, other parts, a header, a mask, metadata, and what tells its
    place.
    """
    found = dict.fromkeys([path, *placing_files(path)])
    with suppress(RasterioError), gdal_settings():
        with DatasetReader(path, driver=_PILLOW_FORMATS + _GDAL_DRIVERS) as dataset:
            found |= dict.fromkeys(map(Path, dataset.files))
    return [*found]


def gdal_settings(**options: str) -> rasterio.Env:
    """Return a context in which GDAL caches no more than ``_CACHE_BYTES``."""
    return rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES, **options)


@contextmanager
def _open(
    path: Path, *, only_gdal: bool = False
) -> Iterator[tuple[ImageFile.ImageFile | DatasetReader, BinaryIO]]:
    """Open an image with Pillow, or with GDAL if Pillow does not read it; yield its file as well.

    Nothing is decoded yet.
    """
    with _open_file(path) as file, gdal_settings():
        if not only_gdal and (image := _open_with_pillow(file, path)) is not None:
            yield image, file
            return
        drivers = _PILLOW_FORMATS if _is_deep_png(file) or only_gdal else []
        drivers = drivers + _GDAL_DRIVERS if only_gdal else drivers or _GDAL_DRIVERS
        try:  # not by rasterio.open, which takes a single driver
            with _errors_of(path, _NO_IMAGE):
                dataset = DatasetReader(path, driver=drivers)
        except DataError as error:
            _refuse_other_format(path, error)
            raise
        with dataset:
            yield dataset, file


def _refuse_other_format(path: Path, error: DataError) -> None:
    """Refuse a sound file of a format that GDAL could convert."""
    try:
        with DatasetReader(path, driver=_OTHER_DRIVERS) as dataset:
            name = dataset.driver
    except Exception:  # broken as well
        return
    source, result = (shlex.quote(str(each)) for each in (path, path.with_suffix(".tif")))
    raise DataError(
        f"{path} is of a format that is not read here ({name}); convert it: gdal_translate "
        f"{source} {result}"
    ) from error


def _open_file(path: Path) -> BinaryIO:
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


def _open_with_pillow(file: BinaryIO, path: Path) -> ImageFile.ImageFile | None:
    """Open an image that Pillow decodes without loss; None for other files.

    Raises:
        DataError: it has more pixels than are decoded as a whole.
    """
    file.seek(0)
    if file.read(4) in _TIFF_MAGICS:
        return None
    file.seek(0)
    try:
        with _quiet():
            image = Image.open(file, formats=_PILLOW_FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, too many to be "
            f"decoded as a whole; {_CONVERT}"
        ) from error
    except Exception:  # a broken file makes Pillow raise nearly anything
        return None
    return None if _is_deep_png(file) else image


def _is_deep_png(file: BinaryIO) -> bool:
    """Return True for a PNG file of 16 bits, of whose colours Pillow keeps the upper 8 only."""
    file.seek(0)
    head = file.read(25)
    return head.startswith(b"\x89PNG") and head[24:] == b"\x10"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings of large images, broken EXIF data and transparent palettes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@contextmanager
def _errors_of(path: Path, problem: str) -> Iterator[None]:
    """Turn any error of a library into a sentence: the file, its problem, the library's words."""
    try:
        yield
    except Exception as error:  # Pillow raises nearly anything, rasterio private classes as well
        text = str(error.__cause__ or error).split(" <_io.")[0]  # Pillow names the open file
        reason = " ".join(text.replace(str(path), path.name).split()).rstrip(".")
        remedy = _CONVERT if "codec" in str(error) else "replace the file"
        if "not recognized" in reason:
            remedy += ", or convert it to TIFF"
        raise DataError(f"{path} {problem} ({reason or type(error).__name__}); {remedy}") from error


def _damage(window: Slices) -> str:
    rows, columns = window
    return (
        f"is damaged: rows {rows.start} to {rows.stop - 1}, columns {columns.start} to "
        f"{columns.stop - 1} cannot be decoded"
    )


def _has_own_mask(dataset: DatasetReader) -> bool:
    """Return True for a mask band of all bands, not made of values: in the file or beside it."""
    flags = dataset.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags


def _palette(dataset: DatasetReader) -> np.ndarray | None:
    """Return the colours of all values that the first band can have; None: it has no palette."""
    if dataset.colorinterp[0] != ColorInterp.palette:
        return None
    try:
        colors = [color[:3] for color in dataset.colormap(1).values()]
    except ValueError:  # a palette is announced and missing
        return None
    palette = np.zeros((256 if dataset.dtypes[0] == "uint8" else 1 << 16, 3), np.uint8)
    colors = colors[: len(palette)]
    palette[: len(colors)] = np.reshape(colors, (-1, 3))
    return palette


def _color_bands(colors: Sequence[ColorInterp]) -> tuple[int, ...]:
    """Return the bands of red, green and blue, if each of them is named once; else nothing."""
    wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if any(list(colors).count(color) != 1 for color in wanted):
        return ()
    return tuple(1 + list(colors).index(color) for color in wanted)


def _orientation(read_tags: Callable[[], Mapping[int, Any]]) -> int:
    """Return the orientation by EXIF or TIFF tags; 1 where they are broken or there is none."""
    try:
        with _quiet():
            orientation = read_tags().get(_ORIENTATION, 1)
    except Exception:  # the pixels may be good; if they are not, their reader says so
        return 1
    return orientation if orientation in range(1, 9) else 1


def _png_tags(file: BinaryIO) -> Mapping[int, Any]:
    """Read the EXIF tags of a PNG file."""
    file.seek(0)
    return Image.open(file, formats=["PNG"]).getexif()


def _tiff_tags(file: BinaryIO) -> dict[int, int]:
    """Read the tags of a TIFF file, right for numbers of 16 bits; of any other file, none.

    Pillow's reader takes no big-endian BigTIFF.
    """
    file.seek(0)
    head = file.read(16)
    if head[:4] not in _TIFF_MAGICS:
        return {}
    order, is_big = "<" if head[:2] == b"II" else ">", b"+" in head[2:4]
    offset_at, offset_format, count_format = (8, "Q", "Q") if is_big else (4, "I", "H")
    (start,) = struct.unpack_from(order + offset_format, head, offset_at)
    file.seek(start)
    (count,) = struct.unpack(order + count_format, file.read(struct.calcsize(count_format)))
    entry = struct.Struct(order + ("HHQH6x" if is_big else "HHIH2x"))  # tag, type, count, value
    directory = file.read(min(count, 0xFFFF) * entry.size)
    return {tag: value for tag, _, _, value in entry.iter_unpack(directory)}
