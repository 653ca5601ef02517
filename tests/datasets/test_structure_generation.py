"""The engine of generate.py: what is computed together, written once, and told of at the end."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.rasters import write_raster
from datasets.structure_maps import map_path, read_manifest, read_map, store_folder
from datasets.tile_set import TileSet, valid_path
from generate import generate_store
from tests.conftest import make_config, single_process
from tests.datasets.fakes import (
    FakeGenerator,
    complete,
    contents,
    depth_of,
    fill,
    inodes,
    picture,
    store_of,
    whole_map,
    write_cut_set,
)
from utils.errors import DataError


@pytest.fixture
def tiles(tmp_path: Path) -> TileSet:
    """Ten tiles that do not overlap, called p_y00000_x00000 ... p_y00000_x00288."""
    return write_cut_set(tmp_path / "cut", {"p": picture(32, 320)}, 32, 0)


def test_a_unit_is_computed_whole_and_only_what_is_missing_is_written(tiles):
    generator = FakeGenerator("segments", images_per_batch=4)
    folder = complete(tiles, generator, single_process())
    assert generator.batches == [4, 4, 2]
    straight = contents(folder)
    names = sorted(tiles.tiles)
    for number in (1, 2, 9):
        map_path(folder, names[number]).unlink()
    kept = inodes(folder)
    again = FakeGenerator("segments", images_per_batch=4)
    complete(tiles, again, single_process())
    assert again.batches == [4, 2] and kept.items() < inodes(folder).items()
    assert contents(folder) == straight
    kept = inodes(folder)
    shutil.copy(tiles.image_path(names[2]), tiles.image_path(names[5]))  # a changed image
    complete(tiles, again, single_process())
    assert contents(folder) != straight
    assert {path.stem for path, _ in kept.items() - inodes(folder).items()} == {names[5]}
    assert np.array_equal(*(read_map(map_path(folder, names[number])) for number in (2, 5)))


def test_a_broken_file_does_not_take_its_batch_along(tiles):
    names = [sorted(tiles.tiles)[number] for number in (0, 5, 8)]
    first, missing, unmappable = map(tiles.image_path, names)
    whole = first.read_bytes()
    first.write_bytes(whole[:200])
    missing.unlink()
    write_raster(unmappable, np.full((32, 32, 3), 255, np.uint8))
    generator = FakeGenerator("segments", images_per_batch=4)
    with pytest.raises(DataError) as error:
        complete(tiles, generator, single_process())
    head, *lines = str(error.value).splitlines()
    assert head.startswith("3 of 10 maps could not be made; the others are kept. Repair these and")
    assert [line.split(":")[0].strip() for line in lines] == names
    assert lines[2].endswith(": an image that cannot be mapped")
    assert generator.batches == [3, 3, 2, 1, 1]  # one by one, to find the image that failed
    assert len(list(store_of(tiles, "segments").folder.glob("*.tif"))) == 7
    for path in (first, missing, unmappable):
        path.write_bytes(whole)
    folder = complete(tiles, generator, single_process())
    assert read_manifest(folder)[1].keys() == tiles.tiles.keys()


def test_what_killed_processes_left_is_cleared(tiles):
    store = store_of(tiles, "segments")
    store.parts.mkdir(parents=True)
    (store.folder / ".a.tif.99.partial").touch()
    (store.parts / ".b.tif.99.partial").touch()
    complete(tiles, FakeGenerator("segments"), single_process())
    assert not [path for path in store.folder.rglob(".*")]


def test_tiles_are_written_as_they_are_if_they_are_not_to_be_joined(tmp_path):
    tiles = write_cut_set(tmp_path / "cut", {"p": picture(64, 96)}, 40, 10)
    apart = replace(store_of(tiles, "segments"), join=False)
    generator = FakeGenerator("segments")
    fill(apart, generator, single_process())
    for tile_id in tiles.tiles:
        (expected,) = generator.generate_batch([tiles.read_image(tile_id)])
        assert np.array_equal(read_map(map_path(apart.folder, tile_id)), expected)


def write_valid(tiles: TileSet, whole: np.ndarray) -> None:
    """Mark pixels of a source as prepare.py does: a file for tiles with pixels without data."""
    for tile in tiles.tiles.values():
        valid = whole[tile.slices]
        if not valid.all():
            write_raster(valid_path(tiles.root, tile.id), valid.astype(np.uint8))


@pytest.mark.parametrize("kind", ["segments", "values"])
def test_no_map_has_anything_in_the_collar_and_joined_ones_agree_elsewhere(tmp_path, kind):
    """Tiles that overlap, one of them empty; the collar of the picture is far from its depths."""
    image, valid = picture(160, 230, 1), np.zeros((160, 230), bool)
    valid[20:130, 90:] = True
    image[~valid] = (255, 255, 7)
    tiles = write_cut_set(tmp_path / "cut", {"p": image}, 64, 24)
    write_valid(tiles, valid)
    assert not all(tiles.read_valid(tile_id) is None for tile_id in tiles.tiles)
    levels = whole_map(tiles, complete(tiles, FakeGenerator(kind), single_process()), "p")
    assert not levels[~valid].any()
    if kind == "values":  # one scale, stretched over the pixels that hold data
        truth = depth_of(image)[valid]
        fit = np.polyval(np.polyfit(truth, levels[valid], 1), truth)
        assert np.abs(levels[valid] - fit).max() < 1e-3 * 65535
        assert levels[valid].min() < 10 and levels[valid].max() > 65525
    else:  # the same objects, whatever their numbers
        pairs = np.unique(np.stack([levels[valid], image[..., 2][valid]]), axis=1).T
        assert len(pairs) == len({*pairs[:, 0]}) == len({*pairs[:, 1]}) > 5


def test_superpixels_end_where_the_data_end(tmp_path):
    image, valid = picture(64, 80, 1), np.ones((64, 80), bool)
    valid[:, :33] = False
    tiles = write_cut_set(tmp_path / "cut", {"p": image}, 128, 0)
    write_valid(tiles, valid)
    config = make_config(tiles.root, tmp_path)
    generate_store(config, "superpixels", tiles, single_process())
    (name,) = tiles.tiles
    ids = read_map(map_path(store_folder(tiles.root, "superpixels"), name))
    assert not ids[~valid].any() and (ids[valid] > 0).all()
