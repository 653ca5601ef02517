"""Labels and splits of training and scoring: full or eroded, hidden, those of another set."""

import shutil

import numpy as np
import pytest

from datasets.loaders import build_eval_loader, build_train_loader
from datasets.rasters import write_raster
from datasets.tile_set import open_tile_set
from eval import attribute, evaluate_split
from tests.conftest import evaluate, make_config, single_process, train_briefly
from tests.datasets.broken import edit_json
from tests.test_train import NO_VIT
from train import build_run
from utils.errors import ConfigError, DataError, MissingDataError
from utils.evaluation.morphology import erode
from utils.evaluation.protocols import plan_split_labels
from utils.training.checkpoint import load_checkpoint


@pytest.fixture
def eroded(data_root, tmp_path):
    """A copy with eroded labels: the left half of every tile is ignored."""
    root = tmp_path / "scenes"
    shutil.copytree(data_root, root)
    tile_set = open_tile_set(root)
    for tile_id in tile_set.tiles:
        target = tile_set.read_target(tile_id)
        target[:, : target.shape[1] // 2] = 255
        write_raster(tile_set.target_path(tile_id, "eroded"), target)
    edit_json(root / "dataset.json", labels=["full", "eroded"])
    return root


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory):
    """A checkpoint without ViTs."""
    config = make_config(data_root, tmp_path_factory.mktemp("runs"), *NO_VIT)
    return load_checkpoint(train_briefly(config))


def report_of(trained, root, output, kind):
    overrides = (f"data.root={root}", f"eval.labels={kind}")
    return evaluate(trained.path, output / kind, *overrides, split="test")


def ignored_fractions(loader):
    return [float((batch.target == 255).float().mean()) for batch in loader]


def test_training_and_scoring_take_the_labels_asked_for(eroded, tmp_path):
    tile_set = open_tile_set(eroded)
    whole = ["data.scale_range=[1,1]", "data.crop_size_px=96", "data.dihedral=false"]
    for train, score in (("full", "eroded"), ("eroded", "full")):
        kinds = [f"data.labels={train}", f"eval.labels={score}"]
        config = make_config(eroded, tmp_path, *whole, *kinds)
        half = {"full": 0.0, "eroded": 0.5}
        loader, _ = build_train_loader(config, tile_set, single_process())
        assert ignored_fractions(loader) == [half[train]] * 3
        labels = plan_split_labels(tile_set, "val", score).read
        loader = build_eval_loader(config, tile_set, "val", single_process(), labels)
        assert ignored_fractions(loader) == [half[score]] * 3


def test_reports_name_and_count_the_labels_and_missing_eroded_ones_are_computed(
    trained, eroded, tmp_path
):
    tile_set = open_tile_set(eroded)
    full = report_of(trained, eroded, tmp_path, "full")
    assert full["header"]["labels"] == "full" and np.sum(full["confusion"]) == 2 * 96 * 96
    assert full["header"]["lists"] == f"synthetic, SHA-256 {tile_set.split_sha256}"
    assert trained.identity.split == {"name": "synthetic", "sha256": tile_set.split_sha256}
    last = tile_set.split("test")[1]
    tile_set.target_path(last, "eroded").unlink()
    made = report_of(trained, eroded, tmp_path, "eroded")  # of all tiles, never a mixture
    assert made["header"]["labels"] == "eroded, computed from the full ones with a disc of 3 px"
    targets = [erode(tile_set.read_target(tile_id)) for tile_id in tile_set.split("test")]
    assert made["num_pixels"] == sum(int((target != 255).sum()) for target in targets)

    shutil.rmtree(eroded / "labels")
    edit_json(eroded / "dataset.json", labels=["eroded"])
    half = tile_set.read_target(tile_set.split("test")[0], "eroded")
    write_raster(tile_set.target_path(last, "eroded"), half)
    own = report_of(trained, eroded, tmp_path, "eroded")
    assert own["header"]["labels"] == "eroded, as published with the data set"
    assert np.sum(own["confusion"]) == 96 * 96
    assert own["boundaries"]["iou"] is None
    names = [protocol["name"] for protocol in own["impossible_protocols"]]
    assert names == ["VSGNet config", "all classes"]
    with pytest.raises(MissingDataError, match="has no full labels, only eroded; prepare it"):
        report_of(trained, eroded, tmp_path, "full")


def test_labels_that_are_not_there_are_one_sentence_before_anything_is_written(data_root, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.rare_class_share: needs labels=full"):
        make_config(data_root, tmp_path, "data.labels=eroded", "data.rare_class_share=0.5")
    config = make_config(data_root, tmp_path / "runs", "data.labels=eroded", *NO_VIT)
    with pytest.raises(MissingDataError, match="has no eroded labels, only full; prepare it"):
        build_run(config, single_process())
    root = tmp_path / "scenes"
    shutil.copytree(data_root, root)
    edit_json(root / "dataset.json", labels=["eroded"])
    config = make_config(root, tmp_path / "runs", "data.labels=eroded", *NO_VIT)
    with pytest.raises(MissingDataError, match="has no full labels, only eroded; prepare it"):
        build_run(config, single_process())
    assert not (tmp_path / "runs").exists()


def test_a_training_image_in_another_split_is_refused(data_root, tmp_path):
    root = shutil.copytree(data_root, tmp_path / "scenes")
    brief = ("optim.num_epochs=1", "optim.warmup_epochs=0")
    config = make_config(root, tmp_path, *NO_VIT, *brief)
    best = train_briefly(config)
    train, val = root / "splits" / "train.txt", root / "splits" / "val.txt"
    first, *others = train.read_text().splitlines()
    train.write_text("\n".join(others))
    val.write_text(val.read_text() + first)
    edit_json(root / "dataset.json", split={"name": "mine", "source": "here", "unlabelled": []})
    seen = rf"^1 of 4 images of the split val of {root} were trained on \(first: '{first}'\); score"
    for command in (evaluate_split, attribute):
        with pytest.raises(DataError, match=seen):
            evaluate(best, tmp_path / "out", command=command)
    then, now = (open_tile_set(each).split_sha256[:8] for each in (data_root, root))
    both = rf"'synthetic' \({then}\) of synthetic, {root} has 'mine' \({now}\), so images may"
    with pytest.raises(DataError, match=both):
        build_run(config, single_process())
