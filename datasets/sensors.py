"""Sensors (elevation, near infrared ...): bands of numbers, read by window as their image lies.

Their files are rasters beside the images, or the images themselves, which may have further bands.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.schema import GENERATORS, RESERVED_NAMES
from datasets.sources import SourceFacts
from utils.boxes import Box
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import IMAGE_SUFFIXES
from utils.rasters.frames import Frame, wanted_warp
from utils.rasters.placement import placement_of
from utils.rasters.reading import Raster
from utils.rasters.rendering import AS_STORED, Rendering

_SUFFIXES = (*IMAGE_SUFFIXES, ".asc", ".bil")
OpenRaster = Callable[..., AbstractContextManager[Raster]]  # of a file, arguments as open_scene
_SAMPLE = 1 << 18  # values


@dataclass(frozen=True, kw_only=True)
class SensorFiles:
    """Place of the values of a sensor."""

    path: Path | None  # a raster, or a folder of rasters named as the images; None: the images
    band: int | None = None  # counted from 1; None: rasters have one band

    def __str__(self) -> str:
        band = [] if self.band is None else [f"band:{self.band}"]
        return ":".join([*([] if self.path is None else [str(self.path)]), *band])


def sensor_name(text: str) -> str:
    """Parse ``--name dsm``."""
    is_taken = text in {*GENERATORS, *RESERVED_NAMES}
    if is_taken or not text.replace("_", "").replace("-", "").isalnum():
        raise argparse.ArgumentTypeError(
            f"'{text}' is reserved or no folder name; choose another, e.g. dsm"
        )
    return text


def named_sensor(text: str) -> tuple[str, SensorFiles]:
    """Parse ``--sensor dsm=PATH``, ``dsm=PATH:band:2`` or, of the images, ``nir=band:4``."""
    name, _, where = text.partition("=")
    found = re.fullmatch(r"(?:(.+):)?band:([1-9]\d*)", where)
    path, band = (found[1], int(found[2])) if found else (where, None)
    if not where or (found is None and re.search(r"(^|:)band:[^/]*$", where)):
        raise argparse.ArgumentTypeError(
            f"must be NAME=PATH, NAME=PATH:band:N or, of the images, NAME=band:N, not '{text}'"
        )
    return sensor_name(name), SensorFiles(path=Path(path) if path else None, band=band)


def files_by_name(sensors: Sequence[tuple[str, SensorFiles]]) -> dict[str, SensorFiles]:
    """Return the files of each sensor, of the parsed arguments of ``--sensor``.

    Raises:
        ConfigError: one is named twice.
    """
    found = dict(sensors)
    if len(found) < len(sensors):
        names = ", ".join(f"{name}={where}" for name, where in sensors)
        raise ConfigError(f"--sensor names a sensor twice: {names}; leave one of them out")
    return found


def find_raster(folder: Path, name: str) -> Path:
    """Return the raster of an image in a folder.

    Args:
        folder: of rasters.
        name: path of the image in its folder, without suffix; ``__`` may stand for ``/``.

    Raises:
        MissingDataError: there is none.
        DataError: there are several.
    """
    for stem in dict.fromkeys((name, name.replace("__", "/"))):
        suffixes = (*_SUFFIXES, *(suffix.upper() for suffix in _SUFFIXES))
        paths = [path for suffix in suffixes if (path := folder / f"{stem}{suffix}").is_file()]
        if len(paths) > 1:
            raise DataError(
                f"the image '{name}' has several rasters, {paths[0]} and {paths[1].name}; remove "
                "all but one"
            )
        if paths:
            return paths[0]
    raise MissingDataError(
        f"the image '{name}' has no raster {folder / name} (.tif, .png or another format); add it"
    )


class SensorBand:
    """An open band of numbers on the grid of its image; ``open_band`` makes one.

    Attributes:
        is_warped: the raster has another grid.
    """

    def __init__(
        self, raster: Raster, band: int, no_data: tuple[float, ...], *, is_warped: bool
    ) -> None:
        self.is_warped = is_warped
        self._raster, self._band, self._no_data = raster, band, no_data

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Read a window, ``(h, w)`` float32 or float64, NaN where there is no data.

        Columns to the right of the raster, which are allowed to be missing, hold no data.
        """
        raster = self._raster
        stored = raster.read_values(rows, columns, [self._band])[..., 0]
        valid = raster.read_mask(rows, columns) & self._holds_data(stored)
        width = columns.stop - columns.start
        values = np.full((len(stored), width), np.nan, np.result_type(stored.dtype, np.float32))
        np.copyto(values[:, : stored.shape[1]], stored, where=valid)
        return values

    def sample(self) -> np.ndarray:
        """Return values that are spread over the image, ``(N,)``; N may be 0."""
        stored = self._raster.sample(_SAMPLE, [self._band])[:, 0]
        return stored[self._holds_data(stored)]

    def _holds_data(self, stored: np.ndarray) -> np.ndarray:
        """Return where values are numbers and none of those that stand for no data."""
        valid = np.isfinite(stored)
        for value in self._no_data:
            # -9999.9 is another number in a float file than on the command line.
            valid &= stored != (stored.dtype.type(value) if stored.dtype.kind == "f" else value)
        return valid


def image_frame(facts: SourceFacts) -> Frame:
    """Return the frame of an image of a prepared set, from what is recorded of a source of it."""
    placement = None
    if facts.transform is not None:
        placement = placement_of(facts.crs, facts.transform, Box(0, 0, *facts.size))
    return Frame(name=f"'{facts.image}'", size=facts.size, placement=placement)


@contextmanager
def open_band(
    open_raster: OpenRaster,
    image: Frame,
    *,
    rendering: Rendering = AS_STORED,
    band: int | None = None,
    no_data: float | None = None,
    lacks_columns_px: int = 0,
) -> Iterator[SensorBand]:
    """Open a band of a raster on the grid of its image.

    A raster with another place is interpolated (bilinear), if both are placed on the earth.

    Args:
        open_raster: opens the file.
        image: the image.
        rendering: of the image, if the band is one of its own: tells if alpha is data.
        band: counted from 1; None: the only one.
        no_data: value without data, beside NaN and what the file declares.
        lacks_columns_px: columns that may be missing at the right.

    Raises:
        DataError: the raster does not fit the image, has no such band or several, or does not hold
            numbers.
    """
    with open_raster(rendering) as raster:
        chosen = _chosen_band(raster, rendering, band)
        values = tuple(v for v in (raster.no_data, no_data) if v is not None)
        height, width = raster.size
        if 0 < image.size[1] - width <= lacks_columns_px:
            width = image.size[1]
        own = Frame(name=raster.path, size=(height, width), placement=raster.placement)
        grid = wanted_warp(own, image)
        if grid is None:
            yield SensorBand(raster, chosen, values, is_warped=False)
            return
        if no_data is not None and raster.no_data != no_data:
            raise DataError(  # interpolated with its neighbours, it would be any value
                f"{raster.path} is put on the grid of its image, for which its no-data value must "
                f"be in the file; leave --no-data out and run gdal_edit.py -a_nodata {no_data:g}"
            )
    with open_raster(rendering, grid, bilinear=True) as raster:
        yield SensorBand(raster, chosen, values, is_warped=True)


def _chosen_band(raster: Raster, rendering: Rendering, band: int | None) -> int:
    """Return the number of the band to read."""
    if raster.palette is not None or raster.dtype.kind not in "iuf":
        what = "colours of a palette" if raster.palette is not None else raster.dtype.name
        raise DataError(f"{raster.path} must hold bands of numbers, not {what}")
    alpha = None if rendering.takes_as_data(raster.alpha_band) else raster.alpha_band
    if band is None:
        own = [number for number in range(1, raster.num_bands + 1) if number != alpha]
        if len(own) != 1:
            raise DataError(
                f"{raster.path} has {len(own)} bands; name the one of the sensor: --band N, or "
                "--sensor NAME=PATH:band:N"
            )
        return own[0]
    if band > raster.num_bands:
        raise DataError(f"{raster.path} has {raster.num_bands} bands, not a band {band}")
    if band == alpha:
        raise DataError(
            f"band {band} of {raster.path} is declared as alpha, which tells pixels without data; "
            "if it holds data, give --alpha-is-data"
        )
    return band
