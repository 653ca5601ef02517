"""The modality store: structure maps on disk, and the record of how they were made.

::

    DATA/modalities/STORE/ID.png           one raw map a tile, 16-bit segment ids
    DATA/modalities/STORE/manifest.json    generator, settings, weights, and the tiles' hashes

Maps are stored raw, once; ``datasets.encodings`` turns them into what the network sees. Every PNG
carries the hash of its source image and the digest of the settings in its text chunks, so an
interrupted run can tell what is done, and the manifest is written once, when all is done.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.schema import SamConfig, SuperpixelsConfig
from utils.config import differences
from utils.errors import DataError, MissingDataError
from utils.files import open_image, read_json, sha256_of, write_json, write_png

FORMAT_VERSION = 1
SENSOR = "sensor"  # what stands for the generator of an imported store
_SOURCE, _RECIPE = "vsgnet:source_sha256", "vsgnet:recipe_sha256"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk of every PNG


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
_NOT_IN_MAP = ("store", "encodings", "checkpoint", "points_per_batch")


def map_settings(config: SuperpixelsConfig | SamConfig) -> dict[str, Any]:
    """The settings that decide what a map looks like: what a manifest records and compares."""
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name not in _NOT_IN_MAP}


def store_folder(data_root: Path, store: str) -> Path:
    """Folder of a modality store inside a prepared data set."""
    return data_root / "modalities" / store


def map_path(folder: Path, tile_id: str) -> Path:
    """File of a tile's map."""
    return folder / f"{tile_id}.png"


def write_map(folder: Path, tile_id: str, ids: np.ndarray, source: str, recipe: MapRecipe) -> None:
    """Write a map, atomically.

    Args:
        folder: the store.
        tile_id: which tile.
        ids: ``(H, W)`` uint16 segment ids, or a sensor's levels; 0 = no segment, no data.
        source: SHA-256 of the tile's image file.
        recipe: how the map was made.
    """
    if ids.dtype != np.uint16 or ids.ndim != 2:
        raise ValueError(f"a segment map is (H, W) uint16, not {ids.shape} {ids.dtype}")
    write_png(map_path(folder, tile_id), ids, {_SOURCE: source, _RECIPE: recipe.digest()})


def read_map(path: Path) -> np.ndarray:
    """A tile's ids or levels, ``(H, W)`` int32 (torch has no arithmetic for uint16).

    Raises:
        MissingDataError: there is no such map.
        DataError: the file is truncated or not a 16-bit greyscale image.
    """
    image = open_image(path)
    if image.mode not in ("I;16", "I"):
        raise DataError(f"{path} is not a 16-bit map (mode {image.mode}); generate it again")
    return np.array(image).astype(np.int32)


def is_done(folder: Path, tile_id: str, source: str, recipe: MapRecipe) -> bool:
    """Whether the tile's map is there and was made from this image by this recipe."""
    path = map_path(folder, tile_id)
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            if file.read() != _PNG_END:  # a copy that broke off
                return False
        with Image.open(path) as image:  # reads the header only
            text = {**image.info}
    except (OSError, SyntaxError):
        return False
    return text.get(_SOURCE) == source and text.get(_RECIPE) == recipe.digest()


def write_manifest(folder: Path, recipe: MapRecipe, sources: dict[str, str] | None) -> None:
    """Record the recipe of a store, and the source hash of every tile it holds.

    Without sources the store is marked as begun: it cannot be used, only gone on with.
    """
    kind = "values" if recipe.generator == SENSOR else "segments"
    manifest = {"format_version": FORMAT_VERSION, "kind": kind, **asdict(recipe)}
    write_json(folder / "manifest.json", {**manifest, "tiles": sources})


def begin_store(folder: Path, recipe: MapRecipe) -> None:
    """Open a store for writing, new or begun before with the same recipe.

    Raises:
        DataError: the folder holds maps of another recipe; they are left as they are.
    """
    if (folder / "manifest.json").is_file():
        found, _ = _read_manifest(folder)
        if problem := recipe_problem(folder, found, asdict(recipe)):
            raise DataError(problem)
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
        maker = _maker(recipe.generator if recipe is not None else None)
        raise MissingDataError(
            f"the structure maps {folder} are missing or not finished; make them with {maker}"
        )
    return recipe, sources


def _maker(generator: str | None) -> str:
    """The command that writes a store of this generator."""
    return "prepare.py sensor" if generator == SENSOR else "generate.py"


def _read_manifest(folder: Path) -> tuple[MapRecipe, dict[str, str] | None]:
    path = folder / "manifest.json"
    manifest = read_json(path)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{path} has format {manifest.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}; delete the folder and run {_maker(manifest.get('generator'))}"
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
            f"complete it with {_maker(recipe.generator)}"
        )
    with ThreadPoolExecutor() as pool:
        hashes = dict(zip(images, pool.map(sha256_of, images.values()), strict=True))
    stale = [tile_id for tile_id in images if hashes[tile_id] != sources[tile_id]]
    if stale:
        raise DataError(
            f"{folder}: {len(stale)} images changed after their maps were made (first: "
            f"'{stale[0]}'); run {_maker(recipe.generator)} again"
        )
    return recipe
