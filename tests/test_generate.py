"""generate.py: complete, repeatable, interruptible, never a mixture."""

import shutil

import numpy as np
import pytest

import generate
from datasets.modalities import map_path, read_manifest, read_map, store_folder
from datasets.tiles import open_tile_set
from tests.conftest import make_config, single_process
from utils.errors import DataError, MissingDataError


@pytest.fixture
def tiles(data_root, tmp_path):
    """A copy of the data set without maps."""
    root = tmp_path / "scenes"
    shutil.copytree(data_root, root)
    shutil.rmtree(root / "modalities")
    return open_tile_set(root)


def run(tiles, *overrides):
    config = make_config(tiles.root, tiles.root.parent, *overrides)
    generate.generate_store(config, "superpixels", tiles, single_process())
    return store_folder(tiles.root, "superpixels")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_holds_a_total_map_of_every_tile_and_its_manifest(tiles):
    folder = run(tiles)
    recipe, sources = read_manifest(folder)
    assert recipe.generator == "superpixels" and recipe.settings["segment_size_px"] == 8
    assert sources.keys() == tiles.tiles.keys()
    for tile_id in tiles.tiles:
        ids = read_map(map_path(folder, tile_id))
        assert ids.shape == (96, 96) and ids.min() == 1
    assert (folder / "contact_sheet.png").is_file()


def test_an_interrupted_run_goes_on_and_ends_byte_for_byte_the_same(tiles, monkeypatch):
    straight = contents(run(tiles))
    shutil.rmtree(tiles.root / "modalities")
    calls = []
    real = generate.write_map

    def interrupted(*arguments):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(arguments[1])
        real(*arguments)

    monkeypatch.setattr(generate, "write_map", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tiles)
    folder = store_folder(tiles.root, "superpixels")
    with pytest.raises(MissingDataError, match="missing or not finished"):
        read_manifest(folder)
    again = []
    monkeypatch.setattr(generate, "write_map", lambda *a: (again.append(a[1]), real(*a)))
    run(tiles)
    assert not set(again) & set(calls) and len(again) + len(calls) == len(tiles.tiles)
    assert contents(folder) == straight


def test_other_settings_in_an_existing_store_are_refused_and_nothing_is_lost(tiles):
    folder = run(tiles)
    before = contents(folder)
    with pytest.raises(DataError, match=r"settings\.segment_size_px: 12 \| 8.*generate\.py"):
        run(tiles, "structure.superpixels.segment_size_px=12")
    assert contents(folder) == before


def test_a_changed_image_is_generated_again_and_only_that(tiles, monkeypatch):
    folder = run(tiles)
    first, second, *_ = tiles.tiles
    shutil.copy(tiles.image_path(second), tiles.image_path(first))
    again = []
    real = generate.write_map
    monkeypatch.setattr(generate, "write_map", lambda *a: (again.append(a[1]), real(*a)))
    run(tiles)
    assert again == [first]
    assert np.array_equal(read_map(map_path(folder, first)), read_map(map_path(folder, second)))


def test_a_broken_image_is_named_and_the_others_are_done(tiles):
    first, *others = tiles.tiles
    whole = tiles.image_path(first).read_bytes()
    tiles.image_path(first).write_bytes(whole[:1000])
    with pytest.raises(DataError, match=rf"1 of 12 maps could not be made.*\n  {first}: "):
        run(tiles)
    folder = store_folder(tiles.root, "superpixels")
    assert all(map_path(folder, tile_id).is_file() for tile_id in others)
    tiles.image_path(first).write_bytes(whole)
    run(tiles)
    assert read_manifest(folder)[1].keys() == tiles.tiles.keys()
