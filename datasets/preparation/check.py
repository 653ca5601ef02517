"""``prepare.py check``: verification of a prepared data set and its structure stores.

Every file is read once and none is changed. All faults are collected before the command ends.
"""

import argparse
import csv
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.preparation.archives import in_threads
from datasets.preparation.pipeline import Summary
from datasets.preparation.writer import partial_folder
from datasets.rasters import Kind, open_raster
from datasets.structure_maps import (
    SHEET,
    MapRecipe,
    maker,
    map_path,
    read_facts,
    read_manifest,
    store_folder,
)
from datasets.tile_set import (
    HISTOGRAM,
    LABEL_FOLDERS,
    SPLITS,
    TileSet,
    count_values,
    open_tile_set,
    read_histogram,
)
from utils.errors import DataError, UserError
from utils.files import sha256_of, write_json

_MANIFEST = "manifest.json"
_PREPARE = "prepare the data set again"
_NUM_LISTED = 5  # unknown values in a sentence
_NUM_SHOWN = 3  # findings of a kind on the console


@dataclass(frozen=True)
class Finding:
    """A fault or a warning: one line that names the problem, the place and the remedy."""

    kind: str  # findings of one kind are printed together, under this title
    text: str
    is_fault: bool = True


@dataclass(frozen=True, kw_only=True)
class StoreRecord:
    """A finished store of structure maps, as its manifest describes it."""

    name: str
    folder: Path
    recipe: MapRecipe
    sources: dict[str, str]  # SHA-256 of the image each map was made from, by tile


@dataclass(frozen=True, kw_only=True)
class TileFacts:
    """Content of the files of one tile."""

    image_sha256: str | None  # of the image file, if it is readable and has more than one colour
    counts: np.ndarray | None  # (256,) int64 pixels of every label value; None: no readable label
    flat: tuple[str, ...]  # stores whose map of this tile has one value
    findings: list[Finding]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Result of a check."""

    tile_set: TileSet
    stores: tuple[StoreRecord, ...]
    tiles: dict[str, TileFacts]
    findings: list[Finding]

    def texts(self, *, faults: bool) -> dict[str, list[str]]:
        """Return the sentences of all faults, or of all warnings, by kind."""
        texts: dict[str, list[str]] = {}
        for finding in self.findings:
            if finding.is_fault == faults:
                texts.setdefault(finding.kind, []).append(finding.text)
        return texts

    def pixels(self, split: str) -> np.ndarray:
        """Return pixels of every class and, last, of ignore, ``(num_tiles, num_classes + 1)``."""
        kept = [*range(len(self.tile_set.classes)), IGNORE_INDEX]
        counts = (self.tiles[tile_id].counts for tile_id in self.tile_set.splits[split])
        rows = [count[kept] for count in counts if count is not None]
        return np.array(rows, np.int64).reshape(-1, len(kept))

    def summary(self) -> dict[str, Any]:
        """Return the content of ``check.json``, as plain values."""
        tile_set, splits = self.tile_set, {}
        for split in sorted(tile_set.splits, key=[*SPLITS, *tile_set.splits].index):
            pixels, tile_ids = self.pixels(split), tile_set.splits[split]
            tiles = [tile_set.tiles[tile_id] for tile_id in tile_ids]
            splits[split] = {
                "num_sources": len({tile.source for tile in tiles}),
                "num_tiles": len(tile_ids),
                "num_pixels": sum(tile.height_px * tile.width_px for tile in tiles),
                "class_pixels": pixels[:, :-1].sum(0).tolist(),
                "ignored_pixels": int(pixels[:, -1].sum()),
                "class_weights": median_frequency_weights(pixels[:, :-1]),
            }
        return {
            "data": str(tile_set.root),
            "name": tile_set.name,
            "classes": list(tile_set.classes),
            "bands": tile_set.bands,
            "split": {"name": tile_set.split_name, "sha256": tile_set.split_sha256},
            "splits": splits,
            "stores": {store.name: store.recipe.generator for store in self.stores},
            "warnings": self.texts(faults=False),
            "faults": self.texts(faults=True),
        }


def add_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments of ``prepare.py check``."""
    add("--data", type=Path, required=True, help="a prepared data set, data/NAME")
    add("--output", type=Path, help="folder for check.json and check.png; default: DATA/check")


def run(args: argparse.Namespace) -> None:
    """Run ``prepare.py check``.

    Raises:
        MissingDataError, DataError: the data set cannot be opened, or has faults.
    """
    from datasets.contact_sheets import draw_data_sheet  # imports torch: other commands need none

    report = check_tile_set(_open(args.data))
    folder = args.output or args.data / "check"
    path = folder / "check.json"
    summary = report.summary()
    write_json(path, summary)
    readable = [tile_id for tile_id, facts in report.tiles.items() if facts.image_sha256]
    stores = [store.name for store in report.stores]
    draw_data_sheet(folder / "check.png", report.tile_set, readable, stores)
    print(format_summary(summary), end="\n\n")
    number = sum(map(len, summary["faults"].values()))
    if number:
        raise DataError(
            f"{args.data} has {number} fault{'s' if number > 1 else ''}; all are listed in {path}"
        )
    print(f"no fault found; see {path} and {folder / 'check.png'}")


def _open(root: Path) -> TileSet:
    try:
        return open_tile_set(root)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        text = f"{root}: dataset.json, tiles.csv or a list in splits is damaged ({error!r})"
        raise DataError(f"{text}; {_PREPARE}") from error


def check_tile_set(tile_set: TileSet) -> Report:
    """Examine a data set and its stores."""
    hidden = {t for split in tile_set.unlabelled for t in tile_set.splits.get(split, ())}
    kinds = {t: () if t in hidden else tile_set.label_kinds for t in tile_set.tiles}
    stores, findings = _open_stores(tile_set)
    findings += _check_lists(tile_set)
    examine = partial(_examine_tile, tile_set, stores, kinds)
    num_threads = os.cpu_count() or 1  # hashing and counting keep all cores busy
    with catch_warnings():
        simplefilter("ignore", UserWarning)  # Pillow's, of damaged headers: they are faults here
        found = in_threads(examine, [*tile_set.tiles], "checking", num_threads, "tile")
    tiles = dict(zip(tile_set.tiles, found, strict=True))
    for facts in tiles.values():
        findings += facts.findings
    findings += _check_histogram(tile_set, tiles, hidden)
    findings += _find_duplicates(tile_set, tiles)
    findings += _check_flat(stores, tiles)
    findings += _find_unexpected_files(tile_set, stores, kinds)
    return Report(tile_set=tile_set, stores=stores, tiles=tiles, findings=findings)


def _examine_tile(
    tile_set: TileSet,
    stores: tuple[StoreRecord, ...],
    label_kinds: Mapping[str, tuple[str, ...]],
    tile_id: str,
) -> TileFacts:
    """Read all files of a tile to their end."""
    findings: list[Finding] = []
    path, sha256 = tile_set.image_path(tile_id), None
    image = _read(tile_set, tile_id, path, "RGB", _PREPARE, findings)
    counts = {}
    for kind in label_kinds[tile_id]:
        label_path = tile_set.target_path(tile_id, kind)
        target = _read(tile_set, tile_id, label_path, "8-bit", _PREPARE, findings)
        if target is not None:
            counts[kind] = count_values(target)
            findings += _check_values(tile_set, label_path, counts[kind])
    if image is not None:
        sha256 = sha256_of(path)
    for store in stores:
        if sha256 is not None and store.sources.get(tile_id, sha256) != sha256:
            text = f"{path} changed after its map in {store.folder} was made; run "
            text += f"{maker(store.recipe.generator)} again"
            findings.append(Finding("maps of changed images", text))
    flat = tuple(s.name for s in stores if _check_map(tile_set, s, tile_id, findings))
    if image is not None and (image == image[0, 0]).all():
        sha256 = None  # tiles of one colour are no duplicates
    return TileFacts(image_sha256=sha256, counts=counts.get("full"), flat=flat, findings=findings)


def _read(
    tile_set: TileSet, tile_id: str, path: Path, kind: Kind, remedy: str, findings: list[Finding]
) -> np.ndarray | None:
    """Map the pixels of a file and compare its size with the tile's; None if it is unreadable."""
    if not path.is_file():
        findings.append(Finding("missing files", f"{path} does not exist; {remedy}"))
        return None
    try:
        array = open_raster(path, kind)
    except UserError as error:
        findings.append(Finding("unreadable files", str(error)))
        return None
    tile = tile_set.tiles[tile_id]
    if array.shape[:2] != (tile.height_px, tile.width_px):
        text = f"{path} is {array.shape[0]} x {array.shape[1]}, tiles.csv says {tile.height_px} x "
        text += f"{tile.width_px} (height x width); {remedy}"
        findings.append(Finding("wrong sizes", text))
    return array


def _check_values(tile_set: TileSet, path: Path, counts: np.ndarray) -> Iterator[Finding]:
    num_classes = len(tile_set.classes)
    unknown = [v for v in range(num_classes, IGNORE_INDEX) if counts[v]]
    if unknown:
        listed = ", ".join(f"{v} ({counts[v]:,} pixels)" for v in unknown[:_NUM_LISTED])
        more = f" and {len(unknown) - _NUM_LISTED} more" if len(unknown) > _NUM_LISTED else ""
        text = f"{path} holds {listed}{more}; the classes are 0..{num_classes - 1}, "
        text += f"{IGNORE_INDEX} = ignore; correct the masks and {_PREPARE}"
        yield Finding("unknown label values", text)


def _check_map(
    tile_set: TileSet, store: StoreRecord, tile_id: str, findings: list[Finding]
) -> bool:
    """Compare the map of a tile with the manifest of its store; return True if it is flat."""
    path, again = map_path(store.folder, tile_id), f"run {maker(store.recipe.generator)} again"
    if tile_id not in store.sources or not path.is_file():
        where = "no map" if tile_id in store.sources else "no map in its manifest"
        findings.append(
            Finding("missing maps", f"{store.folder}: '{tile_id}' has {where}; {again}")
        )
        return False
    levels = _read(tile_set, tile_id, path, "16-bit", again, findings)
    made_alike = read_facts(store.folder, tile_id, store.sources[tile_id], store.recipe)
    if levels is not None and made_alike is None:
        text = f"{path} was made from another image or with other settings than its manifest "
        text += f"records; delete it and {again}"
        findings.append(Finding("maps that differ from their manifest", text))
    return levels is not None and bool((levels == levels[0, 0]).all())


def _check_flat(stores: Iterable[StoreRecord], tiles: Mapping[str, TileFacts]) -> Iterator[Finding]:
    """Report maps of one value: a warning, and a fault if they are more than half of a store."""
    for store in stores:
        flat = [tile_id for tile_id, facts in tiles.items() if store.name in facts.flat]
        if flat:
            text = f"{store.folder}: {len(flat)} of {len(tiles)} maps have a single value (first: "
            text += f"'{flat[0]}'); look at them, or change the settings of the generator and run "
            text += f"{maker(store.recipe.generator)} again"
            yield Finding("maps without structure", text, is_fault=2 * len(flat) > len(tiles))


def _check_lists(tile_set: TileSet) -> Iterator[Finding]:
    """Compare tiles.csv with the lists of the splits."""
    with (tile_set.root / "tiles.csv").open(encoding="utf-8", newline="") as file:
        lists = {"tiles.csv": [row["id"] for row in csv.DictReader(file)]}
    lists |= {f"splits/{split}.txt": list(ids) for split, ids in tile_set.splits.items()}
    for name, ids in lists.items():
        for tile_id, count in Counter(ids).items():
            if count > 1:
                text = f"{tile_set.root}/{name} names '{tile_id}' {count} times; delete the others"
                yield Finding("names that occur twice", text)
    for split in SPLITS:
        if not tile_set.splits.get(split):
            text = f"{tile_set.root} has no tile in {split}; train.py and eval.py cannot use it"
            yield Finding("splits without tiles", text, is_fault=False)
    used = {tile_id for ids in tile_set.splits.values() for tile_id in ids}
    for tile_id in tile_set.tiles:
        if tile_id not in used:
            text = f"'{tile_id}' is in no split; add it to a list in {tile_set.root}/splits if it "
            yield Finding("tiles without a split", f"{text}is to be used", is_fault=False)


def _check_histogram(
    tile_set: TileSet, tiles: Mapping[str, TileFacts], hidden: Collection[str]
) -> Iterator[Finding]:
    """Compare ``histogram.csv``, from which training chooses crops, with the labels."""
    path, kind = tile_set.root / HISTOGRAM, "wrong histogram.csv"
    try:
        rows = read_histogram(tile_set.root, len(tile_set.classes))
    except UserError as error:
        yield Finding(kind, str(error))
        return
    kept = [*range(len(tile_set.classes)), IGNORE_INDEX]
    for tile_id in sorted(tile_set.tiles.keys() | rows.keys()):
        if (tile_id in rows) != (tile_id in tile_set.tiles and tile_id not in hidden):
            what = "lists" if tile_id in rows else "lacks"
            yield Finding(kind, f"{path} {what} '{tile_id}'; {_PREPARE}")
        elif tile_id in rows and not tiles[tile_id].findings:  # else it is reported already
            counts = tiles[tile_id].counts
            if counts is not None and rows[tile_id].tolist() != counts[kept].tolist():
                text = f"{path} differs from the pixel counts of the label of '{tile_id}'"
                yield Finding(kind, f"{text}; {_PREPARE}")


def median_frequency_weights(class_pixels: np.ndarray) -> tuple[float, ...] | None:
    """Return class weights by median frequency balancing.

    The frequency of a class is its pixels divided by the labelled pixels of the tiles that show
    it; its weight is the median of all frequencies divided by its own. A class without a pixel has
    weight 0 and does not enter the median.

    Source: Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common
    Multi-Scale Convolutional Architecture", ICCV 2015, section 6.3.

    Args:
        class_pixels: ``(num_tiles, num_classes)`` pixel counts.

    Returns:
        Factors with four significant digits; None if there is no labelled pixel.
    """
    pixels = class_pixels.sum(0).astype(np.float64)
    if not pixels.any():
        return None
    among = ((class_pixels > 0) * class_pixels.sum(1, keepdims=True)).sum(0)
    shown = pixels > 0
    frequency = np.divide(pixels, among, out=np.zeros_like(pixels), where=shown)
    median = np.median(frequency[shown])
    weights = np.divide(median, frequency, out=np.zeros_like(pixels), where=shown)
    return tuple(float(f"{weight:.4g}") for weight in weights)


def _find_duplicates(tile_set: TileSet, tiles: Mapping[str, TileFacts]) -> Iterator[Finding]:
    """Find tiles with equal pixels; those of one colour do not count."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, tile_ids in tile_set.splits.items():
        for tile_id in dict.fromkeys(tile_ids):
            if (sha256 := tiles[tile_id].image_sha256) is not None:
                groups[sha256].append((split, tile_id))
    for members in groups.values():
        named = ", ".join(f"'{tile_id}' ({split})" for split, tile_id in members)
        if len({split for split, _ in members}) > 1:
            text = f"{named} have the same pixels; remove the image from all splits but one"
            yield Finding("same pixels in two splits", text)
        elif len(members) > 1:
            text = f"{named} have the same pixels and count more than other tiles"
            yield Finding("same pixels twice in a split", text, is_fault=False)


def _open_stores(tile_set: TileSet) -> tuple[tuple[StoreRecord, ...], list[Finding]]:
    """Read the manifests of all stores; return the finished stores, and all faults."""
    stores, faults = [], []
    for folder in _folders(store_folder(tile_set.root, "")):
        path = folder / _MANIFEST
        try:
            recipe, found = read_manifest(folder)
            sources = dict(found)
        except UserError as error:
            faults.append(Finding("unfinished or unreadable stores", str(error)))
            continue
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            text = f"{path} is not a valid manifest ({error!r}); delete {folder} and make it again "
            text += "with generate.py or prepare.py sensor"
            faults.append(Finding("unfinished or unreadable stores", text))
            continue
        stores.append(StoreRecord(name=folder.name, folder=folder, recipe=recipe, sources=sources))
        for tile_id in sorted(sources.keys() - tile_set.tiles.keys()):
            text = f"{path} names '{tile_id}', which is not a tile; delete the folder and run "
            faults.append(Finding("maps of no tile", f"{text}{maker(recipe.generator)} again"))
    return tuple(stores), faults


def _find_unexpected_files(
    tile_set: TileSet, stores: Iterable[StoreRecord], label_kinds: Mapping[str, Collection[str]]
) -> Iterator[Finding]:
    """Find files that belong to no tile, and temporary files of killed runs.

    Args:
        tile_set: the data set.
        stores: its finished stores.
        label_kinds: kinds of label of every tile.
    """
    places = [(tile_set.root / "images", {tile_set.image_path(t).name for t in tile_set.tiles})]
    for kind, folder_name in LABEL_FOLDERS.items():
        labelled = [tile_id for tile_id, kinds in label_kinds.items() if kind in kinds]
        names = {tile_set.target_path(tile_id, kind).name for tile_id in labelled}
        places.append((tile_set.root / folder_name, names))
    parent = store_folder(tile_set.root, "")
    places.append((parent, {SHEET, *(folder.name for folder in _folders(parent))}))
    for store in stores:
        names = {map_path(store.folder, tile_id).name for tile_id in store.sources}
        places.append((store.folder, names | {_MANIFEST, SHEET}))
    partial_set = partial_folder(tile_set.root)
    temporary = [partial_set] if partial_set.exists() else []
    for folder, names in places:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name.startswith("."):
                temporary.append(path)
            elif path.name not in names:
                text = f"no list names {path}; delete it or {_PREPARE}"
                yield Finding("unexpected files", text)
    for path in temporary:
        text = f"{path} was left by a killed run, or belongs to a running one; if none is running, "
        yield Finding("temporary files", f"{text}delete it", is_fault=False)


def _folders(parent: Path) -> list[Path]:
    """Return the visible folders in a folder, which need not exist."""
    found = sorted(parent.iterdir()) if parent.is_dir() else []
    return [path for path in found if path.is_dir() and not path.name.startswith(".")]


def format_summary(summary: Mapping[str, Any]) -> str:
    """Format ``Report.summary`` for the console: numbers, then warnings, then faults."""
    split, splits = summary["split"], summary["splits"]
    pixels = {n: np.array([*s["class_pixels"], s["ignored_pixels"]]) for n, s in splits.items()}
    table = Summary(
        num_sources={name: found["num_sources"] for name, found in splits.items()},
        num_tiles={name: found["num_tiles"] for name, found in splits.items()},
        num_pixels=pixels,
        unknown=Counter(),
        num_hidden={name: found["num_pixels"] for name, found in splits.items()},
    ).table(summary["classes"])
    stores = ", ".join(
        name if name == generator else f"{name} ({generator})"
        for name, generator in summary["stores"].items()
    )
    blocks = [
        f"{summary['data']}: {len(summary['classes'])} classes, bands {summary['bands']}, split "
        f"'{split['name']}', SHA-256 {split['sha256'][:16]}...",
        table,
        f"structure maps: {stores or 'none'}",
    ]
    if weights := splits.get("train", {}).get("class_weights"):
        blocks.append(
            "class weights of train, median frequency / frequency, where the frequency of a class\n"
            "is its pixels divided by the labelled pixels of the tiles that show it:\n"
            f"  'optim.class_weights=[{','.join(f'{weight:g}' for weight in weights)}]'"
        )
    for title in ("warning", "fault"):
        for kind, texts in summary[f"{title}s"].items():
            lines = [f"{title}: {kind} ({len(texts)})", *(f"  {t}" for t in texts[:_NUM_SHOWN])]
            if len(texts) > _NUM_SHOWN:
                lines.append(f"  and {len(texts) - _NUM_SHOWN} more, see check.json")
            blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
