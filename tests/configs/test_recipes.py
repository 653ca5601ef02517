from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.config import load_config

RECIPES = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


def values_and_defaults(section: Any, written: dict, prefix: str = "") -> Iterator[tuple]:
    """Dotted key, value and default of everything a recipe writes down."""
    for spec in fields(section):
        value, key = getattr(section, spec.name), prefix + spec.name
        if spec.name not in written:
            continue
        if is_dataclass(value):
            yield from values_and_defaults(value, written[spec.name], f"{key}.")
        else:
            yield key, value, spec.default


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"synthetic", "dubai"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_is_short_and_is_named_after_its_file(path):
    config = load_config(path)
    assert config.name == path.stem
    assert len(path.read_text().splitlines()) < 40


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_lists_only_what_differs_from_the_defaults(path):
    written = yaml.safe_load(path.read_text())
    found = list(values_and_defaults(load_config(path), written))
    assert len(found) > 5
    assert [key for key, value, default in found if value == default] == []
    assert {key for key, _, default in found if default is MISSING} == {"name", "data.root"}
