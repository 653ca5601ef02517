"""The modality store: the structure maps of a data set, and the record of how they were made.

::

    DATA/modalities/STORE/ID.tif           one raw map a tile, see ``datasets.structure_maps``
    DATA/modalities/STORE/manifest.json    generator, settings, weights, and the tiles' hashes

Maps are stored raw, once; ``datasets.encodings`` turns them into what the network sees. The
manifest is written when all is done.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.structure import VALUE_GENERATORS
from datasets.structure_maps import MapRecipe, map_path
from utils.config import differences
from utils.errors import DataError, MissingDataError
from utils.files import read_json, sha256_of, write_json

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
