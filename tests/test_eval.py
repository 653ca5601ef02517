"""eval.py: its files, and the same integers from one and from two processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eval as eval_script
from datasets.preparation.writer import TileSetWriter
from datasets.tile_set import open_tile_set
from tests.conftest import make_config, single_process, train_briefly
from utils.config import config_from_dict
from utils.errors import ConfigError, DataError, MissingDataError
from utils.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def checkpoint(data_root, tmp_path_factory):
    overrides = ["optim.num_epochs=6", "optim.lr=5e-3"]
    return train_briefly(make_config(data_root, tmp_path_factory.mktemp("runs"), *overrides))


def evaluate(checkpoint, output, *overrides, split="val"):
    loaded = load_checkpoint(checkpoint)
    config = config_from_dict(loaded.identity.recipe, "recipe", list(overrides))
    eval_script.evaluate_split(loaded, config, split, output, single_process())
    return json.loads((output / "report.json").read_text())


def test_repeats_the_score_of_the_validation_during_training(checkpoint, tmp_path):
    report = evaluate(checkpoint, tmp_path)
    assert report["miou"] == load_checkpoint(checkpoint).progress["best_score"]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("report.txt", "report.html", "report.json", "per_class.csv"),
        *("confusion.png", "confidence.png", "predictions.png"),
    }


def test_the_page_shows_tiles_and_what_a_window_costs(checkpoint, tmp_path):
    cost = evaluate(checkpoint, tmp_path)["cost"]
    assert cost["window_px"] == [64, 64] and cost["batch_size"] == 4  # scenes of 96 px, windows 64
    assert cost["num_trainable"] > 1e5 and cost["num_frozen"] > 1e5 and cost["flops"] > 1e7
    page = (tmp_path / "report.html").read_text()
    for title in ("Worst tiles", "Tiles spread over the split"):
        assert page.count(f"<h2>{title}</h2>") == 1
    names = open_tile_set(Path(load_checkpoint(checkpoint).identity.recipe["data"]["root"]))
    for tile in names.split("val"):
        assert page.count(f"prediction of {tile}") == 2  # as a bad one, and as any one
    assert "GFLOPs for a window of 64x64 px" in (tmp_path / "report.txt").read_text()


@pytest.mark.parametrize(("split", "num_images", "ranks"), [("val", 3, 2), ("train", 7, 3)])
def test_many_processes_count_what_one_counts(checkpoint, tmp_path, split, num_images, ranks):
    """Images that the ranks do not divide; threads are left as each launcher sets them."""
    command = ["eval.py", "--checkpoint", str(checkpoint), "--split", split]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    reports = []
    for launcher in ([], torchrun):
        output = tmp_path / str(len(reports))
        done = subprocess.run(
            [sys.executable, *launcher, *command, "--output", str(output)],
            cwd=ROOT,
            env={key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        reports.append(json.loads((output / "report.json").read_text()))
    pages = [(tmp_path / name / "report.html").read_text() for name in "01"]
    worst = [re.findall(r"<h3>(\S+: mIoU [\d.]+)</h3>", page) for page in pages]
    assert worst[0] == worst[1] and len(worst[0]) == min(num_images, eval_script.NUM_PANEL_ROWS)
    # With another number of threads the logits differ in their last digits, and nothing else does.
    assert all(report.pop("cost")["latency_s"] > 0 for report in reports)
    errors = [report.pop("calibration")["error"] for report in reports]
    assert errors[0] == pytest.approx(errors[1], abs=1e-6)
    assert reports[0] == reports[1]
    assert reports[0]["header"]["images"] == num_images
    assert num_images * 90 * 90 < sum(map(sum, reports[0]["confusion"])) <= num_images * 96 * 96


def test_means_may_leave_out_classes(checkpoint, tmp_path):
    plain = evaluate(checkpoint, tmp_path / "a")
    report = evaluate(checkpoint, tmp_path / "b", "eval.mean_without=[clutter]")
    assert report["confusion"] == plain["confusion"]
    iou = [entry["iou"] for entry in plain["classes"][:-1] if entry["iou"] is not None]
    assert report["miou"] == pytest.approx(sum(iou) / len(iou))
    assert [entry["in_mean"] for entry in report["classes"]] == [True] * 5 + [False]
    assert report["protocols"] == plain["protocols"]


def test_the_protocols_are_what_their_settings_give(checkpoint, tmp_path):
    """The same network, asked for each protocol by the settings of an evaluation."""
    plain = evaluate(checkpoint, tmp_path / "a")
    miou = {protocol["name"]: protocol["miou"] for protocol in plain["protocols"]}
    settings = {
        "all classes": (),
        "mmsegmentation": ("eval.labels=eroded",),
        "GeoSeg, SSRS": ("eval.labels=eroded", "eval.mean_without=[clutter]"),
    }
    for name, overrides in settings.items():
        report = evaluate(checkpoint, tmp_path / "b", *overrides)
        assert report["miou"] == miou[name]
        assert report["protocols"] == plain["protocols"]
    assert len(miou) == len(settings) + 1 == len(set(miou.values()))  # and that of VSGNet


def test_unknown_class_outside_the_mean_is_refused(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"eval.mean_without names cow; the data set has imperv"):
        evaluate(checkpoint, tmp_path / "out", "eval.mean_without=[cow]")


def test_structure_can_be_taken_away_for_an_evaluation(checkpoint, tmp_path):
    plain = evaluate(checkpoint, tmp_path / "a")
    shuffled = evaluate(checkpoint, tmp_path / "b", "structure.control=shuffled")
    assert plain["confusion"] != shuffled["confusion"]


def test_zoomed_and_turned_windows_are_averaged_and_named_in_the_report(checkpoint, tmp_path):
    plain = evaluate(checkpoint, tmp_path / "a")
    augmented = evaluate(checkpoint, tmp_path / "b", "eval.scales=[0.75, 1]", "eval.turns=8")
    assert plain["header"]["views"] == "scales 1; turns 1"
    assert augmented["header"]["views"] == "scales 0.75, 1; turns 8"
    sums = [sum(map(sum, report["confusion"])) for report in (plain, augmented)]
    assert plain["confusion"] != augmented["confusion"] and sums[0] == sums[1]
    assert augmented["oa"] > plain["oa"] - 0.05  # the geometry is undone: no turned prediction


def eval_command(*arguments):
    """The command line as users call it; its exit code, output and errors."""
    command = [sys.executable, "eval.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_evaluations_are_compared_by_the_command_line(checkpoint, tmp_path):
    reports = evaluate(checkpoint, tmp_path / "as trained")
    other = evaluate(checkpoint, tmp_path / "off", "structure.control=shuffled")
    places = [tmp_path / "as trained", tmp_path / "off"]
    code, output, _ = eval_command("compare", *places)
    assert code == 0 and "structure\n  as trained  on: superpixels" in output
    found = json.loads((places[0] / "compare" / "compare.json").read_text())
    gain = found["differences"][0]["miou"]["value"]
    assert gain == pytest.approx(other["miou"] - reports["miou"])
    assert found["runs"][0]["miou"]["low"] == pytest.approx(reports["interval"]["miou"][0])
    evaluate(checkpoint, tmp_path / "test", split="test")
    code, output, errors = eval_command(
        "compare", places[0], tmp_path / "test", "--output", tmp_path / "none"
    )
    assert code == 2 and output == "" and not (tmp_path / "none").exists()
    assert errors.startswith("error: ") and errors.endswith("such reports cannot be compared\n")
    assert "report.json has the split val, " in errors and "has the split test;" in errors


def test_other_classes_are_refused_with_both_sides(checkpoint, data_root, tmp_path):
    tiles = open_tile_set(data_root)
    meta = {"palette": tiles.palette[:2], "origin": "", "prepared_with": {}}
    with TileSetWriter(tmp_path / "two", name="two", classes=("sea", "land"), **meta):
        pass
    with pytest.raises(DataError, match=r"knows the classes impervious .*; .*two has sea, land"):
        evaluate(checkpoint, tmp_path / "out", f"data.root={tmp_path / 'two'}")


def test_unknown_split_names_those_there_are(checkpoint, tmp_path):
    with pytest.raises(MissingDataError, match="has no split 'tset'; it has test, train, val"):
        evaluate(checkpoint, tmp_path / "out", split="tset")


def test_errors_leave_no_traceback(tmp_path):
    code, _, errors = eval_command("--checkpoint", tmp_path / "none.pth")
    assert code == 2
    assert errors.startswith("error: the checkpoint") and "Traceback" not in errors
