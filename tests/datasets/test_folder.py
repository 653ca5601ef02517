"""Any folder of images and masks, and every way in which it can be wrong."""

import errno
import json

import numpy as np
import pytest
from PIL import Image

from datasets import tiles as tiles_module
from datasets.class_file import MaskDecoder, read_class_file
from datasets.folder import (
    Tiling,
    find_pairs,
    find_split_folders,
    prepare_folder,
    split_by_lists,
    split_by_shares,
)
from datasets.tiles import open_tile_set
from utils.errors import ConfigError, DataError, MissingDataError

CLASSES = {
    "classes": [
        {"name": "sea", "color": "#0000FF", "value": 3},
        {"name": "land", "color": [0, 255, 0], "value": 1},
    ],
    "ignore": {"colors": ["#000000"], "values": [0]},
}


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(CLASSES))
    return read_class_file(path)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


@pytest.fixture
def tree(tmp_path):
    """Three training images and one for validation, of different sizes, with colour masks."""
    for split, name, size in (
        ("train", "a", (40, 70)),
        ("train", "far/b", (100, 33)),
        ("train", "c", (64, 64)),
        ("val", "d", (90, 50)),
    ):
        mask = np.zeros((*size, 3))
        mask[: size[0] // 2, :, 2] = 255
        mask[size[0] // 2 :, 1:, 1] = 255
        save(tmp_path / "tree" / split / "images" / f"{name}.png", np.full((*size, 3), 9))
        save(tmp_path / "tree" / split / "masks" / f"{name}.png", mask)
    return tmp_path / "tree"


def prepare(root, splits, classes, tile_size_px=None, **settings):
    tiling = Tiling(
        tile_size_px=tile_size_px,
        overlap_px=settings.pop("overlap_px", 0),
        keep_whole=settings.pop("keep_whole", ()),
    )
    defaults = {"label_kind": "auto", "unknown_to_ignore": False, "prepared_with": {}}
    return prepare_folder(
        root, splits=splits, classes=classes, tiling=tiling, **{**defaults, **settings}
    )


def test_every_class_and_ignore_is_decoded_from_hand_written_pixels(classes, tmp_path):
    save(tmp_path / "rgb.png", [[[0, 0, 255], [0, 255, 0], [0, 0, 0]]])
    save(tmp_path / "index.png", [[3, 1, 0]])
    palette = Image.fromarray(np.array([[1, 2, 0]], np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 0, 0, 255, 0, 255, 0])
    palette.save(tmp_path / "palette.png")
    decoder = MaskDecoder(classes)
    for name in ("rgb", "index", "palette"):
        target, unknown = decoder.read(tmp_path / f"{name}.png")
        assert target.tolist() == [[0, 1, 255]] and unknown == {}
    target, unknown = MaskDecoder(classes, "index").read(tmp_path / "palette.png")
    assert target.tolist() == [[1, 255, 255]] and unknown == {"2": 1}


def test_unknown_colours_and_values_are_counted_and_ignored(classes, tmp_path):
    save(tmp_path / "rgb.png", [[[0, 0, 255], [0, 0, 254], [0, 0, 254], [1, 2, 3]]])
    target, unknown = MaskDecoder(classes).read(tmp_path / "rgb.png")
    assert target.tolist() == [[0, 255, 255, 255]]
    assert unknown == {"#0000FE": 2, "#010203": 1}


def test_masks_of_another_kind_are_refused(classes, tmp_path):
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png has mode I;16; masks must be 8-bit"):
        MaskDecoder(classes).read(tmp_path / "deep.png")
    save(tmp_path / "rgb.png", np.zeros((2, 2, 3)))
    with pytest.raises(DataError, match="has mode RGB, not class values; use --label-kind color"):
        MaskDecoder(classes, "index").read(tmp_path / "rgb.png")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": []}, "must have a list 'classes' of 1 to 254 entries"),
        ({"classes": [{"color": "#000001"}]}, r"classes\[0\] needs a 'name' and a 'color'"),
        ({"classes": [{"name": "a", "color": "blue"}]}, r"class 'a': the color must be '#RRGGBB'"),
        ({"classes": [{"name": "a", "color": [1, 2, 256]}]}, "the color must be '#RRGGBB' or"),
        ({"ignore": {"values": [300]}}, r"a value must be a whole number in 0\.\.255, not 300"),
        ({"ignore": {"colors": ["#0000FF"]}}, r"gives the color \(0, 0, 255\) to two entries"),
        ({"ignore": {"values": [3]}}, "gives the value 3 to two entries"),
    ],
)
def test_class_files_that_do_not_say_what_they_should(tmp_path, change, sentence):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({**CLASSES, **change}))
    with pytest.raises(ConfigError, match=sentence):
        read_class_file(path)


def test_training_windows_overlap_and_end_flush():
    tiling = Tiling(tile_size_px=64, overlap_px=16)
    assert tiling.windows("train", 64, 160) == [
        (0, 0, 64, 64),
        (0, 48, 64, 64),
        (0, 96, 64, 64),
    ]
    assert tiling.windows("train", 50, 65) == [(0, 0, 50, 64), (0, 1, 50, 64)]


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


def test_a_tree_is_prepared_by_its_split_folders(tree, classes, tmp_path):
    summary = prepare(tmp_path / "out", find_split_folders(tree), classes, 64, overlap_px=8)
    tiles = open_tile_set(tmp_path / "out")
    assert summary.num_sources == {"train": 3, "val": 1}
    assert summary.num_tiles == {"train": 2 + 2 + 1, "val": 2}
    assert tiles.split("val") == ("d_y00000_x00000", "d_y00045_x00000")
    assert set(tiles.split("train")) >= {"c", "far__b_y00000_x00000", "far__b_y00036_x00000"}
    tile = tiles.tiles["far__b_y00036_x00000"]
    assert (tile.source, tile.top_px, tile.height_px, tile.width_px) == ("far__b", 36, 64, 33)
    target = tiles.read_target("far__b_y00036_x00000")
    assert target[13, 0] == 0 and target[14, 0] == 255 and target[14, 1] == 1
    assert summary.num_pixels["val"].tolist() == [45 * 50, 45 * 49, 45]


def test_pairs_that_are_none(tree, tmp_path):
    images, masks = tree / "train" / "images", tree / "train" / "masks"
    (masks / "c.png").unlink()
    with pytest.raises(MissingDataError, match=r"1 of 3 images have no mask .* \(first: c\); add"):
        find_pairs(images, masks)
    (images / "c.png").unlink()
    (images / "a.png").unlink()
    with pytest.raises(MissingDataError, match=r"1 of 2 masks have no image .* \(first: a\)"):
        find_pairs(images, masks)
    save(images / "a.png", np.zeros((4, 4, 3)))
    save(images / "a.tif", np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match=r"a\.png and .*a\.tif have one name; rename or remove"):
        find_pairs(images, masks)


def test_trees_that_are_none(tmp_path):
    (tmp_path / "train" / "images").mkdir(parents=True)
    with pytest.raises(MissingDataError, match="train has no folder 'labels' or 'masks'"):
        find_split_folders(tmp_path)
    with pytest.raises(MissingDataError, match="images has no folder 'train'; expected"):
        find_split_folders(tmp_path / "train" / "images")


def test_lists_name_images_by_path(tree, tmp_path):
    sources = find_pairs(tree / "train" / "images", tree / "train" / "masks")
    (tmp_path / "train.txt").write_text("a\nfar/b\n\n")
    (tmp_path / "val.txt").write_text("c\n")
    lists = {split: tmp_path / f"{split}.txt" for split in ("train", "val")}
    found = split_by_lists(sources, lists)
    assert {split: [s.id for s in group] for split, group in found.items()} == {
        "train": ["a", "far__b"],
        "val": ["c"],
    }
    (tmp_path / "val.txt").write_text("a\n")
    with pytest.raises(DataError, match="'a' is in the lists of train and val"):
        split_by_lists(sources, lists)
    (tmp_path / "val.txt").write_text("zebra\n")
    with pytest.raises(MissingDataError, match=r"val\.txt names 'zebra', and there is no such"):
        split_by_lists(sources, lists)


def test_shares_are_of_source_images_repeatable_and_complete(tree):
    sources = find_pairs(tree / "train" / "images", tree / "train" / "masks") * 10
    found = split_by_shares(sources, (0.8, 0.1, 0.1), seed=0)
    assert {split: len(group) for split, group in found.items()} == {
        "train": 24,
        "val": 3,
        "test": 3,
    }
    assert found == split_by_shares(sources, (0.8, 0.1, 0.1), seed=0)
    assert found != split_by_shares(sources, (0.8, 0.1, 0.1), seed=1)
    assert "test" not in split_by_shares(sources, (0.5, 0.5, 0), seed=0)
    with pytest.raises(ConfigError, match="--shares must be three numbers that sum to 1"):
        split_by_shares(sources, (0.8, 0.1, 0.2), seed=0)
    with pytest.raises(ConfigError, match="2 images are too few for the shares"):
        split_by_shares(sources[:2], (0.8, 0.1, 0.1), seed=0)


def test_unknown_colours_of_all_files_come_in_one_error_and_nothing_is_left(
    tree, classes, tmp_path
):
    for name, color in (("a", (1, 2, 3)), ("c", (0, 0, 254))):
        path = tree / "train" / "masks" / f"{name}.png"
        mask = np.array(Image.open(path))
        mask[:2, :3] = color
        save(path, mask)
    splits = find_split_folders(tree)
    with pytest.raises(DataError, match=r"2 colours or values .*--unknown-to-ignore") as caught:
        prepare(tmp_path / "out", splits, classes)
    assert "#010203: 6 pixels, e.g. in" in str(caught.value)
    assert "#0000FE: 6 pixels, e.g. in" in str(caught.value)
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()
    summary = prepare(tmp_path / "out", splits, classes, unknown_to_ignore=True)
    assert summary.unknown == {"#010203": 6, "#0000FE": 6}


def test_sizes_that_differ_and_truncated_files_leave_nothing(tree, classes, tmp_path):
    image = tree / "train" / "images" / "c.png"
    whole = image.read_bytes()
    save(image, np.zeros((64, 63, 3)))
    sentence = r"c\.png is \(64, 63\) and .*c\.png \(64, 64\) \(height, width\)"
    with pytest.raises(DataError, match=sentence):
        prepare(tmp_path / "out", find_split_folders(tree), classes)
    image.write_bytes(whole[:60])
    with pytest.raises(DataError, match=r"c\.png cannot be read as an image"):
        prepare(tmp_path / "out", find_split_folders(tree), classes)
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()


def test_a_full_disk_leaves_nothing(tree, classes, tmp_path, monkeypatch):
    calls = []

    def full(path, array, text=None):
        calls.append(path)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(tiles_module, "write_png", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(tmp_path / "out", find_split_folders(tree), classes)
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()
