"""generate.py: complete, repeatable, interruptible, never a mixture."""

import shutil
import sys
from argparse import ArgumentTypeError

import pytest
from PIL import Image

import generate
from datasets.contact_sheets import draw_common_sheet
from datasets.structure_generation import Shard
from datasets.structure_maps import map_path, read_manifest, read_map, store_folder
from datasets.tile_set import open_tile_set
from tests.conftest import make_config, single_process
from tests.datasets.fakes import contents
from utils.errors import DataError, MissingDataError


@pytest.fixture
def tiles(data_root, tmp_path):
    """A copy of the data set without maps."""
    root = tmp_path / "scenes"
    shutil.copytree(data_root, root)
    shutil.rmtree(root / "modalities")
    return open_tile_set(root)


def run(tiles, *overrides, shard=None):
    config = make_config(tiles.root, tiles.root.parent, *overrides)
    generate.generate_store(config, "superpixels", tiles, single_process(), shard)
    return store_folder(tiles.root, "superpixels")


def test_a_store_holds_every_map_and_is_not_overwritten_with_other_settings(tiles):
    folder = run(tiles)
    recipe, sources = read_manifest(folder)
    assert recipe.generator == "superpixels" and recipe.settings["segment_size_px"] == 8
    assert sources.keys() == tiles.tiles.keys()
    for tile_id in tiles.tiles:
        ids = read_map(map_path(folder, tile_id))
        assert ids.shape == (96, 96) and ids.min() == 1
    assert (folder / "contact_sheet.png").is_file()
    before = contents(folder)
    with pytest.raises(DataError, match=r"settings\.segment_size_px: 12 \| 8.*generate\.py"):
        run(tiles, "structure.superpixels.segment_size_px=12")
    assert contents(folder) == before


def test_shards_say_what_is_next_and_the_last_run_finishes(tiles, capsys):
    for index in (1, 2):
        folder = run(tiles, shard=Shard(index=index, count=2))
        assert capsys.readouterr().out == (
            f"{folder}: shard {index} of 2 is complete, 6 maps made; when all shards are, run the "
            "same command without --shard to finish the store\n"
        )
        assert not (folder / "contact_sheet.png").exists()
        with pytest.raises(MissingDataError, match="are missing or not finished"):
            read_manifest(folder)
    finished = contents(run(tiles))
    run(tiles, shard=Shard(index=1, count=2))  # does not open the store again
    assert contents(folder) == finished


def test_a_shard_is_one_of_several():
    assert generate.parse_shard("3/8") == Shard(index=3, count=8)
    for text in ("0/3", "4/3", "1", "/", "a/b", "1/2/3", "-1/2", "1.0/2"):
        with pytest.raises(ArgumentTypeError, match=f"must be I/N .* 3/8, not '{text}'"):
            generate.parse_shard(text)


def test_a_sheet_shows_each_modality_in_a_column(tiles, data_root, tmp_path):
    run(tiles)
    one = make_config(tiles.root, tmp_path).structure
    assert draw_common_sheet(tiles, one) is None
    three = "structure.modalities=[superpixels,height,not_imported]"
    several = make_config(tiles.root, tmp_path, three).structure
    assert draw_common_sheet(tiles, several) is None  # no height yet
    shutil.copytree(store_folder(data_root, "height"), store_folder(tiles.root, "height"))
    sheet = draw_common_sheet(tiles, several)
    assert sheet == tiles.root / "modalities" / "contact_sheet.png"
    with Image.open(sheet) as image:
        assert 3 * 256 < image.width < 4 * 256


def test_download_is_asked_for_before_anything_else(tmp_path, recipe_path, monkeypatch):
    asked = []
    monkeypatch.setattr(generate, "fetch_generator_weights", asked.append)
    monkeypatch.setattr(sys, "argv", ["generate.py", "--config", str(recipe_path), "--download"])
    monkeypatch.setattr(generate, "open_tile_set", lambda root: asked.append(root) or exit(0))
    with pytest.raises(SystemExit):
        generate.main()
    assert [type(item).__name__ for item in asked] == ["StructureConfig", "PosixPath"]
