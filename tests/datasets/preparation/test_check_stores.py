"""What the check finds in stores and folders: every fault once, in one line."""

import json
import shutil

import numpy as np
import pytest

from datasets.preparation.check import check_tile_set
from datasets.structure_maps import map_path
from tests.datasets.broken import (
    RECIPES,
    SIZE_PX,
    edit_json,
    fault,
    rewrite_map,
    store,
    texts,
    warning,
    write_store,
)


@pytest.mark.parametrize("member", ["image_path", "target_path"])
def test_a_file_of_no_tile(toy, member):
    path = getattr(toy, member)("e")
    shutil.copy(getattr(toy, member)("a"), path)
    assert fault(toy) == (f"no list names {path}; delete it or prepare the data set again")


def test_a_map_of_no_tile(toy):
    path = map_path(store(toy, "superpixels"), "e")
    shutil.copy(map_path(store(toy, "superpixels"), "a"), path)
    assert fault(toy) == f"no list names {path}; delete it or prepare the data set again"


@pytest.mark.parametrize(
    ("name", "what"), [("dsm", "one value or none"), ("superpixels", "a single segment")]
)
def test_maps_without_structure(toy, name, what):
    rewrite_map(toy, name, "b", np.zeros((SIZE_PX, SIZE_PX)))
    folder = store(toy, name)
    start = f"{folder}: 1 of 4 maps hold {what} (first: 'b'); "
    assert warning(toy) == f"{start}look at them"
    for tile_id in "cd":
        rewrite_map(toy, name, tile_id, np.full((SIZE_PX, SIZE_PX), 5))
    command = "prepare.py sensor" if name == "dsm" else "generate.py"
    assert fault(toy) == (
        f"{folder}: 3 of 4 maps hold {what} (first: 'b'); change its settings and run {command} "
        "again"
    )


def test_an_unfinished_store(toy):
    edit_json(store(toy, "superpixels") / "manifest.json", tiles=None)
    assert fault(toy) == (
        f"the structure maps {store(toy, 'superpixels')} are missing or not finished; make "
        "them with generate.py"
    )


def test_a_store_without_a_manifest(toy):
    (store(toy, "superpixels") / "manifest.json").unlink()
    assert "superpixels are missing or not finished" in fault(toy)


def test_a_damaged_manifest(toy):
    path = store(toy, "dsm") / "manifest.json"
    content = json.loads(path.read_text())
    del content["settings"]
    path.write_text(json.dumps(content))
    assert fault(toy) == (
        f"{path} lacks what a manifest holds (KeyError('settings')); delete {path.parent} and make "
        "it again with generate.py or prepare.py sensor"
    )


@pytest.mark.parametrize("tiles", [["a", "b"], 7])
def test_a_manifest_with_a_strange_list(toy, tiles):
    edit_json(store(toy, "dsm") / "manifest.json", tiles=tiles)
    assert "dsm/manifest.json lacks what a manifest holds (" in fault(toy)


def test_a_file_beside_the_stores(toy):
    path = toy.root / "modalities/notes.txt"
    path.write_text("")
    assert fault(toy) == f"no list names {path}; delete it or prepare the data set again"


def test_a_tile_that_the_manifest_lacks(toy):
    path = store(toy, "dsm") / "manifest.json"
    tiles = json.loads(path.read_text())["tiles"]
    sources = {tile_id: source for tile_id, source in tiles.items() if tile_id != "a"}
    edit_json(path, tiles=sources)
    faults = texts(check_tile_set(toy).faults)
    assert faults == [
        f"{path.parent}: 'a' has no map in its manifest; run prepare.py sensor again",
        f"no list names {map_path(path.parent, 'a')}; delete it or prepare the data set again",
    ]


def test_a_manifest_that_names_no_tile(toy):
    path = store(toy, "dsm") / "manifest.json"
    edit_json(path, tiles={**json.loads(path.read_text())["tiles"], "e": "0"})
    assert fault(toy) == (
        f"{path} names 'e', which is no tile; delete the folder and run prepare.py sensor again"
    )


def test_a_store_of_another_kind(toy):
    edit_json(store(toy, "superpixels") / "manifest.json", kind="values")
    assert fault(toy) == (
        f"{store(toy, 'superpixels')} is declared to hold values, 'superpixels' makes "
        "segments; delete it and run generate.py again"
    )


def test_a_store_of_an_unknown_generator(toy):
    recipe = type(RECIPES["depth"])(generator="magic", settings={}, weights_sha256=None)
    write_store(toy, "magic", recipe)
    text = fault(toy)
    assert text.startswith(f"{store(toy, 'magic')} was made by 'magic', which this program ")
    assert text.endswith("sensor); delete it or take the program that made it")


@pytest.mark.parametrize(
    "place", ["images/.a.0.partial", "modalities/dsm/.parts/x", "../.toy.partial/x"]
)
def test_leftovers_of_killed_runs(toy, place):
    path = toy.root / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    assert "was left by a run that was killed, or belongs to one that is going on" in warning(toy)
