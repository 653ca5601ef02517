"""A real sensor beside RGB (elevation, near infrared ...) as a structure modality.

Its rasters are imported once into a prepared data set, as 16-bit maps: 0 = no data, 1..65535
from the smallest to the largest value of the whole data set, which the manifest records.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from configs.structure import GENERATORS
from datasets.maps import MapRecipe, to_levels, write_map
from datasets.modalities import SENSOR, begin_store, store_folder, write_manifest
from datasets.tiles import Tile, TileSet, open_tile_set
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import open_image, sha256_of

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
    paths = {source: _find(rasters, source) for source in by_source}
    low, high = np.inf, -np.inf
    for source, path in tqdm(paths.items(), desc=f"{name}: range", unit="image"):
        raster = read_raster(path, no_data)
        _check_size(path, raster, by_source[source])
        if np.isfinite(raster).any():
            low, high = min(low, np.nanmin(raster)), max(high, np.nanmax(raster))
    if low > high:
        raise DataError(f"no raster in {rasters} holds a pixel with data; check --no-data")
    low, high = value_range or (low, high)
    recipe = MapRecipe(
        generator=SENSOR,
        settings={"minimum": float(low), "maximum": float(high)},
        weights_sha256=None,
    )
    folder = store_folder(tile_set.root, name)
    begin_store(folder, recipe)
    sources = {}
    for tile, raster in tqdm(_tiles(paths, by_source, no_data), desc=name, unit="tile"):
        rows = slice(tile.top_px, tile.top_px + tile.height_px)
        columns = slice(tile.left_px, tile.left_px + tile.width_px)
        sources[tile.id] = sha256_of(tile_set.image_path(tile.id))
        levels = to_levels(raster[rows, columns], float(low), float(high))
        write_map(folder, tile.id, levels, sources[tile.id], recipe)
    write_manifest(folder, recipe, dict(sorted(sources.items())))
    return float(low), float(high)


def read_raster(path: Path, no_data: float | None) -> np.ndarray:
    """A single band, ``(H, W)`` float64, NaN where there is no data.

    Raises:
        DataError: it cannot be read, or has several bands.
    """
    image = open_image(path)
    if image.mode not in ("L", "I", "F") and not image.mode.startswith("I;16"):
        raise DataError(f"{path} must have one band of numbers, not '{image.mode}'")
    raster = np.array(image)
    values = raster.astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    if no_data is not None:
        # -9999.9 is another number in a float file than on the command line.
        stored = raster.dtype.type(no_data) if raster.dtype.kind == "f" else no_data
        values[values == float(stored)] = np.nan
    return values


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


def _check_size(path: Path, raster: np.ndarray, tiles: list[Tile]) -> None:
    size = (
        max(tile.top_px + tile.height_px for tile in tiles),
        max(tile.left_px + tile.width_px for tile in tiles),
    )
    if raster.shape != size:
        raise DataError(
            f"{path} is {raster.shape[0]} x {raster.shape[1]} and its image {size[0]} x {size[1]} "
            "(height x width); give them one size"
        )


def _tiles(
    paths: dict[str, Path], by_source: dict[str, list[Tile]], no_data: float | None
) -> Iterator[tuple[Tile, np.ndarray]]:
    for source, path in paths.items():
        raster = read_raster(path, no_data)
        for tile in by_source[source]:
            yield tile, raster
