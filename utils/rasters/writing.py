"""Result rasters as GeoTIFF or PNG files, written in strips of rows.

Memory does not grow with the height. A result is atomic: it gets its name when all rows are
written; an error leaves nothing, a kill a ``.partial`` file.
"""

import errno
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import Interleaving, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter, MemoryFile

from utils.errors import ConfigError
from utils.files import atomic_path, write_text
from utils.rasters.placement import Placement
from utils.rasters.png import PngFile
from utils.rasters.sources import gdal_settings

Palette = Sequence[tuple[int, int, int]]  # at most 256 colours
Size = tuple[int, int]  # height and width
BLOCK_PX = 512
# Up to this size a file with overviews is Cloud Optimized: it is collected in memory, because the
# overviews come first in such a file. The image and its overviews take 85 MB there.
CLOUD_OPTIMIZED_PX = 64_000_000
_CLASS_LEVEL, _FAST_LEVEL = 6, 1  # of Deflate: 6 halves class maps, and makes photographs slower


@dataclass(frozen=True, kw_only=True)
class BandTags:
    """Statements of a GeoTIFF file on its bands; a PNG file has no place for them.

    Attributes:
        names: description of each band.
        scale: number by which stored values are multiplied; None: 1.
        no_data: stored value of pixels without data.
        items: further names and values, of the first band.
    """

    names: tuple[str, ...] = ()
    scale: float | None = None
    no_data: int | None = None
    items: Mapping[str, str] = field(default_factory=dict)


class RasterWriter(ABC):
    """An open result raster of uint8; made by ``open_writer``."""

    def __init__(self, size: Size, bands: int) -> None:
        self._size, self._bands = size, bands
        self._num_rows = 0  # that were added

    def write(self, rows: np.ndarray, valid: np.ndarray | None = None) -> None:
        """Add rows below those that were written.

        Args:
            rows: ``(n, width, bands)`` uint8, also ``(n, width)`` of one band; any n.
            valid: ``(n, width)`` bool, False where there is no data; of a masked file.
        """
        height, width = self._size
        assert rows.dtype == np.uint8 and rows.shape[1:] in [(width, self._bands), (width,)]
        if self._num_rows + len(rows) > height:
            raise ValueError(f"{self._num_rows + len(rows)} rows for an image of {height}")
        if len(rows):
            self._add(rows.reshape(len(rows), width, self._bands), valid)

    def finish(self, path: Path) -> None:
        """Write what is left of a file; ``ValueError`` unless all rows were written."""
        if self._num_rows < self._size[0]:
            raise ValueError(f"{self._num_rows} of {self._size[0]} rows of {path} were written")

    @abstractmethod
    def _add(self, rows: np.ndarray, valid: np.ndarray | None) -> None:
        """Write ``(n, width, bands)``, n above 0, and count them."""


class _TiffWriter(RasterWriter):
    """Rows of a TIFF file.

    GDAL compresses a block again whenever it is flushed before all of its rows are there: three
    times the time, and twice the memory. So rows are collected to whole rows of blocks.
    """

    def __init__(self, dataset: DatasetWriter, masked: bool) -> None:
        super().__init__((dataset.height, dataset.width), dataset.count)
        self._dataset = dataset
        self._rows = np.empty((self._bands, BLOCK_PX, dataset.width), np.uint8)
        self._valid = np.empty((BLOCK_PX, dataset.width), bool) if masked else None

    def _add(self, rows: np.ndarray, valid: np.ndarray | None) -> None:
        done = 0
        while done < len(rows):
            start = self._num_rows % BLOCK_PX
            part = rows[done : done + BLOCK_PX - start]
            end = start + len(part)
            self._rows[:, start:end] = np.moveaxis(part, -1, 0)
            if self._valid is not None:
                self._valid[start:end] = True if valid is None else valid[done : done + len(part)]
            self._num_rows += len(part)
            done += len(part)
            if end == BLOCK_PX or self._num_rows == self._size[0]:
                window = (self._num_rows - end, self._num_rows), (0, self._size[1])
                self._dataset.write(self._rows[:, :end], window=window)
                if self._valid is not None:
                    self._dataset.write_mask(self._valid[:end], window=window)


class _PngWriter(RasterWriter):
    """Rows of a PNG file, which has no mask: pixels without data are what the rows hold."""

    def __init__(self, file: PngFile, size: Size, bands: int) -> None:
        super().__init__(size, bands)
        self._file = file

    def _add(self, rows: np.ndarray, valid: np.ndarray | None) -> None:
        self._file.write(rows)
        self._num_rows += len(rows)

    def finish(self, path: Path) -> None:
        """Write the end of the file."""
        super().finish(path)
        self._file.finish()


@contextmanager
def open_writer(
    path: Path,
    size: Size,
    bands: int,
    placement: Placement | None = None,
    palette: Palette | None = None,
    *,
    tags: BandTags = BandTags(),
    masked: bool = False,
    overviews: bool = False,
) -> Iterator[RasterWriter]:
    """Write a .tif or .png file by strips of rows.

    A .tif file has tiles of 512 x 512 pixels, Deflate, and is a BigTIFF file where 4 GiB might be
    exceeded. A .png file cannot hold a placement: a world file (.pgw) and a .prj file go with it.

    Args:
        path: file to write.
        size: height and width.
        bands: 3 (RGB), 1, or in a .tif file as many as ``tags.names``.
        placement: georeferencing of the same grid.
        palette: colours of the values of one band; other values are black.
        tags: statements on the bands, for a .tif file.
        masked: give a .tif file an internal mask, for pixels without data.
        overviews: give a .tif file overviews (nearest pixel), and up to ``CLOUD_OPTIMIZED_PX`` the
            layout of a Cloud Optimized GeoTIFF.

    Raises:
        ConfigError: another suffix.
        OSError: the file could not be written, for example to a full disk.
    """
    suffix = path.suffix.lower()
    if suffix not in (".tif", ".png"):
        raise ConfigError(f"{path} cannot be written; results are .tif or .png files")
    placement = placement or Placement()
    with atomic_path(path) as partial:
        if suffix == ".png":
            with partial.open("wb") as file:
                colors = None if palette is None else _full(palette)
                writer = _PngWriter(PngFile(file, size, bands, colors), size, bands)
                yield writer
                writer.finish(path)
            _write_world_file(path, placement)
            return
        settings = gdal_settings(GDAL_PAM_ENABLED="NO", GDAL_TIFF_INTERNAL_MASK="YES")
        with _tiff_errors(path), settings, _destination(partial, size, overviews) as plain:
            with _create_tiff(plain, size, bands, tags, in_memory=plain != partial) as dataset:
                _place(dataset, placement)
                _describe(dataset, tags, palette)
                tiff_writer = _TiffWriter(dataset, masked)
                yield tiff_writer
                tiff_writer.finish(path)
            if overviews:
                _build_overviews(plain, size)
        _check_whole(partial, 1 + masked + (len(_overview_factors(size)) if overviews else 0))


@contextmanager
def _tiff_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise OSError(f"{path} could not be written ({error.__cause__ or error})") from error


@contextmanager
def _destination(path: Path, size: Size, overviews: bool) -> Iterator[Path | str]:
    """Yield the file that rows are written to: ``path``, or one in memory that becomes ``path``."""
    if not overviews or math.prod(size) > CLOUD_OPTIMIZED_PX:
        yield path
        return
    with MemoryFile() as memory:
        yield memory.name
        options = {"compress": "DEFLATE", "level": _CLASS_LEVEL, "blocksize": BLOCK_PX}
        try:
            rasterio.shutil.copy(memory.name, path, driver="COG", bigtiff="IF_SAFER", **options)
        except Exception as error:  # also private ones of rasterio
            raise OSError(f"{path} cannot be written ({error})") from error


def _create_tiff(
    path: Path | str, size: Size, bands: int, tags: BandTags, in_memory: bool
) -> DatasetWriter:
    is_rgb, is_one = bands == 3 and not tags.names, bands == 1
    compression = {
        "compress": "DEFLATE",
        "zlevel": _CLASS_LEVEL if is_one else _FAST_LEVEL,
        "predictor": 2 if is_rgb else 1,
    }
    try:
        return rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=size[0],
            width=size[1],
            count=bands,
            dtype="uint8",
            photometric="RGB" if is_rgb else "MINISBLACK",
            interleave="pixel" if is_rgb or is_one else "band",
            tiled=True,
            blockxsize=BLOCK_PX,
            blockysize=BLOCK_PX,
            bigtiff="IF_SAFER",
            **({} if in_memory else compression),
        )
    except Exception as error:  # also private ones of rasterio
        raise OSError(f"{path} cannot be created ({error})") from error


def _place(dataset: DatasetWriter, placement: Placement) -> None:
    """Copy a georeferencing, but no no-data value: it would be a class."""
    # A file that says "Point" without a coordinate reference system: GDAL would invent one.
    is_known = placement.crs is not None or placement.gcps_crs is not None
    if placement.area_or_point is not None and (is_known or placement.area_or_point == "Area"):
        dataset.update_tags(AREA_OR_POINT=placement.area_or_point)
    if placement.gcps and placement.transform is None:  # a TIFF file holds one of both
        dataset.gcps = [*placement.gcps], placement.gcps_crs
    else:
        if placement.crs is not None:
            dataset.crs = placement.crs
        if placement.transform is not None:
            dataset.transform = placement.transform
    if placement.rpcs is not None:
        dataset.rpcs = placement.rpcs


def _describe(dataset: DatasetWriter, tags: BandTags, palette: Palette | None) -> None:
    """Write what a file says of its bands; before the pixels, so that its head is written once."""
    if palette is not None:
        dataset.write_colormap(1, dict(enumerate(_full(palette))))
    if tags.no_data is not None:
        dataset.nodata = tags.no_data
    for band, name in enumerate(tags.names, 1):
        dataset.set_band_description(band, name)
    if tags.scale is not None:
        dataset.scales = (tags.scale,) * dataset.count
    dataset.update_tags(1, **tags.items)


def _full(palette: Palette) -> list[tuple[int, int, int]]:
    """Return 256 colours: a value without a colour must not make a file invalid."""
    return [*palette, *[(0, 0, 0)] * (256 - len(palette))]


def _overview_factors(size: Size) -> list[int]:
    """Return 2, 4, 8 ... until an overview is a single block."""
    return [1 << n for n in range(1, 32) if max(size) >> (n - 1) > BLOCK_PX]


def _build_overviews(path: Path | str, size: Size) -> None:
    if factors := _overview_factors(size):
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews(factors, Resampling.nearest)


def _check_whole(path: Path, num_images: int) -> None:
    """Raise ``OSError`` unless all blocks of all images of a TIFF file lie within it.

    GDAL does not report errors of the last writes, which closing a file causes.

    Args:
        path: the file.
        num_images: number of its overviews and masks, and one.
    """
    num_bytes = path.stat().st_size
    for number in range(1, num_images + 1):
        with _tiff_errors(path), rasterio.open(f"GTIFF_DIR:{number}:{path}") as dataset:
            height, width = dataset.block_shapes[0]
            # Blocks of interleaved bands are the same.
            bands = dataset.indexes if dataset.interleaving == Interleaving.band else [1]
            across, down = -(-dataset.width // width), -(-dataset.height // height)
            for band, column, row in product(bands, range(across), range(down)):
                offset, length = (
                    int(
                        dataset.get_tag_item(f"BLOCK_{part}_{column}_{row}", "TIFF", bidx=band) or 0
                    )
                    for part in ("OFFSET", "SIZE")
                )
                if not offset or offset + length > num_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _write_world_file(path: Path, placement: Placement) -> None:
    """Write what places a PNG file beside it."""
    if (world := placement.world_file_text()) is None:
        return
    write_text(path.with_suffix(".pgw"), world)
    if placement.crs is not None:
        write_text(path.with_suffix(".prj"), placement.crs.to_wkt(version="WKT1_ESRI"))
