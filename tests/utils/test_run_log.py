import json
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import make_config
from utils.errors import DataError
from utils.run_log import RunLog, describe_environment, read_rows


def open_log(folder, dist, first_step=0):
    config = make_config(folder, folder, "run.log_every_steps=2")
    return RunLog(folder, SimpleNamespace(dist=dist, step=first_step, step_in_epoch=0), config, 5)


def losses(value):
    return {"loss": torch.tensor(value), "dice": torch.tensor(0.5)}


def test_rows_are_written_every_few_steps(tmp_path, dist):
    log = open_log(tmp_path, dist)
    for step in range(1, 6):
        log.step(step, losses(float(step)), 0.1, ("a", "b"))
    log.close()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"], row["kind"]) for row in rows] == [
        (2, 2.0, "train"),
        (4, 4.0, "train"),
    ]
    assert any((tmp_path / "tensorboard").iterdir())


def test_rows_after_the_checkpoint_are_dropped_on_resume(tmp_path, dist):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (2, 4, 6)) + '{"ste')
    open_log(tmp_path, dist, first_step=4).close()
    assert read_rows(path) == [{"step": 2}, {"step": 4}]
    assert path.read_text().endswith("}\n")


def test_a_loss_that_is_not_finite_names_step_and_tiles(tmp_path, dist):
    log = open_log(tmp_path, dist)
    with pytest.raises(DataError, match=r"not finite at step 4 \(tiles here: a, b\)"):
        log.step(4, losses(float("nan")), 0.1, ("a", "b"))
    log.close()


def test_messages_go_to_the_file_as_well(tmp_path, dist):
    log = open_log(tmp_path, dist)
    log.say("hello")
    log.close()
    assert (tmp_path / "train.log").read_text().endswith("  hello\n")


def test_environment_is_plain_and_names_versions(dist):
    environment = json.loads(json.dumps(describe_environment(dist)))
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert environment["world_size"] == 1
