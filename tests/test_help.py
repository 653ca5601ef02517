"""Every script explains itself, and answers a wrong command line without a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("prepare", "generate", "train", "eval", "infer")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_argument(script):
    command = [sys.executable, f"{script}.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and len(done.stdout.splitlines()) > 5


def test_help_of_eval_tells_of_its_commands():
    for arguments, words in (([], ("--checkpoint", "eval.py compare")), (["compare"], ("NAME=A",))):
        command = [sys.executable, "eval.py", *arguments, "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and all(word in done.stdout for word in words)


@pytest.mark.parametrize("script", ["generate", "train"])
def test_all_mistakes_of_a_recipe_come_at_once(script):
    command = [sys.executable, f"{script}.py", "--config", "configs/dubai.yaml"]
    overrides = ["optim.lr=fast", "data.crop_size=256"]
    done = subprocess.run([*command, *overrides], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: configs/dubai.yaml has 2 problems:\n"
        "  data.crop_size: unknown key; did you mean 'crop_size_px'?\n"
        "  optim.lr: must be a number, not 'fast'\n"
    )


def test_prepare_does_without_torch():
    """It would take seconds and several hundred MiB that no image needs."""
    code = "import sys, prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
