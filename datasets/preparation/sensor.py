"""Import of a sensor beside RGB (elevation, near infrared ...) as a structure modality.

Its rasters become 16-bit maps of a prepared data set: 0 = no data, 1..65535 from the smallest to
the largest value of the whole data set, which the manifest records.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import GENERATORS, RESERVED_NAMES
from datasets.preparation.archives import ArchiveFile, in_threads, strips
from datasets.structure_maps import (
    SENSOR,
    MapRecipe,
    begin_store,
    store_folder,
    to_levels,
    write_manifest,
    write_map,
)
from datasets.tile_set import Tile, TileSet, image_path, open_tile_set
from utils.arguments import default_workers
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import remembered, sha256_of
from utils.rasters.reading import Raster

SUFFIXES = (".tif", ".tiff", ".png")


def add_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments of ``prepare.py sensor``."""
    add("--data", type=Path, required=True, help="a prepared data set, data/NAME")
    text = "of the modality, e.g. dsm or nir"
    add("--name", type=sensor_name, required=True, help=text)
    add("--rasters", type=Path, required=True, help="folder: the images' names, one band each")
    add_range(add, "values to store")
    add_no_data(add)


def add_no_data(add: Callable[..., Any]) -> None:
    """Add ``--no-data``, an argument of ``prepare.py folder`` too."""
    text = "value of pixels without data, beside NaN and the value that a file declares"
    add("--no-data", type=float, help=text)


def add_range(add: Callable[..., Any], what: str) -> None:
    """Add ``--range``, of the levels of a sensor."""
    text = f"range of the {what}, instead of that of its values; take the range of the set that a "
    text += "checkpoint was trained on"
    add("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=text)


def value_range(args: argparse.Namespace) -> tuple[float, float] | None:
    """Return ``--range``; None: that of the values.

    Raises:
        ConfigError: the range is empty.
    """
    if args.range is None:
        return None
    low, high = args.range
    if not low < high:
        raise ConfigError(f"--range is {low:g} {high:g}; the first must be the smaller")
    return low, high


def sensor_name(text: str) -> str:
    """Parse ``--name dsm``."""
    is_taken = text in {*GENERATORS, *RESERVED_NAMES}
    if is_taken or not text.replace("_", "").replace("-", "").isalnum():
        raise argparse.ArgumentTypeError(
            f"'{text}' is reserved or no folder name; choose another, e.g. dsm"
        )
    return text


def name_and_folder(text: str) -> tuple[str, Path]:
    """Parse ``--sensor dsm=FOLDER``."""
    name, _, folder = text.partition("=")
    if not folder:
        raise argparse.ArgumentTypeError(f"must be NAME=FOLDER, not '{text}'")
    return sensor_name(name), Path(folder)


def run(args: argparse.Namespace) -> None:
    """Run ``prepare.py sensor``."""
    limits = value_range(args)
    import_sensor(open_tile_set(args.data), args.name, args.rasters, args.no_data, limits)


def import_sensor(
    tile_set: TileSet,
    name: str,
    rasters: Path,
    no_data: float | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    """Cut a sensor's rasters like their images, write them as a store, and print the next step.

    Args:
        tile_set: the prepared data set.
        name: name of the store.
        rasters: folder with a raster of the name and size of every source image.
        no_data: value of pixels without data, beside NaN and what a file declares.
        limits: lowest and highest value of the stored range, which values are clipped to; None:
            the range of the values.

    Raises:
        MissingDataError: an image has no raster.
        DataError: sizes differ, a file cannot be read, no pixel has data, or the store exists
            with another range.
    """
    by_source: dict[str, list[Tile]] = {}
    for tile in tile_set.tiles.values():
        by_source.setdefault(tile.source, []).append(tile)
    found = [
        SourceRaster(id=source, file=_find(rasters, source), tiles=tiles)
        for source, tiles in by_source.items()
    ]
    folder = store_folder(tile_set.root, name)
    low, high = store_rasters(tile_set.root, name, found, no_data, limits, default_workers())
    print(
        f"{len(tile_set.tiles)} maps in {folder}, values {low:g} to {high:g}; use them with "
        f"structure.modalities=[..., {name}]"
    )


@dataclass(frozen=True, kw_only=True)
class SourceRaster:
    """Raster of a sensor that belongs to a source image."""

    id: str  # of the source image
    file: ArchiveFile
    tiles: list[Tile]
    lacks_columns_px: int = 0  # columns that may be missing at its right: no data there

    def read(self, no_data: float | None) -> np.ndarray:
        """Read the band as in ``read_band``, padded to the size of the image."""
        with self.file.open_image() as opened:
            raster = read_band(opened, self.file.name, no_data)
        height = max(tile.bottom_px for tile in self.tiles)
        width = max(tile.right_px for tile in self.tiles)
        lacks_px = width - raster.shape[1]
        if 0 < lacks_px <= self.lacks_columns_px:
            raster = np.pad(raster, ((0, 0), (0, lacks_px)), constant_values=np.nan)
        if raster.shape != (height, width):
            raise DataError(
                f"{self.file.name} is {raster.shape[0]} x {raster.shape[1]} and its image {height} "
                f"x {width} (height x width); give them one size"
            )
        return raster


def store_rasters(
    root: Path,
    name: str,
    rasters: list[SourceRaster],
    no_data: float | None,
    limits: tuple[float, float] | None,
    num_workers: int,
    records: Path | None = None,
) -> tuple[float, float]:
    """Write the rasters of a set, whose images are written already, as the store ``name``.

    Args:
        root: the set, finished or not.
        name: name of the store.
        rasters: rasters of every source image.
        no_data: as in ``import_sensor``.
        limits: as in ``import_sensor``.
        num_workers: number of rasters read at a time.
        records: folder of finished work, from which a killed run resumes; None: never resume.

    Returns:
        Lowest and highest value of the stored range.
    """

    def find_range(raster: SourceRaster) -> list[float]:
        path = records / f"{raster.id}.range.json" if records is not None else None
        return remembered(path, lambda: _range_of(raster.read(no_data)))

    ranges = [own for own in in_threads(find_range, rasters, f"{name}: range", num_workers) if own]
    if not ranges:
        raise DataError(
            f"no raster of the sensor {name} has a pixel with data; check --no-data or leave it out"
        )
    low, high = limits or (min(own[0] for own in ranges), max(own[1] for own in ranges))
    settings = {"minimum": low, "maximum": high}
    recipe = MapRecipe(generator=SENSOR, settings=settings, weights_sha256=None)
    folder = store_folder(root, name)
    begin_store(folder, recipe)

    def write(raster: SourceRaster) -> dict[str, str]:
        path = records / f"{raster.id}.json" if records is not None else None
        return remembered(path, lambda: _write_maps(root, folder, raster, no_data, recipe))

    hashes: dict[str, str] = {}
    for own in in_threads(write, rasters, name, num_workers):
        hashes |= own
    write_manifest(folder, recipe, dict(sorted(hashes.items())))
    return low, high


def _range_of(raster: np.ndarray) -> list[float]:
    """Return the smallest and the largest value; nothing if there is no data."""
    if not np.isfinite(raster).any():
        return []
    return [float(np.nanmin(raster)), float(np.nanmax(raster))]


def _write_maps(
    root: Path, folder: Path, raster: SourceRaster, no_data: float | None, recipe: MapRecipe
) -> dict[str, str]:
    """Cut a raster like its image; return the hash of the image of every tile."""
    low, high = recipe.settings["minimum"], recipe.settings["maximum"]
    values, hashes = raster.read(no_data), {}
    for tile in raster.tiles:
        part = values[tile.slices]
        levels = np.empty(part.shape, np.uint16)
        for rows in strips(len(part)):  # the arithmetic is in 64 bits
            levels[rows] = to_levels(part[rows], low, high)
        hashes[tile.id] = sha256_of(image_path(root, tile.id))
        write_map(folder, tile.id, levels, hashes[tile.id], recipe)
    return hashes


def read_band(raster: Raster, name: str, no_data: float | None) -> np.ndarray:
    """Read a single band, ``(H, W)`` float32 or float64, NaN where there is no data.

    Args:
        raster: the open file, whose own no-data values and masks apply too.
        name: of the file, for errors.
        no_data: value without data.

    Raises:
        DataError: the file has several bands, or does not hold numbers.
    """
    if raster.num_bands != 1 or raster.palette is not None or raster.dtype.kind not in "iuf":
        what = "colours of a palette" if raster.palette is not None else raster.dtype.name
        raise DataError(f"{name} must hold one band of numbers, not {raster.num_bands} of {what}")
    values = np.empty(raster.size, np.result_type(raster.dtype, np.float32))
    for rows in strips(raster.size[0]):
        stored = raster.read_values(rows, slice(None))[..., 0]
        valid = raster.read_mask(rows, slice(None)) & np.isfinite(stored)
        if no_data is not None:
            # -9999.9 is another number in a float file than on the command line.
            valid &= stored != (stored.dtype.type(no_data) if stored.dtype.kind == "f" else no_data)
        values[rows] = np.where(valid, stored, np.nan)
    return values


def _find(rasters: Path, source: str) -> ArchiveFile:
    # The id of an image in a subfolder has '__' in place of '/'.
    for stem in (source, source.replace("__", "/")):
        for suffix in (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES)):
            if (path := rasters / f"{stem}{suffix}").is_file():
                return ArchiveFile(name=str(path), path=path)
    raise MissingDataError(
        f"the image '{source}' has no raster {rasters / source}{{{','.join(SUFFIXES)}}}; add it"
    )
