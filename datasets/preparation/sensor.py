"""A real sensor beside RGB (elevation, near infrared ...) as a structure modality.

Its rasters are imported once into a prepared data set, as 16-bit maps: 0 = no data, 1..65535
from the smallest to the largest value of the whole data set, which the manifest records.
"""

import argparse
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from configs.schema import GENERATORS
from datasets.preparation.members import Member, file_member
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
from utils.files import remembered, sha256_of, strips
from utils.threads import read_ahead

_GDAL_NODATA = 42113  # TIFF tag
_STRIP_ROWS = 256
T = TypeVar("T")
SUFFIXES = (".tif", ".tiff", ".png")
_RANGE_HELP = (
    "range to store instead of the values' own: that of the set a checkpoint was trained on"
)


def add_arguments(add: Callable[..., Any]) -> None:
    """Arguments of ``prepare.py sensor``."""
    add("--data", type=Path, required=True, help="a prepared data set, data/NAME")
    add("--name", required=True, help="of the modality, e.g. dsm or nir")
    add("--rasters", type=Path, required=True, help="folder: the images' names, one band each")
    add("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=_RANGE_HELP)
    add_no_data(add)


def add_no_data(add: Callable[..., Any]) -> None:
    """The argument that ``prepare.py folder --sensor`` has as well."""
    add("--no-data", type=float, help="value of raster pixels without data (NaN always is)")


def name_and_folder(text: str) -> tuple[str, Path]:
    """The argument type of ``--sensor dsm=FOLDER``."""
    name, equals, folder = text.partition("=")
    if not equals or not folder or not _is_name(name):
        raise argparse.ArgumentTypeError(
            f"must be NAME=FOLDER with the name of a folder that is no generator, not '{text}'"
        )
    return name, Path(folder)


def run(args: argparse.Namespace) -> None:
    """``prepare.py sensor``."""
    if not _is_name(args.name):
        raise ConfigError(
            f"--name {args.name} is the name of a generator or not a folder name; take e.g. dsm"
        )
    given = tuple(args.range) if args.range else None
    import_and_report(args.data, args.name, args.rasters, args.no_data, given)


def import_and_report(
    root: Path,
    name: str,
    rasters: Path,
    no_data: float | None,
    value_range: tuple[float, float] | None = None,
) -> None:
    """``import_sensor``, and a line that says what to do with it."""
    tile_set = open_tile_set(root)
    low, high = import_sensor(tile_set, name, rasters, no_data, value_range)
    print(
        f"{len(tile_set.tiles)} maps in {store_folder(root, name)}, values {low:g} to "
        f"{high:g}; use them with structure.modalities=[..., {name}]"
    )


def _is_name(name: str) -> bool:
    return name not in GENERATORS and name.replace("_", "").replace("-", "").isalnum()


def import_sensor(
    tile_set: TileSet,
    name: str,
    rasters: Path,
    no_data: float | None = None,
    value_range: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Cut a sensor's rasters like their images and write them as the store ``name``.

    Args:
        tile_set: the prepared data set.
        name: of the store.
        rasters: for every source image a raster of its name and size, 8 or 16 bit or float.
        no_data: value that means no data, beside NaN.
        value_range: instead of the values' own range, to fit another data set's; beyond it values
            are clipped.

    Returns:
        Smallest and largest value, or ``value_range``.

    Raises:
        MissingDataError: an image has no raster.
        ConfigError: ``value_range`` is empty.
        DataError: sizes differ, a file cannot be read, nothing holds data, or the store exists
            with another range.
    """
    if value_range is not None and not value_range[0] < value_range[1]:
        raise ConfigError(
            f"--range is {value_range[0]:g} {value_range[1]:g}; the first must be the smaller"
        )
    by_source: dict[str, list[Tile]] = {}
    for tile in tile_set.tiles.values():
        by_source.setdefault(tile.source, []).append(tile)
    found = [
        SourceRaster(id=source, file=file_member(_find(rasters, source)), tiles=tiles)
        for source, tiles in by_source.items()
    ]
    where = f"no raster in {rasters} holds a pixel with data; check --no-data"
    return store_rasters(
        tile_set.root, name, found, no_data, value_range, num_workers=default_workers(), none=where
    )


@dataclass(frozen=True, kw_only=True)
class SourceRaster:
    """What a sensor measured where a source image is."""

    id: str  # of the image
    file: Member
    tiles: list[Tile]
    lacks_columns_px: int = 0  # at its right at most: no data there

    def read(self, no_data: float | None) -> np.ndarray:
        """``decode_raster`` of it, as large as the image."""
        raster = decode_raster(self.file.open_image(), self.file.name, no_data)
        height = max(tile.top_px + tile.height_px for tile in self.tiles)
        width = max(tile.left_px + tile.width_px for tile in self.tiles)
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
    value_range: tuple[float, float] | None,
    *,
    num_workers: int,
    none: str,
    records: Path | None = None,
) -> tuple[float, float]:
    """Write the rasters of a set, whose images are written, as the store ``name``.

    Args:
        root: the set, or what will be it.
        name: see ``import_sensor``, as ``no_data`` and ``value_range``.
        rasters: of every source image.
        no_data: beside NaN.
        value_range: instead of the values' own.
        num_workers: rasters read at a time.
        none: the error if no raster holds data.
        records: folder for what is done, so that a killed run goes on; None: it begins anew.

    Returns:
        Smallest and largest value, or ``value_range``.
    """

    def find_range(raster: SourceRaster) -> list[float]:
        path = records / f"{raster.id}.range.json" if records is not None else None
        return remembered(path, lambda: _range_of(raster.read(no_data)))

    ranges = _each(find_range, rasters, f"{name}: range", num_workers)
    if not any(ranges):
        raise DataError(none)
    low, high = value_range or (
        min(own[0] for own in ranges if own),
        max(own[1] for own in ranges if own),
    )
    recipe = MapRecipe(
        generator=SENSOR,
        settings={"minimum": float(low), "maximum": float(high)},
        weights_sha256=None,
    )
    folder = store_folder(root, name)
    begin_store(folder, recipe)

    def write(raster: SourceRaster) -> dict[str, str]:
        path = records / f"{raster.id}.json" if records is not None else None
        return remembered(path, lambda: _write_maps(root, folder, raster, no_data, recipe))

    hashes: dict[str, str] = {}
    for own in _each(write, rasters, name, num_workers):
        hashes |= own
    write_manifest(folder, recipe, dict(sorted(hashes.items())))
    return float(low), float(high)


def _each(
    function: Callable[[SourceRaster], T], rasters: list[SourceRaster], text: str, num_workers: int
) -> list[T]:
    results = read_ahead(function, rasters, num_threads=num_workers, ahead=2 * num_workers)
    with closing(results):
        return list(tqdm(results, desc=text, total=len(rasters), unit="image"))


def _range_of(raster: np.ndarray) -> list[float]:
    """Smallest and largest value; nothing if it has no data."""
    if not np.isfinite(raster).any():
        return []
    return [float(np.nanmin(raster)), float(np.nanmax(raster))]


def _write_maps(
    root: Path, folder: Path, raster: SourceRaster, no_data: float | None, recipe: MapRecipe
) -> dict[str, str]:
    """Cut a raster like its image; the hash of the image of every tile."""
    low, high = recipe.settings["minimum"], recipe.settings["maximum"]
    values, hashes = raster.read(no_data), {}
    for tile in raster.tiles:
        rows = slice(tile.top_px, tile.top_px + tile.height_px)
        part = values[rows, tile.left_px : tile.left_px + tile.width_px]
        levels = np.empty(part.shape, np.uint16)
        for top in range(0, len(part), _STRIP_ROWS):  # the arithmetic is in 64 bits
            strip = slice(top, top + _STRIP_ROWS)
            levels[strip] = to_levels(part[strip], low, high)
        hashes[tile.id] = sha256_of(image_path(root, tile.id))
        write_map(folder, tile.id, levels, hashes[tile.id], recipe)
    return hashes


def decode_raster(image: Image.Image, name: str, no_data: float | None) -> np.ndarray:
    """A single band, ``(H, W)`` float, NaN where there is no data: also what GDAL calls so.

    Raises:
        DataError: it has several bands.
    """
    if image.mode not in ("L", "I", "F") and not image.mode.startswith("I;16"):
        raise DataError(f"{name} must have one band of numbers, not '{image.mode}'")
    kind = np.float64 if image.mode == "I" else np.float32  # holds what the others can
    values = np.empty((image.height, image.width), kind)
    absent = [number for number in (no_data, _gdal_no_data(image)) if number is not None]
    for top, raster in strips(image):
        part = values[top : top + len(raster)]
        part[:] = raster
        part[~np.isfinite(part)] = np.nan
        for number in absent:
            # -9999.9 is another number in a float file than on the command line.
            stored = raster.dtype.type(number) if raster.dtype.kind == "f" else number
            part[raster == stored] = np.nan
    return values


def _gdal_no_data(image: Image.Image) -> float | None:
    """The number that a GeoTIFF declares to mean no data."""
    text = getattr(image, "tag_v2", {}).get(_GDAL_NODATA, "")
    try:
        return float(str(text).strip("\0 "))
    except ValueError:
        return None


def _find(rasters: Path, source: str) -> Path:
    # An image in a folder of its own has '__' in its id for the '/'.
    for stem in (source, source.replace("__", "/")):
        for suffix in SUFFIXES:
            for path in (rasters / f"{stem}{suffix}", rasters / f"{stem}{suffix.upper()}"):
                if path.is_file():
                    return path
    raise MissingDataError(
        f"the image '{source}' has no raster {rasters / source}{{{','.join(SUFFIXES)}}}; add it"
    )
