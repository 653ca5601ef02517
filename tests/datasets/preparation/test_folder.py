"""Cutting, checking and writing a folder of images and masks."""

import errno
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from datasets.preparation.classes import ClassFile
from datasets.preparation.folder import find_split_folders, prepare_folder
from datasets.preparation.members import Member
from datasets.preparation.pipeline import Summary
from datasets.preparation.pipeline import writer as tile_writer
from datasets.preparation.tiling import Tiling
from datasets.tile_set import open_tile_set
from utils.errors import ConfigError, DataError

CLASSES = ClassFile(
    names=("sea", "land"),
    colors=((0, 0, 255), (0, 255, 0)),
    values=(0, 1),
    ignore_colors=((0, 0, 0),),
    ignore_values=(),
)
SIZES = {
    "train": {"a": (40, 70), "far/b": (100, 33), "c d": (64, 64)},
    "val": {"d": (90, 50)},
}


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def paint(path, rows, columns, color):
    array = np.array(Image.open(path))
    array[:rows, :columns] = color
    save(path, array)


@pytest.fixture
def tree(tmp_path):
    """Above sea, below land; the left column of the land is ignored. Images hold their rows."""
    for split, images in SIZES.items():
        for name, (height, width) in images.items():
            mask = np.zeros((height, width, 3))
            mask[: height // 2, :, 2] = 255
            mask[height // 2 :, 1:, 1] = 255
            image = np.broadcast_to(np.arange(height)[:, None, None], (height, width, 3))
            save(tmp_path / "tree" / split / "images" / f"{name}.png", image)
            save(tmp_path / "tree" / split / "masks" / f"{name}.png", mask)
    return tmp_path / "tree"


def prepare(root, tree, tiling=None, unknown_to_ignore=False):
    return prepare_folder(
        root,
        splits=find_split_folders(tree),
        classes=CLASSES,
        tiling=tiling or Tiling(tile_size_px=None),
        label_kind="auto",
        unknown_to_ignore=unknown_to_ignore,
        prepared_with={"number": 7},
    )


def nothing_is_left(root):
    return not root.exists() and not list(root.parent.glob(".out*"))


def test_training_windows_overlap_and_end_flush():
    tiling = Tiling(tile_size_px=64, overlap_px=16)
    assert tiling.windows("train", 64, 160) == [
        (0, 0, 64, 64),
        (0, 48, 64, 64),
        (0, 96, 64, 64),
    ]
    # 170 - 64 = 106 in steps of at most 48: three, of 35 and 36
    assert [left for _, left, _, _ in tiling.windows("train", 64, 170)] == [0, 35, 71, 106]
    assert tiling.windows("train", 50, 65) == [(0, 0, 50, 64), (0, 1, 50, 64)]
    assert tiling.windows("train", 50, 20) == [(0, 0, 50, 20)]


def test_evaluation_windows_are_nearly_equal_parts():
    tiling = Tiling(tile_size_px=64, overlap_px=16)
    assert tiling.windows("val", 65, 30) == [(0, 0, 32, 30), (32, 0, 33, 30)]
    assert tiling.windows("test", 64, 128) == [(0, 0, 64, 64), (0, 64, 64, 64)]


@pytest.mark.parametrize(("height", "width"), [(100, 129), (64, 64), (1, 200), (65, 30)])
def test_evaluation_windows_hold_every_pixel_once(height, width):
    count = np.zeros((height, width), int)
    for top, left, h, w in Tiling(tile_size_px=64, overlap_px=16).windows("val", height, width):
        assert 0 < h <= 64 and 0 < w <= 64
        count[top : top + h, left : left + w] += 1
    assert (count == 1).all()


def test_nothing_is_cut_without_a_size_or_where_asked_to_keep():
    whole = [(0, 0, 200, 300)]
    assert Tiling(tile_size_px=None).windows("train", 200, 300) == whole
    tiling = Tiling(tile_size_px=64, keep_whole=("val",))
    assert tiling.windows("val", 200, 300) == whole and len(tiling.windows("test", 200, 300)) == 20


def test_tilings_that_cannot_work():
    with pytest.raises(ConfigError, match="--overlap needs --tile-size"):
        Tiling(tile_size_px=None, overlap_px=3)
    with pytest.raises(ConfigError, match="--tile-size is 8; it must be 32 or more"):
        Tiling(tile_size_px=8)
    with pytest.raises(ConfigError, match=r"--overlap is 64; .* below --tile-size \(64\)"):
        Tiling(tile_size_px=64, overlap_px=64)


def test_a_tree_becomes_a_tile_set(tree, tmp_path):
    summary = prepare(tmp_path / "out", tree, Tiling(tile_size_px=64, overlap_px=8))
    tiles = open_tile_set(tmp_path / "out")
    assert (tiles.name, tiles.classes, tiles.palette) == ("out", CLASSES.names, CLASSES.colors)
    assert tiles.prepared_with == {"number": 7}
    assert tiles.split("val") == ("d_y00000_x00000", "d_y00045_x00000")
    assert tiles.split("train") == (
        *("a_y00000_x00000", "a_y00000_x00006", "c d"),
        *("far__b_y00000_x00000", "far__b_y00036_x00000"),
    )
    assert summary.num_sources == {"train": 3, "val": 1}
    assert summary.num_tiles == {"train": 5, "val": 2}


def test_image_and_target_of_a_tile_are_cut_alike(tree, tmp_path):
    prepare(tmp_path / "out", tree, Tiling(tile_size_px=64, overlap_px=8))
    tiles = open_tile_set(tmp_path / "out")
    tile = tiles.tiles["far__b_y00036_x00000"]
    assert (tile.source, tile.top_px, tile.left_px) == ("far__b", 36, 0)
    assert (tile.height_px, tile.width_px) == (64, 33)
    assert tiles.read_image(tile.id)[:, 0, 0].tolist() == list(range(36, 100))
    target = tiles.read_target(tile.id)  # row 50 of the source is its first row of land
    assert target[13, 0] == 0 and target[14, 0] == 255 and target[14, 1] == 1


def test_shares_count_every_source_pixel_once(tree, tmp_path):
    summary = prepare(tmp_path / "out", tree, Tiling(tile_size_px=64, overlap_px=8))
    assert summary.num_pixels["val"].tolist() == [45 * 50, 45 * 49, 45]
    assert summary.num_pixels["train"].sum() == 40 * 70 + 100 * 33 + 64 * 64


def test_the_table_names_absent_classes_and_what_was_ignored():
    summary = Summary(
        num_sources={"train": 3, "val": 1},
        num_tiles={"train": 5, "val": 2},
        num_pixels={"train": np.array([1_500_000, 0, 500_000]), "val": np.array([0, 10, 30])},
        unknown=Counter({"#010203": 1234, "7": 5}),
    )
    assert summary.table(("sea", "land")).splitlines() == [
        "                 train         val",
        "images               3           1",
        "tiles                5           2",
        "megapixels         2.0         0.0",
        "sea             75.0 %       0.0 %",
        "land             0.0 %      25.0 %",
        "ignored         25.0 %      75.0 %",
        "warning: no training pixel is of class 'land'",
        "ignored: 1,234 pixels of the unknown #010203",
        "ignored: 5 pixels of the unknown 7",
    ]


def test_unknown_colours_of_all_files_come_in_one_error(tree, tmp_path):
    masks = tree / "train" / "masks"
    paint(masks / "a.png", 2, 3, (1, 2, 3))
    paint(masks / "far" / "b.png", 2, 2, (1, 2, 3))
    paint(tree / "val" / "masks" / "d.png", 1, 3, (0, 0, 254))
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "out", tree)
    first, *lines = str(caught.value).splitlines()
    # 13 of 40 * 70 + 100 * 33 + 64 * 64 + 90 * 50 = 14,696 pixels
    assert "2 colours or values that the class file does not name (0.088% of all" in first
    assert first.endswith("check --label-kind, or give --unknown-to-ignore:")
    assert lines == [
        f"  #010203: 10 pixels (0.068%), e.g. in {masks}/a.png",
        f"  #0000FE: 3 pixels (0.020%), e.g. in {tree}/val/masks/d.png",
    ]
    assert nothing_is_left(tmp_path / "out")


def test_unknown_colours_are_ignored_where_asked(tree, tmp_path):
    paint(tree / "train" / "masks" / "a.png", 2, 3, (1, 2, 3))
    summary = prepare(tmp_path / "out", tree, unknown_to_ignore=True)
    assert summary.unknown == {"#010203": 6}
    target = open_tile_set(tmp_path / "out").read_target("a")
    assert (target[:2, :3] == 255).all() and target[2, 0] == 0


def test_lossy_masks_are_recognised_and_their_colours_not_all_listed(tree, tmp_path):
    mask = tree / "train" / "masks" / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 70, 3))
    save(mask.with_suffix(".jpg"), noise)
    mask.unlink()
    with pytest.raises(DataError, match=r"JPEG blurs colours, masks should be PNG") as caught:
        prepare(tmp_path / "out", tree)
    lines = str(caught.value).splitlines()
    assert len(lines) == 22 and lines[-1].startswith("  and ") and lines[-1].endswith(" more")


def test_sizes_are_compared_before_anything_is_read(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(Member, "open_image", None)  # a call would fail
    save(tree / "train" / "images" / "c d.png", np.zeros((64, 63, 3)))
    save(tree / "val" / "images" / "d.png", np.zeros((50, 90, 3)))
    sentence = r"2 of 4 images .*c d\.png is 64 x 63 and .*masks/c d\.png is 64 x 64\); give them"
    with pytest.raises(DataError, match=sentence):
        prepare(tmp_path / "out", tree)
    assert nothing_is_left(tmp_path / "out")


@pytest.mark.parametrize("what", ["images", "masks"])
@pytest.mark.parametrize("num_bytes", [10, -40])  # within the header, before the end
def test_a_truncated_file_is_named(tree, tmp_path, what, num_bytes):
    path = tree / "train" / what / "c d.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    if what == "images":
        save(path, noise)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(DataError, match=rf"{what}/c d\.png cannot be read as an image .*replace"):
        prepare(tmp_path / "out", tree)
    assert nothing_is_left(tmp_path / "out")


def test_a_full_disk_leaves_nothing(tree, tmp_path, monkeypatch):
    written = []

    def full(path, array, text=None):
        written.append(path)
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(tile_writer, "write_raster", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(tmp_path / "out", tree)
    assert nothing_is_left(tmp_path / "out")
