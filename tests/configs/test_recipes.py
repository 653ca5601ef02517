from pathlib import Path

import pytest

from utils.config import load_config

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads_and_is_short(path: Path):
    assert load_config(path).name == path.stem  # so that runs/NAME is found from the recipe
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
