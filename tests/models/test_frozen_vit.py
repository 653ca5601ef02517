"""Frozen ViTs: stay frozen, any size and layout of weights, errors; official files' tokens."""

import functools
import math
import re

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from models.frozen_vit import FrozenViT, layer_indices, load_frozen_vit
from utils.errors import ConfigError, DataError, MissingDataError
from utils.files import sha256_of

NAME = "test_vit"
Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SATELLITE = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)  # as facebookresearch/dinov3 says


def make_small(monkeypatch: pytest.MonkeyPatch, **sizes) -> None:
    """Two narrow blocks from now on, whatever timm is asked for."""
    create, small = timm.create_model, {"depth": 2, **sizes}
    monkeypatch.setattr(timm, "create_model", lambda name, **more: create(name, **more, **small))


@pytest.fixture(scope="module")
def vit():
    return load_frozen_vit(NAME, "random")


def test_stays_frozen_and_in_eval_mode_whatever_it_is_told(vit):
    vit.train()
    assert not any(module.training for module in vit.modules())
    assert not any(parameter.requires_grad for parameter in vit.parameters())
    picture = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not any(tokens.requires_grad for tokens in vit(picture))


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone(vit):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert load_frozen_vit(NAME, "random").identity == vit.identity
    assert torch.equal(torch.get_rng_state(), before)


def test_loads_a_local_file_in_timm_layout(vit, tmp_path):
    path = tmp_path / "weights.pth"
    doubled = {key: 2 * value for key, value in vit.vit.state_dict().items()}
    torch.save(doubled, path)
    loaded = load_frozen_vit(NAME, str(path))
    assert torch.equal(loaded.vit.state_dict()["norm.weight"], doubled["norm.weight"])
    assert loaded.identity == {"name": NAME, "sha256": sha256_of(path)}


def test_errors_say_what_to_do(tmp_path):
    for unknown in ("vit_smal_patch14_dinov2", "vit_small_patch14_dinov2.dino"):
        with pytest.raises(ConfigError, match=f"timm has no model '{unknown}'; similar names: vit"):
            load_frozen_vit(unknown, "random")
    with pytest.raises(
        ConfigError, match=r"test_vit has 6 layers; layers=\(1, 7\) asks for others"
    ):
        load_frozen_vit(NAME, "random", layers=(1, 7))
    with pytest.raises(MissingDataError, match=r"weights of test_vit are not at .*none\.pth"):
        load_frozen_vit(NAME, str(tmp_path / "none.pth"))
    wrong = tmp_path / "wrong.pth"
    torch.save({"a": torch.zeros(1)}, wrong)
    with pytest.raises(DataError, match=r"wrong\.pth does not hold the weights of test_vit"):
        load_frozen_vit(NAME, str(wrong))


@pytest.mark.parametrize(
    ("depth", "four_even"),
    [(4, [1, 2, 3, 4]), (12, [3, 6, 9, 12]), (24, [6, 12, 18, 24]), (40, [10, 20, 30, 40])],
)
def test_layers_have_the_names_of_dinov3_or_numbers_from_1(depth, four_even):
    expected = {
        "last": [depth],
        "four_last": [depth - 3, depth - 2, depth - 1, depth],
        "four_even": four_even,
        (2,): [2],
        (1, 2, 3, depth): [1, 2, 3, depth],
    }
    for layers, numbers in expected.items():
        assert [1 + i for i in layer_indices(layers, depth, "v")] == numbers


@pytest.mark.parametrize("layers", ["four_even", "four_last", (4,), (1, 2, 3, 4), (0,)])
def test_a_vit_of_fewer_layers_is_an_error_that_names_both(layers):
    sentence = f"v has 3 layers; layers={layers} asks for others"
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        layer_indices(layers, 3, "v")


def test_each_layer_goes_through_the_final_norm_on_its_own_grid(vit):
    """Of the next multiple of the patch (fault 12: on a fixed one)."""
    picture, seen = torch.rand(2, 3, 33, 50), []
    hooks = [
        block.register_forward_hook(lambda *args: seen.append(args[-1])) for block in vit.vit.blocks
    ]
    tokens = vit(picture)
    for hook in hooks:
        hook.remove()
    assert vit.layers == [0, 2, 3, 5] and vit.channels == 64 and vit.patch_px == 16
    assert [each.shape for each in tokens] == 4 * [(2, 64, 3, 4)]
    for layer, each in zip(vit.layers, tokens, strict=True):
        expected = vit.vit.norm(seen[layer])[:, 1:]  # without the class token
        torch.testing.assert_close(each.flatten(2).mT, expected, rtol=0, atol=0)
    (last,) = load_frozen_vit(NAME, "random", layers="last")(picture)
    assert torch.equal(last, tokens[-1])


@pytest.mark.parametrize(
    ("scale", "size", "grid"), [(2.0, (32, 48), (4, 6)), (0.5, (64, 96), (2, 3))]
)
def test_input_scale_is_that_of_a_bicubic_resize(vit, scale, size, grid):
    picture = torch.rand(1, 3, *size)
    scaled = load_frozen_vit(NAME, "random", input_scale=scale)(picture)
    by_hand = F.interpolate(picture, [int(scale * side) for side in size], mode="bicubic")
    for ours, expected in zip(scaled, vit(by_hand), strict=True):
        assert ours.shape[-2:] == grid
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", [NAME, "vit_small_patch14_reg4_dinov2", "vit_base_patch16_dinov3_qkvb"]
)
def test_half_precision_storage_gives_the_bits_of_autocast_in_half_the_memory(name, monkeypatch):
    if name != NAME:
        make_small(monkeypatch, depth=4, embed_dim=64, num_heads=2)
    full = load_frozen_vit(name, "random")
    half = load_frozen_vit(name, "random", dtype=torch.bfloat16)
    picture = torch.rand(2, 3, 48, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = full(picture)
    assert all(torch.equal(*pair) for pair in zip(half(picture), expected, strict=True))
    assert half.identity == full.identity
    for name, before in full.vit.named_parameters():
        is_matrix = before.ndim > 1 and not name.endswith(("token", "embed"))
        if is_matrix or "norm" in name:
            share = 2 if is_matrix else 1
            assert half.vit.get_parameter(name).nbytes == before.nbytes // share, name


# The official networks from here on: their layouts filled at random, their forward pass literally.


def random_like(shapes: Shapes) -> Weights:
    """Fixed random weights under official names; norms and layer scales about 1."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        weights[name] = 0.1 * torch.randn(shape, generator=generator)
        if ("norm" in name and name.endswith("weight")) or name.endswith("gamma"):
            weights[name] += 1
    return weights


def official_shapes(dim: int, patch: int, mlp: Shapes) -> Shapes:
    """Names and shapes that DINOv2 and DINOv3 share, with two blocks."""
    shapes: Shapes = {"cls_token": (1, 1, dim), "mask_token": (1, dim)}
    shapes |= dict.fromkeys(("norm.weight", "norm.bias", "patch_embed.proj.bias"), (dim,))
    shapes["patch_embed.proj.weight"] = (dim, 3, patch, patch)
    linear = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim)}
    linear |= {f"mlp.{name}": shape for name, shape in mlp.items()}
    vectors = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma")
    for i in range(2):
        shapes |= {f"blocks.{i}.{name}.weight": shape for name, shape in linear.items()}
        shapes |= {f"blocks.{i}.{name}.bias": shape[:1] for name, shape in linear.items()}
        shapes |= {f"blocks.{i}.{name}": (dim,) for name in vectors}
    return shapes


def norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attention(w: Weights, name: str, x: Tensor, heads: int, turn) -> Tensor:
    qkv = linear(w, f"{name}.qkv", x).unflatten(-1, (3, heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(turn(q), turn(k), v)
    return linear(w, f"{name}.proj", out.transpose(1, 2).flatten(2))


def mlp_of(w: Weights, name: str, y: Tensor) -> Tensor:
    if f"{name}.fc1.weight" in w:
        return linear(w, f"{name}.fc2", F.gelu(linear(w, f"{name}.fc1", y)))
    if f"{name}.w12.weight" in w:
        gate, value = linear(w, f"{name}.w12", y).chunk(2, -1)
    else:
        gate, value = linear(w, f"{name}.w1", y), linear(w, f"{name}.w2", y)
    return linear(w, f"{name}.w3", F.silu(gate) * value)


def blocks(
    w: Weights, x: Tensor, heads: int, eps: float, prefix: int, turn=lambda q: q
) -> list[Tensor]:
    """The patch tokens of each block, through the final norm."""
    layers = []
    for b in ("blocks.0", "blocks.1"):
        y = attention(w, f"{b}.attn", norm(w, f"{b}.norm1", x, eps), heads, turn)
        x = x + w[f"{b}.ls1.gamma"] * y
        x = x + w[f"{b}.ls2.gamma"] * mlp_of(w, f"{b}.mlp", norm(w, f"{b}.norm2", x, eps))
        layers.append(norm(w, "norm", x, eps)[:, prefix:])
    return layers


def embed(w: Weights, picture: Tensor, mean: tuple, std: tuple, patch: int) -> Tensor:
    x = (picture - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    return x.flatten(2).mT


def relative_error(vit: FrozenViT, picture: Tensor, expected: list[Tensor]) -> float:
    """The largest of the layers."""
    pairs = zip(vit(picture), expected, strict=True)
    return max(((a.flatten(2).mT - b).norm() / b.norm()).item() for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "grid", "mlp"),
    [
        ("vit_small_patch14_dinov2", (37, 37), {"fc1": (176, 32), "fc2": (32, 176)}),
        ("vit_small_patch14_reg4_dinov2", (9, 14), {"fc1": (176, 32), "fc2": (32, 176)}),
        ("vit_giant_patch14_reg4_dinov2", (37, 37), {"w12": (176, 32), "w3": (32, 88)}),
    ],
)
def test_official_dinov2_layout_gives_the_official_tokens(name, grid, mlp, tmp_path, monkeypatch):
    """With the 37x37 grid of the published position embedding."""
    dim, heads = 32, 4
    make_small(monkeypatch, embed_dim=dim, num_heads=heads, mlp_ratio=176 / dim)
    shapes = official_shapes(dim, 14, mlp) | {"pos_embed": (1, 37**2 + 1, dim)}
    if "reg4" in name:
        shapes["register_tokens"] = (1, 4, dim)
    w = random_like(shapes)
    torch.save(w, tmp_path / "official.pth")
    vit = load_frozen_vit(name, str(tmp_path / "official.pth"), layers=(1, 2))
    picture = torch.rand(1, 3, 14 * grid[0], 14 * grid[1])
    # Class token and positions, registers after the class token, blocks.
    first, positions = w["pos_embed"][:, :1], w["pos_embed"][:, 1:]
    if grid != (37, 37):  # as with registers: antialiased, to the exact size
        positions = positions.mT.unflatten(2, (37, 37))
        positions = F.interpolate(positions, grid, mode="bicubic", antialias=True).flatten(2).mT
    registers = w.get("register_tokens", torch.zeros(1, 0, dim))
    patches = embed(w, picture, *IMAGENET, 14) + positions
    x = torch.cat([w["cls_token"] + first, registers, patches], 1)
    expected = blocks(w, x, heads, 1e-6, 1 + registers.shape[1])
    assert relative_error(vit, picture, expected) < 1e-5


def dinov3_turn(periods: Tensor, grid: tuple[int, int], prefix: int):
    """Rotary positions: patch centres in [-1, 1], 2 pi / period, on patch tokens only."""
    axes = [2 * (torch.arange(n) + 0.5) / n - 1 for n in grid]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    angles = 2 * math.pi * centres[:, :, None] / periods  # (N, 2, D/4)
    angles = angles.flatten(1).tile(2)
    sin, cos = angles.sin(), angles.cos()

    def turn(q: Tensor) -> Tensor:
        head, rest = q[:, :, :prefix], q[:, :, prefix:]
        first, second = rest.chunk(2, -1)
        rest = rest * cos + torch.cat([-second, first], -1) * sin
        return torch.cat([head, rest], 2)

    return turn


def official_dinov3(name: str, mlp: Shapes, dim: int = 64) -> tuple[Weights, Weights]:
    """Weights of a published file, and those that count: without the biases of the keys."""
    shapes = official_shapes(dim, 16, mlp) | {"storage_tokens": (1, 4, dim)}
    if "sat493m" in name:  # a norm that only training uses
        shapes |= {"local_cls_norm.weight": (dim,), "local_cls_norm.bias": (dim,)}
    weights = random_like(shapes)
    # Published rounded to bfloat16.
    weights["rope_embed.periods"] = (100 ** (torch.arange(8) / 8)).bfloat16()
    mask = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(dim)
    masked = dict(weights)
    for bias in ("blocks.0.attn.qkv.bias", "blocks.1.attn.qkv.bias"):
        weights[f"{bias}_mask"], masked[bias] = mask, mask * weights[bias]
    return weights, masked


@pytest.mark.parametrize(
    ("name", "mlp"),
    [
        ("vit_small_patch16_dinov3_qkvb", {"fc1": (256, 64), "fc2": (64, 256)}),
        ("vit_large_patch16_dinov3_qkvb.sat493m", {"fc1": (256, 64), "fc2": (64, 256)}),
        ("vit_huge_plus_patch16_dinov3_qkvb", {"w1": (256, 64), "w2": (256, 64), "w3": (64, 256)}),
    ],
)
def test_official_dinov3_layout_gives_the_official_tokens(name, mlp, tmp_path, monkeypatch):
    heads, grid = 2, (3, 5)
    make_small(monkeypatch, embed_dim=64, num_heads=heads, mlp_ratio=4)
    weights, masked = official_dinov3(name, mlp)
    torch.save(weights, tmp_path / "official.pth")
    vit = load_frozen_vit(name, str(tmp_path / "official.pth"), layers=(1, 2))
    picture = torch.rand(2, 3, 16 * grid[0], 16 * grid[1])
    x = embed(masked, picture, *(SATELLITE if "sat493m" in name else IMAGENET), 16)
    prefix = [weights[token].expand(2, -1, -1) for token in ("cls_token", "storage_tokens")]
    turn = dinov3_turn(weights["rope_embed.periods"].float(), grid, 5)
    expected = blocks(masked, torch.cat([*prefix, x], 1), heads, 1e-5, 5, turn)
    assert relative_error(vit, picture, expected) < 1e-5


def test_dinov3_biases_are_never_left_out_in_silence(tmp_path, monkeypatch):
    make_small(monkeypatch, embed_dim=64, num_heads=2, mlp_ratio=4)
    load = functools.partial(load_frozen_vit, layers="last")
    path = tmp_path / "official.pth"
    weights, _ = official_dinov3("", {"fc1": (256, 64), "fc2": (64, 256)})
    bias = weights["blocks.1.attn.qkv.bias"].zero_()
    weights["blocks.0.attn.qkv.bias"].zero_()
    torch.save(weights, path)
    load("vit_small_patch16_dinov3", str(path))  # there is nothing to leave out
    bias[-1] = 0.5  # of the values
    torch.save(weights, path)
    with pytest.raises(DataError, match=r"use the model vit_small_patch16_dinov3_qkvb\.lvd1689m"):
        load("vit_small_patch16_dinov3.lvd1689m", str(path))
    loaded = load("vit_small_patch16_dinov3_qkvb", str(path))
    assert loaded.vit.blocks[1].attn.v_bias[-1] == 0.5
    bias[64] = 0.5  # of the keys, and not masked out
    weights["blocks.1.attn.qkv.bias_mask"] = torch.ones(192)
    torch.save(weights, path)
    with pytest.raises(DataError, match=r"has key biases \(blocks\.1\.attn\.qkv\.bias\)"):
        load("vit_small_patch16_dinov3_qkvb", str(path))
