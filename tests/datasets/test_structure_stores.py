import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.rasters import write_raster
from datasets.structure_maps import (
    MapRecipe,
    begin_store,
    check_store,
    is_done,
    map_path,
    read_manifest,
    read_map,
    recipe_problem,
    store_folder,
    write_manifest,
    write_map,
)
from utils.errors import DataError, MissingDataError
from utils.files import sha256_of

RECIPE = MapRecipe(generator="sam", settings={"points": 32, "iou": 0.88}, weights_sha256="ab")
OTHER = MapRecipe(generator="sam", settings={"points": 16, "iou": 0.88}, weights_sha256="ab")
IDS = np.random.default_rng(0).integers(0, 65536, (40, 50)).astype(np.uint16)
WANTED = {"generator": "sam", "settings": {"points": 32, "iou": 0.88}}


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Two images, and a finished store 'maps' for them in tmp_path."""
    images = {name: tmp_path / "images" / f"{name}.tif" for name in "ab"}
    folder = store_folder(tmp_path, "maps")
    for value, (name, path) in enumerate(images.items()):
        write_raster(path, np.full((40, 50, 3), value, np.uint8))
        write_map(folder, name, IDS, sha256_of(path), RECIPE)
    sources = {name: sha256_of(path) for name, path in images.items()}
    write_manifest(folder, RECIPE, sources)
    return images


def test_a_map_is_read_back_with_every_id(tmp_path: Path):
    write_map(tmp_path, "a", IDS, "hash", RECIPE)
    ids = read_map(map_path(tmp_path, "a"))
    assert (ids.dtype, ids.max()) == (np.uint16, IDS.max())
    np.testing.assert_array_equal(ids, IDS)


@pytest.mark.parametrize("ids", [IDS.astype(np.int32), IDS[None]])
def test_only_a_16_bit_map_is_written(tmp_path: Path, ids: np.ndarray):
    with pytest.raises(ValueError, match=r"a structure map is \(H, W\) uint16, not \("):
        write_map(tmp_path, "a", ids, "hash", RECIPE)


def test_a_map_that_cannot_be_used_is_named(tmp_path: Path):
    with pytest.raises(MissingDataError, match=r"a\.tif does not exist"):
        read_map(tmp_path / "a.tif")
    write_map(tmp_path, "a", IDS, "hash", RECIPE)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[:-30])
    with pytest.raises(DataError, match=r"a\.tif is not whole: .* generate it again"):
        read_map(tmp_path / "a.tif")
    Image.new("L", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"is 8-bit, not 16-bit; prepare or generate it again"):
        read_map(tmp_path / "a.tif")


def test_a_map_is_done_for_its_image_and_recipe_only(tmp_path: Path):
    assert not is_done(tmp_path, "a", "hash", RECIPE)
    write_map(tmp_path, "a", IDS, "hash", RECIPE)
    assert is_done(tmp_path, "a", "hash", RECIPE)
    assert not is_done(tmp_path, "b", "hash", RECIPE)
    assert not is_done(tmp_path, "a", "hash of a changed image", RECIPE)
    assert not is_done(tmp_path, "a", "hash", OTHER)


def test_a_map_without_its_record_is_not_done(tmp_path: Path):
    write_raster(map_path(tmp_path, "a"), IDS)
    assert not is_done(tmp_path, "a", "hash", RECIPE)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_map_is_not_done(tmp_path: Path, share: float):
    write_map(tmp_path, "a", IDS, "hash", RECIPE)
    path = map_path(tmp_path, "a")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert not is_done(tmp_path, "a", "hash", RECIPE)


def test_the_digest_takes_in_every_part_and_no_order():
    swapped = MapRecipe(generator="sam", settings={"iou": 0.88, "points": 32}, weights_sha256="ab")
    assert swapped.digest() == RECIPE.digest()
    weights = MapRecipe(generator="sam", settings=RECIPE.settings, weights_sha256="cd")
    generator = MapRecipe(generator="slic", settings=RECIPE.settings, weights_sha256="ab")
    digests = {recipe.digest() for recipe in (RECIPE, OTHER, weights, generator)}
    assert len(digests) == 4


def test_the_manifest_is_read_back(tmp_path: Path):
    write_manifest(tmp_path, RECIPE, {"a": "hash"})
    assert read_manifest(tmp_path) == (RECIPE, {"a": "hash"})


def test_a_missing_or_unfinished_store_says_what_makes_it(tmp_path: Path):
    text = r"the structure maps .*maps are missing or not finished; make them with generate\.py"
    folder = tmp_path / "maps"
    with pytest.raises(MissingDataError, match=text):
        read_manifest(folder)
    begin_store(folder, RECIPE)
    with pytest.raises(MissingDataError, match=text):
        read_manifest(folder)


def test_a_begun_store_goes_on_with_the_same_recipe_only(tmp_path: Path):
    begin_store(tmp_path, RECIPE)
    begin_store(tmp_path, RECIPE)
    with pytest.raises(DataError, match=r"settings\.points: 16 \| 32.*structure\.sam\.store"):
        begin_store(tmp_path, OTHER)
    write_manifest(tmp_path, RECIPE, {"a": "hash"})
    with pytest.raises(DataError, match=r"settings\.points: 16 \| 32"):
        begin_store(tmp_path, OTHER)
    assert read_manifest(tmp_path) == (RECIPE, {"a": "hash"})  # left as it was


def test_another_manifest_format_is_refused(tmp_path: Path):
    write_manifest(tmp_path, RECIPE, {})
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(DataError, match=r"has format 99, this program reads 2; delete .* generate"):
        read_manifest(tmp_path)


def test_only_what_is_wanted_is_compared():
    folder = Path("maps")
    assert recipe_problem(folder, RECIPE, {}) is None
    assert recipe_problem(folder, RECIPE, WANTED) is None
    assert recipe_problem(folder, OTHER, {"generator": "sam", "weights_sha256": "ab"}) is None
    assert "weights_sha256: cd | ab" in (
        recipe_problem(folder, RECIPE, {**WANTED, "weights_sha256": "cd"}) or ""
    )


def test_a_finished_store_passes(tmp_path: Path, images: dict[str, Path]):
    assert check_store(tmp_path, "maps", WANTED, images) == RECIPE
    assert check_store(tmp_path, "maps", WANTED, {"a": images["a"]}) == RECIPE


def test_a_store_of_other_settings_is_refused_with_both_sides(
    tmp_path: Path, images: dict[str, Path]
):
    wanted = {**WANTED, "settings": OTHER.settings}
    both = (
        r"maps was made with other settings \(wanted \| found\): settings\.points: 16 \| 32\. "
        r"Change the recipe, or name another store \(structure\.sam\.store\) and run generate\.py"
    )
    with pytest.raises(DataError, match=both):
        check_store(tmp_path, "maps", wanted, images)


def test_an_incomplete_store_names_the_first_missing_map(tmp_path: Path, images: dict[str, Path]):
    text = r"maps lacks 1 of {} maps \(first: '{}'\); complete it with generate\.py"
    with pytest.raises(MissingDataError, match=text.format(3, "c")):
        check_store(tmp_path, "maps", WANTED, {**images, "c": images["a"]})
    map_path(store_folder(tmp_path, "maps"), "b").unlink()
    with pytest.raises(MissingDataError, match=text.format(2, "b")):
        check_store(tmp_path, "maps", WANTED, images)


def test_a_store_that_a_second_run_has_reopened_is_refused(tmp_path: Path, images: dict[str, Path]):
    begin_store(store_folder(tmp_path, "maps"), RECIPE)
    with pytest.raises(MissingDataError, match=r"are missing or not finished.*generate\.py"):
        check_store(tmp_path, "maps", WANTED, images)


def test_an_image_that_changed_since_is_refused(tmp_path: Path, images: dict[str, Path]):
    write_raster(images["b"], np.full((40, 50, 3), 9, np.uint8))
    with pytest.raises(DataError, match=r"1 images changed .* \(first: 'b'\); run generate\.py"):
        check_store(tmp_path, "maps", WANTED, images)
