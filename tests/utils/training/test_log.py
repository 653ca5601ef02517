import json
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import make_config
from utils.errors import DataError
from utils.training.log import RunLog, format_duration, read_rows, step_line
from utils.training.state import NonFiniteGuard


def make_state(dist, step=0):
    guard = NonFiniteGuard(dist)
    return SimpleNamespace(dist=dist, step=step, step_in_epoch=0, guard=guard, epoch=1)


def open_log(folder, dist, *overrides, state):
    config = make_config(folder, folder, "run.log_every_steps=2", *overrides)
    return RunLog(folder, state, config, 5)


def losses(value):
    return {"loss": torch.tensor(value), "dice": torch.tensor(0.5)}


@pytest.mark.parametrize(("step_in_epoch", "num_kept"), [(0, 3), (5, 2)])
def test_rows_that_will_be_written_again_are_dropped_on_resume(
    tmp_path, dist, step_in_epoch, num_kept
):
    """After step 5, the last one of an epoch, the validation may not be in the checkpoint."""
    path, state = tmp_path / "metrics.jsonl", make_state(dist, 5)
    state.step_in_epoch = step_in_epoch
    rows = [{"kind": "val", "step": 3}, {"kind": "train", "step": 5}, {"kind": "val", "step": 5}]
    later = {"kind": "train", "step": 6}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, later]) + '{"ste')
    open_log(tmp_path, dist, state=state).close()
    assert read_rows(path) == rows[:num_kept] and path.read_text().endswith("}\n")


def test_a_loss_that_is_not_finite_ends_the_run_when_it_is_reported(tmp_path, dist):
    state = make_state(dist)
    log = open_log(tmp_path, dist, state=state)
    state.guard.note(3, torch.tensor(float("nan")), ("a", "b"))
    log.step(3, losses(float("nan")), 0.1, ("a", "b"))
    with pytest.raises(DataError, match=r"not finite at step 3 \(tiles: a, b\)"):
        log.step(4, losses(1.0), 0.1, ("c", "d"))
    log.close()
    assert read_rows(tmp_path / "metrics.jsonl") == []


def test_a_line_of_steps_has_fixed_places_and_durations_are_rounded_to_seconds():
    row = {"loss": 1.25, "dice": 0.5, "lr": 8e-5, "images_per_s": 12.3}
    row = {**row, "data_wait_share": 0.034, "memory_gib": 8.21}
    line = step_line(row, 3725)
    assert line == (
        "01:02:05 left  loss 1.2500  dice 0.5000  lr 8.00e-05    12.30 images/s  "
        "data wait   3 %    8.21 GiB"
    )
    faster = {**row, "images_per_s": 1234.5, "data_wait_share": 1.0, "memory_gib": 70.0}
    assert len(step_line(faster, 9)) == len(line)
    assert format_duration(59.6) == "00:01:00" and format_duration(180_000) == "2 days 02:00:00"


def test_the_time_left_counts_steps_and_validations_and_follows_the_speed_slowly(
    tmp_path, dist, monkeypatch
):
    """Three epochs of five steps of 2 s, then of 12 s; a validation takes 30 s."""
    clock = SimpleNamespace(now=100.0, perf_counter=lambda: clock.now, strftime=lambda _: "then")
    monkeypatch.setattr("utils.training.log.time", clock)
    log = open_log(tmp_path, dist, "optim.num_epochs=3", state=(state := make_state(dist)))

    def loader(steps, step_s):
        for step in steps:
            clock.now += step_s / 4  # waiting
            yield step

    def train(first, last, step_s):
        for step in log.wait_for_data(loader(range(first, last + 1), step_s)):
            clock.now += step_s * 3 / 4
            log.step(step, losses(float(step)), 0.1, ("a",))

    train(1, 5, 2)
    clock.now += 30
    state.step, state.identity = 5, SimpleNamespace(classes=["x"], selected_on="val")
    log.evaluation(SimpleNamespace(miou=0.5, mf1=0.6, oa=0.7, iou=(0.5,)), True)
    train(6, 10, 12)
    log.close()
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert lines[0].startswith("then  step  2 of 15  00:00:26 left")  # 13 steps, none validated yet
    assert lines[1].startswith("then  step  4 of 15  00:00:22 left")
    assert lines[2] == "then  epoch 1: mIoU 50.00  mF1 60.00  OA 70.00 on val  (best so far)"
    # 9 steps of 0.7 x 2 + 0.3 x 12 s, 7 of 0.7 x 5 + 0.3 x 12 s, and 2 validations
    assert lines[3].startswith("then  step  6 of 15  00:01:45 left")
    assert lines[4].startswith("then  step  8 of 15  00:01:50 left")
    assert lines[5].startswith("then  step 10 of 15  00:01:43 left")  # the same 2 validations
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert [(row["step"], row["loss"], row["dice"]) for row in rows] == [
        (step, step, 0.5) for step in (2, 4, 6, 8, 10)
    ]
    assert {row["data_wait_share"] for row in rows} == {0.25}
    assert [row["images_per_s"] for row in rows] == [1 / 2] * 2 + [1 / 12] * 3


@pytest.mark.parametrize(
    ("score", "epoch", "said"),
    [
        (0.5, 3, "best mIoU 50.00 on val in epoch 3; {}/best.pth"),
        (-1.0, 0, "no validation on val had a score; {}/last.pth"),
    ],
)
def test_the_last_line_says_what_came_out(tmp_path, dist, score, epoch, said):
    state = make_state(dist)
    state.best_score, state.best_epoch = score, epoch
    state.identity = SimpleNamespace(selected_by="miou", selected_on="val")
    open_log(tmp_path, dist, state=state).end()
    assert (tmp_path / "train.log").read_text().endswith(f"minutes: {said.format(tmp_path)}\n")
