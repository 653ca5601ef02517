"""One structure map on disk: a 16-bit raster that says how it was made.

Segment maps hold ids, 0 = no segment. Values (a depth, or what a sensor measured) are kept as
levels: 0 = no data, 1..65535 from the smallest to the largest value of a range.

Every file carries the hash of its source image and the digest of its recipe, so an interrupted run
can tell what is done. Further facts there: the ``range`` of a depth, and what
joining a map with its neighbours gave (see ``datasets.structure_joining``).
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import VALUE_GENERATORS, GeneratorConfig
from datasets.rasters import SUFFIX, open_raster, read_text, write_raster
from utils.config import differences
from utils.errors import DataError, MissingDataError
from utils.files import read_json, sha256_of, write_json

LARGEST = 65535  # the largest level, and the largest segment id
_SOURCE, _RECIPE, _FACTS = "vsgnet:source_sha256", "vsgnet:recipe_sha256", "vsgnet:facts"


@dataclass(frozen=True, kw_only=True)
class MapRecipe:
    """What decides how a map comes out: two maps of one image and one recipe are equal."""

    generator: str
    settings: dict[str, Any]
    weights_sha256: str | None  # None: the generator has no weights

    def digest(self) -> str:
        """SHA-256 of the recipe's canonical JSON."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


# Fields of the generators' settings that change neither the map nor what it means.
_NOT_IN_MAP = ("store", "encodings", "checkpoint", "points_per_batch", "images_per_batch")


def map_settings(config: GeneratorConfig) -> dict[str, Any]:
    """The settings that decide what a map looks like: what a manifest records and compares."""
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name not in _NOT_IN_MAP}


def map_path(folder: Path, tile_id: str) -> Path:
    """File of a tile's map."""
    return folder / f"{tile_id}{SUFFIX}"


def to_levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """``(H, W)`` float, NaN = no data -> uint16: 0 = no data, 1..65535 from low to high."""
    share = np.clip((values.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
    levels = 1 + np.rint(share * (LARGEST - 1))
    return np.where(np.isfinite(values), levels, 0).astype(np.uint16)


def from_levels(levels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Levels of a map without gaps -> ``(H, W)`` float64: what ``to_levels`` was given."""
    return low + (levels.astype(np.float64) - 1) / (LARGEST - 1) * (high - low)


def depth_levels(depth: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """A depth map as levels over its own range.

    Args:
        depth: ``(H, W)`` float32.

    Returns:
        ``(H, W)`` uint16 levels, and the smallest and the largest depth.

    Raises:
        DataError: it holds something else than numbers.
    """
    if not np.isfinite(depth).all():
        raise DataError(
            "its depth map is not finite everywhere; take structure.depth_anything.precision=fp32"
        )
    low, high = float(depth.min()), float(depth.max())
    return to_levels(depth, low, high), (low, high)


def write_map(
    folder: Path,
    tile_id: str,
    ids: np.ndarray,
    source: str,
    recipe: MapRecipe,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write a map, atomically.

    Args:
        folder: the store.
        tile_id: which tile.
        ids: ``(H, W)`` uint16 segment ids, or levels; 0 = no segment, no data.
        source: SHA-256 of the tile's image file.
        recipe: how the map was made.
        facts: what else the file says of itself, plain values.
    """
    if ids.dtype != np.uint16 or ids.ndim != 2:
        raise ValueError(f"a structure map is (H, W) uint16, not {ids.shape} {ids.dtype}")
    text = {_SOURCE: source, _RECIPE: recipe.digest(), _FACTS: facts or {}}
    write_raster(map_path(folder, tile_id), ids, text)


def read_map(path: Path) -> np.ndarray:
    """A tile's ids or levels, ``(H, W)`` uint16, mapped (``open_raster``) and not writable.

    Raises:
        MissingDataError: there is no such map.
        DataError: the file is not whole, or not a 16-bit raster.
    """
    return open_raster(path, "16-bit")


def is_done(
    folder: Path, tile_id: str, source: str, recipe: MapRecipe, group: str | None = None
) -> bool:
    """Whether the tile's map is there and was made from this image by this recipe.

    Args:
        folder: the store.
        tile_id: which tile.
        source: SHA-256 of the tile's image file.
        recipe: how the map is to be made.
        group: digest of all tiles it is to be joined with; None: of no other.
    """
    facts = read_facts(folder, tile_id, source, recipe)
    return facts is not None and facts.get("group") == group


def read_facts(folder: Path, tile_id: str, source: str, recipe: MapRecipe) -> dict[str, Any] | None:
    """What a map says of itself (``write_map``); None if it is not there, or not made like this.

    Reads no pixel.
    """
    try:
        text = read_text(map_path(folder, tile_id))
    except (DataError, MissingDataError):  # also a copy that broke off
        return None
    if text.get(_SOURCE) != source or text.get(_RECIPE) != recipe.digest():
        return None
    return text[_FACTS]


FORMAT_VERSION = 2
SHEET = "contact_sheet.png"  # the picture of a store, and of several
SENSOR = "sensor"  # what stands for the generator of an imported store


def store_folder(data_root: Path, store: str) -> Path:
    """Folder of a modality store inside a prepared data set."""
    return data_root / "modalities" / store


def holds_values(generator: str) -> bool:
    """Whether the maps of a generator (or of a sensor) hold levels, not segment ids."""
    return generator == SENSOR or generator in VALUE_GENERATORS


def maker(generator: str | None) -> str:
    """The command that writes a store of this generator."""
    return "prepare.py sensor" if generator == SENSOR else "generate.py"


def write_manifest(
    folder: Path,
    recipe: MapRecipe,
    sources: dict[str, str] | None,
    joined: list[dict[str, Any]] | None = None,
) -> None:
    """Record the recipe of a store, and the source hash of every tile it holds.

    Args:
        folder: the store.
        recipe: how its maps are made.
        sources: SHA-256 of every tile's image; None: the store is begun, it cannot be used, only
            gone on with.
        joined: what joining the overlapping tiles of a source image gave, for every one of these.
    """
    kind = "values" if holds_values(recipe.generator) else "segments"
    manifest = {"format_version": FORMAT_VERSION, "kind": kind, **asdict(recipe)}
    manifest["joined"] = joined or []
    write_json(folder / "manifest.json", {**manifest, "tiles": sources})


def check_recipe(folder: Path, recipe: MapRecipe) -> None:
    """Refuse to add maps of this recipe to a store of another.

    Raises:
        DataError: naming both sides.
    """
    if (folder / "manifest.json").is_file():
        found, _ = _read_manifest(folder)
        if problem := recipe_problem(folder, found, asdict(recipe)):
            raise DataError(problem)


def begin_store(folder: Path, recipe: MapRecipe) -> None:
    """Open a store for writing, new or begun before with the same recipe.

    Raises:
        DataError: the folder holds maps of another recipe; they are left as they are.
    """
    check_recipe(folder, recipe)
    write_manifest(folder, recipe, None)


def read_manifest(folder: Path) -> tuple[MapRecipe, dict[str, str]]:
    """The recipe of a store and the source hash of every tile in it.

    Raises:
        MissingDataError: the store is missing or not finished.
        DataError: its manifest has another format version.
    """
    path = folder / "manifest.json"
    recipe, sources = _read_manifest(folder) if path.is_file() else (None, None)
    if recipe is None or sources is None:
        command = maker(recipe.generator if recipe is not None else None)
        raise MissingDataError(
            f"the structure maps {folder} are missing or not finished; make them with {command}"
        )
    return recipe, sources


def _read_manifest(folder: Path) -> tuple[MapRecipe, dict[str, str] | None]:
    path = folder / "manifest.json"
    manifest = read_json(path)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{path} has format {manifest.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}; delete the folder and run {maker(manifest.get('generator'))}"
        )
    recipe = MapRecipe(
        generator=manifest["generator"],
        settings=manifest["settings"],
        weights_sha256=manifest["weights_sha256"],
    )
    return recipe, manifest["tiles"]


def recipe_problem(folder: Path, found: MapRecipe, wanted: dict[str, Any]) -> str | None:
    """One sentence with both sides if a store was made otherwise than wanted, else None.

    Args:
        folder: the store, for the sentence.
        found: the recipe in its manifest.
        wanted: entries of ``MapRecipe`` that must be equal; left out means "any".
    """
    actual = {key: value for key, value in asdict(found).items() if key in wanted}
    lines = differences(wanted, actual)
    if not lines:
        return None
    generator = wanted.get("generator", found.generator)
    remedy = (
        f"Change the recipe, or name another store (structure.{generator}.store) and run "
        "generate.py"
        if generator != SENSOR
        else "Delete the folder and import the sensor again with prepare.py sensor (--range sets "
        "minimum and maximum), or under another --name"
    )
    return f"{folder} was made with other settings (wanted | found): {'; '.join(lines)}. {remedy}"


def check_store(
    data_root: Path, store: str, wanted: dict[str, Any], images: dict[str, Path]
) -> MapRecipe:
    """Refuse a store that is incomplete, stale, or made otherwise than wanted.

    Args:
        data_root: the prepared data set.
        store: name of the store.
        wanted: see ``recipe_problem``.
        images: the image file of every tile that must be in the store.

    Returns:
        The store's recipe.

    Raises:
        MissingDataError: no finished store, or a tile is not in it.
        DataError: other settings, or an image has changed since.
    """
    folder = store_folder(data_root, store)
    recipe, sources = read_manifest(folder)
    if problem := recipe_problem(folder, recipe, wanted):
        raise DataError(problem)
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
