"""infer.py: any sizes, folders kept, broken images named, nothing but images needed."""

import errno
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import infer
import prepare
from datasets.inputs import find_inputs
from datasets.tiles import open_tile_set
from tests.conftest import make_config, single_process
from train import build_run, train
from utils.checkpoint import load_checkpoint
from utils.config import config_from_dict
from utils.errors import ConfigError, DataError
from utils.files import write_png

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def checkpoint(data_root, tmp_path_factory):
    run = build_run(make_config(data_root, tmp_path_factory.mktemp("runs")), single_process())
    train(run)
    run.log.close()
    return load_checkpoint(run.folder / "best.pth")


@pytest.fixture(scope="module")
def segmenter(checkpoint):
    config = config_from_dict(checkpoint.identity.recipe, "recipe")
    return infer.Segmenter(checkpoint, config, single_process().device)


@pytest.fixture
def photos(tmp_path):
    """Images of several sizes and formats, in folders, one name twice."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for name, size in (
        ("a.png", (96, 96)),
        ("a.jpg", (50, 70)),
        ("north/b.tif", (1, 1)),
        ("north/far/c.png", (131, 40)),
        ("grey.png", (33, 20)),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = size if name == "grey.png" else (*size, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return folder


def infer_folder(segmenter, checkpoint, source, output):
    inputs = find_inputs(source, output, None)
    return infer.infer_images(segmenter, checkpoint, inputs, output)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [(1, 1), (1, 150), (65, 64), (20, 30)])
def test_zoomed_and_turned_windows_of_any_size(checkpoint, size):
    overrides = ["eval.scales=[0.5, 1.5]", "eval.turns=8"]
    config = config_from_dict(checkpoint.identity.recipe, "recipe", overrides)
    segmenter = infer.Segmenter(checkpoint, config, single_process().device)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    index = segmenter(image)
    assert index.shape == size and index.dtype == np.uint8 and index.max() < 6


def test_every_image_gets_three_files_of_its_size_in_its_folder(
    segmenter, checkpoint, photos, tmp_path
):
    output = tmp_path / "out"
    infer_folder(segmenter, checkpoint, photos, output)
    names = {"a.png.png", "a.jpg.png", "north/b.png", "north/far/c.png", "grey.png"}
    expected = {f"{kind}/{name}" for kind in ("index", "color", "overlay") for name in names}
    assert files(output) == expected | {"legend.png"}
    index = np.array(Image.open(output / "index/north/far/c.png"))
    color = np.array(Image.open(output / "color/north/far/c.png"))
    assert index.shape == (131, 40) and index.dtype == np.uint8 and index.max() < 6
    assert np.array_equal(color, np.array(checkpoint.identity.palette, np.uint8)[index])


def test_infers_what_evaluation_predicts(segmenter, data_root):
    """The map made on the way equals the stored one, so the prediction does, too."""
    tile_set = open_tile_set(data_root)
    tile_id = tile_set.split("val")[0]
    image = tile_set.read_image(tile_id)
    stored = np.array(Image.open(data_root / "modalities/superpixels" / f"{tile_id}.tif"))
    (generator,) = segmenter._generators.values()
    assert np.array_equal(generator.generate(image), stored)
    assert segmenter(image).shape == image.shape[:2]


def test_broken_images_are_named_and_the_others_done(segmenter, checkpoint, photos, tmp_path):
    whole = (photos / "a.png").read_bytes()
    (photos / "broken.png").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 7 images could not be segmented:\n.*broken\.png"):
        infer_folder(segmenter, checkpoint, photos, tmp_path / "out")
    assert len(files(tmp_path / "out")) == 3 * 5 + 1


def test_an_output_inside_the_input_is_not_read_again(segmenter, checkpoint, photos):
    output = photos / "results"
    for _ in range(2):
        infer_folder(segmenter, checkpoint, photos, output)
    assert len(files(output)) == 3 * 5 + 1


def test_a_full_disk_leaves_no_half_written_file(
    segmenter, checkpoint, photos, tmp_path, monkeypatch
):
    def full(path, array):
        if "overlay" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_png(path, array)

    monkeypatch.setattr(infer, "write_png", full)
    with pytest.raises(OSError, match="No space left"):
        infer_folder(segmenter, checkpoint, photos, tmp_path / "out")
    for name in files(tmp_path / "out"):
        Image.open(tmp_path / "out" / name).load()


def test_the_shuffled_control_is_refused(checkpoint):
    config = config_from_dict(checkpoint.identity.recipe, "recipe", ["structure.control=shuffled"])
    with pytest.raises(
        ConfigError, match=r"a control experiment; infer with structure\.control=on"
    ):
        infer.Segmenter(checkpoint, config, single_process().device)


def test_other_map_settings_are_refused_with_both_sides(checkpoint):
    config = config_from_dict(
        checkpoint.identity.recipe, "recipe", ["structure.superpixels.segment_size_px=20"]
    )
    with pytest.raises(DataError, match=r"settings\.segment_size_px: 20 \| 8"):
        infer.Segmenter(checkpoint, config, single_process().device)


def test_the_command_exits_non_zero_without_a_traceback(checkpoint, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"not a png")
    done = subprocess.run(
        [
            *(sys.executable, "infer.py", "--checkpoint", str(checkpoint.path)),
            *("--input", str(photos), "--output", str(tmp_path / "out")),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "5 of 6 images segmented" in done.stdout
    assert "broken.png cannot be read as an image" in done.stderr
    assert "Traceback" not in done.stderr


def run_infer(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["infer.py", *map(str, arguments)])
    infer.main()


def test_a_submission_of_a_split_is_written_and_passes_the_check(
    checkpoint, data_root, tmp_path, monkeypatch, capsys
):
    """From a prepared data set to a zip that prepare.py check takes, twice the same bytes."""
    arguments = ["--checkpoint", checkpoint.path, "--input", data_root, "--split", "test"]
    outputs = [tmp_path / "one", tmp_path / "two"]
    for output in outputs:
        run_infer(monkeypatch, *arguments, "--submission", "--output", output)
    path = outputs[0] / "submission.zip"
    assert f"{path} holds 2 images as the server takes them" in capsys.readouterr().out
    assert path.read_bytes() == (outputs[1] / "submission.zip").read_bytes()
    tile_set = open_tile_set(data_root)
    with zipfile.ZipFile(path) as packed:
        names = {f"{tile_set.tiles[tile_id].source}.png" for tile_id in tile_set.split("test")}
        assert set(packed.namelist()) == names
        for name in names:
            assert packed.read(name) == (outputs[0] / "index" / name).read_bytes()
    monkeypatch.setattr(
        sys, "argv", ["prepare.py", "check", "--data", str(data_root), "--submission", str(path)]
    )
    prepare.main()
    assert f"{path} holds 2 images" in capsys.readouterr().out


def test_names_that_clash_in_a_submission_are_refused_before_anything_is_computed(
    checkpoint, photos, tmp_path, monkeypatch
):
    arguments = ["--checkpoint", checkpoint.path, "--input", photos, "--output", tmp_path / "out"]
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png would both be a\.png in the sub"):
        run_infer(monkeypatch, *arguments, "--submission")
    assert not (tmp_path / "out").exists()
    (photos / "a.jpg").unlink()
    run_infer(monkeypatch, *arguments, "--submission")
    with zipfile.ZipFile(tmp_path / "out/submission.zip") as packed:
        assert packed.namelist() == ["a.png", "b.png", "c.png", "grey.png"]


def test_no_submission_is_written_of_a_part_of_the_images(
    checkpoint, photos, tmp_path, monkeypatch
):
    (photos / "a.jpg").write_bytes(b"")
    (photos / "a.jpg").rename(photos / "broken.jpg")
    arguments = ["--checkpoint", checkpoint.path, "--input", photos, "--output", tmp_path / "out"]
    with pytest.raises(DataError, match="1 of 5 images could not be segmented"):
        run_infer(monkeypatch, *arguments, "--submission")
    assert not (tmp_path / "out/submission.zip").exists()
