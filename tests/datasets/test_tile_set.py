import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.preparation.writer import TileSetWriter
from datasets.tile_set import Tile, open_tile_set, split_sha256
from utils.errors import DataError, MissingDataError

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
TARGET = np.array([[0, 1, 255, 0, 1, 255]] * 4, np.uint8)


def tile(name: str, source: str) -> Tile:
    return Tile(id=name, source=source, top_px=0, left_px=6, height_px=4, width_px=6)


def writer(root: Path) -> TileSetWriter:
    return TileSetWriter(
        root,
        name="toy",
        classes=("ground", "roof"),
        palette=((0, 0, 0), (255, 0, 0)),
        origin="drawn",
        prepared_with={"seed": 0},
    )


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
    tile_set = open_tile_set(root)
    assert (tile_set.root, tile_set.name, tile_set.origin) == (root, "toy", "drawn")
    assert tile_set.classes == ("ground", "roof")
    assert tile_set.palette == ((0, 0, 0), (255, 0, 0))
    assert tile_set.prepared_with == {"seed": 0}
    assert tile_set.tiles["big photo a"] == tile("big photo a", "big photo")
    assert tile_set.split("train") == ("big photo a", "big photo b")  # ids may hold spaces
    assert tile_set.split("val") == ("other",)
    np.testing.assert_array_equal(tile_set.read_image("other"), IMAGE + 1)
    np.testing.assert_array_equal(tile_set.read_target("other"), TARGET)


def test_nothing_lies_beside_a_finished_data_set(root: Path):
    assert list(root.parent.iterdir()) == [root]
    assert json.loads((root / "dataset.json").read_text())["ignore_index"] == 255


def test_hand_edited_split_lists_are_read(root: Path):
    (root / "splits" / "train.txt").write_bytes(b"big photo b \r\n\r\nbig photo a")
    assert open_tile_set(root).split("train") == ("big photo b", "big photo a")


def test_the_split_and_its_hash_are_recorded_and_compared(root: Path):
    tiles, meta = open_tile_set(root), json.loads((root / "dataset.json").read_text())
    assert (tiles.split_name, tiles.unlabelled, tiles.label_kinds) == ("own", (), ("full",))
    assert tiles.split_sha256 == split_sha256({"train": ["big photo"], "val": ["other"]})
    assert meta["split"]["sha256"] == tiles.split_sha256 and tiles.bands == "rgb"
    (root / "splits" / "val.txt").rename(root / "splits" / "test.txt")
    with pytest.raises(DataError) as error:
        open_tile_set(root)
    changed = split_sha256({"train": ["big photo"], "test": ["other"]})
    assert str(error.value) == (
        f"the lists in {root}/splits are not those of the split 'own' any more (SHA-256 {changed}, "
        f"recorded is {tiles.split_sha256}); restore the lists, or give the split a name of its "
        "own (split.name in dataset.json) and delete split.sha256"
    )
    meta["split"]["sha256"] = None
    (root / "dataset.json").write_text(json.dumps(meta))
    assert open_tile_set(root).split_sha256 == changed
    del meta["split"]["sha256"]
    (root / "dataset.json").write_text(json.dumps(meta))
    assert open_tile_set(root).split_sha256 == changed


def test_a_split_is_the_same_however_its_images_are_cut(root: Path):
    (root / "splits" / "train.txt").write_text("big photo a\n")  # one tile less of this source
    assert open_tile_set(root).split("train") == ("big photo a",)


def test_the_histogram_counts_classes_and_ignored_pixels(root: Path):
    assert (root / "histogram.csv").read_text().splitlines() == [
        "id,0,1,ignored",
        "big photo a,8,8,8",
        "big photo b,8,8,8",
        "other,8,8,8",
    ]


def test_labels_that_were_never_there_and_lost_ones_are_told_apart(root: Path):
    tiles = open_tile_set(root)
    with pytest.raises(MissingDataError, match="toy has no eroded labels, only full; prepare it"):
        tiles.read_target("other", "eroded")
    tiles.target_path("other").unlink()
    with pytest.raises(MissingDataError, match=r"labels.other\.tif does not exist"):
        tiles.read_target("other")


def test_an_unknown_split_names_the_known_ones(root: Path):
    with pytest.raises(MissingDataError, match=r"toy has no split 'test'; it has train, val$"):
        open_tile_set(root).split("test")


def test_a_folder_that_is_not_prepared_says_what_makes_it(tmp_path: Path):
    with pytest.raises(MissingDataError, match=r"x is not a prepared data set .* prepare\.py"):
        open_tile_set(tmp_path / "x")


def test_missing_parts_are_named(root: Path):
    tile_set = open_tile_set(root)
    tile_set.image_path("other").unlink()
    with pytest.raises(MissingDataError, match=r"images.other\.tif does not exist"):
        tile_set.read_image("other")
    (root / "tiles.csv").unlink()
    with pytest.raises(MissingDataError, match=r"tiles\.csv does not exist; prepare .* again"):
        open_tile_set(root)


def test_another_format_version_is_refused(root: Path):
    meta = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(meta | {"format_version": 99}))
    with pytest.raises(DataError, match="has data set format 99, this program reads 2; prepare it"):
        open_tile_set(root)


def test_a_tile_that_no_table_describes_is_refused(root: Path):
    (root / "splits" / "val.txt").write_text("ghost\n")
    with pytest.raises(DataError, match=r"val\.txt names 'ghost', tiles\.csv does not"):
        open_tile_set(root)


def test_a_source_in_two_splits_is_refused_on_reading(root: Path):
    (root / "splits" / "test.txt").write_text("big photo a\n")
    both = "source image 'big photo' is in the splits test and train; a source image may be in one"
    with pytest.raises(DataError, match=both):
        open_tile_set(root)


def test_a_source_in_two_splits_is_refused_on_writing(tmp_path: Path):
    with pytest.raises(DataError, match="source image 's' is in the splits train and val"):
        with writer(tmp_path / "toy") as tiles:
            tiles.add("train", tile("a", "s"), IMAGE, TARGET)
            tiles.add("val", tile("b", "s"), IMAGE, TARGET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (np.full((4, 6), 2, np.uint8), r"class index 2, the data set has 2 classes \(0\.\.1, 255"),
        (np.zeros((4, 6, 3), np.uint8), r"labels.other\.tif is RGB, not 8-bit; prepare"),
        (np.zeros((4, 6), np.uint16), r"labels.other\.tif is 16-bit, not 8-bit; prepare"),
    ],
)
def test_a_label_file_of_another_kind_is_refused(root: Path, target: np.ndarray, problem: str):
    tile_set = open_tile_set(root)
    Image.fromarray(target).save(tile_set.target_path("other"))
    with pytest.raises(DataError, match=problem):
        tile_set.read_target("other")


def test_a_label_of_nothing_but_ignore_is_read(root: Path):
    tile_set = open_tile_set(root)
    Image.new("L", (6, 4), 255).save(tile_set.target_path("other"))
    assert (tile_set.read_target("other") == 255).all()


def test_image_and_label_of_two_sizes_are_refused(tmp_path: Path):
    sizes = r"tile 'a': image is \(4, 6\) and label \(4, 5\) \(height, width\)"
    with pytest.raises(DataError, match=sizes), writer(tmp_path / "toy") as tiles:
        tiles.add("train", tile("a", "a"), IMAGE, TARGET[:, :5])


def test_two_tiles_of_one_name_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="two tiles are called 'a'; rename one of the source"):
        with writer(tmp_path / "toy") as tiles:
            tiles.add("train", tile("a", "s"), IMAGE, TARGET)
            tiles.add("train", tile("a", "t"), IMAGE, TARGET)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), writer(tmp_path / "toy") as tiles:
        tiles.add("train", tile("a", "a"), IMAGE, TARGET)
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_attempt_left_is_cleared(tmp_path: Path):
    killed = writer(tmp_path / "toy").__enter__()
    killed.add("train", tile("stale", "stale"), IMAGE, TARGET)
    assert [path.name for path in tmp_path.iterdir()] == [".toy.partial"]  # and no data set
    with writer(tmp_path / "toy") as tiles:
        tiles.add("train", tile("a", "a"), IMAGE, TARGET)
    assert list(tmp_path.iterdir()) == [tmp_path / "toy"]
    assert [path.name for path in (tmp_path / "toy" / "images").iterdir()] == ["a.tif"]


def test_an_existing_folder_is_never_overwritten(root: Path, monkeypatch):
    before = (root / "tiles.csv").read_bytes()
    for path in (root, Path()):  # also the current folder
        monkeypatch.chdir(root)
        with pytest.raises(DataError, match="exists already; delete it or choose another --output"):
            writer(path).__enter__()
    assert (root / "tiles.csv").read_bytes() == before
