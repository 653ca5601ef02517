"""Shared fixtures: a small synthetic data set with its maps, recipes for it, prepare.py."""

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import eval as eval_script
import infer
from configs.schema import Config
from datasets.preparation.synthetic import prepare_synthetic
from datasets.tile_set import TileSet, open_tile_set
from generate import generate_store
from tests.datasets.broken import write_set
from tests.ranks import Ranks
from train import build_run, train
from utils.config import config_from_dict
from utils.distributed import DistContext
from utils.errors import run_command
from utils.training.checkpoint import Checkpoint, load_checkpoint

torch.set_num_threads(1)  # the tests' tensors are too small to share

RECIPE = {
    "name": "run",
    "data": {"crop_size_px": 64, "scale_range": [0.75, 1.5], "num_workers": 0},
    "structure": {"superpixels": {"segment_size_px": 8}},
    "model": {
        "size": "tiny",
        "rgb_vit": {"weights": "random"},
        "structure_vit": {"weights": "random"},
    },
    "optim": {"lr": 1e-3, "batch_size": 2, "num_epochs": 2, "warmup_epochs": 1, "ema_decay": 0.9},
    "eval": {"window_px": 64, "overlap_px": 16, "every_epochs": 1},
    "run": {"device": "cpu", "log_every_steps": 1},
}


def single_process() -> DistContext:
    return DistContext(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


def make_config(data_root: Path, output: Path, *overrides: str) -> Config:
    fixed = [f"data.root={data_root}", f"run.output={output}"]
    return config_from_dict(RECIPE, "test recipe", [*fixed, *overrides])


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven training, three validation and two test scenes of 96 px, with superpixel maps."""
    root = tmp_path_factory.mktemp("data") / "scenes"
    prepare_synthetic(root, seed=1, num_train=7, num_val=3, num_test=2, size_px=96)
    config = make_config(root, root.parent)
    generate_store(config, "superpixels", open_tile_set(root), single_process())
    return root


@pytest.fixture
def config(data_root: Path, tmp_path: Path) -> Config:
    return make_config(data_root, tmp_path)


@pytest.fixture
def dist() -> DistContext:
    return single_process()


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Two gloo processes that run functions sent to them; ``tests/ranks.py`` says how."""
    ranks = Ranks()
    yield ranks
    ranks.stop()


@pytest.fixture
def recipe_path(data_root: Path, tmp_path: Path) -> Path:
    """The test recipe as a file, for the command lines."""
    path = tmp_path / "recipe.yaml"
    recipe = {**RECIPE, "data": {**RECIPE["data"], "root": str(data_root)}}
    recipe["run"] = {**RECIPE["run"], "output": str(tmp_path / "runs")}
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture
def run_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the main of a script by name in this process; its exit code, output and errors."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_command(importlib.import_module(name).main)
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out, output.err

    return run


@pytest.fixture
def run_prepare(run_script: Callable[..., tuple[int, str, str]]) -> Callable[..., Any]:
    """Run prepare.py in this process; its exit code, output and errors."""
    return partial(run_script, "prepare")


def train_briefly(config: Config) -> Path:
    """Train a network; its ``best.pth``."""
    run = build_run(config, single_process())
    train(run)
    run.log.close()
    return run.folder / "best.pth"


def evaluate(
    checkpoint: Path,
    output: Path,
    *overrides: str,
    split: str = "val",
    command: Callable[..., None] = eval_script.evaluate_split,
) -> dict[str, Any]:
    """Run ``evaluate_split`` or ``attribute`` of eval.py; its report."""
    loaded = load_checkpoint(checkpoint)
    config = config_from_dict(loaded.identity.recipe, "recipe", list(overrides))
    command(loaded, config, split, output, single_process())
    (report,) = output.glob("*.json")
    return dict(json.loads(report.read_text()))


@pytest.fixture(scope="session")
def checkpoint(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A network that was trained for two epochs."""
    return load_checkpoint(train_briefly(make_config(data_root, tmp_path_factory.mktemp("runs"))))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of several sizes and formats, in folders, one name twice."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for name, size in (
        ("a.png", (96, 96)),
        ("a.jpg", (50, 70)),
        ("north/b.tif", (1, 1)),
        ("north/far/c.png", (131, 40)),
        ("grey.png", (33, 20)),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = size if name == "grey.png" else (*size, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return folder


@pytest.fixture
def run_infer(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run infer.py in this process; its output folder."""

    def run(source: Path, output: Path, *arguments: object) -> Path:
        command = ["infer.py", "--checkpoint", checkpoint.path, "--input", source]
        command += ["--output", output, *arguments]
        monkeypatch.setattr(sys, "argv", [*map(str, command)])
        infer.main()
        return output

    return run


@pytest.fixture(scope="session")
def sound(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("sound") / "toy").root


@pytest.fixture
def toy(sound, tmp_path) -> TileSet:
    """A copy, to be broken."""
    return open_tile_set(shutil.copytree(sound, tmp_path / "toy"))
