from pathlib import Path

import pytest

from configs.schema import Config, DataConfig
from utils.config import (
    batch_notes,
    config_from_dict,
    config_to_dict,
    config_to_yaml,
    differences,
    load_config,
)
from utils.errors import ConfigError

RECIPE = "name: demo\ndata: {root: data/demo}\n"


@pytest.fixture
def load(tmp_path: Path):
    """RECIPE plus some lines, as a file, loaded with overrides."""

    def load(lines: str = "", *overrides: str, recipe: str = RECIPE) -> Config:
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe + lines, encoding="utf-8")
        return load_config(path, list(overrides))

    return load


def test_what_a_recipe_leaves_out_has_its_default(load):
    config = load("optim: {batch_size: 2}")
    assert (config.name, config.data) == ("demo", DataConfig(root="data/demo"))
    assert (config.optim.lr, config.optim.batch_size) == (8e-5, 2)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("optim: {learning_rate: 1.0, l: 1}", r"optim\.l: unknown key; did you mean 'lr'\?"),
        ("model: {zzz: 1}", r"model\.zzz: unknown key; known here: size, rgb_vit, structure_vit"),
        ("1: 2", r"\n  1: unknown key"),
        ("optim: {batch_size: true}", r"optim\.batch_size: must be a whole number, not True"),
        ("data: {root: a, dihedral: yes}", r"data\.dihedral: must be true or false, not 'yes'"),
        ("run: {output: 7}", r"run\.output: must be text, not 7"),
        ("optim: 3", r"\n  optim: must be a section of 'key: value' lines"),
        ("model: {size: huge}", r"model\.size: 'huge' is not one of tiny, small"),
        ("eval: {turns: true}", r"eval\.turns: True is not one of 1, 2, 8"),
        ("structure: {modalities: sam}", r"structure\.modalities: must be a list like \[a, b\]"),
        ("structure: {modalities: [sam, 5]}", r"structure\.modalities\[1\]: must be text"),
        ("data: {root: a, scale_range: [1, 2, 3]}", r"scale_range: must have 2 entries, not 3"),
        ("optim: {lr_factors: [1]}", r"optim\.lr_factors: must be a mapping like \{name: value"),
        (
            "model: {rgb_vit: {num_layers: 4}}",
            r"vit\.num_layers: unknown key; did you mean 'layers'",
        ),
        ("model: {structure_vit: {join: projection}}", r"structure_vit\.join: unknown key; known"),
        ("structure: {modalities: [sam, superpixels], sam: {store: superpixels}}", "share one st"),
    ],
)
def test_a_mistake_is_named_with_its_dotted_key(load, lines: str, problem: str):
    recipe = "name: demo\n" if lines.startswith("data") else RECIPE
    with pytest.raises(ConfigError, match=problem):
        load(lines, recipe=recipe)


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ("five", ": 'five' is not one of four_even, four_last, last"),
        ("null", ": None is not one of four_even"),
        ("[3, 6]", ": must be one number, or one for each of the four stages"),
        ("[3, 6, 9]", ": must be one number, or one for each of the four stages"),
        ("[]", ": must be one number, or one for each of the four stages"),
        ("[0]", ": must be increasing numbers from 1"),
        ("[3, 6, 6, 9]", ": must be increasing numbers from 1"),
        ("[3, x, 6, 9]", r"\[1\]: must be a whole number, not 'x'"),
    ],
)
def test_layers_of_a_vit_are_a_name_or_one_or_four_numbers(load, layers: str, problem: str):
    with pytest.raises(ConfigError, match=rf"\n  model\.rgb_vit\.layers{problem}"):
        load(f"model: {{rgb_vit: {{layers: {layers}}}}}")


def test_all_problems_come_in_one_error(load):
    with pytest.raises(ConfigError) as caught:
        load("optim: {lr: x, poly: 1}\nmodel: {drop_path: 1}", "eval.window_px=8", "run.seed=a")
    head, *lines = str(caught.value).splitlines()
    assert head.endswith("recipe.yaml has 6 problems:")  # window_px is below 32 and overlap_px
    keys = {line.strip().partition(":")[0] for line in lines}
    assert keys == {
        *("eval.overlap_px", "eval.window_px", "model.drop_path"),
        *("optim.lr", "optim.poly", "run.seed"),
    }
    with pytest.raises(ConfigError, match=r"^best\.pth has 2 problems:\n  name: missing.*\n  data"):
        config_from_dict({"optim": {}}, "best.pth")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (f"{RECIPE}optim: {{lr: 1,\n  lr: 2}}".encode(), r"yaml, line 4: the key 'lr' appears twi"),
        (b"? [a]\n: b", r"recipe\.yaml is not valid YAML: \S"),
        (b"- a\n- b", "must hold 'key: value' lines at its top level"),
        (b"\x80\x02\xff", r"recipe\.yaml is not a UTF-8 text file"),
        (None, r"recipe\.yaml does not exist; recipes are in configs/"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes | None, problem: str):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("6e-5", 6e-5), ("6.0e-5", 6e-5), ("1E-4", 1e-4), ("+1.5", 1.5), (".5", 0.5), ("2", 2.0)],
)
def test_every_way_to_write_a_number_is_one(load, text: str, value: float):
    assert load(f"optim: {{lr: {text}}}").optim.lr == value
    lr = load("", f"optim.lr={text}").optim.lr
    assert lr == value and type(lr) is float


def test_overrides_of_every_kind(load):
    config = load(
        "optim: {lr: 1.0}\nstructure: {control: off}",  # off stays text
        "optim.lr=1e-4",
        "optim.lr=2e-4",  # the last one wins
        "data.scale_range=[1, 2]",
        "data.dihedral=false",
        "model.rgb_vit={name: none, weights: a.pth}",
        "model.structure_vit.layers=[3, 6, 9, 12]",
        "structure.sam.checkpoint=null",
        "run.output=off",
    )
    assert (config.optim.lr, config.structure.control) == (2e-4, "off")
    assert config.data.scale_range == (1.0, 2.0)
    assert config.data.dihedral is False
    assert (config.model.rgb_vit.name, config.model.rgb_vit.weights) == ("none", "a.pth")
    vits = config.model.rgb_vit, config.model.structure_vit
    assert [vit.layers for vit in vits] == ["four_even", (3, 6, 9, 12)]
    assert config.structure.sam.checkpoint is None
    assert config.run.output == "off"
    recipe = {"name": "a", "data": {"root": "b"}}
    assert config_from_dict(recipe, "here", ["data.root=c"]).data.root == "c"
    assert recipe["data"] == {"root": "b"}


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("optim.lr", "override 'optim.lr' is not of the form key.sub=value"),
        ("=3", "override '=3' is not of the form"),
        ("name.x=3", "override 'name.x=3': 'name' is a value, not a section"),
        ("optim.lr=[1", r"override 'optim\.lr=\[1' is not valid YAML"),
        *((f"optim.lr={text}", r"lr: must be a number, not '") for text in ("6e", "1.2.3", "nan")),
    ],
)
def test_a_bad_override_is_named(load, override: str, problem: str):
    with pytest.raises(ConfigError, match=problem):
        load("", override)


@pytest.mark.parametrize("name", ["off", "true", "1e5", "12", "null", "a: b", "Straße"])
def test_the_resolved_recipe_reads_back_unchanged(load, name: str):
    recipe = {
        "name": name,
        "data": {"root": "d", "scale_range": [0.5, 1.75]},
        "structure": {"control": "off"},
        "model": {"rgb_vit": {"layers": "last"}, "structure_vit": {"layers": [7]}},
        "optim": {"lr": 6e-5, "ema_decay": 1e-9},
    }
    config = config_from_dict(recipe, "here")
    assert load(recipe=config_to_yaml(config)) == config
    assert config_from_dict(config_to_dict(config), "a checkpoint") == config


def test_differences_list_dotted_keys_with_both_sides():
    ours = {"a": 1, "b": {"c": 2, "d": 3}, "ours": 4}
    theirs = {"a": 1, "b": {"c": 5, "d": 3}, "theirs": {"e": 6}}
    assert differences(ours, theirs) == ["b.c: 2 | 5", "ours: 4 | None", "theirs: None | {'e': 6}"]


@pytest.mark.parametrize(
    ("lines", "overrides", "numbers"),
    [
        ("optim: {batch_size: 8, lr: 0.002}", ["optim.batch_size=4"], (4, "0.002", 8)),
        ("", ["optim.batch_size=64"], (64, "8e-05", 16)),  # 16: the default
        ("optim: {batch_size: 8}", ["optim.batch_size=4", "optim.batch_size=8"], None),
        ("optim: {batch_size: 8}", ["optim.batch_size=4", "optim.lr=0.001"], None),
    ],
)
def test_a_batch_that_the_rate_was_not_chosen_for_is_noted(
    load, tmp_path, lines, overrides, numbers
):
    config, path = load(lines, *overrides), tmp_path / "recipe.yaml"
    notes = batch_notes(path, config.optim, overrides)
    assert len(notes) == (numbers is not None)
    if numbers is not None:
        new, rate, old = numbers
        sentence = f"optim.batch_size is {new}, and optim.lr={rate} of {path} was chosen for {old};"
        assert sentence in notes[0]
