"""Pairs and splits of a user's folders, and every way in which they can be wrong."""

from itertools import chain

import numpy as np
import pytest
from PIL import Image

from datasets.preparation.folder import (
    Pair,
    find_pairs,
    find_split_folders,
    find_splits,
    has_split_folders,
    pair_folders,
    split_by_lists,
    split_by_shares,
)
from utils.errors import ConfigError, DataError, MissingDataError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)


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


def split(tree=None, images=None, masks=None, lists=None, shares=None, seed=0):
    return find_splits(
        tree=tree, images=images, masks=masks, lists=lists or {}, shares=shares, seed=seed
    )


def test_pairs_have_one_path_below_their_folders(flat, sources):
    assert [source.id for source in sources] == ["a", "c", "far__b"]
    assert sources[2].image_path == flat / "images" / "far" / "b.tif"
    assert sources[2].mask_path == flat / "masks" / "far" / "b.png"


def test_files_without_their_partner_are_counted_and_named(flat):
    touch(flat / "images", "d.png", "e.png", "f.png", "g.png")
    touch(flat / "masks", "z.png")
    with pytest.raises(MissingDataError) as caught:
        find_pairs(flat / "images", flat / "masks")
    text = str(caught.value)
    assert f"4 of 7 images have no mask of the same name in {flat}/masks" in text
    assert "(first: d, e, f)" in text
    assert f"1 of 4 masks have no image of the same name in {flat}/images (first: z)" in text
    assert text.endswith("add the missing files or remove the others")


def test_names_that_are_not_unique(flat):
    touch(flat / "images", "a.png")
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png have one name; rename or remove"):
        find_pairs(flat / "images", flat / "masks")
    (flat / "images" / "a.png").unlink()
    touch(flat / "images", "far__b.png")
    touch(flat / "masks", "far__b.png")
    with pytest.raises(DataError, match=r"would both be called 'far__b'; rename one of them"):
        find_pairs(flat / "images", flat / "masks")


def test_a_tree_has_its_splits_in_folders(tmp_path):
    for name in ("train", "val"):
        touch(tmp_path / name / "images", f"{name}.png")
        touch(tmp_path / name / ("labels" if name == "val" else "masks"), f"{name}.png")
    (tmp_path / "notes").mkdir()
    assert has_split_folders(tmp_path)
    assert ids(find_split_folders(tmp_path)) == {"train": ["train"], "val": ["val"]}
    assert ids(split(tree=tmp_path)) == {"train": ["train"], "val": ["val"]}
    with pytest.raises(ConfigError, match="has its splits in folders; leave out lists and shares"):
        split(tree=tmp_path, shares=[0.8, 0.1, 0.1])


def test_a_tree_without_splits_is_split_by_shares(flat):
    assert not has_split_folders(flat)
    splits = split(tree=flat, shares=[0.34, 0.33, 0.33])
    assert sorted(chain(*ids(splits).values())) == ["a", "c", "far__b"]
    with pytest.raises(ConfigError, match="say how to split: give either --train-list"):
        split(tree=flat)


def test_trees_that_are_none(tmp_path, flat):
    with pytest.raises(MissingDataError, match="nowhere is not a folder"):
        has_split_folders(tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match=r"masks has neither SPLIT/images .* nor images"):
        has_split_folders(flat / "masks")
    touch(flat / "train" / "images", "a.png")
    with pytest.raises(DataError, match=r"flat has 'images' and train; move one of them out"):
        has_split_folders(flat)
    touch(flat / "validation" / "images", "a.png")
    with pytest.raises(DataError, match=r"has images in validation, which is no split; rename it"):
        has_split_folders(flat)
    with pytest.raises(MissingDataError, match="train has no folder 'labels' or 'masks'; name it"):
        pair_folders(flat / "train")
    (flat / "labels").mkdir()
    with pytest.raises(DataError, match="has both 'labels' and 'masks'; give --images and"):
        pair_folders(flat)


def test_an_image_name_in_two_split_folders(tmp_path):
    for name in ("train", "val"):
        touch(tmp_path / name / "images", "a.png")
        touch(tmp_path / name / "masks", "a.png")
    with pytest.raises(DataError, match=r"train/images/a\.png and .*val/images/a\.png would both"):
        find_split_folders(tmp_path)


def test_what_the_command_line_must_give(flat):
    images, masks = flat / "images", flat / "masks"
    lists = {"train": flat / "train.txt", "val": None}
    shares = [0.8, 0.1, 0.1]
    with pytest.raises(ConfigError, match=r"give --tree, or --images and --labels$"):
        split(images=images, shares=shares)
    with pytest.raises(ConfigError, match="give --tree, or --images and --labels, not both"):
        split(tree=flat, masks=masks, shares=shares)
    for both_or_none in ({"lists": lists, "shares": shares}, {"lists": {"val": None}}):
        with pytest.raises(ConfigError, match="say how to split"):
            split(images=images, masks=masks, **both_or_none)
    (flat / "train.txt").write_text("a\nc\nfar/b\n")
    assert ids(split(images=images, masks=masks, lists=lists)) == {"train": ["a", "c", "far__b"]}


def test_lists_name_images_by_path(sources, tmp_path):
    lists = {name: tmp_path / f"{name}.txt" for name in ("train", "val")}
    lists["train"].write_bytes(b"\xef\xbb\xbfa\r\nfar/b\r\n\r\n")  # as Windows editors write it
    lists["val"].write_text(" c ")
    assert ids(split_by_lists(sources, lists)) == {"train": ["a", "far__b"], "val": ["c"]}


@pytest.mark.parametrize(
    ("train", "val", "error", "sentence"),
    [
        ("a\nfar/b", "c\nx\ny", MissingDataError, r"val\.txt names 2 images .* \(first: x, y\)"),
        ("a\nfar/b", "c\na", DataError, "'a' is listed twice, for train and val; list it once"),
        ("a\nfar/b\na", "c", DataError, "'a' is listed twice, for train and train; list it"),
        ("a", "c", DataError, r"1 of 3 images are in no list \(first: far__b\); list them or"),
        ("a\nfar/b\nc", "\n", MissingDataError, r"val\.txt is empty; leave it out or name"),
        ("a\nfar/b\nc", None, MissingDataError, r"split list .*val\.txt does not exist"),
    ],
)
def test_lists_that_are_wrong(sources, tmp_path, train, val, error, sentence):
    lists = {name: tmp_path / f"{name}.txt" for name in ("train", "val")}
    lists["train"].write_text(train)
    if val is not None:
        lists["val"].write_text(val)
    with pytest.raises(error, match=sentence):
        split_by_lists(sources, lists)


def test_a_list_that_is_no_text(sources, tmp_path):
    (tmp_path / "train.txt").write_bytes(b"\x89PNG\xff")
    with pytest.raises(DataError, match=r"train\.txt is not a text file in UTF-8"):
        split_by_lists(sources, {"train": tmp_path / "train.txt"})


def test_shares_are_of_source_images_repeatable_and_complete(tmp_path):
    many = [Pair(id=f"{i}", image_path=tmp_path, mask_path=tmp_path) for i in range(30)]
    found = ids(split_by_shares(many, (0.8, 0.1, 0.1), seed=0))
    assert {name: len(group) for name, group in found.items()} == {"train": 24, "val": 3, "test": 3}
    assert sorted(chain(*found.values())) == sorted(source.id for source in many)
    assert found == ids(split_by_shares(many, (0.8, 0.1, 0.1), seed=0))
    assert found != ids(split_by_shares(many, (0.8, 0.1, 0.1), seed=1))
    assert list(split_by_shares(many, (0.5, 0.5, 0), seed=0)) == ["train", "val"]
    assert len(split_by_shares(many, (0.99, 0.01, 0), seed=0)["val"]) == 1  # never rounded away


@pytest.mark.parametrize(
    "shares", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (0, 0.5, 0.5), (float("nan"), 0.1, 0.1)]
)
def test_shares_that_are_none(sources, shares):
    with pytest.raises(ConfigError, match="--shares must be three numbers from 0 to 1 that sum"):
        split_by_shares(sources, shares, seed=0)


def test_too_few_images_for_the_shares(sources):
    with pytest.raises(ConfigError, match=r"2 images are too few for --shares 0\.8 0\.1 0\.1"):
        split_by_shares(sources[:2], (0.8, 0.1, 0.1), seed=0)
