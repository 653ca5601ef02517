"""One structure map on disk: a 16-bit raster that says how it was made.

Segment maps hold ids, 0 = no segment. Values (a depth, or what a sensor measured) are kept as
levels: 0 = no data, 1..65535 from the smallest to the largest value of a range.

Every file carries the hash of its source image and the digest of its recipe, so an interrupted run
can tell what is done. Further facts there: the ``range`` of a depth, and what
joining a map with its neighbours gave (see ``datasets.structure_joining``).
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from configs.structure import GeneratorConfig
from datasets.rasters import SUFFIX, open_raster, read_text, write_raster
from utils.errors import DataError, MissingDataError

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
