"""The rules of the tree, read from the source: who imports whom, how long, what lies where."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = {"prepare", "generate", "train", "eval", "infer"}
PACKAGES = {"configs", "models", "datasets", "utils", "benchmarks"}
FOLDERS = {*PACKAGES, "docs", "tests"}
TOP_LEVEL = FOLDERS | {f"{script}.py" for script in SCRIPTS}
TOP_LEVEL |= {"requirements.txt", "pyproject.toml", "Makefile", "README.md", "LICENSE"}

# Package -> what of ours it may import. Scripts and benchmarks may import all of these, and tests
# may import everything; nobody else imports a script, a benchmark or a test, but that benchmarks
# measure the literal reference of the tests, and take the tests' fake archives.
ARROWS = {
    "models": {"models", "utils", "configs"},
    "datasets": {"datasets", "utils", "configs"},
    "utils": {"utils", "configs"},
    "configs": {"configs"},
}
THIRD_PARTY = {"torch", "torchvision", "segment_anything", "timm", "numpy", "PIL", "tqdm"}
THIRD_PARTY |= {"tensorboard", "yaml"}
THIRD_PARTY |= {"onnxruntime"}  # only where ONNX is asked for, and imported there
FOR_BENCHMARKS = ("tests.models.literal", "tests.datasets.fake_archives")
# References that tests compare with.
TEST_EXTRAS = {"pytest", "scipy", "sklearn", "rasterio"}
# Peers to measure against, required by nothing else.
BENCHMARK_EXTRAS = {"skimage", "segmentation_models_pytorch", "transformers", "cv2"}
HOMES = {
    "timm": {"models/frozen_vit.py", "models/structure/depth_anything.py"},
    "segment_anything": {
        f"models/structure/{name}.py"
        for name in (
            "sam",
            "sam_attention",
            "sam_decoder",
            "sam_encoder",
            "sam_masks",
            "sam_weights",
        )
    },
    "onnxruntime": {"models/export.py"},
    "tensorboard": {"utils/training/log.py"},
    "torch.utils.tensorboard": {"utils/training/log.py"},
    "yaml": {"utils/config.py"},
    "torch.distributed": {"utils/distributed.py"},
    "torch.nn.parallel": {"utils/distributed.py"},
    "os.environ": {"utils/distributed.py"},
    "os.getenv": {"utils/distributed.py"},
}
MAX_LINES = 300
REMINDER = re.compile(r"\b(?:TO[D]O|FIX[M]E|X[X]X)\b")  # brackets: this line is none itself
SIDE_EFFECTS = {"print", "mkdir", "makedirs", "write_text", "basicConfig", "manual_seed"}


def used_names(tree: ast.Module) -> Iterator[str]:
    """Dotted names that a file imports, or reaches as attributes of an imported module."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
                first = alias.name.partition(".")[0]
                modules[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            *parents, last = ast.unparse(node).split(".")
            if parents[0] in modules:
                yield ".".join([modules[parents[0]], *parents[1:], last])


def import_problems(path: str, tree: ast.Module) -> Iterator[str]:
    layer = PurePosixPath(path).parts[0]
    in_tests = layer == "tests"
    for name in dict.fromkeys(used_names(tree)):
        top = name.partition(".")[0]
        if not top:
            yield "relative import"
        elif top in SCRIPTS or top == "tests":
            if not in_tests and not (layer == "benchmarks" and name.startswith(FOR_BENCHMARKS)):
                yield f"imports {top}"
        elif top in PACKAGES:
            may_import = ARROWS.get(layer, {*ARROWS, layer})
            if top not in may_import and not in_tests:
                yield f"imports {top}"
        elif top not in sys.stdlib_module_names | THIRD_PARTY:
            extras = {"tests": TEST_EXTRAS, "benchmarks": BENCHMARK_EXTRAS}.get(layer, set())
            if top not in extras:
                yield f"third-party {top}"
        elif layer == "configs" and top in THIRD_PARTY:
            yield f"third-party {top}"
        if in_tests or layer == "benchmarks":
            continue  # these compare us with the packages themselves
        for guarded, homes in HOMES.items():
            if f"{name}.".startswith(f"{guarded}.") and path not in homes:
                yield f"{guarded} outside {', '.join(sorted(homes))}"


def side_effects(tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            continue
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).rpartition(".")[2]
                if called in SIDE_EFFECTS:
                    yield f"calls {called} at import"


def problems(path: str, text: str) -> list[str]:
    """What is wrong with the file ``path`` (from the root, with '/') that holds ``text``."""
    tree = ast.parse(text)
    num_lines = len(text.splitlines())
    found = [f"{num_lines} lines, {MAX_LINES} allowed"] if num_lines > MAX_LINES else []
    found += [f"reminder {word}" for word in REMINDER.findall(text)]
    return [*found, *import_problems(path, tree), *side_effects(tree)]


def our_files() -> list[str]:
    """Every Python file, tracked or not; hidden folders and the git-ignored ones left out."""
    top = [*ROOT.glob("*.py"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*.py"))]
    return sorted(path.relative_to(ROOT).as_posix() for path in top)


@pytest.mark.parametrize("path", our_files())
def test_file_keeps_the_rules(path: str):
    assert problems(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_every_layer_is_looked_at():
    layers = {path.partition("/")[0] for path in our_files() if "/" in path}
    assert {*ARROWS, "tests"} <= layers


def test_the_training_loop_fits_one_screen():
    tree = ast.parse((ROOT / "train.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    num_lines = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert num_lines["train"] + num_lines["train_one_epoch"] <= 60


def test_top_level_holds_only_what_the_design_lists():
    command = ["git", "ls-files", "--cached"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so a user's own files cannot be told from ours")
    names = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert names  # the listing worked
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("models/a.py", "import datasets.tiles", "imports datasets"),
        ("models/a.py", "def f():\n    from datasets import tiles", "imports datasets"),
        ("datasets/a.py", "from models.build import load", "imports models"),
        ("utils/a.py", "import models", "imports models"),
        ("utils/a.py", "from train import train", "imports train"),
        ("train.py", "from prepare import main", "imports prepare"),
        ("train.py", "import benchmarks.a", "imports benchmarks"),
        ("benchmarks/a.py", "from tests.conftest import RECIPE", "imports tests"),
        ("configs/schema.py", "from utils.errors import ConfigError", "imports utils"),
        ("configs/schema.py", "import torch", "third-party torch"),
        ("models/a.py", "from . import b", "relative import"),
        ("utils/a.py", "import cv2", "third-party cv2"),
        ("tests/a.py", "import pandas", "third-party pandas"),
        ("utils/a.py", "import scipy.ndimage", "third-party scipy"),
        ("utils/a.py", "import skimage", "third-party skimage"),
        ("models/a.py", "from timm.models import vit", "timm outside"),
        ("models/frozen_vit.py", "import segment_anything", "segment_anything outside"),
        ("train.py", "from torch.utils.tensorboard import W", "torch.utils.tensorboard outside"),
        ("train.py", "from torch.utils import tensorboard", "torch.utils.tensorboard outside"),
        ("train.py", "import yaml", "yaml outside"),
        ("utils/a.py", "import torch.distributed as dist", "torch.distributed outside"),
        ("utils/a.py", "from torch import distributed", "torch.distributed outside"),
        ("utils/a.py", "import torch\ntorch.distributed.barrier()", "torch.distributed outside"),
        ("utils/a.py", "import torch as t\nt.distributed.barrier()", "torch.distributed outside"),
        ("train.py", "from torch.nn.parallel import X", "torch.nn.parallel outside"),
        ("train.py", "import os\nos.environ['A']", "os.environ outside"),
        ("train.py", "from os import getenv", "os.getenv outside"),
        ("utils/a.py", "x = 1\n" * 301, "301 lines"),
        ("train.py", "x = 1\n" * 301, "301 lines"),
        ("utils/a.py", "# TO" + "DO: later", "reminder"),
        ("utils/a.py", "print('hello')", "calls print at import"),
        ("utils/a.py", "from pathlib import Path\nPath('a').mkdir()", "calls mkdir at import"),
    ],
)
def test_a_planted_violation_is_found(path: str, text: str, problem: str):
    assert [found for found in problems(path, text) if found.startswith(problem)]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("train.py", "from models.build import a\nfrom datasets.loaders import b\nimport torch"),
        ("models/a.py", "from configs.schema import C\nfrom utils.files import d\nimport models.b"),
        ("models/frozen_vit.py", "import timm"),
        ("utils/distributed.py", "import os\nimport torch.distributed as d\nos.environ['A']"),
        ("utils/a.py", "import torch\nfrom torch.utils import data\ntorch.utils.data"),
        ("utils/a.py", "context.distributed.world_size"),
        ("tests/a.py", "import os\nimport pytest\nimport timm\nimport train\nos.environ['A']"),
        ("benchmarks/a.py", "import segment_anything\nfrom models.structure import sam"),
        ("benchmarks/a.py", "import skimage"),
        ("benchmarks/a.py", "from tests.models import literal"),
        ("train.py", "def f():\n    print(1)\n\n\nif __name__ == '__main__':\n    print(f())"),
        ("utils/a.py", "x = 1\n" * 300),
    ],
)
def test_what_is_allowed_passes(path: str, text: str):
    assert problems(path, text) == []
