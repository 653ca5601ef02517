"""Shared by the tests of data sets: a small set, sound or to be broken."""

import shutil
from pathlib import Path

import pytest

from datasets.tile_set import TileSet, open_tile_set
from tests.datasets.broken import write_set


@pytest.fixture(scope="session")
def sound(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("sound") / "toy").root


@pytest.fixture
def toy(sound, tmp_path) -> TileSet:
    """A copy, to be broken."""
    return open_tile_set(shutil.copytree(sound, tmp_path / "toy"))
