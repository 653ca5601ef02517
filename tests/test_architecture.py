"""Rules of the tree, read from its source: layers, homes of packages, sizes, first words of docs.

One test lists all violations; a second plants one of each kind and expects it to be found.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = {"prepare", "generate", "train", "eval", "infer"}
FOLDERS = {"configs", "models", "datasets", "utils", "benchmarks", "checkpoints", "docs", "tests"}
TOP_LEVEL = FOLDERS | {f"{script}.py" for script in SCRIPTS}
TOP_LEVEL |= {"requirements.txt", "pyproject.toml", "Makefile", "README.md", "LICENSE"}
TOP_LEVEL |= {"CHANGELOG.md", "CITATION.cff"}

# Layers from the top down; the first prefix that fits is that of a module. Imports point downwards,
# or stay inside the layer. Nobody imports a script; models and datasets do not know each other.
LAYERS = {
    "utils.training": 4,
    "utils.evaluation": 4,
    "utils.inference": 4,
    "utils.reports": 4,
    "models": 3,
    "datasets": 3,
    "utils": 2,
    "configs": 1,
}
THIRD_PARTY = {"torch", "torchvision", "segment_anything", "timm", "numpy", "PIL", "tqdm"}
THIRD_PARTY |= {"tensorboard", "yaml", "rasterio", "matplotlib", "jinja2"}
THIRD_PARTY |= {"onnxruntime", "shapely"}  # only where they are requested, and imported there
TEST_EXTRAS = {"pytest", "scipy"}  # references that tests compare with
BENCHMARK_EXTRAS = {"skimage", "segmentation_models_pytorch", "transformers", "cv2"}  # peers
FOR_BENCHMARKS = ("tests.models.literal", "tests.datasets")  # references and fake archives
HOMES = {
    "rasterio": "utils/rasters/",
    "matplotlib": "utils/visualization/charts.py",
    "jinja2": "utils/reports/pages.py",
    "timm": "models/",
    "segment_anything": "models/structure/",
    "onnxruntime": "models/export.py",
    "shapely": "utils/rasters/simplification.py",
    "tensorboard": "utils/training/log.py",
    "torch.utils.tensorboard": "utils/training/log.py",
    "yaml": "utils/config.py",
    "torch.distributed": "utils/distributed.py",
    "torch.nn.parallel": "utils/distributed.py",
    "os.environ": "utils/distributed.py",
    "os.getenv": "utils/distributed.py",
}
LATE = "matplotlib"  # imported inside functions: half a second, which only charts need
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_MODULES = 500, 60, 14
CLAUSE = re.compile(r"(What|Whether|How|Which|Where|When)\b")  # a docstring begins otherwise
SIDE_EFFECTS = {"print", "mkdir", "makedirs", "write_text", "basicConfig", "manual_seed"}
Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def layer_of(module: str) -> int:
    """Layer of one of our modules: 5 for a script, 0 if it is none of ours."""
    if module.partition(".")[0] in SCRIPTS:
        return 5
    return next((n for prefix, n in LAYERS.items() if f"{module}.".startswith(f"{prefix}.")), 0)


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
    area = PurePosixPath(path).parts[0]
    own = path.removesuffix(".py").replace("/", ".")
    for name in dict.fromkeys(used_names(tree)):
        top = name.partition(".")[0]
        if not top:
            yield "relative import"
        elif area == "tests":
            known = sys.stdlib_module_names | THIRD_PARTY | TEST_EXTRAS | SCRIPTS | FOLDERS
            if top not in known and top not in BENCHMARK_EXTRAS:
                yield f"third-party {top}"
        elif top in SCRIPTS or top == "tests" or (top == "benchmarks" and area != "benchmarks"):
            if not (area == "benchmarks" and name.startswith(FOR_BENCHMARKS)):
                yield f"imports {top}"
        elif layer_of(name):
            lower = area == "benchmarks" or layer_of(name) <= layer_of(own)
            if not lower or {area, top} == {"models", "datasets"}:
                yield f"imports {'.'.join(name.split('.')[:2])}"
        elif top not in sys.stdlib_module_names | THIRD_PARTY | {"benchmarks"}:
            if area != "benchmarks" or top not in BENCHMARK_EXTRAS:
                yield f"third-party {top}"
        elif area == "configs" and top in THIRD_PARTY:
            yield f"third-party {top}"
        if area not in ("tests", "benchmarks"):
            for guarded, home in HOMES.items():
                if f"{name}.".startswith(f"{guarded}.") and not path.startswith(home):
                    yield f"{guarded} outside {home}"


def executed_nodes(statement: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the statement does: all but the bodies of lambdas."""
    yield statement
    for child in ast.iter_child_nodes(statement):
        if not isinstance(child, ast.Lambda):
            yield from executed_nodes(child)


def statement_problems(path: str, tree: ast.Module) -> Iterator[str]:
    """Side effects of an import, and packages that are imported too early."""
    for statement in tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)) and not path.startswith("tests/"):
            module = getattr(statement, "module", None) or statement.names[0].name
            if module.startswith(LATE):
                yield f"{LATE} imported outside functions"
        if isinstance(statement, (*Function, ast.ClassDef)):
            continue
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            continue
        for node in executed_nodes(statement):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).rpartition(".")[2]
                if called in SIDE_EFFECTS:
                    yield f"calls {called} at import"


def definition_problems(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (*Function, ast.ClassDef, ast.Module)):
            doc = ast.get_docstring(node) or ""
            if CLAUSE.match(doc):
                yield f"docstring begins with a clause: {doc.splitlines()[0]}"
        if isinstance(node, Function):
            num_lines = node.end_lineno - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                yield f"{node.name} has {num_lines} lines, {MAX_FUNCTION_LINES} allowed"


def problems(path: str, text: str) -> list[str]:
    """Violations in the file ``path`` (from the root, with '/') that holds ``text``."""
    tree = ast.parse(text)
    num_lines = len(text.splitlines())
    found = [f"{num_lines} lines, {MAX_FILE_LINES} allowed"] if num_lines > MAX_FILE_LINES else []
    found += [*import_problems(path, tree), *statement_problems(path, tree)]
    return found if path.startswith("tests/") else [*found, *definition_problems(tree)]


def our_files() -> list[str]:
    """Every Python file, tracked or not; hidden folders and git-ignored ones left out."""
    top = [*ROOT.glob("*.py"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*.py"))]
    return sorted(path.relative_to(ROOT).as_posix() for path in top)


def test_every_file_keeps_the_rules():
    found = [
        f"{path}: {problem}"
        for path in our_files()
        for problem in problems(path, (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert found == []


def test_no_folder_is_crowded():
    modules = [path for path in our_files() if not path.endswith("__init__.py")]
    folders = Counter(str(PurePosixPath(path).parent) for path in modules if path[:6] != "tests/")
    assert folders["utils/evaluation"] > 5  # the listing worked
    assert {f: n for f, n in folders.items() if n > MAX_MODULES} == {}


def test_the_training_loop_fits_one_screen():
    tree = ast.parse((ROOT / "train.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    num_lines = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert num_lines["train"] + num_lines["train_one_epoch"] <= 60


def test_the_readme_is_a_front_door():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250 and len(text.split()) <= 2500


def test_links_of_the_docs_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text(encoding="utf-8"))
    ]
    assert links
    assert [(p.name, link) for p, link in links if not (p.parent / link).exists()] == []


def test_top_level_holds_only_what_the_design_lists():
    command = ["git", "ls-files", "--cached"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so a user's own files cannot be told from ours")
    names = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert names  # the listing worked
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * 60


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("models/a.py", "import datasets.tile_set", "imports datasets.tile_set"),
        ("datasets/a.py", "from models.build import load", "imports models"),
        ("datasets/preparation/a.py", "from utils.reports import tables", "imports utils.reports"),
        ("utils/evaluation/a.py", "from train import train", "imports train"),
        ("train.py", "import benchmarks.a", "imports benchmarks"),
        ("benchmarks/a.py", "from tests.conftest import RECIPE", "imports tests"),
        ("configs/schema.py", "import torch", "third-party torch"),
        ("models/a.py", "from . import b", "relative import"),
        ("utils/a.py", "import scipy.ndimage", "third-party scipy"),
        ("datasets/preparation/a.py", "import rasterio", "rasterio outside"),
        ("utils/visualization/charts.py", "import matplotlib", "matplotlib imported outside"),
        ("utils/a.py", "import torch as t\nt.distributed.barrier()", "torch.distributed outside"),
        ("train.py", "import os\nos.environ['A']", "os.environ outside"),
        ("utils/a.py", "x = 1\n" * 501, "501 lines"),
        ("utils/a.py", LONG_FUNCTION, "f has 61 lines"),
        ("utils/a.py", '"""Which tiles are shown."""', "docstring begins with a clause"),
        ("utils/a.py", 'def f():\n    """Whether it is."""', "docstring begins with a clause"),
        ("utils/a.py", "from pathlib import Path\nPath('a').mkdir()", "calls mkdir at import"),
    ],
)
def test_a_planted_violation_is_found(path: str, text: str, problem: str):
    assert [found for found in problems(path, text) if found.startswith(problem)]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("train.py", "from models.build import a\nfrom utils.reports.tables import b"),
        ("utils/training/a.py", "from models.build import b\nfrom datasets.dataset import Batch"),
        ("utils/distributed.py", "import os\nimport torch.distributed as d\nos.environ['A']"),
        ("utils/a.py", "context.distributed.world_size"),
        ("utils/visualization/charts.py", "def f():\n    import matplotlib.figure"),
        ("tests/a.py", "import os\nimport pytest\nimport timm\nimport train\nos.environ['A']"),
        ("benchmarks/a.py", "import skimage\nfrom tests.models import literal"),
        ("train.py", "def f():\n    print(1)\n\n\nif __name__ == '__main__':\n    print(f())"),
    ],
)
def test_what_is_allowed_passes(path: str, text: str):
    assert problems(path, text) == []
