"""What the check finds in a tile: every fault once, in one line."""

import shutil

import numpy as np
import pytest

from datasets.preparation.check import check_tile_set
from datasets.structure_maps import map_path
from datasets.tile_set import open_tile_set
from tests.datasets.broken import (
    RECIPES,
    SIZE_PX,
    edit_json,
    fault,
    image_of,
    map_of,
    rewrite,
    rewrite_map,
    store,
    target_of,
    texts,
    truncate,
    warning,
    write_eroded,
)


@pytest.mark.parametrize("member", ["image_path", "target_path"])
def test_a_tile_without_a_member(toy, member):
    path = getattr(toy, member)("b")
    path.unlink()
    assert fault(toy) == f"{path} does not exist; prepare the data set again"


def test_sizes(toy):
    path = toy.target_path("c")
    rewrite(path, target_of("c")[:-1])
    assert fault(toy) == (
        f"{path} is 7 x 8, tiles.csv says 8 x 8 (height x width); prepare the data set again"
    )


def test_size_of_a_map(toy):
    rewrite_map(toy, "superpixels", "c", map_of("c")[:, :-1])
    assert fault(toy) == (
        f"{map_path(store(toy, 'superpixels'), 'c')} is 8 x 7, tiles.csv says 8 x 8 (height x "
        "width); run generate.py again"
    )


def test_unknown_label_values(toy):
    target = target_of("a")
    target[0, :3], target[1, 0] = 7, 254
    rewrite(toy.target_path("a"), target)
    assert fault(toy) == (
        f"{toy.target_path('a')} holds 7 (3 pixels), 254 (1 pixels); the classes are 0..2, "
        "255 = ignore; correct the masks and prepare the data set again"
    )


@pytest.mark.parametrize("member", ["image_path", "target_path"])
def test_a_truncated_tile(toy, member):
    path = getattr(toy, member)("d")
    truncate(path)
    assert fault(toy).startswith(f"{path} is not whole: ")


def test_a_truncated_map(toy):
    path = map_path(store(toy, "depth"), "d")
    truncate(path)
    assert fault(toy).startswith(f"{path} is not whole: ")


def test_a_damaged_header_is_a_fault_and_no_warning_of_pillow(toy, recwarn):
    path = map_path(store(toy, "depth"), "d")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert fault(toy).startswith(f"{path} is no raster as prepare.py and generate.py write them")
    assert not recwarn.list


def test_a_label_in_colours(toy):
    rewrite(toy.target_path("a"), image_of("a"))
    assert fault(toy) == (f"{toy.target_path('a')} is RGB, not 8-bit; prepare or generate it again")


def test_a_constant_depth(toy):
    rewrite_map(toy, "depth", "b", np.full((SIZE_PX, SIZE_PX), 9))
    assert fault(toy) == (
        f"{map_path(store(toy, 'depth'), 'b')} holds one depth only, its image more than one "
        "colour; delete it and run generate.py again"
    )


def test_a_depth_that_is_no_number(toy):
    levels = map_of("b")
    levels[:2] = 0
    rewrite_map(toy, "depth", "b", levels)
    assert fault(toy) == (
        f"{map_path(store(toy, 'depth'), 'b')} has no depth in 25.0% of its pixels; delete it "
        "and run generate.py again"
    )


def test_a_sensor_may_have_gaps(toy):
    levels = map_of("b")
    levels[:2] = 0
    rewrite_map(toy, "dsm", "b", levels)
    findings = check_tile_set(toy)
    assert not findings.faults
    assert findings.summary()["stores"]["dsm"]["empty_share"] == 16 / 256


def test_an_image_that_changed(toy):
    rewrite(toy.image_path("a"), image_of("x"))
    faults = texts(check_tile_set(toy).faults)
    assert faults == [
        f"{toy.image_path('a')} changed after its map in {store(toy, name)} was made; "
        f"run {'prepare.py sensor' if name == 'dsm' else 'generate.py'} again"
        for name in sorted(RECIPES)
    ]


def test_a_map_of_another_recipe(toy):
    shutil.copy(map_path(store(toy, "depth"), "a"), map_path(store(toy, "superpixels"), "a"))
    assert fault(toy) == (
        f"{map_path(store(toy, 'superpixels'), 'a')} says that it was made from another image "
        "or with other settings than the manifest records; delete it and run generate.py again"
    )


def test_a_missing_map(toy):
    folder = store(toy, "dsm")
    map_path(folder, "a").unlink()
    assert fault(toy) == f"{folder}: 'a' has no map; run prepare.py sensor again"


def test_a_file_of_another_format(toy):
    path = map_path(store(toy, "depth"), "d")
    path.write_bytes(b"no image")
    assert fault(toy).startswith(f"{path} is no raster as prepare.py and generate.py write them")


def test_eroded_labels_are_examined_like_the_others(toy):
    toy = write_eroded(toy)
    assert check_tile_set(toy).faults == []
    path = toy.target_path("c", "eroded")
    path.unlink()
    assert fault(toy) == f"{path} does not exist; prepare the data set again"
    rewrite(path, np.full((SIZE_PX, SIZE_PX), 3, np.uint8))
    assert fault(toy).startswith(f"{path} holds 3 (64 pixels); the classes are 0..2")


def test_eroded_labels_do_not_change_the_histogram(toy):
    before = check_tile_set(toy).splits
    assert check_tile_set(write_eroded(toy)).splits == before


def test_an_eroded_label_with_other_classes(toy):
    write_eroded(toy)
    rewrite(toy.target_path("c", "eroded"), target_of("a"))  # its first row is no water
    assert warning(toy) == (
        f"{toy.target_path('c', 'eroded')} holds other classes than the full label in 8 pixels; "
        "compare the two"
    )


def test_eroded_labels_that_are_not_declared(toy):
    write_eroded(toy)
    edit_json(toy.root / "dataset.json", labels=["full"])
    faults = texts(check_tile_set(open_tile_set(toy.root)).faults)
    assert faults == [
        f"no list names {toy.target_path(name, 'eroded')}; delete it or prepare the data set again"
        for name in "abcd"
    ]
