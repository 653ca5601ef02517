"""What infer.py reads, and how the results are called."""

import re
import shutil
from pathlib import Path

import pytest

from datasets.inputs import Input, find_inputs, submission_names, submission_sizes
from datasets.tile_writer import TileSetWriter
from datasets.tiles import Tile, TileSet, open_tile_set
from tests.datasets.broken import CLASSES, PALETTE, image_of, target_of
from utils.errors import ConfigError, DataError, MissingDataError


def write_tiles(root: Path, *tiles: tuple[str, str, int]) -> TileSet:
    """A test split of tiles with an id, a source and a column."""
    writer = TileSetWriter(
        root, name="toy", classes=CLASSES, palette=PALETTE, origin="", prepared_with={}
    )
    with writer:
        for tile_id, source, left_px in tiles:
            tile = Tile(
                id=tile_id, source=source, top_px=0, left_px=left_px, height_px=8, width_px=8
            )
            writer.add("test", tile, image_of("a"), target_of("a"))
    return open_tile_set(root)


def test_a_split_gives_its_images_under_the_names_of_their_sources(tmp_path):
    tile_set = write_tiles(tmp_path / "set", ("9", "9", 0), ("7", "7", 0))
    assert find_inputs(tile_set.root, tmp_path / "out", "test") == [
        Input(path=tile_set.image_path("7"), result=Path("7.png"), stem="7"),
        Input(path=tile_set.image_path("9"), result=Path("9.png"), stem="9"),
    ]
    assert submission_sizes(tile_set, "test") == {"7.png": (8, 8), "9.png": (8, 8)}


def test_only_the_split_is_read(toy, tmp_path):
    inputs = find_inputs(toy.root, tmp_path, "train")
    assert [item.path for item in inputs] == [toy.image_path("a"), toy.image_path("b")]


@pytest.mark.parametrize("lefts", [(0, 8), (8,)])
def test_images_that_were_cut_are_refused(tmp_path, lefts):
    tiles = [(f"photo_y00000_x{left:05d}", "photo", left) for left in lefts]
    tile_set = write_tiles(tmp_path / "set", *tiles)
    sentence = re.escape(
        f"the images of the split 'test' of {tile_set.root} were cut into tiles (first: "
        f"'{tiles[0][0]}'); prepare the data set with --keep-whole test"
    )
    with pytest.raises(DataError, match=f"^{sentence}$"):
        find_inputs(tile_set.root, tmp_path, "test")
    with pytest.raises(DataError, match=f"^{sentence}$"):
        submission_sizes(tile_set, "test")


def test_a_data_set_without_a_split_is_refused(toy, tmp_path):
    with pytest.raises(
        ConfigError, match=r"say which of its images: --split, e\.g\. --split test$"
    ):
        find_inputs(toy.root, tmp_path, None)


def test_a_folder_with_a_split_is_refused(toy, tmp_path):
    with pytest.raises(MissingDataError, match="images is not a prepared data set"):
        find_inputs(toy.root / "images", tmp_path, "test")
    with pytest.raises(MissingDataError, match="has no split 'night'; it has test, train, val"):
        find_inputs(toy.root, tmp_path, "night")


def test_two_images_of_one_stem_cannot_be_submitted(toy, tmp_path):
    folder = tmp_path / "photos"
    for name in ("1.png", "far/1.tif", "2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(toy.image_path("a"), folder / name)
    inputs = find_inputs(folder, tmp_path / "out", None)
    sentence = (
        f"{folder / '1.png'} and {folder / 'far/1.tif'} would both be 1.png in the submission; "
        "rename or remove one of them"
    )
    with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
        submission_names(inputs)
    (folder / "far/1.tif").rename(folder / "far/3.tif")
    assert submission_names(find_inputs(folder, tmp_path / "out", None)) == {
        "1.png": Path("1.png"),
        "2.png": Path("2.png"),
        "3.png": Path("far/3.png"),
    }
