"""Training on several ranks: the same as on one, and what happens when their number changes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from utils.files import read_rgb
from utils.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
NO_CHANCE = ["model.drop_path=0", "model.head_dropout=0"]
NO_VIT = ["model.rgb_vit.name=none", "model.structure_vit.name=none"]

# Batch norm sees a part of the batch on each rank and in each micro-batch, so it is fixed by eval
# mode. The optimiser is SGD: Adam divides by tiny second moments, and turns rounding into steps.
# Double precision, because 20 steps in single precision add up to 2e-6 of rounding.
STEPS = """
import sys
import torch
from pathlib import Path
import train
from train import build_run, train_one_epoch
from utils.config import load_config
from utils.distributed import distributed_session

recipe, out, *overrides = sys.argv[1:]
real = train.prepare_inputs
def in_double(*given):
    return [x if x.dtype == torch.int64 else x.double() for x in real(*given)]

train.prepare_inputs = in_double
build = train.build_network
train.build_network = lambda *given, **named: build(*given, **named).double()
config = load_config(Path(recipe), overrides)

def steps(dist):  # a function: what lives until the interpreter ends may outlive its process group
    run = build_run(config, dist)
    for module in run.state.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train = lambda mode=True: None
            module.training = False
    start = {k: v.clone() for k, v in run.state.network.state_dict().items()}
    train_one_epoch(run)
    if dist.is_main:
        torch.save({"start": start, "end": run.state.network.state_dict()}, out)
    run.log.close()

with distributed_session("cpu") as dist:
    steps(dist)
"""


@pytest.fixture
def train_steps(recipe_path, tmp_path):
    """Train 20 steps of six samples; weights before and after."""
    script = tmp_path / "steps.py"
    script.write_text(STEPS)
    overrides = ["optim.optimizer=sgd", "optim.lr=0.02", "optim.warmup_epochs=0", *NO_CHANCE]
    overrides += ["optim.batch_size=6", "optim.steps_per_epoch=20", "optim.ema_decay=0", *NO_VIT]

    def train(name, *more, ranks=1):
        launcher = [sys.executable] if ranks == 1 else [*TORCHRUN, f"--nproc_per_node={ranks}"]
        out = tmp_path / f"{name}.pth"
        arguments = [str(recipe_path), str(out), f"name={name}", *overrides, *more]
        command = [*launcher, str(script), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        return torch.load(out)

    return train


def assert_same(ours, theirs):
    moved = [key for key in ours["end"] if not torch.equal(ours["start"][key], ours["end"][key])]
    assert len(moved) > 100
    for key, value in ours["start"].items():
        assert torch.equal(value, theirs["start"][key])
    for key, value in ours["end"].items():
        torch.testing.assert_close(theirs["end"][key], value, rtol=0, atol=1e-6)


def test_two_ranks_and_micro_batches_train_like_one_rank(train_steps):
    one = train_steps("one")
    assert_same(one, train_steps("two", ranks=2))
    assert_same(one, train_steps("parts", "optim.accumulate=2"))
    assert_same(one, train_steps("both", "optim.accumulate=3", ranks=2))


def train(recipe_path, *overrides, ranks):
    launcher = [sys.executable] if ranks == 1 else [*TORCHRUN, f"--nproc_per_node={ranks}"]
    command = [*launcher, "train.py", "--config", str(recipe_path), *NO_VIT, *overrides]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE)


def test_sigterm_on_two_ranks_saves_and_one_rank_goes_on(recipe_path, tmp_path):
    """What Slurm sends, through torchrun; afterwards there is another number of ranks."""
    overrides = ["optim.num_epochs=200", "eval.every_epochs=200", *NO_CHANCE]
    process = train(recipe_path, *overrides, ranks=2)
    metrics = tmp_path / "runs" / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode != 0
    assert "stopped and saved; run the same command again to resume" in said
    assert "Traceback" not in said.split("stopped and saved")[0]
    last = tmp_path / "runs" / "run" / "last.pth"
    steps = load_checkpoint(last).progress["step"]
    assert 0 < steps < 600
    again = train(recipe_path, *overrides, ranks=1)
    while load_checkpoint(last).progress["step"] == steps and time.monotonic() < deadline:
        if metrics.read_text().count("\n") > steps + 5:
            again.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    assert b"stopped and saved" in again.communicate(timeout=60)[1]
    assert again.returncode == 128 + signal.SIGTERM
    assert load_checkpoint(last).progress["step"] > steps


def test_a_rank_that_fails_ends_all_and_shows_its_own_traceback(recipe_path, tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(
        "import sys, train\n"
        "from utils.errors import run_command\n"
        "real = train.set_learning_rate\n"
        "def fail(*arguments):\n"
        "    import os\n"
        "    if os.environ['RANK'] == '1':\n"
        "        raise ArithmeticError('the second rank cannot count')\n"
        "    real(*arguments)\n"
        "train.set_learning_rate = fail\n"
        "run_command(train.main)\n"
    )
    command = [*TORCHRUN, "--nproc_per_node=2", str(script), "--config", str(recipe_path), *NO_VIT]
    command.append("data.num_workers=2")
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, timeout=120)
    assert done.returncode != 0
    assert b"ArithmeticError: the second rank cannot count" in done.stderr
    assert time.monotonic() - start < 60


VALIDATE = """
import sys
from pathlib import Path
from train import build_run
from utils.config import load_config
from utils.distributed import distributed_session
from utils.training.run_page import draw_run_page

def main(recipe, *overrides):
    with distributed_session("cpu") as dist:
        run = build_run(load_config(Path(recipe), overrides), dist)
        assert run.validation()
        draw_run_page(run.folder, run.state)
        run.log.close()

main(*sys.argv[1:])
"""


def test_the_worst_tiles_of_three_ranks_are_those_of_one(recipe_path, tmp_path):
    """Four of seven, by a network that has learnt nothing."""
    script, folders = tmp_path / "validate.py", []
    script.write_text(VALIDATE)
    for ranks in (1, 3):
        launcher = [sys.executable] if ranks == 1 else [*TORCHRUN, f"--nproc_per_node={ranks}"]
        overrides = ["data.val_split=train", "optim.batch_size=6", f"name=on_{ranks}", *NO_VIT]
        command = [*launcher, str(script), str(recipe_path), *overrides]
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        folders.append(tmp_path / "runs" / f"on_{ranks}")
    one, three = (read_rgb(folder / "pictures" / "worst.png") for folder in folders)
    assert (one == three).all() and one.shape[0] > 4 * 216
    assert all((folder / "pictures" / "run.png").is_file() for folder in folders)
    environment = json.loads((folders[1] / "environment.json").read_text())
    assert len(environment["devices"]) == environment["world_size"] == 3
    assert environment["batch"]["per_rank"] == 2
