import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import make_config
from utils.training.dry_run import Times, describe, hours, measure
from utils.training.schedule import Rhythm


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0, "00:00:00"), (59.6, "00:01:00"), (3725, "01:02:05"), (180_000, "2 days 02:00:00")],
)
def test_hours(time_s, text):
    assert hours(time_s) == text


def test_waiting_and_the_first_step_do_not_count(dist):
    log, calls = SimpleNamespace(waited_s=5.0), []

    def step():
        calls.append(len(calls))
        time.sleep(0.2 if len(calls) == 1 else 0.05)
        log.waited_s += 0.03

    times = measure(step, lambda: time.sleep(0.01), log, dist)
    assert calls == [0, 1]
    assert 0.02 <= times.step_s < 0.1 and 0.01 <= times.image_s < 0.1
    assert times.memory_gib > 0.01 and times.device == "cpu"


def test_the_whole_run_by_hand():
    config = make_config(Path("data"), Path("runs"), "optim.num_epochs=10", "eval.every_epochs=4")
    times = Times(step_s=0.5, image_s=2.0, memory_gib=1.25, device="cpu")
    text = describe(times, Rhythm(config), steps_per_epoch=100, num_images=20)
    assert "0.500 s, 1,000 of them" in text
    assert "2.000 s, 60 of them" in text  # 3 validations
    assert "00:10:20, without waiting" in text  # 500 s + 120 s
    assert "1.25 GiB on cpu" in text
