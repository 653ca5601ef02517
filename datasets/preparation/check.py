"""``prepare.py check``: is a prepared data set, with its structure stores, what it says it is?

Every file is read once, tiles side by side. Nothing is changed; all faults are collected.
"""

import argparse
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

from tqdm import tqdm

from datasets.preparation.check_lists import compare_histogram, list_findings
from datasets.preparation.check_report import draw_samples, report_table, write_summary
from datasets.preparation.check_splits import SplitFacts, find_duplicates, judge_split, split_facts
from datasets.preparation.check_stores import find_strangers, judge_flat, open_stores
from datasets.preparation.check_tiles import Finding, StoreRecord, TileFacts, examine_tile
from datasets.preparation.submission import require_submission
from datasets.tile_set import SPLITS, TileSet, open_tile_set
from utils.errors import DataError, UserError
from utils.inference.inputs import submission_sizes
from utils.threads import read_ahead

_SUBMISSION_HELP = "check this submission.zip against the test images instead of the data set"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a check found."""

    tile_set: TileSet
    stores: tuple[StoreRecord, ...]
    splits: dict[str, SplitFacts]
    tiles: dict[str, TileFacts]
    faults: list[Finding]
    warnings: list[Finding]
    time_s: float

    def summary(self) -> dict[str, Any]:
        """Plain values: what ``check.json`` holds and the table shows."""
        return {
            "data": str(self.tile_set.root),
            "name": self.tile_set.name,
            "classes": list(self.tile_set.classes),
            "bands": self.tile_set.bands,
            "split": {"name": self.tile_set.split_name, "sha256": self.tile_set.split_sha256},
            "time_s": round(self.time_s, 1),
            "splits": {name: vars(found) for name, found in self.splits.items()},
            "stores": {store.name: self._store(store) for store in self.stores},
            "warnings": [vars(finding) for finding in self.warnings],
            "faults": [vars(finding) for finding in self.faults],
        }

    def _store(self, store: StoreRecord) -> dict[str, Any]:
        maps = [tile.maps[store.name] for tile in self.tiles.values() if store.name in tile.maps]
        num_pixels = sum(facts.num_pixels for facts in maps)
        return {
            "kind": "values" if store.holds_values else "segments",
            "generator": store.recipe.generator,
            "num_maps": len(maps),
            "empty_share": sum(facts.num_empty for facts in maps) / max(1, num_pixels),
            "num_flat": sum(facts.is_flat for facts in maps),
        }


def add_arguments(add: Callable[..., Any]) -> None:
    """Arguments of ``prepare.py check``."""
    add("--data", type=Path, required=True, help="a prepared data set, data/NAME")
    add("--output", type=Path, help="folder for check.json and check.png; left out: DATA/check")
    add("--submission", type=Path, metavar="FILE.zip", help=_SUBMISSION_HELP)


def run(args: argparse.Namespace) -> None:
    """``prepare.py check``."""
    tile_set = open_for_check(args.data)
    if args.submission is not None:
        sizes = submission_sizes(tile_set, "test")
        require_submission(args.submission, sizes, len(tile_set.classes))
        return
    output = args.output or args.data / "check"
    findings = check_tile_set(tile_set)
    summary = findings.summary()
    write_summary(output, summary)
    draw_samples(output, tile_set, [*findings.splits], findings.stores, findings.tiles)
    print(report_table(summary), end="\n\n")
    if findings.faults:
        number = len(findings.faults)
        raise DataError(
            f"{args.data} has {number} fault{'s' if number > 1 else ''}; all are listed in "
            f"{output / 'check.json'}"
        )
    print(f"no fault found; see {output / 'check.json'} and {output / 'check.png'}")


def open_for_check(root: Path) -> TileSet:
    """``open_tile_set``, with a sentence also for lists that make no sense."""
    try:
        return open_tile_set(root)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{root}: dataset.json, tiles.csv or a list in splits is damaged ({error!r}); prepare "
            "the data set again"
        ) from error


def check_tile_set(tile_set: TileSet) -> Findings:
    """Examine a data set and its stores."""
    start_s = time.monotonic()
    stores, faults = open_stores(tile_set)
    more_faults, warnings = list_findings(tile_set)
    faults += more_faults
    kinds = _label_kinds(tile_set)
    examine = partial(examine_tile, tile_set, stores, kinds)
    num_threads = os.cpu_count() or 1  # hashing and counting keep all cores busy
    reading = read_ahead(examine, tile_set.tiles, num_threads=num_threads, ahead=4 * num_threads)
    with closing(reading) as found, catch_warnings():
        simplefilter("ignore", UserWarning)  # Pillow's, of damaged headers: these are faults below
        bar = tqdm(found, desc="checking", total=len(tile_set.tiles), unit="tile")
        tiles = {facts.tile_id: facts for facts in bar}
    for facts in tiles.values():
        faults += facts.faults
        warnings += facts.warnings
    faults += compare_histogram(tile_set, tiles)
    names = sorted(tile_set.splits, key=[*SPLITS, *tile_set.splits].index)  # as they are used
    splits = {split: split_facts(tile_set, split, tiles) for split in names}
    for split, split_found in splits.items():
        warnings += judge_split(tile_set, split, split_found)
    judged = [judge_flat(store, list(tiles.values())) for store in stores]
    judged += [find_duplicates(tile_set, tiles), find_strangers(tile_set, stores, kinds)]
    for more_faults, more_warnings in judged:
        faults += more_faults
        warnings += more_warnings
    return Findings(
        tile_set=tile_set,
        stores=stores,
        splits=splits,
        tiles=tiles,
        faults=faults,
        warnings=warnings,
        time_s=time.monotonic() - start_s,
    )


def _label_kinds(tile_set: TileSet) -> dict[str, tuple[str, ...]]:
    """The kinds of label that every tile is to have."""
    hidden = {t for split in tile_set.unlabelled for t in tile_set.splits.get(split, ())}
    return {t: () if t in hidden else tile_set.label_kinds for t in tile_set.tiles}
