"""What the check finds in lists: every fault once, in one line."""

import pytest

from datasets.preparation.check import check_tile_set
from datasets.tile_set import TileSet, open_tile_set
from tests.datasets.broken import (
    fault,
    rewrite,
    rewrite_list,
    target_of,
    texts,
    warning,
)


def edit_tiles(toy: TileSet, old: str, new: str) -> None:
    path = toy.root / "tiles.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_offsets(toy):
    edit_tiles(toy, "d,d,0,0,8,8", "d,d,-1,0,8,8")
    assert fault(toy) == (
        "tiles.csv puts 'd' at row -1, column 0 with 8 x 8 pixels (height x width); prepare the "
        "data set again"
    )


def test_evaluated_tiles_that_overlap(toy):
    edit_tiles(toy, "d,d,0,0,8,8", "d,c,2,0,8,8")
    rewrite_list(toy, "val", "c\nd\n")
    (toy.root / "splits/test.txt").unlink()
    faults = texts(check_tile_set(open_tile_set(toy.root)).faults)
    assert faults == [
        "tiles of 'c' (val) overlap in 48 pixels, which would count twice; prepare the data set "
        "again"
    ]


def test_a_hole_in_an_image(toy):
    edit_tiles(toy, "d,d,0,0,8,8", "d,d,0,8,8,8")
    assert warning(toy) == (
        "no tile holds 64 pixels of 'd', 8 x 16 (height x width); prepare the data set again if "
        "you did not leave them out"
    )


def test_names_that_occur_twice(toy):
    rewrite_list(toy, "val", "c\nc\n")
    assert fault(toy) == (f"{toy.root}/splits/val.txt names 'c' 2 times; delete the others")


def test_a_tile_without_a_split(toy):
    rewrite_list(toy, "train", "a\n")
    assert warning(toy) == (
        f"'b' is in no split; add it to a list in {toy.root}/splits if it is to be used"
    )


def test_a_split_without_tiles(toy):
    rewrite_list(toy, "test", "")
    assert f"{toy.root} has no tile in test; train.py and eval.py cannot use it" in texts(
        check_tile_set(open_tile_set(toy.root)).warnings
    )


def test_a_tile_twice_in_the_table(toy):
    edit_tiles(toy, "d,d,0,0,8,8\n", "d,d,0,0,8,8\nd,d,0,0,8,8\n")
    assert fault(toy) == f"{toy.root}/tiles.csv names 'd' 2 times; delete the others"


@pytest.mark.parametrize("content", [None, "", "id,0,1\na,1,2\n", "id,0,1,2,ignored\na,1,2,x,0\n"])
def test_a_histogram_that_is_not_there_or_damaged(toy, content):
    path = toy.root / "histogram.csv"
    path.unlink()
    if content is not None:
        path.write_text(content)
    said = fault(toy)
    assert said.startswith(f"{path} ") and said.endswith("prepare the data set again")
    assert ("does not exist" in said) == (content is None)


def test_a_histogram_of_other_tiles(toy):
    path = toy.root / "histogram.csv"
    path.write_text(path.read_text().replace("\nd,", "\ne,"))
    assert texts(check_tile_set(toy).faults) == [
        f"{path} lacks 'd'; prepare the data set again",
        f"{path} lists 'e'; prepare the data set again",
    ]


def test_a_histogram_of_other_labels(toy):
    rewrite(toy.target_path("c"), target_of("a"))
    assert fault(toy) == (
        f"{toy.root}/histogram.csv counts other pixels than the label of 'c' holds; prepare the "
        "data set again"
    )
