"""A folder of images and masks: pairs, splits, and the prepared set; and tree mapping."""

import argparse
import json
from itertools import chain

import numpy as np
import pytest
from PIL import Image

from datasets.preparation.folder import (
    find_pairs,
    find_split_folders,
    find_splits,
    pair_folders,
    split_by_lists,
    split_by_shares,
)
from datasets.preparation.pipeline import Source
from datasets.tile_set import open_tile_set
from tests.datasets.preparation.conftest import nothing_is_left
from utils.errors import ConfigError, DataError, MissingDataError

CLASSES = {
    "classes": [{"name": "sea", "color": "#0000FF"}, {"name": "land", "color": "#00FF00"}],
    "ignore": {"colors": ["#000000"]},
}
SIZES = {
    "train": {"a": (40, 70), "far/b": (100, 33), "c d": (64, 64)},
    "val": {"d": (90, 50)},
}
NOISE = np.random.default_rng(0).integers(0, 256, (100, 100, 3))


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array)
    array = array if array.dtype == np.uint16 else array.astype(np.uint8)
    Image.fromarray(array).save(path, **options)


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


@pytest.fixture
def prepare(tree, tmp_path, run_prepare):
    """Prepare the tree; the printed text or the error, and the set."""
    classes, root = tmp_path / "classes.json", tmp_path / "out"
    classes.write_text(json.dumps(CLASSES))

    def prepare(*more):
        command = ("folder", "--tree", tree, "--classes", classes, "--output", root, *more)
        code, out, err = run_prepare(*command)
        assert code in (0, 2) and (code == 0 or nothing_is_left(root))
        return (out, open_tile_set(root)) if code == 0 else (err, None)

    return prepare


def test_a_tree_becomes_a_tile_set(prepare):
    out, tiles = prepare("--tile-size", 64, "--overlap", 8)
    assert (tiles.name, tiles.classes) == ("out", ("sea", "land"))
    assert tiles.split("val") == ("d_y00000_x00000", "d_y00045_x00000")
    assert tiles.split("train") == (
        *("a_y00000_x00000", "a_y00000_x00006", "c d"),
        *("far__b_y00000_x00000", "far__b_y00036_x00000"),
    )
    # Every pixel of a source image counts once, also those that overlap.
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert (rows["images"], rows["tiles"]) == (["3", "1"], ["5", "2"])
    pixels, land = 40 * 70 + 100 * 33 + 64 * 64, 20 * 69 + 50 * 32 + 32 * 63
    assert rows["land"] == [f"{100 * land / pixels:.1f}", "%", "49.0", "%"]
    assert rows["ignored"] == [f"{100 * (20 + 50 + 32) / pixels:.1f}", "%", "1.0", "%"]
    tile = tiles.tiles["far__b_y00036_x00000"]
    assert (tile.source, tile.top_px, tile.left_px) == ("far__b", 36, 0)
    assert (tile.height_px, tile.width_px) == (64, 33)
    assert tiles.read_image(tile.id)[:, 0, 0].tolist() == list(range(36, 100))
    target = tiles.read_target(tile.id)  # row 50 of the source is its first row of land
    assert target[13, 0] == 0 and target[14, 0] == 255 and target[14, 1] == 1


def test_unknown_colours_of_all_files_come_in_one_error_or_are_ignored(tree, prepare):
    masks = tree / "train" / "masks"
    paint(masks / "a.png", 2, 3, (1, 2, 3))
    paint(masks / "far" / "b.png", 2, 2, (1, 2, 3))
    paint(tree / "val" / "masks" / "d.png", 1, 3, (0, 0, 254))
    err, _ = prepare()
    first, *lines = err[err.index("error:") :].splitlines()
    # 13 of 40 * 70 + 100 * 33 + 64 * 64 + 90 * 50 = 14,696 pixels
    assert "2 colours or values that the class file does not name (0.088% of all" in first
    assert first.endswith("check --label-kind, or give --unknown-to-ignore:")
    assert lines == [
        f"  #010203: 10 pixels (0.068%), e.g. in {masks}/a.png",
        f"  #0000FE: 3 pixels (0.020%), e.g. in {tree}/val/masks/d.png",
    ]
    out, tiles = prepare("--unknown-to-ignore")
    assert "ignored: 10 pixels of the unknown #010203" in out
    target = tiles.read_target("a")
    assert (target[:2, :3] == 255).all() and target[2, 0] == 0


def test_lossy_masks_are_recognised_and_their_colours_not_all_listed(tree, prepare):
    mask = tree / "train" / "masks" / "a.png"
    save(mask.with_suffix(".jpg"), NOISE[:40, :70])
    mask.unlink()
    lines = prepare()[0].splitlines()
    assert any("JPEG blurs colours, masks should be PNG" in line for line in lines)
    assert len([line for line in lines if ", e.g. in " in line]) == 20
    assert lines[-1].startswith("  and ") and lines[-1].endswith(" more")


def test_images_are_prepared_as_a_viewer_shows_them_in_8_bits(tree, prepare):
    folder = tree / "train" / "images"
    row, seen, exif = np.arange(64, dtype=np.uint8), NOISE[:40, :70], Image.Exif()
    save(folder / "a.png", np.full((40, 70), 300, np.uint16))
    assert "a.png has more than 8 bits a channel (uint16); conv" in prepare()[0]
    save(folder / "c d.png", np.broadcast_to(row, (64, 64)))  # grey
    exif[274] = 6  # to be turned clockwise
    save(folder / "a.png", np.rot90(seen), exif=exif)
    _, tiles = prepare()
    np.testing.assert_array_equal(tiles.read_image("a"), seen)
    assert (tiles.read_image("c d") == row[None, :, None]).all()


def touch(folder, *names):
    for name in names:
        save(folder / name, np.zeros((2, 2)))


def ids(splits):
    return {split: [source.id for source in members] for split, members in splits.items()}


@pytest.fixture
def flat(tmp_path):
    """Images a, far/b and c with their masks, in ``images`` and ``masks``."""
    touch(tmp_path / "flat" / "images", "a.jpg", "far/b.tif", "c.png")
    touch(tmp_path / "flat" / "masks", "a.png", "far/b.png", "c.png")
    return tmp_path / "flat"


@pytest.fixture
def sources(flat):
    return find_pairs(flat / "images", flat / "masks")


def split(**given):
    """Splits for the arguments of a command line, None where they are not given."""
    names = ("tree", "images", "labels", "shares", "train_list", "val_list", "test_list")
    return find_splits(argparse.Namespace(**{**dict.fromkeys(names), "seed": 0, **given}))


def test_files_are_paired_by_their_path_below_the_folders(flat, sources):
    assert [source.id for source in sources] == ["a", "c", "far__b"]
    assert sources[2].image.path == flat / "images" / "far" / "b.tif"
    assert sources[2].labels["full"].path == flat / "masks" / "far" / "b.png"
    touch(flat, *(f"images/{name}.png" for name in "defg"), "masks/z.png")
    with pytest.raises(MissingDataError) as caught:
        find_pairs(flat / "images", flat / "masks")
    assert str(caught.value) == (
        f"4 of 7 images have no mask of the same name in {flat}/masks (first: d, e, f), and 1 of 4 "
        f"masks have no image of the same name in {flat}/images (first: z); add the missing files "
        "or remove the others"
    )


def test_names_that_are_not_unique(flat):
    touch(flat, "images/far__b.png", "masks/far__b.png")
    with pytest.raises(DataError, match=r"would both be named 'far__b'; rename one of them"):
        find_pairs(flat / "images", flat / "masks")
    touch(flat, "images/a.png")
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png have the same name; rename or"):
        find_pairs(flat / "images", flat / "masks")


def test_a_tree_that_has_its_splits_in_folders_takes_no_others(tree):
    (tree / "notes").mkdir()
    assert ids(split(tree=tree)) == {"train": ["a", "c d", "far__b"], "val": ["d"]}
    with pytest.raises(ConfigError, match="has its splits in folders; leave out lists and shares"):
        split(tree=tree, shares=[0.8, 0.1, 0.1])
    touch(tree / "val", "images/a.png", "masks/a.png")
    with pytest.raises(DataError, match=r"images/a\.png and .*val/images/a\.png would"):
        find_split_folders(tree)


def test_trees_of_another_layout(tmp_path, flat):
    touch(tmp_path, "two/train/images/a.png", "two/images/a.png", "three/validation/images/a.png")
    (flat / "labels").mkdir()
    for tree, error, sentence in (
        ("nowhere", MissingDataError, "nowhere is not a folder"),
        ("flat/masks", MissingDataError, r"masks has neither SPLIT/images .* nor images"),
        ("two", DataError, r"two has 'images' and train; move one of them out"),
        ("three", DataError, r"has images in validation, which is not a split; rename"),
        ("flat", DataError, "has both 'labels' and 'masks'; give --images and"),
    ):
        with pytest.raises(error, match=sentence):
            split(tree=tmp_path / tree)
    with pytest.raises(MissingDataError, match="two has no folder 'labels' or 'masks'; name it"):
        pair_folders(tmp_path / "two")


def test_arguments_that_the_command_line_must_give(flat):
    images, masks = flat / "images", flat / "masks"
    shares, train_list = [0.34, 0.33, 0.33], flat / "train.txt"
    with pytest.raises(ConfigError, match=r"give --tree, or --images and --labels$"):
        split(images=images, shares=shares)
    with pytest.raises(ConfigError, match="give --tree, or --images and --labels, not both"):
        split(tree=flat, labels=masks, shares=shares)
    for both_or_none in ({"train_list": train_list, "shares": shares}, {}):
        with pytest.raises(ConfigError, match="say how to split: give either --train-list"):
            split(images=images, labels=masks, **both_or_none)
    assert sorted(chain(*ids(split(tree=flat, shares=shares)).values())) == ["a", "c", "far__b"]
    train_list.write_bytes(b"\xef\xbb\xbfa\r\nfar/b\r\n\r\n")  # as Windows editors write it
    (flat / "val.txt").write_text(" c ")
    lists = {"train_list": train_list, "val_list": flat / "val.txt"}
    found = ids(split(images=images, labels=masks, **lists))
    assert found == {"train": ["a", "far__b"], "val": ["c"]}


@pytest.mark.parametrize(
    ("train", "val", "error", "sentence"),
    [
        (b"a\nfar/b", b"c\nx\ny", MissingDataError, r"val\.txt names 2 images .* \(first: x, y\)"),
        (b"a\nfar/b", b"c\na", DataError, "'a' is listed twice, for train and val; list it once"),
        (b"a\nfar/b\na", b"c", DataError, "'a' is listed twice, for train and train; list it"),
        (b"a", b"c", DataError, r"1 of 3 images are in no list \(first: far__b\); list them or"),
        (b"a\nfar/b\nc", b"\n", MissingDataError, r"val\.txt is empty; leave it out or name"),
        (b"a\nfar/b\nc", None, MissingDataError, r"split list .*val\.txt does not exist"),
        (b"\x89PNG\xff", None, DataError, r"train\.txt is not UTF-8 text"),
    ],
)
def test_lists_that_are_wrong(sources, tmp_path, train, val, error, sentence):
    lists = {name: tmp_path / f"{name}.txt" for name in ("train", "val")}
    lists["train"].write_bytes(train)
    if val is not None:
        lists["val"].write_bytes(val)
    with pytest.raises(error, match=sentence):
        split_by_lists(sources, lists)


def test_shares_are_of_source_images_repeatable_and_complete(sources):
    many = [Source(id=f"{i}", image=sources[0].image, labels={}) for i in range(30)]
    found = ids(split_by_shares(many, (0.8, 0.1, 0.1), seed=0))
    assert {name: len(group) for name, group in found.items()} == {"train": 24, "val": 3, "test": 3}
    assert sorted(chain(*found.values())) == sorted(source.id for source in many)
    assert found == ids(split_by_shares(many, (0.8, 0.1, 0.1), seed=0))
    assert found != ids(split_by_shares(many, (0.8, 0.1, 0.1), seed=1))
    assert list(split_by_shares(many, (0.5, 0.5, 0), seed=0)) == ["train", "val"]
    assert len(split_by_shares(many, (0.99, 0.01, 0), seed=0)["val"]) == 1  # never rounded away
    with pytest.raises(ConfigError, match=r"2 images are too few for --shares 0\.8 0\.1 0\.1"):
        split_by_shares(many[:2], (0.8, 0.1, 0.1), seed=0)


@pytest.mark.parametrize(
    "shares", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (0, 0.5, 0.5), (float("nan"), 0.1, 0.1)]
)
def test_shares_that_do_not_sum_to_one(sources, shares):
    with pytest.raises(ConfigError, match="--shares must be three numbers from 0 to 1 that sum"):
        split_by_shares(sources, shares, seed=0)


@pytest.mark.parametrize("palette", [None, np.array([[0, 0, 0], [0, 255, 0]], np.uint8)])
def test_trees_are_prepared_from_their_documented_layout(run_prepare, tmp_path, palette):
    target, root = np.array([[0, 1] * 20] * 36, np.uint8), tmp_path / "set"
    command = ("tree_mapping", "--output", root, "--tree")
    touch(tmp_path / "flat" / "images", "a.png")
    sentence = "flat has no splits; lay it out as TREE/SPLIT/images and TREE/SPLIT/labels, or give"
    assert sentence in run_prepare(*command, tmp_path / "flat")[2]
    for name in ("train", "val"):
        save(tmp_path / "in" / name / "images" / f"{name}_forest.png", NOISE[:36, :40])
        mask = target if palette is None else palette[target]
        save(tmp_path / "in" / name / "labels" / f"{name}_forest.png", mask)
    assert run_prepare(*command, tmp_path / "in")[0] == 0
    tiles = open_tile_set(root)
    assert tiles.classes == ("background", "tree") and tiles.split_name == "folders"
    np.testing.assert_array_equal(tiles.read_target("val_forest"), target)
