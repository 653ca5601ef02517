"""Tree mapping: the documented layout, as index and as colour masks."""

import numpy as np
import pytest
from PIL import Image

from datasets.tile_set import open_tile_set

TARGET = np.array([[0, 1] * 20] * 36, np.uint8)
MASKS = {"index": TARGET, "color": np.array([[0, 0, 0], [0, 255, 0]], np.uint8)[TARGET]}


@pytest.mark.parametrize("kind", MASKS)
def test_the_documented_layout_is_prepared(run_prepare, tmp_path, kind):
    for split in ("train", "val"):
        for what, array in (("images", np.full((36, 40, 3), 7, np.uint8)), ("labels", MASKS[kind])):
            path = tmp_path / "in" / split / what / f"{split}_forest.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(array).save(path)
    root = tmp_path / "set"
    assert run_prepare("tree_mapping", "--tree", tmp_path / "in", "--output", root)[0] == 0
    tiles = open_tile_set(root)
    assert tiles.classes == ("background", "tree") and tiles.split_name == "folders"
    np.testing.assert_array_equal(tiles.read_target("val_forest"), TARGET)


def test_a_tree_without_splits_says_what_to_do(run_prepare, tmp_path):
    (tmp_path / "images").mkdir()
    code, _, err = run_prepare("tree_mapping", "--tree", tmp_path, "--output", tmp_path / "set")
    assert code == 2 and err == (
        f"error: {tmp_path} has no splits; lay it out as TREE/SPLIT/images and TREE/SPLIT/labels, "
        "or give a class file and lists or shares to 'prepare.py folder'\n"
    )
