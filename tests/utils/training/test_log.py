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


def open_log(folder, dist, first_step=0, *overrides, state=None):
    config = make_config(folder, folder, "run.log_every_steps=2", *overrides)
    return RunLog(folder, state or make_state(dist, first_step), config, 5)


def losses(value):
    return {"loss": torch.tensor(value), "dice": torch.tensor(0.5)}


def test_rows_after_the_checkpoint_are_dropped_on_resume(tmp_path, dist):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (2, 4, 6)) + '{"ste')
    open_log(tmp_path, dist, first_step=4).close()
    assert read_rows(path) == [{"step": 2}, {"step": 4}]
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize(("step_in_epoch", "num_kept"), [(0, 3), (5, 2)])
def test_the_validation_that_is_repeated_is_dropped_on_resume(
    tmp_path, dist, step_in_epoch, num_kept
):
    """After step 5, the last one of an epoch, the validation may not be in the checkpoint."""
    path, state = tmp_path / "metrics.jsonl", make_state(dist, 5)
    state.step_in_epoch = step_in_epoch
    rows = [{"kind": "val", "step": 3}, {"kind": "train", "step": 5}, {"kind": "val", "step": 5}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    open_log(tmp_path, dist, state=state).close()
    assert read_rows(path) == rows[:num_kept]


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


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def perf_counter(self):
        return self.now

    def strftime(self, form):
        return "then"


def test_the_time_left_counts_steps_and_validations(tmp_path, dist, monkeypatch):
    """Three epochs of five steps, validated after each; a step takes 2 s, a validation 30 s."""
    clock = Clock()
    monkeypatch.setattr("utils.training.log.time", clock)
    log = open_log(tmp_path, dist, 0, "optim.num_epochs=3", state=(state := make_state(dist)))

    def loader(first, last):
        for step in range(first, last + 1):
            clock.now += 0.5  # waiting
            yield step

    def train(first, last):
        for step in log.wait_for_data(loader(first, last)):
            clock.now += 1.5
            log.step(step, losses(1.0), 0.1, ("a",))

    train(1, 5)
    clock.now += 30
    state.step, state.identity = 5, SimpleNamespace(classes=["x"], selected_on="val")
    log.evaluation(SimpleNamespace(miou=0.5, mf1=0.6, oa=0.7, iou=(0.5,)), True)
    train(6, 10)
    log.close()
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert lines[0].startswith("then  step  2 of 15  00:00:26 left")  # 13 steps, none validated yet
    assert lines[1].startswith("then  step  4 of 15  00:00:22 left")
    assert lines[2] == "then  epoch 1: mIoU 50.00  mF1 60.00  OA 70.00 on val  (best so far)"
    assert lines[3].startswith("then  step  6 of 15  00:01:18 left")  # 9 steps, 2 validations
    assert lines[5].startswith("then  step 10 of 15  00:01:10 left")  # 5 steps, the same 2
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10]
    assert {row["data_wait_share"] for row in rows} == {0.25}
    assert {row["images_per_s"] for row in rows} == {0.5}


def test_the_time_left_follows_the_speed_slowly(tmp_path, dist, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("utils.training.log.time", clock)
    log = open_log(tmp_path, dist, 0, "optim.num_epochs=4")
    for step in range(1, 7):
        clock.now += 1 if step <= 2 else 11
        log.step(step, losses(float(step)), 0.1, ("a",))
    log.close()
    left = [line.split()[5] for line in (tmp_path / "train.log").read_text().splitlines()]
    # 18 x 1 s; 16 x (0.7 x 1 + 0.3 x 11) s; 14 x (0.7 x 4 + 0.3 x 11) s
    assert left == ["00:00:18", "00:01:04", "00:01:25"]
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"], row["dice"], row["kind"]) for row in rows] == [
        (step, step, 0.5, "train") for step in (2, 4, 6)
    ]


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
