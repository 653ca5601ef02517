"""eval.py on source images that lie in several tiles, with the structure maps of each."""

import json

import pytest
import torch
from PIL import Image

from eval import build_subject, evaluate_split, header_of, measure
from generate import generate_store
from tests.conftest import make_config, single_process
from tests.test_train import NO_VIT, run_to_the_end
from tests.test_whole_images import cut, write_tree
from utils.training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on images in tiles, with maps of every tile; its validation images are in four."""
    folder = tmp_path_factory.mktemp("trained")
    tiles = cut(folder / "tiles", write_tree(folder / "tree", [(96, 90), (80, 110)]), 64, 24)
    config = make_config(tiles.root, folder, *NO_VIT, "eval.labels=eroded")
    generate_store(config, "superpixels", tiles, single_process())
    return run_to_the_end(config).folder / "best.pth", tiles


def report_of(trained, output, *overrides, split="val"):
    checkpoint, tiles = load_checkpoint(trained[0]), trained[1]
    config = make_config(tiles.root, output.parent, *NO_VIT, "eval.labels=eroded", *overrides)
    evaluate_split(checkpoint, config, split, output, single_process())
    return json.loads((output / "report.json").read_text())


def test_the_validation_of_training_is_repeated_on_whole_images(trained, tmp_path):
    report = report_of(trained, tmp_path / "a")
    assert report["miou"] == load_checkpoint(trained[0]).progress["best_score"]
    assert report["header"]["unit"] == "source" and report["header"]["images"] == 2
    assert report["header"]["tiles"] == len(trained[1].split("val")) == 8
    assert report["header"]["labels"] == "eroded, computed from the full ones with a disc of 3 px"
    assert [source["name"] for source in report["sources"]] == ["val0", "val1"]
    labels = {protocol["name"]: protocol["labels"] for protocol in report["protocols"]}
    assert set(labels.values()) == {"full", "eroded"} and len(labels) == 4
    assert report["protocols"][0]["miou"] == report["miou"]  # mmsegmentation: all, eroded
    full = next(p for p in report["protocols"] if p["name"] == "all classes")
    assert full["num_pixels"] > report["num_pixels"] and full["miou"] != report["miou"]
    assert (
        f"tiles, split val of folders, SHA-256 {trained[1].split_sha256[:8]}; whole source"
        in (full["sentence"])
    )
    assert report["boundaries"]["iou"] is not None  # of the full labels
    assert Image.open(tmp_path / "a" / "predictions.png").height > 6 * 100


def test_unit_and_control_change_what_is_scored(trained, tmp_path):
    source = report_of(trained, tmp_path / "a", split="train")
    tile = report_of(trained, tmp_path / "b", "eval.unit=tile", split="train")
    assert tile["header"]["unit"] == "tile" and tile["num_pixels"] > source["num_pixels"]
    assert "each tile on its own" in tile["protocols"][0]["sentence"]
    for unit in ("source", "tile"):
        name = f"eval.unit={unit}"
        shuffled = report_of(
            trained, tmp_path / unit, "structure.control=shuffled", name, split="train"
        )
        plain = source if unit == "source" else tile
        assert shuffled["num_pixels"] == plain["num_pixels"]
        assert shuffled["confusion"] != plain["confusion"]


def test_every_tile_is_predicted_with_its_own_maps(trained, tmp_path):
    """Where one tile alone sees, the whole image has its logits, also shuffled and turned."""
    checkpoint, tiles = load_checkpoint(trained[0]), trained[1]
    for more in ((), ("structure.control=shuffled",), ("eval.turns=8", "eval.scales=[0.75,1]")):
        seen = {}
        for unit in ("source", "tile"):
            config = make_config(tiles.root, tmp_path, *NO_VIT, f"eval.unit={unit}", *more)
            subject = build_subject(checkpoint, config, "val", single_process())
            seen[unit] = {}

            def look(batch, prediction, confusion, found=seen[unit]):
                found[batch.tile_ids[0]] = prediction

            measure(subject, "val", single_process(), look)
            assert header_of(subject, "val")["tiles"] == 8
        assert seen["source"].keys() == seen["tile"].keys()
        for name, prediction in seen["source"].items():  # validation tiles do not overlap
            assert torch.equal(prediction, seen["tile"][name])
