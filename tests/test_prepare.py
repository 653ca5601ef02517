"""prepare.py as a command, also on the real data sets where they are at hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.preparation.classes import MaskDecoder, read_class_file
from datasets.tile_set import count_values, is_prepared, open_tile_set, split_sha256
from utils.errors import DataError
from utils.rasters.reading import open_scene

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
DUBAI_CLASSES = ROOT / "configs" / "dubai.classes.json"


@pytest.fixture
def folder(tmp_path):
    """Arguments that prepare three images with index masks."""
    for name in "abc":
        for what, shape in (("images", (40, 50, 3)), ("labels", (40, 50))):
            path = tmp_path / "in" / what / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ones(shape, np.uint8)).save(path)
    classes = tmp_path / "classes.json"
    entries = [{"name": name, "color": [0, 0, i]} for i, name in enumerate("ab")]
    classes.write_text(json.dumps({"classes": entries}))
    return ("folder", "--tree", tmp_path / "in", "--classes", classes, "--shares", 0.6, 0.2, 0.2)


def test_synthetic_twice_is_once(run_prepare, tmp_path):
    counts = ("--train", 2, "--val", 1, "--test", 1, "--size", 96)
    images = ("--images", tmp_path / "images", "--num-images", 2)
    command = ("synthetic", "--output", tmp_path / "set", *counts, *images)
    assert run_prepare(*command)[0] == 0
    assert len(open_tile_set(tmp_path / "set").tiles) == 4
    assert len(list((tmp_path / "images").iterdir())) == 2
    code, out, _ = run_prepare(*command)
    assert code == 0 and "already prepared with these settings" in out


def test_folder_twice_is_once_and_other_settings_are_refused(run_prepare, folder, tmp_path):
    command = (*folder, "--output", tmp_path / "set")
    code, out, _ = run_prepare(*command)
    assert code == 0 and "warning: no training pixel is of class 'a'" in out
    split = json.loads((tmp_path / "set" / "dataset.json").read_text())["split"]
    assert split["source"] == "random shares 0.6 0.2 0.2 of the images, seed 0"
    settings = open_tile_set(tmp_path / "set").prepared_with
    assert settings["shares"] == [0.6, 0.2, 0.2] and settings["seed"] == 0
    classes = settings["classes"]
    assert (classes["names"], classes["colors"]) == (["a", "b"], [[0, 0, 0], [0, 0, 1]])
    assert "workers" not in settings and str(tmp_path / "set") not in json.dumps(settings)
    code, out, _ = run_prepare(*command)
    assert code == 0 and "already prepared with these settings" in out
    code, _, err = run_prepare(*command, "--tile-size", 32)
    assert code == 2 and "(wanted | found): tile_size: 32 | None. Delete it or choose" in err


def test_a_sensor_is_imported_later_and_cut_like_the_images(run_prepare, folder, tmp_path):
    for what in ("images", "labels"):
        (tmp_path / "in" / what / "north").mkdir()
        (tmp_path / "in" / what / "a.png").rename(tmp_path / "in" / what / "north" / "a.png")
    ramp = np.add.outer(100 * np.arange(40), np.arange(50)).astype(np.uint16)
    for name in ("north/a", "b", "c"):
        path = tmp_path / "dsm" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ramp).save(path)
    command = (*folder, "--output", tmp_path / "set", "--tile-size", 32, "--overlap", 8)
    assert run_prepare(*command)[0] == 0
    sensor = ("--sensor", f"dsm={tmp_path / 'dsm'}", "--no-data", 0)
    code, out, _ = run_prepare(*command, *sensor)
    assert code == 0 and "values 1 to 3949; use them with structure.modalities=[..., dsm]" in out
    for name, tile in open_tile_set(tmp_path / "set").tiles.items():
        levels = np.array(Image.open(tmp_path / "set" / "modalities" / "dsm" / f"{name}.tif"))
        part = ramp[tile.slices]
        found = 1 + (levels.astype(np.float64) - 1) / 65534 * 3948
        np.testing.assert_allclose(found[part > 0], part[part > 0], atol=0.1)
        assert (levels[part == 0] == 0).all()


def test_the_split_is_named_after_its_lists(run_prepare, folder, tmp_path):
    lists = []
    for name, images in (("train", "ab"), ("val", "c")):
        (tmp_path / f"{name}.txt").write_text("\n".join(images))
        lists += [f"--{name}-list", tmp_path / f"{name}.txt"]
    code, out, _ = run_prepare(*folder[:-4], *lists, "--output", tmp_path / "set")
    split = json.loads((tmp_path / "set" / "dataset.json").read_text())["split"]
    assert code == 0 and f"split 'lists', SHA-256 {split['sha256'][:8]}..." in out
    assert split["source"] == f"the lists {tmp_path}/train.txt, {tmp_path}/val.txt"
    assert split["sha256"] == split_sha256({"train": "ab", "val": "c"})


def test_a_folder_that_is_something_else_is_left_alone(run_prepare, tmp_path):
    code, _, err = run_prepare("synthetic", "--output", tmp_path)
    assert code == 2 and list(tmp_path.iterdir()) == []
    assert f"{tmp_path} exists and is not a prepared data set; choose another --output" in err
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match=r"other settings \(wanted \| found\): seed: 1 \| None"):
        is_prepared(tmp_path, {"seed": 1})
    (tmp_path / "dataset.json").write_text('{"prepared_with": {"seed": 1}, "format_version": 1}')
    with pytest.raises(DataError, match=r"data set format 1, this program writes 3\. Delete it"):
        is_prepared(tmp_path, {"seed": 1})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--seed", -1), "argument --seed: must be 0 or more, not -1"),
        (("--sensor", "dsm="), "argument --sensor: must be NAME=PATH, NAME=PATH:band:N"),
        (("--sensor", "image=x"), "argument --sensor: 'image' is reserved or no folder name"),
        (("--classes", "x.json"), "error: x.json does not exist"),
        (("--no-data", 3), "--no-data is about --sensor; leave it out"),
        (("--attribute", "kind"), "--attribute is about labels that are polygons; leave it out"),
        (("--background", "a"), "--background is about labels that are polygons; leave it out"),
    ],
)
def test_arguments_that_do_not_go_together(run_prepare, folder, tmp_path, arguments, sentence):
    code, _, err = run_prepare(*folder, *arguments, "--output", tmp_path / "set")
    assert code == 2 and sentence in err
    assert not list(tmp_path.glob("*set*"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not at hand")
def test_dubai_masks_have_the_class_shares_their_readme_states():
    decoder = MaskDecoder(read_class_file(DUBAI_CLASSES))
    counts = np.zeros(256, np.int64)
    for path in sorted((SHARED / "dubai-aerial" / "train" / "masks").iterdir()):
        with open_scene(path) as mask:
            decoded = decoder.decode(mask, slice(None), str(path))
        assert decoded.unknown == {}
        counts += count_values(decoded.target)
    percent = 100 * counts[[0, 1, 2, 3, 4, 255]] / counts.sum()
    assert percent == pytest.approx([14.5, 46.9, 10.2, 13.8, 12.9, 0.4 + 1.3], abs=0.1)
