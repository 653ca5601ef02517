"""Named splits and the hash that stands for them."""

import hashlib
import json

import pytest

from datasets.preparation import potsdam, vaihingen
from datasets.tile_set import NamedSplit, find_split, split_sha256
from utils.errors import ConfigError, DataError

EXPECTED = {
    "potsdam official": "76e58f05",
    "potsdam geoseg": "782beba0",
    "potsdam ssrs": "59cce715",
    "vaihingen official": "43399d9f",
    "vaihingen geoseg": "b896f8e0",
    "vaihingen ssrs": "6c7c12a3",
}
LISTS = {"train": ("b", "a"), "val": ("c",), "test": ()}


def test_the_hash_is_that_of_the_sorted_lists_without_the_empty_ones():
    text = '{"train":["a","b"],"val":["c"]}'
    assert split_sha256(LISTS) == hashlib.sha256(text.encode()).hexdigest()
    assert split_sha256({"val": ["c"], "train": ["a", "b", "b"]}) == split_sha256(LISTS)
    assert split_sha256({"val": ["b"], "train": ["a", "c"]}) != split_sha256(LISTS)


def test_the_hashes_of_the_published_splits_never_change():
    found = {
        f"{name} {split.name}": split_sha256(split.lists)[:8]
        for name, module in (("potsdam", potsdam), ("vaihingen", vaihingen))
        for split in module.SPLITS.values()
    }
    assert found == EXPECTED


@pytest.mark.parametrize("module", [potsdam, vaihingen])
def test_every_split_says_where_it_comes_from(module):
    for name, split in module.SPLITS.items():
        assert split.name == name and len(split.source) > 20
        assert set(split.lists) <= {"train", "val", "test"}
        json.dumps(split.lists)


def test_a_source_image_in_two_splits_is_refused():
    with pytest.raises(DataError) as error:
        NamedSplit(name="mine", source="me", lists={"train": ("a", "b"), "test": ("b",)})
    assert str(error.value) == (
        "split 'mine': source image 'b' is in the splits train and test; a source image may be in "
        "one split only"
    )


def test_an_unknown_name_gets_the_known_ones():
    known = potsdam.SPLITS.values()
    assert find_split("ssrs", known, "potsdam") is potsdam.SPLITS["ssrs"]
    with pytest.raises(ConfigError, match=r"^--split x is no split of potsdam; it has official, g"):
        find_split("x", known, "potsdam")
