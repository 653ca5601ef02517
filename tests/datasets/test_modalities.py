from dataclasses import asdict, replace

import numpy as np
import pytest

from datasets.modalities import (
    MapRecipe,
    begin_store,
    check_store,
    is_done,
    map_path,
    read_manifest,
    read_map,
    store_folder,
    write_manifest,
    write_map,
)
from utils.errors import DataError, MissingDataError
from utils.files import sha256_of, write_png

RECIPE = MapRecipe(generator="superpixels", settings={"size": 8}, weights_sha256=None)
IDS = np.array([[0, 1, 2], [3, 65535, 4]], np.uint16)


@pytest.fixture
def store(tmp_path):
    """A finished store of two tiles in a data set that has their images."""
    folder = store_folder(tmp_path, "superpixels")
    sources = {}
    for value, name in enumerate("ab"):
        image = tmp_path / "images" / f"{name}.png"
        write_png(image, np.full((2, 3, 3), value, np.uint8))
        sources[name] = sha256_of(image)
        write_map(folder, name, IDS, sources[name], RECIPE)
    write_manifest(folder, RECIPE, sources)
    return folder


def check(store, wanted=None, names="ab"):
    root = store.parent.parent
    images = {name: root / "images" / f"{name}.png" for name in names}
    wanted = wanted or {"generator": "superpixels", "settings": {"size": 8}}
    return check_store(root, "superpixels", wanted, images)


def test_maps_come_back_as_they_were_written(store):
    ids = read_map(map_path(store, "a"))
    assert ids.dtype == np.int32 and np.array_equal(ids, IDS)
    with pytest.raises(ValueError, match="a segment map is"):
        write_map(store, "c", IDS.astype(np.int32), "", RECIPE)


def test_done_means_this_image_and_this_recipe(store):
    source = read_manifest(store)[1]["a"]
    assert is_done(store, "a", source, RECIPE)
    assert not is_done(store, "a", "another image", RECIPE)
    assert not is_done(store, "a", source, replace(RECIPE, settings={"size": 9}))
    assert not is_done(store, "a", source, replace(RECIPE, weights_sha256="1"))
    assert not is_done(store, "c", source, RECIPE)
    map_path(store, "a").write_bytes(b"\x89PNG")
    assert not is_done(store, "a", source, RECIPE)


def test_the_digest_depends_on_the_values_not_on_their_order():
    one = replace(RECIPE, settings={"a": 1, "b": 2})
    assert one.digest() == replace(RECIPE, settings={"b": 2, "a": 1}).digest()
    assert one.digest() != replace(RECIPE, settings={"a": 2, "b": 1}).digest()


def test_a_good_store_passes_and_gives_its_recipe(store):
    assert check(store) == RECIPE


def test_other_settings_are_refused_with_both_sides_and_the_remedy(store):
    wanted = {"generator": "superpixels", "settings": {"size": 9}}
    with pytest.raises(DataError, match=r"\(wanted \| found\): settings\.size: 9 \| 8\..*generate"):
        check(store, wanted)
    with pytest.raises(DataError, match=r"weights_sha256: abc \| None"):
        check(store, {**asdict(RECIPE), "weights_sha256": "abc"})
    with pytest.raises(DataError, match=r"size: 9 \| 8"):
        begin_store(store, replace(RECIPE, settings={"size": 9}))
    assert check(store) == RECIPE


def test_incomplete_stale_and_missing_stores_are_refused(store):
    with pytest.raises(MissingDataError, match=r"lacks 1 of 3 maps \(first: 'c'\).*generate\.py"):
        check(store, names="abc")
    map_path(store, "b").unlink()
    with pytest.raises(MissingDataError, match="lacks 1 of 2 maps"):
        check(store)
    write_png(store.parent.parent / "images" / "a.png", np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(DataError, match=r"1 images changed after .* \(first: 'a'\).*generate\.py"):
        check(store, names="a")
    begin_store(store, RECIPE)  # as an interrupted second run leaves it
    with pytest.raises(MissingDataError, match=r"are missing or not finished.*generate\.py"):
        check(store)


def test_a_truncated_or_8_bit_map_is_refused(store):
    path = map_path(store, "a")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_map(path)
    write_png(path, IDS.astype(np.uint8))
    with pytest.raises(DataError, match=r"is not a 16-bit map \(mode L\); generate it again"):
        read_map(path)
