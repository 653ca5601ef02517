"""The engine of generate.py: what is computed together, written once, and told of at the end."""

import errno
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import structure_generation as generation
from datasets.rasters import write_raster
from datasets.structure_generation import Shard
from datasets.structure_maps import from_levels, map_path, read_facts, read_manifest, read_map
from datasets.tile_set import TileSet
from tests.conftest import single_process
from tests.datasets.fakes import (
    FakeGenerator,
    complete,
    contents,
    fill,
    picture,
    store_of,
    write_cut_set,
)
from utils.errors import DataError, MissingDataError
from utils.files import sha256_of


@pytest.fixture
def tiles(tmp_path: Path) -> TileSet:
    """Ten tiles that do not overlap, called p_y00000_x00000 ... p_y00000_x00288."""
    return write_cut_set(tmp_path / "cut", {"p": picture(32, 320)}, 32, 0)


def ids(tiles: TileSet, *numbers: int) -> set[str]:
    names = sorted(tiles.tiles)
    return {names[number] for number in numbers}


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """The tiles that are written from now on."""
    names: list[str] = []
    real = generation.write_map

    def note(folder, tile_id, *rest):
        names.append(tile_id)
        real(folder, tile_id, *rest)

    monkeypatch.setattr(generation, "write_map", note)
    return names


def test_a_unit_is_computed_whole_and_only_what_is_missing_is_written(tiles, written):
    generator = FakeGenerator("segments", images_per_batch=4)
    folder = complete(tiles, generator, single_process())
    assert generator.batches == [4, 4, 2]
    straight = contents(folder)
    names = sorted(tiles.tiles)
    for number in (1, 2, 9):
        map_path(folder, names[number]).unlink()
    written.clear()
    again = FakeGenerator("segments", images_per_batch=4)
    complete(tiles, again, single_process())
    assert again.batches == [4, 2] and set(written) == ids(tiles, 1, 2, 9)
    assert contents(folder) == straight
    written.clear()
    shutil.copy(tiles.image_path(names[2]), tiles.image_path(names[5]))  # a changed image
    complete(tiles, again, single_process())
    assert set(written) == ids(tiles, 5) and contents(folder) != straight
    assert np.array_equal(*(read_map(map_path(folder, names[number])) for number in (2, 5)))


def test_a_shard_makes_its_units_and_leaves_the_store_unfinished(tiles, written):
    generator = FakeGenerator("segments", images_per_batch=4)
    store, shard = store_of(tiles, "segments"), Shard(index=1, count=2)
    assert fill(store, generator, single_process(), shard) == 6
    assert set(written) == ids(tiles, 0, 1, 2, 3, 8, 9)
    assert fill(store, generator, single_process(), shard) == 0
    with pytest.raises(MissingDataError, match="are missing or not finished"):
        read_manifest(store.folder)
    complete(tiles, generator, single_process())
    fill(store, generator, single_process(), shard)  # does not open it again
    assert read_manifest(store.folder)[1].keys() == tiles.tiles.keys()


def test_a_broken_file_does_not_take_its_batch_along(tiles):
    first = sorted(tiles.tiles)[0]
    path = tiles.image_path(first)
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    tiles.image_path(sorted(tiles.tiles)[5]).unlink()
    generator = FakeGenerator("segments", images_per_batch=4)
    with pytest.raises(DataError) as error:
        complete(tiles, generator, single_process())
    head, *lines = str(error.value).splitlines()
    assert head == (
        "2 of 10 maps could not be made; the others are kept. Repair these and run the same "
        "command again:"
    )
    assert [line.split(":")[0].strip() for line in lines] == sorted(ids(tiles, 0, 5))
    assert generator.batches == [3, 3, 2]
    assert len(list(store_of(tiles, "segments").folder.glob("*.tif"))) == 8
    path.write_bytes(whole)
    shutil.copy(path, tiles.image_path(sorted(tiles.tiles)[5]))
    folder = complete(tiles, generator, single_process())
    assert read_manifest(folder)[1].keys() == tiles.tiles.keys()


def test_an_image_that_cannot_be_mapped_does_not_take_its_batch_along(tiles):
    bad = sorted(tiles.tiles)[1]
    write_raster(tiles.image_path(bad), np.full((32, 32, 3), 255, np.uint8))
    generator = FakeGenerator("segments", images_per_batch=4)
    with pytest.raises(DataError, match=f"1 of 10 .*\n  {bad}: an image that cannot be mapped$"):
        complete(tiles, generator, single_process())
    assert generator.batches == [4, 1, 1, 1, 1, 4, 2]
    assert len(list(store_of(tiles, "segments").folder.glob("*.tif"))) == 9


def test_depth_that_is_no_number_is_named(tiles):
    class Broken(FakeGenerator):
        def _map(self, image):
            depth = super()._map(image)
            depth[3, 3] = np.nan if image[0, 0, 1] == 0 else 0
            return depth

    image = np.zeros((32, 32, 3), np.uint8)
    bad = sorted(tiles.tiles)[0]
    write_raster(tiles.image_path(bad), image)
    with pytest.raises(DataError, match=f"{bad}: its depth map is not finite everywhere; take st"):
        complete(tiles, Broken("values"), single_process())


def test_a_depth_map_keeps_its_range(tiles):
    generator = FakeGenerator("values")
    folder = complete(tiles, generator, single_process())
    for tile_id in tiles.tiles:
        image = tiles.read_image(tile_id)
        depth = generator.generate(image)
        source = sha256_of(tiles.image_path(tile_id))
        low, high = read_facts(folder, tile_id, source, store_of(tiles, "values").recipe)["range"]
        assert (low, high) == (depth.min(), depth.max())
        found = from_levels(read_map(map_path(folder, tile_id)), low, high)
        assert np.abs(found - depth).max() <= (high - low) / 131068 * 1.001


def test_what_killed_processes_left_is_cleared(tiles):
    store = store_of(tiles, "segments")
    store.parts.mkdir(parents=True)
    (store.folder / ".a.tif.99.partial").touch()
    (store.parts / ".b.tif.99.partial").touch()
    complete(tiles, FakeGenerator("segments"), single_process())
    assert not [path for path in store.folder.rglob(".*")]


def test_ctrl_c_ends_the_run_and_nothing_half_written_stays(tiles):
    class Interrupted(FakeGenerator):
        def generate_batch(self, images):
            if len(self.batches) == 3:
                raise KeyboardInterrupt
            return super().generate_batch(images)

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        complete(tiles, Interrupted("segments", 2), single_process())
    folder = store_of(tiles, "segments").folder
    names = [path.name for path in folder.iterdir() if path.name != "manifest.json"]
    assert 4 <= len(names) <= 6 and all(name.endswith(".tif") for name in names)
    for name in names:
        Image.open(folder / name).load()
    assert threading.active_count() == before


@pytest.mark.parametrize("number", [0, 4, 9])
def test_a_full_disk_is_not_lost_in_a_thread(tiles, monkeypatch, number):
    real, (full,) = generation.write_map, ids(tiles, number)

    def write(folder, tile_id, *rest):
        if tile_id == full:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(folder, tile_id, *rest)

    monkeypatch.setattr(generation, "write_map", write)
    with pytest.raises(OSError, match="No space left"):
        complete(tiles, FakeGenerator("segments"), single_process())
    assert not map_path(store_of(tiles, "segments").folder, full).exists()


def test_tiles_are_written_as_they_are_if_they_are_not_to_be_joined(tmp_path):
    tiles = write_cut_set(tmp_path / "cut", {"p": picture(64, 96)}, 40, 10)
    apart = replace(store_of(tiles, "segments"), join=False)
    generator = FakeGenerator("segments")
    fill(apart, generator, single_process())
    for tile_id in tiles.tiles:
        expected = generator.generate(tiles.read_image(tile_id))
        assert np.array_equal(read_map(map_path(apart.folder, tile_id)), expected)
