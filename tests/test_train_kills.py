"""Runs that are killed in a bad moment and resumed by the same command."""

import os
import random
import signal
import threading
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import make_config, single_process
from tests.processes import exit_code_of
from tests.test_train import NO_VIT, assert_same_run, run_to_the_end
from train import build_run, train
from utils.training.checkpoint import load_checkpoint

OVERRIDES = ["optim.num_epochs=4", "eval.every_epochs=2", "run.save_every_steps=1"]
OVERRIDES += ["model.drop_path=0.3", "optim.accumulate=2", *NO_VIT]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(run, step):
    """Be killed when half of a checkpoint is written."""
    save = torch.save

    def save_half(content, path):
        save(content, path)
        if run.state.step == step:
            os.truncate(path, path.stat().st_size // 2)
            die()

    torch.save = save_half
    train(run)


def die_after_report(run, step):
    """Be killed when a step is in the log and not yet in a checkpoint."""
    report = run.log.step

    def report_last(number, *rest):
        report(number, *rest)
        if number == step:
            run.log._writer.flush()
            die()

    run.log.step = report_last
    train(run)


def die_later(run, delay_s):
    """Be killed a while after the next checkpoint, whatever happens then."""
    path = run.folder / "last.pth"

    def written():
        return path.stat().st_ino if path.exists() else None

    def watch(before):
        while written() == before:
            time.sleep(0.001)
        time.sleep(delay_s)
        die()

    threading.Thread(target=watch, args=(written(),), daemon=True).start()
    train(run)


def build_and_act(config, act, moment):
    act(build_run(config, single_process()), moment)


def train_in_a_process(config, act, moment):
    """Call ``act`` in another process, and expect it to be killed."""
    assert exit_code_of(build_and_act, config, act, moment) == -signal.SIGKILL


def test_kills_in_bad_moments_change_nothing(data_root, tmp_path):
    straight = run_to_the_end(make_config(data_root, tmp_path, "name=straight", *OVERRIDES)).folder
    config, folder = make_config(data_root, tmp_path, *OVERRIDES), tmp_path / "run"
    train_in_a_process(config, die_while_writing, 3)
    assert len(list(folder.glob(".last.pth*.partial"))) == 1
    assert load_checkpoint(folder / "last.pth").progress["step"] == 2
    train_in_a_process(config, die_after_report, 8)
    assert load_checkpoint(folder / "last.pth").progress["step"] == 7
    assert run_to_the_end(config).folder == folder
    assert_same_run(straight, folder)
    for each in (straight, folder):
        events = EventAccumulator(str(each / "tensorboard")).Reload()
        assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 13))
    assert not list(folder.glob(".*.partial"))
    best = [load_checkpoint(each / "best.pth") for each in (straight, folder)]
    assert best[0].progress == best[1].progress


@pytest.mark.slow
def test_kills_at_ten_random_moments_change_nothing(data_root, tmp_path):
    overrides = [*OVERRIDES, "optim.num_epochs=20"]
    straight = run_to_the_end(make_config(data_root, tmp_path, "name=straight", *overrides)).folder
    config, rng = make_config(data_root, tmp_path, *overrides), random.Random(0)
    for _ in range(10):
        train_in_a_process(config, die_later, rng.uniform(0, 0.3))
    assert load_checkpoint(tmp_path / "run" / "last.pth").progress["step"] < 60
    assert_same_run(straight, run_to_the_end(config).folder)
    assert not list((tmp_path / "run").glob(".*.partial"))
