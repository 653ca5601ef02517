"""Shared by the tests of data sets."""

import sys

import pytest

import prepare
from utils.errors import run_command


@pytest.fixture
def run_prepare(monkeypatch, capsys):
    """Run prepare.py in this process; its exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_command(prepare.main)
        return (end.value.code, *capsys.readouterr())

    return run
