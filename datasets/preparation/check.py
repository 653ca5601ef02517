"""``prepare.py check``: verification of a prepared data set and its structure stores.

Every file is read once and none is changed. All faults are collected before the command ends.
"""

import argparse
import csv
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.preparation.archives import in_threads
from datasets.preparation.checks.overlaps import OverlapFinder
from datasets.preparation.checks.tile_files import PREPARE, Finding, TileExaminer, TileFacts
from datasets.preparation.pipeline import split_table
from datasets.preparation.writer import partial_folder
from datasets.structure_maps import (
    FIT,
    SHEET,
    MapRecipe,
    maker,
    map_kind,
    map_path,
    read_manifest,
    store_folder,
)
from datasets.tile_set import (
    HISTOGRAM,
    LABEL_FOLDERS,
    SPLITS,
    TileSet,
    image_path,
    open_tile_set,
    read_histogram,
    valid_path,
)
from utils.boxes import Box
from utils.errors import DataError, UserError
from utils.files import write_json
from utils.mosaic import overlap_of

_MANIFEST = "manifest.json"
_DAMAGE = (AttributeError, KeyError, TypeError, ValueError)  # of a file edited by hand
_NUM_SHOWN = 3  # findings of a kind on the console
_NUM_LETTERS = 600  # of one of them there: it may name a thousand tiles


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

    try:
        tile_set = open_tile_set(args.data)
    except UserError:
        raise
    except _DAMAGE as error:
        files = "dataset.json, sources.json, tiles.csv or a list in splits"
        raise DataError(f"{args.data}: {files} is damaged ({error!r}); {PREPARE}") from error
    summary, readable = check_tile_set(tile_set)
    folder = args.output or args.data / "check"
    path = folder / "check.json"
    write_json(path, summary)
    draw_data_sheet(folder / "check.png", tile_set, readable, [*summary["stores"]])
    print(format_summary(summary), end="\n\n")
    number = sum(map(len, summary["faults"].values()))
    if number:
        raise DataError(
            f"{args.data} has {number} fault{'s' if number > 1 else ''}; all are listed in {path}"
        )
    print(f"no fault found; see {path} and {folder / 'check.png'}")


def check_tile_set(tile_set: TileSet) -> tuple[dict[str, Any], list[str]]:
    """Examine a data set and its stores.

    Returns:
        Content of ``check.json``, as plain values, and the ids of the tiles to show: their images
        are readable and have several colours.
    """
    check = _Check(tile_set)
    findings = [*check.open_stores(), *check.compare_lists()]
    examiner = TileExaminer(tile_set, check.label_kinds, check.stores)
    num_threads = os.cpu_count() or 1  # hashing and counting keep all cores busy
    with catch_warnings():
        simplefilter("ignore", UserWarning)  # Pillow's, of damaged headers: they are faults here
        found = in_threads(examiner.examine, [*tile_set.tiles], "checking", num_threads, "tile")
    check.tiles = dict(zip(tile_set.tiles, found, strict=True))
    findings += [finding for facts in found for finding in facts.findings]
    overlaps = OverlapFinder(tile_set, check.split_of, check.tiles)
    findings += [*check.compare_histogram(), *check.compare_sources()]
    findings += [*overlaps.find_copies(), *overlaps.find_shared_parts()]
    findings += [*check.find_flat_maps(), *check.find_unexpected_files()]
    texts: dict[bool, dict[str, list[str]]] = {False: {}, True: {}}
    for finding in findings:
        texts[finding.is_fault].setdefault(finding.kind, []).append(finding.text)
    summary = {
        "data": str(tile_set.root),
        "name": tile_set.name,
        "classes": list(tile_set.classes),
        "channels": tile_set.channels,
        "split": {"name": tile_set.split_name, "sha256": tile_set.split_sha256},
        "splits": {split: check.numbers_of(split) for split in check.splits},
        "stores": {folder.name: recipe.generator for folder, (recipe, _) in check.stores.items()},
        "warnings": texts[False],
        "faults": texts[True],
    }
    return summary, [tile_id for tile_id, facts in check.tiles.items() if facts.image_sha256]


class _Check:
    """Examination of a data set, in steps; each yields what it finds."""

    def __init__(self, tile_set: TileSet) -> None:
        self.tile_set, self.root = tile_set, tile_set.root
        self.splits = sorted(tile_set.splits, key=[*SPLITS, *tile_set.splits].index)
        self.split_of = {t: split for split in self.splits for t in tile_set.splits[split]}
        hidden = {t for split in tile_set.unlabelled for t in tile_set.splits.get(split, ())}
        self.label_kinds = {t: () if t in hidden else tile_set.label_kinds for t in tile_set.tiles}
        self.counted = [*range(len(tile_set.classes)), IGNORE_INDEX]  # values of sound labels
        # By folder: recipes, and the SHA-256 of the image that each map was made from.
        self.stores: dict[Path, tuple[MapRecipe, dict[str, str]]] = {}
        self.tiles: dict[str, TileFacts] = {}

    def open_stores(self) -> Iterator[Finding]:
        """Read the manifests of all stores, and keep the finished ones."""
        for folder in _folders(store_folder(self.root, "")):
            path, kind = folder / _MANIFEST, "unfinished or unreadable stores"
            try:
                recipe, found = read_manifest(folder)
                sources = dict(found)
            except UserError as error:
                yield Finding(kind, str(error))
                continue
            except _DAMAGE as error:
                text = f"{path} is not a valid manifest ({error!r}); delete {folder} and make it "
                yield Finding(kind, f"{text}again with generate.py or prepare.py sensor")
                continue
            self.stores[folder] = recipe, sources
            if map_kind(recipe.generator) == "cells":
                from datasets.structure_fits import read_fit  # imports torch, as contact sheets do

                try:
                    read_fit(folder)
                except UserError as error:
                    yield Finding("fits that cannot be read", str(error))
            for tile_id in sorted(sources.keys() - self.tile_set.tiles.keys()):
                text = f"{path} names '{tile_id}', which is not a tile; delete the folder and run "
                yield Finding("maps of no tile", f"{text}{maker(recipe.generator)} again")

    def compare_lists(self) -> Iterator[Finding]:
        """Compare tiles.csv with the lists of the splits."""
        splits = self.tile_set.splits
        with (self.root / "tiles.csv").open(encoding="utf-8", newline="") as file:
            lists = {"tiles.csv": tuple(row["id"] for row in csv.DictReader(file))}
        lists |= {f"splits/{split}.txt": ids for split, ids in splits.items()}
        for name, ids in lists.items():
            for tile_id, count in Counter(ids).items():
                if count > 1:
                    text = f"{self.root}/{name} names '{tile_id}' {count} times; delete the others"
                    yield Finding("names that occur twice", text)
        for split in SPLITS:
            if not splits.get(split):
                text = f"{self.root} has no tile in {split}; train.py and eval.py cannot use it"
                yield Finding("splits without tiles", text, is_fault=False)
        used = {tile_id for ids in splits.values() for tile_id in ids}
        for tile_id in self.tile_set.tiles:
            if tile_id not in used:
                text = f"'{tile_id}' is in no split; add it to a list in {self.root}/splits if it "
                yield Finding("tiles without a split", f"{text}is to be used", is_fault=False)

    def compare_histogram(self) -> Iterator[Finding]:
        """Compare ``histogram.csv``, from which training chooses crops, with the labels."""
        path, kind = self.root / HISTOGRAM, "wrong histogram.csv"
        try:
            rows = read_histogram(self.root, len(self.tile_set.classes))
        except UserError as error:
            yield Finding(kind, str(error))
            return
        labelled = {tile_id for tile_id, kinds in self.label_kinds.items() if kinds}
        for tile_id in sorted(self.tile_set.tiles.keys() | rows.keys()):
            if (tile_id in rows) != (tile_id in labelled):
                what = "lists" if tile_id in rows else "lacks"
                yield Finding(kind, f"{path} {what} '{tile_id}'; {PREPARE}")
            elif tile_id in rows and not self.tiles[tile_id].findings:  # else reported already
                counts = self.tiles[tile_id].counts
                if counts is not None and rows[tile_id].tolist() != counts[self.counted].tolist():
                    text = f"{path} differs from the pixel counts of the label of '{tile_id}'"
                    yield Finding(kind, f"{text}; {PREPARE}")

    def compare_sources(self) -> Iterator[Finding]:
        """Compare ``sources.json`` with the tiles, and find sources with equal pixels."""
        same: dict[str, dict[str, str]] = defaultdict(dict)  # splits by source, by hash
        for tile_id, tile in self.tile_set.tiles.items():
            facts = self.tile_set.sources[tile.source]
            if not (_is_within(tile, facts.box) and _is_within(tile, Box(0, 0, *facts.size))):
                text = f"{self.root}/sources.json: the tile '{tile_id}' is not within its source "
                yield Finding("wrong sources.json", f"{text}'{tile.source}'; {PREPARE}")
            if tile_id in self.split_of and self.tiles[tile_id].image_sha256:
                same[facts.sha256][tile.source] = self.split_of[tile_id]
        for split_of in same.values():
            if len({*split_of.values()}) > 1:
                named = ", ".join(f"'{source}' ({split})" for source, split in split_of.items())
                text = f"{named} are the same image; remove it from all splits but one"
                yield Finding("same image under two names", text)

    def find_flat_maps(self) -> Iterator[Finding]:
        """Find maps of one value: a warning, and a fault if they are more than half of a store."""
        for folder, (recipe, _) in self.stores.items():
            flat = [tile_id for tile_id, facts in self.tiles.items() if folder in facts.flat]
            if flat:
                text = f"{folder}: {len(flat)} of {len(self.tiles)} maps have a single value "
                text += f"(first: '{flat[0]}'); look at them, or change the settings of the "
                text += f"generator and run {maker(recipe.generator)} again"
                is_fault = 2 * len(flat) > len(self.tiles)
                yield Finding("maps without structure", text, is_fault)

    def find_unexpected_files(self) -> Iterator[Finding]:
        """Find files that belong to no tile, and temporary files of killed runs."""
        stores = store_folder(self.root, "")
        expected = {self.root / "images": {image_path(self.root, t).name for t in self.tiles}}
        for kind, name in LABEL_FOLDERS.items():
            labelled = [tile_id for tile_id, kinds in self.label_kinds.items() if kind in kinds]
            paths = (self.tile_set.target_path(tile_id, kind) for tile_id in labelled)
            expected[self.root / name] = {path.name for path in paths}
        expected[stores] = {SHEET, *(folder.name for folder in _folders(stores))}
        for folder, (_, sources) in self.stores.items():
            maps = {map_path(folder, tile_id).name for tile_id in sources}
            expected[folder] = maps | {_MANIFEST, SHEET, FIT}
        expected[self.root / "valid"] = {valid_path(self.root, t).name for t in self.tiles}
        unfinished = partial_folder(self.root)
        temporary = [unfinished] if unfinished.exists() else []
        for folder, names in expected.items():
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.name.startswith("."):
                    temporary.append(path)
                elif path.name not in names:
                    text = f"no list names {path}; delete it or {PREPARE}"
                    yield Finding("unexpected files", text)
        for path in temporary:
            text = f"{path} was left by a killed run, or belongs to a running one; if none is "
            yield Finding("temporary files", f"{text}running, delete it", is_fault=False)

    def numbers_of(self, split: str) -> dict[str, Any]:
        """Return images, tiles, pixels and class weights of a split, as plain values."""
        tile_ids = self.tile_set.splits[split]
        tiles = [self.tile_set.tiles[tile_id] for tile_id in tile_ids]
        counts = [self.tiles[tile_id].counts for tile_id in tile_ids]
        rows = [count[self.counted] for count in counts if count is not None]
        pixels = np.array(rows, np.int64).reshape(-1, len(self.counted))
        return {
            "num_sources": len({tile.source for tile in tiles}),
            "num_tiles": len(tile_ids),
            "num_pixels": sum(tile.height_px * tile.width_px for tile in tiles),
            "class_pixels": pixels[:, :-1].sum(0).tolist(),
            "ignored_pixels": int(pixels[:, -1].sum()),
            "no_data_pixels": sum(self.tiles[tile_id].num_no_data for tile_id in tile_ids),
            "class_weights": median_frequency_weights(pixels[:, :-1]),
        }


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
    pixels = class_pixels.sum(0)
    shown = pixels > 0
    if not shown.any():
        return None
    among = ((class_pixels > 0) * class_pixels.sum(1, keepdims=True)).sum(0)
    frequency = pixels[shown] / among[shown]
    weights = np.zeros(len(pixels))
    weights[shown] = np.median(frequency) / frequency
    return tuple(float(f"{weight:.4g}") for weight in weights)


def _is_within(one: Box, other: Box) -> bool:
    return overlap_of(one, other)[0] == (slice(0, one.height_px), slice(0, one.width_px))


def _folders(parent: Path) -> list[Path]:
    """Return the visible folders in a folder, which need not exist."""
    return sorted(path for path in parent.glob("[!.]*") if path.is_dir())


def format_summary(summary: Mapping[str, Any]) -> str:
    """Format the content of ``check.json`` for the console: numbers, then warnings, then faults."""
    split, splits = summary["split"], summary["splits"]
    stores = ", ".join(
        name if name == generator else f"{name} ({generator})"
        for name, generator in summary["stores"].items()
    )
    blocks = [
        f"{summary['data']}: {len(summary['classes'])} classes, channels {summary['channels']}, "
        f"split '{split['name']}', SHA-256 {split['sha256'][:16]}...",
        split_table(summary["classes"], splits),
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
            lines = [f"{title}: {kind} ({len(texts)})", *map(_shortened, texts[:_NUM_SHOWN])]
            if len(texts) > _NUM_SHOWN:
                lines.append(f"  and {len(texts) - _NUM_SHOWN} more, see check.json")
            blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _shortened(text: str) -> str:
    if len(text) > _NUM_LETTERS:
        text = f"{text[:_NUM_LETTERS]}... (in full in check.json)"
    return f"  {text}"
