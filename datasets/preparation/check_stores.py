"""What ``prepare.py check`` finds in folders: stores and their manifests, files of no list."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from configs.schema import GENERATORS
from datasets.preparation.check_tiles import Finding, StoreRecord, TileFacts
from datasets.preparation.writer import partial_folder
from datasets.structure_maps import (
    SENSOR,
    SHEET,
    holds_values,
    maker,
    map_path,
    read_manifest,
    store_folder,
)
from datasets.tile_set import LABEL_FOLDERS, TileSet
from utils.errors import UserError
from utils.files import read_json

_MANIFEST = "manifest.json"


def open_stores(tile_set: TileSet) -> tuple[tuple[StoreRecord, ...], list[Finding]]:
    """Read the manifests of all stores of a data set.

    Returns:
        The finished stores, and what is wrong with these and the others.
    """
    stores, faults = [], []
    for folder in _folders(store_folder(tile_set.root, "")):
        try:
            recipe, sources = read_manifest(folder)
            store = StoreRecord(
                name=folder.name, folder=folder, recipe=recipe, sources=dict(sources)
            )
            kind = read_json(folder / _MANIFEST)["kind"]
        except UserError as error:
            faults.append(Finding("unfinished or unreadable stores", str(error)))
            continue
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            text = f"{folder / _MANIFEST} lacks what a manifest holds ({error!r}); delete {folder} "
            text += "and make it again with generate.py or prepare.py sensor"
            faults.append(Finding("unfinished or unreadable stores", text))
            continue
        stores.append(store)
        faults += _compare_kind(store, kind)
        faults += _compare_tiles(store, tile_set)
    return tuple(stores), faults


def _compare_kind(store: StoreRecord, kind: str) -> Iterator[Finding]:
    generator = store.recipe.generator
    if generator not in (*GENERATORS, SENSOR):
        known = ", ".join((*GENERATORS, SENSOR))
        yield Finding(
            "stores of another kind",
            f"{store.folder} was made by '{generator}', which this program does not know ({known});"
            " delete it or take the program that made it",
        )
    elif kind != (right := "values" if holds_values(generator) else "segments"):
        yield Finding(
            "stores of another kind",
            f"{store.folder} is declared to hold {kind}, '{generator}' makes {right}; delete it "
            f"and run {maker(generator)} again",
        )


def _compare_tiles(store: StoreRecord, tile_set: TileSet) -> Iterator[Finding]:
    for tile_id in sorted(store.sources.keys() - tile_set.tiles.keys()):
        yield Finding(
            "maps of no tile",
            f"{store.folder}/{_MANIFEST} names '{tile_id}', which is no tile; delete the folder "
            f"and run {maker(store.recipe.generator)} again",
        )


def judge_flat(store: StoreRecord, facts: list[TileFacts]) -> tuple[list[Finding], list[Finding]]:
    """What maps with one id or one level say of a store; those of depth are judged one by one.

    One lake can be one segment, or have one height; most tiles of a data set cannot.

    Returns:
        Faults and warnings.
    """
    flat = [tile.tile_id for tile in facts if store.name in tile.maps]
    num_maps = len(flat)
    flat = [f.tile_id for f in facts if store.name in f.maps and f.maps[store.name].is_flat]
    if not flat or store.is_depth:
        return [], []
    what = "one value or none" if store.holds_values else "a single segment"
    text = f"{store.folder}: {len(flat)} of {num_maps} maps hold {what} (first: '{flat[0]}'); "
    if len(flat) * 2 <= num_maps:
        return [], [Finding("maps without structure", f"{text}look at them")]
    text += f"change its settings and run {maker(store.recipe.generator)} again"
    return [Finding("maps without structure", text)], []


def find_strangers(
    tile_set: TileSet, stores: tuple[StoreRecord, ...], label_kinds: Mapping[str, Collection[str]]
) -> tuple[list[Finding], list[Finding]]:
    """Files that should not be there.

    Args:
        tile_set: the data set.
        stores: its finished stores.
        label_kinds: of every tile: full, eroded, both or none.

    Returns:
        Faults, and warnings: what killed runs left.
    """
    images = {tile_set.image_path(tile_id).name for tile_id in tile_set.tiles}
    places = [(tile_set.root / "images", images)]
    for kind, name in LABEL_FOLDERS.items():
        labelled = [tile_id for tile_id, kinds in label_kinds.items() if kind in kinds]
        names = {tile_set.target_path(tile_id, kind).name for tile_id in labelled}
        places.append((tile_set.root / name, names))
    parent = store_folder(tile_set.root, "")
    places.append((parent, {SHEET, *(folder.name for folder in _folders(parent))}))
    for store in stores:
        names = {map_path(store.folder, tile_id).name for tile_id in store.sources}
        places.append((store.folder, names | {_MANIFEST, SHEET}))
    faults, warnings = [], []
    for folder, names in places:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name.startswith("."):
                warnings.append(_leftover(path))
            elif path.name not in names:
                text = f"no list names {path}; delete it or prepare the data set again"
                faults.append(Finding("files that no list names", text))
    partial = partial_folder(tile_set.root)
    return faults, [*warnings, *([_leftover(partial)] if partial.exists() else [])]


def _leftover(path: Path) -> Finding:
    text = f"{path} was left by a run that was killed, or belongs to one that is going on; if none "
    return Finding("leftovers of killed runs", f"{text}is, delete it")


def _folders(parent: Path) -> list[Path]:
    """The visible folders in a folder that need not be there."""
    found = sorted(parent.iterdir()) if parent.is_dir() else []
    return [path for path in found if path.is_dir() and not path.name.startswith(".")]
