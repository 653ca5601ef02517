"""Imports point downwards, packages stay in their homes, files stay short, the top stays clean."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("configs", "models", "datasets", "utils")
SCRIPTS = ("prepare", "generate", "train", "eval", "infer")
MAY_IMPORT = {
    "models": ("models", "utils", "configs"),
    "datasets": ("datasets", "utils", "configs"),
    "utils": ("utils", "configs"),
    "configs": (),
}
HOMES = {
    "timm": ("models/frozen_vit.py", "models/generators/depth_anything.py"),
    "segment_anything": ("models/generators/sam.py",),
    "tensorboard": ("utils/run_log.py",),
    "torch.utils.tensorboard": ("utils/run_log.py",),
    "yaml": ("utils/config.py",),
    "torch.distributed": ("utils/distributed.py",),
    "torch.nn.parallel": ("utils/distributed.py",),
}
PACKAGES = ("torch", "torchvision", "segment_anything", "timm", "numpy", "PIL", "tqdm")
PACKAGES += ("tensorboard", "yaml")
TOP_LEVEL = {
    *(f"{script}.py" for script in SCRIPTS),
    *(*OURS, "benchmarks", "docs", "tests"),
    *("requirements.txt", "pyproject.toml", "Makefile", "README.md", "LICENSE"),
    *("data", "runs", "weights"),  # git ignores these
}


def source_files() -> list[Path]:
    folders = [ROOT / name for name in (*OURS, "benchmarks")]
    inside = [path for folder in folders for path in folder.rglob("*.py")]
    return sorted([*ROOT.glob("*.py"), *inside])


def imports_of(text: str) -> set[str]:
    """Dotted names of everything a file imports, ``from a import b`` as ``a.b``."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if dotted.startswith(("torch.distributed.", "os.environ", "os.getenv")):
                names.add(dotted)
    return names


def faults_of(name: str, text: str) -> list[str]:
    """What is wrong with a file's imports; ``name`` is its path below the root."""
    layer = name.split("/")[0]
    faults = []
    for imported in sorted(imports_of(text)):
        top = imported.split(".")[0]
        if top in (*SCRIPTS, "tests", "benchmarks"):
            faults.append(f"{name} imports the script or test {imported}")
        elif top in OURS:
            allowed = MAY_IMPORT.get(layer, OURS)
            if top not in allowed:
                faults.append(f"{name} imports {imported}: not downwards")
        elif imported.startswith(("os.environ", "os.getenv")):
            if name != "utils/distributed.py":
                faults.append(f"{name} reads {imported}")
        elif top not in sys.stdlib_module_names and top not in PACKAGES:
            faults.append(f"{name} imports the package {top}")
        for package, homes in HOMES.items():
            if f"{imported}.".startswith(f"{package}.") and name not in homes:
                faults.append(f"{name} imports {imported}, whose home is {homes[0]}")
    return faults


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_are_in_order(path):
    assert faults_of(path.relative_to(ROOT).as_posix(), path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("models/a.py", "from datasets.tiles import Tile", "not downwards"),
        ("datasets/a.py", "import models.build", "not downwards"),
        ("utils/a.py", "from models.build import SIZES", "not downwards"),
        ("configs/schema.py", "from utils.errors import UserError", "not downwards"),
        ("utils/a.py", "import train", "script or test"),
        ("models/a.py", "import timm", "whose home is models/frozen_vit.py"),
        ("utils/a.py", "from torch import distributed", "whose home is utils/distributed.py"),
        ("utils/a.py", "import torch\ntorch.distributed.barrier()", "whose home"),
        ("utils/a.py", "from torch.utils.tensorboard import SummaryWriter", "whose home"),
        ("train.py", "import os\nos.environ['RANK']", "reads os.environ"),
        ("models/a.py", "def f():\n    import scipy", "imports the package scipy"),
    ],
)
def test_planted_faults_are_found(name, text, fault):
    (found,) = faults_of(name, text)
    assert fault in found


def test_allowed_imports_pass():
    text = "import json\nimport torch\nfrom configs.schema import Config\nfrom utils.files import a"
    assert faults_of("models/a.py", text) == []
    assert faults_of("train.py", "from models.build import SIZES\nimport datasets.build") == []


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_finished(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for word in ("TODO", "FIXME", "XXX"):
        assert word not in text


def test_the_training_loop_fits_one_screen():
    tree = ast.parse((ROOT / "train.py").read_text())
    lengths = {
        node.name: node.end_lineno - node.lineno + 1
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    assert lengths["train"] + lengths["train_one_epoch"] <= 60


def test_the_top_level_holds_what_the_design_lists():
    visible = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert visible - TOP_LEVEL - {"__pycache__"} == set()
    assert {f"{script}.py" for script in SCRIPTS} <= visible


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_explains_itself(script):
    done = subprocess.run(
        [sys.executable, f"{script}.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and len(done.stdout.splitlines()) > 5
