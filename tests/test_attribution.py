"""eval.py attribution: a tiny network on segments and values, whole and with its branch cut."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

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
from models.vsgnet import VSGNet
from tests.conftest import make_config, single_process, train_briefly
from utils.config import config_from_dict
from utils.errors import ConfigError
from utils.files import read_rgb, sha256_of
from utils.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
CHANGES = [  # of the recipe below, that are tried
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


def attribute(checkpoint, output, *overrides, split="val"):
    loaded = load_checkpoint(checkpoint)
    config = config_from_dict(loaded.identity.recipe, "recipe", list(overrides))
    eval_script.attribute(loaded, config, split, output, single_process())
    return json.loads((output / "attribution.json").read_text())


def tried(result):
    return [entry for entry in result["changes"] if "unmeasured" not in entry]


def name_of(entry):
    names = entry["modalities"]
    return (names[0] if len(names) == 1 else "all modalities", entry["change"])


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, attribute(checkpoint, folder)


def test_as_it_is_is_what_the_evaluation_counts(checkpoint, whole, tmp_path):
    loaded = load_checkpoint(checkpoint)
    config = config_from_dict(loaded.identity.recipe, "recipe", [])
    eval_script.evaluate_split(loaded, config, "val", tmp_path, single_process())
    report = json.loads((tmp_path / "report.json").read_text())
    as_it_is = whole[1]["as_it_is"]
    assert as_it_is["confusion"] == report["confusion"]
    assert as_it_is["miou"] == report["miou"]
    assert as_it_is["miou_interval"] == report["interval"]["miou"]
    assert [c["iou"] for c in as_it_is["classes"]] == [c["iou"] for c in report["classes"]]


def test_a_network_that_reads_the_target_off_its_map_needs_it(whole):
    found = {name_of(entry): entry for entry in tried(whole[1])}
    assert list(found) == CHANGES
    shuffled = found["sam", "shuffled"]
    assert shuffled["miou"]["high"] < 0 and shuffled["moved"] > 0.1
    assert "shuffled costs" in whole[1]["reading"][0]
    assert whole[1]["reading"][0].endswith(
        "the network uses what the encoded map says of the image."
    )
    for entry in found.values():
        assert sum(map(sum, entry["confusion"])) == sum(map(sum, whole[1]["as_it_is"]["confusion"]))
    reasons = [entry["unmeasured"] for entry in whole[1]["changes"] if "unmeasured" in entry]
    assert reasons == ["is zeroed already", "holds values"]


def test_every_change_is_what_an_evaluation_with_those_maps_would_count(
    checkpoint, whole, root, tmp_path
):
    """Maps changed on disk, or by the recipe, instead of where they are encoded."""

    def evaluate(name, *overrides):
        loaded = load_checkpoint(checkpoint)
        config = config_from_dict(loaded.identity.recipe, "recipe", list(overrides))
        output = tmp_path / name
        eval_script.evaluate_split(loaded, config, "val", output, single_process())
        return json.loads((output / "report.json").read_text())["confusion"]

    found = {name_of(entry): entry["confusion"] for entry in tried(whole[1])}
    assert found["sam", "zeroed"] == evaluate("a", "structure.absent=[sam]")
    assert found["height", "zeroed"] == evaluate("b", "structure.absent=[height]")
    changed = tmp_path / "changed"
    recipe, _ = read_manifest(store_folder(root, "sam"))
    for name, draw in (
        ("constant", lambda _, ids: np.ones_like(ids)),
        ("superpixels", lambda _, ids: ids),
    ):
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(root, changed)
        write_store(changed, "sam", recipe, draw)
        assert found["sam", name] == evaluate(name, f"data.root={changed}")


VIEWS = ["eval.scales=[0.75, 1]", "eval.turns=2"]


def test_a_single_modality_shuffled_is_the_control_experiment(root, tmp_path_factory, tmp_path):
    """Also in zoomed and turned windows; its evaluation reads the other maps in another way."""
    overrides = ["optim.num_epochs=2", "structure.modalities=[sam]"]
    runs = tmp_path_factory.mktemp("runs")
    path = train_briefly(make_config(root, runs, *overrides))
    loaded = load_checkpoint(path)
    counts = []
    for name, settings in (("plain", []), ("views", VIEWS)):
        shuffled = [*settings, "structure.control=shuffled"]
        config = config_from_dict(loaded.identity.recipe, "recipe", shuffled)
        eval_script.evaluate_split(loaded, config, "val", tmp_path / name, single_process())
        report = json.loads((tmp_path / name / "report.json").read_text())
        found = {name_of(e): e for e in tried(attribute(path, tmp_path / "on", *settings))}
        assert found["sam", "shuffled"]["confusion"] == report["confusion"]
        # As it is, a network used with shuffled maps sees what shuffled was above.
        control = attribute(path, tmp_path / "shuffled", *shuffled)
        assert control["as_it_is"]["confusion"] == report["confusion"]
        assert control["header"]["as it is"].startswith("every image with the maps of the next one")
        third = {name_of(e): e["confusion"] for e in tried(control)}["sam", "shuffled"]
        counts += [report["confusion"], third]
    assert len({str(confusion) for confusion in counts}) == 4


def test_a_network_whose_branch_is_cut_does_not_change(checkpoint, tmp_path, monkeypatch, capsys):
    forward = VSGNet.forward
    monkeypatch.setattr(
        VSGNet,
        "forward",
        lambda self, image, structure: forward(self, image, torch.full_like(structure, 0.5)),
    )
    result = attribute(checkpoint, tmp_path)
    assert [name_of(entry) for entry in tried(result)] == CHANGES
    nothing = {"difference": 0.0, "low": 0.0, "high": 0.0}
    occurs = [entry["iou"] is not None for entry in result["as_it_is"]["classes"]]
    assert any(occurs)
    for entry in tried(result):
        assert entry["miou"] == nothing and entry["moved"] == 0
        for found, known in zip(entry["classes"], occurs, strict=True):
            assert found["difference"] == (0 if known else None)
            assert found["low"] == found["high"] == found["difference"]
        assert entry["confusion"] == result["as_it_is"]["confusion"]
    said = "no pixel is predicted otherwise, so the network does not use it."
    assert [line.endswith(said) for line in result["reading"]] == [True, True, True, False]
    assert "0.00 to 0.00" in capsys.readouterr().out


def test_every_file_is_written_and_they_agree(whole):
    folder, result = whole
    assert {path.name for path in folder.iterdir()} == {
        f"attribution.{suffix}" for suffix in ("txt", "json", "csv", "png")
    }
    text = (folder / "attribution.txt").read_text()
    assert "is zeroed already" in text and "holds values" in text
    with (folder / "attribution.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 * 7  # changes, tried or not; the mean and six classes
    mean = {(r["modality"], r["change"]): r for r in rows if r["class"] == "mean"}
    for entry in tried(result):
        row = mean[name_of(entry)]
        found = [float(row[key]) for key in ("difference", "low", "high", "moved")]
        assert found == [*entry["miou"].values(), entry["moved"]]
        low, high = (f"{100 * entry['miou'][end]:+.2f}" for end in ("low", "high"))
        for zero in ("+0.00", "-0.00"):
            low, high = low.replace(zero, "0.00"), high.replace(zero, "0.00")
        assert f"{low} to {high}" in text
    assert mean["height", "superpixels"]["unmeasured"] == "holds values"
    assert mean["height", "superpixels"]["difference"] == ""
    picture = read_rgb(folder / "attribution.png")
    assert picture.shape[1] == 900 and picture.shape[0] > 900


def test_superpixels_are_made_where_there_is_no_store(checkpoint, whole, tmp_path, capsys):
    result = attribute(checkpoint, tmp_path, "structure.superpixels.store=none")
    origin = result["header"]["superpixels"]
    assert origin.startswith("made on the way, for the structure maps")
    assert f"superpixels: {origin}" in capsys.readouterr().out
    assert whole[1]["header"]["superpixels"].startswith("read from")
    assert {**result, "header": None} == {**whole[1], "header": None}


def test_two_processes_count_what_one_counts(checkpoint, tmp_path):
    command = ["eval.py", "attribution", "--checkpoint", str(checkpoint)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    texts = []
    for launcher in ([], torchrun):
        output = tmp_path / str(len(texts))
        done = subprocess.run(
            [sys.executable, *launcher, *command, "--output", str(output)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "the network uses what the encoded map says" in " ".join(done.stdout.split())
        texts.append((output / "attribution.json").read_text())
    assert texts[0] == texts[1]


def test_a_network_without_structure_is_refused(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"best\.pth: structure\.control is off, so the second"):
        attribute(checkpoint, tmp_path, "structure.control=off")
    command = ["attribution", "--checkpoint", str(checkpoint), "structure.control=off"]
    done = subprocess.run(
        [sys.executable, "eval.py", *command, "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_help_tells_what_the_command_does():
    command = [sys.executable, "eval.py", "attribution", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "makes of its structure maps" in done.stdout and "attribution_SPLIT" in done.stdout
