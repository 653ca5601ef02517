import time
from pathlib import Path
from types import SimpleNamespace

import torch

from tests.conftest import make_config
from utils.training.dry_run import describe, measure
from utils.training.schedule import ValidationSchedule


def test_waiting_and_the_first_step_do_not_count(dist):
    log, calls = SimpleNamespace(waited_s=5.0), []

    def step():
        calls.append(len(calls))
        time.sleep(0.2 if len(calls) == 1 else 0.05)
        log.waited_s += 0.03

    step_s, image_s = measure(step, lambda: time.sleep(0.01), log, dist)
    assert calls == [0, 1]
    assert 0.02 <= step_s < 0.1 and 0.01 <= image_s < 0.1


def test_the_whole_run_by_hand():
    config = make_config(Path("data"), Path("runs"), "optim.num_epochs=10", "eval.every_epochs=4")
    text = describe(0.5, 2.0, ValidationSchedule(config), 100, 20, torch.device("cpu"))
    assert "0.500 s, 1,000 of them" in text
    assert "2.000 s, 60 of them" in text  # 3 validations
    assert "00:10:20, without waiting" in text  # 500 s + 120 s
