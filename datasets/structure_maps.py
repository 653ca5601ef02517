"""Structure maps on disk: the raster of a map, and the manifest of a store.

Segment maps hold ids, 0 = no segment. Values (a depth, or a sensor's) are stored as levels: 0 = no
data, 1..65535 from the smallest to the largest value of a range. Maps of cells hold K levels for
each cell of a grid (see ``utils.geometry``), side by side in the file: 0 = no data, 1..255.

Every file records the hash of its source image and the digest of its recipe, so an interrupted run
can be resumed, and further facts: the ``range`` of a depth, and results of joining a map with its
neighbours (see ``datasets.structure_joining``).
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import CELL_GENERATORS, VALUE_GENERATORS, GeneratorConfig, MapKind
from datasets.rasters import SUFFIX, open_raster, read_text, write_raster
from utils.boxes import valid_cells
from utils.config import differences
from utils.errors import DataError, MissingDataError
from utils.files import read_json, sha256_of, write_json

FORMAT_VERSION = 2
LARGEST = 65535  # the largest level, and the largest segment id
SENSOR = "sensor"  # generator of an imported store
SHEET = "contact_sheet.png"  # file of the picture of a store, and of several
FIT = "fit.npz"  # file of a store whose generator is fitted to the training split
_SOURCE, _RECIPE, _FACTS = "vsgnet:source_sha256", "vsgnet:recipe_sha256", "vsgnet:facts"


@dataclass(frozen=True, kw_only=True)
class MapRecipe:
    """Recipe of a map: two maps of one image and one recipe are equal."""

    generator: str
    settings: dict[str, Any]
    weights_sha256: str | None  # None: the generator has no weights

    def digest(self) -> str:
        """Return the SHA-256 of the recipe's canonical JSON."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


# Fields of the generators' settings that change neither a map nor its meaning.
_NOT_IN_MAP = ("store", "encodings", "checkpoint", "points_per_batch", "images_per_batch")


def map_settings(config: GeneratorConfig) -> dict[str, Any]:
    """Return the settings that determine a map, which manifests record and compare."""
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name not in _NOT_IN_MAP}


def map_path(folder: Path, tile_id: str) -> Path:
    """Return the path of a tile's map."""
    return folder / f"{tile_id}{SUFFIX}"


def to_levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Quantise ``(H, W)`` float to uint16 levels 1..65535 from low to high; NaN becomes 0."""
    scaled = np.clip((values.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
    levels = 1 + np.rint(scaled * (LARGEST - 1))
    return np.where(np.isfinite(values), levels, 0).astype(np.uint16)


def from_levels(levels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Invert ``to_levels``, ``(H, W)`` float64; NaN where there is no data."""
    values = low + (levels.astype(np.float64) - 1) / (LARGEST - 1) * (high - low)
    return np.where(levels > 0, values, np.nan)


def depth_levels(depth: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Quantise float depth of any shape over its own range.

    Returns:
        uint16 levels of that shape, and the smallest and the largest depth.

    Raises:
        DataError: it is not finite everywhere.
    """
    if not np.isfinite(depth).all():
        raise DataError(
            "its depth map is not finite everywhere; take structure.depth_anything.precision=fp32"
        )
    low, high = float(depth.min()), float(depth.max())
    return to_levels(depth, low, high), (low, high)


def finish_map(
    made: np.ndarray, generator: str, valid: np.ndarray | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a map as it is stored, 0 where the image holds no data, and the facts of its file.

    Args:
        made: ``(H, W)`` segment ids, or depth; or ``(K, gh, gw)`` levels of cells.
        generator: its maker.
        valid: ``(H, W)`` bool, the pixels that hold data; None: all of them.

    Returns:
        ``(H, W)`` uint16 ids or levels, or ``(K, gh, gw)`` uint8; ``num_segments``, or ``range``:
        the smallest and the largest depth of the pixels that hold data, None if there are none.

    Raises:
        DataError: see ``depth_levels``.
    """
    kind = map_kind(generator)
    if kind == "cells":
        cells = made if valid is None else made * valid_cells(valid, made.shape[1:])
        return cells, {}
    if kind == "segments":
        ids = made if valid is None else np.where(valid, made, 0).astype(made.dtype)
        return ids, {"num_segments": int(ids.max())}
    if valid is None:
        levels, ends = depth_levels(made)
        return levels, {"range": ends}
    levels = np.zeros(made.shape, np.uint16)
    if not valid.any():
        return levels, {"range": None}
    levels[valid], ends = depth_levels(made[valid])
    return levels, {"range": ends}


def write_map(
    folder: Path,
    tile_id: str,
    ids: np.ndarray,
    source: str,
    recipe: MapRecipe,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write a map to a store, atomically.

    Args:
        folder: the store.
        tile_id: the tile.
        ids: ``(H, W)`` uint16 segment ids, or levels; or ``(K, gh, gw)`` uint8 levels of cells.
        source: SHA-256 of the tile's image file.
        recipe: recipe of the map.
        facts: further plain values to store in the file.
    """
    if map_kind(recipe.generator) == "cells":
        facts = {"components": len(ids), **(facts or {})}
        ids = np.moveaxis(ids, 0, -1).reshape(ids.shape[1], -1)
    elif ids.dtype != np.uint16 or ids.ndim != 2:
        raise ValueError(f"a structure map is (H, W) uint16, not {ids.shape} {ids.dtype}")
    text = {_SOURCE: source, _RECIPE: recipe.digest(), _FACTS: facts or {}}
    write_raster(map_path(folder, tile_id), ids, text)


def read_map(path: Path, kind: MapKind = "segments") -> np.ndarray:
    """Memory-map a tile's ids or levels.

    Returns:
        ``(H, W)`` uint16; of cells ``(K, gh, gw)`` uint8, each cell side by side in memory.

    Raises:
        MissingDataError, DataError: as in ``open_raster``; or its width is that of no cells.
    """
    if kind != "cells":
        return open_raster(path, "16-bit")
    rows, facts = open_raster(path, "8-bit"), read_text(path).get(_FACTS)
    number = facts.get("components") if isinstance(facts, dict) else None
    if not isinstance(number, int) or number < 1 or rows.shape[1] % number:
        raise DataError(f"{path} is no map of cells; delete it and run generate.py again")
    return np.moveaxis(rows.reshape(len(rows), -1, number), -1, 0)


def read_facts(folder: Path, tile_id: str, source: str, recipe: MapRecipe) -> dict[str, Any] | None:
    """Read the ``facts`` of a map, and no pixel; None if it is missing, broken or outdated.

    It is outdated if it was made from another image than that of hash ``source``, or by another
    recipe.
    """
    try:
        text = read_text(map_path(folder, tile_id))
    except (DataError, MissingDataError):
        return None
    if text.get(_SOURCE) != source or text.get(_RECIPE) != recipe.digest():
        return None
    return text[_FACTS]


def store_folder(data_root: Path, store: str) -> Path:
    """Return the folder of a modality store in a prepared data set."""
    return data_root / "modalities" / store


def map_kind(generator: str) -> MapKind:
    """Return the content of the maps of a generator (or sensor): ids, values, or cells."""
    if generator in CELL_GENERATORS:
        return "cells"
    return "values" if generator == SENSOR or generator in VALUE_GENERATORS else "segments"


def maker(generator: str | None) -> str:
    """Return the command that writes a store of this generator."""
    return "prepare.py sensor" if generator == SENSOR else "generate.py"


def write_manifest(
    folder: Path,
    recipe: MapRecipe,
    sources: dict[str, str] | None,
    joined: list[dict[str, Any]] | None = None,
) -> None:
    """Record the recipe of a store, and the source hash of every tile in it.

    Args:
        folder: the store.
        recipe: recipe of its maps.
        sources: SHA-256 of every tile's image; None: the store is unfinished, and refused until
            generation is resumed and ends.
        joined: results of joining overlapping tiles, for each group of tiles.
    """
    kind = map_kind(recipe.generator)
    manifest = {"format_version": FORMAT_VERSION, "kind": kind, **asdict(recipe)}
    manifest |= {"joined": joined or [], "tiles": sources}
    write_json(folder / "manifest.json", manifest)


def check_recipe(folder: Path, wanted: dict[str, Any]) -> None:
    """Refuse to add maps to a store of another recipe.

    Args:
        folder: the store, which need not exist.
        wanted: entries of ``MapRecipe`` that must be equal.

    Raises:
        DataError: naming both sides.
    """
    if (folder / "manifest.json").is_file():
        _compare(folder, _read_manifest(folder)[0], wanted)


def begin_store(folder: Path, recipe: MapRecipe) -> None:
    """Mark a store, new or of the same recipe, as unfinished before writing to it.

    Raises:
        DataError: the folder holds maps of another recipe; they are left unchanged.
    """
    check_recipe(folder, asdict(recipe))
    write_manifest(folder, recipe, None)


def read_manifest(folder: Path) -> tuple[MapRecipe, dict[str, str]]:
    """Read the recipe of a store and the source hash of every tile in it.

    Raises:
        MissingDataError: the store is missing or not finished.
        DataError: its manifest has another format version.
    """
    generator = None
    if (folder / "manifest.json").is_file():
        recipe, sources = _read_manifest(folder)
        if sources is not None:
            return recipe, sources
        generator = recipe.generator
    raise MissingDataError(
        f"the structure maps {folder} are missing or not finished; make them with "
        f"{maker(generator)}"
    )


def _read_manifest(folder: Path) -> tuple[MapRecipe, dict[str, str] | None]:
    path = folder / "manifest.json"
    manifest = read_json(path)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{path} has format {manifest.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}; delete the folder and run {maker(manifest.get('generator'))}"
        )
    return MapRecipe(**{f.name: manifest[f.name] for f in fields(MapRecipe)}), manifest["tiles"]


def _compare(folder: Path, found: MapRecipe, wanted: dict[str, Any]) -> None:
    """Refuse a store whose recipe has other entries than wanted."""
    lines = differences(wanted, {key: getattr(found, key) for key in wanted})
    if not lines:
        return
    remedy = (
        f"Change the recipe, or name another store (structure.{wanted['generator']}.store) and run "
        "generate.py"
        if wanted["generator"] != SENSOR
        else "Delete the folder and import the sensor again with prepare.py sensor (--range sets "
        "minimum and maximum), or under another --name"
    )
    raise DataError(
        f"{folder} was made with other settings (wanted | found): {'; '.join(lines)}. {remedy}"
    )


def check_store(
    data_root: Path, store: str, wanted: dict[str, Any], images: dict[str, Path]
) -> MapRecipe:
    """Refuse a store that is incomplete, stale, or of another recipe than wanted.

    Args:
        data_root: the prepared data set.
        store: name of the store.
        wanted: entries of ``MapRecipe`` that must be equal, its generator and some of the others.
        images: image files of the tiles that must be in the store.

    Returns:
        The store's recipe.

    Raises:
        MissingDataError: no finished store, or a tile is not in it.
        DataError: other settings, or an image has changed since.
    """
    folder = store_folder(data_root, store)
    recipe, sources = read_manifest(folder)
    _compare(folder, recipe, wanted)
    missing = [t for t in images if t not in sources or not map_path(folder, t).is_file()]
    if missing:
        raise MissingDataError(
            f"{folder} lacks {len(missing)} of {len(images)} maps (first: '{missing[0]}'); "
            f"complete it with {maker(recipe.generator)}"
        )
    with ThreadPoolExecutor() as pool:
        hashes = dict(zip(images, pool.map(sha256_of, images.values()), strict=True))
    stale = [tile_id for tile_id in images if hashes[tile_id] != sources[tile_id]]
    if stale:
        raise DataError(
            f"{folder}: {len(stale)} images changed after their maps were made (first: "
            f"'{stale[0]}'); run {maker(recipe.generator)} again"
        )
    return recipe
