"""eval.py: what its reports count, on one rank and on two, and what it refuses."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import eval as eval_script
from datasets.preparation.writer import TileSetWriter
from datasets.tile_set import open_tile_set
from generate import generate_store
from tests.conftest import evaluate, make_config, single_process, train_briefly
from tests.test_train import NO_VIT
from tests.test_whole_images import cut, write_tree
from utils.errors import ConfigError, DataError, MissingDataError
from utils.evaluation.setup import load_setup, measure
from utils.reports.report import header_of
from utils.training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory):
    overrides = ["optim.num_epochs=6", "optim.lr=5e-3"]
    return train_briefly(make_config(data_root, tmp_path_factory.mktemp("runs"), *overrides))


@pytest.fixture(scope="module")
def plain(trained, tmp_path_factory):
    """The folder of an evaluation on val, and its report."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, evaluate(trained, folder)


def test_the_score_of_training_is_repeated_beside_tiles_and_the_cost_of_a_window(trained, plain):
    folder, report = plain
    assert report["miou"] == load_checkpoint(trained).progress["best_score"]
    assert report["cost"]["window_px"] == [64, 64]  # scenes of 96 px, windows of 64
    page = (folder / "report.html").read_text()
    tile_set = open_tile_set(Path(load_checkpoint(trained).identity.recipe["data"]["root"]))
    for tile in tile_set.split("val"):
        assert page.count(f"prediction of {tile}") == 2  # among the worst, and among all


def test_the_same_evaluation_gives_the_same_bytes(trained, plain, tmp_path):
    evaluate(trained, tmp_path)
    first, again = ({p.name: p.read_bytes() for p in f.iterdir()} for f in (plain[0], tmp_path))
    assert first == again and len(first) == 6


def test_two_ranks_count_what_one_counts(ranks, trained, tmp_path):
    """Seven images, which two ranks share unevenly."""
    report, output = evaluate(trained, tmp_path / "one", split="train"), tmp_path / "two"
    command = ("--checkpoint", trained, "--split", "train", "--output", output)
    (code, text, errors), other = ranks.script("eval", *command)
    assert code == other[0] == 0, errors
    assert f"report: {output / 'report.html'}" in text and other[1] == ""  # one rank reports
    pages = [(tmp_path / run / "report.html").read_text() for run in ("one", "two")]
    worst = [re.findall(r"<h3>(\S+: mIoU [\d.]+)</h3>", page) for page in pages]
    assert worst[0] == worst[1] and len(worst[0]) == eval_script.NUM_PANEL_ROWS
    shared = json.loads((output / "report.json").read_text())
    # Sums of confidences differ in their last digits with the order, and nothing else does.
    calibrations = [found.pop("calibration") for found in (report, shared)]
    assert calibrations[0]["error"] == pytest.approx(calibrations[1]["error"], abs=1e-6)
    assert calibrations[0]["bin_pixels"] == calibrations[1]["bin_pixels"]
    assert report == shared and report["header"]["images"] == 7
    assert 7 * 90 * 90 < sum(map(sum, report["confusion"])) <= 7 * 96 * 96


def test_a_protocol_is_what_its_settings_give(trained, plain, tmp_path):
    """The same network, asked for a protocol by the settings of an evaluation."""
    report = plain[1]
    miou = {protocol["name"]: protocol["miou"] for protocol in report["protocols"]}
    assert len(set(miou.values())) == len(miou) == 4 and miou["all classes"] == report["miou"]
    found = evaluate(trained, tmp_path, "eval.labels=eroded", "eval.mean_without=[clutter]")
    assert found["miou"] == miou["GeoSeg, SSRS"] and found["protocols"] == report["protocols"]
    assert [entry["in_mean"] for entry in found["classes"]] == [True] * 5 + [False]
    iou = [entry["iou"] for entry in found["classes"][:-1] if entry["iou"] is not None]
    assert found["miou"] == pytest.approx(sum(iou) / len(iou))
    assert found["num_pixels"] < report["num_pixels"]


def test_evaluations_are_compared_on_the_command_line(trained, plain, run_script, tmp_path):
    (folder, report), shuffled = plain, tmp_path / "shuffled"
    other = evaluate(trained, shuffled, "structure.control=shuffled", "eval.turns=2")
    assert other["confusion"] != report["confusion"]
    assert report["header"]["views"] == "scales 1; turns 1"
    assert other["header"]["views"] == "scales 1; turns 2"
    names = (f"plain={folder}", f"shuffled={shuffled}", "--output", tmp_path / "compare")
    code, output, _ = run_script("eval", "compare", *names)
    assert code == 0 and "structure\n  plain     on: superpixels" in output
    found = json.loads((tmp_path / "compare" / "compare.json").read_text())
    gain = found["differences"][0]["miou"]["value"]
    assert gain == pytest.approx(other["miou"] - report["miou"])
    assert found["runs"][0]["miou"]["low"] == pytest.approx(report["interval"]["miou"][0])


def test_wrong_requests_are_refused_in_one_sentence(trained, data_root, tmp_path):
    tiles = open_tile_set(data_root)
    meta = {"palette": tiles.palette[:2], "origin": "", "prepared_with": {}}
    with TileSetWriter(tmp_path / "two", name="two", classes=("sea", "land"), **meta):
        pass
    for error, text, overrides, split in (
        (
            DataError,
            r"best\.pth was trained on the classes impervious .*; .*two has sea, land",
            [f"data.root={tmp_path / 'two'}"],
            "val",
        ),
        (
            ConfigError,
            r"eval\.mean_without names cow; the data set has imperv",
            ["eval.mean_without=[cow]"],
            "val",
        ),
        (MissingDataError, "has no split 'tset'; it has test, train, val", [], "tset"),
    ):
        with pytest.raises(error, match=text):
            evaluate(trained, tmp_path / "out", *overrides, split=split)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """A run on images in tiles, with maps of every tile; each validation image is in four."""
    folder = tmp_path_factory.mktemp("tiled")
    tiles = cut(folder / "tiles", write_tree(folder / "tree", [(96, 90), (80, 110)]), 64, 24)
    config = make_config(tiles.root, folder, *NO_VIT, "eval.labels=eroded")
    generate_store(config, "superpixels", tiles, single_process())
    return train_briefly(config), tiles


def test_source_images_in_tiles_are_scored_as_a_whole(tiled, tmp_path):
    checkpoint, tiles = tiled
    report = evaluate(checkpoint, tmp_path)
    header = report["header"]
    assert report["miou"] == load_checkpoint(checkpoint).progress["best_score"]
    assert (header["unit"], header["images"], header["tiles"]) == ("source", 2, 8)
    assert header["labels"] == "eroded, computed from the full ones with a disc of 3 px"
    assert [source["name"] for source in report["sources"]] == ["val0", "val1"]
    protocols = {protocol["name"]: protocol for protocol in report["protocols"]}
    assert protocols["mmsegmentation"]["miou"] == report["miou"]  # all classes, eroded
    full = protocols["all classes"]
    assert full["num_pixels"] > report["num_pixels"] and full["miou"] != report["miou"]
    conditions = f"tiles, split val of folders, SHA-256 {tiles.split_sha256[:8]}; whole source"
    assert conditions in full["sentence"]
    assert report["boundaries"]["iou"] is not None  # on the full labels
    assert report["cost"]["window_px"] == [40, 55]  # the largest tile; the others are 48 x 45
    assert Image.open(tmp_path / "predictions.png").height > 6 * 100


def test_attribution_draws_source_images_not_tiles(tiled, tmp_path):
    result = evaluate(tiled[0], tmp_path, "eval.labels=full", command=eval_script.attribute)
    assert result["interval"]["num_sources"] == 2 and result["header"]["tiles"] == 8


def test_every_tile_is_predicted_with_its_own_maps(tiled, tmp_path):
    """Where one tile alone sees, the whole image has its logits, also shuffled and turned."""
    checkpoint, tiles = load_checkpoint(tiled[0]), tiled[1]
    views = ("eval.turns=8", "eval.scales=[0.75,1]")
    for more in ((), ("structure.control=shuffled", *views)):
        seen = {"source": {}, "tile": {}}
        for unit, found in seen.items():
            config = make_config(tiles.root, tmp_path, *NO_VIT, f"eval.unit={unit}", *more)
            setup = load_setup(checkpoint, config, "val", single_process())

            def observe(batch, prediction, confusion, found=found):
                found[batch.tile_ids[0]] = prediction

            measure(setup, "val", single_process(), observe)
            assert header_of(setup, "val")["tiles"] == len(found) == 8
        for name, prediction in seen["source"].items():  # validation tiles do not overlap
            assert torch.equal(prediction, seen["tile"][name])
