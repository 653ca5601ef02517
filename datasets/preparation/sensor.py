"""Import of a sensor beside RGB (elevation, near infrared ...) as a structure modality.

Its rasters become 16-bit maps of a prepared data set: 0 = no data, 1..65535 from the smallest to
the largest value of the whole data set, which the manifest records.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.preparation.archives import ArchiveFile, in_threads, strips
from datasets.rasters import read_raster
from datasets.sensors import SensorBand, find_raster, image_frame, open_band, sensor_name
from datasets.sources import SourceFacts
from datasets.structure_maps import (
    SENSOR,
    MapRecipe,
    begin_store,
    store_folder,
    to_levels,
    write_manifest,
    write_map,
)
from datasets.tile_set import Tile, TileSet, image_path, open_tile_set, valid_path
from utils.arguments import default_workers, positive_int
from utils.boxes import Box
from utils.errors import ConfigError, DataError
from utils.files import remembered, sha256_of
from utils.rasters.rendering import AS_STORED, Rendering

_WINDOW_COLUMNS = 8192  # of a strip of rows that are read at a time


def add_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments of ``prepare.py sensor``."""
    add("--data", type=Path, required=True, help="a prepared data set, data/NAME")
    text = "of the modality, e.g. dsm or nir"
    add("--name", type=sensor_name, required=True, help=text)
    add("--rasters", type=Path, help="folder of rasters: the images' names")
    text = "folder of the images themselves, which hold the sensor in a further band"
    add("--images", type=Path, help=text)
    text = "of the rasters or images that holds the sensor, counted from 1 (default: the only one)"
    add("--band", type=positive_int, help=text)
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


def run(args: argparse.Namespace) -> None:
    """Run ``prepare.py sensor``."""
    limits = value_range(args)
    if (args.rasters is None) == (args.images is None):
        raise ConfigError("give --rasters FOLDER, or --images FOLDER and --band")
    if args.images is not None and args.band is None:
        raise ConfigError("--images needs --band: the band of the images that is the sensor")
    tile_set = open_tile_set(args.data)
    files = rasters_of(tile_set, args.images or args.rasters)
    is_of_images = args.images is not None
    import_sensor(tile_set, args.name, files, args.band, is_of_images, args.no_data, limits)


def rasters_of(tile_set: TileSet, folder: Path) -> dict[str, ArchiveFile]:
    """Return the raster of every image of a data set, by the id of the image.

    Raises:
        MissingDataError, DataError: as ``find_raster``.
    """
    images = sorted({facts.image for facts in tile_set.sources.values()})
    paths = {image: find_raster(folder, image) for image in images}
    return {image: ArchiveFile(name=str(path), path=path) for image, path in paths.items()}


def import_sensor(
    tile_set: TileSet,
    name: str,
    files: Mapping[str, ArchiveFile],
    band: int | None = None,
    is_of_images: bool = False,
    no_data: float | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    """Cut a sensor's rasters like their images, write them as a store, and print the next step.

    Args:
        tile_set: the prepared data set.
        name: name of the store.
        files: a raster for every image, by the id of the image.
        band: of the rasters, counted from 1; None: the only one.
        is_of_images: the files are the images, and the sensor is a further band of them.
        no_data: value of pixels without data, beside NaN and what a file declares.
        limits: lowest and highest value of the stored range, which values are clipped to; None:
            the range of the values.

    Raises:
        DataError: a raster does not fit its image, a file cannot be read, no pixel has data, or
            the store exists with another range.
    """
    by_source: dict[str, list[Tile]] = {}
    for tile in tile_set.tiles.values():
        by_source.setdefault(tile.source, []).append(tile)
    found = [
        SourceRaster(
            id=source,
            file=files[tile_set.sources[source].image],
            tiles=tiles,
            facts=tile_set.sources[source],
        )
        for source, tiles in by_source.items()
    ]
    folder, workers = store_folder(tile_set.root, name), default_workers()
    rendering = Rendering.from_plain(tile_set.rendering) if is_of_images else AS_STORED
    reading = Reading(band=band, rendering=rendering, no_data=no_data)
    stored = store_rasters(
        tile_set.root, name, found, limits, workers, reading, is_of_images=is_of_images
    )
    if stored.num_warped:
        print(
            f"{stored.num_warped} of {stored.num_rasters} rasters of {name} were put on the grid "
            "of their image"
        )
    print(
        f"{len(tile_set.tiles)} maps in {folder}, values {stored.low:g} to {stored.high:g}; use "
        f"them with structure.modalities=[..., {name}]"
    )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Settings of how the rasters of a sensor are read, see ``open_band``."""

    band: int | None = None
    rendering: Rendering = AS_STORED
    no_data: float | None = None


AS_ONE_BAND = Reading()


@dataclass(frozen=True, kw_only=True)
class StoredRange:
    """Range of the levels of a store, and number of its rasters."""

    low: float
    high: float
    num_rasters: int
    num_warped: int  # to the grid of their image


@dataclass(frozen=True, kw_only=True)
class SourceRaster:
    """Raster of a sensor that belongs to a source: an image, or a block of one."""

    id: str  # of the source
    file: ArchiveFile
    tiles: list[Tile]
    facts: SourceFacts  # of the source
    lacks_columns_px: int = 0  # columns that may be missing at its right: no data there

    def open(self, reading: Reading) -> AbstractContextManager[SensorBand]:
        """Open the band on the grid of the image."""
        return open_band(
            self.file.open_image,
            image_frame(self.facts),
            rendering=reading.rendering,
            band=reading.band,
            no_data=reading.no_data,
            lacks_columns_px=self.lacks_columns_px,
        )


def store_rasters(
    root: Path,
    name: str,
    rasters: list[SourceRaster],
    limits: tuple[float, float] | None,
    num_workers: int,
    reading: Reading = AS_ONE_BAND,
    *,
    is_of_images: bool = False,
    records: Path | None = None,
) -> StoredRange:
    """Write the rasters of a set, whose images are written already, as the store ``name``.

    Memory holds a tile and a part of a strip of rows, however large the rasters are.

    Args:
        root: the set, finished or not.
        name: name of the store.
        rasters: rasters of every source.
        limits: as in ``import_sensor``.
        num_workers: number of rasters read at a time.
        reading: how to read them.
        is_of_images: as in ``import_sensor``; recorded with the band in the recipe of the store,
            so that inference reads this band of an image.
        records: folder of finished work, from which a killed run resumes; None: never resume.
    """

    def find_range(raster: SourceRaster) -> dict[str, Any]:
        path = records / f"{raster.id}.range.json" if records is not None else None
        return remembered(path, lambda: _survey(raster, reading))

    found = in_threads(find_range, rasters, f"{name}: range", num_workers)
    if not any(own["range"] for own in found):
        raise DataError(
            f"no raster of the sensor {name} has a pixel with data; check --no-data or leave it out"
        )
    lows, highs = zip(*(own["range"] for own in found if own["range"]), strict=True)
    low, high = limits or (min(lows), max(highs))
    settings: dict[str, Any] = {"minimum": low, "maximum": high}
    if is_of_images:
        settings["band"] = reading.band
    recipe = MapRecipe(generator=SENSOR, settings=settings, weights_sha256=None)
    folder = store_folder(root, name)
    begin_store(folder, recipe)

    def write(raster: SourceRaster) -> dict[str, str]:
        path = records / f"{raster.id}.json" if records is not None else None
        return remembered(path, lambda: _write_maps(root, folder, raster, reading, recipe))

    hashes: dict[str, str] = {}
    for own in in_threads(write, rasters, name, num_workers):
        hashes |= own
    write_manifest(folder, recipe, dict(sorted(hashes.items())))
    is_warped = {r.facts.image: own["is_warped"] for r, own in zip(rasters, found, strict=True)}
    return StoredRange(
        low=low, high=high, num_rasters=len(is_warped), num_warped=sum(is_warped.values())
    )


def _survey(raster: SourceRaster, reading: Reading) -> dict[str, Any]:
    """Return the smallest and the largest value in the source, and if the raster is warped."""
    lows, highs = [], []
    with raster.open(reading) as band:
        for rows, columns in _windows(raster.facts.box):
            values = band.read(rows, columns)
            if np.isfinite(values).any():
                lows.append(float(np.nanmin(values)))
                highs.append(float(np.nanmax(values)))
    return {"range": [min(lows), max(highs)] if lows else [], "is_warped": band.is_warped}


def _windows(box: Box) -> Iterator[tuple[slice, slice]]:
    """Yield windows that cover a rectangle: rows from the top down, each from the left."""
    for rows in strips(box.height_px):
        for left in range(0, box.width_px, _WINDOW_COLUMNS):
            right = min(left + _WINDOW_COLUMNS, box.width_px)
            yield (
                slice(box.top_px + rows.start, box.top_px + rows.stop),
                slice(box.left_px + left, box.left_px + right),
            )


def _write_maps(
    root: Path, folder: Path, raster: SourceRaster, reading: Reading, recipe: MapRecipe
) -> dict[str, str]:
    """Cut a raster like its source; return the hash of the image of every tile."""
    low, high = recipe.settings["minimum"], recipe.settings["maximum"]
    hashes = {}
    with raster.open(reading) as band:
        for tile in raster.tiles:
            levels = np.empty((tile.height_px, tile.width_px), np.uint16)
            for rows, columns in _windows(tile):  # the arithmetic is in 64 bits
                top, left = rows.start - tile.top_px, columns.start - tile.left_px
                part = to_levels(band.read(rows, columns), low, high)
                levels[top : top + part.shape[0], left : left + part.shape[1]] = part
            valid = valid_path(root, tile.id)
            if valid.is_file():
                levels[read_raster(valid, "8-bit") == 0] = 0
            hashes[tile.id] = sha256_of(image_path(root, tile.id))
            write_map(folder, tile.id, levels, hashes[tile.id], recipe)
    return hashes
