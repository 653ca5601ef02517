"""Frozen ViTs: stay frozen, any size and layout of weights, errors."""

import pytest
import timm
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


SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 2}


@pytest.fixture(params=[NAME, "vit_small_patch14_reg4_dinov2", "vit_base_patch16_dinov3_qkvb"])
def architecture(request, monkeypatch):
    """A plain, a DINOv2 and a DINOv3 name, all of them small now."""
    if request.param != NAME:
        create = timm.create_model
        monkeypatch.setattr(
            timm, "create_model", lambda name, **more: create(name, **more, **SMALL)
        )
    return request.param


def test_half_precision_storage_gives_the_same_bits_as_autocast(architecture):
    full = load_frozen_vit(architecture, "random")
    half = load_frozen_vit(architecture, "random", dtype=torch.bfloat16)
    picture = torch.rand(2, 3, 48, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = full(picture)
    assert torch.equal(half(picture), expected)
    assert half.identity == full.identity


@pytest.mark.parametrize("name", [NAME, "vit_small_patch16_dinov3"])
def test_half_precision_storage_takes_half_the_memory_and_leaves_norms_alone(name):
    full = load_frozen_vit(name, "random")
    half = load_frozen_vit(name, "random", dtype=torch.bfloat16)

    def size(module: torch.nn.Module) -> int:
        return sum(p.nbytes for p in module.parameters())

    assert size(half) < 0.6 * size(full)
    norms = {p.dtype for key, p in half.vit.named_parameters() if "norm" in key}
    assert norms == {torch.float32}


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
def test_compiles_without_a_graph_break(architecture, dtype):
    torch.compiler.reset()
    model = load_frozen_vit(architecture, "random", num_layers=2, dtype=dtype)
    picture = torch.rand(1, 3, 33, 48)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(picture), model(picture))


def test_on_the_meta_device_there_are_shapes_only(architecture):
    with torch.device("meta"):
        model = load_frozen_vit(architecture, "random", num_layers=2)
        tokens = model(torch.rand(1, 3, 33, 48))
        half = load_frozen_vit(architecture, "random", dtype=torch.bfloat16)
    assert model.identity == half.identity == {"name": architecture, "sha256": "meta"}
    assert tokens.is_meta and tokens.shape[1] == model.channels
    assert all(p.is_meta for p in [*model.parameters(), *half.parameters()])


def official_dinov2(vit: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of a timm ViT with registers, under the names and shapes of the official file."""
    weights = dict(vit.state_dict())
    weights["register_tokens"] = weights.pop("reg_token")
    # Officially the class token has a position of its own, which timm adds to it once for all.
    weights["pos_embed"] = torch.cat(
        [torch.zeros_like(weights["cls_token"]), weights["pos_embed"]], 1
    )
    weights["mask_token"] = torch.zeros(1, vit.embed_dim)
    return weights


def official_dinov3(vit: torch.nn.Module) -> dict[str, torch.Tensor]:
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    weights = {}
    for key, value in vit.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        weights[key] = value
    for i in range(len(vit.blocks)):
        weights[f"blocks.{i}.attn.qkv.bias"] = torch.zeros(3 * vit.embed_dim)
        weights[f"blocks.{i}.attn.qkv.bias_mask"] = torch.ones(3 * vit.embed_dim)
    weights["rope_embed.periods"] = vit.rope.periods.bfloat16()
    weights["mask_token"] = torch.zeros(1, vit.embed_dim)
    return weights


@pytest.mark.parametrize(
    ("name", "to_official"),
    [
        ("vit_small_patch14_reg4_dinov2", official_dinov2),
        ("vit_small_patch16_dinov3", official_dinov3),
    ],
)
def test_full_size_official_file_fills_every_parameter(name, to_official, tmp_path):
    path = tmp_path / "official.pth"
    vit = load_frozen_vit(name, "random").vit
    torch.nn.init.normal_(vit.cls_token)
    weights = to_official(vit)
    torch.save(weights, path)
    loaded = load_frozen_vit(name, str(path)).vit
    ours, theirs = vit.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    if "rope_embed.periods" in weights:
        assert torch.equal(loaded.rope.periods, weights["rope_embed.periods"].float())


def test_dinov3_biases_are_never_left_out_in_silence(tmp_path):
    path = tmp_path / "official.pth"
    weights = official_dinov3(load_frozen_vit("vit_small_patch16_dinov3", "random").vit)
    bias = weights["blocks.3.attn.qkv.bias"]
    bias[-1] = 0.5  # of the values
    torch.save(weights, path)
    with pytest.raises(DataError, match=r"use the model vit_small_patch16_dinov3_qkvb\.lvd1689m"):
        load_frozen_vit("vit_small_patch16_dinov3.lvd1689m", str(path))
    loaded = load_frozen_vit("vit_small_patch16_dinov3_qkvb", str(path))
    assert loaded.vit.blocks[3].attn.v_bias[-1] == 0.5
    bias[len(bias) // 2] = 0.5  # of the keys, and not masked out
    torch.save(weights, path)
    with pytest.raises(DataError, match=r"has key biases \(blocks\.3\.attn\.qkv\.bias\)"):
        load_frozen_vit("vit_small_patch16_dinov3_qkvb", str(path))
