"""Commands that are killed at any moment, and repeated; for training see test_train_kills.py."""

import importlib
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.processes import exit_code_of


def run(name: str, arguments: list[str], delay_s: float | None = None) -> None:
    """Run a script in this process, which kills itself after a while; None: it does not."""
    if delay_s is not None:
        timer = threading.Timer(delay_s, os.kill, [os.getpid(), signal.SIGKILL])
        timer.daemon = True
        timer.start()
    sys.argv = [f"{name}.py", *arguments]
    importlib.import_module(name).main()


def finished_files(folder: Path) -> dict[str, bytes]:
    """Content of all files but those that say in their path or content that they are partial."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    found = {str(path): (folder / path).read_bytes() for path in paths}
    unfinished = b'"tiles": null'  # in the manifest of a structure store
    return {p: c for p, c in found.items() if ".partial" not in p and unfinished not in c}


def command(name: str, data_root: Path, recipe: Path, checkpoint: Path, work: Path) -> list[str]:
    """Arguments of a run that takes about a second and writes into ``work``."""
    if name == "prepare":
        line = "synthetic --train 12 --val 2 --test 2 --size 128 --output"
        return [*line.split(), str(work / "set")]
    if name == "infer":
        images, kinds = data_root / "images", "index,color,overlay,polygons"
        line = ["--checkpoint", checkpoint, "--input", images, "--output", work, "--write", kinds]
        return [str(argument) for argument in line]
    root = shutil.copytree(data_root, work / "set", ignore=shutil.ignore_patterns("modalities"))
    slow = ["structure.superpixels.num_iterations=40", f"data.root={root}"]
    return ["--config", str(recipe), *slow]


@pytest.mark.parametrize("name", ["prepare", "generate", "infer"])
@pytest.mark.parametrize("num_kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_nothing_half_written(
    name, num_kills, data_root, recipe_path, checkpoint, tmp_path
):
    """Whatever is finished when a run is killed is as it should be, and the rest is made again."""
    work, rng = tmp_path / "work", random.Random(0)

    def begin_and_run(delay_s=None):
        shutil.rmtree(work, ignore_errors=True)
        arguments = command(name, data_root, recipe_path, checkpoint.path, work)
        return arguments, exit_code_of(run, name, arguments, delay_s)

    start = time.perf_counter()
    arguments, code = begin_and_run()
    seconds, straight = time.perf_counter() - start, finished_files(work)
    assert code == 0 and straight
    for _ in range(num_kills):
        delay_s = rng.uniform(0, seconds)
        while (code := begin_and_run(delay_s)[1]) == 0:  # it was faster this time
            delay_s /= 2
        assert code == -signal.SIGKILL
        assert finished_files(work).items() <= straight.items()
        assert exit_code_of(run, name, arguments) == 0
        assert finished_files(work) == straight and not [*work.rglob("*.partial")]
