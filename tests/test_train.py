"""Training as a whole: it learns, it resumes bit for bit, two processes equal one."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import make_config, single_process
from train import Run, build_run, train, train_one_epoch
from utils.errors import ConfigError, MissingDataError
from utils.training.checkpoint import load_checkpoint
from utils.training.log import read_rows

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


def test_a_run_learns_and_leaves_what_it_should(data_root, tmp_path):
    overrides = ["optim.num_epochs=12", "optim.lr=5e-3", "eval.every_epochs=6", *NO_VIT]
    run = run_to_the_end(make_config(data_root, tmp_path, *overrides))
    rows = read_rows(run.folder / "metrics.jsonl")
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 12 * 3
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])
    assert [row["step"] for row in rows if row["kind"] == "val"] == [18, 36]
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [event.step for event in events.Images("val/predictions")] == [18, 36]
    assert [event.step for event in events.Scalars("val/iou/building")] == [18, 36]
    names = {path.name for path in run.folder.iterdir()}
    assert names >= {"config.yaml", "environment.json", "best.pth", "last.pth", "train.log"}
    best = load_checkpoint(run.folder / "best.pth")
    assert best.training is None and best.identity.selected_on == "val"
    assert best.identity.maps["superpixels"]["settings"]["segment_size_px"] == 8
    assert best.progress["best_score"] == run.state.best_score > 0


def test_frozen_weights_are_not_in_the_checkpoint_but_named(config):
    run = run_to_the_end(config)
    checkpoint = load_checkpoint(run.folder / "last.pth")
    assert not any(".vit." in key for key in checkpoint.weights)
    assert checkpoint.identity.frozen["rgb_vit"]["name"] == "test_vit"


@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_resume_in_the_middle_of_an_epoch_is_bit_for_bit(data_root, tmp_path, stop_after):
    """Drop path and dropout on, EMA on: six straight steps equal a stop and a second start."""
    overrides = ["model.drop_path=0.3", "run.save_every_steps=1"]
    straight = run_to_the_end(make_config(data_root, tmp_path / "a", *overrides))
    config = make_config(data_root, tmp_path / "b", *overrides)
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
    resumed = run_to_the_end(config)
    assert_same_run(straight.folder, resumed.folder)


def test_kill_minus_nine_and_the_same_command_again(recipe_path, tmp_path):
    command = [sys.executable, "train.py", "--config", str(recipe_path), "run.save_every_steps=1"]
    command += ["optim.num_epochs=4", "eval.every_epochs=4", *NO_VIT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "name=a"], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    process = subprocess.Popen(
        [*command, "name=b"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    last = tmp_path / "runs" / "b" / "last.pth"
    deadline = time.monotonic() + 120
    while not last.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert load_checkpoint(last).progress["step"] < 12
    again = subprocess.run([*command, "name=b"], cwd=ROOT, env=environment, capture_output=True)
    assert again.returncode == 0, again.stderr.decode()
    for name in "ab":
        pictures = (tmp_path / "runs" / name / "pictures").iterdir()
        assert sorted(path.name for path in pictures) == ["run.png", "worst.png"]
    names = [load_checkpoint(tmp_path / "runs" / n / "last.pth").identity.recipe for n in "ab"]
    assert names[0]["name"] == "a" and names[1]["name"] == "b"
    assert_same_run(tmp_path / "runs" / "a", tmp_path / "runs" / "b")


def test_another_recipe_in_the_same_folder_is_refused_with_both_sides(data_root, tmp_path):
    run_to_the_end(make_config(data_root, tmp_path))
    with pytest.raises(ConfigError, match=r"another recipe .*optim\.lr: 0\.01 \| 0\.001"):
        build_run(make_config(data_root, tmp_path, "optim.lr=0.01"), single_process())


def test_a_finished_run_is_not_trained_again(config):
    first = run_to_the_end(config)
    before = (first.folder / "last.pth").read_bytes()
    again = run_to_the_end(config)
    assert again.state.step == first.state.step
    assert (again.folder / "last.pth").read_bytes() == before


def test_controls_train_as_well(data_root, tmp_path):
    for control in ("off", "shuffled"):
        overrides = [f"structure.control={control}", f"name={control}", "optim.num_epochs=1"]
        config = make_config(data_root, tmp_path, *overrides, "optim.warmup_epochs=0", *NO_VIT)
        run = run_to_the_end(config)
        assert (run.state.identity.maps == {}) == (control == "off")


def test_missing_maps_stop_before_the_run_folder_is_made(data_root, tmp_path):
    config = make_config(data_root, tmp_path / "runs", "structure.superpixels.store=none")
    with pytest.raises(MissingDataError, match=r"none are missing or not finished.*generate\.py"):
        build_run(config, single_process())
    assert not (tmp_path / "runs").exists()


def test_environment_is_recorded(config):
    run = build_run(config, replace(single_process()))
    run.log.close()
    environment = json.loads((run.folder / "environment.json").read_text())
    assert environment["world_size"] == 1 and environment["batch"]["samples"] == 2
    assert environment["data"]["maps"]["superpixels"]["settings"]["segment_size_px"] == 8


def test_the_training_loop_fits_one_screen():
    lines = [len(inspect.getsource(part).splitlines()) for part in (train, train_one_epoch)]
    assert sum(lines) <= 60
