from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.config import load_config

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def written_values(section: Any, written: dict, prefix: str = "") -> Iterator[tuple]:
    """Dotted key, value and default of everything a recipe writes down."""
    for spec in fields(section):
        value, key = getattr(section, spec.name), prefix + spec.name
        if spec.name in written and is_dataclass(value):
            yield from written_values(value, written[spec.name], f"{key}.")
        elif spec.name in written:
            yield key, value, spec.default


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"synthetic", "dubai"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads_and_is_short(path: Path):
    assert load_config(path).name == path.stem  # so that runs/NAME is found from the recipe
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_lists_only_what_differs_from_the_defaults(path: Path):
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = list(written_values(load_config(path), written))
    assert len(found) > 5
    assert [key for key, value, default in found if value == default] == []
    assert {key for key, _, default in found if default is MISSING} == {"name", "data.root"}
