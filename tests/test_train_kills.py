"""Runs that are killed, and go on by the same command."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.test_train import NO_VIT, assert_same_run
from utils.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
NUM_STEPS = 48


def start(recipe_path, *overrides):
    command = [sys.executable, "train.py", "--config", str(recipe_path), *NO_VIT, *overrides]
    command += ["optim.num_epochs=16", "eval.every_epochs=2", "run.save_every_steps=1"]
    command += ["data.num_workers=2", "model.drop_path=0.3"]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL)


def progress(last):
    """Steps in a checkpoint, which must be whole whenever it is looked at."""
    return load_checkpoint(last).progress["step"] if last.is_file() else 0


def logged_steps(folder):
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [event.step for event in events.Scalars("train/loss")]


def test_ten_kills_at_random_moments_change_nothing(recipe_path, tmp_path):
    assert start(recipe_path, "name=straight").wait() == 0
    folder, rng = tmp_path / "runs" / "killed", random.Random(0)
    last, while_writing = folder / "last.pth", 0
    for number in range(10):
        process, enough = start(recipe_path, "name=killed"), progress(last) + rng.randint(0, 2)
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
    assert start(recipe_path, "name=killed").wait() == 0
    assert_same_run(tmp_path / "runs" / "straight", folder)
    assert logged_steps(folder) == logged_steps(tmp_path / "runs" / "straight")
    assert logged_steps(folder) == list(range(1, NUM_STEPS + 1))
    assert not list(folder.glob(".*.partial"))
    best = [load_checkpoint(f / "best.pth") for f in (folder, tmp_path / "runs" / "straight")]
    assert best[0].progress == best[1].progress


def test_ctrl_c_saves_and_leaves(recipe_path, tmp_path):
    process = start(recipe_path, "name=run", "run.save_every_steps=1000", "optim.num_epochs=300")
    metrics = tmp_path / "runs" / "run" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    saved = progress(metrics.with_name("last.pth"))
    assert saved == metrics.read_text().count('"train"') > 0
