"""Prepared sets: written and read back, split hashes, class histogram, errors."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from datasets.preparation.published import potsdam, vaihingen
from datasets.preparation.writer import TileSetWriter
from datasets.rasters import write_raster
from datasets.tile_set import (
    RareClasses,
    Tile,
    count_classes,
    find_split,
    open_tile_set,
    read_histogram,
    source_images,
    split_sha256,
    write_histogram,
)
from tests.datasets.broken import edit_json
from tests.datasets.fakes import tile_at
from utils.boxes import Box
from utils.errors import ConfigError, DataError, MissingDataError

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
TARGET = np.array([[0, 1, 255, 0, 1, 255]] * 4, np.uint8)


FACTS = {"classes": ("ground", "roof"), "palette": ((0, 0, 0), (255, 0, 0)), "origin": "drawn"}


def tile(name: str, source: str, top: int = 0, left: int = 6) -> Tile:
    return tile_at(name, (4, 6), source, top, left)


def writer(root: Path) -> TileSetWriter:
    return TileSetWriter(root, name="toy", prepared_with={"seed": 0}, **FACTS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of two training tiles of one source, and one validation tile of another."""
    root = tmp_path / "toy"
    with writer(root) as tiles:
        tiles.add("train", tile("big photo b", "big photo"), IMAGE, TARGET)
        tiles.add("train", tile("big photo a", "big photo"), IMAGE, TARGET)
        tiles.add("val", tile("other", "other"), IMAGE + 1, TARGET)
    return root


def test_what_is_written_is_read_back(root: Path):
    assert list(root.parent.iterdir()) == [root]
    assert json.loads((root / "dataset.json").read_text())["ignore_index"] == 255
    tile_set = open_tile_set(root)
    assert (tile_set.root, tile_set.name) == (root, "toy")
    assert {name: getattr(tile_set, name) for name in FACTS} == FACTS
    assert tile_set.prepared_with == {"seed": 0} and tile_set.channels == "rgb"
    assert tile_set.tiles["big photo a"] == tile("big photo a", "big photo")
    assert tile_set.split("train") == ("big photo a", "big photo b")  # ids may hold spaces
    assert tile_set.split("val") == ("other",)
    np.testing.assert_array_equal(tile_set.read_image("other"), IMAGE + 1)
    np.testing.assert_array_equal(tile_set.read_target("other"), TARGET)
    rows = ["id,0,1,ignored", "big photo a,8,8,8", "big photo b,8,8,8", "other,8,8,8"]
    assert (root / "histogram.csv").read_text().splitlines() == rows
    (root / "splits" / "train.txt").write_bytes(b"big photo b \r\n\r\nbig photo a")  # by hand
    assert open_tile_set(root).split("train") == ("big photo b", "big photo a")


def test_source_images_hold_their_tiles_in_the_smallest_rectangle_around_them():
    a, b, c = tile("a", "s", 9, 20), tile("b", "s", 5, 23), tile("c", "t")
    one, other = source_images([a, c, b], "source")
    assert (one.source, one.tiles, other.tiles) == ("s", (b, a), (c,))
    assert one.size == (8, 9) and one.boxes == [Box(0, 3, 4, 6), Box(4, 0, 4, 6)]
    assert [image.tiles for image in source_images([a, c, b], "tile")] == [(a,), (c,), (b,)]


def test_the_split_and_its_hash_are_recorded_and_compared(root: Path):
    tiles, split = open_tile_set(root), json.loads((root / "dataset.json").read_text())["split"]
    assert (tiles.split_name, tiles.unlabelled, tiles.label_kinds) == ("own", (), ("full",))
    assert tiles.split_sha256 == split_sha256({"train": ["big photo"], "val": ["other"]})
    assert split["sha256"] == tiles.split_sha256
    (root / "splits" / "val.txt").rename(root / "splits" / "test.txt")
    with pytest.raises(DataError) as error:
        open_tile_set(root)
    changed = split_sha256({"train": ["big photo"], "test": ["other"]})
    assert str(error.value) == (
        f"the lists in {root}/splits are not those of the split 'own' any more (SHA-256 {changed}, "
        f"recorded is {tiles.split_sha256}); restore the lists, or give the split a name of its "
        "own (split.name in dataset.json) and delete split.sha256"
    )
    edit_json(root / "dataset.json", split={**split, "sha256": None})
    assert open_tile_set(root).split_sha256 == changed
    (root / "splits" / "train.txt").write_text("big photo a\n")  # the tiling does not matter
    assert open_tile_set(root).split_sha256 == changed


def test_labels_that_were_never_there_lost_ones_and_unknown_classes_are_told_apart(root: Path):
    tiles = open_tile_set(root)
    eroded = tiles.target_path("other", "eroded")
    assert eroded == root / "labels_eroded" / "other.tif" and tiles.kinds_of("val") == ("full",)
    with pytest.raises(MissingDataError, match="toy has no eroded labels, only full; prepare it"):
        tiles.read_target("other", "eroded")
    write_raster(eroded, np.full((4, 6), 255, np.uint8))
    assert (tiles.read_target("other", "eroded") == 255).all()
    write_raster(tiles.target_path("other"), np.full((4, 6), 2, np.uint8))
    with pytest.raises(DataError, match=r"class index 2, the data set has 2 classes \(0\.\.1, 255"):
        tiles.read_target("other")
    tiles.target_path("other").unlink()
    with pytest.raises(MissingDataError, match=r"labels.other\.tif does not exist"):
        tiles.read_target("other")
    with pytest.raises(MissingDataError, match=r"toy has no split 'test'; it has train, val$"):
        tiles.split("test")


def test_the_folder_that_a_relative_name_means_is_named(tmp_path, monkeypatch):
    """Case 28 of docs/trials.md: the name is relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    tried = re.escape(f"data/x is not a prepared data set ({tmp_path}/data/x/dataset.json does not")
    with pytest.raises(MissingDataError, match=rf"^{tried} exist\); make it with prepare\.py, or "):
        open_tile_set(Path("data/x"))


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("dataset.json", None, r"toy is not a prepared data set .* prepare\.py"),
        ("dataset.json", '{"format_version": 99}', "format 99, this program reads 3; prepare it"),
        (
            "sources.json",
            "{}",
            r"sources\.json lacks \d sources of tiles\.csv \(first: 'big photo'",
        ),
        ("tiles.csv", None, r"tiles\.csv does not exist; prepare .* again"),
        ("splits/test.txt", "ghost", r"test\.txt names 'ghost', tiles\.csv does not"),
        (
            "splits/test.txt",
            "big photo a",
            "source image 'big photo' is in the splits test and train; a source image may be in",
        ),
    ],
)
def test_sets_that_lack_a_file_or_contradict_themselves_are_refused(root, file, text, problem):
    (root / file).unlink() if text is None else (root / file).write_text(text)
    with pytest.raises((DataError, MissingDataError), match=problem):
        open_tile_set(root)


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        (("train", tile("a", "t"), IMAGE, TARGET), "two tiles are named 'a'; rename one of the s"),
        (("val", tile("b", "s"), IMAGE, TARGET), "source image 's' is in the splits train and val"),
        (
            ("train", tile("b", "b"), IMAGE, TARGET[:, :5]),
            r"tile 'b': image is \(4, 6\) and label \(4, 5\) \(height, width\)",
        ),
    ],
)
def test_tiles_that_contradict_are_refused_and_nothing_is_left(tmp_path: Path, added, problem):
    with pytest.raises(DataError, match=problem), writer(tmp_path / "toy") as tiles:
        tiles.add("train", tile("a", "s"), IMAGE, TARGET)
        tiles.add(*added)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_attempt_left_is_cleared_and_a_finished_set_is_not(tmp_path: Path):
    killed = writer(tmp_path / "toy").__enter__()
    killed.add("train", tile("stale", "stale"), IMAGE, TARGET)
    assert [path.name for path in tmp_path.iterdir()] == [".toy.partial"]  # and no data set
    with writer(tmp_path / "toy") as tiles:
        tiles.add("train", tile("a", "a"), IMAGE, TARGET)
    assert list(tmp_path.iterdir()) == [tmp_path / "toy"]
    assert [path.name for path in (tmp_path / "toy" / "images").iterdir()] == ["a.tif"]
    for path in (tmp_path / "toy", Path()):  # also the current folder
        with pytest.raises(DataError, match="exists already; delete it or choose another --output"):
            writer(path).__enter__()


PUBLISHED = {
    "potsdam official": "76e58f05",
    "potsdam geoseg": "782beba0",
    "potsdam ssrs": "59cce715",
    "vaihingen official": "43399d9f",
    "vaihingen geoseg": "b896f8e0",
    "vaihingen ssrs": "6c7c12a3",
}


def test_the_split_hash_is_that_of_the_sorted_lists_without_the_empty_ones():
    expected = hashlib.sha256(b'{"train":["a","b"],"val":["c"]}').hexdigest()
    assert split_sha256({"val": ["c"], "train": ["b", "a", "b"], "test": []}) == expected


def test_published_splits_keep_their_hashes_and_are_found_by_name():
    found = {}
    for data_set, module in (("potsdam", potsdam), ("vaihingen", vaihingen)):
        for name, split in module.SPLITS.items():
            assert find_split(name, module.SPLITS, data_set) is split
            assert split.name == name and len(split.source) > 20
            assert set(split.lists) <= {"train", "val", "test"}
            found[f"{data_set} {name}"] = split_sha256(split.lists)[:8]
    assert found == PUBLISHED
    with pytest.raises(ConfigError, match=r"^--split x is not a split of potsdam; it has official"):
        find_split("x", potsdam.SPLITS, "potsdam")


def test_the_histogram_is_counted_written_and_read(tmp_path: Path):
    assert count_classes(np.array([[0, 2, 2], [255, 2, 0]], np.uint8), 4) == [2, 0, 3, 0, 1]
    tall = np.zeros((1200, 3), np.uint8)
    tall[700:] = 1
    assert count_classes(tall, 2) == [2100, 1500, 0]
    counts = {"b, c": [1, 2, 3], "a": [0, 10**12, 0]}
    write_histogram(tmp_path, 2, counts)
    text = (tmp_path / "histogram.csv").read_text()
    assert text == 'id,0,1,ignored\na,0,1000000000000,0\n"b, c",1,2,3\n'
    assert {t: row.tolist() for t, row in read_histogram(tmp_path, 2).items()} == counts


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "histogram.csv does not exist; prepare the data set again"),
        ("", "has the columns , not id, 0, 1, ignored; prepare the data set again"),
        ("id,0,1,ignored\na,1,2\n", "has no complete row of numbers for the tile 'a'; prepare"),
        ("id,0,1,ignored\na,1,-2,x\n", "has no complete row of numbers for the tile 'a'; prepare"),
        ("id,0,1,ignored\nb,1,2,3\n", "has no row for the tile 'a', and data.rare_class_share"),
        ("id,0,1,ignored\na,0,0,9\n", ": no training tile has a labelled pixel"),
    ],
)
def test_a_histogram_that_cannot_be_used_is_one_sentence(tmp_path: Path, text, problem: str):
    if text is not None:
        (tmp_path / "histogram.csv").write_text(text)
    with pytest.raises((DataError, MissingDataError), match=re.escape(problem)):
        RareClasses(tmp_path, ["a"], 2)
