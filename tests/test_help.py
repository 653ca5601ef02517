"""Every script describes itself, and answers a wrong command line without a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from prepare import COMMANDS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("prepare", (), tuple(COMMANDS)),
        *(("prepare", (command,), (f"prepare.py {command}",)) for command in COMMANDS),
        ("generate", (), ("--config",)),
        ("train", (), ("--config",)),
        ("infer", (), ("--checkpoint", "--input")),
        ("eval", (), ("--checkpoint", "eval.py compare", "eval_SPLIT")),
        ("eval", ("compare",), ("NAME=A,B,C", "--output")),
        ("eval", ("attribution",), ("its structure maps", "attribution_SPLIT")),
    ],
)
def test_help_names_every_argument(run_script, script, arguments, words):
    code, output, errors = run_script(script, *arguments, "--help")
    assert code == 0 and errors == "" and "usage:" in output and len(output.splitlines()) > 5
    assert all(word in output for word in words)


@pytest.mark.parametrize("script", ["generate", "train"])
def test_all_mistakes_of_a_recipe_come_at_once(run_script, script):
    recipe = ROOT / "configs" / "dubai.yaml"
    overrides = ["optim.lr=fast", "data.crop_size=256"]
    code, _, errors = run_script(script, "--config", recipe, *overrides)
    assert code == 2 and errors == (
        f"error: {recipe} has 2 problems:\n"
        "  data.crop_size: unknown key; did you mean 'crop_size_px'?\n"
        "  optim.lr: must be a number, not 'fast'\n"
    )


def test_prepare_does_without_torch():
    """It would take seconds and several hundred MiB that no image needs."""
    code = "import sys, prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
