"""Training as a whole: it learns, it resumes bit for bit, and its loop fits one screen."""

import inspect
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train as script
from tests.conftest import make_config, single_process
from train import Run, build_run, train, train_one_epoch
from utils.errors import ConfigError, MissingDataError
from utils.training.checkpoint import load_checkpoint
from utils.training.log import read_rows
from utils.training.validation import Validation

ROOT = Path(__file__).resolve().parent.parent
NO_VIT = ("model.rgb_vit.name=none", "model.structure_vit.name=none")


def run_to_the_end(config) -> Run:
    run = build_run(config, single_process())
    train(run)
    run.log.close()
    return run


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Weights, average, optimiser, counters and random state, and the rows of metrics.jsonl."""
    a, b = load_checkpoint(ours / "last.pth"), load_checkpoint(theirs / "last.pth")
    assert a.progress == b.progress
    flat_a, flat_b = flatten([a.weights, a.training]), flatten([b.weights, b.training])
    assert flat_a.keys() == flat_b.keys() and len(flat_a) > 300
    for key, value in flat_a.items():
        other = flat_b[key]
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        assert same, key

    def rows(folder):
        dropped = {"images_per_s", "data_wait_share", "memory_gib"}
        found = read_rows(folder / "metrics.jsonl")
        return [{k: v for k, v in row.items() if k not in dropped} for row in found]

    assert rows(ours) == rows(theirs) and rows(ours)


def flatten(value, prefix=""):
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {prefix: value}
    return {k: v for key, item in items for k, v in flatten(item, f"{prefix}.{key}").items()}


def test_a_run_learns_and_leaves_its_files(recipe_path, tmp_path, monkeypatch, capsys):
    overrides = ["optim.num_epochs=12", "optim.lr=5e-3", "eval.every_epochs=6", *NO_VIT]
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(recipe_path), *overrides])
    script.main()
    folder = tmp_path / "runs" / "run"
    rows = read_rows(folder / "metrics.jsonl")
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 12 * 3
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])
    val = [row for row in rows if row["kind"] == "val"]
    assert [row["step"] for row in val] == [18, 36]
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Images("val/predictions")] == [18, 36]
    assert [event.step for event in events.Scalars("val/iou/building")] == [18, 36]
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "environment.json", "best.pth", "last.pth", "train.log"}
    pictures = {path.name for path in (folder / "pictures").iterdir()}
    assert pictures == {"run.png", "worst.png"}
    best = load_checkpoint(folder / "best.pth")
    assert best.training is None and best.identity.selected_on == "val"
    assert best.identity.maps["superpixels"]["settings"]["segment_size_px"] == 8
    score = max(row["miou"] for row in val)
    assert best.progress["best_score"] == score > 0
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["world_size"] == 1 and environment["batch"]["samples"] == 2
    assert environment["data"]["maps"]["superpixels"]["settings"]["segment_size_px"] == 8
    said = capsys.readouterr().out
    assert f"best mIoU {100 * score:.2f} on val" in said and "fp32 on 1 x cpu, from step 0" in said


def test_frozen_weights_are_not_in_the_checkpoint_but_named(checkpoint):
    assert not any(".vit." in key for key in checkpoint.weights)
    assert checkpoint.identity.frozen["rgb_vit"]["name"] == "test_vit"


RESUMED = ["model.drop_path=0.3", "run.save_every_steps=1", "optim.accumulate=2", *NO_VIT]


@pytest.fixture(scope="module")
def straight(data_root, tmp_path_factory):
    """Six steps with drop path, dropout, micro-batches and averaged weights."""
    return run_to_the_end(make_config(data_root, tmp_path_factory.mktemp("a"), *RESUMED)).folder


@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_resume_in_the_middle_of_an_epoch_is_bit_for_bit(data_root, tmp_path, straight, stop_after):
    config = make_config(data_root, tmp_path, *RESUMED)
    run = build_run(config, single_process())
    step = run.log.step

    def stop(number, *rest):
        if number > stop_after:
            raise KeyboardInterrupt
        step(number, *rest)

    run.log.step = stop
    with pytest.raises(KeyboardInterrupt):
        train(run)
    run.log.close()
    assert load_checkpoint(run.folder / "last.pth").progress["step"] == stop_after
    assert_same_run(straight, run_to_the_end(config).folder)


def test_a_run_killed_while_validating_repeats_only_the_validation(
    data_root, tmp_path, straight, monkeypatch
):
    config = make_config(data_root, tmp_path, *RESUMED, "run.save_every_steps=1000")
    run = build_run(config, single_process())
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(Validation, "__call__", lambda self: signal.raise_signal(signal.SIGINT))
        train(run)
    run.log.close()
    assert load_checkpoint(run.folder / "last.pth").progress["step"] == 3
    resumed = build_run(config, single_process())
    assert resumed.state.step_in_epoch == resumed.batches.num_batches == 3
    train(resumed)
    resumed.log.close()
    assert_same_run(straight, resumed.folder)


def test_another_recipe_in_the_same_folder_is_refused_with_both_sides(data_root, straight):
    output = straight.parent
    with pytest.raises(ConfigError, match=r"another recipe .*optim\.lr: 0\.01 \| 0\.001"):
        build_run(make_config(data_root, output, *RESUMED, "optim.lr=0.01"), single_process())


def test_a_finished_run_is_not_trained_again(data_root, tmp_path, straight):
    shutil.copytree(straight, tmp_path / "run")
    before = (straight / "last.pth").read_bytes()
    again = run_to_the_end(make_config(data_root, tmp_path, *RESUMED))
    assert again.folder == tmp_path / "run" and again.state.step == 6
    assert (again.folder / "last.pth").read_bytes() == before


@pytest.mark.parametrize("control", ["off", "shuffled"])
def test_controls_train_as_well(data_root, tmp_path, control):
    overrides = [f"structure.control={control}", "optim.num_epochs=1", "optim.warmup_epochs=0"]
    run = run_to_the_end(make_config(data_root, tmp_path, *overrides, *NO_VIT))
    assert (run.state.identity.maps == {}) == (control == "off")


def test_missing_maps_stop_before_the_run_folder_is_made(data_root, tmp_path):
    config = make_config(data_root, tmp_path / "runs", "structure.superpixels.store=none")
    with pytest.raises(MissingDataError, match=r"none are missing or not finished.*generate\.py"):
        build_run(config, single_process())
    assert not (tmp_path / "runs").exists()


def test_the_training_loop_fits_one_screen():
    lines = [len(inspect.getsource(part).splitlines()) for part in (train, train_one_epoch)]
    assert sum(lines) <= 60


def test_import_of_train_does_not_load_rasterio_or_matplotlib():
    code = "import sys, train; print([m for m in ('rasterio', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
