"""Runs that are killed or interrupted, and resumed by the same command."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from tests.test_train import NO_VIT, assert_same_run, run_to_the_end
from utils.config import load_config
from utils.errors import run_command
from utils.training.checkpoint import load_checkpoint
from utils.training.log import read_rows

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def overrides_of(num_steps, name):
    overrides = [f"name={name}", f"optim.num_epochs={num_steps // 3}", "eval.every_epochs=2"]
    return [*overrides, "run.save_every_steps=1", "model.drop_path=0.3", *NO_VIT]


def start(recipe_path, num_steps):
    command = [sys.executable, "train.py", "--config", str(recipe_path), "data.num_workers=2"]
    command += overrides_of(num_steps, "killed")
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL)


def progress(last):
    """Steps in a checkpoint, which must be whole whenever it is read."""
    return load_checkpoint(last).progress["step"] if last.is_file() else 0


def logged_steps(folder):
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [event.step for event in events.Scalars("train/loss")]


@pytest.mark.parametrize("num_kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_nothing(recipe_path, tmp_path, num_kills):
    num_steps = 12 if num_kills == 3 else 48
    straight = run_to_the_end(load_config(recipe_path, overrides_of(num_steps, "straight"))).folder
    folder, rng = tmp_path / "runs" / "killed", random.Random(0)
    last, while_writing = folder / "last.pth", 0
    for number in range(num_kills):
        process = start(recipe_path, num_steps)
        enough = progress(last) + rng.randint(0, 2)
        while progress(last) < enough and process.poll() is None:
            time.sleep(0.002)
        deadline = time.monotonic() + 20
        if number % 2:
            while not list(folder.glob(".last.pth*.partial")) and time.monotonic() < deadline:
                pass
        else:
            time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        while_writing += bool(list(folder.glob(".last.pth*.partial")))
    assert while_writing and 0 < progress(last) < num_steps
    run_to_the_end(load_config(recipe_path, overrides_of(num_steps, "killed")))
    assert_same_run(straight, folder)
    assert logged_steps(folder) == logged_steps(straight) == list(range(1, num_steps + 1))
    assert not list(folder.glob(".*.partial"))
    best = [load_checkpoint(f / "best.pth") for f in (folder, straight)]
    assert best[0].progress == best[1].progress


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_is_saved(
    recipe_path, tmp_path, monkeypatch, capsys, number
):
    def set_learning_rate(optimizer, lr):
        if (seen := seen_steps.append(lr) or len(seen_steps)) == 4:
            os.kill(os.getpid(), number)
        assert seen <= 4

    seen_steps, real = [], train.set_learning_rate
    monkeypatch.setattr(
        train, "set_learning_rate", lambda *given: (set_learning_rate(*given), real(*given))
    )
    overrides = ["run.save_every_steps=1000", "optim.num_epochs=300", *NO_VIT]
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(recipe_path), *overrides])
    with pytest.raises(SystemExit) as end:
        run_command(train.main)
    assert end.value.code == 128 + number
    assert "stopped and saved; run the same command again to resume" in capsys.readouterr().err
    folder = tmp_path / "runs" / "run"
    assert progress(folder / "last.pth") == 4
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4]
