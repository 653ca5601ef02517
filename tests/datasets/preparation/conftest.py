"""Runs of prepare.py on the fake archives of a published set."""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import prepare


@pytest.fixture
def prepare_archives(run_prepare, tmp_path) -> Callable[..., tuple[Path, int, str, str]]:
    """Prepare ``set`` from archives; the set, and exit code, output and errors of the run."""

    def run(command: str, source: Path, *more: object) -> tuple[Path, int, str, str]:
        root = tmp_path / "set"
        return root, *run_prepare(command, "--source", source, "--output", root, *more)

    return run


def prepare_once(*arguments: object) -> str:
    """Run prepare.py for several tests of a module; its output."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as output:
        patch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
        prepare.main()
    return output.getvalue()


def nothing_is_left(root: Path) -> bool:
    """Neither the set nor anything temporary lies beside it."""
    return not root.exists() and not list(root.parent.glob(".*"))
