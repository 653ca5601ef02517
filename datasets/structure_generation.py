"""Generation of the missing maps of a store; restartable, and shared by ranks and shards.

Tiles are computed in *units*, fixed runs of the sorted tile list. A unit is always computed whole,
whichever maps exist and whichever process computes it, so the members of a batch depend neither on
the past nor on the number of processes; only missing maps are written. Each map is written at once
and whole, so a killed run loses only what it was computing.

Tiles that are to be joined with their neighbours are written to ``STORE/.parts`` first, see
``datasets.structure_joining``. The manifest is written last.
"""

import shutil
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.structure_joining import PARTS, Group, find_groups, join_groups, rank_progress
from datasets.structure_maps import (
    MapRecipe,
    begin_store,
    check_recipe,
    finish_map,
    map_path,
    read_facts,
    write_manifest,
    write_map,
)
from datasets.tile_set import TileSet
from utils.distributed import DistContext
from utils.errors import DataError, UserError
from utils.files import remove_partial, sha256_of
from utils.threads import read_ahead, write_behind

_NUM_READERS, _NUM_WRITERS = 2, 2  # threads beside the computation
_NUM_CHECKERS = 8

# Images (H, W, 3) uint8 -> their maps: (H, W) uint16 segment ids, (H, W) float32 values, or
# (K, gh, gw) uint8 levels of cells.
GenerateBatch = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
Made = tuple[np.ndarray, dict[str, Any]]  # a map as ``write_map`` takes it, and its facts


@dataclass(frozen=True, kw_only=True)
class Store:
    """A store that is to hold a map of every tile."""

    tile_set: TileSet
    folder: Path
    recipe: MapRecipe
    join: bool  # join overlapping tiles of a source image

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
class _Image:
    """An image that a map is made of."""

    pixels: np.ndarray  # (H, W, 3) uint8 RGB
    valid: np.ndarray | None  # (H, W) bool, the pixels that hold data; None: all of them
    source: str  # SHA-256 of its file


@dataclass(frozen=True)
class _TileState:
    """State of a tile on disk."""

    source: str  # SHA-256 of its image
    map: dict[str, Any] | None  # facts of its map; None: no map of this image and recipe
    part: dict[str, Any] | None  # likewise of its part


@dataclass(frozen=True)
class _Plan:
    """Work that is left for all ranks."""

    units: list[list[str]]  # units with a pending tile
    pending: set[str]  # tiles whose map, or part, is missing
    groups: list[Group]  # groups that are not joined
    to_join: set[str]  # their tiles
    sources: dict[str, str]  # tile -> SHA-256 of its image, where known


def complete_store(
    store: Store,
    generate_batch: GenerateBatch,
    dist: DistContext,
    *,
    images_per_batch: int,
    shard: Shard | None = None,
) -> int:
    """Make all missing maps and finish the store. Call on all ranks, which share the work.

    Args:
        store: the store.
        generate_batch: computes maps; raises ``UserError`` for images that have none.
        dist: this process.
        images_per_batch: tiles in a unit.
        shard: restricts the work to some of the units, and leaves the store unfinished.

    Returns:
        Number of maps (or parts of joined ones) made by all ranks.

    Raises:
        DataError: the store was begun with other settings, or some maps could not be made.
    """
    if dist.is_main:
        check_recipe(store.folder, asdict(store.recipe))
    tile_ids = sorted(store.tile_set.tiles)
    firsts = range(0, len(tile_ids), images_per_batch)
    units = [tile_ids[first : first + images_per_batch] for first in firsts]
    if shard is not None:
        units = units[shard.index - 1 :: shard.count]
    all_groups = find_groups(list(store.tile_set.tiles.values())) if store.join else []
    plan = _make_plan(store, units, all_groups, dist)
    if dist.is_main and (plan.units or (plan.groups and shard is None)):
        begin_store(store.folder, store.recipe)  # from now on the store is refused as unfinished
    dist.barrier()
    made, failures = _make_maps(store, generate_batch, plan, 2 * images_per_batch, dist)
    sources = plan.sources | made
    num_failed = len(failures)
    if shard is None:
        complete = [g for g in plan.groups if not any(tile.id in failures for tile in g.tiles)]
        unjoined = join_groups(complete, store.folder, store.recipe, sources, dist)
        for index, text in unjoined.items():
            failures[complete[index].source] = text
            num_failed += len(complete[index].tiles)
    if failures:
        lines = "".join(f"\n  {name}: {text}" for name, text in sorted(failures.items()))
        raise DataError(
            f"{num_failed} of {len(tile_ids)} maps could not be made; the others are kept. Repair "
            f"these and run the same command again:{lines}"
        )
    if shard is None and dist.is_main:
        _finish(store, all_groups, sources)
    return len(made)


def _make_plan(
    store: Store, units: Sequence[list[str]], all_groups: Sequence[Group], dist: DistContext
) -> _Plan:
    """Find the work that is left in these units. Call on all ranks."""
    # The state of a tile depends on the tiles that it is joined with, in these units or not.
    needed = set(chain(*units))
    for group in all_groups:
        members = {tile.id for tile in group.tiles}
        if not needed.isdisjoint(members):
            needed |= members
    states = _read_states(store, sorted(needed), dist)
    sources = {tile_id: state.source for tile_id, state in states.items()}

    def is_joined(group: Group) -> bool:
        digest = group.digest(sources)
        return digest is not None and all(
            (states[tile.id].map or {}).get("group") == digest for tile in group.tiles
        )

    groups = [group for group in all_groups if not is_joined(group)]
    to_join = {tile.id for group in groups for tile in group.tiles}
    facts = {t: state.part if t in to_join else state.map for t, state in states.items()}
    pending = {t for t in chain(*units) if facts.get(t) is None}
    pending_units = [unit for unit in units if not pending.isdisjoint(unit)]
    return _Plan(pending_units, pending, groups, to_join, sources)


def _read_states(store: Store, tile_ids: Sequence[str], dist: DistContext) -> dict[str, _TileState]:
    """Return the states of tiles; those without any map or part are left out. Call on all ranks."""

    def read(tile_id: str) -> _TileState | None:
        image = store.tile_set.image_path(tile_id)
        files = (map_path(store.folder, tile_id), map_path(store.parts, tile_id))
        if not image.is_file() or not any(file.is_file() for file in files):
            return None
        source = sha256_of(image)
        folders = (store.folder, store.parts)
        facts = [read_facts(folder, tile_id, source, store.recipe) for folder in folders]
        return _TileState(source, *facts)

    ours, name = tile_ids[dist.rank :: dist.world_size], f"{store.folder.name}: checking"
    with ThreadPoolExecutor(_NUM_CHECKERS) as pool:
        states = tqdm(pool.map(read, ours), name, len(ours), leave=False, disable=not dist.is_main)
        found = {t: state for t, state in zip(ours, states, strict=True) if state is not None}
    return dict(ChainMap(*dist.gather(found)))


def _make_maps(
    store: Store, generate_batch: GenerateBatch, plan: _Plan, ahead: int, dist: DistContext
) -> tuple[dict[str, str], dict[str, str]]:
    """Make and write the maps of pending tiles. Call on all ranks.

    Returns:
        Tile -> SHA-256 of its image, and tile -> reason of its failure; of all ranks.
    """
    units = plan.units[dist.rank :: dist.world_size]
    sources: dict[str, str] = {}
    failures: dict[str, str] = {}

    def read(tile_id: str) -> _Image | str:  # or the reason of its failure
        try:
            pixels = store.tile_set.read_image(tile_id)
            valid = store.tile_set.read_valid(tile_id)
        except UserError as error:
            return str(error)
        return _Image(pixels, valid, sha256_of(store.tile_set.image_path(tile_id)))

    reading = read_ahead(read, chain(*units), num_threads=_NUM_READERS, ahead=ahead)
    num_pending = len(plan.pending.intersection(chain(*units)))
    with (
        closing(reading),
        write_behind(num_threads=_NUM_WRITERS, behind=ahead) as write_later,
        rank_progress(num_pending, store.folder.name, dist) as bar,
    ):
        for unit in units:
            found = dict(zip(unit, islice(reading, len(unit)), strict=True))
            failures |= {t: reason for t, reason in found.items() if isinstance(reason, str)}
            images = {t: image for t, image in found.items() if not isinstance(image, str)}
            results = _generate(generate_batch, [*images.values()], store.recipe.generator)
            for (tile_id, image), made in zip(images.items(), results, strict=True):
                if tile_id not in plan.pending:
                    continue
                if isinstance(made, str):
                    failures[tile_id] = made
                    continue
                sources[tile_id] = image.source
                folder = store.parts if tile_id in plan.to_join else store.folder
                levels, facts = made
                write_later(write_map, folder, tile_id, levels, image.source, store.recipe, facts)
            bar.update(len(plan.pending.intersection(unit)))
    each_sources, each_failures = zip(*dist.gather((sources, failures)), strict=True)
    return dict(ChainMap(*each_sources)), dict(ChainMap(*each_failures))


def _generate(
    generate_batch: GenerateBatch, images: Sequence[_Image], generator: str
) -> list[Made | str]:
    """Return the map of each image as it is written, or the reason of its failure."""
    if not images:
        return []
    try:
        made = generate_batch([image.pixels for image in images])
        return [
            finish_map(each, generator, image.valid)
            for each, image in zip(made, images, strict=True)
        ]
    except UserError as error:
        if len(images) == 1:
            return [str(error)]
        # One by one, to find the image that failed.
        return [_generate(generate_batch, [image], generator)[0] for image in images]


def _finish(store: Store, groups: Sequence[Group], sources: Mapping[str, str]) -> None:
    """Write the manifest and delete intermediate files."""
    joined = []
    for group in groups:
        first = group.tiles[0].id
        facts = read_facts(store.folder, first, sources[first], store.recipe) or {}
        about = {key: value for key, value in facts.items() if key != "group"}
        joined.append({"source": group.source, "num_tiles": len(group.tiles), **about})
    shutil.rmtree(store.parts, ignore_errors=True)
    remove_partial(store.folder)
    write_manifest(store.folder, store.recipe, dict(sorted(sources.items())), joined)
