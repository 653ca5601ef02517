"""Result rasters, written in strips of rows.

Memory does not grow with the height. A result is atomic: it gets its name when all rows are
written; an error leaves nothing, a kill a ``.partial`` file.
"""

import errno
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetWriter

from utils.errors import ConfigError
from utils.files import atomic_path, write_text
from utils.rasters.placement import Placement
from utils.rasters.sources import gdal_settings

Palette = Sequence[tuple[int, int, int]]  # at most 256 colours
BLOCK_PX = 512
# Level 6 halves the class maps that level 1 writes; photographs it makes slower, not smaller.
_LEVELS = {1: 6, 3: 1}
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


class RasterWriter:
    """An open result raster of uint8; made by ``open_writer``.

    GDAL compresses a block again whenever it is flushed before all of its rows are there: three
    times the time and twice the memory. So rows are collected to whole rows of blocks.
    """

    def __init__(self, dataset: DatasetWriter, path: Path) -> None:
        self._dataset, self._path = dataset, path
        self._rows = np.empty((BLOCK_PX, dataset.width, dataset.count), np.uint8)
        self._num_rows = 0  # that were added

    def write(self, rows: np.ndarray) -> None:
        """Add rows below those that were written.

        Args:
            rows: ``(n, width, 3)`` or, of one band, ``(n, width)`` uint8; any n.
        """
        bands = self._dataset.count
        expected = (self._dataset.width, 3) if bands == 3 else (self._dataset.width,)
        if rows.dtype != np.uint8 or rows.shape[1:] != expected:
            wanted = ", ".join(map(str, expected))
            raise ValueError(f"rows are (n, {wanted}) uint8, not {rows.shape} {rows.dtype}")
        if self._num_rows + len(rows) > self._dataset.height:
            raise ValueError(
                f"{self._num_rows + len(rows)} rows for an image of {self._dataset.height}"
            )
        rows = rows.reshape(len(rows), self._dataset.width, bands)
        while len(rows):
            start = self._num_rows % BLOCK_PX
            part = rows[: BLOCK_PX - start]
            self._rows[start : start + len(part)] = part
            self._num_rows += len(part)
            rows = rows[len(part) :]
            if self._num_rows % BLOCK_PX == 0 or self._num_rows == self._dataset.height:
                self._flush(start + len(part))

    def _flush(self, count: int) -> None:
        """Write the collected rows, the last of which is the last one added."""
        window = (self._num_rows - count, self._num_rows), (0, self._dataset.width)
        self._dataset.write(np.moveaxis(self._rows[:count], -1, 0), window=window)

    def check_complete(self) -> None:
        """Raise ``ValueError`` unless all rows were written."""
        if self._num_rows < self._dataset.height:
            raise ValueError(
                f"{self._num_rows} of {self._dataset.height} rows of {self._path} were written"
            )


@contextmanager
def open_writer(
    path: Path,
    size: tuple[int, int],
    bands: int,
    placement: Placement | None = None,
    palette: Palette | None = None,
) -> Iterator[RasterWriter]:
    """Write a .tif or .png file by strips of rows.

    A .tif file has tiles of 512 x 512 pixels, Deflate, and is a BigTIFF file where 4 GiB might be
    exceeded. A .png file is compressed at the end, from an uncompressed file beside it; it cannot
    hold a placement, so a world file (.pgw) and a .prj file are written beside it.

    Args:
        path: file to write.
        size: height and width.
        bands: 3 (RGB) or 1.
        placement: georeferencing of the same grid.
        palette: colours of the values of one band; other values are black.

    Raises:
        ConfigError: another suffix.
        OSError: the file could not be written, for example to a full disk.
    """
    suffix = path.suffix.lower()
    if suffix not in (".tif", ".png"):
        raise ConfigError(f"{path} cannot be written; results are .tif or .png files")
    if bands not in _LEVELS or (palette is not None and bands != 1):
        raise ValueError(f"an image has 3 bands, or 1 with or without a palette: {bands}")
    if min(size) < 1:
        raise ValueError(f"an image of {size[0]} x {size[1]} pixels holds nothing")
    with atomic_path(path) as partial, _quiet(), gdal_settings(GDAL_PAM_ENABLED="NO"):
        raw = partial if suffix == ".tif" else partial.with_suffix(".raw.partial")
        try:
            with _create(raw, size, bands, suffix == ".tif") as dataset:
                if suffix == ".tif" and placement is not None:
                    _place(dataset, placement)
                if palette is not None:
                    _paint(dataset, palette)
                writer = RasterWriter(dataset, path)
                yield writer
                writer.check_complete()
            _check_whole(raw)
            if suffix == ".png":
                rasterio.shutil.copy(raw, partial, driver="PNG", zlevel=_LEVELS[bands])
                _check_png(partial)
        except RasterioError as error:
            raise OSError(f"{path} could not be written ({error.__cause__ or error})") from error
        finally:
            if raw != partial:
                raw.unlink(missing_ok=True)
        if suffix == ".png" and placement is not None:
            _write_world_file(path, placement)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _create(path: Path, size: tuple[int, int], bands: int, compressed: bool) -> DatasetWriter:
    options: dict[str, object] = {"interleave": "pixel"}
    if compressed:
        options |= {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX}
        options |= {"compress": "DEFLATE", "zlevel": _LEVELS[bands]}
        options["predictor"] = 2 if bands == 3 else 1
    try:
        return rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=size[0],
            width=size[1],
            count=bands,
            dtype="uint8",
            photometric="RGB" if bands == 3 else "MINISBLACK",
            bigtiff="IF_SAFER",
            **options,
        )
    except Exception as error:  # also private ones of rasterio
        raise OSError(f"{path} cannot be created ({error})") from error


def _place(dataset: DatasetWriter, placement: Placement) -> None:
    # A no-data value is not copied: it would be a class.
    if placement.area_or_point is not None:
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


def _paint(dataset: DatasetWriter, palette: Palette) -> None:
    colors = [*palette, *[(0, 0, 0)] * (256 - len(palette))]
    dataset.write_colormap(1, dict(enumerate(colors)))


def _check_whole(path: Path) -> None:
    """Raise ``OSError`` unless all blocks of a TIFF file lie within it.

    An error of the last writes, while a file is closed, is not reported by GDAL.
    """
    num_bytes = path.stat().st_size
    with rasterio.open(path) as dataset:
        height, width = dataset.block_shapes[0]
        for down in range(-(-dataset.height // height)):
            for across in range(-(-dataset.width // width)):
                offset, length = (
                    int(dataset.get_tag_item(f"BLOCK_{what}_{across}_{down}", "TIFF", bidx=1) or 0)
                    for what in ("OFFSET", "SIZE")
                )
                if not offset or offset + length > num_bytes:
                    raise _disk_full(path)


def _check_png(path: Path) -> None:
    """Raise ``OSError`` unless a PNG file has its end."""
    with path.open("rb") as file:
        file.seek(-len(_PNG_END), os.SEEK_END)
        if file.read() != _PNG_END:
            raise _disk_full(path)


def _disk_full(path: Path) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _write_world_file(path: Path, placement: Placement) -> None:
    """Write what places a PNG file beside it."""
    if (world := placement.world_file_text()) is None:
        return
    write_text(path.with_suffix(".pgw"), world)
    if placement.crs is not None:
        write_text(path.with_suffix(".prj"), placement.crs.to_wkt(version="WKT1_ESRI"))
