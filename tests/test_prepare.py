"""prepare.py as a command, also on the real data sets where they are at hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from datasets.tiles import open_tile_set

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not at hand")


def prepare(*arguments):
    command = [sys.executable, "prepare.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done


def synthetic(output, *more):
    counts = ("--train", 2, "--val", 1, "--test", 1, "--size", 96)
    return prepare("synthetic", "--output", output, *counts, *more)


def test_synthetic_twice_is_once_and_other_settings_are_refused(tmp_path):
    images = ("--images", tmp_path / "images", "--num-images", 2)
    assert synthetic(tmp_path / "set", *images).returncode == 0
    assert len(open_tile_set(tmp_path / "set").tiles) == 4
    assert len(list((tmp_path / "images").iterdir())) == 2
    again = synthetic(tmp_path / "set", *images)
    assert again.returncode == 0 and "already prepared with these settings" in again.stdout
    other = synthetic(tmp_path / "set", "--seed", 5)
    assert other.returncode == 2
    assert "was prepared with other settings (wanted | found): seed: 5 | 0" in other.stderr


def test_a_folder_that_is_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    done = synthetic(tmp_path / "mine")
    assert done.returncode == 2
    assert "mine exists and is not a prepared data set; choose another --output" in done.stderr
    assert list((tmp_path / "mine").iterdir()) == []


def test_arguments_that_do_not_go_together(tmp_path):
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps({"classes": [{"name": "a", "color": "#000000"}]}))
    common = ("folder", "--output", tmp_path / "out", "--classes", classes)
    for arguments, sentence in (
        ((), "give --tree, or --images and --labels"),
        (("--images", tmp_path, "--labels", tmp_path), "give either --train-list and --val-list"),
        (("--tree", tmp_path, "--images", tmp_path), "--tree has its splits in folders"),
    ):
        done = prepare(*common, *arguments)
        assert done.returncode == 2 and sentence in done.stderr
    assert not (tmp_path / "out").exists()


@needs_shared
def test_dubai_has_the_class_shares_its_readme_states(tmp_path):
    done = prepare(
        *("folder", "--tree", SHARED / "dubai-aerial", "--output", tmp_path / "dubai"),
        *("--classes", "configs/dubai.classes.json"),
    )
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["images"] == ["32", "16"] and rows["megapixels"] == ["44.0", "22.0"]
    shares = {"building": "14.5", "land": "46.9", "road": "10.2", "vegetation": "13.8"}
    assert {name: rows[name][0] for name in shares} == shares
    assert rows["water"][0] == "12.9" and rows["water"][2] == "17.0"


@needs_shared
def test_loveda_index_masks(tmp_path):
    names = ("background", "building", "road", "water", "barren", "forest", "agricultural")
    classes = [
        {"name": name, "color": f"#0000{index + 1:02X}", "value": index + 1}
        for index, name in enumerate(names)
    ]
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"classes": classes, "ignore": {"values": [0]}}))
    folder = SHARED / "loveda-samples"
    done = prepare(
        *("folder", "--images", folder / "images", "--labels", folder / "labels"),
        *("--classes", path, "--output", tmp_path / "loveda", "--tile-size", 512),
        *("--shares", 0.67, 0.33, 0),
    )
    assert done.returncode == 0, done.stderr
    tiles = open_tile_set(tmp_path / "loveda")
    assert len(tiles.split("train")) == 8 and len(tiles.split("val")) == 4
    assert "warning: no training pixel is of class 'barren'" in done.stdout


@needs_shared
def test_geotiffs_and_their_building_masks(tmp_path):
    path = tmp_path / "classes.json"
    classes = [{"name": "background", "color": "#000000"}, {"name": "building", "color": "#FF0000"}]
    path.write_text(json.dumps({"classes": classes}))
    folder = SHARED / "geotiff-samples"
    done = prepare(
        *("folder", "--images", folder / "images", "--labels", folder / "labels"),
        *("--classes", path, "--output", tmp_path / "tiff", "--shares", 0.5, 0.5, 0),
    )
    assert done.returncode == 0, done.stderr
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("building")]
    assert sorted((row[1], row[3])) == ["1.0", "1.4"]
