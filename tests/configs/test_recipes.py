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


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_lists_only_what_differs_from_the_defaults(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    config = load_config(path)
    assert config.name == path.stem  # so that runs/NAME is found from the recipe
    values = list(written_values(config, yaml.safe_load(text)))
    assert len(values) > 5
    assert [key for key, value, default in values if value == default] == []
    assert {key for key, _, default in values if default is MISSING} == {"name", "data.root"}
