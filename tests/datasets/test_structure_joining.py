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
from datasets.structure_maps import map_path, read_manifest, read_map
from datasets.tile_set import Tile, TileSet
from tests.conftest import single_process
from tests.datasets.fakes import (
    FakeGenerator,
    complete,
    contents,
    depth_of,
    fill,
    kill_while,
    picture,
    store_of,
    whole_map,
    write_cut_set,
)
from utils.distributed import DistContext
from utils.errors import DataError

KINDS = ("segments", "values")


@pytest.fixture
def tiles(tmp_path: Path) -> TileSet:
    """Two pictures of 4 x 5 and 2 x 2 overlapping tiles, and one of a single tile."""
    pictures = {
        "a": picture(330, 400, 1),
        "b": picture(150, 160, 2),
        "c": picture(90, 96, 3),
    }
    return write_cut_set(tmp_path / "cut", pictures, 96, 32)


def original(source: str) -> np.ndarray:
    return {"a": picture(330, 400, 1), "b": picture(150, 160, 2)}[source]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_groups_are_the_overlapping_tiles_of_one_source():
    def tile(name: str, source: str, left: int) -> Tile:
        return Tile(id=name, source=source, top_px=0, left_px=left, height_px=9, width_px=10)

    row = [tile("e", "s", 8), tile("d", "s", 0), tile("c", "s", 18), tile("b", "s", 30)]
    row += [tile("a", "s", 39), tile("f", "t", 0), tile("g", "t", 10)]
    groups = find_groups(row)
    members = [(group.source, [member.id for member in group.tiles]) for group in groups]
    assert members == [("s", ["a", "b"]), ("s", ["d", "e"])]  # c touches e and shares no pixel


def test_the_depth_of_a_picture_has_one_scale_and_no_seam(tiles: TileSet):
    folder = complete(tiles, FakeGenerator("values"), single_process())
    by_source = {entry["source"]: entry for entry in manifest(folder)["joined"]}
    assert by_source.keys() == {"a", "b"} and by_source["a"]["num_tiles"] == 30
    for source, entry in by_source.items():
        levels = whole_map(tiles, folder, source)
        truth = depth_of(original(source))
        fit = np.polyval(np.polyfit(truth.ravel(), levels.ravel(), 1), truth)
        assert np.abs(levels - fit).max() < 1e-3 * 65535
        assert levels.min() < 10 and levels.max() > 65525
        assert entry["residual"] < 1e-4 and entry["range"][0] < entry["range"][1]
    alone = read_map(map_path(folder, "c"))
    assert alone.min() == 1 and alone.max() == 65535


def test_every_blob_has_one_id_and_every_id_one_blob(tiles: TileSet):
    folder = complete(tiles, FakeGenerator("segments"), single_process())
    for source in ("a", "b"):
        ids, blobs = whole_map(tiles, folder, source), original(source)[..., 2]
        pairs = np.unique(np.stack([ids.ravel(), blobs.ravel()]), axis=1)
        assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1] > 5
        assert [0, 0] in pairs.T.tolist()
    (entry, _) = manifest(folder)["joined"]
    assert entry == {"source": "a", "num_tiles": 30, "num_segments": len(np.unique(ids_of(tiles)))}


def ids_of(tiles: TileSet) -> np.ndarray:
    numbers = np.unique(original("a")[..., 2])
    return numbers[numbers > 0]


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
    before = {path.stem: path.stat().st_ino for path in folder.glob("*.tif")}
    assert generator.batches == [4] * 8 + [3] and not (folder / ".parts").exists()
    assert read_manifest(complete(tiles, generator, single_process()))[1].keys() == before.keys()
    assert len(generator.batches) == 9
    assert before == {path.stem: path.stat().st_ino for path in folder.glob("*.tif")}
    shutil.copy(tiles.image_path("b_y00000_x00000"), tiles.image_path("b_y00054_x00064"))
    generator = FakeGenerator(kind)
    complete(tiles, generator, single_process())
    after = {path.stem: path.stat().st_ino for path in folder.glob("*.tif")}
    changed = {tile_id for tile_id in before if before[tile_id] != after[tile_id]}
    assert changed == {tile_id for tile_id in tiles.tiles if tiles.tiles[tile_id].source == "b"}
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
    num_segments = len(ids_of(tiles))
    monkeypatch.setattr(joining, "LARGEST", num_segments - 1)
    with pytest.raises(DataError) as error:
        complete(tiles, FakeGenerator("segments"), single_process())
    head, line = str(error.value).splitlines()
    assert head.startswith("30 of 35 maps could not be made")
    assert line == (
        f"  a: the 30 tiles of source image 'a' have {num_segments} segments together, a 16-bit "
        f"map holds {num_segments - 1}; set structure.sam.join_tiles=false, or settings that give "
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
        found = {path: path.stat().st_ino for path in stores.rglob("[!.]*.tif")}
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
