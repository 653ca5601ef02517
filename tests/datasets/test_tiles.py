import json

import numpy as np
import pytest

from datasets.tiles import Tile, TileSetWriter, open_tile_set
from utils.errors import DataError, MissingDataError
from utils.files import write_png

META = {
    "name": "two",
    "classes": ("sea", "land"),
    "palette": ((0, 0, 255), (0, 255, 0)),
    "origin": "test",
    "prepared_with": {"seed": 1},
}


def tile(name, source=None):
    return Tile(id=name, source=source or name, top_px=0, left_px=4, height_px=3, width_px=5)


def picture(value=9):
    return np.full((3, 5, 3), value, np.uint8), np.full((3, 5), 1, np.uint8)


def write(root, *entries):
    with TileSetWriter(root, **META) as writer:
        for split, entry in entries:
            writer.add(split, entry, *picture())


def test_round_trip(tmp_path):
    write(
        tmp_path / "set", ("train", tile("a", "s")), ("train", tile("b", "s")), ("val", tile("c"))
    )
    tiles = open_tile_set(tmp_path / "set")
    assert (tiles.name, tiles.classes, tiles.palette) == ("two", META["classes"], META["palette"])
    assert tiles.splits == {"train": ("a", "b"), "val": ("c",)}
    assert tiles.tiles["b"] == tile("b", "s") and tiles.prepared_with == {"seed": 1}
    assert np.array_equal(tiles.read_image("a"), picture()[0])
    assert np.array_equal(tiles.read_target("c"), picture()[1])
    assert {path.name for path in tmp_path.iterdir()} == {"set"}


def test_a_source_in_two_splits_is_refused_by_writer_and_reader(tmp_path):
    sentence = "source image 's' is in the splits .*; a source image may be in one split only"
    with pytest.raises(DataError, match=sentence):
        write(tmp_path / "set", ("train", tile("a", "s")), ("val", tile("b", "s")))
    write(tmp_path / "set2", ("train", tile("a", "s")), ("train", tile("b", "s")))
    (tmp_path / "set2" / "splits" / "val.txt").write_text("b\n")
    with pytest.raises(DataError, match=sentence):
        open_tile_set(tmp_path / "set2")


def test_an_error_leaves_nothing_and_a_killed_attempt_is_cleared(tmp_path):
    with pytest.raises(RuntimeError), TileSetWriter(tmp_path / "set", **META) as writer:
        writer.add("train", tile("a"), *picture())
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".set.partial" / "images").mkdir(parents=True)
    (tmp_path / ".set.partial" / "images" / "old.png").touch()
    write(tmp_path / "set", ("train", tile("a")))
    assert [path.name for path in (tmp_path / "set" / "images").iterdir()] == ["a.png"]


def test_what_the_writer_refuses(tmp_path):
    with TileSetWriter(tmp_path / "set", **META) as writer:
        writer.add("train", tile("a"), *picture())
        with pytest.raises(DataError, match=r"'b': image is \(3, 5\) and label \(2, 5\)"):
            writer.add("train", tile("b"), picture()[0], picture()[1][:2])
        with pytest.raises(DataError, match="two tiles are called 'a'"):
            writer.add("train", tile("a"), *picture())
    with pytest.raises(DataError, match=r"set exists already; delete it or choose another"):
        write(tmp_path / "set")


def test_what_the_reader_refuses(tmp_path):
    with pytest.raises(MissingDataError, match=r"none is not a prepared data set.*prepare\.py"):
        open_tile_set(tmp_path / "none")
    write(tmp_path / "set", ("train", tile("a")))
    root = tmp_path / "set"
    tiles = open_tile_set(root)
    with pytest.raises(MissingDataError, match="has no split 'val'; it has train"):
        tiles.split("val")
    write_png(tiles.target_path("a"), np.array([[0, 255, 7]], np.uint8))
    with pytest.raises(DataError, match=r"holds class index 7, the data set has 2 classes \(0..1"):
        tiles.read_target("a")
    write_png(tiles.target_path("a"), np.zeros((3, 5, 3), np.uint8))
    with pytest.raises(DataError, match="must be 8-bit greyscale class indices, not 'RGB'"):
        tiles.read_target("a")
    (root / "splits" / "test.txt").write_text("zebra\n")
    with pytest.raises(DataError, match=r"test\.txt names 'zebra', tiles\.csv does not"):
        open_tile_set(root)
    meta = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**meta, "format_version": 9}))
    with pytest.raises(DataError, match="has data set format 9, this program reads 1; prepare"):
        open_tile_set(root)
