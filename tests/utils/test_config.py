import pytest

from utils.config import config_from_dict, config_to_dict, config_to_yaml, differences, load_config
from utils.errors import ConfigError


def load(tmp_path, text, *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_config(path, list(overrides))


MINIMAL = "name: x\ndata: {root: d}\n"


def test_defaults_are_those_of_the_released_recipe(tmp_path):
    config = load(tmp_path, MINIMAL)
    assert (config.optim.lr, config.optim.batch_size, config.optim.num_epochs) == (8e-5, 16, 300)
    assert (config.data.crop_size_px, config.data.scale_range) == (640, (0.5, 1.75))


def test_numbers_switches_and_words_are_read_as_they_look(tmp_path):
    text = "name: x\ndata: {root: d, dihedral: false}\noptim: {lr: 6e-5, weight_decay: 1}\n"
    config = load(tmp_path, text + "structure: {control: off}\n")
    assert config.optim.lr == 6e-5 and config.optim.weight_decay == 1.0
    assert config.data.dihedral is False and config.structure.control == "off"


def test_overrides_of_every_kind(tmp_path):
    config = load(
        tmp_path,
        MINIMAL,
        *("optim.lr=1e-3", "structure.control=off", "data.dihedral=false", "run.seed=7"),
        *("data.scale_range=[1, 1.5]", "structure.modalities=[sam]", "name=y"),
        "model.rgb_vit.weights=null",
    )
    assert config.optim.lr == 1e-3 and config.structure.control == "off"
    assert config.data.dihedral is False and config.run.seed == 7 and config.name == "y"
    assert config.data.scale_range == (1.0, 1.5) and config.structure.modalities == ("sam",)


def test_all_problems_come_in_one_error(tmp_path):
    text = """
        name: 3
        data: {crop_size: 5, scale_range: [1, 2, 3], num_workers: 1}
        optim: {lr: fast, batch_size: 1.5}
        structure: {control: sometimes, modalities: [sam, foo]}
        run: 7
        zebra: {}
    """
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    first, *lines = str(caught.value).splitlines()
    assert first.endswith("recipe.yaml has 10 problems:")
    assert sorted(line.strip() for line in lines) == [
        "data.crop_size: unknown key; did you mean 'crop_size_px'?",
        "data.root: missing, it has no default",
        "data.scale_range: must have 2 entries, not 3",
        "name: must be text, not 3",
        "optim.batch_size: must be a whole number, not 1.5",
        "optim.lr: must be a number, not 'fast'",
        "run: must be a section of 'key: value' lines",
        "structure.control: 'sometimes' is not one of on, off, shuffled",
        "structure.modalities[1]: 'foo' is not one of superpixels, sam",
        "zebra: unknown key; known here: name, data, structure, model, optim, eval, run",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("data.crop_size_px=8", "data.crop_size_px: must be 32 or more"),
        ("data.scale_range=[2, 1]", "data.scale_range: must be two numbers above 0"),
        ("data.num_workers=-1", "data.num_workers: must be 0 or more"),
        ("data.color_jitter=1.0", "data.color_jitter: must be between 0 and 1"),
        ("optim.lr=0.0", "optim.lr: must be above 0"),
        ("optim.warmup_epochs=300", r"optim.warmup_epochs: must be below num_epochs \(300\)"),
        ("optim.ema_decay=1.0", "optim.ema_decay: must be at least 0 and below 1"),
        ("eval.overlap_px=640", r"eval.overlap_px: must be at least 0 and below window_px"),
        ("model.drop_path=1.0", "model.drop_path: must be at least 0 and below 1"),
        ("structure.modalities=[]", "structure.modalities: must name at least one"),
        ("structure.modalities=[sam, sam]", "structure.modalities: names a generator twice"),
        ("structure.superpixels.encodings=[]", "structure.superpixels.encodings: must name"),
        ("structure.superpixels.segment_size_px=2", "segment_size_px: must be 4 or more"),
        ("run.log_every_steps=0", "run.log_every_steps: must be 1 or more"),
        ("optim.lr=.nan", "optim.lr: must be a number, not '.nan'"),
        ("data.dihedral=yes", "data.dihedral: must be true or false, not 'yes'"),
    ],
)
def test_values_out_of_range_name_their_key(tmp_path, override, problem):
    with pytest.raises(ConfigError, match=problem):
        load(tmp_path, MINIMAL, override)


def test_combinations_that_cannot_work(tmp_path):
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device; take bf16 or fp32"):
        load(tmp_path, MINIMAL, "run.device=cpu", "run.precision=fp16")
    overrides = ("structure.modalities=[superpixels, sam]", "structure.sam.store=superpixels")
    with pytest.raises(ConfigError, match="two of them share one store"):
        load(tmp_path, MINIMAL, *overrides)
    losses = ("optim.dice_weight=0", "optim.cross_entropy_weight=0")
    with pytest.raises(ConfigError, match="both 0: there is no loss"):
        load(tmp_path, MINIMAL, *losses)


def test_a_key_given_twice_is_refused_with_its_line(tmp_path):
    with pytest.raises(ConfigError, match="line 3: the key 'name' appears twice"):
        load(tmp_path, MINIMAL + "name: y\n")


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load(tmp_path, "name: [1, 2\n")
    with pytest.raises(ConfigError, match="must hold 'key: value' lines"):
        load(tmp_path, "- a\n- b\n")
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist; recipes are in configs/"):
        load_config(tmp_path / "none.yaml")


def test_overrides_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"'optim\.lr' is not of the form key\.sub=value"):
        load(tmp_path, MINIMAL, "optim.lr")
    with pytest.raises(ConfigError, match="'name' is a value, not a section"):
        load(tmp_path, MINIMAL, "name.first=1")


def test_round_trip_through_yaml_and_plain_values(tmp_path):
    config = load(tmp_path, MINIMAL, "structure.control=off", "optim.lr=6e-5", "run.seed=3")
    assert load(tmp_path, config_to_yaml(config)) == config
    assert config_from_dict(config_to_dict(config), "x") == config


def test_differences_name_both_sides():
    ours, theirs = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}}
    assert differences(ours, theirs) == ["a.c: 2 | 4", "d: 3 | None"]
    assert differences(ours, ours) == []
