"""A large picture, mapped tile by tile, comes back whole."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets import structure_joining as joining
from datasets.structure_generation import Shard
from datasets.structure_joining import find_groups
from datasets.structure_maps import map_path, read_map
from datasets.tile_set import TileSet
from tests.conftest import single_process
from tests.datasets.fakes import (
    FakeGenerator,
    complete,
    contents,
    depth_of,
    fill,
    inodes,
    kill_while,
    picture,
    store_of,
    tile_at,
    whole_map,
    write_cut_set,
)
from utils.distributed import DistContext
from utils.errors import DataError

KINDS = ("segments", "values")
PICTURES = {"a": picture(330, 400, 1), "b": picture(150, 160, 2), "c": picture(90, 96, 3)}
NUM_BLOBS = len(np.unique(PICTURES["a"][..., 2])) - 1  # 0 is what lies between them


@pytest.fixture
def tiles(tmp_path: Path) -> TileSet:
    """Two pictures of 5 x 6 and 2 x 2 overlapping tiles, and one of a single tile."""
    return write_cut_set(tmp_path / "cut", PICTURES, 96, 32)


def joined(folder: Path) -> list[dict]:
    return json.loads((folder / "manifest.json").read_text())["joined"]


def test_groups_are_the_overlapping_tiles_of_one_source():
    lefts = {"se": 8, "sd": 0, "sc": 18, "sb": 30, "sa": 39, "tf": 0, "tg": 10}
    row = [tile_at(name, (9, 10), source, 0, left) for (source, name), left in lefts.items()]
    members = [(group.source, [tile.id for tile in group.tiles]) for group in find_groups(row)]
    assert members == [("s", ["a", "b"]), ("s", ["d", "e"])]  # c touches e and shares no pixel


def test_the_depth_of_a_picture_has_one_scale_and_no_seam(tiles: TileSet):
    folder = complete(tiles, FakeGenerator("values"), single_process())
    by_source = {entry["source"]: entry for entry in joined(folder)}
    assert by_source.keys() == {"a", "b"} and by_source["a"]["num_tiles"] == 30
    for source, entry in by_source.items():
        levels = whole_map(tiles, folder, source)
        truth = depth_of(PICTURES[source])
        fit = np.polyval(np.polyfit(truth.ravel(), levels.ravel(), 1), truth)
        assert np.abs(levels - fit).max() < 1e-3 * 65535
        assert levels.min() < 10 and levels.max() > 65525
        assert entry["residual"] < 1e-4 and entry["range"][0] < entry["range"][1]
    alone = read_map(map_path(folder, "c"))
    assert alone.min() == 1 and alone.max() == 65535


def test_every_blob_has_one_id_and_every_id_one_blob(tiles: TileSet):
    folder = complete(tiles, FakeGenerator("segments"), single_process())
    for source in ("a", "b"):
        ids, blobs = whole_map(tiles, folder, source), PICTURES[source][..., 2]
        pairs = np.unique(np.stack([ids.ravel(), blobs.ravel()]), axis=1)
        assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1] > 5
        assert [0, 0] in pairs.T.tolist()
    assert joined(folder)[0] == {"source": "a", "num_tiles": 30, "num_segments": NUM_BLOBS}


@pytest.mark.parametrize("kind", KINDS)
def test_shards_and_a_finishing_run_give_what_one_run_gives(tiles: TileSet, kind: str):
    plain = contents(complete(tiles, FakeGenerator(kind, 4), single_process()))
    shutil.rmtree(tiles.root / "modalities")
    num_made = 0
    for index in (3, 1, 2):
        generator = FakeGenerator(kind, 4)
        shard = Shard(index=index, count=3)
        num_made += fill(store_of(tiles, kind), generator, single_process(), shard)
        assert sum(generator.batches) <= 12
    assert num_made == 35
    generator = FakeGenerator(kind, 4)
    folder = complete(tiles, generator, single_process())
    assert generator.batches == [] and contents(folder) == plain


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_tile_changes_all_that_were_joined_with_it_and_no_other(tiles, kind):
    generator = FakeGenerator(kind, images_per_batch=4)
    folder = complete(tiles, generator, single_process())
    before = inodes(folder)
    assert generator.batches == [4] * 8 + [3] and not (folder / ".parts").exists()
    complete(tiles, generator, single_process())
    assert len(generator.batches) == 9 and before == inodes(folder)
    shutil.copy(tiles.image_path("b_y00000_x00000"), tiles.image_path("b_y00054_x00064"))
    generator = FakeGenerator(kind)
    complete(tiles, generator, single_process())
    changed = {path.stem for path, _ in before.items() - inodes(folder).items()}
    assert changed == {tile.id for tile in tiles.tiles.values() if tile.source == "b"}
    assert len(generator.batches) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_tile_keeps_its_neighbours_parts_and_the_other_pictures(tiles, kind):
    broken = tiles.image_path("b_y00000_x00000")
    whole = broken.read_bytes()
    broken.write_bytes(whole[:500])
    with pytest.raises(DataError, match=r"1 of 35 maps could not be made.*\n  b_y00000_x00000: "):
        complete(tiles, FakeGenerator(kind, 4), single_process())
    folder = store_of(tiles, kind).folder
    assert len(list(folder.glob("*.tif"))) == 31 and len(list(folder.glob(".parts/b*.tif"))) == 3
    broken.write_bytes(whole)
    generator = FakeGenerator(kind, 4)
    complete(tiles, generator, single_process())
    assert len(generator.batches) == 1
    kept = contents(folder)
    shutil.rmtree(folder)
    assert contents(complete(tiles, FakeGenerator(kind, 4), single_process())) == kept


def test_too_many_segments_of_one_picture_are_named_with_the_remedy(tiles, monkeypatch):
    monkeypatch.setattr(joining, "LARGEST", NUM_BLOBS - 1)
    with pytest.raises(DataError) as error:
        complete(tiles, FakeGenerator("segments"), single_process())
    head, line = str(error.value).splitlines()
    assert head.startswith("30 of 35 maps could not be made")
    assert line == (
        f"  a: the 30 tiles of source image 'a' have {NUM_BLOBS} segments together, a 16-bit "
        f"map holds {NUM_BLOBS - 1}; set structure.sam.join_tiles=false, or settings that give "
        "larger segments"
    )


def complete_both(dist: DistContext, tiles: TileSet, seconds: float = 0) -> dict[str, bytes]:
    for kind in KINDS:
        complete(tiles, FakeGenerator(kind, 2, seconds), dist)
    return contents(tiles.root / "modalities")


def test_kills_between_parts_and_joined_maps_change_nothing(tiles: TileSet):
    plain = complete_both(single_process(), tiles)
    stores = tiles.root / "modalities"
    shutil.rmtree(stores)
    rng, kept = random.Random(0), {}
    # Parts, and maps, in a store when it is killed: there are 35 parts when joining begins.
    for kind, num_maps in (("segments", 3), ("segments", 50), ("values", 36)):
        where = {"folder": stores / kind, "num_maps": num_maps, "delay_s": rng.uniform(0, 0.02)}
        kill_while(complete_both, single_process(), tiles, 0.02, **where)
        found = inodes(stores)
        assert all(found.get(path, inode) == inode for path, inode in kept.items())
        kept = found
    assert complete_both(single_process(), tiles) == plain
    done = [path for path in kept if path.exists()]
    assert len(done) > 10 and all(path.stat().st_ino == kept[path] for path in done)


def test_two_ranks_give_what_one_gives(tiles: TileSet, ranks):
    plain = complete_both(single_process(), tiles)
    shutil.rmtree(tiles.root / "modalities")
    ranks(complete_both, tiles)
    assert contents(tiles.root / "modalities") == plain
