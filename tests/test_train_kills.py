"""Runs that are killed or interrupted, and resumed by the same command."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from tests.test_train import NO_VIT, assert_same_run, run_to_the_end
from utils.config import load_config
from utils.training.checkpoint import load_checkpoint
from utils.training.log import read_rows

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


NUM_STEPS = 12  # four epochs


def overrides_of(name):
    overrides = [f"name={name}", "optim.num_epochs=4", "eval.every_epochs=2"]
    return [*overrides, "run.save_every_steps=1", "model.drop_path=0.3", *NO_VIT]


def start(recipe_path):
    command = [sys.executable, "train.py", "--config", str(recipe_path), "data.num_workers=2"]
    command += overrides_of("killed")
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL)


def progress(last):
    """Steps in a checkpoint, which must be whole whenever it is read."""
    return load_checkpoint(last).progress["step"] if last.is_file() else 0


def logged_steps(folder):
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [event.step for event in events.Scalars("train/loss")]


def test_kills_at_random_moments_change_nothing(recipe_path, tmp_path):
    straight = run_to_the_end(load_config(recipe_path, overrides_of("straight"))).folder
    folder, rng = tmp_path / "runs" / "killed", random.Random(0)
    last, while_writing = folder / "last.pth", 0
    for number in range(3):
        process = start(recipe_path)
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
    assert while_writing and 0 < progress(last) < NUM_STEPS
    run_to_the_end(load_config(recipe_path, overrides_of("killed")))
    assert_same_run(straight, folder)
    assert logged_steps(folder) == logged_steps(straight) == list(range(1, NUM_STEPS + 1))
    assert not list(folder.glob(".*.partial"))
    best = [load_checkpoint(f / "best.pth") for f in (folder, straight)]
    assert best[0].progress == best[1].progress


def test_a_signal_ends_the_run_after_the_step_is_saved(
    recipe_path, tmp_path, monkeypatch, run_script
):
    steps, real = [], train.set_learning_rate

    def set_learning_rate(optimizer, lr):
        steps.append(lr)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        assert len(steps) <= 4
        real(optimizer, lr)

    monkeypatch.setattr(train, "set_learning_rate", set_learning_rate)
    overrides = ["run.save_every_steps=1000", "optim.num_epochs=300", *NO_VIT]
    code, _, errors = run_script("train", "--config", recipe_path, *overrides)
    assert code == 128 + signal.SIGTERM
    assert "stopped and saved; run the same command again to resume" in errors
    folder = tmp_path / "runs" / "run"
    assert progress(folder / "last.pth") == 4
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4]
