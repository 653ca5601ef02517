"""Completing a store: which maps are open, who makes them, and what a kill leaves behind.

Tiles are computed in *units*, fixed runs of the sorted tile list. A unit is always computed whole,
whoever does it and whatever is done already, so that what shares a batch never depends on the past
or on the number of processes; only maps that are missing are written. Each map is written at once
and whole, so a killed run loses what it was computing, and nothing else.

Tiles that are to be joined with their neighbours go to ``STORE/.parts`` first; see
``datasets.structure_joining``. The manifest comes last.
"""

import shutil
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from datasets.structure_joining import PARTS, Group, find_groups, join_groups
from datasets.structure_maps import (
    MapRecipe,
    begin_store,
    check_recipe,
    depth_levels,
    holds_values,
    map_path,
    read_facts,
    write_manifest,
    write_map,
)
from datasets.tile_set import TileSet
from utils.distributed import DistContext
from utils.errors import DataError, UserError
from utils.files import remove_partial, sha256_of
from utils.progress import file_progress
from utils.threads import WriteBehind, read_ahead

_NUM_READERS, _NUM_WRITERS = 2, 2  # threads beside the computation
_NUM_CHECKERS = 8


class MapMaker(Protocol):
    """What is needed of a generator (``models.structure.build.StructureGenerator``)."""

    @property
    def images_per_batch(self) -> int:
        """Tiles of a unit."""

    def generate_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Maps of several images."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """A store that is to hold a map of every tile."""

    tile_set: TileSet
    folder: Path
    recipe: MapRecipe  # how the maps are made
    join: bool  # overlapping tiles of one source image are joined

    @property
    def parts(self) -> Path:
        """Folder of the maps that are still to be joined."""
        return self.folder / PARTS


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several independent runs that share a store."""

    index: int  # from 1
    count: int


@dataclass(frozen=True)
class _State:
    """What is there of a tile."""

    source: str  # SHA-256 of its image
    facts: dict[str, Any] | None  # of its map; None: none of this image and recipe
    has_part: bool


@dataclass(frozen=True)
class _Image:
    """A tile's image."""

    tile_id: str
    pixels: np.ndarray  # (H, W, 3) uint8 RGB
    source: str  # SHA-256 of its file


Made = tuple[np.ndarray, dict[str, Any]]  # (H, W) uint16 ids or levels, and facts


def complete_store(
    store: Store, maker: MapMaker, dist: DistContext, shard: Shard | None = None
) -> int:
    """Make all maps that are missing, and finish the store. Call on all ranks; they share the work.

    Args:
        store: what is to be there.
        maker: makes the maps.
        dist: this process.
        shard: make this share of the tiles only, and leave the store unfinished.

    Returns:
        How many maps (or parts of joined ones) all ranks made.

    Raises:
        DataError: the store was begun with other settings, or some maps could not be made.
    """
    if dist.is_main:
        check_recipe(store.folder, store.recipe)
    tile_ids, size = sorted(store.tile_set.tiles), maker.images_per_batch
    units = [tile_ids[i : i + size] for i in range(0, len(tile_ids), size)]
    if shard is not None:
        units = units[shard.index - 1 :: shard.count]
    all_groups = find_groups(list(store.tile_set.tiles.values())) if store.join else []
    states = _look(store, _needed(units, all_groups), dist)
    sources = {tile_id: state.source for tile_id, state in states.items()}
    groups = [group for group in all_groups if not _is_joined(group, states, sources)]
    to_join = {tile.id for group in groups for tile in group.tiles}
    open_tiles = {t for t in chain(*units) if _is_open(states.get(t), t in to_join)}
    open_units = [unit for unit in units if not open_tiles.isdisjoint(unit)]
    if dist.is_main and (open_units or (groups and shard is None)):
        begin_store(store.folder, store.recipe)  # from now on nobody else can use it
    dist.barrier()
    with _progress(store, open_tiles, to_join, dist):
        made, failures = _make_maps(store, maker, open_units, open_tiles, to_join, dist)
    sources |= made
    num_failed = len(failures)
    if shard is None:
        complete = [g for g in groups if not any(tile.id in failures for tile in g.tiles)]
        for index, text in _join(store, complete, sources, dist).items():
            failures[complete[index].source] = text
            num_failed += len(complete[index].tiles)
    if failures:
        lines = "".join(f"\n  {name}: {text}" for name, text in sorted(failures.items()))
        raise DataError(
            f"{num_failed} of {len(tile_ids)} maps could not be made; the others are kept. Mend "
            f"these and run the same command again:{lines}"
        )
    if shard is None and dist.is_main:
        _finish(store, all_groups, sources)
    return len(made)


def _needed(units: Sequence[Sequence[str]], groups: Sequence[Group]) -> list[str]:
    """The tiles that must be looked at: those of the units, and what they are to be joined with."""
    needed = set(chain(*units))
    for group in groups:
        members = {tile.id for tile in group.tiles}
        if not needed.isdisjoint(members):
            needed |= members
    return sorted(needed)


def _look(store: Store, tile_ids: Sequence[str], dist: DistContext) -> dict[str, _State]:
    """What is there of each tile; one of which nothing is there is left out. Call on all ranks."""

    def look(tile_id: str) -> _State | None:
        image = store.tile_set.image_path(tile_id)
        files = (map_path(store.folder, tile_id), map_path(store.parts, tile_id))
        if not image.is_file() or not any(file.is_file() for file in files):
            return None
        source = sha256_of(image)
        facts = read_facts(store.folder, tile_id, source, store.recipe)
        part = read_facts(store.parts, tile_id, source, store.recipe)
        return _State(source, facts, part is not None)

    ours, name = tile_ids[dist.rank :: dist.world_size], f"{store.folder.name}: looking"
    with ThreadPoolExecutor(_NUM_CHECKERS) as pool:
        looked = tqdm(pool.map(look, ours), name, len(ours), leave=False, disable=not dist.is_main)
        found = {t: state for t, state in zip(ours, looked, strict=True) if state is not None}
    return {tile_id: state for part in dist.gather(found) for tile_id, state in part.items()}


def _is_joined(group: Group, states: Mapping[str, _State], sources: Mapping[str, str]) -> bool:
    """Whether all its tiles have their joined maps."""
    digest = group.digest(sources)
    if digest is None:
        return False
    return all((states[tile.id].facts or {}).get("group") == digest for tile in group.tiles)


def _is_open(state: _State | None, is_to_join: bool) -> bool:
    """Whether a tile's map is to be made, or its part."""
    if state is None:
        return True
    return not state.has_part if is_to_join else state.facts is None


def _progress(
    store: Store, open_tiles: Collection[str], to_join: Collection[str], dist: DistContext
) -> AbstractContextManager[None]:
    """A bar over the maps and parts that all processes make, on the main rank."""
    if not dist.is_main:
        return nullcontext()
    stale = [map_path(store.folder, tile_id) for tile_id in {*open_tiles, *to_join}]
    stale += [map_path(store.parts, tile_id) for tile_id in open_tiles]
    names = [map_path(store.folder, tile_id).name for tile_id in store.tile_set.tiles]
    return file_progress([store.folder, store.parts], names, stale, store.folder.name)


def _make_maps(
    store: Store,
    maker: MapMaker,
    open_units: Sequence[Sequence[str]],
    open_tiles: Collection[str],
    to_join: Collection[str],
    dist: DistContext,
) -> tuple[dict[str, str], dict[str, str]]:
    """Make and write the maps of open tiles. Call on all ranks.

    Returns:
        Tile -> SHA-256 of its image, and tile -> why it has no map; of all ranks.
    """
    units = open_units[dist.rank :: dist.world_size]
    sources: dict[str, str] = {}
    failures: dict[str, str] = {}
    size, values = maker.images_per_batch, holds_values(store.recipe.generator)

    def read(tile_id: str) -> _Image | str:
        try:
            pixels = store.tile_set.read_image(tile_id)
        except UserError as error:
            return str(error)
        return _Image(tile_id, pixels, sha256_of(store.tile_set.image_path(tile_id)))

    reading = read_ahead(read, chain(*units), num_threads=_NUM_READERS, ahead=2 * size)
    with closing(reading), WriteBehind(num_threads=_NUM_WRITERS, behind=2 * size) as writer:
        for unit in units:
            found = dict(zip(unit, islice(reading, len(unit)), strict=True))
            images = [image for image in found.values() if isinstance(image, _Image)]
            failures |= {t: text for t, text in found.items() if isinstance(text, str)}
            results = _generate(maker, [image.pixels for image in images], values)
            for image, made in zip(images, results, strict=True):
                if image.tile_id not in open_tiles:
                    continue
                if isinstance(made, str):
                    failures[image.tile_id] = made
                    continue
                sources[image.tile_id] = image.source
                folder = store.parts if image.tile_id in to_join else store.folder
                levels, facts = made
                job = (folder, image.tile_id, levels, image.source, store.recipe, facts)
                writer.call(write_map, *job)
    gathered = dist.gather((sources, failures))
    sources = {tile_id: digest for part, _ in gathered for tile_id, digest in part.items()}
    return sources, {tile_id: text for _, part in gathered for tile_id, text in part.items()}


def _generate(maker: MapMaker, images: Sequence[np.ndarray], values: bool) -> list[Made | str]:
    """The map of each image, or why there is none."""
    if not images:
        return []
    try:
        return [_as_map(made, values) for made in maker.generate_batch(images)]
    except UserError as error:
        if len(images) == 1:
            return [str(error)]
        return [_generate(maker, [image], values)[0] for image in images]  # which one it was


def _as_map(made: np.ndarray, values: bool) -> Made:
    """What is written of what a generator made."""
    if not values:
        return made, {"num_segments": int(made.max())}
    levels, ends = depth_levels(made)
    return levels, {"range": ends}


def _join(
    store: Store, groups: Sequence[Group], sources: Mapping[str, str], dist: DistContext
) -> dict[int, str]:
    """Join groups that have all their parts: which ones cannot be, and why. Call on all ranks."""
    if not groups:
        return {}
    watch: AbstractContextManager[None] = nullcontext()
    if dist.is_main:
        paths = [map_path(store.folder, tile.id) for group in groups for tile in group.tiles]
        names = [path.name for path in paths]
        watch = file_progress([store.folder], names, paths, f"{store.folder.name}: joining")
    with watch:
        return join_groups(groups, store.folder, store.recipe, sources, dist)


def _finish(store: Store, groups: Sequence[Group], sources: Mapping[str, str]) -> None:
    """Write the manifest and clear what was needed on the way."""
    joined = []
    for group in groups:
        first = group.tiles[0].id
        facts = read_facts(store.folder, first, sources[first], store.recipe) or {}
        about = {key: value for key, value in facts.items() if key != "group"}
        joined.append({"source": group.source, "num_tiles": len(group.tiles), **about})
    shutil.rmtree(store.parts, ignore_errors=True)
    remove_partial(store.folder)
    write_manifest(store.folder, store.recipe, dict(sorted(sources.items())), joined)
