import pytest
import torch

from models.frozen_vit import load_frozen_vit
from utils.errors import ConfigError, DataError, MissingDataError

NAME = "test_vit"


@pytest.fixture(scope="module")
def vit():
    return load_frozen_vit(NAME, "random")


def test_stays_frozen_and_in_eval_mode_whatever_it_is_told(vit):
    vit.train()
    assert not any(module.training for module in vit.modules())
    assert not any(parameter.requires_grad for parameter in vit.parameters())
    picture = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not vit(picture).requires_grad


def test_is_absent_from_state_dicts(vit):
    assert torch.nn.Sequential(torch.nn.Linear(1, 1), vit).state_dict().keys() == {
        "0.weight",
        "0.bias",
    }


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 50), (1, 1), (100, 17)])
def test_fault_12_any_height_and_width(vit, height, width):
    tokens = vit(torch.rand(2, 3, height, width))
    grid = (-(-height // vit.patch_px), -(-width // vit.patch_px))
    assert tokens.shape == (2, vit.channels, *grid)


def test_fault_11_a_token_lies_where_its_patch_is(vit):
    """Changing one patch changes the token of that grid cell most."""
    picture = torch.rand(1, 3, 4 * vit.patch_px, 6 * vit.patch_px)
    changed = picture.clone()
    p = vit.patch_px
    changed[..., 2 * p : 3 * p, 4 * p : 5 * p] = 0
    difference = (vit(changed) - vit(picture)).norm(dim=1)[0]
    assert divmod(int(difference.argmax()), 6) == (2, 4)


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone(vit):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = load_frozen_vit(NAME, "random")
    assert torch.equal(torch.get_rng_state(), before)
    assert again.identity == vit.identity
    assert len(vit.identity["sha256"]) == 64


def test_loads_a_local_file_in_timm_layout(vit, tmp_path):
    path = tmp_path / "weights.pth"
    doubled = {key: 2 * value for key, value in vit.vit.state_dict().items()}
    torch.save(doubled, path)
    loaded = load_frozen_vit(NAME, str(path))
    assert torch.equal(loaded.vit.state_dict()["norm.weight"], doubled["norm.weight"])
    assert loaded.identity["sha256"] != vit.identity["sha256"]


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="timm has no model 'vit_smal_patch14_dinov2'"):
        load_frozen_vit("vit_smal_patch14_dinov2", "random")
    with pytest.raises(MissingDataError, match=r"weights of test_vit are not at .*none\.pth"):
        load_frozen_vit(NAME, str(tmp_path / "none.pth"))
    wrong = tmp_path / "wrong.pth"
    torch.save({"a": torch.zeros(1)}, wrong)
    with pytest.raises(DataError, match=r"wrong\.pth does not hold the weights of test_vit"):
        load_frozen_vit(NAME, str(wrong))


def test_several_layers_are_evenly_spaced_end_with_the_last_and_are_normalised(vit):
    depth = len(vit.vit.blocks)
    many = load_frozen_vit(NAME, "random", num_layers=2)
    picture = torch.rand(1, 3, 33, 50)
    tokens = many(picture)
    assert many.layers == [depth // 2 - 1, depth - 1]
    assert tokens.shape[1] == many.channels == 2 * vit.channels
    assert torch.equal(tokens[:, vit.channels :], vit(picture))
    for part in tokens.split(vit.channels, 1):  # the final norm, whose scale is 1 here
        assert part.std(1, unbiased=False).mean().item() == pytest.approx(1, abs=0.05)


def test_more_layers_than_there_are_is_an_error():
    with pytest.raises(ConfigError, match=r"test_vit has \d+ layers; num_layers=99 asks for more"):
        load_frozen_vit(NAME, "random", num_layers=99)


def test_half_precision_storage_gives_the_same_bits_as_autocast(vit):
    half = load_frozen_vit(NAME, "random", dtype=torch.bfloat16)
    picture = torch.rand(2, 3, 48, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = vit(picture)
    assert torch.equal(half(picture), expected)

    def size(module: torch.nn.Module) -> int:
        return sum(p.nbytes for p in module.parameters())

    assert size(half) < 0.6 * size(vit)
    assert half.identity == vit.identity


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_dinov3"])
def test_compiles_without_a_graph_break(name):
    torch.compiler.reset()
    model = load_frozen_vit(name, "random", num_layers=2)
    picture = torch.rand(1, 3, 32, 48)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(picture), model(picture), rtol=1e-4, atol=1e-4)
