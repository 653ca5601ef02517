"""Joining the maps of overlapping tiles: one id per object, one scale of depth per source image.

Every tile of a group (the tiles of one source image that are connected by overlaps) is first mapped
on its own, to a *part*. ``utils.mosaic`` then joins the parts. The work is shared: each rank
compares some of the overlaps and writes some of the maps. A joined map carries the digest of all
images of its group, so it counts as missing when a neighbour has changed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from datasets.structure_maps import (
    LARGEST,
    MapRecipe,
    from_levels,
    map_kind,
    map_path,
    read_facts,
    read_map,
    to_levels,
    write_map,
)
from datasets.tile_set import Tile
from utils.distributed import DistContext
from utils.errors import MissingDataError
from utils.mosaic import (
    Alignment,
    Layout,
    align,
    blend,
    join_segments,
    lay_out,
    match_segments,
    overlap_moments,
    overlap_of,
    overlapping_pairs,
    paste,
)
from utils.regions import connected_groups
from utils.threads import write_behind

PARTS = ".parts"  # folder in a store for the maps of tiles that are still to be joined
_NUM_IN_MEMORY = 16  # parts; a tile of a grid and its neighbours are nine
_NUM_WRITERS, _NUM_BEHIND = 2, 4

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Tiles of one source image that are connected by overlaps, at least two."""

    source: str
    tiles: tuple[Tile, ...]  # sorted by id
    layout: Layout = field(repr=False)

    def digest(self, sources: Mapping[str, str]) -> str | None:
        """Return the SHA-256 of the tiles' places and images; None if an image is not known."""
        if not all(tile.id in sources for tile in self.tiles):
            return None
        members = [[asdict(tile), sources[tile.id]] for tile in self.tiles]
        return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()


def find_groups(tiles: Sequence[Tile]) -> list[Group]:
    """Return all groups of a data set, by their first tile; tiles without overlap are in none."""
    by_source: dict[str, list[Tile]] = {}
    for tile in sorted(tiles, key=lambda tile: tile.id):
        by_source.setdefault(tile.source, []).append(tile)
    groups = []
    for source, members in by_source.items():
        labels = connected_groups(len(members), overlapping_pairs(members))
        for label in np.flatnonzero(np.bincount(labels) > 1):
            chosen = tuple(members[index] for index in np.flatnonzero(labels == label))
            groups.append(Group(source, chosen, lay_out(chosen)))
    return sorted(groups, key=lambda group: group.tiles[0].id)


@dataclass(frozen=True)
class _Solution:
    """Solution that joins the parts of a group."""

    facts: dict[str, Any]  # written into every map of the group
    tables: Sequence[np.ndarray] = ()  # for segments: for each part, its id -> id in the image
    alignment: Alignment | None = None  # for values: scales and shifts of the parts


class _Parts:
    """Parts of a store, with a cache of the last few."""

    def __init__(self, folder: Path, sources: Mapping[str, str], recipe: MapRecipe) -> None:
        self._folder, self._sources, self._recipe = folder / PARTS, sources, recipe
        self.read = lru_cache(_NUM_IN_MEMORY)(self._read)

    def facts(self, tile: Tile) -> dict[str, Any]:
        found = read_facts(self._folder, tile.id, self._sources[tile.id], self._recipe)
        if found is None:
            path = map_path(self._folder, tile.id)
            raise MissingDataError(
                f"{path} was deleted or changed while the maps were joined; run the same command "
                "again, in one process or one torchrun at a time"
            )
        return found

    def _read(self, tile: Tile) -> np.ndarray:
        """Read a part's ids, ``(H, W)`` int32, or its values, ``(H, W)`` float32 or NaN."""
        levels = read_map(map_path(self._folder, tile.id))
        if map_kind(self._recipe.generator) == "segments":
            return levels.astype(np.int32)
        ends = self.facts(tile)["range"] or (0.0, 0.0)  # no pixel holds data
        return from_levels(levels, *ends).astype(np.float32)


def join_groups(
    groups: Sequence[Group],
    folder: Path,
    recipe: MapRecipe,
    sources: Mapping[str, str],
    dist: DistContext,
) -> dict[int, str]:
    """Write the joined maps of groups that have all their parts. Call on all ranks.

    Args:
        groups: the same on every rank.
        folder: the store; its parts are in ``.parts``.
        recipe: recipe of its maps.
        sources: tile id -> SHA-256 of its image file.
        dist: this process.

    Returns:
        Index of a group -> reason why it cannot be joined; the same on every rank.
    """
    parts = _Parts(folder, sources, recipe)
    pairs = [(g, pair) for g, group in enumerate(groups) for pair in group.layout.pairs]
    is_segments = map_kind(recipe.generator) == "segments"
    compare = match_segments if is_segments else overlap_moments
    # Each rank compares its overlaps; all ranks then know all comparisons.
    ours: list[dict[tuple[int, int], np.ndarray]] = [{} for _ in groups]
    for g, (i, j) in _share(pairs, dist):
        one, other = groups[g].tiles[i], groups[g].tiles[j]
        part, other_part = overlap_of(one, other)
        ours[g][i, j] = compare(parts.read(one)[part], parts.read(other)[other_part])
    gathered = dist.gather(ours)
    found = [{key: f for each in gathered for key, f in each[g].items()} for g in range(len(ours))]
    # One rank solves for all: another machine might round differently.
    solved = list(map(_solve, groups, found, repeat(parts))) if dist.is_main else []
    solved = dist.gather(solved)[0]
    solutions = {g: each for g, each in enumerate(solved) if isinstance(each, _Solution)}
    places = _share([(g, i) for g in solutions for i in range(len(groups[g].tiles))], dist)
    with (
        write_behind(num_threads=_NUM_WRITERS, behind=_NUM_BEHIND) as write_later,
        rank_progress(len(places), f"{folder.name}: joining", dist) as bar,
    ):
        for g, i in places:
            tile = groups[g].tiles[i]
            facts = {"group": groups[g].digest(sources), **solutions[g].facts}
            before = read_facts(folder, tile.id, sources[tile.id], recipe) or {}
            if before.get("group") != facts["group"]:
                levels = _render(groups[g], i, solutions[g], parts)
                write_later(write_map, folder, tile.id, levels, sources[tile.id], recipe, facts)
            bar.update()
    dist.barrier()
    return {g: reason for g, reason in enumerate(solved) if isinstance(reason, str)}


def rank_progress(num_ours: int, text: str, dist: DistContext) -> tqdm:
    """Return a bar over this rank's tiles times the number of ranks, shown by the main rank."""
    scale = dist.world_size if dist.world_size > 1 else False
    off = not dist.is_main or num_ours == 0
    return tqdm(total=num_ours, desc=text, unit="tile", unit_scale=scale, smoothing=0, disable=off)


def _share(jobs: list[T], dist: DistContext) -> list[T]:
    """Return this rank's share as one contiguous run: neighbours need the same parts."""
    first, last = (len(jobs) * rank // dist.world_size for rank in (dist.rank, dist.rank + 1))
    return jobs[first:last]


def _solve(
    group: Group, compared: Mapping[tuple[int, int], np.ndarray], parts: _Parts
) -> _Solution | str:
    """Return the solution of a group, or the reason why there is none."""
    facts = [parts.facts(tile) for tile in group.tiles]
    if "range" not in facts[0]:
        tables = join_segments([each["num_segments"] for each in facts], compared)
        num_segments = max(int(table.max()) for table in tables)
        if num_segments > LARGEST:
            return (
                f"the {len(facts)} tiles of source image '{group.source}' have {num_segments} "
                f"segments together, a 16-bit map holds {LARGEST}; set "
                "structure.sam.join_tiles=false, or settings that give larger segments"
            )
        return _Solution({"num_segments": num_segments}, tables=tables)
    # Tiles that share no pixel with data are not comparable.
    alignment = align({pair: of for pair, of in compared.items() if of[0]}, len(facts))
    ends = np.array([each["range"] or (np.nan, np.nan) for each in facts])
    ends = ends * alignment.scale[:, np.newaxis] + alignment.shift[:, np.newaxis]
    ends = ends[~np.isnan(ends)]
    low, high = (float(ends.min()), float(ends.max())) if ends.size else (0.0, 0.0)
    residual = alignment.residual / max(high - low, 1e-12)
    return _Solution({"range": [low, high], "residual": float(residual)}, alignment=alignment)


def _render(group: Group, index: int, solution: _Solution, parts: _Parts) -> np.ndarray:
    """Return the joined map of one tile, ``(H, W)`` uint16."""
    needed = (index, *group.layout.neighbours[index])
    maps = {i: parts.read(group.tiles[i]) for i in needed}
    if solution.alignment is None:
        return paste(group.layout, index, maps, solution.tables).astype(np.uint16)
    aligned = {i: solution.alignment.apply(i, values) for i, values in maps.items()}
    return to_levels(blend(group.layout, index, aligned), *solution.facts["range"])
