"""What ``prepare.py check`` finds in the lists: names twice or nowhere, offsets, the histogram."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from configs.schema import IGNORE_INDEX
from datasets.preparation.check_tiles import Finding, TileFacts
from datasets.tile_set import FILE_NAME, SPLITS, Tile, TileSet, read_histogram
from utils.errors import UserError

_HISTOGRAM = "wrong histogram.csv"


def list_findings(tile_set: TileSet) -> tuple[list[Finding], list[Finding]]:
    """Compare the lists with one another: names twice or nowhere, offsets.

    Returns:
        Faults and warnings.
    """
    faults = [*_repeated(tile_set)]
    warnings = [*_unused(tile_set)]
    split_of = {t: split for split, ids in tile_set.splits.items() for t in ids}
    by_source: dict[str, list[Tile]] = defaultdict(list)
    for tile in tile_set.tiles.values():
        if min(tile.top_px, tile.left_px) < 0 or min(tile.height_px, tile.width_px) < 1:
            text = f"tiles.csv puts '{tile.id}' at row {tile.top_px}, column {tile.left_px} with "
            text += f"{tile.height_px} x {tile.width_px} pixels (height x width); prepare the data "
            faults.append(Finding("offsets", f"{text}set again"))
        else:
            by_source[tile.source].append(tile)
    for source, tiles in by_source.items():
        covered, height, width = _cover(tiles)
        doubled = sum(tile.height_px * tile.width_px for tile in tiles) - covered
        split = split_of.get(tiles[0].id, "train")
        if doubled and split != "train":
            text = f"tiles of '{source}' ({split}) overlap in {doubled:,} pixels, which would "
            faults.append(Finding("offsets", f"{text}count twice; prepare the data set again"))
        if hole := height * width - covered:
            text = f"no tile holds {hole:,} pixels of '{source}', {height} x {width} (height x "
            text += "width); prepare the data set again if you did not leave them out"
            warnings.append(Finding("parts of images without a tile", text))
    return faults, warnings


def _repeated(tile_set: TileSet) -> Iterator[Finding]:
    with (tile_set.root / "tiles.csv").open(encoding="utf-8", newline="") as file:
        lists = {"tiles.csv": [row["id"] for row in csv.DictReader(file)]}
    lists |= {f"splits/{split}.txt": list(ids) for split, ids in tile_set.splits.items()}
    for name, ids in lists.items():
        for tile_id, count in Counter(ids).items():
            if count > 1:
                text = f"{tile_set.root}/{name} names '{tile_id}' {count} times; delete the others"
                yield Finding("names that occur twice", text)


def _unused(tile_set: TileSet) -> Iterator[Finding]:
    for split in SPLITS:
        if not tile_set.splits.get(split):
            text = f"{tile_set.root} has no tile in {split}"
            yield Finding("splits without tiles", f"{text}; train.py and eval.py cannot use it")
    used = {tile_id for ids in tile_set.splits.values() for tile_id in ids}
    for tile_id in tile_set.tiles:
        if tile_id not in used:
            text = f"'{tile_id}' is in no split; add it to a list in {tile_set.root}/splits"
            yield Finding("tiles without a split", f"{text} if it is to be used")


def _cover(tiles: list[Tile]) -> tuple[int, int, int]:
    """Pixels that tiles of one source cover, and the source's height and width."""
    rows = sorted({0, *(t.top_px for t in tiles), *(t.top_px + t.height_px for t in tiles)})
    columns = sorted({0, *(t.left_px for t in tiles), *(t.left_px + t.width_px for t in tiles)})
    covered = np.zeros((len(rows) - 1, len(columns) - 1), bool)  # cells between the tiles' edges
    for tile in tiles:
        top, bottom = rows.index(tile.top_px), rows.index(tile.top_px + tile.height_px)
        left, right = columns.index(tile.left_px), columns.index(tile.left_px + tile.width_px)
        covered[top:bottom, left:right] = True
    return int(np.diff(rows) @ covered @ np.diff(columns)), rows[-1], columns[-1]


def compare_histogram(tile_set: TileSet, facts: Mapping[str, TileFacts]) -> Iterator[Finding]:
    """Compare ``histogram.csv``, from which training chooses crops, with the labels."""
    path = tile_set.root / FILE_NAME
    try:
        rows = read_histogram(tile_set.root, len(tile_set.classes))
    except UserError as error:
        yield Finding(_HISTOGRAM, str(error))
        return
    kept = [*range(len(tile_set.classes)), IGNORE_INDEX]
    hidden = {t for split in tile_set.unlabelled for t in tile_set.splits.get(split, ())}
    for tile_id in sorted(tile_set.tiles.keys() | rows.keys()):
        if (tile_id in rows) != (tile_id in tile_set.tiles and tile_id not in hidden):
            what = "lists" if tile_id in rows else "lacks"
            yield Finding(_HISTOGRAM, f"{path} {what} '{tile_id}'; prepare the data set again")
        elif tile_id in rows and not facts[tile_id].faults:  # said already
            counts = facts[tile_id].counts
            if counts is not None and rows[tile_id].tolist() != counts[kept].tolist():
                text = f"{path} counts other pixels than the label of '{tile_id}' holds; prepare "
                yield Finding(_HISTOGRAM, f"{text}the data set again")
