"""eval.py attribution: a tiny network on segments and values, whole and with its branch cut."""

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

MEASURED = [  # ablations of the recipe below
    ("sam", "zeroed"),
    ("sam", "shuffled"),
    ("sam", "constant"),
    ("sam", "superpixels"),
    ("height", "zeroed"),
    ("height", "shuffled"),
    ("all modalities", "zeroed"),
]


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
    sam = MapRecipe(
        generator="sam", settings=map_settings(config.structure.sam), weights_sha256="0" * 64
    )
    height = MapRecipe(generator=SENSOR, settings={"minimum": 0, "maximum": 9}, weights_sha256=None)
    write_store(root, "sam", sam, lambda tile_id, _: tiles.read_target(tile_id) % 255 + 1)
    write_store(
        root, "height", height, lambda tile_id, _: 1 + 250 * tiles.read_image(tile_id)[..., 0]
    )
    return root


@pytest.fixture(scope="module")
def checkpoint(root, tmp_path_factory):
    """Trained on both, with colours that tell the class."""
    overrides = ["optim.num_epochs=8", "optim.lr=5e-3", "structure.modalities=[sam,height]"]
    return train_briefly(make_config(root, tmp_path_factory.mktemp("runs"), *overrides))


def attribute(*arguments):
    return evaluate(*arguments, command=eval_script.attribute)


def measured(result):
    """The entries of measured ablations by modality and name."""
    found = {}
    for entry in result["ablations"]:
        if "unmeasured" not in entry:
            names = entry["modalities"]
            subject = names[0] if len(names) == 1 else "all modalities"
            found[subject, entry["ablation"]] = entry
    return found


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, attribute(checkpoint, folder)


def test_unchanged_maps_score_as_in_the_evaluation(checkpoint, whole, tmp_path):
    report, unchanged = evaluate(checkpoint, tmp_path), whole[1]["unchanged"]
    assert unchanged["confusion"] == report["confusion"]
    assert unchanged["miou"] == report["miou"]
    assert unchanged["miou_interval"] == report["interval"]["miou"]
    assert [c["iou"] for c in unchanged["classes"]] == [c["iou"] for c in report["classes"]]


def test_a_network_that_reads_the_target_off_its_map_needs_it(whole):
    folder, result = whole
    found = measured(result)
    assert list(found) == MEASURED
    shuffled = found["sam", "shuffled"]
    assert shuffled["miou"]["high"] < 0 and shuffled["changed_pixels"] > 0.1
    assert "shuffled loses" in result["verdicts"][0]
    assert result["verdicts"][0].endswith("uses what the encoded map says about the image.")
    for entry in found.values():
        assert np.sum(entry["confusion"]) == np.sum(result["unchanged"]["confusion"])
    reasons = [entry["unmeasured"] for entry in result["ablations"] if "unmeasured" in entry]
    assert reasons == ["same as zeroed", "holds values"]
    names = {f"attribution.{suffix}" for suffix in ("json", "csv", "png")}
    assert {path.name for path in folder.iterdir()} == names


def test_every_ablation_is_what_an_evaluation_with_those_maps_counts(
    checkpoint, whole, root, tmp_path
):
    """Maps changed on disk, or by the recipe, instead of where they are encoded."""
    found = {name: entry["confusion"] for name, entry in measured(whole[1]).items()}
    for name in ("sam", "height"):
        absent = evaluate(checkpoint, tmp_path / name, f"structure.absent=[{name}]")
        assert found[name, "zeroed"] == absent["confusion"]
    changed = tmp_path / "changed"
    recipe, _ = read_manifest(store_folder(root, "sam"))
    for name, draw in (
        ("constant", lambda _, ids: np.ones_like(ids)),
        ("superpixels", lambda _, ids: ids),
    ):
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(root, changed)
        write_store(changed, "sam", recipe, draw)
        report = evaluate(checkpoint, tmp_path / name, f"data.root={changed}")
        assert found["sam", name] == report["confusion"]


def test_a_single_modality_shuffled_is_the_control_experiment(root, tmp_path_factory, tmp_path):
    """In zoomed and turned windows; its evaluation reads the other maps in another way."""
    short = ["optim.num_epochs=1", "optim.warmup_epochs=0"]
    overrides = [*short, "structure.modalities=[sam]", *NO_VIT]
    path = train_briefly(make_config(root, tmp_path_factory.mktemp("runs"), *overrides))
    views = ["eval.scales=[0.75, 1]", "eval.turns=2"]
    control = [*views, "structure.control=shuffled"]
    confusion = evaluate(path, tmp_path / "evaluation", *control)["confusion"]
    found = measured(attribute(path, tmp_path / "on", *views))
    assert found["sam", "shuffled"]["confusion"] == confusion
    # Used with shuffled maps, the network's unchanged maps are the shuffled ones above.
    result = attribute(path, tmp_path / "shuffled", *control)
    assert result["unchanged"]["confusion"] == confusion
    assert result["header"]["unchanged"].startswith("each image with the maps of the next one")
    assert measured(result)["sam", "shuffled"]["confusion"] != confusion


def test_superpixels_are_computed_where_there_is_no_store(checkpoint, whole, tmp_path, capsys):
    result = attribute(checkpoint, tmp_path, "structure.superpixels.store=none")
    origin = result["header"]["superpixels"]
    assert origin.startswith("computed on the fly, because the structure maps")
    assert f"superpixels: {origin}" in capsys.readouterr().out
    assert whole[1]["header"]["superpixels"].startswith("read from")
    assert {**result, "header": None} == {**whole[1], "header": None}


def test_two_ranks_count_what_one_counts(ranks, checkpoint, whole, tmp_path):
    command = ("attribution", "--checkpoint", checkpoint, "--output", tmp_path)
    (code, text, errors), other = ranks.script("eval", *command)
    assert code == other[0] == 0, errors
    assert "the network uses what the encoded map says" in " ".join(text.split())
    assert other[1] == ""
    found, expected = ((folder / "attribution.json").read_text() for folder in (tmp_path, whole[0]))
    assert found == expected
