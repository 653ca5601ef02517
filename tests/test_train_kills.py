"""Runs that are killed and resumed by the same command."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.test_train import NO_VIT, assert_same_run, run_to_the_end
from utils.config import load_config
from utils.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


NUM_STEPS = 12  # four epochs


def overrides_of(name):
    overrides = [f"name={name}", "optim.num_epochs=4", "eval.every_epochs=2"]
    return [*overrides, "run.save_every_steps=1", "model.drop_path=0.3", *NO_VIT]


def start(recipe_path):
    command = [sys.executable, "train.py", "--config", str(recipe_path)]
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
    for number in range(2):
        process = start(recipe_path)
        enough = progress(last) + rng.randint(1, 2)
        while progress(last) < enough and process.poll() is None:
            time.sleep(0.05)
        deadline = time.monotonic() + 20
        if number % 2:
            while not list(folder.glob(".last.pth*.partial")) and time.monotonic() < deadline:
                time.sleep(0.0005)
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
