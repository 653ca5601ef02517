"""eval.py attribution: each ablation counts what an evaluation with those maps counts."""

import shutil

import numpy as np
import pytest

import eval as eval_script
from datasets.structure_maps import (
    SENSOR,
    MapRecipe,
    map_settings,
    read_manifest,
    read_map,
    store_folder,
    write_manifest,
    write_map,
)
from datasets.tile_set import open_tile_set
from tests.conftest import evaluate, make_config, train_briefly
from tests.test_train import NO_VIT
from utils.files import sha256_of

ABLATIONS = {  # of the recipe below: modalities and names, and why those without a result are not
    ("sam", "zeroed"): None,
    ("sam", "shuffled"): None,
    ("sam", "constant"): None,
    ("sam", "superpixels"): None,
    ("height", "zeroed"): None,
    ("height", "shuffled"): None,
    ("height", "constant"): "same as zeroed",
    ("height", "superpixels"): "holds values",
    ("sam height", "zeroed"): None,
}


def write_store(root, name, recipe, draw):
    """A store of every tile; ``draw`` makes a map of a superpixel map."""
    folder, tiles = store_folder(root, name), open_tile_set(root)
    sources = {tile_id: sha256_of(tiles.image_path(tile_id)) for tile_id in tiles.tiles}
    for tile_id, source in sources.items():
        ids = read_map(store_folder(root, "superpixels") / f"{tile_id}.tif")
        write_map(folder, tile_id, draw(tile_id, ids).astype(np.uint16), source, recipe)
    write_manifest(folder, recipe, sources)


@pytest.fixture(scope="module")
def root(data_root, tmp_path_factory):
    """The drawn scenes with a map that gives the target away, and one of brightness."""
    root = tmp_path_factory.mktemp("attribution") / "scenes"
    shutil.copytree(data_root, root)
    tiles, config = open_tile_set(root), make_config(root, root)
    settings = map_settings(config.structure.sam)
    sam = MapRecipe(generator="sam", settings=settings, weights_sha256="0" * 64)
    height = MapRecipe(generator=SENSOR, settings={"minimum": 0, "maximum": 9}, weights_sha256=None)
    write_store(root, "sam", sam, lambda tile_id, _: tiles.read_target(tile_id) % 255 + 1)
    write_store(
        root, "height", height, lambda tile_id, _: 1 + 250 * tiles.read_image(tile_id)[..., 0]
    )
    return root


@pytest.fixture(scope="module")
def both(root, tmp_path_factory):
    """A network trained on both."""
    short = ("optim.num_epochs=1", "optim.warmup_epochs=0", "structure.modalities=[sam,height]")
    return train_briefly(make_config(root, tmp_path_factory.mktemp("runs"), *NO_VIT, *short))


def attribute(*arguments):
    return evaluate(*arguments, command=eval_script.attribute)


def by_name(result, key):
    names = {(" ".join(e["modalities"]), e["ablation"]): e for e in result["ablations"]}
    return {name: entry.get(key) for name, entry in names.items()}


@pytest.fixture(scope="module")
def whole(both, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, attribute(both, folder)


def test_maps_changed_on_disk_or_by_the_recipe_count_the_same(both, whole, root, tmp_path):
    folder, result = whole
    report, unchanged = evaluate(both, tmp_path / "plain"), result["unchanged"]
    assert unchanged["confusion"] == report["confusion"] and unchanged["miou"] == report["miou"]
    assert unchanged["miou_interval"] == report["interval"]["miou"]
    assert [c["iou"] for c in unchanged["classes"]] == [c["iou"] for c in report["classes"]]
    found = by_name(result, "confusion")
    assert by_name(result, "unmeasured") == ABLATIONS and list(found) == list(ABLATIONS)
    for name in ("sam", "height"):
        absent = evaluate(both, tmp_path / name, f"structure.absent=[{name}]")
        assert found[name, "zeroed"] == absent["confusion"] != report["confusion"]
    changed = shutil.copytree(root, tmp_path / "changed")
    recipe, _ = read_manifest(store_folder(root, "sam"))
    for name, draw in (
        ("constant", lambda _, ids: np.ones_like(ids)),
        ("superpixels", lambda _, ids: ids),
    ):
        write_store(changed, "sam", recipe, draw)
        other = evaluate(both, tmp_path / name, f"data.root={changed}")
        assert found["sam", name] == other["confusion"] != report["confusion"]
    names = {f"attribution.{suffix}" for suffix in ("json", "csv", "png")}
    assert {path.name for path in folder.iterdir()} == names
    assert result["header"]["superpixels"].startswith("read from")


def test_a_single_modality_shuffled_is_the_control_experiment(checkpoint, tmp_path):
    """In zoomed and turned windows; its evaluation reads the other maps in another way."""
    views = ["eval.scales=[0.75, 1]", "eval.turns=2"]
    control = [*views, "structure.control=shuffled"]
    confusion = evaluate(checkpoint.path, tmp_path / "evaluation", *control)["confusion"]
    found = attribute(checkpoint.path, tmp_path / "on", *views)
    shuffled = ("superpixels", "shuffled")
    assert by_name(found, "confusion")[shuffled] == confusion != found["unchanged"]["confusion"]
    # Used with shuffled maps, the network's unchanged maps are the shuffled ones above.
    result = attribute(checkpoint.path, tmp_path / "shuffled", *control)
    assert result["unchanged"]["confusion"] == confusion
    assert result["header"]["unchanged"].startswith("each image with the maps of the next one")
    assert by_name(result, "confusion")[shuffled] != confusion


def test_two_ranks_count_what_one_counts(ranks, both, whole, tmp_path):
    command = ("attribution", "--checkpoint", both, "--output", tmp_path)
    (code, text, errors), other = ranks.script("eval", *command)
    assert code == other[0] == 0, errors
    assert f"report: {tmp_path / 'attribution.json'}" in text and other[1] == ""
    found, expected = ((folder / "attribution.json").read_text() for folder in (tmp_path, whole[0]))
    assert found == expected
