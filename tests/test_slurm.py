"""docs/train.slurm with stand-ins for Slurm's commands: two processes, stopped and queued again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_train import NO_VIT
from utils.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent

# Exits with a given code, or starts two tasks, sends both SIGTERM once a file is there, and exits
# with the largest of their codes.
SRUN = """#!{python}
import os, pathlib, signal, subprocess, sys, time
if code := os.environ.get("TEST_CODE"):
    sys.exit(int(code))
command = [argument for argument in sys.argv[1:] if not argument.startswith("--kill")]
tasks = []
for rank in "01":
    task = {{"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": "2"}}
    tasks.append(subprocess.Popen(command, env={{**os.environ, **task}}))
metrics = pathlib.Path(os.environ["TEST_METRICS"])
while os.environ.get("TEST_STOP") and any(task.poll() is None for task in tasks):
    if metrics.is_file() and metrics.stat().st_size:
        for task in tasks:
            task.send_signal(signal.SIGTERM)
        break
    time.sleep(0.02)
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/sh
echo "$@" >> "$TEST_CALLS"
if [ "$1" = show ]; then echo 127.0.0.1; echo elsewhere; fi
"""


@pytest.fixture
def submit(recipe_path, tmp_path):
    """Run the job; exit code, output, and what it asked Slurm for."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, text in (("srun", SRUN.format(python=sys.executable)), ("scontrol", SCONTROL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)

    def submit(*overrides, stop=False, code=""):
        calls = tmp_path / "calls.txt"
        environment = {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "TEST_CALLS": str(calls),
            "TEST_METRICS": str(tmp_path / "runs" / "run" / "metrics.jsonl"),
            "TEST_STOP": "yes" if stop else "",
            "TEST_CODE": code,
        }
        command = ["bash", "docs/train.slurm", str(recipe_path), *NO_VIT, *overrides]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stderr, calls.read_text().splitlines()

    return submit


def test_a_job_that_is_stopped_saves_and_is_queued_again(submit, tmp_path):
    code, errors, calls = submit("optim.num_epochs=20", "eval.every_epochs=20", stop=True)
    assert code == 143, errors
    assert errors.count("stopped and saved") == 2 and "Traceback" not in errors
    assert calls == ["show hostnames node[1-2]", f"requeue {os.getpid()}"]
    folder = tmp_path / "runs" / "run"
    checkpoint = load_checkpoint(folder / "last.pth")
    assert 0 < checkpoint.progress["step"] < 60
    assert len(checkpoint.training["random_states"]) == 2
    assert "fp32 on 2 x cpu" in (folder / "train.log").read_text()


@pytest.mark.parametrize(("code", "is_queued"), [(0, False), (2, False), (143, True)])
def test_only_a_job_that_was_stopped_is_queued_again(submit, code, is_queued):
    calls = ["show hostnames node[1-2]"] + [f"requeue {os.getpid()}"] * is_queued
    assert submit(code=str(code)) == (code, "", calls)
