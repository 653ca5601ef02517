"""eval.py attribution: each ablation counts what an evaluation with those maps counts."""

import shutil

import numpy as np
import pytest

import eval as eval_script
from datasets.structure_maps import (
    MapRecipe,
    map_settings,
    read_map,
    store_folder,
    write_manifest,
    write_map,
)
from datasets.tile_set import open_tile_set
from tests.conftest import evaluate, make_config, train_briefly
from tests.test_train import NO_VIT
from utils.files import sha256_of


def write_sam_maps(root, draw):
    """Maps of every tile; ``draw`` makes one of a superpixel map."""
    folder, tiles = store_folder(root, "sam"), open_tile_set(root)
    settings = map_settings(make_config(root, root).structure.sam)
    recipe = MapRecipe(generator="sam", settings=settings, weights_sha256="0" * 64)
    sources = {tile_id: sha256_of(tiles.image_path(tile_id)) for tile_id in tiles.tiles}
    for tile_id, source in sources.items():
        ids = read_map(store_folder(root, "superpixels") / f"{tile_id}.tif")
        write_map(folder, tile_id, draw(tile_id, ids).astype(np.uint16), source, recipe)
    write_manifest(folder, recipe, sources)


@pytest.fixture(scope="module")
def root(data_root, tmp_path_factory):
    """The drawn scenes with maps that give the target away."""
    root = shutil.copytree(data_root, tmp_path_factory.mktemp("attribution") / "scenes")
    write_sam_maps(root, lambda tile_id, _: open_tile_set(root).read_target(tile_id) % 255 + 1)
    return root


@pytest.fixture(scope="module")
def network(root, tmp_path_factory):
    short = ("optim.num_epochs=1", "optim.warmup_epochs=0", "structure.modalities=[sam]")
    return train_briefly(make_config(root, tmp_path_factory.mktemp("runs"), *NO_VIT, *short))


def attribute(*arguments):
    return evaluate(*arguments, command=eval_script.attribute)


def confusions(result):
    return {entry["ablation"]: entry["confusion"] for entry in result["ablations"]}


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, attribute(network, folder)


def test_maps_changed_on_disk_or_by_the_recipe_count_the_same(network, whole, root, tmp_path):
    result = whole[1]
    report, unchanged = evaluate(network, tmp_path / "plain"), result["unchanged"]
    assert unchanged["confusion"] == report["confusion"] and unchanged["miou"] == report["miou"]
    assert unchanged["miou_interval"] == report["interval"]["miou"]
    assert [c["iou"] for c in unchanged["classes"]] == [c["iou"] for c in report["classes"]]
    assert result["header"]["superpixels"].startswith("read from")
    found = confusions(result)
    assert list(found) == ["zeroed", "shuffled", "constant", "superpixels"]
    changed = shutil.copytree(root, tmp_path / "changed")
    for name, draw in (
        ("constant", lambda _, ids: np.ones_like(ids)),
        ("superpixels", lambda _, ids: ids),
    ):
        write_sam_maps(changed, draw)
        other = evaluate(network, tmp_path / name, f"data.root={changed}")
        assert found[name] == other["confusion"] != report["confusion"]


def test_shuffled_maps_are_the_control_experiment(network, tmp_path):
    """In zoomed and turned windows; its evaluation reads the other maps in another way."""
    views = ["eval.scales=[0.75, 1]", "eval.turns=2"]
    control = [*views, "structure.control=shuffled"]
    confusion = evaluate(network, tmp_path / "evaluation", *control)["confusion"]
    result = attribute(network, tmp_path / "on", *views)
    assert confusions(result)["shuffled"] == confusion != result["unchanged"]["confusion"]
    # Used with shuffled maps, the network's unchanged maps are the shuffled ones above.
    result = attribute(network, tmp_path / "shuffled", *control)
    assert result["unchanged"]["confusion"] == confusion != confusions(result)["shuffled"]
    assert result["header"]["unchanged"].startswith("each image with the maps of the next one")


def test_two_ranks_count_what_one_counts(ranks, network, whole, tmp_path):
    command = ("attribution", "--checkpoint", network, "--output", tmp_path)
    (code, text, errors), other = ranks.script("eval", *command)
    assert code == other[0] == 0, errors
    assert f"report: {tmp_path / 'attribution.json'}" in text and other[1] == ""
    found, expected = ((folder / "attribution.json").read_text() for folder in (tmp_path, whole[0]))
    assert found == expected
